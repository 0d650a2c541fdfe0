"""A behaviour that a user brings as a file: from `task=file:` to its page, its check and its exports, and what is said of bad lines."""

import json
import shutil
from pathlib import Path

import pytest
from commands import ROOT, Forks

SMALL = (
    "circuits.find.gate=false", "circuits.find.seeds=[0]", "circuits.find.n_random=5", "circuits.find.n_boot=20",
    "circuits.find.prune.n_steps=5", "circuits.find.prune.clean_rounds=1", "wandb=disabled", "progress=false",
)  # fmt: skip
NAMES = ("value", "data", "name", "result", "item", "text", "count", "line", "size", "key")
COLOURS = ("red", "big", "new", "old", "blue", "good", "small", "bad", "green", "long")
BAD = ({"prompt_a": "x"}, "no JSON", {"prompt_a": "if x", "answer_a": ":", "prompt_b": "while x", "answer_b": ":"})


def code_pairs() -> list[dict[str, str]]:
    """A hundred pairs of prompts of unequal length."""
    return [
        {"prompt_a": f"{a} = lambda {b}", "answer_a": ":", "prompt_b": f"def {b}", "answer_b": f"({a}"}
        if a == b
        else {"prompt_a": f"if {a} == {b}", "answer_a": ":", "prompt_b": f"{a} = {b}", "answer_b": "\n"}
        for a in NAMES
        for b in NAMES
    ]


def prose_pairs() -> list[dict[str, str]]:
    """Questions and statements."""
    return [
        {"prompt_a": f"Is the {a} {b}", "answer_a": "?", "prompt_b": f"The {a} is {b}", "answer_b": "."}
        for a in NAMES
        for b in COLOURS
    ]


def write(path: Path, rows: list) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def desk(smoke: Path, tmp_path: Path) -> Path:
    """A folder with a finished run."""
    shutil.copytree(smoke, tmp_path / "run")
    for name in ("scripts", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
def test_a_file_of_pairs_from_the_command_to_the_check(desk, python: Forks):
    good = code_pairs()
    mine = write(desk / "mine" / "my pairs.jsonl", [*good[:20], *BAD, *good[20:]])
    find = ("scripts/find_circuits.py", "run=run", "task=file:mine/my pairs.jsonl", *SMALL)
    done = python(*find, cwd=desk)
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout + done.stderr
    assert "line 21 (no field 'answer_a'), line 22 (not JSON" in told and "line 23 (both answers are the same)" in told
    report = json.loads((desk / "run" / "report.json").read_text())
    (task,) = [task for task in report["circuits"]["tasks"] if task["task"].startswith("my_pairs-")]
    assert task["note"].startswith("left out of my pairs.jsonl: line 21 (") and task["status"] != "unsuitable"
    assert "100 pairs of my pairs.jsonl" in task["description"] and len(task["circuits"]) == 1
    assert task["gate"]["loss"]["n"] <= 30
    page = (desk / "run" / "report.html").read_text()
    assert task["task"] in page and "line 21" in page

    mine.unlink()
    checked = python("scripts/verify_report.py", "run=run", cwd=desk)
    assert checked.returncode == 0 and task["task"] in checked.stdout, checked.stdout[-1000:] + checked.stderr[-1000:]
    exported = python("scripts/export_circuit.py", "run=run", f"task={task['task']}", "format=neuronpedia", cwd=desk)
    assert exported.returncode == 0, exported.stderr

    (copy,) = (desk / "run" / "circuits" / task["task"] / "pairs").iterdir()
    again = python(
        *find[:2], f"task=file:{copy.relative_to(desk)}", *SMALL, cwd=desk
    )  # done already: read from the disk
    assert again.returncode == 0 and task["task"] in again.stdout
    copy.write_text(copy.read_text().replace("lambda", "Lambda"))
    for script in ("verify_report", "export_circuit"):
        given = [f"task={task['task']}"] if script == "export_circuit" else []
        refused = python(f"scripts/{script}.py", "run=run", *given, cwd=desk)
        assert refused.returncode == 1 and "its content was changed" in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_prose_and_a_card(desk, python: Forks):
    write(desk / "questions.jsonl", prose_pairs())
    done = python(
        "scripts/find_circuits.py", "run=run", "task=for_while,file:questions.jsonl", "card=quick", *SMALL, cwd=desk
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tasks = json.loads((desk / "run" / "report.json").read_text())["circuits"]["tasks"]
    assert any(task["task"].startswith("questions-") and task["status"] != "unsuitable" for task in tasks)


def test_what_is_no_file_of_pairs_is_one_line(desk, python: Forks):
    few = write(desk / "few.jsonl", [*code_pairs()[:5], *BAD])
    for task, words in (
        (f"file:{few.name}", "line 6 (no field 'answer_a')"),
        ("file:nowhere.jsonl", f"no such text file: {desk}/nowhere.jsonl"),
        ("fil:few.jsonl", "or file:<pairs.jsonl>"),
    ):
        done = python("scripts/find_circuits.py", "run=run", f"task={task}", *SMALL, cwd=desk)
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
