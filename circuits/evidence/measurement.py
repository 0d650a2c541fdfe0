"""What a measure returns, and intervals for values that are no plain means."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from scipy.stats import binomtest
from torch import Tensor

Verdict = Literal["pass", "fail", "not enough data"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured value with what is needed to judge it.

    Args:
        value: the number that is compared with a threshold; None where there is none.
        unit: its unit.
        n: sample size.
        lo: lower end of the 95% interval, where there is one.
        hi: upper end.
        note: what a reader must know beside the value.
        detail: plain JSON data behind the value.
        verdict: set where the verdict does not follow from comparing the value with the threshold.
    """

    value: float | None
    unit: str
    n: int
    lo: float | None = None
    hi: float | None = None
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None


def missing(unit: str, note: str) -> Measurement:
    """A measure that could not be taken, and why."""
    return Measurement(value=None, unit=unit, n=0, note=note, verdict="not enough data")


def bootstrap_statistic(
    values: Tensor, statistic: Callable[[Tensor], Tensor], seed: int, n_boot: int
) -> tuple[float | None, float | None]:
    """95% percentile interval of a statistic of rows, resampled with replacement.

    Args:
        values: float `[n, ...]`, one row per pair.
        statistic: `[n_boot, n, ...]` -> `[n_boot]`; resamples in which it is not finite are left out.

    Returns:
        Lower and upper end; None where fewer than half of the resamples have a finite value.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (n_boot, len(values)), generator=generator)
    found = statistic(values.double()[rows])
    found = found[found.isfinite()]
    if 2 * len(found) < n_boot:
        return None, None
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=found.dtype)).tolist()
    return low, high


def share(n_hits: int, n: int, **more: Any) -> Measurement:
    """A fraction of `n` with its Wilson interval."""
    if n == 0:
        return Measurement(value=None, unit="fraction", n=0, **more)
    interval = binomtest(n_hits, n).proportion_ci(method="wilson")
    return Measurement(value=n_hits / n, unit="fraction", n=n, lo=float(interval.low), hi=float(interval.high), **more)


def mean_interval(values: Tensor, seed: int, n_boot: int) -> tuple[float | None, float | None]:
    """`bootstrap_statistic` of the mean of `[n]` values."""
    return bootstrap_statistic(values, lambda rows: rows.mean(-1), seed, n_boot)


def jaccard(sets: Sequence[set[str]]) -> float | None:
    """Mean over pairs of sets of |a & b| / |a | b|; None for fewer than two sets, 1 for two empty ones."""
    ratios = [len(a & b) / len(a | b) if a | b else 1.0 for i, a in enumerate(sets) for b in sets[:i]]
    return sum(ratios) / len(ratios) if ratios else None
