"""Comparing arms: ratios worked out by hand, pairing by loss, what is left undecided."""

import json
from dataclasses import replace
from math import sqrt

import pytest

from circuits.arms import ArmConfig, ArmsConfig, Member, bootstrap_ratio, compare, run_arms, smoke
from circuits.run import TrainRun
from circuits.views.arms import arms as view
from sparsetrain.export import export_model
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.report import number
from sparsetrain.report.blocks import Table, Tile
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig


def member(dense: bool, val_loss: float, edges: dict[str, int | None]) -> Member:
    """A finished model; None: the task passes the gate, no circuit was found."""
    tasks = [
        {
            "task": name,
            "gate": {"passed": True},
            "status": "no_circuit" if size is None else "circuit",
            "circuits": [] if size is None else [{"n_edges": number(size, "edges")}],
        }
        for name, size in edges.items()
    ]
    report = {"training": {"val_loss": {"mixed": number(val_loss, "nats/token")}}, "circuits": {"tasks": tasks}}
    sparsity = SparsityConfig(density=1) if dense else SparsityConfig(density=0.125)
    return Member(config=RunConfig(sparsity=sparsity), report=report, n_edges=1000)


ARMS = ArmsConfig(
    models={"sparse": ArmConfig(), "dense": ArmConfig(dense=True), "worse": ArmConfig(dense=True)}, min_tasks=2
)
MEMBERS = {
    "sparse": [member(False, 3.00, {"a": 10, "b": 20, "c": 5}), member(False, 3.02, {"a": 40, "b": 20, "c": None})],
    "dense": [member(True, 3.03, {"a": 80, "b": 500, "c": None}), member(True, 3.03, {"a": 80, "b": 500, "c": None})],
    "worse": [member(True, 3.20, {"a": 8, "b": 50, "c": 50}), member(True, 3.20, {"a": 8, "b": 50, "c": 50})],
}


def test_only_arms_of_equal_loss_are_paired_and_their_ratio_is_that_of_geometric_means():
    section = compare(ARMS, MEMBERS)
    assert [(pair["sparse"], pair["dense"]) for pair in section["pairs"]] == [("sparse", "dense")]
    (pair,) = section["pairs"]
    assert pair["tasks"] == ["a", "b"] and pair["without_circuit"] == {"sparse": [], "dense": ["c"]}
    # a: 80 / sqrt(10 * 40) = 4; b: 500 / 20 = 25
    assert pair["ratio"]["value"] == pytest.approx(sqrt(4 * 25))
    assert pair["ratio"]["lo"] > 1 and pair["verdict"] == "sparse smaller"
    assert section["common_tasks"] == ["a", "b"]
    by_name = {model["name"]: model for model in section["models"]}
    assert by_name["dense"]["common_edges"]["value"] == pytest.approx(sqrt(80 * 500))
    assert by_name["sparse"]["val_loss"]["value"] == pytest.approx(3.01)
    assert by_name["sparse"]["passed"] == ["a", "b", "c"] and list(by_name["sparse"]["edges"]) == ["a", "b", "c"]


def test_too_few_tasks_or_an_interval_around_one_are_undecided():
    few = compare(replace(ARMS, min_tasks=3), MEMBERS)
    assert few["pairs"][0]["verdict"] == "undecided"
    mixed = {**MEMBERS, "dense": [member(True, 3.03, {"a": 2, "b": 4000})]}
    assert compare(ARMS, mixed)["pairs"][0]["verdict"] == "undecided"
    smaller = {**MEMBERS, "dense": [member(True, 3.03, {"a": 2, "b": 2})]}
    assert compare(ARMS, smaller)["pairs"][0]["verdict"] == "dense smaller"


def test_the_interval_covers_tasks_and_seeds():
    assert bootstrap_ratio([[4, 4], [4]], [[8], [8, 8]], 50) == (pytest.approx(2), pytest.approx(2))
    low, high = bootstrap_ratio([[10, 40]], [[80]], 200)  # one task: only its seeds vary
    assert (low, high) == (pytest.approx(2), pytest.approx(8))


def test_the_view_says_what_was_compared_and_what_was_not():
    blocks = view(compare(ARMS, MEMBERS))
    (verdict,) = [block for block in blocks if isinstance(block, Tile)]
    assert verdict.tone == "pass" and "dense against sparse" in verdict.note
    pairs = next(block for block in blocks if isinstance(block, Table) and block.title.startswith("Pairs"))
    assert "c (dense)" in pairs.rows[0]
    alone = view(compare(ARMS, {"sparse": MEMBERS["sparse"]}))
    (verdict,) = [block for block in alone if isinstance(block, Tile)]
    assert verdict.tone == "warn" and "no dense and sparse arm" in verdict.note


def test_arms_differ_from_their_run_in_what_they_say():
    base = TrainRun()
    arm = ArmConfig(d_model=64, dense=True, abs_topk=False, lr_peak=0.5).of(base, "arm", 3)
    assert (arm.name, arm.seed, arm.model.d_model, arm.model.abs_topk) == ("arm", 3, 64, {})
    assert arm.sparsity.is_dense and arm.optim.lr_peak == 0.5
    assert ArmConfig(density=0.25).of(base, "arm", 0).sparsity == replace(base.sparsity, density=0.25)
    with pytest.raises(ValueError, match=r"density=0\.5 contradict"):
        ArmConfig(dense=True, density=0.5)
    wide = {**ARMS.models, "sparse": ArmConfig(d_model=4096)}
    small = smoke(replace(ARMS, models=wide, seeds=(4, 5)))
    assert small.models["sparse"].d_model is None
    assert list(small.models) == ["sparse", "dense"] and small.seeds == (4,)


def test_a_finished_arm_is_not_run_again_and_one_of_other_settings_is(tmp_path):
    ran = []

    def read(config: RunConfig, folder):
        ran.append((config.name, config.seed, config.model.d_model))
        export_model(Transformer(config.model), folder / "export" / "step_1", "{}", {})
        done = member(config.sparsity.is_dense, 3.0, {"a": 4})
        report = {"schema_version": 1, "run": {}, **done.report}
        (folder / "report.json").write_text(json.dumps(report))
        return report

    base = RunConfig(model=ModelConfig(n_layer=1, d_model=16, d_head=4, d_vocab=8))
    arms = ArmsConfig(models={"sparse": ArmConfig(), "dense": ArmConfig(dense=True)}, seeds=(0, 1), min_tasks=1)
    first = run_arms(arms, base, tmp_path, read)
    assert len(ran) == 4
    assert run_arms(arms, base, tmp_path, read) == first and len(ran) == 4
    wider = replace(arms, models={"sparse": ArmConfig(d_model=32), "dense": arms.models["dense"]})
    again = run_arms(wider, base, tmp_path, read)
    assert ran[4:] == [("sparse", 0, 32), ("sparse", 1, 32)]
    assert again["models"][0]["n_edges"]["value"] > first["models"][0]["n_edges"]["value"]
