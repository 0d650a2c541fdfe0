"""Models of rows of demonstrations: how they start, and that questions are read and asked as they should be."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sparsetrain.curriculum.arms import ChoiceConfig
from sparsetrain.data.worlds.functions import LENGTH, FunctionsConfig, draw_world, even_rows, prompt
from sparsetrain.hooks import hooked
from sparsetrain.kernels.attention import attention_pattern
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.representation.measures import MEASURES
from sparsetrain.studies.demonstrated import (
    deal,
    look,
    model_for,
    put,
    row_sparsity,
    score_in_context,
    start_matching_,
)
from sparsetrain.training.objectives import answers_loss

CONFIG = FunctionsConfig(n_symbols=5, n_shots=5, n_seen=10, n_held=3)
WORLD = draw_world(CONFIG, 0)
CHOICE = ChoiceConfig(n_shown=3, n_retrieved=6, n_levels=3, n_draws=4)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    small = ModelConfig(n_layer=2, d_model=64, bigram=False, abs_topk={}, init_std=0.3)
    made = Transformer(model_for(CONFIG, small))
    start_matching_(made, CONFIG)
    return made.eval()


def test_every_answer_is_trained_on_and_nothing_else(model: Transformer) -> None:
    tokens = torch.from_numpy(even_rows(CONFIG, WORLD.of("seen")[:6], 1, np.random.default_rng(0)).tokens)
    logits = model(tokens[:, :-1])
    by_hand = [
        F.cross_entropy(logits[row, at - 1], tokens[row, at])
        for row in range(len(tokens))
        for at in range(LENGTH - 1, tokens.shape[1], LENGTH)
    ]
    assert len(by_hand) == 6 * CONFIG.n_pairs
    torch.testing.assert_close(answers_loss(LENGTH)(model, {"tokens": tokens}), torch.stack(by_hand).mean())


def test_the_first_layer_starts_by_gathering_a_pair(model: Transformer) -> None:
    tokens = torch.from_numpy(even_rows(CONFIG, WORLD.of("seen"), 3, np.random.default_rng(0)).tokens)
    seen: dict[str, torch.Tensor] = {}

    def watch(x, point):
        seen[point.name] = x
        return x

    names = [f"blocks.0.attn.hook_{name}" for name in "qk"]
    with torch.no_grad(), hooked(model, dict.fromkeys(names, watch)):
        model(tokens[:, :-1])
    q, k = (seen[name].unflatten(2, (4, 16)).transpose(1, 2) for name in names)
    at = CONFIG.n_tokens - 2  # the last ask: its pair are three of 23 tokens
    own = attention_pattern(q, k, None)[:, :, at, at - 2 : at + 1].sum(-1).mean()
    assert own > 0.6


def test_reading_the_last_ask_is_reading_rows(model: Transformer) -> None:
    tokens = even_rows(CONFIG, WORLD.of("unseen")[:4], 2, np.random.default_rng(1)).tokens
    whole, last = look(model, tokens[:, :-1]), look(model, tokens[:, :-1], last=True)
    assert whole.sparsity.shape == (8, CONFIG.n_pairs) and last.sparsity.shape == (8, 1)
    np.testing.assert_allclose(whole.logits[:, -1:], last.logits, atol=1e-6)
    gini = MEASURES["gini"].fn(torch.from_numpy(whole.vectors)).numpy()
    np.testing.assert_allclose(whole.sparsity, gini, atol=1e-5)
    np.testing.assert_allclose(row_sparsity(model, tokens), whole.sparsity.mean(1), atol=1e-6)
    short = look(model, tokens[:, : 2 * LENGTH - 1], last=True)  # what comes later is not seen
    np.testing.assert_allclose(short.logits[:, 0], whole.logits[:, 1], atol=1e-5)


def test_questions_are_not_in_the_pool() -> None:
    dealt = deal(CONFIG, WORLD.of("unseen")[0], 18, np.random.default_rng(0))
    pool, asked = ({tuple(pair) for pair in inputs.tolist()} for inputs in (dealt.pool, dealt.asked))
    assert len(pool) == 18 and len(asked) == 7 and not pool & asked
    a, b, y = dealt.pairs([2])[0]
    assert (a, b) == tuple(dealt.pool[2]) and y == dealt.function.answers[a, b] == dealt.answers(dealt.pool)[2]


def test_a_score_is_the_mean_over_prompts(model: Transformer) -> None:
    dealt = deal(CONFIG, WORLD.of("unseen", "affine")[0], 3, np.random.default_rng(0))
    of_pool, of_asked = score_in_context(model, CONFIG, dealt, 2, 3, np.random.default_rng(0))
    assert of_pool.sparsity.shape == (3,) and of_asked.loss.shape == (22,)
    # Of three examples the other two stand in front of each; in either order.
    a, b = dealt.pool[0].tolist()
    rows = [prompt(CONFIG, dealt.pairs(order), (a, b)) for order in ([1, 2], [2, 1])]
    one, other = look(model, np.stack(rows), last=True).sparsity[:, 0]
    expected = [(i * one + (3 - i) * other) / 3 for i in range(4)]
    assert min(abs(of_pool.sparsity[0] - value) for value in expected) < 1e-6


def test_every_way_asks_every_question(model: Transformer) -> None:
    dealt = deal(CONFIG, WORLD.of("unseen", "conditional")[0], 18, np.random.default_rng(0))
    scores = score_in_context(model, CONFIG, dealt, 2, 2, np.random.default_rng(0))
    found = put(model, CONFIG, dealt, CHOICE, scores, 0, np.random.default_rng(0))
    assert {"zero_shot", "random_order", "drawn", "matched", "published", "easy_to_hard"} <= set(found)
    for right, loss in found.values():
        assert right.shape == loss.shape == (7,) and ((right >= 0) & (right <= 1)).all() and (loss > 0).all()
    a, b = dealt.asked[0].tolist()
    alone = look(model, prompt(CONFIG, [], (a, b))[None], last=True)
    np.testing.assert_allclose(
        found["zero_shot"][1][0], alone.loss(dealt.answers(dealt.asked)[:1, None])[0, 0], atol=1e-6
    )
    again = put(model, CONFIG, dealt, CHOICE, scores, 0, np.random.default_rng(0))
    other = put(model, CONFIG, dealt, replace(CHOICE, seed=1), scores, 0, np.random.default_rng(0))
    assert all((found[way][1] == again[way][1]).all() for way in found)
    assert (found["random_order"][1] != other["random_order"][1]).any()
    assert (found["similarity"][1] == other["similarity"][1]).all()
    assert (found["dealt"][1] != found["published"][1]).any()
    assert (found["matched, by entropy"][1] != found["matched"][1]).any()
