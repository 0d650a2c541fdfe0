"""Overlap of sets of ids."""

from collections.abc import Sequence, Set


def jaccard(sets: Sequence[Set[str]]) -> float | None:
    """Mean over pairs of sets of |a & b| / |a | b|; None for fewer than two sets, 1 for two empty ones."""
    ratios = [len(a & b) / len(a | b) if a | b else 1.0 for i, a in enumerate(sets) for b in sets[:i]]
    return sum(ratios) / len(ratios) if ratios else None
