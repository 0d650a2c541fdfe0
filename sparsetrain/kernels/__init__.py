"""Operators that make sparsity cheap: they know tensors and nothing else.

`abs_topk` keeps the largest magnitudes of a row, `project_topk_` those of a weight tensor (with floors),
`sink_attention` is causal attention with one more logit per head, `multiply` and `lookup` are products with a weight of few nonzeros. Each has a torch reference that the fast forms equal:
a native CPU kernel compiled on first use, a Triton kernel for CUDA. Which one runs changes the time, never the result.
"""

from sparsetrain.kernels.attention import attention_pattern, sink_attention, sink_attention_reference
from sparsetrain.kernels.budget import ProjectionSpec, check_budget
from sparsetrain.kernels.compressed import Pattern, adamw_, lookup, multiply
from sparsetrain.kernels.magnitude import largest_mask, magnitude_keys
from sparsetrain.kernels.projection import kept_mask, project_each_topk_, project_topk_, warm_start_state
from sparsetrain.kernels.sharded import count_nonzero, count_short_lines, is_sharded, local_part, ranks_of, whole_tensor
from sparsetrain.kernels.topk import abs_topk, abs_topk_reference

__all__ = [
    "Pattern",
    "ProjectionSpec",
    "abs_topk",
    "abs_topk_reference",
    "adamw_",
    "attention_pattern",
    "check_budget",
    "count_nonzero",
    "count_short_lines",
    "is_sharded",
    "kept_mask",
    "largest_mask",
    "local_part",
    "lookup",
    "magnitude_keys",
    "multiply",
    "project_each_topk_",
    "project_topk_",
    "ranks_of",
    "sink_attention",
    "sink_attention_reference",
    "warm_start_state",
    "whole_tensor",
]
