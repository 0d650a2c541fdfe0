"""When do circuits form? The same search at log-spaced steps of one training, beside what the weights do meanwhile.

1. At each of `halving_steps` the run exports the weights and hands them to `look`, which searches the chosen tasks there.
2. A task that the model cannot do yet fails the gate: its loss and accuracy are the curve until then.
3. `formation_section` reads all steps back and compares each with the circuit of the finished model: Jaccard of nodes.
   Beside it stand the overlap between mask seeds at that step (what to expect of the same circuit found again) and the overlap
   with the final circuits of other tasks (what any circuit of this model shares).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from circuits.circuit import Circuit
from circuits.section import (
    CircuitsSection,
    FormationPoint,
    FormationSection,
    FormationTask,
    SparsityCurves,
    SplitCurve,
    TaskEntry,
)
from circuits.tasks import get_task
from sparsetrain.report import Report
from sparsetrain.report.sections import TrainingSection
from sparsetrain.representation.section import RepresentationSection
from sparsetrain.stats.number import Number, StepCurve, number
from sparsetrain.stats.sets import jaccard
from sparsetrain.store import write_atomic
from sparsetrain.typed import Count, from_dict, plain

FOLDER = "formation"


@dataclass(frozen=True, kw_only=True)
class FormationConfig:
    """Circuits during training. ours"""

    tasks: tuple[str, ...] = ()
    """Tasks to follow, of those in `circuits.tasks`; none: no circuits before the end. The settings of the search are those
    of `circuits.find`, without nonsense twins."""
    n_looks: Count = 7
    """Steps before the last at most: half of the training, a quarter, ..."""

    def __post_init__(self) -> None:
        self.names()

    def names(self) -> tuple[str, ...]:
        """The tasks meant.

        Raises:
            ValueError: an unknown task; lists them all.
        """
        return tuple(get_task(task).name for task in self.tasks)


def halving_steps(n_steps: int, n_looks: int) -> list[int]:
    """Steps before the last one: n_steps / 2, / 4, ... rounded, each once, in rising order.

    Args:
        n_steps: length of the training.
        n_looks: how many steps at most.
    """
    return sorted({max(1, round(n_steps / 2 ** (i + 1))) for i in range(n_looks)} - {n_steps})


def look(step: int, run_dir: Path, search: Callable[[Path], CircuitsSection]) -> dict[str, float]:
    """Searches the tasks in the weights of a step; saved under `<run>/formation/step_<n>/`.

    Args:
        search: finds the circuits of the step's weights, saved under the folder given.

    Returns:
        Scalars to log: per task the model's loss and, where there is a circuit, its edges and loss.
    """
    folder = run_dir / FOLDER / f"step_{step}"
    section = search(folder)
    write_atomic(folder / "section.json", json.dumps(plain(section), indent=1) + "\n")
    scalars: dict[str, float | None] = {}
    for task in section.tasks:
        name = f"circuits/{task.task}"
        scalars[f"{name}/model_loss"] = task.gate.loss.value
        if task.circuits:
            scalars[f"{name}/n_edges"] = task.circuits[0].n_edges.value
            scalars[f"{name}/task_loss"] = task.circuits[0].task_loss.value
    return {name: float(value) for name, value in scalars.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found at a step: the tasks of a report's section, and the folder that their paths start from."""

    step: int
    folder: Path
    tasks: Sequence[TaskEntry]

    def task(self, name: str) -> TaskEntry:
        """A task's entry.

        Raises:
            ValueError: it was not followed when this step was looked at.
        """
        found = next((task for task in self.tasks if task.task == name), None)
        if found is None:
            raise ValueError(
                f"formation.tasks has {name}, which was not followed at step {self.step} ({self.folder}); leave it out, or follow it in a new run"
            )
        return found

    def nodes(self, name: str) -> set[str]:
        """Nodes of a task's best circuit; none where there is no circuit."""
        found = self.task(name).circuits
        return set(Circuit.load(self.folder / found[0].path).node_ids) if found else set()


def formation_section(run_dir: Path, tasks: Sequence[str], n_steps: int, report: Report) -> FormationSection:
    """The `formation` section of report.json, from the files of every step looked at.

    Args:
        tasks: tasks followed.
        n_steps: the last step, whose circuits are those of the report.
        report: the run's other sections: `circuits`, density from `training`, out-of-distribution sparsity from
            `representation`.
    """
    looks = [
        Look(
            step=int(folder.name.rpartition("_")[2]),
            folder=folder,
            tasks=from_dict(CircuitsSection, json.loads((folder / "section.json").read_text())).tasks,
        )
        for folder in (run_dir / FOLDER).glob("step_*")
    ]
    last = Look(step=n_steps, folder=run_dir, tasks=report.section("circuits", CircuitsSection).tasks)
    looks = [*sorted(looks, key=lambda look: look.step), last]
    final = {name: last.nodes(name) for name in tasks}
    return FormationSection(
        tasks=tuple(
            FormationTask(task=name, points=tuple(_point(look, name, final) for look in looks)) for name in tasks
        ),
        density=report.section("training", TrainingSection).curves.get("density", StepCurve(step=(), value=())),
        sparsity=_sparsity(report.sections.get("representation")),
    )


def _point(look: Look, name: str, final: Mapping[str, set[str]]) -> FormationPoint:
    task, own = look.task(name), look.nodes(name)
    numbers: dict[str, Number] = {"model_loss": task.gate.loss, "model_accuracy": task.gate.accuracy}
    overlaps: dict[str, Number] = {}
    if task.circuits:
        numbers |= {key: getattr(task.circuits[0], key) for key in ("n_nodes", "n_edges", "task_loss")}
    if task.circuits and task.seeds is not None:
        numbers["jaccard_seeds"] = task.seeds.jaccard_nodes
    if own and final[name]:
        overlaps["jaccard_final"] = number(jaccard([own, final[name]]), "fraction", "measured")
    shared = [jaccard([own, nodes]) for task, nodes in final.items() if own and nodes and task != name]
    others = [overlap for overlap in shared if overlap is not None]
    if others:
        mean = sum(others) / len(others)
        overlaps["jaccard_other_tasks"] = number(mean, "fraction", "measured", n=len(others))
    # A curve over training: the weights of its earlier points need not be kept.
    measured = {key: replace(entry, status="measured") for key, entry in numbers.items()}
    return FormationPoint(step=look.step, status=task.status, **measured, **overlaps)


def _sparsity(representation: RepresentationSection | None) -> SparsityCurves:
    """The headline measure of the residual stream before the last norm, per split."""
    if representation is None or representation.training is None:
        return SparsityCurves()
    measure, hook = representation.headline, "final_norm.hook_resid"
    training = representation.training
    curves = tuple(
        SplitCurve(split=split.name, step=training.steps, value=values)
        for curve in training.curves
        if (curve.measure, curve.hook_point) == (measure, hook)
        for split, values in zip(representation.splits, curve.value, strict=True)
    )
    return SparsityCurves(measure=measure, hook_point=hook, curves=curves)
