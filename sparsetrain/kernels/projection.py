"""Weight projection: a tensor keeps exactly its k entries of largest magnitude, in place, with an optional floor.

With a floor of j on the rows (or columns), first the j largest entries of every row are kept, then the largest of the
rest until k entries are kept in all: the floor is inside the budget. Ties go to the lowest index (inside a row for the
floor, in flat order for the rest). NaN counts as the largest magnitude. Projecting twice changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from sparsetrain.kernels import native, triton_kernels
from sparsetrain.kernels.magnitude import largest_mask, magnitude_keys

FloorAxis = Literal["rows", "columns"]
STATE_SIZE = 2
"""Integers of warm-start state per tensor: the last threshold's magnitude bits, and how far around it to look."""
STATE_BYTES = 4 * STATE_SIZE


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


def warm_start_state(n_tensors: int = 1, device: torch.device | str = "cpu") -> Tensor:
    """Cold state for `project_each_topk_`: int32 zeros `[n_tensors, 2]`. Only the time taken depends on it."""
    return torch.zeros(n_tensors, STATE_SIZE, dtype=torch.int32, device=device)


def project_topk_(
    weight: Tensor,
    k: int,
    *,
    floor: int = 0,
    floor_axis: FloorAxis | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    """Keeps, in place, exactly the k entries of largest magnitude of `weight`; see `project_each_topk_`.

    Args:
        weight: any shape; a matrix if there is a floor.
        k: entries kept.
        floor: entries that each row (or column) keeps at least.
        floor_axis: which lines the floor protects.
        threshold: one tensor's state from `warm_start_state()`, read and updated; None starts cold.

    Returns:
        `weight`.
    """
    state = None if threshold is None else threshold.reshape(1, STATE_SIZE)
    project_each_topk_([weight], [ProjectionSpec(k=k, floor=floor, floor_axis=floor_axis)], state)
    return weight


def project_each_topk_(
    weights: Sequence[Tensor], specs: Sequence[ProjectionSpec], thresholds: Tensor | None = None
) -> None:
    """Projects all tensors of a step in place, as one operator.

    Args:
        weights: contiguous tensors on one device, `[rows, columns]` where there is a floor.
        specs: one for each tensor.
        thresholds: int32 `[n_tensors, 2]` from `warm_start_state`, read and updated in place: the search starts at
            the last step's threshold. It never changes the result. None starts cold.

    Raises:
        ValueError: a budget that cannot hold (`check_budget`), or a tensor that is not contiguous.
    """
    for i, (weight, spec) in enumerate(zip(weights, specs, strict=True)):
        if spec.floor or spec.k > weight.numel():
            check_budget(f"weight {i}", weight.shape, spec)
        if not weight.is_contiguous():
            raise ValueError(f"weight {i} of shape {tuple(weight.shape)} is not contiguous; project its base tensor")
    if not weights:
        return
    if thresholds is None:
        thresholds = warm_start_state(len(weights), weights[0].device)
    if not torch.compiler.is_compiling() and _native_can_run(weights):
        # Straight to the kernels: the dispatcher costs as much as the projection of a small tensor.
        state = thresholds.data_ptr()
        for i, (weight, spec) in enumerate(zip(weights, specs, strict=True)):
            native.project_(weight, spec.k, spec.floor, spec.floor_axis == "columns", state + i * STATE_BYTES)
    else:
        torch.ops.sparsetrain.project_topk_.default(
            [w.detach() for w in weights],
            [s.k for s in specs],
            [s.floor for s in specs],
            [int(s.floor_axis == "columns") for s in specs],
            thresholds,
        )
    torch.autograd.graph.increment_version(weights)  # native kernels write behind autograd's back


def kept_mask(weight: Tensor, spec: ProjectionSpec) -> Tensor:
    """Bool mask of what a projection keeps: its definition, by exact selection in plain torch."""
    keys = magnitude_keys(weight)
    if not spec.floor:
        return largest_mask(keys.flatten(), spec.k).view(weight.shape)
    by_line = keys if spec.floor_axis == "rows" else keys.T.contiguous()
    forced = largest_mask(by_line, spec.floor)
    if spec.floor_axis == "columns":
        forced = forced.T
    rest = torch.where(forced, -1, keys).flatten()
    n_forced = spec.floor * by_line.shape[0]
    return forced | largest_mask(rest, spec.k - n_forced).view(weight.shape)


def _native_can_run(weights: Sequence[Tensor]) -> bool:
    return all(w.is_cpu and w.dtype is torch.float32 for w in weights) and native.library() is not None


def _triton_can_run(weights: list[Tensor], floors: list[int]) -> bool:
    if any(w.device.type != "cuda" or w.dtype != torch.float32 for w in weights):
        return False
    longest = max((max(w.shape) for w, floor in zip(weights, floors, strict=True) if floor), default=0)
    return longest <= triton_kernels.MAX_WIDTH and triton_kernels.available()


def _project_topk_(
    weights: list[Tensor], ks: list[int], floors: list[int], by_column: list[int], thresholds: Tensor
) -> None:
    if _triton_can_run(weights, floors):
        triton_kernels.project_each_(weights, ks, floors, by_column, thresholds)
        return
    for i, (weight, k, floor, columns) in enumerate(zip(weights, ks, floors, by_column, strict=True)):
        if _native_can_run([weight]):
            native.project_(weight, k, floor, bool(columns), thresholds[i].data_ptr())
            continue
        spec = ProjectionSpec(k=k, floor=floor, floor_axis="columns" if columns else "rows")
        weight.masked_fill_(~kept_mask(weight, spec), 0)


torch.library.define(
    "sparsetrain::project_topk_",
    "(Tensor(a!)[] weights, int[] ks, int[] floors, int[] by_column, Tensor(b!) thresholds) -> ()",
)
torch.library.impl("sparsetrain::project_topk_", "default", _project_topk_)
