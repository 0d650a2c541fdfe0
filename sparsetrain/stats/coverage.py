"""How often an interval covers what it is said to cover, in data whose truth is known.

Sets are drawn as `crossed_difference` sees them: items crossed with the runs of two arms. The true difference is 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Literal

import numpy as np

from sparsetrain.stats.intervals import Estimate, Floats

Interval = Callable[[Floats, Floats], Estimate]
"""(`[n_items, n_runs]` of one arm, of the other) -> the mean difference with its interval."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What sets are drawn from; standard deviations in any one unit."""

    n_items: int
    n_runs: int
    """Of each arm."""
    items: float
    """By how much the difference differs from item to item."""
    runs: tuple[float, float]
    """By how much the runs of each arm differ, on all items alike."""
    rest: tuple[float, float]
    """What is left, in a cell of each arm."""
    missing: float = 0.0
    """Share of the cells without a value; every item keeps one in each arm."""
    shape: Literal["normal", "exponential"] = "normal"
    """Distribution of the items' differences; exponential: skew, as a few tasks with far larger circuits are."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Of an interval in one world."""

    n_sets: int
    covered: float
    """Share of the sets with an interval whose interval has the truth in it."""
    error: float
    """Standard error of that share."""
    undefined: float
    """Share of the sets without an interval."""
    half_width: float
    """Median, in the unit of the world."""


def draw(world: World, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """One set: `[n_items, n_runs]` of each arm, NaN where a cell is missing."""
    size, draws = (world.n_items, world.n_runs), generator.standard_normal
    effects = draws(world.n_items) if world.shape == "normal" else generator.exponential(size=world.n_items) - 1
    arms: list[Floats] = []
    for runs, rest, of_items in zip(world.runs, world.rest, (0.0, world.items), strict=True):
        y = of_items * effects[:, None] + runs * draws(world.n_runs) + rest * draws(size)
        missing = generator.random(size) < world.missing
        missing[np.arange(world.n_items), generator.integers(world.n_runs, size=world.n_items)] = False
        arms.append(np.where(missing, np.nan, y))
    return arms[0], arms[1]


def coverage(interval: Interval, world: World, *, n_sets: int, seed: int) -> Coverage:
    """Coverage of an interval over sets drawn from a world."""
    generator = np.random.default_rng(seed)
    found = [interval(*draw(world, generator)) for _ in range(n_sets)]
    known: Sequence[Estimate] = [estimate for estimate in found if isfinite(estimate.lo)]
    covered = sum(estimate.lo <= 0 <= estimate.hi for estimate in known) / max(1, len(known))
    return Coverage(
        n_sets=n_sets,
        covered=covered,
        error=sqrt(covered * (1 - covered) / max(1, len(known))),
        undefined=1 - len(known) / n_sets,
        half_width=float(np.median([(estimate.hi - estimate.lo) / 2 for estimate in known])),
    )
