"""Causal attention with a sink: one learned logit per head in the softmax denominator, whose value is zero.

A head that has nothing to say puts its weight on the sink. With lse the log-sum-exp of a query's scores,
    pattern = exp(scores - logaddexp(lse, sink)),   out = (out without sink) * sigmoid(lse - sink),
so any fused attention that returns its log-sum-exp gives attention with a sink, without a matrix of scores.
Source: Gao et al. 2025, A.1.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from torch import Tensor

from sparsetrain.kernels.transforms import is_transformed

aten = torch.ops.aten
LSE_ALIGNMENT = 32
"""The memory-efficient CUDA kernel wants its log-sum-exp padded to a multiple of this many queries."""


def attention_pattern(q: Tensor, k: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention weights with the sink's as last column.

    Args:
        q: `[batch, head, pos, d_head]`.
        k: `[batch, head, pos, d_head]`.
        sink: `[head]` logits, or None (last column zero).

    Returns:
        `[batch, head, pos, pos + 1]`; rows sum to 1.
    """
    batch, n_head, n_pos, d_head = q.shape
    scores = einsum(q, k, "batch head query d, batch head key d -> batch head query key") / sqrt(d_head)
    future = torch.ones(n_pos, n_pos, dtype=torch.bool, device=q.device).triu(1)
    scores = scores.masked_fill(future, float("-inf"))
    if sink is None:
        sink = q.new_full((n_head,), float("-inf"))
    column = repeat(sink.to(scores.dtype), "head -> batch head query 1", batch=batch, query=n_pos)
    return torch.cat([scores, column], dim=-1).softmax(-1)


def sink_attention_reference(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """`sink_attention` with the attention matrix written out: its definition."""
    pattern = attention_pattern(q, k, sink)[..., :-1]
    return einsum(pattern, v, "batch head query key, batch head key d -> batch head query d")


def sink_attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention with a sink through a fused kernel: no matrix of scores in memory, forward or backward.

    Fused on CPU (float32, float64, bfloat16, float16) and on CUDA (16-bit: flash, heads of a multiple of 8; float32:
    memory-efficient, heads of a multiple of 4); elsewhere, and under torch.func, the reference runs. The fused form is
    differentiable once.

    Args:
        q: `[batch, head, pos, d_head]`, one dtype.
        k: `[batch, head, pos, d_head]`, one dtype.
        v: `[batch, head, pos, d_head]`, one dtype.
        sink: `[head]` logits, or None for plain causal attention. Scale of the scores: 1/sqrt(d_head).

    Returns:
        `[batch, head, pos, d_head]`, dtype of `v`.

    Raises:
        ValueError: shapes of q, k, v that differ, or a sink that is not `[head]`.

    Source: Gao et al. 2025, A.1.
    """
    if not q.shape == k.shape == v.shape or q.ndim != 4:
        raise ValueError(
            f"sink_attention got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; "
            f"all must be [batch, head, pos, d_head]"
        )
    if sink is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if sink.shape != q.shape[1:2]:
        raise ValueError(f"sink has shape {tuple(sink.shape)}; it must be [{q.shape[1]}], one logit per head")
    if is_fusible(q) and (torch.compiler.is_compiling() or not is_transformed(q, k, v, sink)):
        return torch.ops.sparsetrain.sink_attention.default(q, k, v, sink)[0]
    return sink_attention_reference(q, k, v, sink)


def is_fusible(q: Tensor) -> bool:
    d_head = q.shape[-1]
    if q.device.type == "cpu":
        return True
    if q.device.type == "cuda":
        # The flash kernel, which is called by its name, is for compute capability 8 on.
        half = q.dtype in (torch.float16, torch.bfloat16) and torch.cuda.get_device_capability(q.device)[0] >= 8
        return (half and d_head % 8 == 0 and d_head <= 256) or (q.dtype == torch.float32 and d_head % 4 == 0)
    return False


def _last_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _heads_inside(x: Tensor) -> Tensor:
    """Lays `[batch, head, pos, d]` out as the fused kernels do: heads inside positions."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


torch.library.define("sparsetrain::sink_attention", "(Tensor q, Tensor k, Tensor v, Tensor sink) -> (Tensor, Tensor)")
torch.library.define(
    "sparsetrain::sink_attention_backward",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor sink, Tensor out, Tensor lse) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)


def fused_sink_attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the log-sum-exp of scores and sink `[batch, head, query]` in float32 (float64 for float64)."""
    out, lse = _fused_forward(_last_contiguous(q), _last_contiguous(k), _last_contiguous(v))
    logits = sink.to(lse.dtype)[:, None]  # against lse: [batch, head, query]
    gate = torch.sigmoid(lse - logits)
    return _heads_inside((out * gate[..., None]).to(v.dtype)), torch.logaddexp(lse, logits).contiguous()


def fused_sink_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, sink: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the sink.

    The fused backward is called with the log-sum-exp that includes the sink and with the output after the sink: its
    pattern exp(scores - lse) and its row sums D = sum_d(grad * out) are then those of attention with a sink, and
    d_sink = -sum over batch and queries of exp(sink - lse) * D.
    """
    grad = _last_contiguous(grad)
    grads = _fused_backward(grad, _last_contiguous(q), _last_contiguous(k), _last_contiguous(v), out, lse)
    sink_weight = torch.exp(sink.to(lse.dtype)[:, None] - lse)
    row_sum = (grad.to(lse.dtype) * out).sum(-1)
    grad_sink = -(sink_weight * row_sum).sum((0, 2)).to(sink.dtype)
    return _heads_inside(grads[0]), _heads_inside(grads[1]), _heads_inside(grads[2]), grad_sink


def _fused_forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention without a sink, and its log-sum-exp `[batch, head, query]`."""
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
    if q.dtype == torch.float32:
        out, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, True)
        return out, lse[..., : q.shape[2]]  # this kernel pads the queries
    out, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)
    return out, lse


def _fused_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. Without dropout the kernels do not read the random state, so empty ones are given."""
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse, 0.0, True)
    n_pos = q.shape[2]
    seed, offset = (torch.empty((), dtype=torch.int64, device=q.device) for _ in range(2))
    if q.dtype == torch.float32:
        padded = F.pad(lse, (0, -n_pos % LSE_ALIGNMENT), value=float("inf"))
        grads = aten._scaled_dot_product_efficient_attention_backward(
            grad, q, k, v, None, out, padded, seed, offset, 0.0, [True, True, True, False], True
        )
        return grads[0], grads[1], grads[2]
    return aten._scaled_dot_product_flash_attention_backward(
        grad, q, k, v, out, lse, None, None, n_pos, n_pos, 0.0, True, seed, offset
    )


torch.library.impl("sparsetrain::sink_attention", "default", fused_sink_attention)
torch.library.impl("sparsetrain::sink_attention_backward", "default", fused_sink_attention_backward)


@torch.library.register_fake("sparsetrain::sink_attention")
def _(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    return _heads_inside(torch.empty_like(v)), q.new_empty(q.shape[:3], dtype=exact)


@torch.library.register_fake("sparsetrain::sink_attention_backward")
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, sink: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [_heads_inside(torch.empty_like(x)) for x in (q, k, v)]
    return grads[0], grads[1], grads[2], torch.empty_like(sink)


def _save(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx, grad: Tensor, _grad_lse: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.ops.sparsetrain.sink_attention_backward.default(grad, *ctx.saved_tensors)


def _no_second_backward(ctx, *grads: Tensor | None) -> None:
    raise NotImplementedError(
        "sink_attention is differentiable once; for second derivatives use sink_attention_reference "
        "(in a model: attention=reference)"
    )


torch.library.register_autograd("sparsetrain::sink_attention", _backward, setup_context=_save)
torch.library.register_autograd("sparsetrain::sink_attention_backward", _no_second_backward)
