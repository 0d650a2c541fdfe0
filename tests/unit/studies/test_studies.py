"""Studies at smoke size in this process: the folder is complete, the report follows the schema, starting again trains nothing."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from data_example import small_config
from study_example import run_small, small_study

from sparsetrain.data import Tokenizer
from sparsetrain.data.worlds.code import build_python
from sparsetrain.data.worlds.facts import draw_facts
from sparsetrain.data.worlds.knowledge_graph import draw_graph
from sparsetrain.data.worlds.triples import build_triples
from sparsetrain.export import load_model
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig, lr_factor
from sparsetrain.report import parse_report
from sparsetrain.representation.controls import read_items
from sparsetrain.run import OodConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.studies.adaptive import AdaptiveConfig
from sparsetrain.studies.page import KINDS
from sparsetrain.studies.readings import Readings, load_arrays
from sparsetrain.studies.section import StudySection
from sparsetrain.studies.shifts import object_loss
from sparsetrain.training.objectives import answer_loss
from sparsetrain.typed import plain


@pytest.mark.parametrize(
    ("kind", "readings"),
    [("familiarity", "items.npz"), ("knowledge_graph", "items.npz"), ("adaptive_sparsity", "surface.npz")],
)
def test_a_study_ends_in_a_report_and_resumes(kind, readings, tmp_path):
    report = run_small(small_study(kind), tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert parse_report(written, KINDS).plain() == written
    study = written["study"]
    assert study["status"] == "done" and len(study["models"]) == 4
    assert {claim["key"] for claim in study["claims"]} == {claim["key"] for claim in study["plan"]["claims"]}
    assert all(len(claim["per_seed"]) == 2 for claim in study["claims"])
    assert json.loads((tmp_path / "plan.json").read_text())["sha256"] == study["plan_sha256"]
    for name in ("report.md", "report.html", f"constant/seed_0/{readings}", "constant/seed_1/metrics.csv", "sparse/seed_0/result.json"):  # fmt: skip
        assert (tmp_path / name).is_file(), name
    assert len(list((tmp_path / "figures").glob("*.svg"))) == len(study["figures"])
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(readings)}
    again = run_small(small_study(kind), tmp_path)
    assert len(stamps) == 4 and stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob(readings)}
    assert plain(again.section("study", StudySection).claims) == plain(report.section("study", StudySection).claims)


@pytest.mark.parametrize("world", ["python", "graph"])
def test_the_shifts_study_ends_in_a_report_and_resumes(world, tmp_path):
    """Verdicts beside distances of every level, and readings that belong to the exported weights."""
    data = small_config(tmp_path)
    settings = small_study("shifts")
    shifts = replace(settings.study.shifts, world=world)
    settings = replace(
        settings,
        data=data,
        cache_dir=str(tmp_path / "cache"),
        model=ModelConfig(n_layer=1, d_model=32, d_head=8, n_ctx=64, d_vocab=data.d_vocab, abs_topk={}),
        sparsity=SparsityConfig(floor=0),
        study=replace(settings.study, shifts=shifts),
    )
    report = run_small(settings, tmp_path / "run")
    written = json.loads((tmp_path / "run/report.json").read_text())
    assert parse_report(written, KINDS).plain() == written
    study = written["study"]
    assert len(study["models"]) == 2 and {claim["arm"] for claim in study["claims"]} == set(shifts.names)
    table = study["tables"][0]
    assert len(table["rows"]) == 4 * 2 * 2 and table["columns"][3:10:3] == [
        "gini, without gain", "own loss", "unseen pairs",
    ]  # fmt: skip
    model = load_model(tmp_path / "run/seed_1/export/step_6")
    read = Readings.load(tmp_path / "run/seed_1/difficulty.npz")
    if world == "python":
        tokenizer, at = Tokenizer.load(tmp_path / "run/seed_1/export/step_6/tokenizer.json"), slice(None)
        shift = build_python(shifts, tokenizer, 64, 1)[0]
    else:
        sizes, at = settings.study.knowledge_graph, slice(3, None, 5)  # losses of objects alone
        shift = build_triples(shifts, draw_graph(sizes, 1), 64, 1)[0]
    items = read_items(model, torch.from_numpy(shift.rows), ["final_norm.hook_norm"])
    assert np.allclose(read.loss[-1], items.loss, atol=1e-5)
    assert np.allclose(read.series("none")[-1], items.measures["final_norm.hook_norm", "none", "gini"], atol=1e-5)
    with np.load(tmp_path / "run/seed_1/difficulty_distances.npz") as file:
        losses = torch.nn.functional.cross_entropy(
            model(torch.from_numpy(shift.rows[:, :-1])).transpose(1, 2),
            torch.from_numpy(shift.rows[:, 1:]),
            reduction="none",
        )
        assert np.allclose(file["own_loss"], losses[:, at].mean(1).detach(), atol=1e-5)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.npz")}
    again = run_small(settings, tmp_path / "run")
    assert len(stamps) == 16 and stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert plain(again.section("study", StudySection).claims) == plain(report.section("study", StudySection).claims)
    other = replace(shifts, **{world: {**shifts.levels(world), "context": (0, 2)}})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="holds another plan; rules are not changed after the fact"):
        run_small(replace(settings, study=replace(settings.study, shifts=other)), tmp_path / "run")
    needed = {
        "graph": r"n_triples=3 needs rows of 14 tokens, model.n_ctx=8",
        "python": r"needs rows of \d+ tokens, model.n_ctx=8",
    }
    with pytest.raises(ValueError, match=needed[world]):
        short = replace(settings, model=replace(settings.model, n_ctx=8))
        run_small(short, tmp_path / "short")


def test_the_loss_of_triples_is_that_of_their_objects():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_layer=1, d_model=32, d_head=8, n_ctx=14, d_vocab=20, bigram=False, abs_topk={}))
    rows = torch.randint(20, (4, 15))
    log_probs = model(rows[:, :-1]).log_softmax(-1)
    objects = [log_probs[i, at - 1, rows[i, at]] for i in range(4) for at in (4, 9, 14)]
    assert torch.allclose(object_loss(model, {"tokens": rows}), -torch.stack(objects).mean(), atol=1e-6)


def test_the_same_stage_gives_the_same_weights_and_readings(tmp_path):
    one = run_small(small_study("familiarity"), tmp_path / "a")
    two = run_small(small_study("familiarity"), tmp_path / "b")
    assert one.section("study", StudySection).models == two.section("study", StudySection).models
    with np.load(tmp_path / "a/sparse/seed_1/items.npz") as a, np.load(tmp_path / "b/sparse/seed_1/items.npz") as b:
        assert all((a[name] == b[name]).all() for name in a.files)


def test_arms_differ_as_they_say(tmp_path):
    run_small(small_study("familiarity"), tmp_path)
    meta = json.loads(next((tmp_path / "sparse/seed_0/export").glob("*/meta.json")).read_text())
    assert meta["density"] == 0.5
    dense = json.loads(next((tmp_path / "constant/seed_0/export").glob("*/meta.json")).read_text())
    assert dense["density"] == 1.0


def test_readings_are_those_of_the_weights_of_their_step(tmp_path):
    run_small(small_study("familiarity"), tmp_path)
    facts = draw_facts(small_study("familiarity").study.familiarity, 1)
    read = Readings.load(tmp_path / "sparse/seed_1/items.npz")
    other = Readings.load(tmp_path / "constant/seed_1/items.npz")
    n_steps = math.ceil(len(facts.rows) / 8)
    assert (read.steps[0], read.steps[-1]) == (0, n_steps)
    assert (read.loss[0] == other.loss[0]).all() and (read.loss[-1] != other.loss[-1]).any()
    model = load_model(tmp_path / f"sparse/seed_1/export/step_{n_steps}")
    items = read_items(model, torch.from_numpy(facts.prompts), ["final_norm.hook_norm"])
    assert np.allclose(read.loss[-1], items.loss, atol=1e-5)
    assert np.allclose(read.series("gain")[-1], items.measures["final_norm.hook_norm", "gain", "gini"], atol=1e-5)


def test_watching_can_be_switched_off(tmp_path):
    report = run_small(small_study("knowledge_graph", ood=OodConfig(enabled=False)), tmp_path)
    assert "representation" not in report.sections and not list(tmp_path.rglob("ood_sparsity.csv"))


def test_what_was_set_by_hand_leaves_the_model_and_is_that_of_its_weights(tmp_path):
    """The full width is the untouched model; settings of another kind and AbsTopK in the model work alike."""
    settings = small_study("adaptive_sparsity")
    model = replace(settings.model, abs_topk={"attn_v": 0.25})
    study = replace(settings.study, adaptive=AdaptiveConfig(arms=("sparse",), kind="attn_v", n_bootstrap=20))
    run_small(replace(settings, model=model, study=study), tmp_path)
    surface = load_arrays(tmp_path / "sparse/seed_1/surface.npz")
    places = {name.removeprefix("levels|") for name in surface if name.startswith("levels|")}
    assert places == {"layer 0", "layer 1", "all layers", "final norm"}
    assert list(surface["levels|layer 1"]) == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]
    for place in places:
        for how in ("largest", "random"):
            assert np.allclose(surface[f"loss|end|{place}|{how}"][-1], surface["covariates|loss"], atol=1e-5)
    for layer in ("layer 0", "layer 1", "all layers"):  # 8 of 32 are all that the model lets through
        values = surface[f"loss|end|{layer}|largest"]
        assert np.allclose(values[5:], values[-1], atol=1e-5) and not np.allclose(values[0], values[-1], atol=1e-5)
        assert (surface[f"natural|end|{layer}"] <= 3 + 1e-9).all()
    random, largest = (surface[f"loss|end|final norm|{how}"][3] for how in ("random", "largest"))
    assert not np.allclose(random, largest)


def test_what_means_nothing_to_a_study_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stop_at_step=3"):
        run_small(small_study("familiarity", stop_at_step=3), tmp_path)
    unknown = replace(small_study("adaptive_sparsity").study, adaptive=AdaptiveConfig(arms=("dense",)))
    with pytest.raises(ValueError, match=r"study\.adaptive\.arms has dense; study\.arms are constant, sparse"):
        run_small(small_study("adaptive_sparsity", study=unknown), tmp_path)
    with pytest.raises(ValueError, match="shorter than a prompt"):
        run_small(small_study("familiarity", model=ModelConfig(n_ctx=2, d_model=32)), tmp_path)


def test_answer_loss_is_that_of_the_last_token(make_model):
    model = make_model(bigram=False)
    tokens = torch.randint(0, 61, (5, 4), generator=torch.Generator().manual_seed(0))
    want = torch.nn.functional.cross_entropy(model(tokens[:, :-1])[:, -1], tokens[:, -1])
    assert answer_loss(model, {"tokens": tokens}).item() == pytest.approx(want.item(), abs=1e-6)


def test_cosine_learning_rate():
    optim = OptimConfig(decay="cosine", warmup=0.1, density_factor="off")
    factors = [lr_factor(step, 100, optim) for step in range(101)]
    assert factors[10] == 1.0 and factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0.0)
    assert all(a > b for a, b in pairwise(factors[10:]))
