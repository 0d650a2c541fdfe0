"""How fast does the behaviour return as edges are added, the circuit's own first?

f(k) = (m(k) - m(nothing)) / (m(N) - m(nothing)), m(k) the mean logit difference of the edge circuit of the first k edges
of a ranking; nodes that no kept edge touches emit their mean.
CPR = integral of f over the share of edges (1: all of the effect at once), CMD = integral of |1 - f| (0 likewise), by
trapezoids on a linear axis through 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100%; f = 1 everywhere gives 0.999 and 0.

Source: Mueller et al. 2025 (MIB). There a ranking is what is judged; here it is a circuit, whose edges therefore come
first, in the order of the scores, before all others in the order of theirs. On a linear axis most of the area lies beyond
any small circuit: the values of f are kept beside it.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from circuits.edges import Edge, edge_masks, edge_weights, join_weight, joins
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement, floats
from circuits.masks import NodeSpace
from circuits.tasks.loss import pair_logit_diff
from sparsetrain.typed import Json

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def area(values: Tensor) -> Tensor:
    """Integral over `SHARES` by trapezoids on a linear axis: `[..., 10]` -> `[...]`."""
    return torch.trapezoid(values.double(), torch.tensor(SHARES, dtype=torch.float64))


def circuit_first(
    model: nn.Module, space: NodeSpace, edges: Sequence[Edge], scores: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], int]:
    """Ranks of all nonzero weights, a circuit's edges before all others, each part by falling score.

    Args:
        edges: of the circuit.
        scores: linear's path -> float `[target width, source width]`.

    Returns:
        Linear's path -> int64 ranks of the same shape (0 first; weights that are zero have the number of edges), and
        the number of edges.
    """
    own, all_joins = edge_masks(model, space, list(edges)), joins(model)
    weights = [join_weight(model, space, join) for join in all_joins]
    real = torch.cat([(weight != 0).flatten() for weight in weights]).cpu()
    kept = torch.cat([own[join.linear].flatten() for join in all_joins]).cpu()
    score = torch.cat([scores[join.linear].flatten() for join in all_joins]).cpu().double()
    places = real.nonzero().flatten()
    order = score[places].argsort(descending=True, stable=True)
    order = order[(~kept[places][order]).long().argsort(stable=True)]
    ranks = torch.full((len(real),), len(places))
    ranks[places[order]] = torch.arange(len(places))
    parts = torch.split(ranks, [weight.numel() for weight in weights])
    shaped = zip(all_joins, weights, parts, strict=True)
    return {join.linear: part.reshape(weight.shape) for join, weight, part in shaped}, len(places)


def edge_diffs(exam: Examination, ranks: Mapping[str, Tensor], n_edges: int) -> Tensor:
    """Logit difference of each pair, `[n]`, in the edge circuit of the `n_edges` first-ranked edges."""
    model, space = exam.model, exam.space
    masks = {linear: (part < n_edges).to(exam.device) for linear, part in ranks.items()}
    touched = {
        name: torch.zeros(width, dtype=torch.bool) for name, width in zip(space.names, space.widths, strict=True)
    }
    bare = {name: torch.ones_like(part) for name, part in touched.items()}  # no weight at all: no edge can delete it
    for join in joins(model):
        mask, weight = masks[join.linear].cpu(), join_weight(model, space, join).cpu() != 0
        for name, axis in ((join.source, 0), (join.target, 1)):
            touched[name] |= mask.any(axis)
            bare[name] &= ~weight.any(axis)
    keep = space.join(touched) | space.join(bare)
    with edge_weights(model, space, masks, exam.circuit.means.to(exam.device)) as extra:
        return pair_logit_diff(exam.hooked_answers(exam.heldout, exam.deleting(keep), extra))


def effect_shares(rows: Tensor) -> Tensor:
    """f of every circuit: logit differences `[..., n pairs, (model, nothing, circuits...)]` -> `[..., n circuits]`."""
    m = rows.double().mean(-2)
    full, empty = m[..., :1], m[..., 1:2]
    return (m[..., 2:] - empty) / (full - empty)


def _scores(exam: Examination) -> Mapping[str, Tensor]:
    given = exam.inputs.edge_scores
    return given or {j.linear: join_weight(exam.model, exam.space, j).abs() for j in joins(exam.model)}


def curve(exam: Examination, scores: Mapping[str, Tensor]) -> Tensor:
    """Logit differences `[n pairs, (model, nothing, circuits of SHARES...)]` as edges are added by falling score."""
    ranks, n_edges = circuit_first(exam.model, exam.space, exam.circuit.edges, scores)
    diffs = [edge_diffs(exam, ranks, round(share * n_edges)) for share in SHARES]
    return torch.stack([pair_logit_diff(exam.full), pair_logit_diff(exam.empty), *diffs], dim=-1)


def signed_curve(exam: Examination) -> Tensor:
    """`curve` by the scores as they are."""
    return curve(exam, _scores(exam))


def absolute_curve(exam: Examination) -> Tensor:
    """`curve` by the scores without their signs."""
    scores = _scores(exam)
    if all(bool((part >= 0).all()) for part in scores.values()):
        return exam.once(signed_curve)
    return curve(exam, {linear: part.abs() for linear, part in scores.items()})


def _area_of(
    exam: Examination, rows: Callable[[Examination], Tensor], height: Callable[[Tensor], Tensor]
) -> Measurement:
    if exam.effect == 0:
        return exam.no_effect()
    ranked_by = "scores given" if exam.inputs.edge_scores else "weight magnitude"
    found = exam.once(rows)
    note = f"edges of the circuit first, by {ranked_by}"
    detail: dict[str, Json] = {"shares": SHARES, "f": floats(effect_shares(found))}
    return exam.measured(found, "fraction", lambda x: area(height(effect_shares(x))), note=note, detail=detail)


@criterion("CPR", "metrics", at_least="min_cpr", needs="min_pairs")
def cpr(exam: Examination) -> Measurement:
    """How much of the effect is there, on average, as edges are added, the circuit's first?"""
    return _area_of(exam, signed_curve, lambda f: f)


@criterion("CMD", "metrics", at_most="max_cmd", needs="min_pairs")
def cmd(exam: Examination) -> Measurement:
    """How far from the model's effect is it, on average, as edges are added, the circuit's first?"""
    return _area_of(exam, absolute_curve, lambda f: (1 - f).abs())
