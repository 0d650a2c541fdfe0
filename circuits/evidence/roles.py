"""Do nodes and heads do in the circuit what they do in the model?

1. Correlation of each kept node's activation in the circuit and in the model, over all positions of the prompts.
2. Jensen-Shannon distance (square root of the divergence in bits, 0 to 1) of the attention of every head that the
   circuit uses, the sink's share included, mean over queries.
3. Two-valued nodes: every kept node becomes a step, lo below a threshold and hi above it. Threshold and values are the
   least-squares fit to the node's activations in the circuit over the positions of the fit pairs; all nodes become steps at
   once. The task loss that is left says how far the circuit is a diagram of switches.
   Source: Gao et al. 2025, appendix C. The least-squares fit is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement, floats, missing
from circuits.tasks.loss import pair_task_loss
from sparsetrain.hooks import HookFn, HookPoint
from sparsetrain.kernels import attention_pattern
from sparsetrain.model import Attention, Transformer

_CONSTANT = 1e-6  # ours: a standard deviation below this share of the root mean square counts as no variation


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each column of a and b.

    Two constants correlate fully if they are equal, a constant and a variable not at all.

    Args:
        a: float `[n, width]`.
        b: the same.

    Returns:
        float64 `[width]` in [-1, 1].
    """
    a, b = a.double(), b.double()
    spreads = [x - x.mean(0) for x in (a, b)]
    norms = [x.square().mean(0).sqrt() for x in spreads]
    size = torch.maximum(a.square().mean(0), b.square().mean(0)).sqrt()
    still_a, still_b = (norm <= _CONSTANT * size for norm in norms)
    both = (spreads[0] * spreads[1]).mean(0) / (norms[0] * norms[1])
    equal = ((a.mean(0) - b.mean(0)).abs() <= 1e-3 * size).double()
    constant = torch.where(still_a & still_b, equal, torch.zeros_like(both))
    return torch.where(still_a | still_b, constant, both.clamp(-1, 1))


@criterion("node roles", "critique 5", at_least="min_role_correlation", core=True)
def node_roles(exam: Examination) -> Measurement:
    """Do the circuit's nodes vary in the circuit as they do in the model?

    Mean correlation over nodes; so is the interval.
    """
    kept = exam.circuit.nodes
    if not kept:
        return missing("correlation", "the circuit has no nodes")
    in_model, valid = exam.recorded(exam.heldout, list(kept), {})
    in_circuit, _ = exam.recorded(exam.heldout, list(kept), exam.deleting(exam.keep))
    parts = [
        correlations(*(seen[name][valid][:, list(channels)] for seen in (in_model, in_circuit)))
        for name, channels in kept.items()
    ]
    found = torch.cat(parts)
    note = f"n counts nodes; {int((found < 0.5).sum())} of them below 0.5"
    detail = {"nodes": dict(zip(exam.circuit.node_ids, floats(found), strict=True))}
    return exam.measured(found, "correlation", note=note, detail=detail)


def js_distance(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon distance of distributions over the last axis, in [0, 1] (base 2): `[..., k]` -> `[...]`."""
    p, q = p.double(), q.double()
    middle = (p + q) / 2
    parts = [torch.xlogy(x, x / middle.clamp(min=1e-300)).sum(-1) for x in (p, q)]
    divergence = (parts[0] + parts[1]) / 2
    return (divergence / torch.log(torch.tensor(2.0))).clamp(0, 1).sqrt()


def heads_used(exam: Examination) -> dict[int, list[int]]:
    """Layer -> heads with a kept q, k or v channel; layers without such heads are left out."""
    d_head, parts = exam.transformer.config.d_head, exam.space.split(exam.keep)
    found: dict[int, list[int]] = {}
    for layer in range(exam.transformer.config.n_layer):
        used = torch.stack([parts[f"blocks.{layer}.attn.hook_{x}"] for x in "qkv"]).any(0)
        heads = rearrange(used, "(head d) -> head d", d=d_head).any(-1)
        if heads.any():
            found[layer] = [head for head in range(len(heads)) if heads[head]]
    return found


@criterion("attention", "critique 5", at_most="max_attention_distance", needs="min_pairs")
def attention_shift(exam: Examination) -> Measurement:
    """How far is the attention of the circuit's heads, sink included, from what it is in the model?"""
    used = heads_used(exam)
    if not used:
        return missing("distance", "the circuit uses no head", len(exam.heldout))
    names = [f"blocks.{layer}.attn.hook_{x}" for layer in used for x in "qk"]
    runs = [exam.recorded(exam.heldout, names, hooks) for hooks in ({}, exam.deleting(exam.keep))]
    valid = runs[0][1]
    per_head: dict[str, float] = {}
    per_row: list[Tensor] = []
    for layer, heads in used.items():
        patterns = [_pattern(exam.transformer, layer, seen)[:, heads] for seen, _ in runs]
        distance = js_distance(*patterns)  # [row, head, query]
        distance = (distance * valid[:, None]).sum(-1) / valid.sum(-1)[:, None]
        per_row.append(distance)
        for head, value in zip(heads, floats(distance.mean(0)), strict=True):
            per_head[f"layer {layer}, head {head}"] = value
    pairs = rearrange(torch.cat(per_row, dim=1), "(n side) head -> n (side head)", side=2).mean(1)
    return exam.measured(pairs, "distance", detail={"heads": per_head})


def _pattern(model: Transformer, layer: int, seen: Mapping[str, Tensor]) -> Tensor:
    """Attention of a layer, `[row, head, query, key + 1]`, the sink's share last."""
    attn = model.get_submodule(f"blocks.{layer}.attn")
    assert isinstance(attn, Attention)
    q, k = (
        rearrange(seen[f"blocks.{layer}.attn.hook_{x}"], "row pos (head d) -> row head pos d", head=attn.n_head)
        for x in "qk"
    )
    return attention_pattern(q.float(), k.float(), None if attn.sink is None else attn.sink.detach().cpu())


@dataclass(frozen=True, kw_only=True)
class Steps:
    """One step per column: float `[width]` each."""

    threshold: Tensor
    lo: Tensor
    hi: Tensor


def fit_steps(x: Tensor) -> Steps:
    """The step x > threshold ? hi : lo of least squared error, per column; a constant column stays constant.

    Args:
        x: float `[n, width]`.
    """
    n = len(x)
    ordered = x.double().sort(0).values
    below = ordered.cumsum(0)[:-1]
    total = ordered.sum(0)
    size = torch.arange(1, n, dtype=torch.float64)[:, None]
    # The squared error is a constant minus this; equal values cannot be told apart by a threshold.
    explained = below.square() / size + (total - below).square() / (n - size)
    explained = explained.masked_fill(ordered[1:] == ordered[:-1], -torch.inf)
    still = ordered[0] == ordered[-1]
    if n == 1 or bool(still.all()):
        return Steps(threshold=ordered[0], lo=ordered[0], hi=ordered[0])
    split = explained.argmax(0)[None]
    lo = below.gather(0, split)[0] / (split[0] + 1)
    hi = (total - below.gather(0, split)[0]) / (n - split[0] - 1)
    threshold = (ordered.gather(0, split)[0] + ordered.gather(0, split + 1)[0]) / 2
    return Steps(
        threshold=torch.where(still, ordered[0], threshold),
        lo=torch.where(still, ordered[0], lo),
        hi=torch.where(still, ordered[0], hi),
    )


@criterion("binarised loss", "metrics", at_most="max_binarised_loss", needs="min_pairs")
def binarised(exam: Examination) -> Measurement:
    """Does the circuit keep the task when every node of it may take two values only?"""
    hooks = exam.deleting(exam.keep)
    kept = {name: part for name, part in exam.space.split(exam.keep).items() if bool(part.any())}
    seen, valid = exam.recorded(exam.fit, list(kept), hooks)
    steps = {name: fit_steps(x[valid]) for name, x in seen.items()}

    def put(x: Tensor, point: HookPoint) -> Tensor:
        step = steps[point.name]
        value = torch.where(x > step.threshold.to(x), step.hi.to(x), step.lo.to(x))
        return torch.where(kept[point.name].to(x.device), value, x)

    stepped: dict[str, HookFn] = dict.fromkeys(kept, put)
    answers = exam.refitted(lambda pairs: exam.hooked_answers(pairs, hooks, stepped))
    return exam.measured(pair_task_loss(answers), "nats")
