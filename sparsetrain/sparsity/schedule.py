"""Density as a function of the optimizer step.

1 until `start * n_steps`, then down to the target at `end * n_steps`, then constant. Either the density falls by equal
amounts (linear, the paper's) or by equal factors (exponential; kinder to short runs, where a linear schedule
takes the last factors of two within a few steps).
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Shape of the annealing. Source: Gao et al. 2025, A.2."""

    shape: Literal["linear", "exponential"] = "linear"
    start: float = 0.0
    """Fraction of the steps before annealing begins (the authors' script: 0.01)."""
    end: float = 0.5
    """Fraction of the steps at which the target is reached (0.8 for the paper's largest, sparsest models)."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start={self.start} and end={self.end} must satisfy 0 <= start < end <= 1")


@dataclass(frozen=True, kw_only=True)
class DensitySchedule:
    """Density of a step, for one target.

    Args:
        target: final density (nonzeros / entries), in (0, 1].
        n_steps: optimizer steps of the whole run.
        config: the shape.
    """

    target: float
    n_steps: int
    config: ScheduleConfig

    def progress(self, step: int) -> float:
        """How far annealing has come after `step` optimizer steps, in [0, 1]."""
        start, end = self.config.start * self.n_steps, self.config.end * self.n_steps
        # Rounding must not leave the last step short of the target.
        return 1.0 if step >= end or step >= self.n_steps else max(0.0, (step - start) / (end - start))

    def density(self, step: int, target: float | None = None) -> float:
        """Density after `step` optimizer steps, for this schedule's target or another tensor's own."""
        target = self.target if target is None else target
        progress = self.progress(step)
        if self.config.shape == "linear":
            return 1.0 + (target - 1.0) * progress
        return target**progress
