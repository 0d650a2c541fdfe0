"""Do nodes and heads do in the circuit what they do in the model?

1. Correlation of each kept node's activation in the circuit and in the model, over all positions of the prompts; beside that
   of nodes of random connected circuits at the same hook point, since early nodes cannot but vary as in the model.
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
from circuits.evidence.random_circuits import drawn
from circuits.tasks.loss import pair_task_loss
from sparsetrain.hooks import HookFn, HookPoint, node_points
from sparsetrain.kernels import attention_pattern
from sparsetrain.model import Attention, Transformer
from sparsetrain.typed import Json

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


def activity_in_model(exam: Examination) -> tuple[dict[str, Tensor], Tensor]:
    """What passes all hook points in the full model on the first held-out pairs (see `Examination.recorded`)."""
    return exam.recorded(exam.some, exam.space.names, {})


def roles(exam: Examination, keep: Tensor) -> Tensor:
    """Correlation of each kept node's activation in the circuit `keep` and in the model: float64 `[n_nodes]`, nan elsewhere."""
    in_model, valid = exam.once(activity_in_model)
    kept = {name: list(channels) for name, channels in exam.space.nodes(keep).items()}
    in_circuit, _ = exam.recorded(exam.some, list(kept), exam.deleting(keep))
    found = torch.full(keep.shape, torch.nan, dtype=torch.float64)
    parts = exam.space.split(found)
    for name, channels in kept.items():
        parts[name][channels] = correlations(in_model[name][valid][:, channels], in_circuit[name][valid][:, channels])
    return found


def roles_at_random(exam: Examination) -> Tensor:
    """The mean of `roles` over the nodes of random circuits at each hook point: float64 `[n_nodes]`, nan where none has nodes."""
    masks = exam.once(drawn)[: exam.config.n_random_roles]
    parts = exam.space.split(torch.stack([roles(exam, mask) for mask in masks]))
    return exam.space.join({name: part.nanmean().expand(part.shape[1]) for name, part in parts.items()})


@criterion("node roles", "critique 5", at_least="min_roles")
def node_roles(exam: Examination) -> Measurement:
    """How much better than nodes of random circuits do its nodes vary as they do in the model?

    1 - (1 - r) / (1 - r of random circuits' nodes at the same hook point), r the correlation of a node's activation in circuit
    and model, both 1 - r meaned over the circuit's nodes; so is the interval. 0: as in random circuits of as many edges, 1: each
    node does in the circuit what it does in the model.
    """
    own, random = roles(exam, exam.keep), exam.once(roles_at_random)
    there = own.isfinite() & random.isfinite()
    rows = torch.stack([own, random], dim=-1)[there]
    if not len(rows) or float(1 - rows[:, 1].mean()) < _CONSTANT:
        return missing("fraction", "no nodes, or random circuits keep all roles there", len(rows))

    def better(rows: Tensor) -> Tensor:  # [..., n nodes, 2]
        lacks = 1 - rows.mean(-2)
        return 1 - lacks[..., 0] / lacks[..., 1]

    kinds: dict[str, Json] = {}
    points = node_points(exam.model)
    kind_of = [points[name].kind for name, channels in exam.space.nodes(there).items() for _ in channels]
    for kind in dict.fromkeys(kind_of):
        some = rows[[other == kind for other in kind_of]]
        kinds[kind] = {"n": len(some), "circuit": float(some[:, 0].mean()), "random": float(some[:, 1].mean())}
    nodes = dict(zip(exam.circuit.node_ids, floats(own[exam.keep]), strict=True))
    detail: dict[str, Json] = {"kinds": kinds, "nodes": nodes}
    note = f"n counts nodes; mean correlation {float(rows[:, 0].mean()):.2f}, in random circuits {float(rows[:, 1].mean()):.2f}"
    return exam.estimated(rows, "fraction", better, note=note, detail=detail)


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
