"""CUDA forms of the row top-k and of the projection, in Triton. They write the same bits as the torch forms.

Rows: a program holds a row's keys in registers and builds the k-th largest bit by bit, one count for each bit.

Projection of all tensors of a step, without a word from the device to the host:
1. The keys of all tensors go into one buffer, each tensor padded to whole blocks; what a floor forces becomes -1.
2. Rounds of counting narrow a bracket [lo, hi) around each tensor's threshold: a program counts its block against 16
   pivots at once, another chooses the next pivots. The first pivots crowd around the last step's threshold. A tensor
   whose bracket has closed costs later rounds one read of the bracket; the number of rounds is fixed.
3. Ties are counted block by block and summed, so that the lowest indices are kept.
The counts are int64 sums over blocks; for tensors whose rows are spread over ranks they are summed over those too, between
the two kernels of a round.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sparsetrain.kernels.budget import ProjectionSpec
from sparsetrain.kernels.sharded import Ranks, forced_masks

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language as tl  # pyright: ignore[reportMissingImports]


def jit(fn: Any) -> Any:
    """A Triton kernel, or, without Triton, a function that nobody calls."""
    return triton.jit(fn) if HAS_TRITON else fn


MAX_WIDTH = 32768
"""Entries of a row that one program can hold."""
BLOCK = 16384
"""Entries of the projection's buffer that one program counts."""
STRIP = 1024
"""Entries that it compares with all pivots at once."""
N_PIVOTS = 16
N_ROUNDS = 9
"""Enough for any threshold: eight rounds split 2^31 keys, 17 parts each, down to one; the first tries the guess."""

log = logging.getLogger(__name__)


@functools.cache
def available() -> bool:
    """Whether Triton is installed; says so once if not."""
    if not HAS_TRITON:
        log.warning("no Triton, the torch forms run on CUDA (same results, slower); install triton")
    return HAS_TRITON


# ------------------------------------------------------------------------------------------------------------- rows


@jit
def row_largest(keys, k, BITS: tl.constexpr):
    """Mask of the k largest keys of a row, ties to the lowest index; keys below zero are never chosen."""
    threshold = 0
    for i in range(BITS):
        candidate = threshold | (1 << (BITS - 1 - i))
        count = tl.sum((keys >= candidate).to(tl.int32), axis=0)
        threshold = tl.where(count >= k, candidate, threshold)
    above = keys > threshold
    tied = (keys == threshold).to(tl.int32)
    n_tied_kept = k - tl.sum(above.to(tl.int32), axis=0)
    return above | ((tied != 0) & (tl.cumsum(tied, axis=0) <= n_tied_kept))


@jit
def abs_topk_kernel(x, y, bits, width, k, BITS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < width
    value = tl.load(x + row * width + column, mask=inside, other=0.0)
    if BITS == 31:
        keys = value.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    else:
        keys = value.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    kept = row_largest(tl.where(inside, keys, -1), k, BITS)
    tl.store(y + row * width + column, tl.where(kept, value, 0.0), mask=inside)
    n_bytes = (width + 7) // 8
    byte = tl.arange(0, WIDTH // 8)
    packed = tl.sum(tl.reshape(kept.to(tl.int32), (WIDTH // 8, 8)) << tl.arange(0, 8)[None, :], axis=1)
    tl.store(bits + row * n_bytes + byte, packed.to(tl.uint8), mask=byte < n_bytes)


@jit
def keep_kernel(x, bits, y, n_entries, width, SIZE: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = entry < n_entries
    row = entry // width
    column = entry - row * width
    byte = tl.load(bits + row * ((width + 7) // 8) + column // 8, mask=inside, other=0).to(tl.int32)
    kept = ((byte >> (column % 8).to(tl.int32)) & 1) != 0
    value = tl.load(x + entry, mask=inside & kept, other=0.0)
    tl.store(y + entry, value, mask=inside)


def n_warps(width: int) -> int:
    """Warps for a row of `width` (a power of two): 16 to 64 entries a thread."""
    return max(1, min(16, width // 1024))


def row_block(width: int) -> int:
    """The power of two that holds a row."""
    return max(16, triton.next_power_of_2(width))


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and packed bits of AbsTopK. `x` contiguous, float32, bfloat16 or float16, at most MAX_WIDTH wide."""
    width = x.shape[-1]
    y = torch.empty_like(x)
    bits = torch.empty((*x.shape[:-1], -(-width // 8)), dtype=torch.uint8, device=x.device)
    n_rows = x.numel() // width
    if n_rows:
        block = row_block(width)
        n_bits = 31 if x.dtype == torch.float32 else 15
        abs_topk_kernel[(n_rows,)](x, y, bits, width, k, BITS=n_bits, WIDTH=block, num_warps=n_warps(block))
    return y, bits


def keep(x: Tensor, bits: Tensor) -> Tensor:
    """`x` where the packed bits are set, else zero. `x` contiguous."""
    y = torch.empty_like(x)
    if x.numel():
        grid = (triton.cdiv(x.numel(), 1024),)
        keep_kernel[grid](x, bits, y, x.numel(), x.shape[-1], SIZE=1024)
    return y


# ------------------------------------------------------------------------------------------------------- projection


@jit
def force_kernel(keys, width, floor, WIDTH: tl.constexpr):
    """Sets the `floor` largest keys of each row to -1."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    inside = column < width
    values = tl.load(keys + row * width + column, mask=inside, other=-1)
    forced = row_largest(values, floor, 31)
    tl.store(keys + row * width + column, values * 0 - 1, mask=inside & forced)


@jit
def count_kernel(
    keys, tensor_of_block, brackets, pivots, counts, BLOCK: tl.constexpr, STRIP: tl.constexpr, N_PIVOTS: tl.constexpr
):
    """Adds a block's counts of keys >= pivot to its tensor's; returns at once where the bracket has closed."""
    block = tl.program_id(0).to(tl.int64)
    tensor = tl.load(tensor_of_block + block)
    lo = tl.load(brackets + 3 * tensor)
    hi = tl.load(brackets + 3 * tensor + 1)
    if hi - lo > 1:
        pivot = tl.load(pivots + N_PIVOTS * tensor + tl.arange(0, N_PIVOTS)).to(tl.int32)
        total = tl.zeros((N_PIVOTS,), dtype=tl.int32)
        for strip in range(BLOCK // STRIP):
            key = tl.load(keys + block * BLOCK + strip * STRIP + tl.arange(0, STRIP))
            total += tl.sum((key[:, None] >= pivot[None, :]).to(tl.int32), axis=0)
        tl.atomic_add(counts + N_PIVOTS * tensor + tl.arange(0, N_PIVOTS), total.to(tl.int64))


@jit
def narrow_kernel(brackets, pivots, counts, ranks, state, FIRST: tl.constexpr, N_PIVOTS: tl.constexpr):
    """Narrows a tensor's bracket by its counts and chooses the next pivots; FIRST opens it around the last threshold.

    A bracket is lo, hi, count(>= hi), with count(>= lo) >= rank > count(>= hi).
    """
    tensor = tl.program_id(0)
    i = tl.arange(0, N_PIVOTS)
    rank = tl.load(ranks + tensor)
    last = tl.load(state + 2 * tensor).to(tl.int64)
    lo = tl.load(brackets + 3 * tensor)
    hi = tl.load(brackets + 3 * tensor + 1)
    n_hi = tl.load(brackets + 3 * tensor + 2)
    if FIRST:
        lo = lo * 0
        hi = lo + 2147483648
        n_hi = n_hi * 0
    elif hi - lo > 1:
        pivot = tl.load(pivots + N_PIVOTS * tensor + i)
        count = tl.load(counts + N_PIVOTS * tensor + i)
        enough = count >= rank
        lo = tl.maximum(lo, tl.max(tl.where(enough, pivot, lo), axis=0))
        hi = tl.minimum(hi, tl.min(tl.where(enough, hi, pivot), axis=0))
        n_hi = tl.maximum(n_hi, tl.max(tl.where(enough, n_hi, count), axis=0))
    spread = lo + (hi - lo) * (i + 1) // (N_PIVOTS + 1)
    if FIRST:
        half: tl.constexpr = N_PIVOTS // 2
        distance = tl.where(i < half, half - 1 - i, i - half)
        side = tl.where(i < half, -1, 1).to(tl.int64)
        around = last + side * (1024 << (2 * distance)).to(tl.int64)
        spread = tl.where(last > 0, around, spread)
    spread = tl.minimum(tl.maximum(spread, lo + 1), tl.maximum(hi - 1, lo + 1))
    tl.store(pivots + N_PIVOTS * tensor + i, tl.minimum(spread, 2147483647))
    tl.store(counts + N_PIVOTS * tensor + i, i.to(tl.int64) * 0)
    tl.store(brackets + 3 * tensor, lo)
    tl.store(brackets + 3 * tensor + 1, hi)
    tl.store(brackets + 3 * tensor + 2, n_hi)
    tl.store(state + 2 * tensor, tl.where(hi - lo > 1, last, lo).to(tl.int32))


@jit
def ties_kernel(keys, tensor_of_block, brackets, ties, BLOCK: tl.constexpr, STRIP: tl.constexpr):
    """Counts a block's keys that equal its tensor's threshold."""
    block = tl.program_id(0).to(tl.int64)
    threshold = tl.load(brackets + 3 * tl.load(tensor_of_block + block)).to(tl.int32)
    total = tl.zeros((STRIP,), dtype=tl.int32)
    for strip in range(BLOCK // STRIP):
        key = tl.load(keys + block * BLOCK + strip * STRIP + tl.arange(0, STRIP))
        total += (key == threshold).to(tl.int32)
    tl.store(ties + block, tl.sum(total, axis=0).to(tl.int64))


@jit
def drop_kernel(keys, tensor_of_block, brackets, ranks, ties_before, drop, BLOCK: tl.constexpr, STRIP: tl.constexpr):
    """Marks what is not kept: keys below the threshold, and ties beyond the budget."""
    block = tl.program_id(0).to(tl.int64)
    tensor = tl.load(tensor_of_block + block)
    threshold = tl.load(brackets + 3 * tensor).to(tl.int32)
    n_tied_kept = tl.load(ranks + tensor) - tl.load(brackets + 3 * tensor + 2)
    before = tl.load(ties_before + block)
    for strip in range(BLOCK // STRIP):
        entry = block * BLOCK + strip * STRIP + tl.arange(0, STRIP)
        key = tl.load(keys + entry)
        tied = (key == threshold).to(tl.int32)
        beyond = before + tl.cumsum(tied, axis=0) > n_tied_kept
        dropped = (key >= 0) & ((key < threshold) | ((tied != 0) & beyond))
        tl.store(drop + entry, dropped.to(tl.int8))
        before += tl.sum(tied, axis=0)


@functools.lru_cache(maxsize=8)
def block_tables(of_tensors: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The tensor that each block belongs to, and the first block of that tensor; kept on the device between steps."""
    blocks = torch.tensor(of_tensors)
    tensor_of_block = torch.arange(len(of_tensors)).repeat_interleave(blocks)
    first_block = (blocks.cumsum(0) - blocks).repeat_interleave(blocks)
    return tensor_of_block.to(device), first_block.to(device)


def project_each_(weights: list[Tensor], ks: list[int], floors: list[int], by_column: list[int], state: Tensor) -> None:
    """Projects contiguous float32 tensors of one device in place; floored lines are at most MAX_WIDTH long."""
    keys, views = key_buffer(weights)
    n_rest = []
    for mine, k, floor, columns in zip(views, ks, floors, by_column, strict=True):
        if floor:
            lines = mine.T.contiguous() if columns else mine
            block = row_block(lines.shape[1])
            force_kernel[(lines.shape[0],)](lines, lines.shape[1], floor, WIDTH=block, num_warps=n_warps(block))
            if columns:
                mine.copy_(lines.T)
        n_rest.append(k - floor * mine.shape[columns] if floor else k)
    drop_rest_(weights, keys, n_rest, state)


def project_shards_(
    weights: list[Tensor], shapes: Sequence[Sequence[int]], specs: Sequence[ProjectionSpec], state: Tensor, ranks: Ranks
) -> None:
    """The same for tensors whose rows are spread over ranks: `weights` is this rank's part, `shapes` are those of the whole tensors."""
    keys, views = key_buffer(weights)
    forced, n_forced = forced_masks(views, shapes, specs, ranks)
    for mine, mask in zip(views, forced, strict=True):
        mine.masked_fill_(mask, -1)
    drop_rest_(weights, keys, [spec.k - n for spec, n in zip(specs, n_forced, strict=True)], state, ranks)


def key_buffer(weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The keys of all tensors, each padded by -1 to whole blocks (at least one), and each tensor's view of them."""
    sizes = [BLOCK * n for n in n_blocks(weights)]
    keys = torch.full((sum(sizes),), -1, dtype=torch.int32, device=weights[0].device)
    views = [mine[: w.numel()].view(w.shape) for w, mine in zip(weights, keys.split(sizes), strict=True)]
    for w, mine in zip(weights, views, strict=True):
        torch.bitwise_and(w.view(torch.int32), 0x7FFFFFFF, out=mine)
    return keys, views


def n_blocks(weights: list[Tensor]) -> tuple[int, ...]:
    """Blocks of each tensor in the buffer."""
    return tuple(max(1, -(-w.numel() // BLOCK)) for w in weights)


def drop_rest_(
    weights: list[Tensor], keys: Tensor, n_rest: list[int], state: Tensor, sharers: Ranks | None = None
) -> None:
    """Sets to zero what is neither forced (key -1) nor among the `n_rest` largest of its tensor, over all `sharers` of its rows."""
    device, blocks = keys.device, n_blocks(weights)
    tensor_of_block, first_block = block_tables(blocks, device)
    ranks = torch.tensor(n_rest)
    ranks = ranks.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else ranks
    n_tensors = (len(weights),)
    brackets = torch.zeros(3 * len(weights), dtype=torch.int64, device=device)
    pivots, counts = torch.zeros(2, N_PIVOTS * len(weights), dtype=torch.int64, device=device)
    narrow_kernel[n_tensors](brackets, pivots, counts, ranks, state, FIRST=True, N_PIVOTS=N_PIVOTS)
    strips = {"BLOCK": BLOCK, "STRIP": STRIP}
    grid = (sum(blocks),)
    for _ in range(N_ROUNDS):
        count_kernel[grid](keys, tensor_of_block, brackets, pivots, counts, **strips, N_PIVOTS=N_PIVOTS, num_warps=8)
        if sharers is not None:
            sharers.sum_(counts)
        narrow_kernel[n_tensors](brackets, pivots, counts, ranks, state, FIRST=False, N_PIVOTS=N_PIVOTS)
    ties = torch.empty(grid, dtype=torch.int64, device=device)
    ties_kernel[grid](keys, tensor_of_block, brackets, ties, **strips)
    ties_before = ties.cumsum(0) - ties
    ties_before -= ties_before[first_block]
    if sharers is not None:
        of_tensors = torch.zeros(n_tensors, dtype=torch.int64, device=device).index_add_(0, tensor_of_block, ties)
        ties_before += sharers.before(of_tensors)[tensor_of_block]
    drop = torch.empty(keys.shape, dtype=torch.bool, device=device)
    drop_kernel[grid](keys, tensor_of_block, brackets, ranks, ties_before, drop.view(torch.int8), **strips)
    for w, dropped in zip(weights, drop.split([BLOCK * n for n in blocks]), strict=True):
        w.masked_fill_(dropped[: w.numel()].view(w.shape), 0)
