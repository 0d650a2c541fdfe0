"""Nodes carried across: a dense model that is the sparse one in a turned and scaled residual stream is steered exactly as that one; controls have equal lengths and budgets."""

from dataclasses import replace
from math import sqrt

import pytest
import torch
from bridge_example import SCALE, D, pairs, prompts, turned_steering
from torch import Tensor

from circuits.bridges.hybrid import Route, crossed, single_crossings
from circuits.bridges.steer import (
    CONTROLS,
    Candidate,
    Prompts,
    Steering,
    along,
    chosen,
    controls,
    curve,
    moved,
    node_candidate,
    own_change,
)
from sparsetrain.hooks import NodeId, hooked

STRENGTHS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def steering() -> Steering:
    return turned_steering()


def test_the_two_models_are_the_same_function_across_every_site(steering):
    tokens = prompts().presented
    plain = steering.coupled.dense(tokens)
    torch.testing.assert_close(plain, steering.coupled.sparse(tokens))
    for route in [*single_crossings(5), Route(start="dense", crossings=(0, 1, 2, 3, 4))]:
        torch.testing.assert_close(crossed(steering.coupled, tokens, route), plain)
    torch.testing.assert_close(steering.ratio, torch.full((5,), 1 / SCALE, dtype=torch.float64))


@pytest.mark.parametrize(("site", "channel"), [(0, 3), (1, 0), (2, 7), (3, 15)])
def test_a_node_carried_across_steers_as_it_does_in_the_sparse_model(steering, site, channel):
    """With the RMS correction and without the sparse norm's gain: to the last digits, at every strength."""
    rows = prompts()
    sparse, place = steering.coupled.sparse, steering.coupled.sparse_sites[site]
    change = rows.change(steering.reads(rows)[site])[..., channel]
    found, whole = (
        curve(steering, node_candidate(steering, site, channel), rows, STRENGTHS, whole=over) for over in (False, True)
    )
    for strength, values, of_all in zip(STRENGTHS, found, whole, strict=True):

        def patch(x: Tensor, point, strength: float = strength) -> Tensor:
            x = x.clone()
            x[..., channel] += strength * change
            return x

        with hooked(sparse, {place.normed: patch}):
            logits = sparse(rows.presented, at=rows.last)
        probability = logits.softmax(-1)
        asked, shown = (probability.gather(-1, of[:, None])[:, 0] for of in (rows.asked, rows.shown))
        torch.testing.assert_close(of_all, asked)
        torch.testing.assert_close(values, asked / (asked + shown))
    assert float((found[2] - found[0]).abs().max()) > 1e-4


def test_the_whole_own_change_at_the_first_site_is_the_other_prompt(steering):
    """Site 0 reads the embeddings alone: attention then does what it does on the counterfactual, but the stream beside it is the old one."""
    rows = prompts()
    made = own_change(steering, 0).made(rows)
    reads = steering.dense_reads(rows)[0]
    other = reads.roll(len(reads) // 2, 0)
    inside = (torch.arange(reads.shape[1]) <= rows.last[:, None])[..., None]
    torch.testing.assert_close(torch.where(inside, reads + made, other), other)
    assert (made.norm(dim=-1) > 1e-9).sum(1).eq(1).all(), "the prompts differ in one token"


def test_prompts():
    rows = prompts()
    assert rows.presented.shape == (10, 5), "the pair with sides of different lengths is left out, padding too"
    assert (
        rows.presented[:5, 2].eq(1).all()
        and rows.asked[:5].eq(4).all()
        and rows.shown[:5].eq(3).all()
        and rows.sign[:5].eq(-1).all()
    )
    assert rows.presented[5:, 2].eq(2).all() and rows.asked[5:].eq(3).all() and rows.sign[5:].eq(1).all()
    change = rows.change(rows.presented[..., None].double())
    assert change[:5, 2].eq(1).all() and change[5:, 2].eq(-1).all() and change.abs().sum() == 10
    assert Prompts.of(pairs(n=3)) is None, "two pairs are too few"
    assert Prompts.of(pairs(n=1)) is None, "there is none at all"
    with pytest.raises(ValueError, match="task toy asks for anything but a token"):
        Prompts.of(replace(pairs(), answers=torch.tensor([[3, -1]] * 6)))


def test_nodes_that_no_layer_reads_are_none(steering):
    assert steering.site_of(NodeId("blocks.1.mlp.hook_in", 3)) == 3
    assert steering.site_of(NodeId("blocks.0.attn.hook_in", 3)) == 0
    assert steering.site_of(NodeId("blocks.1.mlp.hook_neuron", 3)) is None


@pytest.mark.parametrize("control", CONTROLS)
def test_controls_are_as_many_and_as_long_at_the_same_tokens(steering, control):
    nodes = [
        (1, 1),
        (2, 5),
        (3, 6),
    ]  # in front of the first attention the last token knows nothing, and has no difference of means
    candidates = [node_candidate(steering, *node) for node in nodes]
    made = controls(steering, control, nodes, candidates, prompts(), seed=0)
    assert [one.site for one in made] == [1, 2, 3]
    other = prompts(seed=1)
    for one, like in zip(made, candidates, strict=True):
        values, wanted = one.made(other), like.made(other)
        if control != "random node":
            torch.testing.assert_close(values.norm(dim=-1), wanted.norm(dim=-1))
        cosine = torch.cosine_similarity(values, wanted, dim=-1)[wanted.norm(dim=-1) > 1e-9]
        assert float(cosine.abs().mean()) < 0.99, "another direction than the node's"
    again = controls(steering, control, nodes, candidates, prompts(), seed=0)
    assert torch.equal(again[1].made(other), made[1].made(other))


def test_differences_of_means_point_to_the_counterfactual(steering):
    """Known answer: reads of the first site differ in one token alone, so the mean over all tokens is along that difference, and the last token has none."""
    rows = prompts()
    like = own_change(steering, 0)
    every = controls(steering, "difference of means, all tokens", [(0, 1)], [like], rows, 0)[0].made(rows)
    torch.testing.assert_close(every, like.made(rows), rtol=1e-6, atol=1e-9)
    last = controls(steering, "difference of means", [(0, 1)], [like], rows, 0)[0].made(rows)
    assert float(last.abs().max()) == 0


def test_the_best_candidate_is_chosen_and_movement_is_of_the_mean(steering):
    rows = prompts()
    answer = steering.coupled.dense.unembed.weight[3] - steering.coupled.dense.unembed.weight[4]
    # along the answer's own direction, as the counterfactual asks for it, and against it
    like = Candidate(site=4, made=lambda prompts: torch.ones(*prompts.presented.shape, D, dtype=torch.float64))
    good, bad = along(like, answer, signed=True), along(like, -answer, signed=True)
    best, probability = chosen(steering, [bad, good], rows)
    assert best is good
    found = curve(steering, good, rows, STRENGTHS)
    assert probability == pytest.approx(float(found[-1].mean())) and float(found[-1].mean()) > float(found[0].mean())
    assert moved(torch.tensor([[0.2, 0.4], [0.9, 0.1], [0.3, 0.3]])) == pytest.approx(0.2)
    assert sqrt(float(along(like, answer, signed=False).made(rows)[0, 0].square().sum())) == pytest.approx(4.0)
