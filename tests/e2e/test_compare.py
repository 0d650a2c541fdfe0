"""scripts/compare.py on runs made by train.py: exactly the key that differs is named, and mistakes are one line."""

import json
from pathlib import Path

import pytest
from commands import SMOKE, in_process

from circuits.run import KINDS
from circuits.side_by_side.section import SideBySideSection
from sparsetrain.report import load_report

PLAIN = (*SMOKE, "circuits=none", "ood=none", "logger=none", "trainer.n_threads=1", "trainer.n_steps=4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus_cache) -> Path:
    """A folder of finished runs: `plain`, the same `again`, and two with other settings."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {"plain": [], "again": [], "one": ["sparsity.density=0.25"], "two": ["seed=1", "optim.betas=[0.8,0.95]"]}
    for name, overrides in changes.items():
        in_process("train.py", *PLAIN, *overrides, f"hydra.run.dir={folder / name}", f"cache_dir={corpus_cache}")
    return folder


@pytest.mark.parametrize(
    ("name", "keys"),
    [("again", []), ("one", ["sparsity.density"]), ("two", ["optim.betas", "seed"])],
)
def test_exactly_the_differing_keys_are_named(name, keys, runs, tmp_path, capsys):
    in_process("scripts/compare.py", f"a={runs / 'plain'}", f"b={runs / name}", f"hydra.run.dir={tmp_path}")
    said = capsys.readouterr().out
    named = [line.split(":")[0].strip() for line in said.splitlines() if line.startswith("  ")]
    assert sorted(named) == keys
    assert f"settings: {['no setting differs', '1 setting differs', '2 settings differ'][len(keys)]}" in said
    section = load_report(tmp_path / "report.json", KINDS).section("side_by_side", SideBySideSection)
    assert sorted(entry.key for entry in section.settings.differing) == keys
    assert said.splitlines()[-1] == f"report: {tmp_path / 'report.html'}" and (tmp_path / "report.md").is_file()
    loss = section.losses.per_token[0].difference
    assert loss is not None and (loss.value == 0) is (name == "again")


def test_a_run_beside_its_report_alone_and_beside_an_unfinished_one(runs, tmp_path, capsys):
    for name, files in {"report": ["report.json"], "unfinished": ["config.yaml", "metrics.csv"]}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes((runs / "plain" / file).read_bytes())
        in_process(
            "scripts/compare.py",
            f"a={runs / 'plain'}",
            f"b={tmp_path / name}",
            f"hydra.run.dir={tmp_path / 'out' / name}",
        )
    said = capsys.readouterr().out
    assert "b: no config.yaml" in said and "b: no report.json: the run has not finished" in said
    assert json.loads((tmp_path / "out" / "report" / "report.json").read_text())["side_by_side"]["a"]["lacks"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a= is missing"),
        (["a={runs}/plain"], "b= is missing"),
        (["a={runs}/plain", "b={runs}/nowhere"], "no such run folder: {runs}/nowhere"),
        (["a={runs}/plain", "b={runs}"], "is no run's folder"),
        (["a={runs}/plain", "c={runs}/plain"], "unknown config key 'c'"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        in_process(
            "scripts/compare.py", *(argument.format(runs=runs) for argument in arguments), f"hydra.run.dir={tmp_path}"
        )
    error = capsys.readouterr().err
    assert stop.value.code == 1 and error.count("\n") == 1 and message.format(runs=runs) in error


@pytest.mark.slow
def test_a_run_with_circuits_and_survey_beside_itself(smoke, tmp_path, capsys):
    in_process("scripts/compare.py", f"a={smoke}", f"b={smoke}", f"hydra.run.dir={tmp_path}")
    section = load_report(tmp_path / "report.json", KINDS).section("side_by_side", SideBySideSection)
    assert not section.settings.differing and section.sparsity.points
    assert all(pair.shared is None or pair.shared.jaccard.value == 1 for pair in section.tasks.tasks)
    differences = [d.difference for point in section.sparsity.points for d in point.splits.values()]
    assert all(d is not None and d.value in (0, None) for d in differences)
