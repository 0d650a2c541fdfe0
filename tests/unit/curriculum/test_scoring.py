"""Scores of a model whose sparsity on every letter is known; what is kept of them, and under what."""

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from planted_reader import WIDTH, item_of, passes_of, planted_reader

from sparsetrain.adapters import LanguageModel
from sparsetrain.curriculum.arms import Asked, ChoiceConfig, chosen
from sparsetrain.curriculum.prompting import pool_of
from sparsetrain.curriculum.prompts import Example
from sparsetrain.curriculum.ranking import levels_of, ranks
from sparsetrain.curriculum.scoring import ScoreConfig, Scores, directions, score
from sparsetrain.representation.items import Item
from sparsetrain.representation.measures import HEADLINE

RIGHT = log(1 + 127 * exp(-10))
"""Loss of an answer that is predicted; one that is not costs 10 nats more."""


def letters(n: int) -> str:
    return chr(ord("a") + n - 1)


def read(folder: Path, items: list[Item], model: LanguageModel | None = None, **settings) -> Scores:
    return score(model or planted_reader(), items, ScoreConfig(**settings), folder)


def test_every_score_by_hand(tmp_path):
    """Questions end in the letters 3, 12 and 7; the second and third answer are what is predicted behind them."""
    items = [item_of("zc", "9"), item_of("l", "2"), item_of("abg", "7")]
    found = read(tmp_path, items)
    assert found.sparsity == pytest.approx([1 - n / WIDTH for n in (3, 12, 7)])
    assert found.loss == pytest.approx([RIGHT + 10, RIGHT, RIGHT], abs=1e-6)
    assert found.correct.tolist() == [0, 1, 1] and found.length.tolist() == [4, 3, 5]
    assert found.logit_norm == pytest.approx(10 * (1 - 1 / 128) ** 0.5)  # less the mean of 128 logits
    assert ranks(found.sparsity).tolist() == [2, 0, 1] and levels_of(found.sparsity, 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize(("read_out", "want"), [("last", [2.0, 6.0]), ("all", [1.5, 5.0]), ("first", [1.0, 1.0])])
def test_read_outs_see_the_question_alone(tmp_path, read_out, want):
    """Letters 1, 2 and 4, 5, 6, whatever answer stands behind them, and however long it is."""
    for answers in (("2", "6"), ("zz", "tttt")):
        items = [item_of(q, a) for q, a in zip(("ab", "def"), answers, strict=True)]
        assert read(tmp_path, items, read_out=read_out).sparsity == pytest.approx([1 - n / WIDTH for n in want])


def test_measures_for_which_lower_is_sparser_are_turned(tmp_path):
    items = [item_of(letters(n), "0") for n in (4, 1, 9)]
    turned = read(tmp_path, items, measure="participation_ratio")
    assert turned.measured == pytest.approx([4, 1, 9]) and turned.sparsity == pytest.approx([-4, -1, -9])
    assert (
        ranks(turned.sparsity).tolist() == ranks(read(tmp_path, items, measure=HEADLINE).sparsity).tolist() == [1, 2, 0]
    )
    top = read(tmp_path, items, measure="top5")  # one of 20 channels: energy 1/n
    assert top.sparsity == pytest.approx([1 / 4, 1, 1 / 9])


def test_from_activations_to_demonstrations(tmp_path):
    """Ten examples that end in the letters 20, 18, .. 2: the n-th is the n-th in sparsity. Questions in between, and beyond both ends."""
    examples = [Example(question=letters(20 - 2 * i), answer="0") for i in range(10)]
    asked = {"t": (0, 1), "q": (0, 2), "j": (5, 4), "a": (8, 9), "z": (0, 2)}  # as published, two shown
    items = [item_of(e.question, e.answer) for e in examples] + [item_of(q, "5") for q in asked]
    found = read(tmp_path, items)
    pool = pool_of(examples, found[np.arange(10)])
    assert levels_of(pool.sparsity, 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    similarity = np.linspace(1, 0, 10)  # the densest are the most similar
    lists = {
        q: chosen(
            pool,
            Asked(sparsity=float(found.sparsity[10 + i]), similarity=similarity, allowed=np.ones(10, dtype=bool)),
            ChoiceConfig(n_shown=2, n_retrieved=10),
            "published",
            i,
        )
        for i, q in enumerate(asked)
    }
    # t has the score of example 0 (level 0), q that lies between examples 1 and 2 (level 1), j that of example 5 (level 2),
    # a is sparser than all (level 4), z has 20 channels as t has.
    assert lists == {"t": [(0, 2)], "q": [(2, 4)], "j": [(4, 5)], "a": [(6, 8)], "z": [(0, 2)]}


def test_resemblance_is_the_cosine_of_means_without_what_all_have_in_common(tmp_path):
    """Means over b, (a, b) and t less the mean over the three, by numpy."""
    items = [item_of("b", "0"), item_of("ab", "0"), item_of("t", "0")]
    on = {n: (np.arange(WIDTH) < n).astype(float) for n in (1, 2, 20)}
    rows = np.stack([on[2], (on[1] + on[2]) / 2, on[20]])
    rows -= rows.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = read(tmp_path, items)
    np.testing.assert_allclose(found.similarity(found), rows @ rows.T, atol=1e-9)
    assert found[np.array([0])].similarity(found[np.array([1, 2])]).shape == (2, 1)
    assert directions(np.ones((3, 4))).tolist() == np.zeros((3, 4)).tolist()


def test_what_was_read_is_found_again_under_model_content_and_measure(tmp_path):
    items = [item_of(letters(n), "0") for n in range(1, 9)]
    model = planted_reader()
    first = read(tmp_path, items, model)
    n = passes_of(model)
    assert n > 0
    for again in (read(tmp_path, items, model), read(tmp_path, items, model, read_out="all")):
        assert again.vectors.tolist() == first.vectors.tolist()
    assert score(model, items, ScoreConfig(), tmp_path, batch_size=3).loss.tolist() == first.loss.tolist()
    assert passes_of(model) == n
    for change in ({"measure": "top5"}, {"items": items[:-1]}, {"items": [*items[:-1], item_of("z", "1")]}):
        settings = {"items": items, **change}
        read(tmp_path, settings.pop("items"), model, **settings)
        assert passes_of(model) > n, change
        n = passes_of(model)
    other = planted_reader("1" * 64)
    read(tmp_path, items, other)
    assert passes_of(other) > 0


def test_an_interrupted_reading_goes_on(tmp_path):
    items = [item_of(letters(n), str(n % 10)) for n in range(1, 9)]

    def interrupt(n: int) -> None:
        done.append(n)
        if len(done) == 2:
            raise KeyboardInterrupt

    done: list[int] = []
    model = planted_reader()
    with pytest.raises(KeyboardInterrupt):
        score(model, items, ScoreConfig(), tmp_path / "stopped", batch_size=2, on_items=interrupt)
    half = passes_of(model)
    done = [0, 0, 0]
    resumed = score(model, items, ScoreConfig(), tmp_path / "stopped", batch_size=2, on_items=interrupt)
    assert done[3:] == [2, 2, 2, 2] and passes_of(model) == 2 * half
    straight = score(planted_reader(), items, ScoreConfig(), tmp_path / "straight", batch_size=2)
    for name, values in vars(straight).items():
        np.testing.assert_array_equal(values, getattr(resumed, name), err_msg=name)


def test_the_batch_changes_nothing(tmp_path, make_model):
    rng = np.random.default_rng(0)
    items = [
        Item(tokens=tuple(rng.integers(60, size=n).tolist()), n_answer=a) for n, a in ((3, 1), (9, 2), (20, 1), (5, 3))
    ]
    model = LanguageModel(
        name="small", architecture="Transformer", module=make_model().eval(), tokenizer=planted_reader().tokenizer, n_ctx=24, step=None, seed=0, weights_sha256="2" * 64, left_out={}
    )  # fmt: skip
    one, many = (score(model, items, ScoreConfig(read_out="all"), tmp_path / str(n), batch_size=n) for n in (1, 4))
    for name, values in vars(one).items():
        np.testing.assert_allclose(values, getattr(many, name), atol=1e-5, err_msg=name)


def test_what_cannot_be_read_is_refused(tmp_path):
    items = [item_of("a", "0"), item_of("b", "0")]
    with pytest.raises(ValueError, match=r"measure='ginny' is no measure; there are .*gini"):
        ScoreConfig(measure="ginny")
    with pytest.raises(ValueError, match="similarity='words' must be model or hf:<folder or hub name> of a sentence encoder"):  # fmt: skip
        ScoreConfig(similarity="words")
    with pytest.raises(
        KeyError, match=r"no hook point named 'final_norm\.hook_nrom'; near names: final_norm\.hook_norm"
    ):
        read(tmp_path, items, hook_point="final_norm.hook_nrom")
