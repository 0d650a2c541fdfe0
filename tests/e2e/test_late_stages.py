"""What fails after the training costs nothing that was earned before: the report of the earlier stages, and a way on."""

import json
import shutil
from pathlib import Path

import pytest
from commands import SMOKE, in_process

import circuits.run
import sparsetrain.report.stages
import sparsetrain.run
from circuits.find import find_task

RUSSIAN = (
    "Медленный",
    "море",
    "открывает",
    "старый",
    "вечер",
    "но",
    "цветок",
    "рисует",
    "корабль",
    "быстрый",
    "огонь",
    "ждёт",
)


def fail(*_, **__):
    raise RuntimeError("broken\nhere")


@pytest.fixture
def command(monkeypatch, capsys, corpus_cache, tmp_path):
    """Runs a command in this process; returns exit code and stderr."""

    def run(script: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        code = 0
        try:
            in_process(script, *arguments)
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        return code, capsys.readouterr().err

    def train(*arguments: str) -> tuple[int, str]:
        quick = ("logger=none", "trainer.n_threads=1", f"cache_dir={corpus_cache}", f"hydra.run.dir={tmp_path / 'run'}")
        return run("train.py", *SMOKE, *quick, *arguments)

    return train, run


def report_of(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run" / "report.json").read_text())


@pytest.mark.parametrize(
    ("place", "name", "stage", "kept"),
    [
        (sparsetrain.run, "describe_representation", "representation", {"training", "data", "sparsity"}),
        (circuits.run, "find_once", "circuits", {"training", "data", "sparsity"}),
        (circuits.run, "formation_section", "formation", {"training", "data", "sparsity", "circuits"}),
        (sparsetrain.report.stages, "render", "page", {"training", "data", "sparsity", "circuits", "formation"}),
    ],
)
def test_a_late_failure_keeps_the_report_and_the_run_goes_on(place, name, stage, kept, command, monkeypatch, tmp_path):
    train, _ = command
    ood = ["ood.survey=null"] if stage == "representation" else ["ood=none"]
    formation = ["formation.tasks=[for_while]", "formation.n_looks=1"] if stage in ("formation", "page") else []
    arguments = [*ood, "circuits.tasks=[for_while]", *formation]
    with monkeypatch.context() as broken:
        broken.setattr(place, name, fail)
        code, error = train(*arguments)
    assert code == 1 and error.splitlines()[-1].startswith(
        "error: unexpected RuntimeError: broken here; the traceback is in "
    )
    found = report_of(tmp_path)
    assert kept <= set(found) and {"stage": stage, "reason": "broken here"} in found["missing"]
    assert (tmp_path / "run" / "error.log").read_text().count("Traceback") == 1
    if stage != "page":
        assert "not complete" in (tmp_path / "run" / "report.html").read_text()
    weights = found["weights"]
    rows = (tmp_path / "run" / "metrics.csv").read_text()
    code, error = train(*arguments, "ckpt_path=last")
    assert code == 0, error
    done = report_of(tmp_path)
    assert "missing" not in done and stage in {*done, "page"} and done["weights"] == weights
    assert (tmp_path / "run" / "metrics.csv").read_text() == rows, "the finished training was not trained again"
    assert not (tmp_path / "run" / "error.log").exists()


def test_tasks_found_before_a_task_fails_are_in_the_report(command, monkeypatch, tmp_path):
    def second_fails(subject, out_dir):
        if subject.task == "for_while":
            raise RuntimeError("broken")
        return find_task(subject, out_dir)

    train, _ = command
    monkeypatch.setattr("circuits.find.find_task", second_fails)
    code, _ = train("ood=none", "circuits.tasks=[single_double_quote,for_while]")
    assert code == 1
    assert [task["task"] for task in report_of(tmp_path)["circuits"]["tasks"]] == ["single_double_quote"]


def test_find_circuits_that_fails_keeps_the_run_and_says_so(command, smoke, monkeypatch, tmp_path):
    _, run = command
    shutil.copytree(smoke, tmp_path / "run")
    before = report_of(tmp_path)
    monkeypatch.setattr(circuits.run, "find_once", fail)
    find = ("scripts/find_circuits.py", f"run={tmp_path / 'run'}", "task=var_if", "progress=false")
    code, error = run(*find, "circuits.find.gate=true")
    assert code == 1 and "broken here" not in error and report_of(tmp_path) == before, "refused, not begun"
    rules = error.partition("Keep their rules (")[2].partition(")")[0].split()
    assert rules == ["circuits.find.gate=false"]
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(smoke, tmp_path / "run")
    code, error = run(*find)
    assert code == 1 and "broken here" in error, "without a word the run's own rules hold"
    after = report_of(tmp_path)
    assert after.pop("missing") == [{"stage": "circuits of var_if", "reason": "broken here"}] and after == before


def test_tasks_that_do_not_suit_the_language_are_a_status(command, tmp_path):
    train, run = command
    words = [f"{a} {b} {c}." for a in RUSSIAN for b in RUSSIAN for c in RUSSIAN]
    rows = [{"text": " ".join(words[i * 16 : i * 16 + 16])} for i in range(len(words) // 16)]
    (tmp_path / "russian.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    sources = f"data.sources={{mine: {{kind: files, paths: [{tmp_path}/russian.jsonl]}}}}"
    code, error = train(
        "ood=none",
        sources,
        "circuits.tasks=[all]",
        "circuits.find.gate=true",
        "circuits.find.max_tokens=20",
        "data.d_vocab=300",
    )
    assert code == 0, error
    found = {task["task"]: task for task in report_of(tmp_path)["circuits"]["tasks"]}
    strange = [task for task in found.values() if task["status"] == "unsuitable"]
    assert strange and all("pairs rejected" in task["note"] and not task["circuits"] for task in strange)
    page = (tmp_path / "run" / "report.md").read_text()
    assert "does not suit" in page and "pairs rejected" in page and "not complete" not in page
    code, error = run("scripts/verify_report.py", f"run={tmp_path / 'run'}")
    assert code == 0, error
    name = strange[0]["task"]
    code, error = run("scripts/find_circuits.py", f"run={tmp_path / 'run'}", f"task={name}", "card=quick", "baselines=true", "progress=false", "wandb=disabled")  # fmt: skip
    assert code == 0, error
