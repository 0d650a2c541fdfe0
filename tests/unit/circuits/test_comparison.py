"""Comparing models: ratios worked out by hand, pairs of equal loss, what is left undecided, what is trained again."""

from dataclasses import replace
from math import log2, sqrt
from pathlib import Path

import pytest

from circuits.comparison import ComparisonConfig, ComparisonStudy, Member, bootstrap_ratio
from circuits.run import TrainRun
from circuits.section import ArmsSection
from circuits.views.arms import arms as view
from sparsetrain.model import ModelConfig
from sparsetrain.report.blocks import Table, Tile
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import Arm, Stage, StageResult, StudyRules, run_stages
from sparsetrain.studies.section import StudySection

ARMS = {"sparse": Arm(), "dense": Arm(density=1), "worse": Arm(density=1)}


def study(arms: dict[str, Arm] = ARMS, n_seeds: int = 2, **settings: int) -> ComparisonStudy[RunConfig]:
    def unread(config: RunConfig, folder: Path):
        raise AssertionError("nothing is trained here")

    return ComparisonStudy(
        config=RunConfig(sparsity=SparsityConfig(density=0.125)),
        rules=StudyRules(n_seeds=n_seeds, arms=arms),
        comparison=ComparisonConfig(**{"min_tasks": 2, **settings}),
        search=unread,
    )


def member(val_loss: float, edges: dict[str, int | None]) -> Member:
    """A finished model; None: the task passes the gate, no circuit was found."""
    found = {task: size for task, size in edges.items() if size is not None}
    return Member(weights_sha256="0", n_edges=1000, val_loss=val_loss, passed=tuple(edges), edges=found)


MEMBERS = {
    "sparse": [member(3.00, {"a": 10, "b": 20, "c": 5}), member(3.02, {"a": 40, "b": 20, "c": None})],
    "dense": [member(3.03, {"a": 80, "b": 500, "c": None}), member(3.03, {"a": 80, "b": 500, "c": None})],
    "worse": [member(3.20, {"a": 8, "b": 50, "c": 50}), member(3.20, {"a": 8, "b": 50, "c": 50})],
}


def judged(
    members: dict[str, list[Member]], study: ComparisonStudy[RunConfig], run_dir: Path
) -> tuple[StudySection, ArmsSection]:
    results: dict[str, StageResult] = {
        f"models/{name}-seed_{seed}": found for name, seeds in members.items() for seed, found in enumerate(seeds)
    }
    section = study.conclude(study.plan(), run_dir, results)
    return section, study.sections(run_dir, results, section)["arms"]


def test_only_arms_of_equal_loss_are_paired_and_their_ratio_is_that_of_geometric_means(tmp_path):
    section, arms = judged(MEMBERS, study(), tmp_path)
    assert [(pair.sparse, pair.dense) for pair in arms.pairs] == [("sparse", "dense")]
    (pair,) = arms.pairs
    assert pair.tasks == ("a", "b") and pair.without_circuit == {"sparse": (), "dense": ("c",)}
    # a: 80 / sqrt(10 * 40) = 4; b: 500 / 20 = 25
    assert pair.ratio.value == pytest.approx(sqrt(4 * 25))
    assert pair.ratio.lo is not None and pair.ratio.lo > 1 and pair.verdict == "supported"
    assert arms.common_tasks == ("a", "b")
    by_name = {model.name: model for model in arms.models}
    assert by_name["dense"].common_edges.value == pytest.approx(sqrt(80 * 500))
    assert by_name["sparse"].val_loss.value == pytest.approx(3.01)
    assert by_name["sparse"].passed == ("a", "b", "c") and list(by_name["sparse"].edges) == ["a", "b", "c"]
    assert section.interpretable and [(v.arm, v.verdict) for v in section.verdicts] == [
        ("sparse / dense", "supported"),
        ("sparse / worse", "undecided"),
    ]
    assert section.claims[0].number.value == pytest.approx(log2(10)) and not section.claims[0].per_seed
    assert "sparse / worse: loss" in section.verdicts[1].reason, "other losses cannot be compared"


def test_too_few_tasks_or_an_interval_around_one_are_undecided(tmp_path):
    few, _ = judged(MEMBERS, study(min_tasks=3), tmp_path)
    assert few.verdicts[0].verdict == "undecided" and "sparse / dense: tasks" in few.verdicts[0].reason
    pair = study({name: ARMS[name] for name in ("sparse", "dense")})
    mixed = {"sparse": MEMBERS["sparse"], "dense": [member(3.03, {"a": 2, "b": 4000})]}
    assert judged(mixed, pair, tmp_path)[0].verdicts[0].verdict == "undecided"
    smaller = {"sparse": MEMBERS["sparse"], "dense": [member(3.03, {"a": 2, "b": 2})]}
    assert judged(smaller, pair, tmp_path)[0].verdicts[0].verdict == "not supported"


def test_the_interval_covers_tasks_and_seeds():
    assert bootstrap_ratio([[4, 4], [4]], [[8], [8, 8]], 50) == (pytest.approx(2), pytest.approx(2))
    low, high = bootstrap_ratio([[10, 40]], [[80]], 200)  # one task: only its seeds vary
    assert (low, high) == (pytest.approx(2), pytest.approx(8))


def test_the_view_says_what_was_compared_and_what_was_not(tmp_path):
    blocks = view(judged(MEMBERS, study(), tmp_path)[1])
    (tile,) = [block for block in blocks if isinstance(block, Tile)]
    assert tile.tone == "pass" and "dense against sparse" in tile.note
    pairs = next(block for block in blocks if isinstance(block, Table) and block.title.startswith("Pairs"))
    assert "c (dense)" in pairs.rows[0]
    section, arms = judged({"sparse": MEMBERS["sparse"]}, study({"sparse": Arm()}), tmp_path)
    (tile,) = [block for block in view(arms) if isinstance(block, Tile)]
    assert tile.tone == "warn" and "no dense and sparse arm" in tile.note
    assert section.interpretable and not section.verdicts


def test_arms_differ_from_their_run_in_what_they_say():
    base = TrainRun()
    arm = of_arm(base, Arm(d_model=64, density=1, abs_topk=False, lr_peak=0.5), 3, name="arm")
    assert (arm.name, arm.seed, arm.model.d_model, arm.model.abs_topk) == ("arm", 3, 64, {})
    assert arm.sparsity.is_dense and arm.optim.lr_peak == 0.5
    assert of_arm(base, Arm(density=0.25), 0).sparsity == replace(base.sparsity, density=0.25)
    assert of_arm(base, Arm(), base.seed) == base
    floors = replace(base, sparsity=replace(base.sparsity, embed_density=0.5, bias_density=0.5))
    assert of_arm(floors, Arm(density=1), 0).sparsity.is_dense
    small = study({**ARMS, "sparse": Arm(d_model=4096)})
    small = replace(small, config=replace(small.config, debug=True, seed=4))
    assert small.seeds == (4,) and {name: run.model.d_model for name, run in small.runs.items()} == {
        "sparse": small.config.model.d_model,
        "dense": small.config.model.d_model,
    }


def test_a_finished_arm_is_not_run_again_and_one_of_other_settings_is(tmp_path):
    ran = []

    def stages(wider: bool = False, other_search: bool = False) -> list[Stage]:
        arms = {"sparse": Arm(d_model=32) if wider else Arm(), "dense": Arm(density=1)}
        base = RunConfig(model=ModelConfig(n_layer=1, d_model=16, d_head=4, d_vocab=8), debug=other_search)
        whole = replace(study(arms, min_tasks=1), config=base)
        if other_search:
            whole = replace(whole, config=replace(base, debug=False, ood=replace(base.ood, enabled=False)))

        def run(stage: Stage, folder: Path) -> Member:
            ran.append((stage.name, (folder / "trained").is_file()))
            (folder / "trained").touch()
            return member(3.0, {"a": 4})

        return [replace(stage, run=lambda folder, stage=stage: run(stage, folder)) for stage in whole.stages()]

    run_stages(stages(), tmp_path)
    assert [name for name, _ in ran] == [f"models/{arm}-seed_{seed}" for arm in ("sparse", "dense") for seed in (0, 1)]
    run_stages(stages(), tmp_path)
    assert len(ran) == 4
    run_stages(stages(wider=True), tmp_path)
    assert ran[4:] == [("models/sparse-seed_0", False), ("models/sparse-seed_1", False)], "another model: from nothing"
    run_stages(stages(wider=True, other_search=True), tmp_path)
    assert [trained for _, trained in ran[6:]] == [True] * 4, "read in another way: the same weights"
