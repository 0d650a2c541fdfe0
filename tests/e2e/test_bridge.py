"""+experiment=bridge at smoke size: report, bridge beside the student's export, going on, mistakes in one line."""

import json

import pytest
import torch
from commands import in_process

from circuits.bridges.bridge import Between, Bridge
from circuits.bridges.hybrid import Coupled, Route, crossed
from circuits.run import KINDS
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.report import parse_report

PLAIN = ("train.py", "+experiment=bridge", "+debug=smoke", "study.n_seeds=1", "trainer.progress=false", "logger=none")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bridge")
    in_process(*PLAIN, f"hydra.run.dir={out}")
    return out


def test_the_report_has_every_crossing_and_every_task(run):
    report = json.loads((run / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    study = report["study"]
    assert study["status"] == "done"
    assert {verdict["arm"] for verdict in study["verdicts"]} == {"models", "single_double_quote", "bracket_brace", "for_while"}  # fmt: skip
    titles = {table["title"]: table for table in study["tables"]}
    singles = titles["Hybrid passes: the models alone and every single crossing"]["rows"]
    assert len(singles) == 2 + 2 * 5 and "[0.attn]" in singles[2][0]
    assert "crossings" in {figure["key"] for figure in study["figures"]}
    assert set(study["models"]) == {f"{name}/seed_0" for name in ("teacher", "student", "crossings", "steering")}


def test_the_bridge_lies_beside_an_ordinary_export(run):
    dense, sparse = (latest_export(run / name / "seed_0") for name in ("teacher", "student"))
    between = Between(
        dense_sha256=read_meta(dense)["weights_sha256"], sparse_sha256=read_meta(sparse)["weights_sha256"]
    )
    coupled = Coupled.of(load_model(dense), load_model(sparse), Bridge.load(sparse, between))
    tokens = torch.randint(64, (2, 9))
    assert crossed(coupled, tokens, Route(start="dense", crossings=(1, 3))).shape == (2, 9, 512)


def test_going_on_trains_and_reads_nothing_again(run):
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("result.json")}
    in_process(*PLAIN, f"hydra.run.dir={run}", "ckpt_path=last")
    assert len(stamps) == 4 and stamps == {path: path.stat().st_mtime_ns for path in run.rglob("result.json")}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("study.bridge.tasks=[for_whale]", "unknown task 'for_whale'"),
        ("study.bridge.tasks=[]", "must be at least one task"),
        ("study.bridge.bridge.share=0", "share"),
        ("study.bridge.n_strengths=1", "n_strengths"),
        ("+study.arms.mine.density=1", "this study has no arms but a teacher"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, argument, message):
    with pytest.raises(SystemExit) as stop:
        in_process(*PLAIN, f"hydra.run.dir={tmp_path / 'out'}", argument)
    assert stop.value.code == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
