"""Slopes where items come in groups: a linear mixed model."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import (  # pyright: ignore[reportMissingTypeStubs]
    minimize_scalar,  # pyright: ignore[reportUnknownVariableType]
)
from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]

from sparsetrain.stats.intervals import Estimate, Floats, columns, percent


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
    target, *regressors = columns(len(effects) + 3, y=y, **effects)
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(labels) < 2:
        raise ValueError(f"{len(labels)} group of items; a mixed model needs at least two")
    x = np.stack([np.ones_like(target), *regressors], -1)
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"effects {', '.join(effects)} determine each other (or one is constant); leave one out")
    sizes = np.bincount(group)
    sums_x = np.stack([np.bincount(group, weights=column) for column in x.T], -1)
    sums_y = np.bincount(group, weights=target)
    n_free = len(target) - x.shape[1]

    def fit(log_ratio: float) -> tuple[float, Floats, Floats]:
        ratio = np.exp(log_ratio)
        shrink = ratio / (1 + ratio * sizes)
        gram = x.T @ x - sums_x.T @ (shrink[:, None] * sums_x)
        moment = x.T @ target - sums_x.T @ (shrink * sums_y)
        beta = np.asarray(np.linalg.solve(gram, moment), dtype=np.float64)
        noise = max(float((target @ target - sums_y @ (shrink * sums_y) - beta @ moment) / n_free), 1e-300)
        likelihood = n_free * np.log(noise) + np.log1p(ratio * sizes).sum() + np.linalg.slogdet(gram)[1]
        return float(likelihood), beta, noise * np.asarray(np.linalg.inv(gram), dtype=np.float64)

    def minus_log_likelihood(log_ratio: float) -> float:
        return fit(log_ratio)[0]

    best = cast(Any, minimize_scalar(minus_log_likelihood, bounds=(-12.0, 12.0), method="bounded"))
    _, beta, covariance = fit(float(best.x))
    half = -float(ndtri((1 - confidence) / 2)) * np.sqrt(np.diag(covariance))
    method = f"mixed model, intercepts of {len(labels)} groups, REML, {percent(confidence)} Wald interval"
    return {
        name: Estimate(value=float(b), lo=float(b - h), hi=float(b + h), n=len(target), method=method)
        for name, b, h in zip(effects, beta[1:], half[1:], strict=True)
    }
