"""AbsTopK: each row keeps its k entries of largest magnitude, the rest become zero.

Exactly k entries of a row are kept, ties go to the lowest index, NaN is refused. Kept means selected, not nonzero: where a
row has fewer than k nonzero entries, the first zeros are kept too, and the gradient passes through them like through every
other kept entry (so a layer that starts at zero still learns). The operator therefore returns, beside the values, one bit
for each entry; backward needs nothing else.
"""

import torch
from torch import Tensor

from sparsetrain.kernels.magnitude import SIGNED_BITS, infinity_key, largest_mask, magnitude_keys


def abs_topk(x: Tensor, k: int) -> Tensor:
    """Keeps the k entries of largest magnitude of each row of the last axis; the others become zero.

    Args:
        x: `[..., width]`, float32, bfloat16, float16 or float64.
        k: entries kept in each row, 1 to width.

    Returns:
        `[..., width]`, dtype of `x`. k = width returns `x` itself.

    Raises:
        ValueError: k out of range, another dtype, or a NaN in `x` (CPU; on CUDA, where looking would stall the device,
            NaN counts as the largest magnitude and so appears in the output).

    Source: Gao et al. 2025, A.1.
    """
    width = x.shape[-1]
    if not 1 <= k <= width:
        raise ValueError(f"abs_topk got k={k} for rows of {width} entries; k must lie in 1..{width}")
    if k == width:
        return x
    return torch.ops.sparsetrain.abs_topk(x, k)[0]


def abs_topk_reference(x: Tensor, k: int) -> Tensor:
    """`abs_topk` in plain torch: the definition that the fast kernels equal bit for bit."""
    return torch.where(largest_mask(magnitude_keys(x), k), x, 0)


def refuse_nan(x: Tensor) -> None:
    """Raises the ValueError of a NaN in `x`, naming the first row that has one."""
    rows = x.isnan().reshape(-1, x.shape[-1]).any(-1)
    raise ValueError(
        f"abs_topk got NaN in {int(rows.sum())} of {rows.numel()} rows (first: row {int(rows.int().argmax())}): magnitudes "
        f"have no order there; look for a diverged loss, or lower the learning rate"
    )


def pack_bits(mask: Tensor) -> Tensor:
    """Bool `[..., width]` -> uint8 `[..., ceil(width / 8)]`, entry i in bit i % 8 of byte i // 8."""
    n_bytes = -(-mask.shape[-1] // 8)
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, 8 * n_bytes - mask.shape[-1]))
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=mask.device)
    return (padded.unflatten(-1, (n_bytes, 8)) * powers).sum(-1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, width: int) -> Tensor:
    """The inverse of `pack_bits`."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :width].bool()


@torch.library.custom_op("sparsetrain::abs_topk", mutates_args=())
def _abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    keys = magnitude_keys(x)
    if x.device.type == "cpu" and bool((keys > infinity_key(x.dtype)).any()):
        refuse_nan(x)
    mask = largest_mask(keys, k)
    return torch.where(mask, x.contiguous(), 0), pack_bits(mask)


@torch.library.custom_op("sparsetrain::keep", mutates_args=())
def _keep(x: Tensor, bits: Tensor) -> Tensor:
    """`x` where the packed mask has a one, else zero: AbsTopK's backward and its forward derivative."""
    return torch.where(unpack_bits(bits, x.shape[-1]), x.contiguous(), 0)


@_abs_topk.register_fake
def _(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if x.dtype not in SIGNED_BITS:
        raise ValueError(f"abs_topk got dtype {x.dtype}; allowed: {', '.join(map(str, SIGNED_BITS))}")
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty((*x.shape[:-1], (x.shape[-1] + 7) // 8), dtype=torch.uint8)


@_keep.register_fake
def _(x: Tensor, bits: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_bits(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _abs_topk_backward(ctx, grad: Tensor, _grad_bits: Tensor | None) -> tuple[Tensor, None]:
    return torch.ops.sparsetrain.keep(grad, ctx.saved_tensors[0]), None


def _keep_setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])


def _keep_backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.sparsetrain.keep(grad, ctx.saved_tensors[0]), None


_abs_topk.register_autograd(_abs_topk_backward, setup_context=_save_bits)
_keep.register_autograd(_keep_backward, setup_context=_keep_setup)
