"""Symmetries of square pictures, as groups of permutations of their pixels."""

import numpy as np
from numpy.typing import NDArray

GROUPS = ("none", "left-right", "two mirrors", "square")
"""How many elements: 1, 2 (x -> -x), 4 (with y -> -y) and 8 (with x <-> y)."""


def images(group: str, size: int) -> NDArray[np.int64]:
    """For each element g of a group the number of the pixel g x, `[n_elements, size * size]`; pixels row by row, the identity first.

    Raises:
        ValueError: a name that is not in `GROUPS`.
    """
    if group not in GROUPS:
        raise ValueError(f"symmetry {group!r}: expected one of {', '.join(GROUPS)}")
    found = [np.arange(size * size).reshape(size, size)]
    if group != "none":
        found += [grid[:, ::-1] for grid in found]
    if group in ("two mirrors", "square"):
        found += [grid[::-1] for grid in found]
    if group == "square":
        found += [grid.T for grid in found]
    return np.stack([grid.ravel() for grid in found])
