"""AbsTopK: each row keeps its k entries of largest magnitude, the rest become zero.

Exactly k entries of a row are kept, ties go to the lowest index, NaN is refused. Kept means selected, not nonzero:
where a row has fewer than k nonzero entries, the first zeros are kept too, and the gradient passes through them as
through every other kept entry (so a layer that starts at zero still learns). The operator `sparsetrain::abs_topk`
therefore returns, beside the values, one bit for each entry; its derivatives, `sparsetrain::keep`, need nothing else.
Small models call it on small tensors, where `custom_op`, `register_autograd` and `setup_context` would each cost more
than the kernel: hence operators defined by schema inside an autograd function of the plain kind.
"""

from types import ModuleType

import torch
from torch import Tensor

from sparsetrain.kernels import native, triton_kernels
from sparsetrain.kernels.magnitude import INFINITY_KEYS, SIGNED_BITS, largest_mask, magnitude_keys, refuse_nan
from sparsetrain.kernels.transforms import is_transformed


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
    if not torch.compiler.is_compiling() and is_transformed(x):
        return _TransformableAbsTopK.apply(x, k)[0]
    return _AbsTopK.apply(x, k)


def abs_topk_reference(x: Tensor, k: int) -> Tensor:
    """`abs_topk` in plain torch: the definition that the fast kernels equal bit for bit."""
    return torch.where(largest_mask(magnitude_keys(x), k), x, 0)


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


def _fast_form(x: Tensor) -> ModuleType | None:
    """The module whose kernels run on `x`; None for plain torch."""
    if x.device.type == "cpu" and x.dtype in native.ROW_DTYPES and native.library() is not None:
        return native
    if x.device.type == "cuda" and x.dtype in native.ROW_DTYPES and x.shape[-1] <= triton_kernels.MAX_WIDTH:
        return triton_kernels if triton_kernels.available() else None
    return None


torch.library.define("sparsetrain::abs_topk", "(Tensor x, int k) -> (Tensor, Tensor)")
torch.library.define("sparsetrain::keep", "(Tensor x, Tensor bits) -> Tensor")


@torch.library.impl("sparsetrain::abs_topk", "default")
def _(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and packed mask of AbsTopK."""
    x = x.contiguous()
    form = _fast_form(x)
    if form is not None:
        return form.abs_topk(x, k)
    keys = magnitude_keys(x)
    if x.device.type == "cpu" and bool((keys > INFINITY_KEYS[x.dtype]).any()):
        refuse_nan(x)
    mask = largest_mask(keys, k)
    return torch.where(mask, x, 0), pack_bits(mask)


@torch.library.impl("sparsetrain::keep", "default")
def _(x: Tensor, bits: Tensor) -> Tensor:
    """`x` where the packed mask has a one, else zero: the derivative of AbsTopK, in both directions."""
    x = x.contiguous()
    form = _fast_form(x)
    if form is not None:
        return form.keep(x, bits.contiguous())
    return torch.where(unpack_bits(bits, x.shape[-1]), x, 0)


@torch.library.register_fake("sparsetrain::abs_topk")
def _(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if x.dtype not in SIGNED_BITS:
        raise ValueError(f"abs_topk got dtype {x.dtype}; allowed: {', '.join(map(str, SIGNED_BITS))}")
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty((*x.shape[:-1], (x.shape[-1] + 7) // 8), dtype=torch.uint8)


@torch.library.register_fake("sparsetrain::keep")
def _(x: Tensor, bits: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_bits_of_output(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])
    ctx.save_for_forward(output[1])


def _save_bits_of_input(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.save_for_forward(inputs[1])


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


class _AbsTopK(torch.autograd.Function):
    """The operator in eager and compiled passes."""

    @staticmethod
    def forward(ctx, x: Tensor, k: int) -> Tensor:
        y, bits = torch.ops.sparsetrain.abs_topk.default(x, k)
        ctx.save_for_backward(bits)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # for a second derivative
            return _Keep.apply(grad, ctx.saved_tensors[0]), None
        return torch.ops.sparsetrain.keep.default(grad, ctx.saved_tensors[0]), None


class _TransformableAbsTopK(torch.autograd.Function):
    """The operator with everything that torch.func and forward-mode differentiation ask for."""

    setup_context = staticmethod(_save_bits_of_output)

    @staticmethod
    def forward(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        return torch.ops.sparsetrain.abs_topk.default(x, k)

    @staticmethod
    def backward(ctx, grad: Tensor, _grad_bits: Tensor | None) -> tuple[Tensor, None]:
        return _Keep.apply(grad, ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _k: None) -> tuple[Tensor, None]:
        return _Keep.apply(tangent, ctx.saved_tensors[0]), None

    @staticmethod
    def vmap(info, in_dims: tuple, x: Tensor, k: int) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _TransformableAbsTopK.apply(_batch_first(x, in_dims[0], info.batch_size), k), (0, 0)


class _Keep(torch.autograd.Function):
    """Linear in its first argument, so it is its own derivative."""

    setup_context = staticmethod(_save_bits_of_input)

    @staticmethod
    def forward(x: Tensor, bits: Tensor) -> Tensor:
        return torch.ops.sparsetrain.keep.default(x, bits)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _Keep.apply(grad, ctx.saved_tensors[0]), None

    @staticmethod
    def jvp(ctx, tangent: Tensor, _bits: None) -> Tensor:
        return _Keep.apply(tangent, ctx.saved_tensors[0])

    @staticmethod
    def vmap(info, in_dims: tuple, x: Tensor, bits: Tensor) -> tuple[Tensor, int]:
        x, bits = (_batch_first(t, dim, info.batch_size) for t, dim in zip((x, bits), in_dims, strict=True))
        return _Keep.apply(x, bits), 0


torch.library.register_vmap("sparsetrain::abs_topk", _TransformableAbsTopK.vmap)
torch.library.register_vmap("sparsetrain::keep", _Keep.vmap)
