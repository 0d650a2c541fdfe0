"""Report cards of a run: made once, read again from disk, kept when the report is put together anew."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from circuits import run
from circuits.evidence import gather as judge
from circuits.evidence.card import CRITERIA
from circuits.evidence.thresholds import PRESETS
from circuits.merged import merge_tasks
from circuits.run import CircuitsConfig, run_cards, run_circuits
from circuits.search.learn import PruneConfig
from circuits.search.task import FindConfig
from circuits.section import CircuitEntry, CircuitsSection
from circuits.tasks import TASKS
from sparsetrain.data.pools import pool
from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import export_model
from sparsetrain.typed import plain

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


def test_a_page_has_circuits_of_one_rule(export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    windows = torch.randint(400, (4, 24), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=("var_if", "with_as"), n_means_windows=4, find=FIND)

    def search(config: CircuitsConfig, known: CircuitsSection | None = None) -> CircuitsSection:
        return run_circuits(
            export, tmp_path, config, lambda: windows, windows_source="noise", known=known, progress=False
        )

    before = search(config)
    stricter = replace(config, find=replace(FIND, target_loss=0.05))
    one = replace(stricter, tasks=("with_as",))
    with pytest.raises(ValueError, match=r"circuits of var_if that were found by other rules: target_loss=0\.15 there, 0\.05 here.*Keep their rules \(circuits\.find\.target_loss=0\.15\), or .*task=var_if,with_as; in"):  # fmt: skip
        search(one, before)
    assert search(replace(one, find=FIND), before).tasks == before.tasks
    after = search(stricter, before)
    assert after.target_loss == 0.05 and [task.task for task in after.tasks] == ["var_if", "with_as"]
    search(replace(config, n_means_windows=5))
    assert "over 4 windows, since circuits rest on them, and not over n_means_windows=5" in caplog.text


def test_circuits_stay_until_those_of_a_new_search_stand(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = torch.randint(400, (4, 24), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=("var_if",), n_means_windows=4, find=FIND)

    def search(config: CircuitsConfig) -> None:
        run_circuits(export, tmp_path, config, lambda: windows, windows_source="noise", progress=False)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    search(config)
    path = tmp_path / "circuits" / "var_if" / "circuit.json"
    before = path.read_bytes()
    other = replace(config, find=replace(FIND, pair_seed=1))
    for place in ("circuits.find.searched", "circuits.find.judged"):
        with monkeypatch.context() as broken:
            broken.setattr(place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                search(other)
        assert path.read_bytes() == before
    search(other)
    assert path.read_bytes() != before
    search(replace(other, find=replace(other.find, gate=True)))
    assert not path.exists(), "the model does not pass the gate: a circuit would be of another search"


def test_cards_are_made_once_and_kept(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = torch.randint(400, (4, 24), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=("var_if", "with_as"), n_means_windows=4, find=FIND)

    def search() -> CircuitsSection:
        section = run_circuits(export, tmp_path, config, lambda: windows, windows_source="noise", progress=False)
        # An untrained model passes no gate; its circuits are taken as if it had.
        return replace(section, tasks=tuple(replace(task, status="circuit") for task in section.tasks))

    def with_cards(section: CircuitsSection, names: list[str]) -> CircuitsSection:
        return replace(
            section, tasks=run_cards(export, tmp_path, section.tasks, names, FIND, CARD, windows, progress=False)
        )

    section = with_cards(search(), ["var_if"])
    first, second = (task.circuits[0] for task in section.tasks)
    assert first.card is not None and second.card is None, "only the tasks named are judged"
    assert [entry.name for entry in first.card] == [criterion.name for criterion in CRITERIA]
    by_name = {entry.name: entry.value for entry in first.card}
    reached = len(list((tmp_path / "circuits" / "var_if").glob("card_seed_*/circuit.json")))
    assert by_name["seeds"].n == 1 + reached, "seed 0 and those searched for the card"
    assert by_name["null models"].n == 2, "one with permuted weights, one with permuted labels"
    assert "scores given" in (by_name["CPR"].note or "")
    plain(section)

    def refuse(*_: object) -> None:
        raise AssertionError("the card lies on disk")

    monkeypatch.setattr(judge, "report_card", refuse)
    assert with_cards(search(), ["var_if"]).tasks[0].circuits[0].card == first.card

    unjudged = search()
    assert unjudged.tasks[0].circuits[0].card is None
    merged = merge_tasks(section, unjudged)
    assert merged.tasks[0].circuits[0].card == first.card, "the same circuit keeps its card"


def test_the_circuit_page_is_made_once_for_the_best_circuit(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = torch.randint(400, (4, 24), generator=torch.Generator().manual_seed(0))
    config = CircuitsConfig(tasks=("var_if",), n_means_windows=4, find=replace(FIND, seeds=(0, 1)))

    def search(text) -> CircuitsSection:
        more = {"windows_source": "noise", "progress": False, "text": text, "text_source": "held-out noise"}
        return run_circuits(export, tmp_path, config, lambda: windows, **more)

    def best_of(section: CircuitsSection) -> CircuitEntry:
        return section.tasks[0].circuits[0]

    section = search(lambda: windows)
    best, second = section.tasks[0].circuits
    assert best.viewer is not None and second.viewer is None
    nodes = {node.id for node in best.graph.nodes}
    assert set(best.viewer.nodes) == nodes
    assert len(best.viewer.edges) == len(best.graph.edges)
    assert best.viewer.text.source == "held-out noise"
    plain(section)

    def refuse():
        raise AssertionError("the page lies on disk")

    assert best_of(search(refuse)).viewer == best.viewer
    bare = search(None)
    assert best_of(bare).viewer is None
    assert best_of(merge_tasks(section, bare)).viewer == best.viewer, "the same circuit keeps it"
    (task,) = bare.tasks
    moved = replace(bare, tasks=(replace(task, circuits=task.circuits[::-1]),))
    assert merge_tasks(section, moved).tasks[0].circuits[1].viewer == best.viewer, "wherever it stands now"
    monkeypatch.setattr(run, "MAX_NODES", len(nodes) - 1)
    assert best_of(search(refuse)).viewer is None, "too large to read"
    monkeypatch.setattr(run, "MAX_NODES", len(nodes))
    monkeypatch.setattr(run, "VERSION", -1)
    with pytest.raises(AssertionError, match="on disk"):
        search(refuse)  # another version is made anew
