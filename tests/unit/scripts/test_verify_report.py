"""What report.json says of circuits follows from the run's files, and a number that does not is found."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from circuits.evidence.thresholds import PRESETS
from circuits.find import find_once, section_of
from circuits.means import measure_means
from circuits.run import run_cards
from circuits.search.learn import PruneConfig
from circuits.search.task import FindConfig
from circuits.section import TaskEntry
from circuits.tasks import TASKS
from scripts.verify_report import compare, numbers, recompute
from sparsetrain.data.pools import pool
from sparsetrain.data.tokenizer import Tokenizer, train_tokenizer
from sparsetrain.export import export_model, load_model, read_meta
from sparsetrain.report import Report, RunFacts, save_report
from sparsetrain.stats.number import number
from sparsetrain.store import write_atomic
from sparsetrain.typed import from_dict, plain

TASK = "var_if"
CONFIG = FindConfig(
    gate=False,
    seeds=(3, 4),
    n_train=8,
    n_fit=6,
    n_val=6,
    n_heldout=6,
    n_random=5,
    n_random_pairs=4,
    n_random_necessity=2,
    n_boot=20,
    max_tokens=40,
    prune=PruneConfig(n_steps=6, n_pairs=4, n_screen=3, compact_nodes=10_000),  # so that the compact form is used
)
CARD = replace(
    PRESETS["quick"],
    n_pairs=4,
    n_random=3,
    n_random_pairs=4,
    n_random_necessity=2,
    n_subsets=2,
    n_singles=2,
    n_partial=1,
)


@pytest.fixture(scope="module")
def finished(make_model, tmp_path_factory) -> Path:
    """Folder of a run with the circuits of one task in an untrained model."""
    tmp_path = tmp_path_factory.mktemp("finished")
    rng, names = Random(0), pool("train")
    pairs = [task.generate(rng, names) for task in TASKS.values() for _ in range(40)]
    texts = [s.prompt + s.hinge + s.answer + s.continuation for pair in pairs for s in (pair.positive, pair.negative)]
    words = " is when not the and of to this that return import None raise from or it on at be are by can but you all\n"
    trained = train_tokenizer([*texts, *[words] * 20], 500)
    made = make_model(d_vocab=trained.d_vocab, d_model=24, d_head=4, n_ctx=64)
    trained.save(tmp_path / "tokenizer.json")
    export = export_model(made, tmp_path / "export" / "step_1", (tmp_path / "tokenizer.json").read_text(), {})
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    windows = torch.randint(tokenizer.d_vocab, (8, 16), generator=torch.Generator().manual_seed(0))
    means = measure_means(model, windows, source="noise", weights_sha256=read_meta(export)["weights_sha256"])
    means.save(tmp_path / "circuits" / "means.safetensors")
    # An untrained model passes no gate; its circuits are judged as if it had.
    entry = replace(find_once(model, TASK, tokenizer, means, CONFIG, tmp_path / "circuits"), status="circuit")
    tasks = run_cards(export, tmp_path, [entry], [TASK], CONFIG, CARD, windows, progress=False)
    section = section_of(means, CONFIG, tasks)
    facts = RunFacts.now(name="finished", seed=0, command="test", device="cpu")
    save_report(Report(run=facts, sections={"circuits": section}), tmp_path / "report.json")
    return tmp_path


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def entry_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())["circuits"]["tasks"][0]


def recomputed(run: Path) -> dict:
    entry = from_dict(TaskEntry, entry_of(run))
    return plain(recompute(run, entry))


def test_every_marked_number_is_recomputed_to_the_last_bit(run):
    stored = entry_of(run)
    assert len(stored["circuits"]) == 2, "without a gate every seed is pruned to the loss that the model has"
    rows = compare(stored, recomputed(run))
    marked = sum(x["status"] == "recomputable" for _, x in numbers(stored))
    assert len(rows) == marked > 0.9 * sum(1 for _ in numbers(stored))
    assert {row.difference for row in rows} == {0.0}
    places = {row.place for row in rows}
    assert {"nonsense_twin.n_edges", "circuits[1].task_loss", "circuits[0].card[0].value"} <= places


def test_a_changed_circuit_changes_its_numbers_and_no_others(run):
    stored = entry_of(run)
    path = run / stored["circuits"][1]["path"]
    content = json.loads(path.read_text())
    content["calibration"]["shift"] += 1.0
    path.write_text(json.dumps(content))
    rows = compare(stored, recomputed(run))
    changed = {row.place for row in rows if row.recomputed is not None and row.difference > 0}
    assert "circuits[1].task_loss" in changed
    assert all(place.startswith("circuits[1].") for place in changed)


def test_a_number_with_no_counterpart_or_another_interval_is_a_difference():
    stored = plain(
        {"a": number(1.0, "nats", lo=0.5, hi=2.0), "b": [number(3, "edges")], "c": number(1.0, "s", "measured")}
    )
    other = deepcopy(stored)
    other["a"]["hi"] = 2.5
    other["b"] = []
    rows = {row.place: row.difference for row in compare(stored, other)}
    assert rows == {"a": 0.5, "b[0]": float("inf")}


def test_the_command_fails_on_a_number_that_the_files_do_not_give(run, python):
    good = python("scripts/verify_report.py", f"run={run}")
    assert good.returncode == 0, good.stderr
    assert "0 differ" in good.stdout
    report = json.loads((run / "report.json").read_text())
    report["circuits"]["tasks"][0]["gate"]["loss"]["value"] += 1e-7
    write_atomic(run / "report.json", json.dumps(report))
    bad = python("scripts/verify_report.py", f"run={run}")
    assert bad.returncode == 1
    assert bad.stderr.splitlines() == [f"not as stored: {TASK}.gate.loss"]
