"""Response surfaces: how items are answered as a function of the number of active channels, and what follows from them.

The functions here turn responses into best numbers of channels and their differences. Which of the numbers decides what is up to
the study.
"""

import numpy as np

from sparsetrain.stats.intervals import Floats, percentiles
from sparsetrain.stats.number import Number, number

TIE = 1e-9


def level_grid(width: int, per_octave: int) -> Floats:
    """Numbers of channels from 1 to width, `per_octave` to a factor of two, each once."""
    n = round(per_octave * np.log2(width)) + 1
    return np.array(sorted({*(round(float(k)) for k in np.geomspace(1, width, n)), width}), dtype=np.float64)


def best_level(outcome: Floats, log2_levels: Floats) -> Floats:
    """log2 of the level at which an outcome is largest; levels that tie count equally.

    Args:
        outcome: `[n_levels, ...]`, more is better.
        log2_levels: `[n_levels]`.
    """
    best = outcome >= outcome.max(0) - TIE
    weights = log2_levels.reshape(-1, *[1] * (outcome.ndim - 1))
    return (best * weights).sum(0) / best.sum(0)


def enough_level(means: Floats, log2_levels: Floats, *, share: float) -> float:
    """log2 of the smallest level from which on, up to the best one, a mean outcome `[n_levels]` is at least `share` of its best."""
    short = np.flatnonzero(means[: means.argmax()] < share * means.max())
    return float(log2_levels[short[-1] + 1 if len(short) else 0])


def resampled_best(
    outcome: Floats, log2_levels: Floats, *, n_items: int, n_bootstrap: int, rng: np.random.Generator
) -> Floats:
    """The best level of the mean over items, in each of `n_bootstrap` resamples of `n_items` items.

    Both sides of a comparison are given the same `n_items`, since the maximum of a noisier mean lies elsewhere.

    Args:
        outcome: `[n_levels, n]` per item, more is better.

    Returns:
        log2 levels, `[n_bootstrap]`.
    """
    counts = rng.multinomial(n_items, np.full(outcome.shape[1], 1 / outcome.shape[1]), size=n_bootstrap)
    return best_level(outcome @ counts.T / n_items, log2_levels)


def gains_of_own_best(shifted: Floats, reference: Floats, *, n_splits: int, rng: np.random.Generator) -> Floats:
    """How much better each shifted item is answered at the best level of shifted items than at that of the reference, chosen on other items.

    Args:
        shifted: `[n_levels, n]` per item, more is better, the same levels.
        reference: likewise, of the input that is compared with.
        n_splits: random halvings over which the result is averaged.

    Returns:
        `[n]` per shifted item; their mean is the gain.
    """
    n = shifted.shape[1]
    gains = np.zeros(n)
    for _ in range(n_splits):
        order = rng.permutation(n)
        chosen, tested = np.array_split(order, 2)
        other = rng.permutation(reference.shape[1])[: max(1, len(chosen))]
        own, foreign = (_densest_best(x.mean(1)) for x in (shifted[:, chosen], reference[:, other]))
        gains[tested] += (shifted[own, tested] - shifted[foreign, tested]) * n / len(tested)
    return gains / n_splits


def _densest_best(means: Floats) -> int:
    return int(np.flatnonzero(means >= means.max() - TIE)[-1])


def of_resamples(resampled: Floats, unit: str) -> Number:
    """The mean of bootstrap resamples with their 95% interval."""
    lo, hi = percentiles(resampled)
    return number(resampled.mean(), unit, lo=lo, hi=hi, n=len(resampled))
