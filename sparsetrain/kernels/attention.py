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


def attention_pattern(q: Tensor, k: Tensor, sink: Tensor | None) -> Tensor:
    """Causal attention weights with the sink's as last column.

    Args:
        q, k: `[batch, head, pos, d_head]`.
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
    """Causal attention with a sink through the fused kernel, scale 1/sqrt(d_head).

    Args:
        q, k, v: `[batch, head, pos, d_head]`.
        sink: `[head]` logits, or None for plain causal attention.

    Returns:
        `[batch, head, pos, d_head]`.

    Source: Gao et al. 2025, A.1.
    """
    if sink is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return sink_attention_reference(q, k, v, sink)
