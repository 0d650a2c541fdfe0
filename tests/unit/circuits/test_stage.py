"""Report cards of a run: made once, read again from disk, kept when the report is put together anew."""

from dataclasses import replace
from json import dumps
from pathlib import Path
from random import Random

import pytest
import torch

from circuits import stage
from circuits.evidence import gather as judge
from circuits.evidence.card import CRITERIA
from circuits.evidence.thresholds import PRESETS
from circuits.find import FindConfig
from circuits.search.learn import PruneConfig
from circuits.stage import CircuitsConfig, merge_tasks, run_cards, run_circuits
from circuits.tasks import TASKS
from sparsetrain.data.pools import pool
from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import export_model

FIND = FindConfig(
    gate=False,
    seeds=(0,),
    n_train=8,
    n_fit=4,
    n_val=4,
    n_heldout=4,
    n_random=3,
    n_random_pairs=4,
    n_random_necessity=2,
    n_boot=10,
    max_tokens=40,
    prune=PruneConfig(n_steps=4, n_pairs=4, n_screen=2, clean_rounds=1),
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
    n_seeds=3,
    n_nulls=1,
)


@pytest.fixture
def export(make_model, tmp_path: Path) -> Path:
    rng, names = Random(0), pool("train")
    pairs = [task.generate(rng, names) for task in TASKS.values() for _ in range(40)]
    texts = [s.prompt + s.hinge + s.answer + s.continuation for pair in pairs for s in (pair.positive, pair.negative)]
    words = " is when not the and of to this that return import None raise from or it on at be are by can but you all\n"
    tokenizer = train_tokenizer([*texts, *[words] * 20], 500)
    model = make_model(d_vocab=tokenizer.d_vocab, d_model=16, d_head=4, n_ctx=96).eval().requires_grad_(False)
    return export_model(model, tmp_path / "export" / "step_1", tokenizer.to_json(), {})


def test_cards_are_made_once_and_kept(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = torch.randint(400, (4, 24), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=("var_if", "with_as"), n_means_windows=4, find=FIND)

    def search() -> dict:
        section = run_circuits(export, tmp_path, config, lambda: windows, windows_source="noise", progress=False)
        for task in section["tasks"]:  # an untrained model passes no gate; take its circuits as if it had
            task["status"] = "circuit"
        return section

    def make_cards(section: dict, names: list[str]) -> None:
        run_cards(export, tmp_path, section["tasks"], names, FIND, CARD, windows, progress=False)

    section = search()
    make_cards(section, ["var_if"])
    first, second = (task["circuits"][0] for task in section["tasks"])
    assert [entry["name"] for entry in first["card"]] == [criterion.name for criterion in CRITERIA]
    assert "card" not in second, "only the tasks named are judged"
    by_name = {entry["name"]: entry for entry in first["card"]}
    reached = len(list((tmp_path / "circuits" / "var_if").glob("card_seed_*/circuit.json")))
    assert by_name["seeds"]["value"]["n"] == 1 + reached, "seed 0 and those searched for the card"
    assert by_name["null models"]["value"]["n"] == 2, "one with permuted weights, one with permuted labels"
    assert "scores given" in by_name["CPR"]["value"]["note"]
    dumps(section)

    def refuse(*_: object) -> None:
        raise AssertionError("the card lies on disk")

    monkeypatch.setattr(judge, "report_card", refuse)
    again = search()
    make_cards(again, ["var_if"])
    assert again["tasks"][0]["circuits"][0]["card"] == first["card"]

    unjudged = search()
    assert "card" not in unjudged["tasks"][0]["circuits"][0]
    merged = merge_tasks(section, unjudged)
    assert merged["tasks"][0]["circuits"][0]["card"] == first["card"], "the same circuit keeps its card"


def test_the_circuit_page_is_made_once_for_the_best_circuit(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = torch.randint(400, (4, 24), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=("var_if",), n_means_windows=4, find=replace(FIND, seeds=(0, 1)))

    def search(text) -> list[dict]:
        more = {"windows_source": "noise", "progress": False, "text": text, "text_source": "held-out noise"}
        return run_circuits(export, tmp_path, config, lambda: windows, **more)["tasks"][0]["circuits"]

    best, second = search(lambda: windows)
    nodes = {node["id"] for node in best["graph"]["nodes"]}
    assert set(best["viewer"]["nodes"]) == nodes
    assert len(best["viewer"]["edges"]) == len(best["graph"]["edges"])
    assert best["viewer"]["text"]["source"] == "held-out noise"
    assert "viewer" not in second
    dumps(best)

    def refuse():
        raise AssertionError("the page lies on disk")

    assert search(refuse)[0]["viewer"] == best["viewer"]
    plain = search(None)
    assert "viewer" not in plain[0]
    old, new = ({"tasks": [{"task": "var_if", "circuits": circuits}]} for circuits in ([best, second], plain))
    assert merge_tasks(old, new)["tasks"][0]["circuits"][0]["viewer"] == best["viewer"], "the same circuit keeps it"
    moved = {"tasks": [{"task": "var_if", "circuits": plain[::-1]}]}
    assert merge_tasks(old, moved)["tasks"][0]["circuits"][1]["viewer"] == best["viewer"], "wherever it stands now"
    monkeypatch.setattr(stage, "MAX_NODES", len(nodes) - 1)
    assert "viewer" not in search(refuse)[0], "too large to read"
    monkeypatch.setattr(stage, "MAX_NODES", len(nodes))
    monkeypatch.setattr(stage, "VERSION", -1)
    with pytest.raises(AssertionError, match="on disk"):
        search(refuse)  # another version is made anew
