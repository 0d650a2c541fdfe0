"""What the one file of a Hub repository has in place of einops and of operators that need our package.

Both attentions and both forms of AbsTopK compute what the package's do: attention calls the same fused kernel, forward and backward; AbsTopK is the
reference that the package's kernels equal bit for bit. So logits differ in nothing, not even by an AbsTopK that a rounding has tipped over.
Operators are not registered here: two repositories may be loaded into one process, and the package beside them.
"""

from string import ascii_letters
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsetrain.kernels.attention import (  # fmt: skip
    fused_sink_attention,
    fused_sink_attention_backward,
    is_fusible,
    sink_attention_reference,
)
from sparsetrain.kernels.topk import abs_topk_reference


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The two patterns of einops that the model uses."""
    if pattern == "batch pos (head d) -> batch head pos d":
        return x.unflatten(-1, (sizes["head"], -1)).transpose(1, 2)
    if pattern == "batch head pos d -> batch pos (head d)":
        return x.transpose(1, 2).flatten(2)
    raise ValueError(f"rearrange knows no pattern {pattern!r}")


def repeat(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The one pattern that the model uses."""
    if pattern == "head -> batch head query 1":
        return x[None, :, None, None].expand(sizes["batch"], -1, sizes["query"], 1)
    raise ValueError(f"repeat knows no pattern {pattern!r}")


def einsum(*operands: Any) -> Tensor:
    """`einops.einsum`: tensors, then a pattern of named axes."""
    tensors, pattern = operands[:-1], str(operands[-1])
    names = dict.fromkeys(pattern.replace("->", " ").replace(",", " ").split())
    letters = dict(zip(names, ascii_letters[: len(names)], strict=True))
    short = " ".join(letters.get(word, word) for word in pattern.replace(",", " , ").split())
    return torch.einsum(short.replace(" ", ""), *tensors)


def abs_topk(x: Tensor, k: int) -> Tensor:
    """Keeps the k entries of largest magnitude of each row of the last axis; the others become zero."""
    return x if k == x.shape[-1] else abs_topk_reference(x, k)


class FusedSinkAttention(torch.autograd.Function):
    """Attention with a sink through torch's fused kernel; differentiable once."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        out, lse = fused_sink_attention(q, k, v, sink)
        ctx.save_for_backward(q, k, v, sink, out, lse)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return fused_sink_attention_backward(grad, *ctx.saved_tensors)


def sink_attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention with a sink, fused where torch has a kernel for it: `[batch, head, pos, d_head]`."""
    if sink is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or not is_fusible(q):
        return sink_attention_reference(q, k, v, sink)
    return FusedSinkAttention.apply(q, k, v, sink)
