"""From numbers to a verdict: does sparsity go with distance from the training distribution?

1. Estimates are over items (windows), never over level means: a correlation over five means is about .9 where the same
   data give .1 per item.
2. Every estimate carries a percentile bootstrap interval over items, with the seed given by the caller.
3. Confounds (loss, entropy, logit norm, length, position) enter as covariates of a partial rank correlation.
4. A criterion is written down before the data are seen; `decide` turns criterion and estimate into one of three words,
   and "not supported" is as reachable as "supported": an interval that excludes every effect of interest says it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, norm, rankdata
from scipy.stats import t as student_t

Word = Literal["supported", "not supported", "undecided"]
MAX_CHUNK = 2**20  # entries of resampled data held at once


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


def _columns(n_min: int, **arrays: ArrayLike) -> list[np.ndarray]:
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


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, n_bootstrap: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of `statistic(indices [b, n]) -> [b]` over resampled items; NaN without resamples."""
    if n_bootstrap < 1:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    chunk = max(1, MAX_CHUNK // n)
    values = [
        statistic(rng.integers(n, size=(min(chunk, n_bootstrap - done), n))) for done in range(0, n_bootstrap, chunk)
    ]
    resampled = np.concatenate(values)
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < n_bootstrap / 2:
        return float("nan"), float("nan")
    lo, hi = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(lo), float(hi)


def _ranks(v: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ranks within resamples of items, ties at their mean rank: `indices [b, n] -> [b, n]`.

    The same numbers as sorting each resample; counting how often each value was drawn is several times faster.
    """
    values, place = np.unique(v, return_inverse=True)

    def ranks(i: np.ndarray) -> np.ndarray:
        at = place[i]
        row = len(values) * np.arange(len(i))[:, None]
        drawn = np.bincount((at + row).ravel(), minlength=len(i) * len(values)).reshape(len(i), -1)
        return np.take_along_axis(drawn.cumsum(1) - (drawn - 1) / 2, at, 1)

    return ranks


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation along the last axis, NaN where one side is constant: `[..., n]`, `[..., n]` -> `[...]`."""
    x, y = (a - a.mean(-1, keepdims=True) for a in (x, y))
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, np.nan)


def _residual(y: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """What least squares on the covariates (and a constant) leaves of y: `[..., n]`, `[..., n, c]` -> `[..., n]`.

    Exactly zero where the covariates determine y up to rounding, so that a correlation with it is undefined.
    """
    y = y - y.mean(-1, keepdims=True)
    c = covariates - covariates.mean(-2, keepdims=True)
    gram = np.swapaxes(c, -1, -2) @ c
    weights = np.linalg.pinv(gram, hermitian=True) @ (np.swapaxes(c, -1, -2) @ y[..., None])
    left = y - (c @ weights)[..., 0]
    explained = (left * left).sum(-1, keepdims=True) <= 1e-12 * (y * y).sum(-1, keepdims=True)
    return np.where(explained, 0.0, left)


def spearman(x: ArrayLike, y: ArrayLike, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int) -> Estimate:
    """Rank correlation of two quantities over items, ties at their mean rank.

    Args:
        x, y: `[n]`, n >= 3, for instance shift level and a measure, one item per window.
        n_bootstrap, confidence, seed: of the interval.

    Returns:
        Correlation in [-1, 1]; NaN where one side is constant.
    """
    a, b = _columns(3, x=x, y=y)
    ranks_a, ranks_b = _ranks(a), _ranks(b)

    def statistic(i: np.ndarray) -> np.ndarray:
        return _correlate(ranks_a(i), ranks_b(i))

    lo, hi = _interval(statistic, len(a), n_bootstrap, confidence, seed)
    value = float(statistic(np.arange(len(a))[None])[0])
    method = f"Spearman over items, {confidence:.0%} percentile bootstrap ({n_bootstrap} resamples, seed {seed})"
    return Estimate(value=value, lo=lo, hi=hi, n=len(a), method=method)


def partial_spearman(
    x: ArrayLike,
    y: ArrayLike,
    covariates: Sequence[ArrayLike],
    *,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """Rank correlation of x and y given covariates: the correlation of what the covariates' ranks leave of their ranks.

    Args:
        x, y: `[n]`.
        covariates: each `[n]`; n >= 3 + their number. An indicator (0/1) works as one.
        n_bootstrap, confidence, seed: of the interval.

    Returns:
        Correlation in [-1, 1]; NaN where the covariates determine one side, as no data can then tell.
    """
    named = {f"covariate_{i}": covariate for i, covariate in enumerate(covariates)}
    a, b, *others = _columns(3 + len(covariates), x=x, y=y, **named)
    ranks_of = [_ranks(v) for v in (a, b, *others)]

    def statistic(i: np.ndarray) -> np.ndarray:
        rank_x, rank_y, *rank_c = (ranks(i) for ranks in ranks_of)
        c = np.stack(rank_c, -1) if rank_c else np.zeros((*i.shape, 0))
        return _correlate(_residual(rank_x, c), _residual(rank_y, c))

    lo, hi = _interval(statistic, len(a), n_bootstrap, confidence, seed)
    value = float(statistic(np.arange(len(a))[None])[0])
    method = (
        f"partial Spearman over items given {len(others)} covariates, {confidence:.0%} percentile bootstrap "
        f"({n_bootstrap} resamples, seed {seed})"
    )
    return Estimate(value=value, lo=lo, hi=hi, n=len(a), method=method)


def over_items(values: ArrayLike, *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int) -> Estimate:
    """Mean over items, with a percentile bootstrap interval.

    Args:
        values: `[n]`, n >= 2, one per item.
        n_bootstrap, confidence, seed: of the interval.

    Returns:
        In the unit of the values.
    """
    (v,) = _columns(2, values=values)
    lo, hi = _interval(lambda i: v[i].mean(-1), len(v), n_bootstrap, confidence, seed)
    method = f"mean over items, {confidence:.0%} percentile bootstrap ({n_bootstrap} resamples, seed {seed})"
    return Estimate(value=float(v.mean()), lo=lo, hi=hi, n=len(v), method=method)


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
        n_bootstrap, confidence, seed: of the interval.

    Returns:
        In the unit of the values; n is the smaller number of items.
    """
    method = f"difference of means, {confidence:.0%} percentile bootstrap ({n_bootstrap} resamples, seed {seed})"
    if paired:
        a, b = _columns(2, shifted=shifted, reference=reference)
        d = a - b
        lo, hi = _interval(lambda i: d[i].mean(-1), len(d), n_bootstrap, confidence, seed)
        return Estimate(value=float(d.mean()), lo=lo, hi=hi, n=len(d), method=f"paired {method}")
    (a,), (b,) = _columns(2, shifted=shifted), _columns(2, reference=reference)
    rng = np.random.default_rng(seed)
    bounds = np.repeat([len(a), len(b)], [len(a), len(b)])
    chunk = max(1, MAX_CHUNK // len(bounds))
    resampled = []
    for done in range(0, n_bootstrap, chunk):
        i = rng.integers(bounds, size=(min(chunk, n_bootstrap - done), len(bounds)))
        resampled += list(a[i[:, : len(a)]].mean(-1) - b[i[:, len(a) :]].mean(-1))
    lo, hi = (float(q) for q in np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2]))
    return Estimate(value=float(a.mean() - b.mean()), lo=lo, hi=hi, n=min(len(a), len(b)), method=method)


def permutation_p(x: ArrayLike, y: ArrayLike, *, n_permutations: int = 1000, seed: int) -> float:
    """Share of shuffles of x over items whose rank correlation with y is at least as far from 0 as the real one.

    The shuffled-difficulty null. (k + 1) / (n_permutations + 1), two-sided.
    """
    a, b = (rankdata(v) for v in _columns(3, x=x, y=y))
    rng = np.random.default_rng(seed)
    shuffled = np.array([_correlate(rng.permutation(a), b) for _ in range(n_permutations)])
    # Rounding must not make the identity shuffle smaller than the real value.
    n_as_far = int((np.abs(shuffled) >= abs(_correlate(a, b)) - 1e-12).sum())
    return (n_as_far + 1) / (n_permutations + 1)


def over_seeds(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of an effect over independent runs, with Student's t interval: what holds beyond these seeds.

    Args:
        values: `[n_seeds]`, the effect in each seed; a NaN (undefined in a seed) makes the mean undefined.
        confidence: of the interval; one seed has none (NaN).
    """
    v = np.asarray(values, dtype=np.float64)
    method = f"mean over {len(v)} seeds, {confidence:.0%} Student's t interval"
    if len(v) < 2 or not np.isfinite(v).all():
        mean = float(v.mean()) if len(v) else float("nan")
        return Estimate(value=mean, lo=float("nan"), hi=float("nan"), n=len(v), method=method)
    half = float(student_t.isf((1 - confidence) / 2, len(v) - 1)) * float(v.std(ddof=1)) / sqrt(len(v))
    return Estimate(
        value=float(v.mean()), lo=float(v.mean()) - half, hi=float(v.mean()) + half, n=len(v), method=method
    )


def mixed_model(
    y: ArrayLike, effects: Mapping[str, ArrayLike], groups: ArrayLike, *, confidence: float = 0.95
) -> dict[str, Estimate]:
    """Linear mixed model: y = a + sum of effects + an intercept of each group + noise, by restricted maximum likelihood.

    The ratio of the variance between groups to the noise is found by a bounded search over its logarithm; at each ratio the
    rest has a closed form. Intervals are Wald's (normal), with groups as what is sampled.

    Args:
        y: `[n]`.
        effects: name -> `[n]`, fixed effects.
        groups: `[n]`, which group an item belongs to.
        confidence: of the intervals.

    Returns:
        Name -> slope, in the unit of y over that of the effect.

    Raises:
        ValueError: effects that determine each other, or fewer than two groups.
    """
    target, *columns = _columns(len(effects) + 3, y=y, **effects)
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} group of items; a mixed model needs at least two")
    x = np.stack([np.ones_like(target), *columns], -1)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"effects {', '.join(effects)} determine each other (or one is constant); leave one out")
    sizes = np.bincount(group)
    sums_x = np.stack([np.bincount(group, weights=column) for column in x.T], -1)
    sums_y = np.bincount(group, weights=target)
    n_free = len(target) - x.shape[1]

    def fit(log_ratio: float) -> tuple[float, np.ndarray, np.ndarray]:
        ratio = np.exp(log_ratio)
        shrink = ratio / (1 + ratio * sizes)
        gram = x.T @ x - sums_x.T @ (shrink[:, None] * sums_x)
        moment = x.T @ target - sums_x.T @ (shrink * sums_y)
        beta = np.linalg.solve(gram, moment)
        noise = (target @ target - sums_y @ (shrink * sums_y) - beta @ moment) / n_free
        noise = max(float(noise), 1e-300)
        minus_log_likelihood = n_free * np.log(noise) + np.log1p(ratio * sizes).sum() + np.linalg.slogdet(gram)[1]
        return float(minus_log_likelihood), beta, noise * np.linalg.inv(gram)

    best = minimize_scalar(lambda log_ratio: fit(log_ratio)[0], bounds=(-12.0, 12.0), method="bounded")
    _, beta, covariance = fit(float(best.x))  # pyright: ignore[reportAttributeAccessIssue]
    half = float(norm.isf((1 - confidence) / 2)) * np.sqrt(np.diag(covariance))
    method = f"mixed model, intercepts of {len(labels)} groups, REML, {confidence:.0%} Wald interval"
    return {
        name: Estimate(value=float(b), lo=float(b - h), hi=float(b + h), n=len(target), method=method)
        for name, b, h in zip(effects, beta[1:], half[1:], strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class SignTest:
    """How many of several independent runs (seeds) show an effect of one sign."""

    n_positive: int
    n_negative: int
    n: int
    p: float
    """Two-sided exact binomial probability of so uneven a split of the runs that are not zero."""


def sign_test(values: ArrayLike) -> SignTest:
    """Sign test over seeds; values of exactly zero count for neither side. `[n_seeds] -> SignTest`."""
    (v,) = _columns(1, values=values)
    n_positive, n_negative = int((v > 0).sum()), int((v < 0).sum())
    n_signed = n_positive + n_negative
    p = float(binomtest(n_positive, n_signed).pvalue) if n_signed else 1.0
    return SignTest(n_positive=n_positive, n_negative=n_negative, n=len(v), p=p)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What must be seen for a claim to hold; written down before the data.

    Supported: the estimate has the expected sign, its interval excludes 0, it is at least `margin`, and at least
    `n_agreeing` seeds have that sign. Not supported: the interval excludes every effect of `margin` or more in the
    expected direction, or at least `n_agreeing` seeds have the other sign. Undecided: anything else.

    Where no effect is expected (`none`), supported: the interval lies within +-`margin`. Not supported: the interval lies outside
    of +-`margin`. Undecided: anything else; seeds are not asked for.
    """

    claim: str
    expected: Literal["positive", "negative", "none"]
    margin: float
    """Smallest effect of interest, in the unit of the estimate, positive. Without one, no data could say no."""
    n_agreeing: int | None = None
    """Of the seeds; None: seeds are not asked for."""

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"margin={self.margin} of claim {self.claim!r} must be positive")
        if self.n_agreeing is not None and self.n_agreeing < 1:
            raise ValueError(f"n_agreeing={self.n_agreeing} of claim {self.claim!r} must be at least 1, or None")
        if self.expected == "none" and self.n_agreeing is not None:
            raise ValueError(f"claim {self.claim!r} expects no effect, which has no sign for seeds to agree on")

    def describe(self) -> str:
        """The criterion in words."""
        if self.expected == "none":
            return f"interval within +-{self.margin:g}"
        seeds = "" if self.n_agreeing is None else f", the same sign in at least {self.n_agreeing} seeds"
        return f"{self.expected}, interval without 0, size at least {self.margin:g}{seeds}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One row of a verdict table: claim -> criterion -> number with interval -> word."""

    claim: str
    criterion: str
    estimate: Estimate
    seeds: SignTest | None
    verdict: Word
    reason: str


def decide(criterion: Criterion, estimate: Estimate, per_seed: ArrayLike | None = None) -> Verdict:
    """Applies a criterion.

    Args:
        criterion: fixed beforehand.
        estimate: over items, or over seeds.
        per_seed: `[n_seeds]`, the effect in each seed; needed where the criterion asks for seeds. With a NaN, which makes the
            estimate undefined too, no signs are counted.

    Raises:
        ValueError: the criterion asks for seeds and none are given.
    """
    if criterion.n_agreeing is not None and per_seed is None:
        raise ValueError(f"claim {criterion.claim!r} asks for {criterion.n_agreeing} agreeing seeds; give per_seed")
    defined = per_seed is not None and bool(np.isfinite(np.asarray(per_seed, dtype=np.float64)).all())
    seeds = sign_test(per_seed) if per_seed is not None and defined else None
    word, reason = _judge(criterion, estimate, seeds)
    return Verdict(
        claim=criterion.claim,
        criterion=criterion.describe(),
        estimate=estimate,
        seeds=seeds,
        verdict=word,
        reason=reason,
    )


def _judge(criterion: Criterion, estimate: Estimate, seeds: SignTest | None) -> tuple[Word, str]:
    if criterion.expected == "none":
        return _judge_none(criterion.margin, estimate)
    sign = 1 if criterion.expected == "positive" else -1
    value, lo, hi = sign * estimate.value, *sorted((sign * estimate.lo, sign * estimate.hi))
    if not np.isfinite([value, lo, hi]).all():
        return "undecided", "the estimate is not defined on these data"
    if hi < criterion.margin:
        return "not supported", f"the interval excludes a {criterion.expected} effect of {criterion.margin:g} or more"
    seen = ""
    if criterion.n_agreeing is not None:
        assert seeds is not None
        agree, against = (seeds.n_positive, seeds.n_negative)[::sign]
        if against >= criterion.n_agreeing:
            return "not supported", f"{against} of {seeds.n} seeds have the other sign"
        if agree < criterion.n_agreeing:
            return "undecided", f"{agree} of {seeds.n} seeds have the expected sign, {criterion.n_agreeing} are needed"
        seen = f", the expected sign in {agree} of {seeds.n} seeds"
    if lo <= 0:
        return "undecided", "the interval includes 0"
    if value < criterion.margin:
        return "undecided", f"the effect is smaller than {criterion.margin:g}, but the interval reaches it"
    return "supported", f"the interval excludes 0 and the size is at least {criterion.margin:g}{seen}"


def _judge_none(margin: float, estimate: Estimate) -> tuple[Word, str]:
    if not np.isfinite([estimate.value, estimate.lo, estimate.hi]).all():
        return "undecided", "the estimate is not defined on these data"
    lo, hi = sorted((estimate.lo, estimate.hi))
    if -margin < lo and hi < margin:
        return "supported", f"the interval lies within +-{margin:g}"
    if hi <= -margin or lo >= margin:
        return "not supported", f"the interval lies outside of +-{margin:g}"
    return "undecided", f"the interval reaches across {margin:g} or -{margin:g}"
