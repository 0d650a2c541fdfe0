"""The tables of docs/circuits.md: the models that ship, their tasks, their circuits, and circuits by other rankings."""

from collections.abc import Sequence

from circuits.section import CircuitEntry, TaskEntry, card_verdict
from circuits.views.baselines import sizes_by_ranking
from circuits.views.tasks import STATUS
from circuits.zoo.member import ZooModel
from sparsetrain.report.blocks import MISSING, Block, Column, Table, format_number
from sparsetrain.report.markdown import render_block
from sparsetrain.report.sections import TrainingSection
from sparsetrain.shipped import PREFIX
from sparsetrain.stats.number import Number


def models_table(models: Sequence[ZooModel]) -> Table:
    """A row per model: what it is, how well it reads, how much it does."""
    labels = (
        "model", "what it is", "export, MB", "nonzeros", "of them in the blocks", "bits/char, real code", "tasks", "circuits", "cards that pass",
    )  # fmt: skip
    rows = []
    for member in models:
        bits = member.report.section("training", TrainingSection).bits_per_char
        found = [task for task in member.tasks if task.status == "circuit"]
        cards = [verdict for task in member.tasks if (verdict := _card(task)) != MISSING]
        rows.append(
            (
                f"{PREFIX}{member.name}",
                member.shape,
                f"{member.n_bytes / 1e6:.1f}",
                *(f"{member.n_nonzeros[place]:,}" for place in ("all", "blocks")),
                f"{bits['stdlib'].value:.2f}" if "stdlib" in bits else MISSING,
                f"{len(member.done)} of {len(member.tasks)}",
                f"{len(found)} of {sum(bool(task.circuits or task.nonsense_twin) for task in member.tasks)} searched",
                f"{cards.count('passes')} of {len(cards)}",
            )
        )
    return Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows))


def gates_table(models: Sequence[ZooModel]) -> Table:
    """Task by model: the full model's calibrated loss on held-out pairs, and where it misses the target how often it is right."""
    names = list(dict.fromkeys(task.task for member in models for task in member.tasks))
    rows = []
    for name in names:
        entries = [next((task for task in member.tasks if task.task == name), None) for member in models]
        rows.append((name, *map(gate_words, entries)))
    columns = (Column(label="task"), *(Column(label=member.name) for member in models))
    return Table(columns=columns, rows=tuple(rows))


def gate_words(task: TaskEntry | None) -> str:
    """The full model's loss on a task, and where it misses the target how often it is right."""
    if task is None or task.status == "unsuitable":
        return MISSING
    loss = _nats(task.gate.loss)
    if task.status == "bigram":
        return "bigram"
    return loss if task.gate.passed else f"misses: {loss}, right {format_number(task.gate.accuracy)}"


def circuits_table(models: Sequence[ZooModel]) -> Table:
    """A row per circuit: calibrated numbers beside raw ones, its twin, its card."""
    labels = (
        "model", "task", "model's loss, raw accuracy", "nodes", "edges", "loss", "raw loss", "raw accuracy", "agreement (raw)", "twin's edges",
        "shown as", "worst restored unit", "card",
    )  # fmt: skip
    rows = [
        (member.name, task.task, *_circuit(task, task.circuits[0], member.target_loss))
        for member in models
        for task in member.tasks
        if task.circuits
    ]
    return Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows))


def _circuit(task: TaskEntry, circuit: CircuitEntry, target: float) -> tuple[str, ...]:
    twin, agreement = task.nonsense_twin, (circuit.agreement.value, circuit.raw.agreement.value)
    twins = MISSING if twin is None else format_number(twin.n_edges.value) if twin.reached else "none found"
    restored = [entry.value for entry in circuit.card or () if entry.name == "worst restored unit"]
    return (
        f"{_nats(task.gate.loss)}, {format_number(task.gate.raw_accuracy)}",
        format_number(circuit.n_nodes.value),
        format_number(circuit.n_edges.value),
        _nats(circuit.task_loss),
        _nats(circuit.raw.loss),
        format_number(circuit.raw.accuracy),
        "{} ({})".format(*(format_number(value, "fraction") for value in agreement)),
        twins,
        _shown_as(task, circuit, target),
        _nats(restored[0]) if restored else MISSING,
        _card(task),
    )


def _shown_as(task: TaskEntry, circuit: CircuitEntry, target: float) -> str:
    if task.status != "no_circuit":
        return STATUS[task.status][0]
    missed = circuit.task_loss.value is None or circuit.task_loss.value > target
    return "misses the target on held-out pairs" if missed else "right too seldom without calibration"


def _nats(number: Number) -> str:
    return MISSING if number.value is None else f"{number.value:.3f}"


def _card(task: TaskEntry) -> str:
    card = task.circuits[0].card if task.circuits else None
    return (
        MISSING if not card else {"pass": "passes", "fail": "fails", "not enough data": "undecided"}[card_verdict(card)]
    )


def rankings_table(models: Sequence[ZooModel]) -> Table | None:
    """Edges of circuits by other rankings of the nodes, of the tasks for which there are any."""
    judged = [(member, task) for member in models for task in member.tasks if task.baselines]
    methods = list(dict.fromkeys(ranked.method for _, task in judged for ranked in task.baselines or ()))
    columns = (
        Column(label="model"),
        Column(label="task"),
        Column(label="learned"),
        *(Column(label=method) for method in methods),
    )
    rows = tuple((member.name, *sizes_by_ranking(task, methods)) for member, task in judged)
    return Table(columns=columns, rows=rows) if rows else None


def tables(models: Sequence[ZooModel]) -> dict[str, str]:
    """The tables of docs/circuits.md as markdown, by name."""
    made: dict[str, Block | None] = {
        "models": models_table(models),
        "tasks": gates_table(models),
        "circuits": circuits_table(models),
        "rankings": rankings_table(models),
    }
    return {name: render_block(block) for name, block in made.items() if block is not None}


def row_differences(stored: str, made: str) -> list[tuple[str, str]]:
    """Lines of a table that differ, in pairs; an empty one stands for a line that the other has not."""
    old, new = stored.strip().splitlines(), made.strip().splitlines()
    longer = max(len(old), len(new))
    pairs = zip([*old, *[""] * (longer - len(old))], [*new, *[""] * (longer - len(new))], strict=True)
    return [(a, b) for a, b in pairs if a != b]
