"""+experiment=method_comparison at smoke size: report, equal positions, going on, mistakes in one line; other methods in an ordinary run."""

import json

import pytest
from commands import in_process

from circuits.run import KINDS
from sparsetrain.report import parse_report

PLAIN = ("train.py", "+experiment=method_comparison", "+debug=smoke", "trainer.progress=false", "logger=none")


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus_cache):
    out = tmp_path_factory.mktemp("methods")
    in_process(*PLAIN, f"hydra.run.dir={out}", f"cache_dir={corpus_cache}")
    return out


def test_the_report_has_every_arm_and_equal_positions(run):
    report = json.loads((run / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    study = report["study"]
    assert {verdict["arm"] for verdict in study["verdicts"]} == {"set / topk", "l0 / topk", "set / topk: circuits", "l0 / topk: circuits"}  # fmt: skip
    assert all(gate["passed"] for gate in study["gates"] if gate["key"].endswith("positions"))
    titles = {table["title"]: table for table in study["tables"]}
    arms = titles["Methods"]["rows"]
    assert [row[0] for row in arms] == ["topk", "set", "l0"] and len({row[6] for row in arms}) == 1
    assert {row[7] for row in arms} == {"yes"}
    kept = {
        arm: {
            tensor["name"]: tensor.get("kept", tensor["nonzeros"])
            for tensor in json.loads((run / "models" / f"{arm}-seed_0" / "report.json").read_text())["sparsity"][
                "tensors"
            ]
        }
        for arm in ("topk", "set", "l0")
    }
    assert kept["topk"] == kept["set"] == kept["l0"]


def test_going_on_trains_and_reads_nothing_again(run, corpus_cache):
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("result.json")}
    in_process(*PLAIN, f"hydra.run.dir={run}", "ckpt_path=last", f"cache_dir={corpus_cache}")
    assert stamps and stamps == {path: path.stat().st_mtime_ns for path in run.rglob("result.json")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study.methods.reference=top"], "study.methods.reference=top is no arm"),
        (["study.methods.min_ratio=1"], "min_ratio=1.0 must be above 1"),
        (["circuits.most=2"], "methods are compared on the same tasks"),
        (["study.arms.set.method=sets"], "study.arms.set.method"),
        (["sparsity.rigl.fraction=1.5"], "sparsity.rigl.fraction"),
        (
            [
                "study.kind=none",
                "sparsity=two_of_four",
                "sparsity.density=0.5",
                "sparsity.embed_density=0.5",
                "sparsity.floor=4",
            ],
            "two_of_four chooses within rows",
        ),
        (["study.kind=none", "sparsity=two_of_four", "sparsity.density=0.25"], "sparsity.density=0.25"),
        (["study.kind=none", "sparsity=l0", "sparsity.l0.end=0.1"], "sparsity.l0.end=0.1 comes before"),
        (["study.kind=none", "sparsity=set", "trainer.compile=true"], "sparsity.method=set is for one device"),
    ],
)
def test_mistakes_end_in_one_line(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        in_process(*PLAIN, f"hydra.run.dir={tmp_path / 'out'}", *arguments)
    assert stop.value.code == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
