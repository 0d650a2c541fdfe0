"""Questions: every input of a language, and the rows of a user's file, each with what is wrong with it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from circuits.fracture.distil import PADDING
from circuits.fracture.questions import of_language, read_questions
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules


class Letters:
    """A token per character."""

    eot_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(char) - 31 for char in text]


def rows(n=6, rule="copy", context="plain", held=2):
    return [
        {"prompt": f"{context} {rule} {i}:", "answer": str(i), "rule": rule, "context": context, "split": "heldout" if i < held else "train"}
        for i in range(n)
    ]  # fmt: skip


def written(tmp_path, *parts):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for part in parts for row in part))
    return [str(path)]


def read(paths, n_ctx=64):
    return read_questions(paths, Letters(), 100, n_ctx)


def test_of_a_language_all_inputs_are_asked():
    world = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger")), 0)
    questions = of_language(world)
    assert len(questions) == world.config.n_inputs and questions.behaviours == world.behaviours
    assert len(questions.asked(held=True).tokens) == len(world.heldout.tokens)
    assert np.array_equal(questions.behaviour, world.inputs.behaviour)


def test_rows_become_prompts_filled_up_and_sorted_by_behaviour(tmp_path):
    questions = read(written(tmp_path, rows(rule="b"), rows(rule="copy")))
    assert questions.rules == ("b", "copy") and questions.contexts == ("plain",) and len(questions) == 12
    assert questions.held.sum() == 4
    short, long = questions.tokens[0], questions.tokens[-1]
    assert short[:-1].tolist() == [0, *Letters().encode("plain b 0:"), *[PADDING] * 3] and short[-1] == ord("0") - 31
    assert (long[:-1] != PADDING).all() and long[-1] == ord("5") - 31
    assert np.array_equal(questions.behaviour, np.repeat([0, 1], 6))


def test_without_splits_questions_are_dealt_by_content(tmp_path):
    bare = [{key: row[key] for key in ("prompt", "answer", "rule")} for row in rows(60)]
    questions = read(written(tmp_path, bare))
    assert 5 < questions.held.sum() < 30
    again = read(written(tmp_path, bare[::-1]))
    assert {tuple(t) for t in again.tokens[again.held]} == {tuple(t) for t in questions.tokens[questions.held]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{not json\n", "not JSON"),
        ({"prompt": "a", "answer": "b"}, "no field 'rule'"),
        ({"prompt": "a", "answer": 3, "rule": "copy"}, "'answer' is no text"),
        ({"prompt": "a", "answer": "", "rule": "copy"}, "'answer' is empty"),
        ({"prompt": "a", "answer": "b", "rule": "copy", "split": "test"}, "split 'test'; give one of train, heldout, or none"),
        ({"prompt": "a", "answer": "b", "rule": "copy", "context": 3}, "'context' is no text: 3"),
        ({"prompt": "plain copy 1:", "answer": "b", "rule": "copy"}, "again"),
        ({"prompt": "a" * 80, "answer": "b", "rule": "copy"}, "a prompt of 81 tokens, of which the models take 64"),
        ({"prompt": "alone", "answer": "b", "rule": "alone"}, "1 rows of training and 0 held out; 4 and 1 are needed"),
    ],
)  # fmt: skip
def test_a_row_that_makes_no_question_is_named_and_the_others_are_kept(tmp_path, row, reason):
    if isinstance(row, dict) and row["prompt"] == "alone":
        row["split"] = "train"
    questions = read(written(tmp_path, rows(), [row]))
    assert len(questions) == 6 and len(questions.skipped) == 1
    assert reason in questions.skipped[0].reason and questions.skipped[0].name.endswith(":7")


def test_empty_cells_of_a_table_are_no_split_and_unreadable_files_of_a_folder_are_named(tmp_path):
    (tmp_path / "all").mkdir()
    lines = [
        "prompt,answer,rule,split",
        *(f"plain copy {i}:,{i},copy,{'heldout' if i < 2 else 'train' if i < 7 else ''}" for i in range(9)),
    ]
    (tmp_path / "all" / "questions.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "all" / "torn.jsonl.gz").write_bytes(b"no gzip")
    questions = read([str(tmp_path / "all")])
    assert len(questions) == 9 and [Path(skip.name).name for skip in questions.skipped] == ["torn.jsonl.gz"]


def test_a_prompt_of_a_row_that_was_left_out_may_come_again(tmp_path):
    long = {**rows()[3], "answer": "3", "prompt": "a" * 80}
    joined = [{**rows(7)[6], "rule": "copy", "answer": ""}, *rows(7)]
    questions = read(written(tmp_path, [long], joined))
    assert len(questions) == 7 and len(questions.skipped) == 2


def test_a_file_without_a_question_is_refused_with_the_first_reason(tmp_path):
    paths = written(tmp_path, [{"prompt": "a", "answer": "b"}])
    with pytest.raises(
        ValueError, match=re.escape("questions.jsonl:1: no field 'rule'; a row needs prompt, answer, rule")
    ):
        read(paths)
    with pytest.raises(
        ValueError, match=re.escape("rule 'b' has no usable rows in context 'other', which other rules have")
    ):
        read(written(tmp_path, rows(), rows(context="other"), rows(rule="b")))
