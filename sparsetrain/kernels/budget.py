"""What a weight projection may keep of one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

FloorAxis = Literal["rows", "columns"]


@dataclass(frozen=True, kw_only=True)
class ProjectionSpec:
    """What one tensor keeps."""

    k: int
    """Entries kept, exactly."""
    floor: int = 0
    """Entries that every row (or column) keeps at least, inside k."""
    floor_axis: FloorAxis | None = None

    def __post_init__(self) -> None:
        if self.floor_axis not in ("rows", "columns", None):
            raise ValueError(f"floor_axis={self.floor_axis!r} is unknown; allowed: rows, columns, None")
        if self.k < 0 or self.floor < 0:
            raise ValueError(f"k={self.k} and floor={self.floor} must not be negative")
        if self.floor and self.floor_axis is None:
            raise ValueError(f"floor={self.floor} needs floor_axis=rows or columns")


def check_budget(name: str, shape: Sequence[int], spec: ProjectionSpec) -> None:
    """Refuses a budget that cannot hold; call it before training.

    Raises:
        ValueError: naming the tensor and the smallest feasible density.
    """
    k, floor, axis = spec.k, spec.floor, spec.floor_axis
    n_entries = prod(shape)
    if k > n_entries:
        raise ValueError(f"{name}: k={k} of {n_entries} entries; the density must not exceed 1")
    if not floor:
        return
    if len(shape) != 2:
        raise ValueError(
            f"{name}: a floor needs a matrix, but the shape is {tuple(shape)}; set floor=0 for this tensor"
        )
    n_lines, length = (shape[0], shape[1]) if axis == "rows" else (shape[1], shape[0])
    if floor > length:
        raise ValueError(f"{name}: floor={floor} on {axis} of {length} entries; the floor must not exceed {length}")
    if k < floor * n_lines:
        raise ValueError(
            f"{name}: k={k} of {n_entries} entries (density {k / n_entries:.4g}) is too few for floor={floor} on "
            f"{n_lines} {axis}; smallest feasible density {floor / length:.4g}; raise the density or lower the floor"
        )
