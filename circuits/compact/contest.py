"""AbsTopK of rows of which only some channels are computed; the others' magnitudes are known beforehand."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsetrain.kernels import abs_topk
from sparsetrain.kernels.magnitude import largest_mask, magnitude_keys


def contenders(values: Tensor, computed: Tensor, k: int) -> tuple[Tensor, int]:
    """Known channels that may or may not survive AbsTopK, depending on the computed ones.

    Args:
        values: `[frame, width]`, right wherever a channel is not computed.
        computed: bool `[width]`, the m channels whose values are not known yet.
        k: survivors of a whole row, 1 to width.

    Returns:
        bool `[frame, width]` with equally many (at most m) True in each row, and for how many places they and the
        computed channels compete.
    """
    n_computed = int(computed.sum())
    n_known = len(computed) - n_computed
    n_sure, n_possible = max(0, k - n_computed), min(k, n_known)
    keys = magnitude_keys(values).masked_fill(computed, -1)  # below every magnitude
    return largest_mask(keys, n_possible) & ~largest_mask(keys, n_sure), k - n_sure


@dataclass(frozen=True)
class Contest:
    """AbsTopK of rows whose known entries differ by frame, on the columns that can decide it.

    Args:
        n_places: survivors among these columns.
        known: `[frame, n_known]`, values of the contenders.
        order: `[frame, n_column]`, for the columns in order of their channels: index into computed, then known.
        slot: `[frame, n_kept]`, columns of the kept channels.
    """

    n_places: int
    known: Tensor
    order: Tensor
    slot: Tensor

    @classmethod
    def of(cls, values: Tensor, computed: Tensor, kept: Tensor, k: int) -> "Contest":
        """`values [frame, width]` known beforehand, except at the `computed` channels, which include the `kept` ones."""
        contends, n_places = contenders(values, computed, k)
        shape = (len(values), -1)
        channel = (computed | contends).nonzero(as_tuple=True)[1].view(shape)
        n_before = (computed.cumsum(0) - computed.long())[channel]  # computed ones among the columns to the left
        known = computed.sum() + torch.arange(channel.shape[1], device=channel.device) - n_before
        order = torch.where(computed[channel], n_before, known)
        kept_channel = kept.nonzero().flatten().expand(shape).contiguous()
        return cls(n_places, values[contends].view(shape), order, torch.searchsorted(channel, kept_channel))

    def __call__(self, x: Tensor, frame: Tensor) -> Tensor:
        """Computed channels `[..., n_computed]` -> kept ones after AbsTopK; `frame` broadcasts to `[...]`."""

        def at_frame(table: Tensor) -> Tensor:
            return table[frame].expand(*x.shape[:-1], -1)

        columns = torch.cat([x, at_frame(self.known)], -1).gather(-1, at_frame(self.order))
        return abs_topk(columns, self.n_places).gather(-1, at_frame(self.slot))

    def joined(self, other: "Contest") -> "Contest":
        """With the frames of another one behind its own."""
        mine, others = (self.known, self.order, self.slot), (other.known, other.order, other.slot)
        return Contest(self.n_places, *(torch.cat(tables) for tables in zip(mine, others, strict=True)))
