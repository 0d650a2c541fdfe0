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


def check_levels(n: int, n_levels: int) -> None:
    """Whether every level has one of n examples.

    Raises:
        ValueError: fewer examples than levels.
    """
    if n < n_levels:
        raise ValueError(f"n_levels={n_levels}, but the pool has {n} examples; lower it or give a larger pool")


def levels_of(scores: ArrayLike, n_levels: int) -> Ints:
    """Levels of equal size, 0 the lowest scores: floor(rank n_levels / n). `[n] -> [n]`

    Raises:
        ValueError: fewer scores than levels.
    """
    place = ranks(scores)
    check_levels(len(place), n_levels)
    return place * n_levels // len(place)


def rank_in(score: float, scores: ArrayLike) -> float:
    """The rank that a score would have among them, 0 to n: how many are lower, and half of those that are equal to it."""
    values = np.asarray(scores, dtype=np.float64)
    return float((values < score).sum() + (values == score).sum() / 2)


def level_in(score: float, scores: ArrayLike, n_levels: int) -> int:
    """The level of a score from elsewhere; one below all of them is in level 0, one above all of them in the last."""
    values = np.asarray(scores, dtype=np.float64)
    return min(n_levels - 1, int((values < score).sum()) * n_levels // len(values))
