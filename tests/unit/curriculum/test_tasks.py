"""Tasks, how hard their examples are, and how they are dealt out."""

from collections import Counter

import pytest

from sparsetrain.curriculum import tasks
from sparsetrain.curriculum.prompts import Example, WordingConfig
from sparsetrain.curriculum.tasks import SUMS, TASKS, Task, deal, is_regular, sums
from sparsetrain.data.knowledge import Fact

TEN = Task(name="ten", difficulty="more", wording=WordingConfig(), examples=[Example(question=f"q{i}", answer="a") for i in range(10)], sources={})  # fmt: skip


def test_sums_are_right_and_none_stands_there_twice():
    found = sums().examples
    numbers = [tuple(map(int, example.question.split(" + "))) for example in found]
    assert [str(a + b) for a, b in numbers] == [example.answer for example in found]
    assert len({frozenset(pair) if len(set(pair)) > 1 else pair for pair in numbers}) == len(found)
    assert all(len(str(a)) == len(str(b)) == example.difficulty for (a, b), example in zip(numbers, found, strict=True))
    assert Counter(example.difficulty for example in found) == {1.0: 27, 2.0: 300, 3.0: 300}
    assert sums().examples == found


@pytest.mark.parametrize(
    ("word", "form", "ending"),
    [("walk", "walked", "ed"), ("try", "tried", "ed"), ("love", "loved", "ed"), ("stop", "stopped", "ed"), ("box", "boxes", "s"), ("city", "cities", "s")],
)  # fmt: skip
def test_regular_forms(word, form, ending):
    assert is_regular(word, form, ending)


@pytest.mark.parametrize(
    ("word", "form", "ending"),
    [("go", "went", "ed"), ("say", "said", "ed"), ("feed", "fed", "ed"), ("speed", "sped", "ed"), ("man", "men", "s"), ("leaf", "leaves", "s"), ("analysis", "analyses", "s")],
)  # fmt: skip
def test_irregular_forms(word, form, ending):
    assert not is_regular(word, form, ending)


def test_difficulty_is_irregularity_then_rarity(monkeypatch):
    facts = [Fact(relation="past_tense", subject=s, answer=a, fame=f) for s, a, f in (("go", "went", 6.0), ("walk", "walked", 5.0), ("bake", "baked", 3.0))]  # fmt: skip
    monkeypatch.setattr(tasks, "facts_of", lambda name: facts)
    monkeypatch.setattr(tasks, "versions", lambda names: {})
    found = TASKS["past_tense"]()
    assert sorted(found.examples, key=lambda e: e.difficulty or 0) == [found.examples[i] for i in (1, 2, 0)]
    assert found.difficulty == "irregular, then less Zipf frequency of the word"


def test_examples_are_dealt_into_questions_and_a_pool():
    dealt = deal(TEN, lambda e: e.question != "q3", n_asked=4, n_pool=5, seed=0)
    assert dealt.asked == (0, 1, 2, 3) and dealt.pool == (4, 5, 6, 7, 8) and not dealt.leaves_one_out
    assert {e.question for e in dealt.examples} == {f"q{i}" for i in range(10)} - {"q3"}
    assert deal(TEN, lambda e: True, n_asked=4, n_pool=5, seed=0) == deal(
        TEN, lambda e: True, n_asked=4, n_pool=5, seed=0
    )
    assert deal(TEN, lambda e: True, n_asked=4, n_pool=5, seed=1).examples != dealt.examples


def test_where_there_are_too_few_every_example_is_in_the_pool_of_the_others():
    dealt = deal(TEN, lambda e: True, n_asked=6, n_pool=6, seed=0)
    assert dealt.leaves_one_out and dealt.asked == (0, 1, 2, 3, 4, 5) and dealt.pool == tuple(range(10))
    with pytest.raises(ValueError, match="only 0 examples of ten can be written with this tokenizer; leave it out"):
        deal(TEN, lambda e: False, n_asked=1, n_pool=1, seed=0)


def test_every_task_has_a_builder():
    assert SUMS in TASKS and len(TASKS) >= 7
