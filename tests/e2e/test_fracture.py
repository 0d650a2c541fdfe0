"""+experiment=fracture at smoke size, and scripts/fracture.py on what it leaves, on a user's questions, and refusing a pair that misses the gate."""

import json
import re
import shutil

import numpy as np
import pytest
from commands import in_process
from safetensors.torch import load_file, save_file

from circuits.fracture.distil import STUDENTS
from circuits.run import KINDS
from sparsetrain.export import latest_export, load_model
from sparsetrain.report import parse_report
from sparsetrain.store import sha256

PLAIN = ("train.py", "+experiment=fracture", "+debug=smoke", "study.n_seeds=1", "trainer.progress=false", "logger=none")
SMALL = (
    "read.n_perturbations=4", "read.n_prompts=2", "read.target_kl=0.001", "read.attributions.n_prompts=1",
    "read.circuits.n_pairs=4", "read.circuits.n_tries=1", "read.circuits.prune.n_steps=2", "read.circuits.prune.n_pairs=2", "n_bootstrap=20", "progress=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("fracture")
    in_process(*PLAIN, f"hydra.run.dir={out}")
    return out


def test_the_report_has_every_student_and_the_null_beside(run):
    report = json.loads((run / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    study = report["study"]
    assert study["status"] == "done" and not study["interpretable"], "six steps match nothing, and the gates say so"
    assert {verdict["arm"] for verdict in study["verdicts"]} == set(STUDENTS) - {"dense"}
    assert {verdict["verdict"] for verdict in study["verdicts"]} == {"undecided"}
    assert "The null: pairs of dense students" in study["tables"][0]["title"]
    assert {"transfer_carried", "transfer_others"} <= {figure["key"] for figure in study["figures"]}
    models = study["models"]
    assert len({models[f"{name}/seed_10"] for name in STUDENTS}) == len(STUDENTS)


def test_going_on_trains_and_reads_nothing_again(run):
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}
    in_process(*PLAIN, f"hydra.run.dir={run}", "ckpt_path=last")
    assert stamps and stamps == {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}


def test_a_pair_that_misses_the_gate_is_refused_with_both_numbers(run, tmp_path, capsys):
    a, b = run / "dense" / "seed_10", run / "weight_sparse" / "seed_10"
    said = refused(capsys, "scripts/fracture.py", f"a={a}", f"b={b}", f"hydra.run.dir={tmp_path}", *SMALL)
    number = r"KL [\d.e-]+ nats/token, agreement [\d.]+% \(n=\d+\)"
    assert re.search(f"do not have the same outputs and are not compared: train: {number}; held out: {number}", said)
    assert not (tmp_path / "report.json").exists()


def refused(capsys, *command):
    """The one line that a command ends in."""
    with pytest.raises(SystemExit) as stop:
        in_process(*command)
    assert stop.value.code == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


def nudged(run, tmp_path, name, size):
    """A copy of the dense student whose weights are off by a little: same outputs, another model."""
    folder = tmp_path / name
    shutil.copytree(run / "dense" / "seed_10", folder)
    export = latest_export(folder)
    weights = load_file(export / "model.safetensors")
    rng = np.random.default_rng(len(name))
    weights["blocks.0.mlp.W_in.weight"] += size * float(rng.choice([-1, 1]))
    save_file(weights, export / "model.safetensors")
    meta = json.loads((export / "meta.json").read_text())
    meta["weights_sha256"] = sha256(export / "model.safetensors")
    (export / "meta.json").write_text(json.dumps(meta))
    return folder


def test_two_students_of_one_language_are_compared_on_all_its_inputs(run, tmp_path):
    a, b = run / "dense" / "seed_10", nudged(run, tmp_path, "near", 1e-4)
    in_process("scripts/fracture.py", f"a={a}", f"b={b}", f"hydra.run.dir={tmp_path / 'out'}", *SMALL)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    section = report["fracture"]
    rows = {row["key"]: row for row in section["rows"]}
    assert section["inputs"] == "all inputs of a rule language" and section["null"] == []
    # bounds hold for the study's size and readings, and these are others
    assert rows["fracture"]["called"] == "not judged" and rows["fracture"]["bound"]["value"] is None
    assert "transfer" not in rows and not rows["fracture, raw"]["main"]


def test_a_null_of_ones_own_gives_the_bounds_and_leaves_the_pair_out(run, tmp_path):
    a = run / "dense" / "seed_10"
    runs = [nudged(run, tmp_path, f"near{'x' * i}", 1e-7 * (1 + i)) for i in range(8)]
    null = ",".join(map(str, runs))
    in_process("scripts/fracture.py", f"a={a}", f"b={runs[0]}", f"null=[{null}]", f"hydra.run.dir={tmp_path / 'out'}", *SMALL)  # fmt: skip
    section = json.loads((tmp_path / "out" / "report.json").read_text())["fracture"]
    assert section["null"] == [str(run) for run in runs[1:]]
    assert any(row["called"] != "not judged" and row["bound"]["value"] > 0 for row in section["rows"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("null=[x,x]",), "null=['x', 'x'] has x more than once; give each run once"),
        (
            ("b=zoo:python-abstopk",),
            "are not of one architecture; perturbations stand at the same places of all models",
        ),
        (("questions=questions.jsonl",), "has no tokenizer.json, so that texts cannot be put to it"),
    ],
)
def test_mistakes_end_in_one_line(run, tmp_path, capsys, arguments, message):
    a, b = run / "dense" / "seed_10", run / "dense_again" / "seed_10"
    command = ("scripts/fracture.py", f"a={a}", f"b={b}", f"hydra.run.dir={tmp_path}", *arguments, *SMALL)
    assert message in refused(capsys, *command)


def test_the_same_run_twice_is_refused(run, tmp_path, capsys):
    a = run / "dense" / "seed_10"
    assert "are the same run; give another one" in refused(capsys, "scripts/fracture.py", f"a={a}", f"b={a}", f"hydra.run.dir={tmp_path}", *SMALL)  # fmt: skip


def test_a_language_model_is_asked_a_file_of_questions(tmp_path):
    """A model that ships, and a copy of it: asked texts of different lengths."""
    export = latest_export("zoo:python-abstopk")
    folder = tmp_path / "copy"
    shutil.copytree(export, folder)
    rows = [
        {"prompt": f"{before}{extra}{name} = {i}\n{name}", "answer": ":", "rule": rule, "context": context, "split": "heldout" if i == 5 else "train"}
        for rule, before in (("plain", ""), ("behind", "import os\n"))
        for context, extra in (("a", ""), ("b", "\n"))
        for i in range(6)
        for name in [("total", "count")[i % 2]]
    ]  # fmt: skip
    for i, row in enumerate(rows):
        row["answer"] = ("\n", " = 1\n")[i % 2]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    in_process(
        "scripts/fracture.py", f"a={export}", f"b={folder}", f"questions={tmp_path / 'questions.jsonl'}",
        f"hydra.run.dir={tmp_path / 'out'}", "read.attributions.kinds=[attn_out]", *SMALL,
    )  # fmt: skip
    section = json.loads((tmp_path / "out" / "report.json").read_text())["fracture"]
    assert section["rules"] == ["plain", "behind"] and section["contexts"] == ["a", "b"]
    assert {row["called"] for row in section["rows"]} == {"not judged"}, "without a null nobody knows"
    assert all(match["kl"]["value"] < 1e-9 for match in section["matches"])
    assert load_model(folder).config.n_ctx
