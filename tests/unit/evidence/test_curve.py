"""Curves over edges, and the areas under them."""

from dataclasses import replace

import pytest
import torch

from circuits.answers import run_answers
from circuits.edges import join_weight, joins
from circuits.evidence.curve import SHARES, area, circuit_first, cmd, cpr, edge_diffs, effect_shares
from circuits.evidence.hypotheses import (
    with_edges,
)
from circuits.tasks.loss import logit_diff, pair_logit_diff


def test_areas_of_a_perfect_ranking():
    shares = torch.tensor(SHARES, dtype=torch.float64)
    assert area(torch.ones(10)).item() == pytest.approx(0.999)
    assert area(shares).item() == pytest.approx((1 - 0.001**2) / 2)  # exact for a line
    assert area(torch.stack([shares, torch.zeros(10)])).shape == (2,)


def test_edges_of_the_circuit_come_first_each_by_score(exam, circuit):
    scores = {join.linear: join_weight(exam.model, exam.space, join) for join in joins(exam.model)}
    ranks, n_edges = circuit_first(exam.model, exam.space, circuit.edges, scores)
    assert n_edges == sum(int((weight != 0).sum()) for weight in scores.values())
    by_ends = {(join.source, join.target): join.linear for join in joins(exam.model)}
    places = {}
    for edge in circuit.edges:
        (source, s), (target, t) = (end.rsplit(":", 1) for end in (edge.source, edge.target))
        places[int(ranks[by_ends[source, target]][int(t), int(s)])] = edge.weight
    assert sorted(places) == list(range(circuit.n_edges))
    assert [places[i] for i in range(circuit.n_edges)] == sorted((e.weight for e in circuit.edges), reverse=True)
    rest = torch.cat(
        [s.flatten()[r.flatten() >= circuit.n_edges] for s, r in zip(scores.values(), ranks.values(), strict=True)]
    )
    order = torch.cat([r.flatten()[r.flatten() >= circuit.n_edges] for r in ranks.values()]).argsort()
    assert bool((rest[order].diff() <= 0).all())


def test_edge_curve_ends_at_the_model_and_passes_through_the_circuit(exam, circuit):
    scores = {join.linear: join_weight(exam.model, exam.space, join) for join in joins(exam.model)}
    ranks, n_edges = circuit_first(exam.model, exam.space, circuit.edges, scores)
    diffs = [edge_diffs(exam, ranks, n) for n in (n_edges, 0, circuit.n_edges)]
    ends = [pair_logit_diff(exam.full), pair_logit_diff(exam.empty)]
    everything, nothing, found = effect_shares(torch.stack([*ends, *diffs], dim=-1)).tolist()
    assert everything == pytest.approx(1.0, abs=1e-4)
    assert nothing == pytest.approx(0.0, abs=1e-4)
    with with_edges(circuit, circuit.edges).attached(exam.model, "edge"):
        own = float(logit_diff(run_answers(exam.model, [exam.heldout])[0]))
    expected = (own - float(logit_diff(exam.empty))) / exam.effect
    ends = {end for edge in circuit.edges for end in (edge.source, edge.target)}
    assert ends == set(circuit.node_ids), "every node has an edge, so that both are the same circuit"
    assert found == pytest.approx(expected, abs=1e-4)


def test_cpr_and_cmd_follow_their_scores(exam, circuit):
    """Scores of one sign: both come from one curve. A negative score is last for CPR and first for CMD."""
    plain = cpr(exam), cmd(exam)
    curve = torch.tensor(plain[0].detail["f"])
    assert plain[0].value == pytest.approx(area(curve).item()) and plain[0].detail == plain[1].detail
    assert plain[1].value == pytest.approx(area((1 - curve).abs()).item())
    assert curve[-1].item() == pytest.approx(1.0, abs=1e-4)
    signed = {join.linear: join_weight(exam.model, exam.space, join) for join in joins(exam.model)}
    scored = replace(exam, inputs=replace(exam.inputs, edge_scores=signed))
    assert cpr(scored).detail != cmd(scored).detail and cmd(scored).detail["f"] == plain[1].detail["f"]
    assert cpr(scored).note != plain[0].note
