"""Pairs of a user's own: what is read, what is left out and by which line, how they are dealt, and that a changed file is another task."""

import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch

from circuits.search.task import FindConfig, Pairs
from circuits.tasks import PAIR_SPLITS, UnsuitableTask, build_pairs, get_task
from circuits.tasks.pair_file import FileTask
from circuits.tasks.task import MIN_PAIRS


class Words:
    """An id per word, blank in front, or sign."""

    eot_id = 0

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self.ids.setdefault(piece, len(self.ids) + 1) for piece in re.findall(r" ?\w+| ?[^\w\s]+|\n", text)]


def row(i: int, **changed: object) -> dict[str, object]:
    """A pair: a question against a statement."""
    given = {"prompt_a": f"Is w{i} big", "answer_a": "?", "prompt_b": f"The w{i} is big", "answer_b": "."}
    return {name: value for name, value in {**given, **changed}.items() if value is not ...}


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in rows))
    return path


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write(tmp_path / "my pairs.v2.jsonl", [row(i) for i in range(100)])


def test_a_hundred_pairs_are_a_task(pairs, tmp_path):
    task = get_task(f"file:{pairs}")
    assert isinstance(task, FileTask) and not task.flaws
    assert re.fullmatch(r"my_pairs-[0-9a-f]{8}", task.name)
    assert Counter(entry.split for entry in task.rows) == {"train": 40, "val": 30, "heldout": 30}
    assert "100 pairs of my pairs.v2.jsonl" in task.description
    made = {split: build_pairs(task, Words(), split, 64, seed=0) for split in ("train", "val", "heldout")}
    assert {split: len(made[split]) for split in made} == {"train": 40, "val": 30, "heldout": 30}
    assert all(own.n_distinct == len(own) for own in made.values())
    prompts = {split: {side.prompt for text in own.texts for side in text.sides} for split, own in made.items()}
    assert prompts["train"].isdisjoint(prompts["val"]) and prompts["heldout"].isdisjoint(
        prompts["train"] | prompts["val"]
    )
    assert set().union(*prompts.values()) == {row(i)[side] for i in range(100) for side in ("prompt_a", "prompt_b")}
    few, more = (build_pairs(task, Words(), "train", n, seed=0) for n in (8, 12))
    assert len(few) == 8 and more.texts[:8] == few.texts
    assert build_pairs(task, Words(), "train", 8, seed=1).texts != few.texts
    with pytest.raises(UnsuitableTask, match="0 pairs of split 'paraphrased'"):
        build_pairs(task, Words(), "paraphrased", 8, seed=0)


def test_nothing_is_put_before_the_prompts_and_lengths_may_differ(pairs):
    made = build_pairs(get_task(f"file:{pairs}"), Words(), "val", 8, seed=0)
    assert all(re.fullmatch(r"Is w\d+ big", text.positive.prompt) for text in made.texts)
    assert made.last.tolist() == [[3, 4]] * 8


def test_twins_of_a_file(pairs):
    task = get_task(f"file:{pairs}")
    real, nonsense, labels = (build_pairs(task, Words(), "val", 8, 0, twin) for twin in (None, "nonsense", "labels"))
    assert nonsense.texts[0].positive.prompt == real.texts[0].positive.prompt
    assert len({text.positive.answer for text in nonsense.texts}) == 1
    assert nonsense.texts[0].positive.answer not in ("?", ".")
    assert sum(a.positive.prompt != b.positive.prompt for a, b in zip(real.texts, labels.texts, strict=True)) == 4


BAD = {
    "no field": (row(7, answer_b=...), "no field 'answer_b'"),
    "no first field": (row(7, prompt_a=...), "no text in field 'prompt_a'"),
    "number": (row(7, prompt_b=3), "'prompt_b' is no text"),
    "null": (row(7, answer_a=None), "'answer_a' is no text"),
    "empty": (row(7, answer_a=""), "'answer_a' is empty"),
    "empty prompt": (row(7, prompt_a=""), "'prompt_a' is empty"),
    "equal answers": (row(7, answer_b="?"), "both answers are the same"),
    "equal prompts": (row(7, prompt_b="Is w7 big"), "both prompts are the same"),
    "blank at the end": (row(7, prompt_a="Is w7 "), "not end in a space"),
    "again": (row(6), "the prompts of line 7 again"),
    "no JSON": ('{"prompt_a": "x"', "not JSON"),
    "no object": ("[1, 2]", "the row is a list"),
    "surrogate": (row(7, prompt_b="\ud800"), "a lone surrogate"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_left_out_and_named(kind, tmp_path):
    bad, reason = BAD[kind]
    task = FileTask.read(
        write(tmp_path / "p.jsonl", [*(row(i) for i in range(7)), bad, *(row(i) for i in range(8, 60))])
    )
    assert list(task.flaws) == [8] and reason in task.flaws[8] and len(task.rows) == 59
    told = task.remarks(Words(), 32)
    assert told is not None and told.startswith("left out of p.jsonl: line 8 (") and reason in told


@pytest.mark.parametrize(
    "bad, reason, max_tokens",
    [
        (row(7, answer_b="? no"), "both answers begin with the same token", 32),
        (row(7, prompt_a="Is w7 bi", answer_a="g?"), "this tokenizer joins the end of a prompt with its answer", 32),
        (row(7, prompt_b="The w7 is very very big"), "a prompt of more than circuits.find.max_tokens=6 tokens", 6),
    ],
)
def test_a_line_that_this_tokenizer_makes_no_pair_of_is_named(bad, reason, max_tokens, tmp_path):
    rows = [row(i) if i != 7 else bad for i in range(40)]
    task = FileTask.read(write(tmp_path / "p.jsonl", rows))
    assert not task.flaws and task.remarks(Words(), max_tokens) == f"left out of p.jsonl: line 8 ({reason})"
    made = [build_pairs(task, Words(), split, 64, 0, max_tokens=max_tokens) for split in ("train", "val", "heldout")]
    assert sum(map(len, made)) == 39


def test_many_bad_lines_are_counted(tmp_path):
    task = FileTask.read(write(tmp_path / "p.jsonl", [*(row(i) for i in range(40)), *["no"] * 30]))
    told = task.remarks(Words(), 32)
    assert told is not None and told.startswith("left out of p.jsonl: lines 41, 42, 43")
    assert "52 and 18 more (not JSON" in told and "53" not in told


@pytest.mark.parametrize("n", [0, 1, 3 * MIN_PAIRS - 1])
def test_too_few_pairs_are_refused_with_their_lines(n, tmp_path):
    path = write(tmp_path / "p.jsonl", ["no", *(row(i) for i in range(n))])
    with pytest.raises(ValueError, match=r"p\.jsonl has .*at least 6.*line 1 \(not JSON"):
        get_task(f"file:{path}")


def test_splits_of_ones_own(tmp_path):
    splits = [*["train"] * 8, *["val"] * 7, *["heldout"] * 6, *["paraphrased"] * 6, *["shifted"] * 6]
    rows = [row(i, split=split) for i, split in enumerate(splits)]
    bad = [row(90), row(91, split="test"), row(92, split="val", prompt_a="Is w0 big"), row(93, split=3)]
    task = FileTask.read(write(tmp_path / "p.jsonl", [*rows, *bad]))
    assert Counter(entry.split for entry in task.rows) == Counter(splits)
    assert sorted(task.flaws) == [34, 35, 36, 37] and "split None; give each line one of" in task.flaws[34]
    assert "in 'train' too" in task.flaws[36] and f"one of {', '.join(PAIR_SPLITS)}" in task.flaws[35]
    assert build_pairs(task, Words(), "paraphrased", 64, 0).texts[0].positive.prompt in {
        f"Is w{i} big" for i in range(21, 27)
    }
    with pytest.raises(ValueError, match="29 pairs, 3 of them for split 'val'"):
        FileTask.read(write(tmp_path / "few.jsonl", [*rows[:11], *rows[15:]]))


def test_pairs_that_share_a_prompt_are_dealt_as_one(tmp_path):
    rows = [row(i, prompt_b=f"The w{i // 3} is big") for i in range(90)]
    task = FileTask.read(write(tmp_path / "p.jsonl", rows))
    splits: dict[str, set[str]] = {}
    for entry in task.rows:
        splits.setdefault(entry.text.negative.prompt, set()).add(entry.split)
    assert len(splits) == 30 and all(len(own) == 1 for own in splits.values())
    with pytest.raises(ValueError, match="pairs that share a prompt go to one"):
        FileTask.read(write(tmp_path / "q.jsonl", [row(i, prompt_b="The end") for i in range(90)]))


def test_pairs_that_share_a_prompt_count_as_one(tmp_path):
    rows = [row(i, prompt_b=f"The w{i // 3} is big") for i in range(90)]
    task, config = FileTask.read(write(tmp_path / "p.jsonl", rows)), FindConfig(n_fit=6, n_val=9)
    pairs = Pairs.build(task, Words(), config)
    assert len(pairs.heldout) % 3 == 0 and pairs.heldout.n_distinct == len(pairs.heldout) // 3
    fit, val = ({text.negative.prompt for text in part.texts} for part in (pairs.fit, pairs.val))
    assert fit and val and not fit & val, "none of a group is where another one is"


def test_how_pairs_are_dealt_depends_on_their_content_alone(tmp_path):
    rows = [row(i) for i in range(60)]
    tasks = []
    for seed in (0, 1):
        Random(seed).shuffle(rows)
        tasks.append(FileTask.read(write(tmp_path / f"p{seed}.jsonl", rows)))
    dealt = [{entry.text: entry.split for entry in task.rows} for task in tasks]
    assert dealt[0] == dealt[1] and tasks[0].name != tasks[1].name


def test_a_kept_file_is_found_again_moved_or_changed(pairs, tmp_path):
    task = get_task(f"file:{pairs}")
    pairs.write_text(pairs.read_text().replace("big", "small"))
    task.keep(tmp_path / "circuits")  # as it was read
    assert get_task(f"file:{pairs}").name != task.name
    pairs.unlink()
    again = get_task(task.name, tmp_path / "circuits")
    assert again.name == task.name
    first, second = (build_pairs(known, Words(), "heldout", 8, 0) for known in (task, again))
    assert first.texts == second.texts and torch.equal(first.last, second.last)
    (copy,) = (tmp_path / "circuits" / task.name / "pairs").iterdir()
    assert get_task(f"file:{copy}").name == task.name
    copy.write_text(copy.read_text().replace("w3 ", "w333 "))
    with pytest.raises(ValueError, match="its content was changed"):
        get_task(task.name, tmp_path / "circuits")
    with pytest.raises(ValueError, match=r"unknown task 'nope'.*or file:<pairs.jsonl>"):
        get_task("nope", tmp_path / "circuits")


def test_a_file_that_cannot_be_read_is_named_with_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"task 'file:no.jsonl': no such text file: {tmp_path}/no.jsonl")):
        get_task("file:no.jsonl")
    write(tmp_path / "here.jsonl", [row(i) for i in range(40)])
    assert get_task("file:here.jsonl").name.startswith("here-")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        get_task("file:folder")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-16"):
        get_task("file:x.jsonl")


def test_other_kinds_of_files_are_read_too(tmp_path):
    names = ("prompt_a", "answer_a", "prompt_b", "answer_b")
    table = "\t".join(names) + "\n" + "".join("\t".join(str(row(i)[name]) for name in names) + "\n" for i in range(40))
    (tmp_path / "p.tsv").write_text(table)
    assert len(FileTask.read(tmp_path / "p.tsv").rows) == 40
