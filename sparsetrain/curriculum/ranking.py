"""From scores to levels of difficulty: by rank alone, so that no scale matters and no score lies outside."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


def ranks(scores: ArrayLike) -> Ints:
    """Place of every score from the lowest, 0, to the highest; equal ones in their order. `[n] -> [n]`

    Raises:
        ValueError: a score that is not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} of {len(values)} scores are not finite; leave those examples out"
        )
    return values.argsort(kind="stable").argsort(kind="stable")


def levels_of(scores: ArrayLike, n_levels: int) -> Ints:
    """Levels of equal size, 0 the lowest scores: floor(rank n_levels / n). `[n] -> [n]`

    Raises:
        ValueError: fewer scores than levels.
    """
    place = ranks(scores)
    if len(place) < n_levels:
        raise ValueError(f"n_levels={n_levels}, but the pool has {len(place)} examples; lower it or give a larger pool")
    return place * n_levels // len(place)


def rank_in(score: float, scores: ArrayLike) -> int:
    """How many of the scores are lower: the rank that a score from elsewhere would have among them, 0 to n."""
    return int((np.asarray(scores, dtype=np.float64) < score).sum())


def level_in(score: float, scores: ArrayLike, n_levels: int) -> int:
    """The level of a score from elsewhere; one below all of them is in level 0, one above all of them in the last."""
    n = len(np.asarray(scores))
    return min(n_levels - 1, rank_in(score, scores) * n_levels // n)
