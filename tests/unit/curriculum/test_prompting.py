"""Every question in every arm, put to a model that predicts a digit of the last letter it sees."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted_reader import BARE, LetterTokenizer, passes_of, planted_reader

from sparsetrain.curriculum.arms import ARMS, DEALT, DRAWN, RANDOM_ORDER, ChoiceConfig
from sparsetrain.curriculum.prompting import COLUMNS, Prepared, answer, pool_of, prepare, write_ordering
from sparsetrain.curriculum.prompts import Example
from sparsetrain.curriculum.scoring import Scores

N = 6
POOL = [Example(question=letter, answer="0", difficulty=float(i)) for i, letter in enumerate("tpldba")]
ASKED = [Example(question="c", answer="3"), Example(question="e", answer="4"), Example(question="b", answer="2")]
"""The first and the third are what the model says."""
CHOICE = ChoiceConfig(n_shown=3, n_retrieved=6, n_levels=2, n_draws=5)


def scores(n: int, *, similar: float = 1.0) -> Scores:
    """Sparsity and similarity (to those that are asked) rise with the number."""
    rising = np.arange(n) / n
    return Scores(
        sparsity=rising, measured=rising, loss=1 - rising, entropy=rising, logit_norm=rising, correct=np.ones(n), length=rising, vectors=similar * rising[:, None]
    )  # fmt: skip


def prepared(choice: ChoiceConfig = CHOICE, *, pool=POOL, asked=ASKED, n_tokens: int | None = None) -> Prepared:
    of_asked = replace(scores(len(asked)), vectors=np.ones((len(asked), 1)))
    return prepare(
        LetterTokenizer(), BARE, choice, pool=pool, of_pool=scores(len(pool)), asked=asked, of_asked=of_asked, n_tokens=n_tokens
    )  # fmt: skip


def text(of: Prepared, name: str, i: int, draw: int = 0) -> str:
    return LetterTokenizer().decode(of.items[of.of[name][i, draw]].tokens[1:])


def test_prompts_of_every_arm_to_the_letter():
    found = prepared()
    assert set(found.of) == set(ARMS)
    for name, places in found.of.items():
        assert places.shape == (3, 5 if ARMS[name].is_random else 1)
    assert text(found, "zero_shot", 0) == "c3"
    assert text(found, "similarity", 1) == "d0;b0;a0;e4"  # the most similar one is the last
    assert text(found, "sparsity", 0) == "d0;b0;a0;c3"
    assert text(found, "loss", 0) == "a0;b0;d0;c3"
    assert text(found, "hard_to_easy", 0) == "a0;b0;d0;c3"
    assert found.n_dropped == dict.fromkeys(ARMS, 0)


def test_arms_that_come_to_one_prompt_share_it():
    found = prepared()
    assert found.of["sparsity"].tolist() == found.of["similarity"].tolist() == found.of["easy_to_hard"].tolist()
    assert len(set(found.items)) == len(found.items)
    everything = np.concatenate([places.ravel() for places in found.of.values()])
    assert set(everything) == set(range(len(found.items))) and len(found.items) < len(everything)
    alone = prepared(replace(CHOICE, n_shown=1))
    orders = [name for name, arm in ARMS.items() if arm.control == RANDOM_ORDER]
    assert all((alone.of[name] == alone.of[RANDOM_ORDER][:, :1]).all() for name in orders)  # nothing to order


def test_an_equal_question_is_not_shown_and_counted():
    found = prepared()
    assert found.n_same == 1
    for name in ARMS:
        for draw in range(found.of[name].shape[1]):
            assert "b0" not in text(found, name, 2, draw), name
    assert text(found, "similarity", 2) == "l0;d0;a0;b2"
    for copy in (" b", "B", "b ?", "b."):  # blanks around it, its case and its last mark do not make another
        assert prepared(asked=[Example(question=copy, answer="2")]).n_same == 1, copy


def test_leave_one_out():
    everything = [replace(example, answer="9") for example in POOL]
    found = prepared(asked=everything, pool=everything)
    assert found.n_same == N
    for name in ARMS:
        for i, example in enumerate(everything):
            assert all(
                text(found, name, i, draw).count(f"{example.question}9") == 1 for draw in range(found.of[name].shape[1])
            )
    with pytest.raises(ValueError, match="n_shown=6 demonstrations, but only 5 examples of the pool may be shown"):
        prepared(replace(CHOICE, n_shown=6), asked=everything, pool=everything)


def test_a_budget_is_that_of_all_arms_and_counts_what_it_drops():
    found = prepared(n_tokens=9)  # one in front, two for question and answer, three for a demonstration
    assert text(found, "similarity", 1) == "b0;a0;e4"
    for name in ARMS:
        n_prompts = 0 if name == "zero_shot" else 3 * (5 if ARMS[name].is_random else 1)
        assert found.n_dropped[name] == n_prompts, name
    with pytest.raises(ValueError, match=r"a question: 'c' cannot be asked in arm zero_shot, the question alone is longer than the budget; leave it out"):  # fmt: skip
        prepared(n_tokens=2)


def test_the_answer_to_the_question_decides_nothing():
    """Other answers to the same questions: the same demonstrations in every arm."""
    found, other = prepared(), prepared(asked=[replace(example, answer="z") for example in ASKED])
    for name in ARMS:
        for i in range(3):
            for draw in range(found.of[name].shape[1]):
                assert text(found, name, i, draw)[:-1] == text(other, name, i, draw)[:-1]


def test_every_prompt_is_answered_once_and_draws_are_averaged(tmp_path):
    model, found = planted_reader(), prepared()
    answers = answer(model, found, tmp_path, batch_size=1)
    assert passes_of(model) == len(found.items)
    for name in ARMS:
        assert answers.right[name].tolist() == [1, 0, 1], name
        assert answers.loss[name] == pytest.approx([0.005749, 10.005749, 0.005749], abs=1e-5)
    assert answers.n_dropped == found.n_dropped and answers.learned == 0
    again = answer(model, prepared(), tmp_path, batch_size=7)
    assert passes_of(model) == len(found.items)
    assert all(again.loss[name].tolist() == answers.loss[name].tolist() for name in ARMS)
    for change, of in (("1" * 64, found), ("0" * 64, prepared(replace(CHOICE, seed=1)))):
        other = planted_reader(change)
        answer(other, of, tmp_path)
        assert passes_of(other) > 0, change


def test_a_random_arm_is_right_in_a_share_of_its_draws(tmp_path, monkeypatch):
    found = prepared()

    def by_number(read, order, folder: Path, *, batch_size, on_items):
        return {"correct": np.arange(len(order)) % 2.0, "loss": np.arange(len(order)) / 10.0}

    monkeypatch.setattr("sparsetrain.curriculum.prompting.kept_in_batches", by_number)
    answers = answer(planted_reader(), found, tmp_path)
    for name in (RANDOM_ORDER, DRAWN, DEALT, "similarity"):
        assert answers.right[name] == pytest.approx([(row % 2).mean() for row in found.of[name]])
        assert answers.loss[name] == pytest.approx([row.mean() / 10 for row in found.of[name]])


def test_an_interruption_goes_on(tmp_path):
    model, found, done = planted_reader(), prepared(), list[int]()

    def interrupt(n: int) -> None:
        done.append(n)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer(model, found, tmp_path, batch_size=4, on_items=interrupt)
    assert passes_of(model) == 3
    answer(model, found, tmp_path, batch_size=4)
    assert passes_of(model) == -(-len(found.items) // 4)


def test_difficulty_counts_where_all_have_one():
    assert pool_of(POOL, scores(N)).difficulty is not None
    partly = [*POOL[:-1], replace(POOL[-1], difficulty=None)]
    assert pool_of(partly, scores(N)).difficulty is None
    assert set(ARMS) - set(prepared(pool=partly).of) == {"easy_to_hard", "hard_to_easy"}


def test_the_ordering_of_a_pool_is_a_table_from_the_densest_on(tmp_path):
    examples = [*POOL[:2], replace(POOL[2], difficulty=None, question="x, y")]
    turned = replace(scores(3), sparsity=np.array([0.5, 0.9, 0.1]))
    write_ordering(tmp_path / "ordering.csv", examples, turned, 5)  # more levels than examples
    with (tmp_path / "ordering.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == COLUMNS
    assert [row[:2] for row in rows] == [["0", "0"], ["1", "1"], ["2", "2"]]
    assert [row[-3] for row in rows] == ["x, y", "t", "p"] and [row[-4] for row in rows] == ["", "0.0", "1.0"]
