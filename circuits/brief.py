"""A report in few words: the numbers that a page of the docs would cite, as a small file (no curves, intervals, drawings or texts), and a task in one line."""

from typing import Any

from circuits.section import CircuitsSection, TaskEntry
from sparsetrain.report import Report
from sparsetrain.report.sections import TrainingSection
from sparsetrain.stats.number import Number
from sparsetrain.typed import to_dict


def brief(report: Report) -> dict[str, Any]:
    """What ran and for how long, losses, and a line per task, as plain JSON; nats, bits/char and seconds."""
    found: dict[str, Any] = {
        "run": to_dict(report.run),
        "seconds": {stage.name: stage.seconds.value for stage in report.stages},
    }
    if report.weights is not None:
        found["weights"] = to_dict(report.weights)
    if "training" in report.sections:
        training = report.section("training", TrainingSection)
        found["training"] = {name: getattr(training, name).value for name in ("n_steps", "n_tokens", "tokens_per_s")}
        found["training"] |= {name: _values(getattr(training, name)) for name in ("val_loss", "bits_per_char")}
    if "circuits" in report.sections:
        found["tasks"] = [_task(task) for task in report.section("circuits", CircuitsSection).tasks]
    return found


def _values(numbers: dict[str, Number]) -> dict[str, Any]:
    return {name: number.value for name, number in numbers.items()}


def _task(task: TaskEntry) -> dict[str, Any]:
    line: dict[str, Any] = {
        "task": task.task,
        "status": task.status,
        "model_loss": task.gate.loss.value,
        "model_raw_accuracy": task.gate.raw_accuracy.value,
    }
    if task.circuits:
        circuit = task.circuits[0]
        line |= {"nodes": circuit.n_nodes.value, "edges": circuit.n_edges.value, "loss": circuit.task_loss.value}
        line |= {"raw_loss": circuit.raw.loss.value, "raw_accuracy": circuit.raw.accuracy.value}
    if task.nonsense_twin is not None:
        line["twin_edges"] = task.nonsense_twin.n_edges.value if task.nonsense_twin.reached else None
    if task.seconds is not None:
        line["seconds"] = task.seconds.value
    return line


def describe_task(task: TaskEntry) -> str:
    """One line for the terminal: how a task's search ended."""
    gate = task.gate
    if task.status == "unsuitable":
        return f"{task.task}: does not suit this tokenizer; {task.note}"
    text = f"{task.task}: {task.status}, model {gate.accuracy.value:.0%} right, loss {gate.loss.value:.3f}"
    if gate.paraphrased is not None:
        text += f" ({gate.paraphrased.loss.value:.3f} in a second wording)"
    if task.circuits:
        best = task.circuits[0]
        text += (
            f"; circuit of {best.size_words}, loss {best.task_loss.value:.3f} (raw "
            f"{best.raw.loss.value:.3f}, {best.raw.accuracy.value:.0%} right), beats {best.random.n_beaten.value} of {best.random.n} random ones"
        )
    if task.nonsense_twin is not None:
        twin = task.nonsense_twin
        text += f"; nonsense twin: {twin.size_words if twin.reached else 'no circuit'}"
    return text
