"""Items beside others of like size in a quantity that explains too much: what is left of a difference among equals."""

import numpy as np
from numpy.typing import ArrayLike

from sparsetrain.stats.intervals import Estimate, columns, percentiles


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
    is left out. Both the items and the pool are resampled.

    Args:
        x, y: `[n]`, for instance loss and sparsity of shifted texts.
        pool_x, pool_y: `[m]`, the same of natural texts.
        bandwidth: in the unit of x.
        n_neighbours: see above.
        n_min: items that must be left; with fewer the estimate is not defined.
        n_bootstrap, confidence, seed: of the interval.

    Returns:
        In the unit of y; n is the number of items that are left.

    Source: kernel regression, Nadaraya 1964; Watson 1964.
    """
    (x, y), (pool_x, pool_y) = columns(1, x=x, y=y), columns(1, pool_x=pool_x, pool_y=pool_y)
    weights = np.exp(-(((x[:, None] - pool_x) / bandwidth) ** 2) / 2)
    alike = weights.sum(1) >= n_neighbours
    weights, y, n = weights[alike], y[alike], int(alike.sum())
    method = (
        f"mean difference to items of a pool of {len(pool_x)} alike in x (Gaussian weights, bandwidth {bandwidth:g}; {len(x) - n} items have none), "
        f"{confidence:.4g} percentile bootstrap over items and pool ({n_bootstrap} resamples, seed {seed})"
    )
    if n < n_min:
        return Estimate(value=float("nan"), lo=float("nan"), hi=float("nan"), n=n, method=method)
    rng = np.random.default_rng(seed)
    of_pool = rng.multinomial(len(pool_x), np.full(len(pool_x), 1 / len(pool_x)), size=n_bootstrap)
    of_items = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap)
    known = weights @ of_pool.T
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (weights @ (of_pool * pool_y).T) / known
    resampled = (of_items * (y[:, None] - expected).T).sum(1) / n
    lo, hi = percentiles(resampled, (1 - confidence) / 2)
    value = float((y - weights @ pool_y / weights.sum(1)).mean())
    return Estimate(value=value, lo=float(lo), hi=float(hi), n=n, method=method)
