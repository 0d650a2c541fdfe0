"""What a training recipe is chosen by: numbers on validation pairs, for one run and for the trials of a search."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparsetrain.stats.number import Number


@dataclass(frozen=True, kw_only=True)
class TaskLoss:
    """One task on validation pairs."""

    task: str
    status: Literal["passed", "bigram", "failed", "unsuitable"]
    """`bigram`: the current token alone does it; `unsuitable`: this tokenizer makes no pairs of it."""
    loss: Number
    """Of the full model, calibrated on the fit pairs, nats."""


@dataclass(frozen=True, kw_only=True)
class SearchedCircuit:
    """One task's circuit by the short search."""

    task: str
    found: bool
    n_edges: Number
    """Of the smallest circuit; without one: of the whole model where it passes the task, else all that its matrices could have."""


@dataclass(frozen=True, kw_only=True)
class SelectionSection:
    """What a recipe is chosen by (`selection`). No held-out pair is read for it."""

    capability_loss: Number
    """`task_loss` + `bits_per_char`: nats and bits simply added, so that one more solved task of twenty is worth about .03 bits/char."""
    task_loss: Number
    """Mean over the tasks, each at most ln 2, which is what guessing costs; so much where the task is unsuitable."""
    bits_per_char: Number
    """Validation loss on the sources that are no synthetic text, by their weights."""
    circuit_edges: Number
    """Geometric mean of `n_edges` over `circuits`."""
    n_passed: Number
    """Tasks that the model passes; bigram ones are counted apart."""
    n_bigram: Number
    tasks: tuple[TaskLoss, ...]
    circuits: tuple[SearchedCircuit, ...]


@dataclass(frozen=True, kw_only=True)
class HeldoutGates:
    """What a trial on the front does on held-out pairs, which are read once the search has had all its trials."""

    n_passed: Number
    """Bigram tasks are counted apart, as before."""
    n_bigram: Number
    task_loss: Number
    """As `selection.task_loss`."""
    failed: tuple[str, ...]
    """Tasks that it does not pass."""


@dataclass(frozen=True, kw_only=True)
class FrontierTrial:
    """One trial of a search."""

    number: int
    """Also the name of its folder in the sweep's."""
    state: Literal["complete", "pruned", "fail", "running"]
    """`pruned`: given up, as its validation loss was behind."""
    on_front: bool
    """No other trial is at least as good by every objective and better by one."""
    overrides: Mapping[str, str]
    seed: int | None = None
    values: tuple[Number, ...] = ()
    """Of the objectives, in their order."""
    rungs: Mapping[str, float]
    """Share of the steps -> validation loss there."""
    selection: SelectionSection | None = None
    n_steps: Number | None = None
    trained: Number | None = None
    """Time of its steps, s."""
    seconds: Number | None = None
    """Of all its stages."""
    heldout: HeldoutGates | None = None


@dataclass(frozen=True, kw_only=True)
class FrontierSection:
    """The trials of a search over recipes."""

    objectives: tuple[str, ...]
    """What was minimised: places in a trial's report.json, or `returned`, what the command returns."""
    is_whole: bool
    """Whether the search has had all its trials."""
    trials: tuple[FrontierTrial, ...]
