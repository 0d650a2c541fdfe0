"""Losses, tasks, circuits and sparsity of two runs, on folders made by hand; and whatever a folder may lack."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from report_example import circuit, example_report, filled, string_closing_graph, task

from circuits.circuit import Circuit, Provenance
from circuits.masks import NodeSpace
from circuits.run import KINDS
from circuits.section import CircuitsSection
from circuits.side_by_side.compare import compare
from circuits.side_by_side.losses import last_common
from circuits.side_by_side.run import SideRun, read_run
from circuits.side_by_side.section import SideBySideSection
from circuits.side_by_side.settings import Settings
from circuits.side_by_side.tasks import shared_nodes
from circuits.tasks.loss import Calibration
from circuits.views.side_by_side import overview, side_by_side
from sparsetrain.data import DataSection
from sparsetrain.report import Report, save_report
from sparsetrain.report.blocks import Choice, Heatmap, Lines, Table, Text, Tile, walk
from sparsetrain.report.document import assemble
from sparsetrain.report.markdown import to_markdown
from sparsetrain.report.sections import TrainingSection
from sparsetrain.representation.section import RepresentationSection
from sparsetrain.stats.number import StepCurve, number
from sparsetrain.typed import plain

SPACE = NodeSpace(("blocks.0.attn.hook_in", "blocks.0.mlp.hook_neuron"), (8, 32))
METRICS = (
    "step,name,value\n4,val_loss,5.0\n4,val_loss/x,5.5\n4,val_bits_per_char,2.5\n4,train_loss,6.0\n"
    "8,val_loss,4.0\n8,val_loss/x,4.5\n8,val_bits_per_char,2.0\n"
)


def circuit_of(nodes: dict[str, tuple[int, ...]], space: NodeSpace = SPACE) -> Circuit:
    one = torch.tensor(1.0, dtype=torch.float64)
    return Circuit(
        task="t",
        nodes=nodes,
        edges=(),
        space=space,
        means=torch.zeros(space.n_nodes),
        calibration=Calibration(scale=one, shift=one),
        provenance=filled(Provenance),
    )


def training(loss: float, source: float, *, counted: bool = True) -> TrainingSection:
    losses = {"x": number(source, "nats/token", n=64), "mixed": number(loss, "nats/token", n=64)}
    bits = (
        {name: number(n.value / 2, "bits/char", note="2 characters") for name, n in losses.items()} if counted else {}
    )
    return filled(TrainingSection, {"val_loss": losses, "bits_per_char": bits, "bigram_loss": losses, "curves": {}})


def data(content_hash: str = "aa") -> DataSection:
    counts = {"n_chars": {"val": 300, "train": 1}, "n_tokens": {"val": 100, "train": 1}, "weight": 1.0, "skipped": []}
    return filled(DataSection, {"content_hash": content_hash, "sources": {"x": counts}})


def folder(path: Path, *, metrics: str | None = METRICS, **sections: object) -> Path:
    """A run's folder with these sections in its report; none: it has no report."""
    path.mkdir(parents=True, exist_ok=True)
    if metrics is not None:
        (path / "metrics.csv").write_text(metrics)
    if sections:
        save_report(replace(example_report(), sections=sections), path / "report.json")
    return path


def read(path: Path, **settings: object) -> SideRun:
    return read_run(path, Settings(written=settings, read=settings) if settings else "no config.yaml", KINDS)


def both(a: SideRun, b: SideRun) -> SideBySideSection:
    """Compared, through report.json and back, and shown."""
    section = compare(a, b)
    report = Report(run=example_report().run, sections={"side_by_side": section})
    assert "side by side" in to_markdown(assemble(report, KINDS)).lower()
    assert overview(section)
    return section


# losses


def test_losses_per_token_and_per_character_by_hand(tmp_path):
    a = read(folder(tmp_path / "a", training=training(3.0, 2.0), data=data()))
    b = read(folder(tmp_path / "b", training=training(2.5, 2.2), data=data()))
    losses = both(a, b).losses
    mixed, x = losses.per_token
    assert (mixed.source, x.source) == ("mixed", "x")
    assert mixed.difference.value == -0.5 and x.difference.value == pytest.approx(0.2)
    bits = {entry.source: entry for entry in losses.per_character}
    assert bits["x"].a.value == 1 and bits["mixed"].difference.value == -0.25 and not losses.notes
    assert "-0.250 bits/char (b is better: 1.500 in a, 1.250 in b)" in "\n".join(overview(compare(a, b)))
    older = read(folder(tmp_path / "older", training=training(3.5, 2.0, counted=False), data=data()))
    assert "-0.500 nats/token (b is better: 3.500 in a, 3.000 in b)" in "\n".join(overview(compare(older, a)))


def test_another_corpus_is_said(tmp_path):
    a = read(folder(tmp_path / "a", training=training(3.0, 2.0), data=data("aa")))
    b = read(folder(tmp_path / "b", training=training(3.0, 2.0), data=data("bb")))
    assert any("corpora differ" in note and "aa" in note and "bb" in note for note in both(a, b).losses.notes)


def test_an_unfinished_run_shows_its_last_validation_and_that_it_is_one(tmp_path):
    a = read(folder(tmp_path / "a", training=training(3.0, 2.0), data=data(), metrics=METRICS + "12,val_loss,3.0\n"))
    b = read(folder(tmp_path / "b"))
    section = both(a, b)
    assert section.b.lacks == ("no config.yaml", "no report.json: the run has not finished") and section.b.step == 8
    assert section.losses.per_token[0].b.value == 4.0 and "step 8" in section.losses.per_token[0].b.note
    assert any("At step 8" in note for note in section.losses.notes)
    assert section.losses.per_character[0].b.value == 2.0
    assert "2.000 in b at step 8" in "\n".join(overview(section))


def test_last_common_step():
    a, b = StepCurve(step=(4, 8, 12), value=(3.0, 2.0, 1.0)), StepCurve(step=(4, 8, 12), value=(5.0, 4.0, None))
    assert last_common(a, b) == (8, 2.0, 4.0) and last_common(a, StepCurve(step=(5,), value=(1.0,))) is None


def test_a_loss_that_is_not_finite_is_a_gap(tmp_path):
    a = read(folder(tmp_path / "a", metrics="step,name,value\n4,val_loss,5.0\n8,val_loss,nan\n"))
    section = both(a, a)
    assert section.losses.curves["val_loss"].a.value == (5.0, None) and section.losses.per_token[0].a.value is None


# tasks and circuits


def with_circuits(path: Path, nodes: dict[str, tuple[int, ...]] | None, space: NodeSpace = SPACE) -> SideRun:
    found = []
    if nodes is not None:
        circuit_of(nodes, space).save(path / "circuits" / "t")
        found = [replace(circuit("t", string_closing_graph(), 0, 0.1), path="circuits/t/circuit.json")]
    entry = task("t", "circuit" if found else "failed_by_model", found)
    section = filled(CircuitsSection, {"target_loss": 0.15, "tasks": [entry]})
    return read(folder(path, circuits=section), seed=0, model={"d_model": 8})


def test_shared_nodes_by_hand(tmp_path):
    a = {"blocks.0.attn.hook_in": (1, 2), "blocks.0.mlp.hook_neuron": (3, 4, 5)}
    b = {"blocks.0.attn.hook_in": (2, 3), "blocks.0.mlp.hook_neuron": (5, 6)}
    (pair,) = both(with_circuits(tmp_path / "a", a), with_circuits(tmp_path / "b", b)).tasks.tasks
    shared = pair.shared
    assert shared is not None
    assert shared.nodes == ("blocks.0.attn.hook_in:2", "blocks.0.mlp.hook_neuron:5")
    assert shared.n_shared.value == 2 and shared.jaccard.value == pytest.approx(2 / 7)
    assert shared.n_random.value == pytest.approx(2 * 2 / 8 + 3 * 2 / 32)


def test_random_circuits_of_these_sizes_share_what_is_said():
    a = circuit_of({"blocks.0.attn.hook_in": (0, 1, 2), "blocks.0.mlp.hook_neuron": tuple(range(10))})
    b = circuit_of({"blocks.0.attn.hook_in": (4, 5), "blocks.0.mlp.hook_neuron": tuple(range(20, 32))})
    shared, rng = shared_nodes(a, b), np.random.default_rng(0)
    drawn = []
    for _ in range(3000):
        k = len({*rng.choice(8, 3, False)} & {*rng.choice(8, 2, False)})
        k += len({*rng.choice(32, 10, False)} & {*rng.choice(32, 12, False)})
        drawn.append((k, k / (13 + 14 - k)))
    n, ratio = np.mean(drawn, axis=0)
    assert shared.n_shared.value == 0 and shared.n_random.value == pytest.approx(n, abs=0.1)
    assert shared.jaccard_random.value == pytest.approx(ratio, abs=0.01)
    assert (
        shared.n_random.lo <= np.quantile(drawn, 0.025, axis=0)[0]
        and shared.n_random.hi >= np.quantile(drawn, 0.975, axis=0)[0]
    )


@pytest.mark.parametrize(
    ("nodes", "space", "words"),
    [
        ({"blocks.0.attn.hook_in": (1,)}, NodeSpace(SPACE.names, (12, 48)), "40 channels in a, 60 in b"),
        ({}, SPACE, "the circuit of b has no nodes"),
    ],
)
def test_circuits_that_cannot_be_compared_say_why(nodes, space, words, tmp_path):
    a = with_circuits(tmp_path / "a", {"blocks.0.attn.hook_in": (1,)})
    (pair,) = both(a, with_circuits(tmp_path / "b", nodes, space)).tasks.tasks
    assert pair.shared is None and words in pair.note


@pytest.mark.parametrize("damage", ["delete", "torn", "foreign"])
def test_a_circuit_that_cannot_be_read_is_said(damage, tmp_path):
    nodes = {"blocks.0.attn.hook_in": (1,)}
    a, b = with_circuits(tmp_path / "a", nodes), with_circuits(tmp_path / "b", nodes)
    path = tmp_path / "b" / "circuits" / "t" / "circuit.json"
    text = path.read_text()
    path.unlink() if damage == "delete" else path.write_text(text[:50] if damage == "torn" else "[]")
    (pair,) = both(a, b).tasks.tasks
    assert pair.shared is None and pair.note.startswith("a circuit cannot be read")


def test_a_task_that_only_one_run_has(tmp_path):
    a = with_circuits(tmp_path / "a", {"blocks.0.attn.hook_in": (1,)})
    section = both(a, read(folder(tmp_path / "b", training=training(3.0, 2.0))))
    (pair,) = section.tasks.tasks
    assert (
        pair.b is None
        and pair.shared is None
        and any(note.startswith("b has no circuits") for note in section.tasks.notes)
    )
    failed = with_circuits(tmp_path / "c", None)
    assert both(a, failed).tasks.tasks[0].b.status == "failed_by_model"


@pytest.mark.parametrize(
    ("seed", "words"), [(0, "began with the same weights"), (1, "did not begin with the same weights")]
)
def test_what_sharing_means_depends_on_where_the_trainings_began(seed, words, tmp_path):
    a = with_circuits(tmp_path / "a", {"blocks.0.attn.hook_in": (1,)})
    b = replace(
        a,
        settings=Settings(
            written={"seed": seed, "model": {"d_model": 8}}, read={"seed": seed, "model": {"d_model": 8}}
        ),
    )
    assert any(words in note for note in both(a, b).tasks.notes)


# sparsity


def surveyed(path: Path, values: dict[str, tuple[float, float, float]], width: int = 8) -> SideRun:
    numbers = {split: {"gini": number(v, "index", n=9, lo=lo, hi=hi)} for split, (v, lo, hi) in values.items()}
    point = {
        "hook_point": "final_norm.hook_resid",
        "width": width,
        "shown": True,
        "gaussian": {"gini": 0.4},
        "values": numbers,
    }
    splits = [{"name": name, "level": level, "n_examples": 4, "n_tokens": 40} for level, name in enumerate(values)]
    section = filled(RepresentationSection, {"headline": "gini", "splits": splits, "points": [point]})
    return read(folder(path, training=training(3.0, 2.0), data=data(), representation=section))


def test_differences_of_sparsity_have_intervals_and_other_splits_are_named(tmp_path):
    a = surveyed(tmp_path / "a", {"heldout": (0.5, 0.4, 0.6), "prose": (0.6, 0.5, 0.7)})
    b = surveyed(tmp_path / "b", {"heldout": (0.9, 0.85, 0.95), "uniform": (0.7, 0.6, 0.8)}, width=16)
    section = both(a, b)
    (point,) = section.sparsity.points
    assert point.splits.keys() == {"heldout"}
    difference = point.splits["heldout"].difference
    assert difference.value == pytest.approx(0.4)
    assert (difference.lo, difference.hi) == pytest.approx((0.4 - np.hypot(0.05, 0.1), 0.4 + np.hypot(0.05, 0.1)))
    notes = " ".join(section.sparsity.notes)
    assert (
        "Only a has the split prose." in notes
        and "Only b has the split uniform." in notes
        and "differ in width" in notes
    )
    maps = [block for block in walk(side_by_side(section)) if isinstance(block, Heatmap)]
    assert [block.words() for block in maps] == [(("+0.400*",),)]


def test_without_a_common_split_nothing_is_compared(tmp_path):
    a, b = surveyed(tmp_path / "a", {"x": (0.5, 0.4, 0.6)}), surveyed(tmp_path / "b", {"y": (0.5, 0.4, 0.6)})
    section = both(a, b)
    assert any("No split of the same name" in note for note in section.sparsity.notes)
    assert not [block for block in walk(side_by_side(section)) if isinstance(block, Heatmap | Choice)]


# folders


def test_what_a_folder_lacks_is_said(tmp_path):
    a = read(folder(tmp_path / "a", training=training(3.0, 2.0), metrics=None), trainer={})
    b = folder(tmp_path / "b", metrics="step,name,value\nnot,a\n")
    (b / "report.json").write_text('{"schema_version": 1, "run": ')
    section = both(a, read(b))
    assert section.a.lacks == ("no metrics.csv",)
    assert (
        len(section.b.lacks) == 3
        and "report.json" in section.b.lacks[1]
        and "metrics.csv, line 2" in section.b.lacks[2]
    )
    warnings = [block.text for block in side_by_side(section) if isinstance(block, Text) and block.tone == "warning"]
    assert len(warnings) >= 4


def test_a_row_whose_writing_was_interrupted_is_left_out(tmp_path):
    assert read(folder(tmp_path, metrics=METRICS + "12,val_lo")).curves["val_loss"].step == (4, 8)
    assert not read(folder(tmp_path, metrics="")).curves


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds none of config"):
        read(tmp_path)


@pytest.mark.parametrize(
    "kinds", [("training",), ("training", "circuits"), ("measurement",), ("arms",), ("formation",), ("data",)]
)
def test_reports_of_any_kind_stand_beside_each_other(kinds, tmp_path):
    whole = example_report()
    a = read(folder(tmp_path / "a", **{name: whole.sections[name] for name in kinds}))
    b = read(
        folder(tmp_path / "b", **{name: whole.sections[name] for name in whole.sections if name != "side_by_side"})
    )
    for pair in ((a, b), (b, a), (a, a)):
        blocks = side_by_side(both(*pair))
        assert sum(isinstance(block, Tile) for block in blocks) == 5
        assert all(isinstance(block, Lines) <= bool(block.curves) for block in walk(blocks) if isinstance(block, Lines))


def test_the_page_names_every_differing_setting_and_the_report_is_its_data(tmp_path):
    a = read(folder(tmp_path / "a"), seed=0, trainer={"n_steps": 5})
    b = read(folder(tmp_path / "b"), seed=1, trainer={"n_steps": 5})
    section = both(a, b)
    table = next(
        block for block in side_by_side(section) if isinstance(block, Table) and block.columns[0].label == "Setting"
    )
    assert table.rows == (("seed", "0", "1"),)
    assert json.loads(json.dumps(plain(section)))["settings"]["differing"] == [{"a": "0", "b": "1", "key": "seed"}]
    assert "settings: 1 setting differs" in overview(section)
    assert "settings: no setting differs" in overview(compare(a, a))
