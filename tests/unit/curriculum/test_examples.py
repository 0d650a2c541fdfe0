"""A user's rows as examples: what counts as a difficulty, what counts once, what is written in order."""

import json

import numpy as np
import pytest

from sparsetrain.curriculum.examples import FieldsConfig, read_examples, rows_left_out, write_rows
from sparsetrain.curriculum.prompts import Example, WordingConfig
from sparsetrain.curriculum.scoring import Scores
from sparsetrain.data.reading import Skip

WORDING = WordingConfig(example="{question}={answer};")


class Letters:
    """A letter is a token, behind one that begins the text; an x is not known."""

    d_vocab = 300
    special_ids = frozenset({1})
    unknown_id = ord("x")

    def encode(self, text: str) -> list[int]:
        return [1, *map(ord, text)]

    def characters(self, text: str) -> list[int]:
        return [0, *[1] * len(text)]

    def decode(self, ids) -> str:
        return "".join(map(chr, ids))

    def token(self, id: int) -> str:
        return chr(id)


def read(path, found: list[object], n_tokens: int | None = None):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in found))
    return read_examples([str(path)], "pool", FieldsConfig(), Letters(), WORDING, n_tokens)


@pytest.mark.parametrize(
    ("value", "known"),
    [(3, 3.0), (0.5, 0.5), ("2", 2.0), (" -1.5e2 ", -150.0), (None, None), ("", None), (" ", None), (10**400, "no number"), ("1_0", "no number"), ("inf", "no number"),
     ([1], "no number"), (False, "no number"), (1e999, "no number")],
)  # fmt: skip
def test_a_difficulty_is_a_finite_number_or_not_known(tmp_path, value, known):
    found = read(
        tmp_path / "pool.jsonl",
        [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d", "difficulty": value}],
    )
    if known == "no number":
        assert len(found) == 1 and found.skipped[0].reason.endswith("is no number")
        assert found.skipped[0].name == f"{tmp_path}/pool.jsonl:2"
    else:
        assert [example.difficulty for example in found.examples] == [None, known] and not found.skipped


def test_the_same_question_counts_once_with_each_of_its_answers(tmp_path):
    rows = [("a", "b"), ("a ", " b"), ("a", "c"), ("b", "a"), ("a", "b")]
    found = read(tmp_path / "pool.jsonl", [{"question": q, "answer": a} for q, a in rows])
    assert [(e.question, e.answer) for e in found.examples] == [("a", "b"), ("a", "c"), ("b", "a")]
    same = f"the same question and answer as {tmp_path}/pool.jsonl:1"
    assert [(s.name.rpartition(":")[2], s.reason) for s in found.skipped] == [("2", same), ("5", same)]


def test_items_are_the_examples_alone_and_what_has_no_room_is_left_out(tmp_path):
    rows = [{"question": "ab", "answer": "c"}, {"question": "abc", "answer": "d"}, {"question": "a", "answer": "x"}]
    found = read(tmp_path / "pool.jsonl", rows, n_tokens=5)
    assert [item.tokens for item in found.items] == [(1, *map(ord, "ab=c"))] and found.items[0].n_answer == 1
    assert [skip.reason for skip in found.skipped] == [
        "the question alone is longer than the budget",
        "the answer has a token that the tokenizer does not know",
    ]


def test_without_an_example_the_message_says_why(tmp_path):
    with pytest.raises(ValueError, match=r"no example in pool=.*: it has no row; a row has 'question' and 'answer'"):
        read(tmp_path / "pool.jsonl", [])
    with pytest.raises(ValueError, match=r"all 1 rows are left out, the first .*:1: nothing in field 'answer'"):
        read(tmp_path / "pool.jsonl", [{"question": "a", "answer": " "}])


def test_names_of_fields_differ():
    with pytest.raises(ValueError, match="three different fields"):
        FieldsConfig(question="text", answer="text")


def test_rows_stand_in_order_with_their_own_names(tmp_path):
    scores = np.array([0.5, 0.1, 0.3])
    known = Scores(
        sparsity=-scores, measured=scores, loss=scores * 10, entropy=scores, logit_norm=scores, correct=scores, length=scores, vectors=np.zeros((3, 1))
    )  # fmt: skip
    examples = [Example(question=q, answer=a) for q, a in ("ab", "cd", "ef")]
    write_rows(tmp_path / "rows.jsonl", examples, known, 3, FieldsConfig(question="in", answer="out"))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["in"], row["out"], row["rank"], row["level"], row["sparsity"]) for row in rows] == [
        ("a", "b", 0, 0, 0.5),
        ("e", "f", 1, 1, 0.3),
        ("c", "d", 2, 2, 0.1),
    ]


def test_the_first_rows_are_named_and_the_rest_counted():
    assert list(rows_left_out([Skip(str(i), "torn") for i in range(7)])) == [
        *(f"left out: {i}: torn" for i in range(5)),
        "... and 2 more",
    ]
    assert list(rows_left_out([Skip("0", "torn")])) == ["left out: 0: torn"]
