"""Comparing models: ratios worked out by hand, pairs of equal loss, what is left undecided, what is trained again."""

from dataclasses import replace
from math import log2, sqrt
from pathlib import Path

import pytest
import torch

from circuits.comparison import ComparisonConfig, ComparisonStudy, FrontierStudy, Member, table
from circuits.edges import count_edges, count_slots
from circuits.masks import NodeSpace
from circuits.run import CircuitsConfig, TrainRun, TrainStudy, studies
from circuits.section import ArmsSection, CircuitSize
from circuits.views.arms import arms as view
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.report.blocks import Intervals, Lines, Table, Tile
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import Arm, Stage, StageResult, StudyRules, run_stages
from sparsetrain.studies.page import study as of_study
from sparsetrain.studies.section import StudySection
from sparsetrain.training.budget import StepBudget

ARMS = {"sparse": Arm(), "dense": Arm(density=1), "worse": Arm(density=1)}


def study(arms: dict[str, Arm] = ARMS, n_seeds: int = 3, **settings: int) -> ComparisonStudy[RunConfig]:
    def unread(config: RunConfig, folder: Path):
        raise AssertionError("nothing is trained here")

    return ComparisonStudy(
        config=RunConfig(sparsity=SparsityConfig(density=0.125)),
        rules=StudyRules(n_seeds=n_seeds, arms=arms),
        comparison=ComparisonConfig(**{"min_tasks": 3, **settings}),
        search=unread,
    )


def unjudged(arms: dict[str, Arm], searched: bool) -> FrontierStudy[RunConfig]:
    base = study(arms)
    comparison = replace(base.comparison, about=())
    return FrontierStudy(
        config=base.config, rules=base.rules, comparison=comparison, search=base.search, searched=searched
    )


def sized(seed: int, slots: int, filled: float = 1.0) -> CircuitSize:
    """A circuit whose edges fill a share of its slots."""
    return CircuitSize(seed=seed, n_nodes=round(sqrt(slots)), n_edges=round(slots * filled), n_slots=slots)


def member(seed: int, val_loss: float, slots: dict[str, int | None], filled: float = 1.0) -> Member:
    """A finished model; None: the task passes the gate, no circuit was found."""
    circuits = {task: sized(seed, size, filled) for task, size in slots.items() if size is not None}
    return Member(
        weights_sha256="0",
        n_nonzero=3000,
        n_edges=1000,
        val_loss=val_loss,
        bits_per_char=val_loss / 2,
        n_steps=100,
        passed=tuple(slots),
        circuits=circuits,
    )


FILLED = 0.25
SLOTS = {"a": 40, "b": 80, "c": 20, "d": 400}
MEMBERS = {
    "sparse": [
        member(0, 3.00, {**SLOTS, "a": 20}, FILLED),
        member(1, 3.02, {**SLOTS, "a": 80, "d": None}, FILLED),
        member(2, 3.01, SLOTS, FILLED),
    ],
    "dense": [member(seed, 3.03, {"a": 320, "b": 640, "c": 80, "d": None}) for seed in range(3)],
    "worse": [member(seed, 3.20, SLOTS) for seed in range(3)],
}


def judged(
    members: dict[str, list[Member]], study: ComparisonStudy[RunConfig], run_dir: Path
) -> tuple[StudySection, ArmsSection]:
    results: dict[str, StageResult] = {
        f"models/{name}-seed_{seed}": found for name, seeds in members.items() for seed, found in enumerate(seeds)
    }
    section = study.conclude(study.plan(), run_dir, results)
    return section, study.sections(run_dir, results, section)["arms"]


def test_slots_are_the_weights_between_kept_nodes_whether_zero_or_not():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_layer=1, d_model=8, d_head=4, d_vocab=16, n_ctx=4)).requires_grad_(False)
    space = NodeSpace.of(model)
    keep = {"attn.hook_in": (0, 3, 5), "attn.hook_q": (1,), "attn.hook_v": (2, 6), "attn.hook_out": (0, 7)}
    keep |= {"mlp.hook_in": (1, 2, 3, 4, 5), "mlp.hook_neuron": (9,), "mlp.hook_out": ()}
    mask = space.mask({f"blocks.0.{point}": channels for point, channels in keep.items()})
    # in -> q, in -> v, v -> out, mlp in -> neuron; k and mlp out have no kept node
    assert count_slots(model, space, mask) == 3 * 1 + 3 * 2 + 2 * 2 + 5 * 1
    assert count_edges(model, space, mask) == count_slots(model, space, mask), "dense weights fill them"
    model.blocks[0].get_submodule("attn.W_v").weight[2] = 0.0
    assert count_edges(model, space, mask) == count_slots(model, space, mask) - 3


def test_the_ratio_of_slots_decides_and_that_of_edges_stands_beside(tmp_path):
    section, arms = judged(MEMBERS, study(), tmp_path)
    (pair,) = arms.pairs
    assert (pair.sparser, pair.denser, pair.about, pair.also) == ("sparse", "dense", "weights", ())
    assert (
        pair.tasks == ("a", "b", "c") and pair.without_circuit == {"sparse": (), "dense": ("d",)} and pair.n_seeds == 3
    )
    # a: 320 / 40, the geometric mean of 20, 80 and 40; b: 640 / 80; c: 80 / 20
    slots = (8 * 8 * 4) ** (1 / 3)
    assert pair.ratios.slots.value == pytest.approx(slots)
    assert pair.ratios.edges.value == pytest.approx(slots / FILLED)
    assert pair.ratios.slots.lo is not None and pair.ratios.slots.lo > 1 and pair.verdict == "supported"
    assert arms.common_tasks == ("a", "b", "c")
    by_name = {model.name: model for model in arms.models}
    assert by_name["sparse"].common.slots.value == pytest.approx((40 * 80 * 20) ** (1 / 3))
    assert by_name["sparse"].common.edges.value == pytest.approx(FILLED * (40 * 80 * 20) ** (1 / 3))
    assert by_name["sparse"].val_loss.value == pytest.approx(3.01)
    assert by_name["sparse"].bits_per_char.value == pytest.approx(1.505)
    assert by_name["sparse"].passed == ("a", "b", "c", "d") and list(by_name["sparse"].circuits) == ["a", "b", "c", "d"]
    assert section.interpretable and [(v.arm, v.verdict) for v in section.verdicts] == [
        ("dense / sparse", "supported"),
        ("worse / sparse", "undecided"),
    ]
    assert [claim.key for claim in section.claims[:3]] == [
        f"dense / sparse: {size}" for size in ("slots", "edges", "nodes")
    ]
    assert section.claims[0].number.value == pytest.approx(log2(slots)) and not section.claims[0].per_seed
    assert "worse / sparse: loss" in section.verdicts[1].reason, "other losses cannot be compared"


def test_circuits_of_the_same_nodes_are_no_smaller_however_few_their_edges(tmp_path):
    same = {
        "sparse": [member(seed, 3.0, SLOTS, FILLED) for seed in range(3)],
        "dense": [member(seed, 3.0, SLOTS) for seed in range(3)],
    }
    section, arms = judged(same, study({name: ARMS[name] for name in same}), tmp_path)
    (pair,) = arms.pairs
    assert pair.ratios.edges.value == pytest.approx(4) and pair.ratios.slots.value == pytest.approx(1)
    assert [claim.verdict for claim in section.claims] == ["not supported", "supported", "not supported"]
    assert pair.verdict == "not supported"
    (tile,) = [block for block in view(arms) if isinstance(block, Tile)]
    assert tile.tone == "fail" and tile.note.startswith("no smaller with sparse weights")


def test_too_few_tasks_or_seeds_or_an_interval_around_one_are_undecided(tmp_path):
    few, _ = judged(MEMBERS, study(min_tasks=4), tmp_path)
    assert few.verdicts[0].verdict == "undecided" and "dense / sparse: tasks" in few.verdicts[0].reason
    two = {name: members[:2] for name, members in MEMBERS.items()}
    seeds, arms = judged(two, study(n_seeds=2), tmp_path)
    assert seeds.verdicts[0].verdict == "undecided" and "dense / sparse: seeds" in seeds.verdicts[0].reason
    assert arms.pairs[0].ratios.slots.lo is not None, "the interval is shown all the same"
    one, arms = judged(
        {name: members[2:] for name, members in MEMBERS.items()}, study(n_seeds=1, min_seeds=1), tmp_path
    )
    assert one.verdicts[0].verdict == "undecided" and arms.pairs[0].ratios.slots.lo is None, "no interval of one seed"
    pair = study({name: ARMS[name] for name in ("sparse", "dense")})
    wide = [member(seed, 3.03, {"a": 3, "b": 9000, "c": 20}) for seed in range(3)]
    assert judged({"sparse": MEMBERS["sparse"], "dense": wide}, pair, tmp_path)[0].verdicts[0].verdict == "undecided"
    none = [member(seed, 3.03, {"a": None}) for seed in range(3)]
    nothing, arms = judged({"sparse": MEMBERS["sparse"], "dense": none}, pair, tmp_path)
    assert nothing.verdicts[0].verdict == "undecided" and arms.pairs[0].n_seeds == 0
    assert arms.pairs[0].ratios.slots.value is None and arms.models[0].common.slots.value is None


def test_a_seed_without_a_circuit_is_a_gap_in_its_place():
    found = table({"a": [sized(0, 4), sized(2, 16)], "b": [sized(1, 0)]}, ["a", "b"], "slots")
    assert found.tolist()[0][::2] == [2, 4] and found[1, 1] == 0, "a circuit without slots counts as one of 1"
    assert [[bool(value != value) for value in row] for row in found] == [[False, True, False], [True, False, True]]


CELLS = {
    "sparse_topk": Arm(density=0.125, abs_topk=0.25, lr_peak=0.01),
    "sparse": Arm(density=0.0625, abs_topk=1, lr_peak=0.005),
    "dense_topk": Arm(density=1, abs_topk=0.25, lr_peak=0.003),
    "dense": Arm(density=1, abs_topk=1, lr_peak=0.003, d_model=64),
}


def test_arms_that_differ_in_a_sparsity_are_paired_and_what_else_differs_is_said(tmp_path):
    both = study(CELLS)
    both = replace(both, comparison=replace(both.comparison, about=("weights", "abs_topk")))
    assert {name: (pair.about, *pair.also) for name, pair in both.pairs.items()} == {
        "dense_topk / sparse_topk": ("weights",),
        "dense / sparse_topk": ("weights", "abs_topk", "d_model"),
        "dense_topk / sparse": ("weights", "abs_topk"),
        "dense / sparse": ("weights", "d_model"),
        "sparse / sparse_topk": ("abs_topk", "density"),
        "dense / dense_topk": ("abs_topk", "d_model"),
    }
    assert list(study(CELLS).pairs) == [name for name, pair in both.pairs.items() if pair.about == "weights"]
    frontier = unjudged(CELLS, searched=True)
    assert not frontier.pairs
    members = {name: [member(seed, 3.0, SLOTS) for seed in range(3)] for name in CELLS}
    members["dense"] = [replace(one, bits_per_char=1.1 + seed / 10) for seed, one in enumerate(members["dense"])]
    section, arms = judged(members, frontier, tmp_path)
    assert section.interpretable and not section.verdicts and not arms.pairs and not arms.judged
    assert "losses" in section.plan.question and not any("pairs" in words for words in section.plan.method)
    titles = {block.title for block in of_study(section) if isinstance(block, Table)}
    assert titles.isdisjoint({"Verdicts", "Gates"}), "no table without a row"
    blocks = view(arms)
    (tile,) = [block for block in blocks if isinstance(block, Tile)]
    assert tile.label == "Fewest bits per character" and tile.note == (
        "dense, 1.100 to 1.300 over seeds; next sparse_topk, 1.500 to 1.500"
    )
    pictures = [block for block in blocks if isinstance(block, Lines)]
    assert [picture.title.rpartition("against ")[2] for picture in pictures] == [
        "nonzeros",
        "edges of circuits",
        "slots of circuits",
    ]
    assert [curve.name for curve in pictures[0].curves] == list(CELLS), "few arms have their names"
    families = ["sparse, AbsTopK 0.25", "sparse, AbsTopK none", "dense, AbsTopK 0.25", "dense, AbsTopK none"]
    many = replace(arms, models=arms.models * 2)
    assert [curve.name for curve in next(b for b in view(many) if isinstance(b, Lines)).curves] == families


def test_the_view_says_what_was_compared_and_what_was_not(tmp_path):
    blocks = view(judged(MEMBERS, study(), tmp_path)[1])
    (tile,) = [block for block in blocks if isinstance(block, Tile)]
    assert tile.tone == "pass" and "smaller with sparse weights: slots of dense against sparse" in tile.note
    pairs = next(block for block in blocks if isinstance(block, Table) and block.title.startswith("Pairs"))
    assert "d (dense)" in pairs.rows[0] and "smaller" in pairs.rows[0]
    models = next(block for block in blocks if isinstance(block, Table) and block.title == "Models")
    assert all(len(row) == len(models.columns) for row in models.rows)
    (ratios,) = [block for block in blocks if isinstance(block, Intervals)]
    assert [(row.label, row.tone) for row in ratios.rows] == [
        ("dense / sparse: slots", "pass"),
        ("dense / sparse: edges", "none"),
        ("dense / sparse: nodes", "none"),
    ]
    assert "25% filled" in str(models.rows[0]) and "100% filled" in str(models.rows[1])


def test_arms_differ_from_their_run_in_what_they_say():
    base = TrainRun()
    arm = of_arm(base, Arm(d_model=64, density=1, abs_topk=1, lr_peak=0.5, eps=1e-3), 3, name="arm")
    assert (arm.name, arm.seed, arm.model.d_model, arm.model.abs_topk) == ("arm", 3, 64, {})
    assert arm.sparsity.is_dense and (arm.optim.lr_peak, arm.optim.eps) == (0.5, 1e-3)
    assert of_arm(base, Arm(abs_topk=0.5), 0).model.abs_topk == dict.fromkeys(NODE_KINDS, 0.5)
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


def test_losses_alone_make_no_claim_about_circuits(tmp_path):
    losses = unjudged(CELLS, searched=False)
    members = {name: [replace(member(seed, 3.0, {}), searched=False) for seed in range(3)] for name in CELLS}
    _, arms = judged(members, losses, tmp_path)
    assert not arms.searched
    blocks = view(arms)
    models = next(block for block in blocks if isinstance(block, Table))
    assert models.columns[-1].label == "Bits/char" and all(len(row) == len(models.columns) for row in models.rows)
    assert [block.label for block in blocks if isinstance(block, Tile)] == ["Fewest bits per character"]
    assert [block.title for block in blocks if isinstance(block, Lines)] == ["Validation loss against nonzeros"]


@pytest.mark.parametrize("circuits", [CircuitsConfig(tasks=("with_as",), most=3), CircuitsConfig()])
def test_arms_are_searched_for_the_same_tasks(circuits):
    with pytest.raises(ValueError, match=r"give circuits\.most=0 and some tasks"):
        studies("")["comparison"](TrainRun(circuits=circuits), TrainStudy(arms=ARMS))
    assert studies("")["comparison"](TrainRun(circuits=replace(circuits, tasks=("with_as",), most=0)), TrainStudy())
    alone = TrainStudy(comparison=ComparisonConfig(about=()))
    losses = studies("")["comparison"](TrainRun(circuits=CircuitsConfig()), alone)
    assert isinstance(losses, FrontierStudy) and not losses.searched, "losses need no circuits"


def test_a_finished_arm_is_not_run_again_and_one_of_other_settings_is(tmp_path):
    ran = []

    def stages(wider: bool = False, other_search: bool = False) -> list[Stage]:
        arms = {"sparse": Arm(d_model=32) if wider else Arm(), "dense": Arm(density=1)}
        base = RunConfig(model=ModelConfig(n_layer=1, d_model=16, d_head=4, d_vocab=8), debug=other_search)
        whole = replace(study(arms, n_seeds=2, min_tasks=1), config=base)
        if other_search:
            whole = replace(whole, config=replace(base, debug=False, ood=replace(base.ood, enabled=False)))

        def run(stage: Stage, folder: Path) -> Member:
            ran.append((stage.name, (folder / "trained").is_file()))
            (folder / "trained").touch()
            return member(0, 3.0, {"a": 4})

        return [replace(stage, run=lambda folder, stage=stage: run(stage, folder)) for stage in whole.stages()]

    run_stages(stages(), tmp_path)
    assert [name for name, _ in ran] == [f"models/{arm}-seed_{seed}" for arm in ("sparse", "dense") for seed in (0, 1)]
    run_stages(stages(), tmp_path)
    assert len(ran) == 4
    run_stages(stages(wider=True), tmp_path)
    assert ran[4:] == [("models/sparse-seed_0", False), ("models/sparse-seed_1", False)], "another model: from nothing"
    run_stages(stages(wider=True, other_search=True), tmp_path)
    assert [trained for _, trained in ran[6:]] == [True] * 4, "read in another way: the same weights"
    other_start = replace(study(n_seeds=1), config=RunConfig(init_from="runs/a"))
    kept = [whole.stages()[0].kept_under for whole in (other_start, replace(other_start, config=RunConfig()))]
    assert kept[0] != kept[1], "from other weights: from nothing"


def test_arms_of_equal_minutes_are_timed_once_before_the_first_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def in_turns(configs: dict[str, RunConfig]) -> dict[str, StepBudget]:
        asked.append(list(configs))
        assert all(config.trainer.minutes == 5 for config in configs.values())
        steps = {name: 100 * (i + 1) for i, name in enumerate(configs)}
        return {
            name: StepBudget(minutes=5, n_steps=n, seconds_per_step=300 / n, median=1.0) for name, n in steps.items()
        }

    monkeypatch.setattr("circuits.comparison.steps_in_turns", in_turns)
    plain = study()
    assert plain.begun(tmp_path) is plain and not asked
    trainer = replace(plain.config.trainer, minutes=5.0)
    timed = replace(plain, config=replace(plain.config, trainer=trainer))
    begun = timed.begun(tmp_path)
    again = timed.begun(tmp_path)
    assert asked == [["sparse", "dense", "worse"]] and again == begun
    for seed in begun.seeds:
        given = [begun.config_of(arm, seed).trainer for arm in ARMS]
        assert [(one.n_steps, one.minutes) for one in given] == [(100, None), (200, None), (300, None)]
    assert "5 minutes of optimizer steps" in begun.method()[0] and begun.plan() == timed.plan()
    bars = replace(trainer, progress=False, n_threads=1)
    elsewhere = replace(timed.config, trainer=bars, callbacks=replace(timed.config.callbacks, log_every=7))
    assert replace(timed, config=elsewhere).begun(tmp_path).budgets == begun.budgets and len(asked) == 1, (
        "computed and logged in another way: not timed anew, or what is trained would be lost"
    )
    wider = replace(timed, rules=replace(timed.rules, arms={**ARMS, "worse": Arm(density=1, d_model=64)}))
    assert wider.begun(tmp_path).budgets and len(asked) == 2
