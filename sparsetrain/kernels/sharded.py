"""Weight projection of tensors whose rows are spread over ranks (FSDP2): what one device would keep, to the bit.

1. A floor on rows needs nobody else: a row is whole on its rank. For a floor on columns every rank sends the `floor` largest keys of its
   part of each column, and the largest of all of them are forced.
2. A histogram of the highest bits of the keys that are not forced, summed over ranks, gives the bin that holds the threshold; one of the
   next bits within that bin narrows it, until all bits are known: two rounds for 16 bits, three for 32, six for 64.
3. Ties at the threshold go to the lowest rank, then to the lowest index: flat order, since ranks hold consecutive rows.

What travels is counts and candidates, for all tensors of a step at once; never a weight. No word goes from the device to the host.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from sparsetrain.kernels.budget import ProjectionSpec
from sparsetrain.kernels.magnitude import largest_mask, magnitude_keys

BITS = 11
"""Bits of one histogram."""


@dataclass(frozen=True)
class Ranks:
    """The processes that share the rows of a tensor, in the order of its rows."""

    group: Any
    """Of torch.distributed."""

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    def sum_(self, counts: Tensor) -> Tensor:
        """Adds up a tensor over ranks, in place."""
        dist.all_reduce(counts, group=self.group)
        return counts

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's tensor of one shape, `[n_ranks, ...]`."""
        everyone = x.new_empty((dist.get_world_size(self.group), *x.shape))
        dist.all_gather(list(everyone.unbind()), x.contiguous(), group=self.group)
        return everyone

    def before(self, counts: Tensor) -> Tensor:
        """The sum over the ranks before this one."""
        return self.gather(counts)[: self.rank].sum(0)


def is_sharded(weight: Tensor) -> bool:
    """Whether a rank holds only a part of this tensor."""
    # A DTensor exists only where its module has been imported, which takes half a second.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(weight, module.DTensor)


def ranks_of(weights: Sequence[Tensor]) -> Ranks:
    """The ranks that share the rows of all these tensors.

    Raises:
        ValueError: a tensor that is cut in another way.
    """
    from torch.distributed.tensor import Replicate, Shard

    found = set()
    for weight in weights:
        placements = getattr(weight, "placements", ())
        axes = [axis for axis, placement in enumerate(placements) if not isinstance(placement, Replicate)]
        if len(axes) != 1 or placements[axes[0]] != Shard(0):
            raise ValueError(
                f"a tensor of shape {tuple(weight.shape)} is placed as {placements}; allowed: Shard(0) on one mesh axis"
            )
        found.add(weight.device_mesh.get_group(axes[0]))  # pyright: ignore[reportAttributeAccessIssue]
    if len(found) != 1:
        raise ValueError(f"the tensors of a step are spread over {len(found)} groups of ranks; allowed: one")
    return Ranks(found.pop())


def local_part(weight: Tensor) -> Tensor:
    """This rank's rows of a tensor: the same memory; the tensor itself where it is whole."""
    return weight.detach().to_local() if is_sharded(weight) else weight  # pyright: ignore[reportAttributeAccessIssue]


def whole_tensor(weight: Tensor) -> Tensor:
    """A tensor with the rows of all ranks, then every rank must call; the tensor itself where it is whole."""
    return weight.detach().full_tensor() if is_sharded(weight) else weight  # pyright: ignore[reportAttributeAccessIssue]


def count_nonzero(weight: Tensor) -> int:
    """Nonzeros of a tensor; of the whole one where its rows are spread over ranks, then every rank must call."""
    count = local_part(weight).count_nonzero()
    return int(ranks_of([weight]).sum_(count) if is_sharded(weight) else count)


def count_short_lines(weight: Tensor, axis: Literal["rows", "columns"], floor: int) -> int:
    """Lines of a matrix with fewer than `floor` nonzeros; of the whole one where its rows are spread over ranks, then every rank must call."""
    if not is_sharded(weight):
        return int((weight.count_nonzero(1 if axis == "rows" else 0) < floor).sum())
    local, ranks = weight.detach().to_local(), ranks_of([weight])  # pyright: ignore[reportAttributeAccessIssue]
    if axis == "rows":
        return int(ranks.sum_((local.count_nonzero(1) < floor).sum()))
    return int((ranks.sum_(local.count_nonzero(0)) < floor).sum())


def kept_masks(
    weights: Sequence[Tensor], shapes: Sequence[Sequence[int]], specs: Sequence[ProjectionSpec], ranks: Ranks
) -> list[Tensor]:
    """Bool masks of what a projection keeps of this rank's rows.

    Args:
        weights: this rank's rows of each tensor (there may be none), of one dtype, on one device.
        shapes: of the whole tensors.
        specs: what the whole tensors keep.
        ranks: in the order of the rows.
    """
    keys = [magnitude_keys(weight) for weight in weights]
    forced, n_forced = forced_masks(keys, shapes, specs, ranks)
    rest = [k.masked_fill(mask, -1) for k, mask in zip(keys, forced, strict=True)]
    n_rest = torch.tensor([spec.k - n for spec, n in zip(specs, n_forced, strict=True)], device=keys[0].device)
    lowest, n_tied = thresholds(rest, n_rest, ranks)
    n_tied = n_tied - ranks.before(torch.stack([(r == t).sum() for r, t in zip(rest, lowest, strict=True)]))
    return [
        mask | (r > t) | first_true((r == t).flatten(), n).view(r.shape)
        for mask, r, t, n in zip(forced, rest, lowest, n_tied, strict=True)
    ]


def forced_masks(
    keys: Sequence[Tensor], shapes: Sequence[Sequence[int]], specs: Sequence[ProjectionSpec], ranks: Ranks
) -> tuple[list[Tensor], list[int]]:
    """Bool masks of what floors force of this rank's rows, and how many entries they force of each whole tensor."""
    rows = [
        largest_mask(k, spec.floor if spec.floor_axis == "rows" else 0) for k, spec in zip(keys, specs, strict=True)
    ]
    by_column = [i for i, spec in enumerate(specs) if spec.floor and spec.floor_axis == "columns"]
    columns = column_floor([keys[i] for i in by_column], [specs[i].floor for i in by_column], ranks)
    forced = {**dict(enumerate(rows)), **dict(zip(by_column, columns, strict=True))}
    n_forced = [
        spec.floor and spec.floor * shape[spec.floor_axis == "columns"]
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    return [forced[i] for i in range(len(keys))], n_forced


def column_floor(keys: Sequence[Tensor], floors: Sequence[int], ranks: Ranks) -> list[Tensor]:
    """Bool masks of the `floor` largest keys of each column of tensors whose rows are spread over ranks.

    Args:
        keys: this rank's rows, `[rows, columns]` integers of one dtype, 0 and more.
        floors: how many of each column, at most its length over all ranks.
        ranks: in the order of the rows.
    """
    if not keys:
        return []
    candidates = []  # a rank with fewer rows than the floor sends -1 for the missing ones
    for rows, floor in zip(keys, floors, strict=True):
        mine = rows.topk(min(floor, len(rows)), dim=0).values
        candidates.append(torch.nn.functional.pad(mine, (0, 0, 0, floor - len(mine)), value=-1))
    flat = torch.cat([c.flatten() for c in candidates])
    everyone = ranks.gather(flat.to(torch.promote_types(flat.dtype, torch.int32)))  # 16 bits cannot be sent everywhere
    masks = []
    for rows, mine, of_all in zip(keys, candidates, everyone.split([c.numel() for c in candidates], 1), strict=True):
        of_all = of_all.view(len(everyone), *mine.shape)  # [rank, floor, column]
        threshold = of_all.flatten(0, 1).topk(len(mine), dim=0).values[-1]
        tied = (of_all == threshold).sum(1)  # beyond `floor` of a rank's ties none can be kept
        n_tied_kept = len(mine) - (of_all > threshold).sum((0, 1)) - tied[: ranks.rank].sum(0)
        masks.append((rows > threshold) | first_true(rows == threshold, n_tied_kept))
    return masks


def thresholds(keys: Sequence[Tensor], n_largest: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """The key of the n-th largest entry of each whole tensor, and how many of the entries with that key are among the n.

    Args:
        keys: this rank's part of each tensor, integers of one dtype; those below 0 do not count.
        n_largest: `[n_tensors]` int64, 0 and more.
        ranks: who has the other parts.

    Returns:
        Two times `[n_tensors]` int64. n = 0 gives a key that no entry is above, and 0.
    """
    n_unknown = torch.iinfo(keys[0].dtype).bits - 1
    found, n_left = torch.zeros_like(n_largest), n_largest
    while n_unknown:
        n_bits = min(BITS, n_unknown)
        n_unknown -= n_bits
        counts = ranks.sum_(torch.stack([histogram(k, f, n_bits, n_unknown) for k, f in zip(keys, found, strict=True)]))
        at_least = counts.flip(1).cumsum(1).flip(1)  # [tensor, bin]: entries in this bin or in a higher one
        bins = (at_least >= n_left[:, None]).sum(1, keepdim=True) - 1
        n_left = n_left - torch.nn.functional.pad(at_least, (0, 1)).gather(1, bins + 1).squeeze(1)
        found = (found << n_bits) | bins.squeeze(1)
    return found, n_left


def histogram(keys: Tensor, found: Tensor, n_bits: int, n_below: int) -> Tensor:
    """Counts of the next `n_bits` bits of the keys whose bits above these are `found`; `n_below` bits stand below them."""
    inside = (keys >> (n_bits + n_below)) == found
    bins = torch.where(inside, (keys >> n_below) & ((1 << n_bits) - 1), 1 << n_bits).flatten().long()
    counts = torch.zeros((1 << n_bits) + 1, dtype=torch.int64, device=keys.device)
    return counts.scatter_add_(0, bins, torch.ones_like(bins))[:-1]


def first_true(mask: Tensor, n: Tensor) -> Tensor:
    """The first n entries of `mask` that are set, along its first axis."""
    return mask & (mask.cumsum(0) <= n)
