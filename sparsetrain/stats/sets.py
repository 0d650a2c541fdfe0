"""Overlap of sets of ids."""

from collections.abc import Iterable, Sequence, Set
from math import comb

import numpy as np

from sparsetrain.stats.intervals import TAIL, Floats


def jaccard(sets: Sequence[Set[str]]) -> float | None:
    """Mean over pairs of sets of |a & b| / |a | b|; None for fewer than two sets, 1 for two empty ones."""
    ratios = [len(a & b) / len(a | b) if a | b else 1.0 for i, a in enumerate(sets) for b in sets[:i]]
    return sum(ratios) / len(ratios) if ratios else None


def shared_at_random(groups: Iterable[tuple[int, int, int]]) -> Floats:
    """How many members two random sets share, drawn within groups: a sum of independent hypergeometric numbers.

    Args:
        groups: (members of the one set, members of the other, size of the group), e.g. of each hook point.

    Returns:
        Probability of sharing k, k = 0, 1, ...
    """
    found = np.ones(1)
    for a, b, size in groups:
        ways = comb(size, b)
        found = np.convolve(found, [comb(a, k) * comb(size - a, b - k) / ways for k in range(min(a, b) + 1)])
    return found


def central_range(probability: Floats, tail: float = TAIL) -> tuple[int, int]:
    """Smallest and largest k that leave at most `tail` of a distribution over 0, 1, ... beyond them."""
    below = np.cumsum(probability)
    return int(np.searchsorted(below, tail)), int(np.searchsorted(below, 1 - tail))
