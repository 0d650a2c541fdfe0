"""Reading models together: copies are alike in every number, kinds of perturbation keep their promise, coherence knows a model that knows the symmetry."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.fracture import measured
from circuits.fracture.attributions import AttributionsConfig
from circuits.fracture.behaviour_circuits import CircuitsConfig
from circuits.fracture.measured import SETS, ReadConfig, n_parts, of_items, read_models
from circuits.fracture.measures import effective_units
from circuits.fracture.questions import of_language
from circuits.search.learn import PruneConfig
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules
from sparsetrain.model import ModelConfig, Transformer

WORLD = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger"), n_held=1), 0)
QUESTIONS = of_language(WORLD)
CONFIG = ReadConfig(
    n_perturbations=6,
    n_variants=4,
    n_prompts=3,
    n_largest=4,
    target_kl=0.01,
    attributions=AttributionsConfig(n_prompts=2, n_joint=2),
    circuits=CircuitsConfig(n_pairs=4, n_tries=1, prune=PruneConfig(n_steps=4, n_pairs=2)),
)


def example(seed: int) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=1, d_model=8, d_head=4, d_mlp=8, n_ctx=5, abs_topk={}, positions="concat", d_pos=4))  # fmt: skip
    with torch.no_grad():
        model.embed.weight.normal_()
        model.unembed.weight.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def read():
    told: list[int] = []
    models = {"a": example(0), "copy": example(0), "b": example(1)}
    found = read_models(models, QUESTIONS, CONFIG, lambda: told.append(1))
    assert len(told) == n_parts(len(models))
    return found


def test_a_copy_has_the_same_numbers_and_another_model_has_not(read):
    a, copy, b = (read[name].numbers() for name in ("a", "copy", "b"))
    assert a.keys() == b.keys() and all(a[key] == copy[key] or (np.isnan(a[key]) and np.isnan(copy[key])) for key in a)
    assert sum(a[key] != b[key] for key in a) > 15


def test_all_models_are_perturbed_to_one_effect(read):
    for one in read.values():
        assert set(one.kl) == set(SETS)
        assert all(kl == pytest.approx(CONFIG.target_kl, rel=0.011) for kl in one.kl.values())
        assert all(r.shape == (6 if not which else 4, 6) and (r >= 0).all() for which, r in one.responses.items())


def test_an_effect_out_of_reach_leaves_numbers_out_and_keeps_the_others(caplog):
    found = read_models({"a": example(0)}, QUESTIONS, replace(CONFIG, target_kl=1e4))["a"].numbers()
    assert np.isnan(found["modularity"]) and np.isnan(found["coherence"]) and np.isfinite(found["fracture"])
    assert "no number is read of these perturbations" in caplog.text


def test_a_file_of_questions_has_no_relabelling_and_everything_else():
    found = read_models({"a": example(0)}, replace(QUESTIONS, world=None), CONFIG)["a"].numbers()
    assert np.isnan(found["coherence"]) and np.isfinite(found["fracture"]) and np.isfinite(found["gradients"])


def test_circuits_that_miss_their_target_are_none(read):
    """Random weights answer nothing, so no circuit does, and there is no union of them."""
    assert all(np.isnan(one.numbers()["union"]) and one.numbers()["circuits found"] == 0 for one in read.values())


def test_numbers_of_items_by_hand():
    nan = float("nan")
    assert of_items("share", np.array([1.0, nan, 3.0])) == 2.0
    # joint effects 4 and 6, single ones 1 and 4: half of what joint ablations take is missed by single ones
    assert of_items("redundancy", np.array([[4.0, 1.0], [6.0, 4.0], [nan, 9.0]])) == 0.5
    assert np.isnan(of_items("share", np.empty(0))) and np.isnan(of_items("redundancy", np.empty((0, 2))))


def test_share_is_of_nodes_that_work_on_any_input():
    """Four nodes, of which each input uses one: N_eff is 1, a quarter of the living ones, and not all of those of the input."""
    c = np.eye(4)
    assert measured._divided(effective_units(c), 4.0).tolist() == [0.25] * 4


@pytest.mark.parametrize(("moves", "expected"), [(True, 1.0), (False, None)])
def test_coherence_is_one_where_a_change_moves_with_the_symbols(monkeypatch, moves, expected):
    """A change of the logits that depends on the difference to the answer alone knows no symbol; one that hits symbol 0 does."""
    p = WORLD.config.n_symbols
    pattern = torch.tensor([3.0, 1.0, 0.0, -1.0, 0.5, 0.0])

    def changed(model, prompts, changes):
        answer = WORLD.answers[0, 0][prompts_a(prompts), 0]
        rolled = torch.stack([pattern.roll(int(a)) for a in answer]) if moves else pattern.repeat(len(answer), 1)
        yield torch.nn.functional.pad(rolled, (0, WORLD.config.d_vocab - p))[None].repeat(len(changes), 1, 1)

    def prompts_a(prompts):
        inputs = {tuple(tokens[:-1]): a for tokens, a in zip(WORLD.inputs.tokens.tolist(), WORLD.inputs.a, strict=True)}
        return [inputs[tuple(row)] for row in prompts.tolist()]

    monkeypatch.setattr(measured, "perturbed_logits", changed)
    monkeypatch.setattr(measured, "unchanged_logits", lambda model, prompts: torch.zeros(len(prompts), WORLD.config.d_vocab))  # fmt: skip
    found = measured._coherence(example(0), QUESTIONS, [object()] * 3, 1.0)  # pyright: ignore[reportArgumentType]
    centred = pattern - pattern.mean()
    by_hand = float((centred * centred.roll(-1)).sum() / centred.square().sum())
    assert found.tolist() == pytest.approx([expected or by_hand] * 3)
