"""Density as a function of the optimizer step.

The initial density until `start * n_steps`, then to the target at `end * n_steps`, then constant. Either the density falls by equal
amounts (linear, the paper's) or by equal factors (exponential; kinder to short runs, where a linear schedule
takes the last factors of two within a few steps).
The initial density is 1, or that of the given weights that a training starts from.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

MATRICES = re.compile(r"blocks\.\d+\.(attn\.W_[qkvo]|mlp\.W_(in|out))\.weight")
"""Names of the weight matrices whose density is *the* density of a model."""


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
class InitialDensity:
    """How dense weights are when their training starts; without any numbers: dense."""

    matrices: float = 1.0
    """Nonzeros / entries of all weight matrices together."""
    tensors: Mapping[str, float] = field(default_factory=dict[str, float])
    """Of the tensors that have zeros, by name."""

    def of(self, name: str) -> float:
        """Density of a tensor."""
        return self.tensors.get(name, 1.0)


DENSE = InitialDensity()


def initial_density(weights: Iterable[tuple[str, Tensor]]) -> InitialDensity:
    """That of given weights, as (name, tensor); an empty tensor counts as one of a single nonzero."""
    counts = {name: (max(1, int(tensor.count_nonzero())), tensor.numel()) for name, tensor in weights}
    matrices = [count for name, count in counts.items() if MATRICES.fullmatch(name)]
    return InitialDensity(
        matrices=sum(n for n, _ in matrices) / sum(of for _, of in matrices) if matrices else 1.0,
        tensors={name: n / of for name, (n, of) in counts.items() if n < of},
    )


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
    initial: float = 1.0
    """Density at the start."""

    def progress(self, step: int) -> float:
        """How far annealing has come after `step` optimizer steps, in [0, 1]."""
        start, end = self.config.start * self.n_steps, self.config.end * self.n_steps
        # Rounding must not leave the last step short of the target.
        return 1.0 if step >= end or step >= self.n_steps else max(0.0, (step - start) / (end - start))

    def density(self, step: int) -> float:
        """Density after `step` optimizer steps."""
        progress = self.progress(step)
        if self.config.shape == "linear":
            return self.initial + (self.target - self.initial) * progress
        return self.initial * (self.target / self.initial) ** progress
