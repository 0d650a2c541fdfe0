"""Do nodes and heads do in the circuit what they do in the model?

1. Correlation of each kept node's activation in the circuit and in the model, over all positions of the prompts.
2. Jensen-Shannon distance (square root of the divergence in bits, 0 to 1) of the attention of every head that the
   circuit uses, the sink's share included, mean over queries.
"""

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic
from circuits.evidence.subject import Subject
from circuits.masks import ablation_hooks
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint, hooked
from sparsetrain.kernels import attention_pattern
from sparsetrain.model import Attention, Transformer

_CONSTANT = 1e-6  # ours: a standard deviation below this share of the root mean square counts as no variation


@torch.no_grad()
def recorded(
    model: Transformer, pairs: PairSet, names: Sequence[str], hooks: Mapping[str, HookFn]
) -> tuple[dict[str, Tensor], Tensor]:
    """What passes hook points on the prompts of a pair set.

    Args:
        hooks: attached before the recording, so that their effect is seen.

    Returns:
        Name -> `[(n side), pos, width]`, and which positions belong to a prompt: bool `[(n side), pos]`.
    """
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, point: HookPoint) -> Tensor:
        seen[point.name] = x.cpu()
        return x

    device = next(model.parameters()).device
    n_pos = int(pairs.last.max()) + 1
    tokens = rearrange(pairs.tokens[..., :n_pos], "n side pos -> (n side) pos")
    last = pairs.last.flatten()
    with hooked(model, hooks), hooked(model, dict.fromkeys(names, keep)):
        model(tokens.to(device), last.to(device))
    return seen, torch.arange(n_pos) <= last[:, None].cpu()


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


def node_roles(subject: Subject, seed: int, n_boot: int) -> Measurement:
    """Mean correlation of the kept nodes' activations in circuit and model; the interval is over nodes."""
    kept = subject.space.nodes(subject.keep)
    if not kept:
        return Measurement(value=None, unit="correlation", n=0, note="the circuit has no nodes")
    device = next(subject.model.parameters()).device
    hooks = ablation_hooks(subject.space, subject.keep.to(device), subject.means.to(device))
    in_model, valid = recorded(subject.model, subject.heldout, list(kept), {})
    in_circuit, _ = recorded(subject.model, subject.heldout, list(kept), hooks)
    found = torch.cat(
        [
            correlations(in_model[name][valid][:, list(channels)], in_circuit[name][valid][:, list(channels)])
            for name, channels in kept.items()
        ]
    )
    ids = [f"{name}:{channel}" for name, channels in kept.items() for channel in channels]
    low, high = bootstrap_statistic(found, lambda rows: rows.mean(-1), seed, n_boot)
    return Measurement(
        value=float(found.mean()),
        unit="correlation",
        n=len(ids),
        lo=low,
        hi=high,
        note=f"n counts nodes; {int((found < 0.5).sum())} of them below 0.5",
        detail={"nodes": dict(zip(ids, found.tolist(), strict=True))},
    )


def js_distance(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon distance of distributions over the last axis, in [0, 1] (base 2): `[..., k]` -> `[...]`."""
    p, q = p.double(), q.double()
    middle = (p + q) / 2
    divergence = sum(torch.special.xlogy(x, x / middle.clamp(min=1e-300)).sum(-1) for x in (p, q)) / 2
    assert isinstance(divergence, Tensor)
    return (divergence / torch.log(torch.tensor(2.0))).clamp(0, 1).sqrt()


def heads_used(subject: Subject) -> dict[int, list[int]]:
    """Layer -> heads with a kept q, k or v channel; layers without such heads are left out."""
    d_head, parts = subject.model.config.d_head, subject.space.split(subject.keep)
    found = {}
    for layer in range(subject.model.config.n_layer):
        used = torch.stack([parts[f"blocks.{layer}.attn.hook_{x}"] for x in "qkv"]).any(0)
        heads = rearrange(used, "(head d) -> head d", d=d_head).any(-1).nonzero().flatten().tolist()
        if heads:
            found[layer] = heads
    return found


def attention_shift(subject: Subject, seed: int, n_boot: int) -> Measurement:
    """Mean Jensen-Shannon distance of attention, sink included, in circuit and model; the interval is over pairs."""
    used = heads_used(subject)
    if not used:
        note = "the circuit uses no head"
        return Measurement(value=None, unit="distance", n=len(subject.heldout), note=note, verdict="not enough data")
    device = next(subject.model.parameters()).device
    hooks = ablation_hooks(subject.space, subject.keep.to(device), subject.means.to(device))
    names = [f"blocks.{layer}.attn.hook_{x}" for layer in used for x in "qk"]
    runs = [recorded(subject.model, subject.heldout, names, more) for more in ({}, hooks)]
    valid = runs[0][1]
    per_head, per_row = {}, []
    for layer, heads in used.items():
        patterns = [_pattern(subject.model, layer, seen)[:, heads] for seen, _ in runs]
        distance = js_distance(*patterns)  # [row, head, query]
        distance = (distance * valid[:, None]).sum(-1) / valid.sum(-1)[:, None]
        per_row.append(distance)
        for head, value in zip(heads, distance.mean(0).tolist(), strict=True):
            per_head[f"layer {layer}, head {head}"] = value
    pairs = rearrange(torch.cat(per_row, dim=1), "(n side) head -> n (side head)", side=2).mean(1)
    low, high = bootstrap_statistic(pairs, lambda rows: rows.mean(-1), seed, n_boot)
    return Measurement(
        value=float(pairs.mean()), unit="distance", n=len(pairs), lo=low, hi=high, detail={"heads": per_head}
    )


def _pattern(model: Transformer, layer: int, seen: Mapping[str, Tensor]) -> Tensor:
    """Attention of a layer, `[row, head, query, key + 1]`, the sink's share last."""
    attn = model.get_submodule(f"blocks.{layer}.attn")
    assert isinstance(attn, Attention)
    q, k = (
        rearrange(seen[f"blocks.{layer}.attn.hook_{x}"], "row pos (head d) -> row head pos d", head=attn.n_head)
        for x in "qk"
    )
    return attention_pattern(q.float(), k.float(), None if attn.sink is None else attn.sink.detach().cpu())
