"""The section `study` of report.json: the rules as they stood before the run, and what was found by them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sparsetrain.report.blocks import Curve, Lines, Reference
from sparsetrain.stats.decisions import Word
from sparsetrain.stats.number import Number
from sparsetrain.store import fingerprint
from sparsetrain.typed import plain


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What must hold in every seed for the study, or one arm of it, to be interpretable."""

    key: str
    words: str
    rule: Literal["at least", "at most"] = "at least"
    bound: Number
    arm: str | None = None
    """The arm that it decides about; None: all."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim and the criterion that decides it, in words."""

    key: str
    arm: str
    claim: str
    criterion: str


@dataclass(frozen=True, kw_only=True)
class VerdictRule:
    """A verdict made of claims: supported if all are, not supported if one is not, undecided otherwise."""

    name: str
    arm: str
    statement: str
    needs: tuple[str, ...]
    """Keys of claims."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is fixed before anything runs; `plan.json` holds it."""

    question: str
    method: tuple[str, ...]
    """Paragraphs."""
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    gates: tuple[Gate, ...]
    claims: tuple[Claim, ...]
    rules: tuple[VerdictRule, ...]

    def __post_init__(self) -> None:
        keys = [claim.key for claim in self.claims]
        assert len(set(keys)) == len(keys), keys
        assert all(need in keys for rule in self.rules for need in rule.needs), keys

    def sha256(self) -> str:
        return fingerprint(plain(self))


@dataclass(frozen=True, kw_only=True)
class GateEntry:
    """A gate after the run."""

    key: str
    words: str
    criterion: str
    worst: Number
    """Over seeds and arms."""
    passed: bool


@dataclass(frozen=True, kw_only=True)
class ClaimEntry(Claim):
    """A claim after the run; its `criterion` is the plan's."""

    number: Number
    """Over seeds, with interval."""
    per_seed: tuple[float | None, ...]
    verdict: Word
    reason: str


@dataclass(frozen=True, kw_only=True)
class VerdictEntry:
    """A rule of the plan applied to the claims."""

    name: str
    arm: str
    statement: str
    verdict: Word
    reason: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Curves, also in `figures/<key>.svg`."""

    key: str
    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    references: tuple[Reference, ...] = ()
    note: str

    def lines(self) -> Lines:
        """The figure as a block."""
        return Lines(**{name: value for name, value in vars(self).items() if name != "key"})


@dataclass(frozen=True, kw_only=True)
class Overview:
    """Claims below each other over one axis, also in `figures/<key>.svg`."""

    key: str
    title: str
    unit: str
    claims: tuple[str, ...]
    """Keys of claims, in their order."""


TableCell = str | int | float | Number | None


@dataclass(frozen=True, kw_only=True)
class ResultTable:
    """Numbers beside the claims."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class StudySection:
    """A study before (`planned`) or after its run (`done`)."""

    status: Literal["planned", "done"]
    plan: Plan
    plan_sha256: str
    interpretable: bool = False
    """Whether the gates of at least one arm hold."""
    gates: tuple[GateEntry, ...] = ()
    claims: tuple[ClaimEntry, ...] = ()
    verdicts: tuple[VerdictEntry, ...] = ()
    overviews: tuple[Overview, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[ResultTable, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    """Stage -> sha256 of its weights."""
