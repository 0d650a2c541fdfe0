"""Conflicts out of facts: each answer contradicts about equally often, none that is right, and the same for ever. The facts are made up."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from circuits.context_prior import facts as room
from circuits.context_prior.facts import (
    BEST_KNOWN,
    SAID,
    ConflictsConfig,
    Said,
    chosen,
    conflicts,
    contradicted,
    names_of,
    packages_of,
    sums,
    usable,
)
from circuits.prior.cases import NOTHING, STATED
from circuits.prior.conflicts import WordingConfig, cases_of
from sparsetrain.data.knowledge import RELATIONS, Fact
from sparsetrain.typed import from_dict


def fact(subject: str, answer: str, fame: float = 1.0) -> Fact:
    return Fact(relation="made", subject=subject, answer=answer, fame=fame)


MANY = [fact(f"land{i}", f"money{i % 7 if i < 60 else 0}", 100 - i) for i in range(90)]


@pytest.fixture
def made(monkeypatch):
    """A relation of made-up facts."""
    said = Said(statement="{subject} has {answer}.", question="{subject} has", fame="a number", facts=lambda: MANY, plain=True)  # fmt: skip
    monkeypatch.setitem(SAID, "made", said)


def test_every_answer_contradicts_about_equally_often_and_none_is_right():
    found = contradicted(MANY, 0)
    assert len(found) == len(MANY) and [one for one, _ in found] == MANY
    assert all(one.answer != false for one, false in found)
    counts = Counter(false for _, false in found)
    right = Counter(one.answer for one in MANY)
    assert max(right.values()) == 39, "one answer is right for many"
    assert set(counts) == set(right) and max(counts.values()) - min(counts.values()) <= 2
    unique = contradicted([fact(f"s{i}", f"city{chr(97 + i)}") for i in range(20)], 0)
    assert max(Counter(false for _, false in unique).values()) <= 2


def test_the_draw_is_the_same_for_ever_and_another_with_another_seed():
    assert contradicted(MANY, 3) == contradicted(MANY, 3) != contradicted(MANY, 4)
    shuffled = dict(contradicted(MANY[::-1], 3))
    assert shuffled == dict(contradicted(MANY, 3)), "the order of the facts does not matter"


def test_answers_that_text_could_not_tell_apart_are_not_drawn():
    found = dict(contradicted([fact("Guinea", "franc"), fact("Mali", "franc new"), fact("Oman", "rial")], 0))
    answers = {one.subject: false for one, false in found.items()}
    assert answers["Guinea"] == "rial" and answers["Mali"] == "rial" and answers["Oman"] in ("franc", "franc new")
    assert contradicted([fact("a", "x"), fact("b", "x")], 0) == [], "nobody has another answer"
    named = contradicted([fact("New Paris", "x"), fact("b", "paris"), fact("c", "y")], 0)
    assert dict(named)[fact("New Paris", "x")] == "y"


def test_subjects_with_several_right_answers_make_no_conflict():
    facts = [fact("a", "x", 3), fact("a", "y", 3), fact("b", "z", 2), fact("c", "x", 5)]
    assert [one.subject for one in usable(facts)] == ["c", "b"]


def test_the_best_known_are_there_and_the_others_are_spread():
    found = chosen(MANY, 30)
    front = round(30 * BEST_KNOWN)
    assert len(found) == 30 == len(set(found)) and found[:front] == MANY[:front] and found[-1] == MANY[-1]
    gaps = {MANY.index(b) - MANY.index(a) for a, b in pairwise(found[front:])}
    assert gaps <= {7, 8}
    assert chosen(MANY, 90) == chosen(MANY, 200) == MANY and len(chosen(MANY, 1)) == 1


def test_rows_say_both_answers_in_one_wording(made):
    rows = conflicts(["made"], 20, 0)
    assert len(rows) == 20
    for row in rows:
        assert row.context == f"{row.question} {row.answer}." and row.agreeing == f"{row.question} {row.prior}."
        assert row.fact == row.place == f"made: {row.question.split()[0]}" and row.relation == "made"
    assert [row.strength for row in rows[:3]] == [100, 99, 98]


def test_answers_that_begin_alike_to_the_tokenizer_are_left_out_and_counted(made):
    class Letters:
        unknown_id = None

        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text.rstrip("0123456789")]  # "money1" and "money2" are the same to it

    cases, skipped = cases_of(conflicts(["made"], 20, 0), Letters(), WordingConfig(), [NOTHING, STATED], None)
    assert not cases and len(skipped) == 20 and "begin" in skipped[0].reason


def test_sums_need_no_package_and_are_right():
    found = sums()
    assert len(found) == 32 and all(eval(one.subject) == int(one.answer) for one in found)
    assert all(len(one.answer) == 1 and one.answer not in one.subject.split() for one in found)
    assert SAID["sums"].plain and packages_of(["sums"]) == {}


def test_relations_of_packages_are_known_to_the_room_of_knowledge(monkeypatch):
    for name, said in SAID.items():
        assert said.plain or (name in RELATIONS and said.fame == RELATIONS[name].fame)
        assert said.statement.count("{subject}") == said.question.count("{subject}") == said.statement.count("{answer}") == 1  # fmt: skip
        assert said.statement.startswith(said.question), "the statement continues the question"
    monkeypatch.setattr(room, "versions", lambda names: {"of": ", ".join(names)})
    assert packages_of(["capital", "sums"]) == {"of": "capital"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"relations": ["capital", "nope"]}, r"relations has nope; there are capital, currency"),
        ({"relations": ["sums", "sums"]}, "relations has sums more than once; give each once"),
        ({"n": 0}, "n"),
        ({"wording": {"statement": "x"}}, "wording.statement='x' must have {context} once"),
        ({"examine": {"n_random": 0}}, "examine.n_random"),
    ],
)
def test_mistakes_are_said_in_a_line(given: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said) as error:
        from_dict(ConflictsConfig, given)
    assert "\n" not in str(error.value)


def test_relations_that_need_packages_are_refused_where_none_are_to_be_used():
    assert names_of(ConflictsConfig(), plain_only=True) == ("sums",)
    assert names_of(ConflictsConfig(), plain_only=False) == tuple(SAID)
    assert names_of(ConflictsConfig(relations=("sums", "capital")), plain_only=False) == ("sums", "capital")
    with pytest.raises(ValueError, match=r"relations has capital, which needs packages; .* there are sums"):
        names_of(ConflictsConfig(relations=("sums", "capital")), plain_only=True)
