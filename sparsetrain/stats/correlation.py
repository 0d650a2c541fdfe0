"""Rank correlation of two quantities over items, plain and given covariates, and the null of shuffled items."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from sparsetrain.stats.intervals import Estimate, Floats, Ints, columns, estimate


def _ranks(v: Floats) -> Callable[[Ints], Floats]:
    """Ranks within resamples of items, ties at their mean rank: `indices [b, n] -> [b, n]`.

    The same numbers as sorting each resample; counting how often each value was drawn is several times faster.
    """
    values, place = np.unique(v, return_inverse=True)

    def ranks(i: Ints) -> Floats:
        at = place[i]
        row = len(values) * np.arange(len(i))[:, None]
        drawn = np.bincount((at + row).ravel(), minlength=len(i) * len(values)).reshape(len(i), -1)
        return np.take_along_axis(drawn.cumsum(1) - (drawn - 1) / 2, at, 1)

    return ranks


def mean_ranks(v: Floats) -> Floats:
    """Ranks from 1 on, ties at their mean rank. `[n] -> [n]`"""
    return _ranks(v)(np.arange(len(v))[None])[0]


def _correlate(x: Floats, y: Floats) -> Floats:
    """Pearson correlation along the last axis, NaN where one side is constant: `[..., n]`, `[..., n]` -> `[...]`."""
    x, y = (a - a.mean(-1, keepdims=True) for a in (x, y))
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, np.nan)


def _residual(y: Floats, covariates: Floats) -> Floats:
    """What least squares on the covariates (and a constant) leaves of y: `[..., n]`, `[..., n, c]` -> `[..., n]`.

    Exactly zero where the covariates determine y up to rounding, so that a correlation with it is undefined.
    """
    y = y - y.mean(-1, keepdims=True)
    c = covariates - covariates.mean(-2, keepdims=True)
    gram = np.swapaxes(c, -1, -2) @ c
    inverse = np.asarray(np.linalg.pinv(gram, hermitian=True), dtype=np.float64)
    weights = inverse @ (np.swapaxes(c, -1, -2) @ y[..., None])
    left = y - (c @ weights)[..., 0]
    explained = (left * left).sum(-1, keepdims=True) <= 1e-12 * (y * y).sum(-1, keepdims=True)
    return np.where(explained, 0.0, left)


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    given: Sequence[ArrayLike] = (),
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """Rank correlation of two quantities over items, ties at their mean rank.

    Given covariates it is partial: the correlation of what the covariates' ranks leave of the ranks of x and y.

    Args:
        x: `[n]`, for instance a shift's level, one item per window. `[n_rows, m]`: the m items of a row belong together (one text at every
            level), and rows are resampled.
        y: likewise, for instance a measure.
        given: covariates, each of the same shape; at least 3 + their number of items. An indicator (0/1) works as one.
        n_bootstrap: resamples for the interval.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        Correlation in [-1, 1]; NaN where one side is constant, or determined by the covariates, as no data can then tell.
    """
    shape = np.shape(x)
    if any(np.shape(other) != shape for other in (y, *given)) and len(shape) > 1:
        raise ValueError(
            f"x is {list(shape)}, others are {[list(np.shape(other)) for other in (y, *given)]}; give one value per item"
        )
    n_rows, m = shape[0] if shape else 0, int(np.prod(shape[1:]))
    named = {f"covariate_{i}": np.ravel(covariate) for i, covariate in enumerate(given)}
    ranks_of = [_ranks(v) for v in columns(3 + len(given), x=np.ravel(x), y=np.ravel(y), **named)]

    def statistic(rows: Ints) -> Floats:
        i = (rows[..., None] * m + np.arange(m)).reshape(len(rows), -1)
        rank_x, rank_y, *rank_c = (ranks(i) for ranks in ranks_of)
        if not rank_c:
            return _correlate(rank_x, rank_y)
        c = np.stack(rank_c, -1)
        return _correlate(_residual(rank_x, c), _residual(rank_y, c))

    what = f"partial Spearman over items given {len(given)} covariates" if given else "Spearman over items"
    what = f"{what}, rows of {m} items" if len(shape) > 1 else what
    return estimate(what, statistic, n_rows, n_bootstrap=n_bootstrap, confidence=confidence, seed=seed)


def permutation_p(x: ArrayLike, y: ArrayLike, *, n_permutations: int = 1000, seed: int) -> float:
    """Share of shuffles of x over items whose rank correlation with y is at least as far from 0 as the real one.

    The shuffled-difficulty null. (k + 1) / (n_permutations + 1), two-sided.
    """
    a, b = map(mean_ranks, columns(3, x=x, y=y))
    generator = np.random.default_rng(seed)
    shuffled = np.array(
        [_correlate(np.asarray(generator.permutation(a), dtype=np.float64), b) for _ in range(n_permutations)]
    )
    # Rounding must not make the identity shuffle smaller than the real value.
    n_as_far = int((np.abs(shuffled) >= abs(_correlate(a, b)) - 1e-12).sum())
    return (n_as_far + 1) / (n_permutations + 1)
