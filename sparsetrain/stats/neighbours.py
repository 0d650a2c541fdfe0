"""Items beside others of like size in a quantity that explains too much: what is left of a difference among equals."""

import numpy as np
from numpy.typing import ArrayLike

from sparsetrain.stats.intervals import MAX_CHUNK, Estimate, Floats, columns, percent, percentiles


def minus_neighbours(
    x: ArrayLike,
    y: ArrayLike,
    pool_x: ArrayLike,
    pool_y: ArrayLike,
    *,
    bandwidth: float,
    n_neighbours: float = 5.0,
    n_min: int = 30,
    n_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int,
) -> Estimate:
    """Mean of y minus what items of a pool that are alike in x have: mean over i of y_i - sum_j w_ij pool_y_j / sum_j w_ij.

    w_ij = exp(-((x_i - pool_x_j) / bandwidth)^2 / 2). An item whose weights sum to less than `n_neighbours` has no like in the pool and
    is left out. Both the rows and the pool are resampled.

    Args:
        x: `[n_rows, m]`, for instance loss of shifted texts, m levels of each; a row counts with the mean of its items that are left.
        y: `[n_rows, m]`, for instance their sparsity.
        pool_x: `[n_pool]`, the same of natural texts.
        pool_y: `[n_pool]`, likewise.
        bandwidth: in the unit of x.
        n_neighbours: see above.
        n_min: rows that must be left; with fewer the estimate is not defined.
        n_bootstrap: resamples for the interval.
        confidence: of the interval.
        seed: of the resamples.

    Returns:
        In the unit of y; n is the number of rows that are left.

    Source: kernel regression, Nadaraya 1964; Watson 1964.
    """
    shape = np.shape(x)
    (flat_x, flat_y), (pool_x, pool_y) = (
        columns(1, x=np.ravel(x), y=np.ravel(y)),
        columns(1, pool_x=pool_x, pool_y=pool_y),
    )
    weights = np.exp(-(((flat_x[:, None] - pool_x) / bandwidth) ** 2) / 2)
    alike = (weights.sum(1) >= n_neighbours).reshape(shape)
    kept, n = alike.any(1), int(alike.any(1).sum())
    method = (
        f"mean difference to items of a pool of {len(pool_x)} alike in x (Gaussian weights, bandwidth {bandwidth:g}; {int((~alike).sum())} of "
        f"{alike.size} items have none), {percent(confidence)} percentile bootstrap over rows and pool ({n_bootstrap} resamples, seed {seed})"
    )
    if n < n_min:
        return Estimate(value=float("nan"), lo=float("nan"), hi=float("nan"), n=n, method=method)
    share = (alike / np.maximum(alike.sum(1, keepdims=True), 1))[kept]

    def left(of_pool: Floats) -> Floats:
        """Resampled pools `[b, n_pool]` -> what is left of every row, `[n, b]`."""
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = (weights @ (of_pool * pool_y).T) / (weights @ of_pool.T)
        difference = np.where(alike.reshape(-1, 1), flat_y[:, None] - expected, 0.0).reshape(*shape, -1)[kept]
        return (share[..., None] * difference).sum(1)

    rng = np.random.default_rng(seed)
    chunk = max(1, 64 * MAX_CHUNK // weights.size)
    resampled = [
        (
            rng.multinomial(n, np.full(n, 1 / n), size=b).T
            * left(rng.multinomial(len(pool_x), np.full(len(pool_x), 1 / len(pool_x)), size=b).astype(np.float64))
        ).sum(0)
        / n
        for done in range(0, n_bootstrap, chunk)
        for b in [min(chunk, n_bootstrap - done)]
    ]
    lo, hi = percentiles(np.concatenate(resampled), (1 - confidence) / 2)
    value = float(left(np.ones((1, len(pool_x)))).mean())
    return Estimate(value=value, lo=float(lo), hi=float(hi), n=n, method=method)
