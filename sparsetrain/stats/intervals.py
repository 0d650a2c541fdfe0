"""Intervals: the percentile bootstrap over items, and Student's t over independent runs."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit  # pyright: ignore[reportMissingTypeStubs]

from sparsetrain.stats.number import Number, Status, number

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Draw = Callable[[np.random.Generator, Ints, int], Ints]
"""(generator, sizes `[n]`, b) -> indices of b resamples, `[b, n]`, column j below `sizes[j]`."""
Statistic = Callable[[Ints], Floats]
"""Indices of resampled items, `[b, n]` -> its value in each resample, `[b]`."""

MAX_CHUNK = 2**20  # entries of resampled data held at once
TAIL = 0.025
"""Share of the resamples beyond each end of a 95% interval."""
FEW = 30
"""Fewer items have a Student's t interval for their mean: resamples of few items spread too little. ours"""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic with its interval; NaN where it is not defined."""

    value: float
    lo: float
    hi: float
    n: int
    """Items behind it."""
    method: str
    """What was computed and how the interval was made."""

    def number(self, unit: str, status: Status = "recomputable", *, seed: int | None = None) -> Number:
        """As a report shows it."""
        lo, hi = (end if isfinite(end) else None for end in (self.lo, self.hi))
        return number(self.value, unit, status, n=self.n, lo=lo, hi=hi, seed=seed)


def columns(n_min: int, **arrays: ArrayLike) -> list[Floats]:
    """Equally long float64 vectors.

    Raises:
        ValueError: different lengths, too few items, or values that are not finite.
    """
    vectors = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    lengths = {name: len(v) for name, v in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"items differ in number: {lengths}; give one value per item")
    for name, v in vectors.items():
        if len(v) < n_min:
            raise ValueError(f"{name} has {len(v)} items; at least {n_min} are needed")
        if not np.isfinite(v).all():
            raise ValueError(f"{name} has {np.sum(~np.isfinite(v))} values that are not finite; leave those items out")
    return list(vectors.values())


def draw_items(generator: np.random.Generator, sizes: Ints, b: int) -> Ints:
    """Every place of every resample is drawn alike and on its own."""
    return generator.integers(sizes, size=(b, len(sizes)))


def bootstrap(
    statistic: Statistic,
    *sizes: int,
    n_bootstrap: int,
    tail: float = TAIL,
    seed: int | np.random.Generator,
    draw: Draw = draw_items,
) -> tuple[float, float]:
    """Percentile interval of a statistic over resamples of items, drawn with replacement.

    Args:
        statistic: called with some resamples at a time, which bounds the memory.
        sizes: number of items; of several independent samples one number each, whose indices then stand side by side.
        n_bootstrap: resamples; 0: there is no interval.
        tail: share of the resamples beyond each end.
        seed: of the resamples, or a generator that goes on.
        draw: gives the resamples.

    Returns:
        Lower and upper end; NaN where fewer than half of the resamples have a finite value.
    """
    generator = np.random.default_rng(seed)
    bounds = np.repeat(np.asarray(sizes, dtype=np.int64), sizes)
    chunk = max(1, MAX_CHUNK // max(1, len(bounds)))
    values = [
        statistic(draw(generator, bounds, min(chunk, n_bootstrap - done))) for done in range(0, n_bootstrap, chunk)
    ]
    lo, hi = percentiles(np.concatenate(values) if values else np.empty(0), tail)
    return float(lo), float(hi)


def percentiles(resampled: ArrayLike, tail: float = TAIL) -> tuple[Floats, Floats]:
    """Both ends of percentile intervals of values over resamples, `[..., b]` -> `[...]` each, by linear interpolation.

    Values that are not finite are left out; NaN where fewer than half are left.
    """
    values = np.asarray(resampled, dtype=np.float64)
    known = np.isfinite(values)
    # One sort for both ends and all series: numpy sorts the last axis fast, and NaN to its end.
    ordered = np.sort(np.where(known, values, np.nan), axis=-1)
    n_known = np.asarray(known.sum(-1), dtype=np.int64)
    enough = (n_known > 0) & (2 * n_known >= values.shape[-1])

    def at(share: float) -> Floats:
        if not values.shape[-1]:
            return np.full(values.shape[:-1], np.nan)
        last = np.maximum(n_known - 1, 0)
        place = share * last
        below = np.floor(place).astype(np.int64)
        ends = np.stack([below, np.minimum(below + 1, last)], -1)
        a, b = np.moveaxis(np.take_along_axis(ordered, ends, -1), -1, 0)
        part = place - below
        # Two forms, so that both ends are hit exactly: numpy's own quantile does the same.
        between = np.asarray(np.where(part < 0.5, a + (b - a) * part, b - (b - a) * (1 - part)), dtype=np.float64)
        return np.where(enough, between, np.nan)

    return at(tail), at(1 - tail)


def estimate(what: str, statistic: Statistic, *sizes: int, n_bootstrap: int, confidence: float, seed: int) -> Estimate:
    """A statistic of items with its percentile bootstrap interval.

    Args:
        what: named first in `method`.
        statistic: as for `bootstrap`.
        sizes: as for `bootstrap`.
        n_bootstrap: as for `bootstrap`.
        seed: as for `bootstrap`.
        confidence: of the interval.
    """
    items = np.concatenate([np.arange(n) for n in sizes])
    lo, hi = bootstrap(statistic, *sizes, n_bootstrap=n_bootstrap, tail=(1 - confidence) / 2, seed=seed)
    return Estimate(
        value=float(statistic(items[None])[0]),
        lo=lo,
        hi=hi,
        n=min(sizes),
        method=f"{what}, {percent(confidence)} percentile bootstrap ({n_bootstrap} resamples, seed {seed})",
    )


def over_items(values: ArrayLike, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int) -> Estimate:
    """Mean over items, `[n]` with n >= 2, in the unit of the values; percentile bootstrap, of fewer than `FEW` items Student's t."""
    (v,) = columns(2, values=values)
    if len(v) < FEW:
        return _students_t(v, "items", confidence)
    return estimate(
        "mean over items", lambda i: v[i].mean(-1), len(v), n_bootstrap=n_bootstrap, confidence=confidence, seed=seed
    )


def simultaneous(
    values: ArrayLike, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int
) -> tuple[Estimate, ...]:
    """Means over items of many series at once, with intervals that hold for all of them together.

    The widest of |resampled mean - mean| / standard error over the series is found in each resample; its quantile times the standard
    error is every interval's half width. Series that go together (layers of one model) cost less than a Bonferroni correction.

    Args:
        values: `[n_series, n_items]`, the same items in each; n_items >= 2. A series without spread has an interval of no width.
        n_bootstrap: resamples for the intervals.
        confidence: of the intervals.
        seed: of the resamples.

    Source: max-t bands, Romano and Wolf 2005, Exact and approximate stepdown methods for multiple hypothesis testing, section 4.
    """
    v = np.asarray(values, dtype=np.float64)
    columns(2, **{f"series {i}": row for i, row in enumerate(v)})
    n = v.shape[1]
    mean, error = v.mean(1), v.std(1, ddof=1) / sqrt(n)
    spread = error > 0
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap)
    apart = np.abs(v[spread] @ counts.T / n - mean[spread, None]) / error[spread, None]
    factor = float(np.quantile(apart.max(0), confidence)) if spread.any() and n_bootstrap else 0.0
    method = f"mean over items, {percent(confidence)} simultaneous over {len(v)} series (max-t, {n_bootstrap} resamples, seed {seed})"
    return tuple(
        Estimate(value=float(m), lo=float(m - factor * e), hi=float(m + factor * e), n=n, method=method)
        for m, e in zip(mean, error, strict=True)
    )


def difference(
    shifted: ArrayLike,
    reference: ArrayLike,
    *,
    paired: bool = False,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """Mean of `shifted` minus mean of `reference`.

    Args:
        shifted: `[n]`, values per window.
        reference: `[m]`; with `paired`, m = n and item i of both belong together (the same text before and after).
        paired: resample pairs.
        n_bootstrap: resamples for the interval.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        In the unit of the values; n is the smaller number of items.
    """
    what = "difference of means"
    if paired:
        a, b = columns(2, shifted=shifted, reference=reference)
        d = a - b
        what, sizes = f"paired {what}", (len(d),)

        def statistic(i: Ints) -> Floats:
            return d[i].mean(-1)
    else:
        (a,), (b,) = columns(2, shifted=shifted), columns(2, reference=reference)
        sizes = (len(a), len(b))

        def statistic(i: Ints) -> Floats:
            return a[i[:, : len(a)]].mean(-1) - b[i[:, len(a) :]].mean(-1)

    return estimate(what, statistic, *sizes, n_bootstrap=n_bootstrap, confidence=confidence, seed=seed)


def paired_shares(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Share of items that are right in one way minus the share in another, of the same items.

    Interval of Wald's form with half an item added to each of the four cells (right in both, in one, in the other, in neither): unlike
    a bootstrap it has a width where no item differs. An item that is right in some of several tries counts as so much.

    Args:
        a: `[n]`, each in [0, 1].
        b: the same.
        confidence: of the interval.

    Source: Agresti and Min 2005, Simple improved confidence intervals for comparing matched proportions, section 2; shares between 0 and 1 are ours.
    """
    a, b = columns(2, a=a, b=b)
    d, n = a - b, len(a)
    centre = float(d.sum()) / (n + 2)
    error = sqrt((float((d * d).sum()) + 1) / (n + 2) - centre**2) / sqrt(n + 2)
    half = -float(ndtri((1 - confidence) / 2)) * error
    method = f"difference of paired shares, {percent(confidence)} interval with half an item added to each cell"
    # Thirds of a try that cancel leave a rest that would be shown as a number.
    value = round(float(d.mean()), 12)
    return Estimate(value=value, lo=centre - half, hi=centre + half, n=n, method=method)


def share(right: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Share of items that are right, with Wilson's score interval: inside [0, 1], and with a width where all or none are.

    An item that is right in some of several tries counts as so much, for which the interval is at most too wide.

    Args:
        right: `[n]`, each in [0, 1].
        confidence: of the interval.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference; shares between 0 and 1 are ours.
    """
    (v,) = columns(1, right=right)
    n, p, z = len(v), float(v.mean()), -float(ndtri((1 - confidence) / 2))
    centre, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / (1 + z * z / n),
    )
    method = f"share of items, {percent(confidence)} Wilson interval"
    return Estimate(value=p, lo=max(0.0, centre - half), hi=min(1.0, centre + half), n=n, method=method)


def nested(values: ArrayLike, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int) -> Estimate:
    """Mean over groups of items (seeds with items of their own): groups are resampled, and within each drawn one its items.

    Of few groups the percentile interval is too narrow; `over_seeds` has the one that verdicts rest on.

    Args:
        values: `[n_groups, n_items]`.
        n_bootstrap: resamples for the interval.
        confidence: of the interval.
        seed: of the resamples.

    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.
    """
    v = np.asarray(values, dtype=np.float64)
    n_groups, n_items = v.shape
    columns(1, values=v.ravel())
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_items, np.full(n_items, 1 / n_items), size=(n_bootstrap, n_groups))
    drawn = rng.integers(n_groups, size=(n_bootstrap, n_groups))
    means = (counts * v[drawn]).sum(-1) / n_items
    lo, hi = percentiles(means.mean(1), (1 - confidence) / 2)
    method = f"mean over {n_groups} groups of {n_items} items, {percent(confidence)} percentile bootstrap of groups and items ({n_bootstrap} resamples, seed {seed})"
    return Estimate(value=float(v.mean()), lo=float(lo), hi=float(hi), n=v.size, method=method)


def minus(b: Number, a: Number) -> Number:
    """b - a of two numbers that were measured apart, with an interval made of theirs.

    L = d - sqrt((b - b.lo)^2 + (a.hi - a)^2), U = d + sqrt((b.hi - b)^2 + (a - a.lo)^2): exact for normal estimates, and right in
    its coverage where the single intervals are skew. For estimates of the same items, which go together, it is too wide.

    Returns:
        In the unit of the numbers; without an interval where one of them has none.

    Source: Zou and Donner 2008, Construction of confidence limits about effect measures, section 2 (MOVER).
    """
    if a.value is None or b.value is None:
        return number(None, b.unit, "measured", note="not available in both")
    d, lo, hi = b.value - a.value, None, None
    if None not in (a.lo, a.hi, b.lo, b.hi):
        assert a.lo is not None and a.hi is not None and b.lo is not None and b.hi is not None
        lo = d - sqrt((b.value - b.lo) ** 2 + (a.hi - a.value) ** 2)
        hi = d + sqrt((b.hi - b.value) ** 2 + (a.value - a.lo) ** 2)
    n = min(a.n, b.n) if a.n is not None and b.n is not None else None
    return number(d, b.unit, "measured", n=n, lo=lo, hi=hi)


def over_seeds(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of an effect over independent runs, with Student's t interval: what holds beyond these seeds.

    Args:
        values: `[n_seeds]`, the effect in each seed; a NaN (undefined in a seed) makes the mean undefined.
        confidence: of the interval; one seed has none (NaN).
    """
    return _students_t(np.asarray(values, dtype=np.float64), "seeds", confidence)


def percent(confidence: float) -> str:
    """95%, and 99.55% where 11 intervals are to hold together."""
    return f"{round(100 * confidence, 2):g}%"


def _students_t(v: Floats, what: str, confidence: float) -> Estimate:
    mean = float(v.mean()) if len(v) else float("nan")
    half = float("nan")
    if len(v) > 1 and isfinite(mean):
        half = -float(stdtrit(len(v) - 1, (1 - confidence) / 2)) * float(v.std(ddof=1)) / sqrt(len(v))
    method = f"mean over {len(v)} {what}, {percent(confidence)} Student's t interval"
    return Estimate(value=mean, lo=mean - half, hi=mean + half, n=len(v), method=method)
