"""Does the circuit carry the behaviour? Its loss, its share of the model's effect, and what happens when parts are taken away.

m is the mean logit difference, F(S) = m of the model in which only S is kept; all are given as shares of the effect
m(N) - m(nothing).

1. Faithfulness: |F(N) - F(C)| (1 - f of MIB in absolute value).
2. Completeness: max over subsets K of C of |F(C without K) - F(N without K)|; K are single nodes and random halves.
3. Minimality: how far the answers move when one node is taken out of the circuit, as a share of the circuit's own effect
   m(C) - m(nothing).
4. Necessity: (m(N) - m(N without C)) / (m(N) - m(nothing)), 1 where ablating the circuit alone destroys all that the model
   does beyond the current token. A shift cancels in m and a scale in the ratio.

Source: Wang et al. 2022 (IOI) for 1-3, Gao et al. 2025 for 4. Deviation: minimality is the mean absolute change of
logit(A) - logit(B), so that a node which pushes both sides of a pair the same way counts too.
"""

from dataclasses import replace

import torch
from torch import Tensor

from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement, floats, missing
from circuits.search.cleanup import without_each
from circuits.tasks.loss import logit_diff, pair_accuracy, pair_logit_diff, pair_task_loss


@criterion("sufficiency", "metrics", at_most="max_task_loss", needs="min_pairs")
def sufficiency(exam: Examination) -> Measurement:
    """Does the circuit alone, all else at its mean, keep the task loss on pairs it was not fitted to?"""
    return exam.measured(pair_task_loss(exam.calibrated).double(), "nats")


@criterion("raw loss", "metrics", at_most="max_raw_loss", needs="min_pairs")
def raw_loss(exam: Examination) -> Measurement:
    """What is the task loss of the circuit's logits as they are, without scale and shift?"""
    return exam.measured(pair_task_loss(exam.own).double(), "nats")


@criterion("raw accuracy", "metrics", at_least="min_raw_accuracy", needs="min_pairs")
def raw_accuracy(exam: Examination) -> Measurement:
    """On what share of the prompts has the right answer the larger logit, without scale and shift?"""
    return exam.measured(pair_accuracy(exam.own).double(), "fraction")


def _diffs(*answers: Tensor) -> Tensor:
    """Logit differences of each pair in several circuits, `[n, n_circuits]`."""
    return torch.stack([pair_logit_diff(x) for x in answers], dim=-1)


@criterion("faithfulness", "metrics", at_most="max_unfaithful", needs="min_pairs")
def faithfulness(exam: Examination) -> Measurement:
    """How far is the circuit's logit difference from the model's, as a share of the model's effect?"""

    def gap(rows: Tensor) -> Tensor:  # [..., n, 3]
        full, empty, own = rows.double().mean(-2).unbind(-1)
        return ((full - own) / (full - empty)).abs()

    return exam.measured(_diffs(exam.full, exam.empty, exam.own), "fraction", gap) if exam.effect else exam.no_effect()


def necessity(full: Tensor, empty: Tensor, without: Tensor) -> list[float]:
    """(m(N) - m(N without S)) / (m(N) - m(nothing)) of many sets S; none where model and empty circuit do not differ.

    Args:
        full: answers of the full model, `[n, side, answer]`.
        empty: of the empty circuit.
        without: of the full model without each set, `[n_sets, n, side, answer]`.
    """
    m, nothing, *rest = floats(logit_diff(torch.cat([torch.stack([full, empty]), without])).double())
    return [(m - x) / (m - nothing) for x in rest] if m != nothing else []


@criterion("necessity", "metrics", at_least="min_necessity", needs="min_pairs")
def circuit_necessity(exam: Examination) -> Measurement:
    """How much of the model's effect is lost when only the circuit is taken out?"""
    found = necessity(exam.full, exam.empty, exam.without[None])
    if not found:
        return exam.no_effect()

    def ratio(rows: Tensor) -> Tensor:  # [..., n, 3]
        full, empty, without = rows.double().mean(-2).unbind(-1)
        return (full - without) / (full - empty)

    return replace(exam.measured(_diffs(exam.full, exam.empty, exam.without), "fraction", ratio), value=found[0])


def subsets(keep: Tensor, n_random: int, seed: int, max_single: int) -> Tensor:
    """Subsets K of a circuit: single nodes (drawn, where there are more than `max_single`) and random halves.

    Returns:
        bool `[n, n_nodes]`, each row a subset of `keep`.
    """
    generator = torch.Generator().manual_seed(seed)
    nodes = keep.nonzero().flatten()
    nodes = nodes[torch.randperm(len(nodes), generator=generator)[:max_single]].sort().values
    singles = torch.zeros(len(nodes), len(keep), dtype=torch.bool)
    singles[torch.arange(len(nodes)), nodes] = True
    halves = (torch.rand(n_random, len(keep), generator=generator) < 0.5) & keep
    return torch.cat([singles, halves])


@criterion("completeness", "metrics", at_most="max_incomplete", needs="min_pairs")
def completeness(exam: Examination) -> Measurement:
    """Do circuit and model react alike when parts of the circuit are taken out of both?"""
    parts = subsets(exam.keep, exam.config.n_subsets, exam.config.seed, exam.config.n_singles)
    if exam.effect == 0:
        return exam.no_effect()
    in_circuit = pair_logit_diff(exam.answers(exam.keep & ~parts)).double()
    in_model = pair_logit_diff(exam.answers(~parts)).double()
    gaps = (in_circuit - in_model).T / abs(exam.effect)  # [n pairs, n subsets]

    def largest(rows: Tensor) -> Tensor:  # [..., n pairs, n subsets]
        return rows.mean(-2).abs().amax(-1)

    note = f"the largest gap of {len(parts)} subsets; their mean is {float(gaps.mean(0).abs().mean()):.3f}"
    return exam.measured(gaps, "fraction", largest, note=note)


def own_effect(exam: Examination) -> float:
    """m(C) - m(nothing): what the circuit does beyond the current token, in logits."""
    return float(logit_diff(exam.own) - logit_diff(exam.empty))


def node_effects(exam: Examination) -> Tensor:
    """Mean |d(C) - d(C without v)| per kept node v, d = logit(A) - logit(B), as a share of the circuit's own effect: `[n kept]`."""
    nodes = exam.keep.nonzero().flatten()
    difference = exam.own[..., 0] - exam.own[..., 1]
    answers = exam.answers(without_each(exam.keep, nodes))
    moved = (answers[..., 0] - answers[..., 1] - difference).abs().double()
    return moved.mean((-2, -1)) / abs(own_effect(exam))


@criterion("minimality", "metrics", at_least="min_needed")
def minimality(exam: Examination) -> Measurement:
    """What share of the nodes moves the answers when it is taken out of the circuit?"""
    ids = exam.circuit.node_ids
    if not ids:
        return missing("fraction", "the circuit has no nodes")
    if own_effect(exam) == 0:
        return missing(
            "fraction", "the circuit has the logit difference of the empty circuit", len(ids), verdict="fail"
        )
    effects = floats(node_effects(exam))
    idle = [name for name, effect in zip(ids, effects, strict=True) if effect < exam.config.min_node_effect]
    # The nodes are all there are and no sample: no interval.
    value, note = 1 - len(idle) / len(ids), "n counts nodes"
    return Measurement(value=value, unit="fraction", n=len(ids), note=note, detail={"idle_nodes": idle})
