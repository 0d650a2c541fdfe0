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
from torch import Tensor

from circuits.edges import Edge, edge_masks, edge_weights, join_weight, joins
from circuits.evidence.measurement import Measurement, bootstrap_statistic
from circuits.evidence.subject import Subject, hooked_answers
from circuits.masks import NodeSpace, ablation_hooks
from circuits.tasks.loss import pair_logit_diff
from sparsetrain.model import Transformer

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def area(values: Tensor) -> Tensor:
    """Integral over `SHARES` by trapezoids on a linear axis: `[..., 10]` -> `[...]`."""
    return torch.trapezoid(values.double(), torch.tensor(SHARES, dtype=torch.float64))


def circuit_first(
    model: Transformer, space: NodeSpace, edges: Sequence[Edge], scores: Mapping[str, Tensor]
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
    parts = ranks.split([weight.numel() for weight in weights])
    shaped = zip(all_joins, weights, parts, strict=True)
    return {join.linear: part.reshape(weight.shape) for join, weight, part in shaped}, len(places)


def edge_diffs(subject: Subject, ranks: Mapping[str, Tensor], n_edges: int) -> Tensor:
    """Logit difference of each pair, `[n]`, in the edge circuit of the `n_edges` first-ranked edges."""
    model, space = subject.model, subject.space
    device = next(model.parameters()).device
    masks = {linear: (part < n_edges).to(device) for linear, part in ranks.items()}
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
    means = subject.means.to(device)
    with edge_weights(model, space, masks, means) as extra:
        answers = hooked_answers(model, subject.heldout, ablation_hooks(space, keep.to(device), means), extra)
    return pair_logit_diff(answers)


def effect_shares(rows: Tensor) -> Tensor:
    """f of every circuit: logit differences `[..., n pairs, (model, nothing, circuits...)]` -> `[..., n circuits]`."""
    full, empty, circuits = rows.double().mean(-2).split([1, 1, rows.shape[-1] - 2], dim=-1)
    return (circuits - empty) / (full - empty)


def cpr_and_cmd(
    subject: Subject, edges: Sequence[Edge], scores: Mapping[str, Tensor] | None, seed: int, n_boot: int
) -> tuple[Measurement, Measurement]:
    """CPR (by signed score) and CMD (by absolute score) of a circuit; the intervals are over pairs.

    Args:
        edges: of the circuit.
        scores: importance of every weight, linear's path -> `[target width, source width]`; None: its magnitude.
    """
    n_pairs = len(subject.heldout)
    if subject.effect == 0:
        note = "the model and the empty circuit have the same logit difference"
        nothing = Measurement(value=None, unit="fraction", n=n_pairs, note=note)
        return nothing, nothing
    ranked_by = "scores given" if scores is not None else "weight magnitude"
    if scores is None:
        scores = {join.linear: join_weight(subject.model, subject.space, join).abs() for join in joins(subject.model)}
    curves: list[Tensor] = []  # by signed and by absolute score, [n, (model, nothing, shares)]
    for signed in (True, False):
        if not signed and all(bool((part >= 0).all()) for part in scores.values()):
            curves.append(curves[0])
            continue
        chosen = scores if signed else {linear: part.abs() for linear, part in scores.items()}
        ranks, n_edges = circuit_first(subject.model, subject.space, edges, chosen)
        diffs = [edge_diffs(subject, ranks, round(share * n_edges)) for share in SHARES]
        curves.append(torch.stack([pair_logit_diff(subject.full), pair_logit_diff(subject.empty), *diffs], dim=-1))

    def cpr(rows: Tensor) -> Tensor:
        return area(effect_shares(rows))

    def cmd(rows: Tensor) -> Tensor:
        return area((1 - effect_shares(rows)).abs())

    def measured(rows: Tensor, statistic: Callable[[Tensor], Tensor]) -> Measurement:
        low, high = bootstrap_statistic(rows, statistic, seed, n_boot)
        return Measurement(
            value=float(statistic(rows)),
            unit="fraction",
            n=n_pairs,
            lo=low,
            hi=high,
            note=f"edges of the circuit first, by {ranked_by}",
            detail={"shares": list(SHARES), "f": effect_shares(rows).tolist()},
        )

    return measured(curves[0], cpr), measured(curves[1], cmd)
