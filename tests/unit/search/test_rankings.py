"""Rankings: integrated gradients are complete, and every ranking ends in a circuit by the same procedure."""

import pytest
import torch

from circuits.answers import Ablated, run_answers
from circuits.edges import edge_weights, join_weight, joins
from circuits.masks import NodeSpace
from circuits.means import measure_means
from circuits.search.learn import Aim, MaskRun, PruneConfig, attribution
from circuits.search.rankings import (
    circuit_by_ranking,
    edge_effects,
    integrated_effects,
    integrated_gradients,
    random_scores,
    strongest_edges,
)
from circuits.tasks.loss import pair_logit_diff
from sparsetrain.hooks import hooked
from tests.planted.string_closing import D_VOCAB, NODES, string_closing_model, string_pairs, text_windows

CONFIG = PruneConfig(candidate_share=0.05)


def test_integrated_effects_of_a_hook_point_sum_to_what_its_ablation_changes(make_model):
    model = make_model(d_vocab=D_VOCAB, d_model=16, abs_topk={}).eval().requires_grad_(False)
    space, pairs = NodeSpace.of(model), string_pairs(6, seed=1)
    means = torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(0))
    effects = integrated_effects(Ablated(model=model, means=means, max_rows=8), pairs, 32)  # several batches
    keep = torch.ones(1 + len(space.names), space.n_nodes, dtype=torch.bool)
    for i, name in enumerate(space.names):
        keep[1 + i, space.slice(name)] = False
    answers = Ablated(model=model, means=means, max_rows=64).answers(keep, pairs)
    m = pair_logit_diff(answers)
    for i, name in enumerate(space.names):
        by_pair = effects[:, space.slice(name)].sum(1).unflatten(0, (-1, 2)).mean(1)
        assert torch.allclose(by_pair, m[0] - m[1 + i], atol=2e-3), name
        assert (m[0] - m[1 + i]).abs().max() > 0.01, "the ablation must change something"


@pytest.mark.parametrize("biases", [True, False])
def test_effects_of_edges_sum_to_what_all_edges_do(make_model, biases):
    model = make_model(d_vocab=D_VOCAB, d_model=16, abs_topk={}, biases=biases).eval().requires_grad_(False)
    model.blocks[1].attn.W_q.weight.zero_()  # no edge can be deleted here, so a layer without biases gets none
    space, pairs = NodeSpace.of(model), string_pairs(6, seed=1)
    means = 0.3 * torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(0))

    def m(share: dict[str, torch.Tensor]) -> float:
        with edge_weights(model, space, share, means) as hooks, hooked(model, hooks), torch.no_grad():
            return float(pair_logit_diff(run_answers(model, [pairs])[0]).mean())

    def shares(value: float) -> dict[str, torch.Tensor]:
        return {join.linear: torch.full_like(join_weight(model, space, join), value) for join in joins(model)}

    effects = edge_effects(Ablated(model=model, means=means, max_rows=8), pairs, 64)  # several batches
    assert not any(parameter.requires_grad for parameter in model.parameters())
    change = m(shares(1.0)) - m(shares(0.0))
    assert abs(change) > 0.01, "the edges must do something"
    assert sum(float(effect.sum()) for effect in effects.values()) == pytest.approx(change, abs=2e-3)
    # One edge alone: its effect at the only point of a one-step rule is the slope of m in its own share there.
    at_half = edge_effects(Ablated(model=model, means=means, max_rows=64), pairs, 1)
    for linear in ("blocks.0.attn.W_o", "blocks.1.mlp.W_in"):
        row, column = divmod(int(at_half[linear].abs().argmax()), at_half[linear].shape[1])
        values = []
        for change_of_one in (0.05, -0.05):
            share = shares(0.5)
            share[linear][row, column] += change_of_one
            values.append(m(share))
        assert float(at_half[linear][row, column]) == pytest.approx((values[0] - values[1]) / 0.1, rel=0.02, abs=1e-5)


def test_a_node_ranks_as_its_strongest_edge(make_model):
    model = make_model(d_vocab=D_VOCAB, d_model=16)
    space = NodeSpace.of(model)
    effects = {join.linear: torch.zeros_like(join_weight(model, space, join)) for join in joins(model)}
    effects["blocks.0.mlp.W_in"][3, 5] = -2.0
    effects["blocks.0.mlp.W_out"][7, 3] = 1.0
    scores = strongest_edges(model, space, effects)
    ranked = {"blocks.0.mlp.hook_in:5": 2.0, "blocks.0.mlp.hook_neuron:3": 2.0, "blocks.0.mlp.hook_out:7": 1.0}
    assert {node: float(scores[space.number(node)]) for node in ranked} == ranked
    assert float(scores.sum()) == 5.0


def test_no_steps_are_refused(make_model):
    model = make_model(d_vocab=D_VOCAB, d_model=16)
    ablated = Ablated(model=model, means=torch.zeros(NodeSpace.of(model).n_nodes))
    with pytest.raises(ValueError, match="n_steps=0"):
        integrated_effects(ablated, string_pairs(2, seed=1), 0)


@pytest.fixture(scope="module")
def planted():
    model = string_closing_model()
    means = measure_means(model, text_windows(256, seed=5), source="planted text", weights_sha256="0" * 64).values
    return Aim(model=model, means=means, target=0.15, config=CONFIG)


def test_rankings_lead_to_the_planted_circuit_and_better_ones_from_shorter_prefixes(planted):
    space = planted.space
    run = MaskRun(seed=0, train=string_pairs(32, 0), val=string_pairs(32, 2))
    scores = {
        "gradient": attribution(planted, run.train),
        "integrated": integrated_gradients(planted, run.train, 4),
        "edges": strongest_edges(planted.model, space, edge_effects(planted, run.train, 4)),
        "random": random_scores(space.n_nodes, 0),
    }
    found = {name: circuit_by_ranking(planted, run, x) for name, x in scores.items()}
    for pruned in found.values():
        assert pruned.reached and pruned.loss <= 0.15
        assert space.nodes(pruned.keep) == NODES
    assert found["gradient"].n_ranked < found["random"].n_ranked
    assert found["integrated"].n_ranked < found["random"].n_ranked
    assert found["edges"].n_ranked < found["random"].n_ranked


def test_scores_of_another_model_are_refused(planted):
    run = MaskRun(seed=0, train=string_pairs(4, 0), val=string_pairs(4, 2))
    with pytest.raises(ValueError, match="the model has"):
        circuit_by_ranking(planted, run, torch.zeros(3))
