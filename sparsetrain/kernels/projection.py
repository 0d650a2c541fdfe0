"""Weight projection: a tensor keeps exactly its k entries of largest magnitude, in place, with an optional floor.

With a floor of j on the rows (or columns), first the j largest entries of every row are kept, then the largest of the
rest until k entries are kept in all: the floor is inside the budget. Ties go to the lowest index (inside a row for the
floor, in flat order for the rest). NaN counts as the largest magnitude. Projecting twice changes nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsetrain.kernels import native, sharded, triton_kernels
from sparsetrain.kernels.budget import FloorAxis, ProjectionSpec, check_budget
from sparsetrain.kernels.magnitude import largest_mask, magnitude_keys

STATE_SIZE = 2
"""Integers of warm-start state per tensor: the last threshold's magnitude bits, and how far around it to look."""
STATE_BYTES = 4 * STATE_SIZE


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
        weights: contiguous tensors on one device, `[rows, columns]` where there is a floor. Tensors whose rows are spread
            over ranks (`DTensor`s, all of them or none) are projected as wholes; then every rank must call.
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
    if not torch.compiler.is_compiling() and any(map(sharded.is_sharded, weights)):
        _project_shards_(weights, specs, thresholds)
    elif not torch.compiler.is_compiling() and _native_can_run(weights):
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


def _project_shards_(weights: Sequence[Tensor], specs: Sequence[ProjectionSpec], thresholds: Tensor) -> None:
    ranks, shapes = sharded.ranks_of(weights), [w.shape for w in weights]
    parts = [sharded.local_part(w) for w in weights]
    if _triton_can_run(parts, [spec.floor for spec in specs]):
        triton_kernels.project_shards_(parts, shapes, specs, thresholds, ranks)
        return
    for part, kept in zip(parts, sharded.kept_masks(parts, shapes, specs, ranks), strict=True):
        part.masked_fill_(~kept, 0)


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
