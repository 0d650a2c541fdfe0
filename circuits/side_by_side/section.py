"""The section `side_by_side` of report.json: two runs, called `a` and `b`, and in what they differ.

Every difference is b - a. What a run lacks is None on its side, and a note of the part says why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuits.section import TaskStatus
from sparsetrain.stats.decisions import Word
from sparsetrain.stats.number import Number, StepCurve

Kind = Literal["training", "study", "measurement", "unknown"]
Side = Literal["a", "b"]


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """What one of the runs is."""

    folder: str
    kind: Kind
    name: str | None
    created: str | None
    version: str | None
    """Of sparsetrain."""
    gates: Literal["on", "off"] | None
    step: int | None
    """Of the weights that the report is about, or the last one in metrics.csv."""
    n_params: int | None
    weights_sha256: str | None
    lacks: tuple[str, ...]
    """What is missing in the folder or cannot be read, in words."""


@dataclass(frozen=True, kw_only=True)
class SettingEntry:
    """A setting and what it is in each run, as it would stand in a config; None: it is not there."""

    key: str
    """Dotted path."""
    a: str | None
    b: str | None


@dataclass(frozen=True, kw_only=True)
class LackedDefault:
    """A key that the older config of one run does not have; the other run has what is today's default."""

    key: str
    run: Side
    """Whose config lacks it."""
    value: str


@dataclass(frozen=True, kw_only=True)
class SettingsEntry:
    """In which settings the runs differ."""

    n_equal: int
    """Settings that both have with the same value."""
    differing: tuple[SettingEntry, ...]
    elsewhere: tuple[SettingEntry, ...]
    """Differing keys that say under which name and where a run was written: no settings of what was done."""
    lacked: tuple[LackedDefault, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NumberPair:
    """A number of both runs."""

    a: Number | None
    b: Number | None
    difference: Number | None
    """b - a; its interval where both have one."""


@dataclass(frozen=True, kw_only=True)
class LossEntry(NumberPair):
    """Validation loss: `mixed` in the training mixture, or of one source."""

    source: str


@dataclass(frozen=True, kw_only=True)
class CurvePair:
    """A scalar over the steps of both trainings; None: that one has not logged it."""

    a: StepCurve | None
    b: StepCurve | None


@dataclass(frozen=True, kw_only=True)
class LossesEntry:
    """How well the models predict text."""

    per_token: tuple[LossEntry, ...]
    """nats/token."""
    per_character: tuple[LossEntry, ...]
    """bits/char, which models of different vocabularies can be compared by; empty where neither run counted characters."""
    curves: Mapping[str, CurvePair]
    """Scalars of metrics.csv: `val_loss`, `train_loss`, `val_bits_per_char`, and of each source."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TaskSide:
    """A task in one run; sizes and loss are those of its best circuit."""

    status: TaskStatus
    gate_passed: bool
    model_accuracy: Number
    model_loss: Number
    empty_loss: Number
    n_nodes: Number | None = None
    n_edges: Number | None = None
    task_loss: Number | None = None
    jaccard_seeds: Number | None = None
    """Overlap of the circuits of this run's own mask seeds."""


@dataclass(frozen=True, kw_only=True)
class SharedNodes:
    """Nodes that are in both best circuits, beside what two random circuits with as many nodes at every hook point share."""

    n_shared: Number
    jaccard: Number
    n_random: Number
    """Mean and 95% range of the shared nodes of two random circuits."""
    jaccard_random: Number
    nodes: tuple[str, ...]
    """The shared ones."""


@dataclass(frozen=True, kw_only=True)
class TaskPair:
    """A task of either run."""

    task: str
    a: TaskSide | None
    b: TaskSide | None
    shared: SharedNodes | None = None
    note: str | None = None
    """Why the nodes of two circuits are not compared."""


@dataclass(frozen=True, kw_only=True)
class TasksEntry:
    """Which behaviours have circuits, how large they are, what they share."""

    tasks: tuple[TaskPair, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SplitSide:
    """A split of one run."""

    level: int
    n_examples: int
    n_tokens: int
    loss: Number
    bits_per_char: Number | None = None


@dataclass(frozen=True, kw_only=True)
class SplitPair:
    """A split of either run."""

    name: str
    a: SplitSide | None
    b: SplitSide | None


@dataclass(frozen=True, kw_only=True)
class PointPair:
    """A hook point that both runs measured."""

    hook_point: str
    shown: bool
    """Drawn in detail in one of the runs' own reports."""
    width_a: int
    width_b: int
    gaussian_a: float | None
    """The measure on Gaussian vectors of that width and AbsTopK."""
    gaussian_b: float | None
    splits: Mapping[str, NumberPair]
    """Split -> the measure."""


@dataclass(frozen=True, kw_only=True)
class SparsityEntry:
    """How concentrated activations are, split by split."""

    measure: str
    """Empty: nothing can be compared."""
    splits: tuple[SplitPair, ...]
    points: tuple[PointPair, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VerdictPair:
    """A verdict of a study; None: that run has not reached it."""

    name: str
    arm: str
    statement: str
    a: Word | None
    b: Word | None


@dataclass(frozen=True, kw_only=True)
class SideBySideSection:
    """Two runs side by side (`scripts/compare.py`). Every difference is b - a."""

    a: RunEntry
    b: RunEntry
    settings: SettingsEntry
    losses: LossesEntry
    tasks: TasksEntry
    sparsity: SparsityEntry
    verdicts: tuple[VerdictPair, ...] | None = None
    """Of studies."""
