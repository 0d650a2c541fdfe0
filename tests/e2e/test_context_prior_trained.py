"""+experiment=context_prior at smoke size: both weights and both shares of contradictions, its report, its logs, going on."""

import csv
import gzip
import json

import numpy as np
import pytest
from commands import in_process

from circuits.run import KINDS
from sparsetrain.report import parse_report

PLAIN = (
    "train.py",
    "+experiment=context_prior",
    "+debug=smoke",
    "study.n_seeds=1",
    "trainer.progress=false",
    "logger=none",
)
FOLDERS = ("dense_e0", "weight_sparse_e0", "dense_e0.1", "weight_sparse_e0.1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("context_prior")
    in_process(*PLAIN, f"hydra.run.dir={out}")
    return out


def test_the_report_has_every_arm_with_its_claims(run):
    report = json.loads((run / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    study = report["study"]
    assert study["status"] == "done" and not study["interpretable"], "six steps teach nothing, and the gates say so"
    assert len(study["models"]) == len(FOLDERS)
    words = {(verdict["arm"], verdict["name"]): verdict["verdict"] for verdict in study["verdicts"]}
    assert set(words.values()) == {"undecided"} and {arm for arm, _ in words} == {
        "dense e=0", "weight_sparse e=0", "dense e=0.1", "weight_sparse e=0.1",
    }  # fmt: skip
    assert ("dense e=0", "contradictions teach") not in words and ("dense e=0.1", "contradictions teach") in words
    assert ("weight_sparse e=0", "sparse: found and switched off") in words
    assert {"stated", "headroom", "sparsity", "formed_stated", "formed_recall"} <= {f["key"] for f in study["figures"]}
    assert report["context_prior"]["model"] == "dense e=0, seed 0"


def test_prompts_and_interventions_were_tuned_alike_on_other_facts(run):
    page = json.loads((run / "report.json").read_text())["context_prior"]
    spent = {}
    for tried in page["budget"]:
        spent.setdefault(tried["arm"], []).append(tried["n_cases"])
    assert len(spent) >= 11 and {(len(n), sum(n)) for n in spent.values()} == {(4, 4 * page["n_fit"])}
    assert page["n_facts"] + page["n_facts_fit"] == page["n_cases"] + page["n_fit"], "a fact is a case, and in one part"


def test_every_model_leaves_what_it_was_read_by_and_the_log_of_its_documents(run):
    for folder in FOLDERS:
        with np.load(run / folder / "seed_0" / "read.npz") as arrays:
            n, stated = arrays["n"], arrays["stated once|p_context"]
            assert len(n) == len(stated) == len(arrays["gini|stated once"]) and ((stated >= 0) & (stated <= 1)).all()
            assert arrays["stated once|p_context|steps"].shape == (len(arrays["steps"]), len(n))
        with gzip.open(run / folder / "seed_0" / "documents.csv.gz", "rt") as file:
            rows = list(csv.DictReader(file))
        contradicting = [row for row in rows if row["contradicts"] == "1"]
        assert bool(contradicting) == folder.endswith("e0.1")


def test_going_on_trains_and_reads_nothing_again(run):
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}
    in_process(*PLAIN, f"hydra.run.dir={run}", "ckpt_path=last")
    assert stamps and stamps == {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}
