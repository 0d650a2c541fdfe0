"""Magnitudes as integers, and the exact selection of the k largest: what every fast kernel must equal.

The bits of an IEEE float without the sign, read as an integer, order like its magnitude. Selecting on these keys is
exact (denormals stay apart even when the processor flushes them to zero, +0 ties with -0) and needs no arithmetic.
Ties go to the lowest index. A NaN's key is above infinity's, so NaN is found by one comparison.
"""

from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

SIGNED_BITS = {
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float64: torch.int64,
}


INFINITY_KEYS = {
    torch.float32: 0x7F800000,
    torch.bfloat16: 0x7F80,
    torch.float16: 0x7C00,
    torch.float64: 0x7FF0000000000000,
}
"""The key of infinity; every greater key belongs to a NaN."""


def magnitude_keys(x: Tensor) -> Tensor:
    """Integers that order like |x|: `x`'s bits without the sign, in the signed integer type of the same size.

    Raises:
        ValueError: a dtype that is not a float of 16, 32 or 64 bits.
    """
    if x.dtype not in SIGNED_BITS:
        raise ValueError(f"top-k by magnitude got dtype {x.dtype}; allowed: {', '.join(map(str, SIGNED_BITS))}")
    bits = SIGNED_BITS[x.dtype]
    return x.contiguous().view(bits) & torch.iinfo(bits).max


def kth_largest(keys: Tensor, k: int) -> Tensor:
    """The k-th largest integer of each row, `[..., 1]`; k from 1 to the width."""
    if keys.device.type == "cpu":  # numpy's vectorised partition is about twice as fast as any torch selection
        width = keys.shape[-1]
        partitioned = np.partition(keys.numpy(), width - k, axis=-1)
        return torch.from_numpy(np.ascontiguousarray(partitioned[..., width - k, None]))
    return keys.topk(k, dim=-1).values[..., -1:]


def largest_mask(keys: Tensor, k: int) -> Tensor:
    """Bool mask of exactly the k largest integers of each row of the last axis, ties to the lowest index; k from 0."""
    if k == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    threshold = kth_largest(keys, k)
    above = keys > threshold
    tied = keys == threshold
    n_tied_kept = k - above.sum(-1, keepdim=True)
    return above | (tied & (tied.cumsum(-1) <= n_tied_kept))


def refuse_nan(x: Tensor) -> NoReturn:
    """Raises the ValueError of a NaN in `x`, naming the first row that has one."""
    rows = x.isnan().reshape(-1, x.shape[-1]).any(-1)
    raise ValueError(
        f"abs_topk got NaN in {int(rows.sum())} of {rows.numel()} rows (first: row {int(rows.int().argmax())}), where "
        f"magnitudes have no order; look for a diverged loss, or lower the learning rate"
    )
