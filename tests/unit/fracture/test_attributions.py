"""Every node ablated in a batch against one at a time through `circuits.ablate`; sets, dead nodes, other orders; numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.ablate import ablate
from circuits.fracture import attributions
from circuits.fracture.attributions import (
    AttributionsConfig,
    asked_some,
    joint_effects,
    node_readings,
    nodes_of,
    question_means,
    strongest,
)
from circuits.fracture.engine import Asked, margins, unchanged_logits
from circuits.fracture.measures import redundancy
from circuits.fracture.questions import of_language
from circuits.masks import NodeSpace
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import ModelConfig, Transformer

WORLD = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger")), 0)
QUESTIONS = of_language(WORLD)
EVERYTHING = Asked.of(WORLD.train, 6)
ASKED = asked_some(EVERYTHING, 3, 0)
CONFIG = ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=2, d_model=8, d_head=4, d_mlp=16, n_ctx=6, abs_topk={}, positions="learned")  # fmt: skip


def example(seed: int = 0, abs_topk: float | None = None) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(replace(CONFIG, abs_topk={} if abs_topk is None else dict.fromkeys(NODE_KINDS, abs_topk)))
    with torch.no_grad():
        model.embed.weight.normal_()
        model.unembed.weight.normal_()
    return model


@pytest.mark.parametrize("model", [example(), example(1, 0.25)], ids=["dense", "abs_topk"])
def test_every_node_is_as_if_it_were_ablated_alone(model, monkeypatch) -> None:
    monkeypatch.setattr(attributions, "TOKENS_OF_A_PASS", 7 * ASKED.prompts.numel())  # the last pass is a short one
    means = question_means(model, QUESTIONS)
    kinds = ("attn_v", "mlp_neuron")
    found = node_readings(model, ASKED, means, kinds)
    assert found.nodes.tolist() == nodes_of(means.space, kinds).tolist() and len(found.nodes) == 2 * (8 + 16)
    plain = unchanged_logits(model, ASKED.prompts)
    for column in range(0, len(found.nodes), 5):
        node = means.space.id(int(found.nodes[column]))
        for row in range(0, len(ASKED.tokens), 4):
            one = ablate(model, ASKED.prompts[row], [node], "mean", means=means)
            # margins are differences of log probabilities, and centred logits have the same differences
            answer = ASKED.answers[row : row + 1]
            by_hand = margins(plain[row : row + 1], answer) - margins(one.after.log()[None], answer)
            assert found.moved[row, column] == pytest.approx(float(by_hand), abs=1e-4)
            change = one.after.log() - plain[row].log_softmax(-1)
            length = float((change - change.mean()).norm())
            assert found.contributions[row, column] == pytest.approx(length, abs=3e-4)
    rows = ASKED.behaviour == 4
    np.testing.assert_allclose(found.effects[4], found.moved[rows.numpy()].mean(0), atol=1e-9)
    assert len(ASKED.tokens) == 18 and int(rows.sum()) == 3


def test_a_dead_node_does_nothing_exactly_and_needs_no_pass(monkeypatch) -> None:
    model = example()
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight[3] = 0
        model.blocks[0].mlp.W_in.bias[3] = 0
    means = question_means(model, QUESTIONS)
    dead = means.space.number("blocks.0.mlp.hook_neuron:3")
    masks = []
    through = attributions.ablated_logits
    monkeypatch.setattr(attributions, "ablated_logits", lambda *given: (masks.append(given[3]), through(*given))[1])
    found = node_readings(model, ASKED, means)
    assert not any((~keep[:, dead]).any() for keep in masks)
    assert not found.moved[:, dead].any() and not found.contributions[:, dead].any()
    assert (found.contributions.any(0)).sum() > 0.9 * means.space.n_nodes


def test_sets_of_nodes_together() -> None:
    model = example()
    means = question_means(model, QUESTIONS)
    found = node_readings(model, ASKED, means)
    one_each = torch.from_numpy(strongest(found.effects, 1))  # with all kinds, node numbers are those of the space
    np.testing.assert_allclose(joint_effects(model, ASKED, means, one_each), found.effects.max(1), atol=1e-5)
    np.testing.assert_allclose(redundancy(joint_effects(model, ASKED, means, one_each), found.effects.max(1)[:, None]), 0, atol=1e-4)  # fmt: skip
    several = torch.from_numpy(strongest(found.effects, 3))
    node_names = [[means.space.id(i) for i in row.nonzero().flatten().tolist()] for row in several]
    rows = (ASKED.behaviour == 2).nonzero().flatten()
    plain = unchanged_logits(model, ASKED.prompts)
    by_hand = []
    for row in rows:
        after = ablate(model, ASKED.prompts[row], node_names[2], "mean", means=means).after.log()
        answer = ASKED.answers[row : row + 1]
        by_hand.append(float(margins(plain[row : row + 1], answer) - margins(after[None], answer)))
    assert joint_effects(model, ASKED, means, several)[2] == pytest.approx(np.mean(by_hand), abs=1e-4)
    nothing = torch.zeros(6, means.space.n_nodes, dtype=torch.bool)
    assert not joint_effects(model, ASKED, means, nothing).any()


def test_strongest_by_hand() -> None:
    effects = np.array([[3.0, -9.0, 1.0, 2.0], [-1.0, -2.0, 0.5, 0.0]])
    assert strongest(effects, 2).tolist() == [[True, False, False, True], [False, False, True, False]]


def test_other_orders_of_behaviours_and_of_neurons_change_nothing_else() -> None:
    model = example()
    means = question_means(model, QUESTIONS)
    found = node_readings(model, ASKED, means)
    turned = Asked(tokens=ASKED.tokens, behaviour=5 - ASKED.behaviour, n_behaviours=6)
    np.testing.assert_array_equal(node_readings(model, turned, means).effects, found.effects[::-1])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    other = example()
    with torch.no_grad():
        mlp = other.blocks[1].mlp
        mlp.W_in.weight.copy_(mlp.W_in.weight[order])
        mlp.W_out.weight.copy_(mlp.W_out.weight[:, order])
    again = node_readings(other, ASKED, question_means(other, QUESTIONS))
    here = NodeSpace.of(model).slice("blocks.1.mlp.hook_neuron")
    np.testing.assert_allclose(again.effects[:, here], found.effects[:, here][:, order.numpy()], atol=1e-4)
    np.testing.assert_array_equal(node_readings(model, ASKED, means).moved, found.moved)  # itself: exactly


def test_prompts_are_drawn_evenly() -> None:
    assert torch.bincount(ASKED.behaviour).tolist() == [3] * 6
    assert torch.equal(asked_some(EVERYTHING, 10**6, 1).tokens, EVERYTHING.tokens)
    assert not torch.equal(asked_some(EVERYTHING, 3, 1).tokens, ASKED.tokens)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"kinds has unknown entries \['resid'\]; allowed: attn_in"):
        AttributionsConfig(kinds=("resid", "attn_v"))
    with pytest.raises(ValueError, match="kinds is empty"):
        AttributionsConfig(kinds=())
