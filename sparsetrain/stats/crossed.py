"""The difference of two arms measured on the same items by several runs of each: items (tasks) crossed with runs (seeds of a model).

    y[arm, item, run] = arm + effect of the item in the arm + effect of the run + rest

1. The difference on an item is that of its means over runs; the estimate is their mean over items.
2. What items and rest add to its variance shows in how the items differ. What runs add does not: all items share the runs. So it is
   estimated apart, by an analysis of variance within each arm, and added: who resamples items (and cells within them) forgets it.
3. Student's t with the degrees of freedom of a sum of mean squares. docs/results/dense_vs_sparse/coverage.json has its coverage.
"""

from dataclasses import dataclass
from math import sqrt
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs]

from sparsetrain.stats.intervals import Estimate, Floats, percent

NOTICED = 1.5
"""Runs count as different where their mean square is so many times that of the rest; counting any excess makes intervals too wide
where runs do not differ. ours"""


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """The analysis of variance of one arm, runs within items."""

    means: Floats
    """Of each item over its runs."""
    runs: float
    """Sum of squares of runs, given items."""
    n_runs: int
    """Its degrees of freedom."""
    rest: float
    n_rest: int
    weight: float
    """By how much (mean square of runs - that of the rest) enters the variance of the mean of the means."""


def _arm(y: Floats) -> _Arm:
    there = np.isfinite(y)
    counts = there.sum(1)
    shares = there / counts[:, None]  # [item, run]: how much of an item's mean is of a run
    means = np.where(there, y, 0).sum(1) / counts
    item, run = there.nonzero()
    values, design = y[item, run] - means[item], np.eye(y.shape[1])[run] - shares[item]
    effects, _, rank, _ = cast(tuple[Floats, Floats, int, Floats], np.linalg.lstsq(design, values))
    runs = float(((design @ effects) ** 2).sum())
    # Runs add to the variance as far as two different items share them: mean over such pairs of the product of their shares.
    shared = (shares.sum(0) ** 2).sum() - (shares**2).sum()
    size = float((design**2).sum())
    return _Arm(
        means=means,
        runs=runs,
        n_runs=int(rank),
        rest=float((values**2).sum()) - runs,
        n_rest=int((counts - 1).sum() - rank),
        weight=shared / (len(y) * (len(y) - 1)) * rank / size if rank else 0.0,
    )


def crossed_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean over items of b - a, with an interval for other items and other runs than these.

    V = var(d) / n_items + sum over arms of w (MS_runs - MS_rest), the sum only if MS_runs exceeds `NOTICED` MS_rest; df =
    V^2 / sum of (each term's square / its degrees of freedom).

    Args:
        a: `[n_items, n_runs_a]`, NaN where a run has no value of an item; every item has one.
        b: `[n_items, n_runs_b]`, other runs of the other arm on the same items.
        confidence: of the interval.

    Returns:
        In the unit of the values. No interval (NaN) with fewer than two items, or where the runs of an arm cannot be told apart from
        its items.

    Raises:
        ValueError: different items, or an item without a value.

    Source: Clark 1973, The language-as-fixed-effect fallacy (items and subjects both sampled); Satterthwaite 1946, An approximate
    distribution of estimates of variance components; Searle, Casella and McCulloch 1992, Variance Components, chapter 5 (Henderson's
    method III for missing cells). The threshold `NOTICED` is ours.
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (a, b))
    if len(x) != len(y) or not all(np.isfinite(side).any(1).all() for side in (x, y)):
        raise ValueError(
            f"{len(x)} and {len(y)} items; give the same items of both arms, each with a value in some run"
        )
    n = len(x)
    if n < 2:
        value = float(np.nanmean(y) - np.nanmean(x)) if n else float("nan")
        return Estimate(value=value, lo=float("nan"), hi=float("nan"), n=n, method="no interval: fewer than two items")
    arms = (_arm(x), _arm(y))
    d = arms[1].means - arms[0].means
    value, n_rest = float(d.mean()), sum(arm.n_rest for arm in arms)
    if not all(arm.n_runs for arm in arms) or not n_rest:
        why = "no interval: the runs of an arm cannot be told apart from its items"
        return Estimate(value=value, lo=float("nan"), hi=float("nan"), n=n, method=why)
    items = float(d.var(ddof=1)) / n
    runs = [arm.weight * arm.runs / arm.n_runs for arm in arms]
    rest = sum(arm.weight for arm in arms) * sum(arm.rest for arm in arms) / n_rest
    variance, spread = items, items**2 / (n - 1)
    if sum(runs) > NOTICED * rest:
        variance += sum(runs) - rest
        spread += sum(part**2 / arm.n_runs for part, arm in zip(runs, arms, strict=True)) + rest**2 / n_rest
    df = variance**2 / spread if spread else float(n - 1)
    half = -float(stdtrit(df, (1 - confidence) / 2)) * sqrt(variance)
    method = (
        f"mean over {n} items, {x.shape[1]} and {y.shape[1]} runs; {percent(confidence)} Student's t interval over items and runs, "
        f"{df:.1f} degrees of freedom"
    )
    return Estimate(value=value, lo=value - half, hi=value + half, n=n, method=method)
