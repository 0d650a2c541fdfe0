"""Circuits of several models: over the steps of one training, and of the arms of a study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuits.section.found import TaskStatus
from sparsetrain.stats.decisions import Word
from sparsetrain.stats.number import Number, StepCurve


@dataclass(frozen=True, kw_only=True)
class FormationPoint:
    """A task at one step of a training."""

    step: int
    status: TaskStatus
    model_loss: Number
    model_accuracy: Number
    n_nodes: Number | None = None
    """Of the best circuit, as what follows; None where there is no circuit."""
    n_edges: Number | None = None
    task_loss: Number | None = None
    jaccard_seeds: Number | None = None
    """Overlap of the mask seeds: what to expect of the same circuit found again."""
    jaccard_final: Number | None = None
    """Overlap with the circuit of the finished model."""
    jaccard_other_tasks: Number | None = None
    """Mean overlap with the final circuits of other tasks: what any circuit of this model shares."""


@dataclass(frozen=True, kw_only=True)
class FormationTask:
    """A followed task, in the order of steps; the last point is the finished model."""

    task: str
    points: tuple[FormationPoint, ...]


@dataclass(frozen=True, kw_only=True)
class SplitCurve(StepCurve):
    """Activation sparsity of one split over steps."""

    split: str


@dataclass(frozen=True, kw_only=True)
class SparsityCurves:
    """The headline measure beside the circuits; empty words and no curves where nothing was watched."""

    measure: str = ""
    hook_point: str = ""
    curves: tuple[SplitCurve, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FormationSection:
    """How circuits form over a training (`formation.tasks`)."""

    tasks: tuple[FormationTask, ...]
    density: StepCurve
    """Of the weights."""
    sparsity: SparsityCurves


@dataclass(frozen=True, kw_only=True)
class CircuitSize:
    """The best circuit of a task in the model of one seed."""

    seed: int
    n_nodes: int
    n_edges: int
    n_slots: int
    """Weights, zero or not, that join two of its nodes."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The three sizes of circuits: means of an arm, or ratios of two arms."""

    nodes: Number
    edges: Number
    slots: Number
    """Weights, zero or not, that join two kept nodes: what the edges would be if no weight between them were zero."""


@dataclass(frozen=True, kw_only=True)
class ArmEntry:
    """One arm, over its seeds."""

    name: str
    d_model: int
    method: str
    """By which weights are sparse (`sparsity.method`); none: dense."""
    density: Number
    abs_topk: Mapping[str, float]
    """Kind of hook point -> share of its width that AbsTopK keeps; empty: no AbsTopK."""
    lr_peak: float
    eps: float
    """AdamW's."""
    n_steps: Number
    """Optimizer steps, mean over seeds; equal in all arms but where they had equal minutes."""
    n_nonzero: Number
    """Of all parameters but the bigram table."""
    n_edges: Number
    """Of these, the weights between nodes."""
    val_loss: Number
    bits_per_char: Number
    """The same loss per character."""
    passed: tuple[str, ...]
    """Tasks, in every seed; those that the empty circuit solves do not count."""
    circuits: Mapping[str, tuple[CircuitSize, ...]]
    """Task -> its circuit in every seed that has one."""
    common: Sizes
    """Geometric means over the tasks that every arm solves."""


Difference = Literal["density", "abs_topk", "d_model"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two arms, one of which is sparser."""

    sparser: str
    denser: str
    about: Literal["weights", "abs_topk"]
    """What is sparse in the one and dense in the other."""
    also: tuple[Difference, ...]
    """What differs besides."""


@dataclass(frozen=True, kw_only=True)
class PairEntry(Pair):
    """A pair of about the same loss, compared."""

    loss_gap: Number
    """Denser / sparser - 1."""
    n_seeds: int
    """Of the arm that has fewer, those with a circuit for some of the tasks."""
    tasks: tuple[str, ...]
    """Compared: both have a circuit for them in some seed."""
    passed_by_both: tuple[str, ...]
    without_circuit: Mapping[str, tuple[str, ...]]
    """Arm -> tasks that both pass and for which it has no circuit."""
    ratios: Sizes
    """Denser / sparser; that of slots decides the verdict."""
    verdict: Word = "undecided"


@dataclass(frozen=True, kw_only=True)
class ArmsSection:
    """Several models beside each other (study `comparison`); pairs lie within `max_gap` of loss, `common_tasks` are solved by every arm."""

    seeds: tuple[int, ...]
    max_gap: float
    common_tasks: tuple[str, ...]
    models: tuple[ArmEntry, ...]
    pairs: tuple[PairEntry, ...]
    searched: bool = True
    """Whether circuits were looked for."""
    judged: bool = True
    """Whether pairs of arms were to be judged."""
