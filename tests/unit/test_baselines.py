"""Rankings: integrated gradients are complete, and every ranking ends in a circuit by the same procedure."""

import pytest
import torch

from circuits.baselines import attribution, circuit_by_ranking, integrated_effects, integrated_gradients, random_scores
from circuits.masks import NodeSpace
from circuits.means import measure_means
from circuits.prune import PruneConfig, Run, masked_answers
from circuits.tasks.loss import pair_logit_diff
from tests.planted.string_closing import D_VOCAB, NODES, string_closing_model, string_pairs, text_windows

CONFIG = PruneConfig(candidate_share=0.05)


def test_integrated_effects_of_a_hook_point_sum_to_what_its_ablation_changes(make_model):
    model = make_model(d_vocab=D_VOCAB, d_model=16, abs_topk={}).eval().requires_grad_(False)
    space, pairs = NodeSpace.of(model), string_pairs(6, seed=1)
    means = torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(0))
    effects = integrated_effects(model, space, means, pairs, 32, 8)  # several batches
    keep = torch.ones(1 + len(space.names), space.n_nodes, dtype=torch.bool)
    for i, name in enumerate(space.names):
        keep[1 + i, space.slice(name)] = False
    answers = masked_answers(model, space, keep, means, [pairs] * len(keep), 64)
    m = pair_logit_diff(answers)
    for i, name in enumerate(space.names):
        by_pair = effects[:, space.slice(name)].sum(1).unflatten(0, (-1, 2)).mean(1)
        assert torch.allclose(by_pair, m[0] - m[1 + i], atol=2e-3), name
        assert (m[0] - m[1 + i]).abs().max() > 0.01, "the ablation must change something"


def test_no_steps_are_refused(make_model):
    model = make_model(d_vocab=D_VOCAB, d_model=16)
    space = NodeSpace.of(model)
    with pytest.raises(ValueError, match="n_steps=0"):
        integrated_effects(model, space, torch.zeros(space.n_nodes), string_pairs(2, seed=1), 0, 8)


@pytest.fixture(scope="module")
def planted():
    model = string_closing_model()
    return model, measure_means(model, text_windows(256, seed=5), source="planted text", weights_sha256="0" * 64).values


def test_rankings_lead_to_the_planted_circuit_and_better_ones_from_shorter_prefixes(planted):
    model, means = planted
    space = NodeSpace.of(model)
    run = Run(seed=0, train=string_pairs(32, 0), val=string_pairs(32, 2))
    scores = {
        "gradient": attribution(model, space, means, run.train, 256),
        "integrated": integrated_gradients(model, space, means, run.train, 4, 256),
        "random": random_scores(space.n_nodes, 0),
    }
    found = {name: circuit_by_ranking(model, space, means, run, x, 0.15, CONFIG) for name, x in scores.items()}
    for pruned in found.values():
        assert pruned.reached and pruned.loss <= 0.15
        assert space.nodes(pruned.keep) == NODES
    assert found["gradient"].n_ranked < found["random"].n_ranked
    assert found["integrated"].n_ranked < found["random"].n_ranked


def test_scores_of_another_model_are_refused(planted):
    model, means = planted
    run = Run(seed=0, train=string_pairs(4, 0), val=string_pairs(4, 2))
    with pytest.raises(ValueError, match="the model has"):
        circuit_by_ranking(model, NodeSpace.of(model), means, run, torch.zeros(3), 0.15, CONFIG)
