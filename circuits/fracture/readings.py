"""What the study of students keeps: of every seed the numbers of all students and their gates, and of all dense students whether they match."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuits.fracture.gates import Matching
from sparsetrain.studies.engine import StageResult

Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True)
class StudentResult(StageResult):
    """One student."""

    matching: Matching
    """Against the teacher."""
    n_tries: int
    """How often it was distilled, each time from other weights, before it passed."""


@dataclass(frozen=True, kw_only=True)
class SeedResult(StageResult):
    """The students of one seed."""

    matching: Mapping[str, Matching]
    """Every student but the dense one -> its gate against that."""
    numbers: Mapping[str, Mapping[str, float | None]]
    """Student -> key of a measure -> its value; None where it is not defined."""
    kl: Mapping[str, float]
    """Student -> mean output KL of the perturbations that decide, nats."""
    rho: Mapping[str, float]
    """Their size."""
    n_nonzero: Mapping[str, int]
    lr: Mapping[str, float]
    """Learning rate of the curves: the one that came to success nearest to the equal number of steps."""
    steps: tuple[int, ...]
    curves: Mapping[str, Mapping[str, tuple[float, ...]]]
    """Student -> name in `transfer.SHOWN` -> accuracy at every step."""

    def of(self, name: str) -> dict[str, float]:
        """The numbers of a student; NaN where one is not defined."""
        return {key: float("nan") if value is None else value for key, value in self.numbers[name].items()}


@dataclass(frozen=True, kw_only=True)
class NullResult(StageResult):
    """All pairs of dense students, of all seeds."""

    matching: tuple[Matching, ...]
    """Names are `<student>/seed_<n>`."""
    numbers: Mapping[str, Mapping[str, float | None]]
    """Student -> numbers of responses, read of all of them at once; the others are those of their seeds."""

    def of(self, name: str, seed: SeedResult) -> dict[str, float]:
        """All numbers of a dense student; NaN where one is not defined."""
        mine = {key: float("nan") if value is None else value for key, value in self.numbers[name].items()}
        return {**seed.of(name.split("/")[0]), **mine}


@dataclass(frozen=True, kw_only=True)
class StudentReadings:
    """One student beside the one that it is compared with, in one seed."""

    result: SeedResult
    name: str
    reference: str
    null_rate: float
    """Share of the pairs of dense students, of all seeds, that would be called different."""

    @property
    def matching(self) -> Matching:
        return self.result.matching[self.name]

    def apart(self, key: str) -> float:
        """By how much a measure of the student differs from that of the reference; NaN where the pair misses the gate."""
        if not self.matching.passes:
            return float("nan")
        return self.result.of(self.name)[key] - self.result.of(self.reference)[key]

    def kl(self, split: Split) -> float:
        """Nats per answer token."""
        return getattr(self.matching, split).kl

    def agreement(self, split: Split) -> float:
        """Share of inputs."""
        return getattr(self.matching, split).agreement
