"""What report.json says of circuits follows from the run's files, and whatever does not is found, leaf by leaf."""

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import circuits.verify as verify_module
from circuits.evidence.thresholds import PRESETS
from circuits.run import KINDS, TEXT_WINDOWS, CircuitsConfig, run_baselines, run_cards, run_circuits
from circuits.search.comparison import size_ratios
from circuits.search.learn import PruneConfig
from circuits.search.task import FindConfig
from circuits.section import CircuitsSection
from circuits.tasks import TASKS, PairSet, Twin, build_pairs
from circuits.verify import VerifiedRun, differences, leaves, verify
from sparsetrain.data.pools import pool
from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import export_model, latest_export, read_meta
from sparsetrain.model import Transformer
from sparsetrain.report import Report, RunFacts, WeightsFacts, load_report, save_report
from sparsetrain.store import write_atomic

TASK = "var_if"
CONFIG = FindConfig(
    seeds=(3, 4), settle=(0.6,), n_train=16, n_fit=8, n_val=8, n_heldout=8, n_random=5, n_random_pairs=4, n_random_necessity=2, n_boot=20,
    max_tokens=40, prune_edges=True, prune=PruneConfig(n_steps=30, n_pairs=4, n_screen=4, edge_rounds=1),
)  # fmt: skip


def learn_(model: Transformer, *pairs: PairSet) -> None:
    """Teaches a model the answers of pairs; of several sets with the same prompts one answer is as good as another."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens, last = pairs[0].prompts()
    for _ in range(60):
        logits = model(tokens, last)
        loss = sum(torch.nn.functional.cross_entropy(logits, taught.answers.flatten()) for taught in pairs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def searched(
    make_model: Callable[..., Transformer], folder: Path, find: FindConfig, twins: tuple[Twin | None, ...] = (None,)
) -> Path:
    """Folder of a run whose model has learned one of two tasks, with their circuits and pages."""
    rng, names = Random(0), pool("train")
    pairs = [task.generate(rng, names) for task in TASKS.values() for _ in range(40)]
    texts = [s.prompt + s.hinge + s.answer + s.continuation for pair in pairs for s in (pair.positive, pair.negative)]
    words = " is when not the and of to this that return import None raise from or it on at be are by can but you all\n"
    tokenizer = train_tokenizer([*texts, *[words] * 20], 500)
    model = make_model(d_vocab=tokenizer.d_vocab, d_model=24, d_head=4, n_ctx=64)
    learn_(
        model, *(build_pairs(TASK, tokenizer, "train", 200, seed=1, twin=x, max_tokens=find.max_tokens) for x in twins)
    )
    export = export_model(model, folder / "export" / "step_1", tokenizer.to_json(), {})
    windows = torch.randint(tokenizer.d_vocab, (8, 16), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=(TASK, "with_as"), find=find)
    section = run_circuits(export, folder, config, lambda: windows, text=lambda: windows[:4], progress=False)
    facts = RunFacts.now(name="finished", seed=0, command="test", device="cpu")
    weights = WeightsFacts(sha256=read_meta(export)["weights_sha256"])
    save_report(Report(run=facts, weights=weights, sections={"circuits": section}), folder / "report.json")
    return folder


@pytest.fixture(scope="module")
def finished(make_model, tmp_path_factory) -> Path:
    """A run with cards and baselines too."""
    folder = searched(make_model, tmp_path_factory.mktemp("finished"), CONFIG)
    report = load_report(folder / "report.json", KINDS)
    section, export = report.section("circuits", CircuitsSection), latest_export(folder)
    tasks = run_baselines(export, folder, section.tasks, [TASK], CONFIG, progress=False)
    windows = load_file(folder / "circuits" / TEXT_WINDOWS)["windows"]
    tasks = run_cards(export, folder, tasks, [TASK], CONFIG, PRESETS["quick"], windows, progress=False)
    section = replace(section, tasks=tasks, baselines=size_ratios(tasks, seed=0, n_boot=CONFIG.n_boot))
    save_report(report.plus(circuits=section), folder / "report.json")
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def stored(run: Path) -> Any:
    return json.loads((run / "report.json").read_text())["circuits"]


def found_in(run: Path) -> list:
    return [found for _, of_task in verify(VerifiedRun.load(run), stored(run)) for found in of_task]


def change(path: Path, edit: Callable[[Any], object]) -> None:
    """Edits a JSON file."""
    content = json.loads(path.read_text())
    edit(content)
    write_atomic(path, json.dumps(content))


def task_of(content: Any) -> Any:
    """The first task's entry, in a report or in the record of its search."""
    return (
        content["circuits"]["tasks"][0]
        if "circuits" in content and "tasks" in content["circuits"]
        else content["result"]
    )


def test_an_honest_report_differs_in_nothing(finished):
    section = stored(finished)
    task, failed = section["tasks"]
    assert task["status"] == "circuit" and len(task["circuits"]) == 2 and failed["status"] == "failed_by_model"
    assert {"card", "viewer", "edge_circuit"} <= set(task["circuits"][0]) and task["baselines"] and section["baselines"]
    assert found_in(finished) == []


def test_circuits_with_calibrations_of_their_own_and_a_twin_that_was_reached(make_model, tmp_path):
    folder = searched(
        make_model, tmp_path, replace(CONFIG, calibration="circuit", prune_edges=False, exclude=1), (None, "nonsense")
    )
    task = stored(folder)["tasks"][0]
    assert task["nonsense_twin"]["reached"] and task["circuits"][0]["calibration"]["scale"] != 1
    assert found_in(folder) == []
    change(folder / "circuits" / TASK / "nonsense_twin" / "circuit.json", lambda c: c["calibration"].update(shift=0.0))
    (found,) = found_in(folder)
    assert (found.file, found.place) == (f"circuits/{TASK}/nonsense_twin/circuit.json", "calibration.shift")


def everywhere(run: Path, edit: Callable[[Any], object]) -> None:
    """Edits the first task's entry in the report and in the record of its search: who tampers may be thorough."""
    for path in (run / "report.json", run / "circuits" / TASK / "result.json"):
        change(path, lambda content: edit(task_of(content)))


def status(run: Path) -> str:
    everywhere(run, lambda task: task.update(status="like_nonsense"))
    return f'report.json: {TASK}.status is "like_nonsense", recomputed "circuit"'


def verdict(run: Path) -> str:
    card = task_of(json.loads((run / "report.json").read_text()))["circuits"][0]["card"]
    at = [row["verdict"] for row in card].index("fail")
    change(run / "report.json", lambda c: task_of(c)["circuits"][0]["card"][at].update(verdict="pass"))
    change(run / "circuits" / TASK / "card.json", lambda c: c["result"][at].update(verdict="pass"))
    return f'report.json: {TASK}.circuits[0].card[{at}].verdict is "pass", recomputed "fail"'


def calibration(run: Path) -> str:
    everywhere(run, lambda task: task["circuits"][0]["calibration"].update(shift=1.5))
    change(run / "circuits" / TASK / "circuit.json", lambda c: c["calibration"].update(shift=1.5))
    return f"report.json: {TASK}.circuits[0].calibration.shift is 1.5, recomputed"


def loss(run: Path) -> str:
    everywhere(run, lambda task: task["circuits"][0]["task_loss"].update(value=0.01))
    return f"report.json: {TASK}.circuits[0].task_loss.value is 0.01, recomputed"


def n(run: Path) -> str:
    everywhere(run, lambda task: task["circuits"][0]["task_loss"].update(n=512))
    return f"report.json: {TASK}.circuits[0].task_loss.n is 512, recomputed 8"


def edge_weight(run: Path) -> str:
    everywhere(run, lambda task: task["circuits"][0]["graph"]["edges"][0].update(weight=7.0))
    change(run / "circuits" / TASK / "circuit.json", lambda c: c["edges"][0].__setitem__(2, 7.0))
    return f"report.json: {TASK}.circuits[0].graph.edges[0].weight is 7.0, recomputed"


def ablation_row(run: Path) -> str:
    everywhere(run, lambda task: task["circuits"][0]["ablations"][2]["loss"].update(value=3.0))
    return f"report.json: {TASK}.circuits[0].ablations[2].loss.value is 3.0, recomputed"


@pytest.fixture(scope="module")
def honest(finished) -> dict[str, Any]:
    """What the files of the run give, task by task."""
    run = VerifiedRun.load(finished)
    return {name: verify_module.recompute(run, name) for name in (TASK, "with_as")}


@pytest.mark.parametrize("tamper", [status, verdict, loss, n, ablation_row])
def test_what_was_tampered_with_in_the_report_is_named_and_nothing_else(tamper, run, honest, monkeypatch):
    line = tamper(run)
    monkeypatch.setattr(verify_module, "recompute", lambda run, name: honest[name])
    (found,) = found_in(run)
    assert str(found).startswith(line)


@pytest.mark.parametrize("tamper", [calibration, edge_weight])
def test_what_was_tampered_with_in_a_circuit_too_is_named_in_both(tamper, run):
    line = tamper(run)
    found = [str(difference) for difference in found_in(run)]
    assert any(text.startswith(line) for text in found), found
    assert any(text.startswith(f"circuits/{TASK}/circuit.json: ") for text in found)


def tampered(tree: Any, place: str) -> Any:
    """A copy with another leaf at one place."""
    other = deepcopy(tree)
    *steps, last = [int(step) if step.isdecimal() else step for step in re.findall(r"[^.\[\]]+", place)]
    holder = other
    for step in steps:
        holder = holder[step]
    leaf = holder[last]
    more = {
        bool: lambda: not leaf,
        int: lambda: leaf + 1,
        float: lambda: leaf + 1e-9,
        str: lambda: f"{leaf} ",
        list: lambda: [0],
        dict: lambda: {"x": 0},
    }
    holder[last] = more[type(leaf)]() if leaf is not None else 0
    return other


@pytest.mark.slow
def test_any_leaf_of_the_section_is_found(finished, honest, monkeypatch):
    """No leaf is an exception: times too are as the search's own record has them."""
    section, rng = stored(finished), Random(0)
    groups: dict[
        str, list[str]
    ] = {}  # by the name of the leaf, so that the many of the drawings do not crowd out the others
    for place, _ in leaves(section):
        if ":" not in place:  # nodes' names are keys of the viewer
            groups.setdefault(re.sub(r"\[\d+\]", "", place), []).append(place)

    def known(run: VerifiedRun, name: str) -> Any:
        if name not in honest:
            raise FileNotFoundError(f"{name} has left no record")
        return honest[name]

    monkeypatch.setattr(verify_module, "recompute", known)
    run = VerifiedRun.load(finished)
    assert not [found for _, of_task in verify(run, section) for found in of_task]
    for group in sorted(groups):
        place = rng.choice(groups[group])
        assert [found for _, of_task in verify(run, tampered(section, place)) for found in of_task], place
    assert len(groups) > 100


@pytest.mark.parametrize("gone", ["tasks", "circuits", "card", "nonsense_twin"])
def test_what_was_left_out_is_found(finished, honest, monkeypatch, gone):
    section = stored(finished)
    task = section["tasks"][0]
    {
        "tasks": lambda: section["tasks"].pop(0),
        "circuits": lambda: task["circuits"].pop(),
        "card": lambda: task["circuits"][0].pop("card"),
        "nonsense_twin": lambda: task.pop("nonsense_twin"),
    }[gone]()
    monkeypatch.setattr(verify_module, "recompute", lambda run, name: honest[name])
    assert [found for _, of_task in verify(VerifiedRun.load(finished), section) for found in of_task]


def test_a_file_that_is_damaged_is_named_and_the_others_are_still_compared(run):
    (run / "circuits" / TASK / "circuit.safetensors").unlink()
    change(run / "report.json", lambda c: c["circuits"]["tasks"][1].update(status="bigram"))
    found = [str(difference) for difference in found_in(run)]
    assert any("circuit.safetensors is missing" in text for text in found)
    assert any(text.startswith("report.json: with_as.status") for text in found)


def test_a_card_with_other_thresholds_is_named(run):
    change(run / "circuits" / TASK / "card.json", lambda c: c["key"]["card"].update(max_task_loss=5.0))
    assert any(found.file.endswith("card.json") for found in found_in(run))


@pytest.mark.slow
def test_the_command_ends_with_a_line_per_difference(run, python):
    good = python("scripts/verify_report.py", f"run={run}")
    assert good.returncode == 0 and good.stdout.splitlines()[-1].endswith("0 differ"), good.stderr
    loss(run)
    bad = python("scripts/verify_report.py", f"run={run}")
    assert bad.returncode == 1
    (line,) = bad.stderr.splitlines()
    assert line.startswith(f"not as recomputed: report.json: {TASK}.circuits[0].task_loss.value is 0.01, recomputed")


def test_one_and_true_differ_and_one_and_one_point_nought_do_not():
    assert not differences("f", "", {"a": 1, "b": []}, {"a": 1.0, "b": []})
    (found,) = differences("f", "", {"a": 1}, {"a": True})
    assert str(found) == "f: a is 1, recomputed true"
    gone, more = differences("f", "", {"a": 1}, {"b": 1})
    assert (gone.recomputed, more.stored) == ("absent", "absent")
