"""The study of methods: equal positions are a gate, differences within a seed, intervals for all arms together, circuits of tasks that both solve."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from circuits.methods import Compared, MethodMember, MethodsConfig, MethodsStudy
from circuits.section import CircuitSize
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.sparsity.dead import UnitCounts
from sparsetrain.stats.intervals import over_seeds
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import Arm, StudyRules

ARMS = {
    "dense": Arm(density=1),
    "topk": Arm(),
    "rigl": Arm(method="rigl"),
    "set": Arm(method="set"),
    "half": Arm(density=0.5),
    "two_of_four": Arm(method="two_of_four", density=0.5, floor=0),
}


def study(arms=ARMS, searched=True, debug=False, **settings):
    return MethodsStudy(
        config=RunConfig(sparsity=SparsityConfig(density=0.125), debug=debug),
        rules=StudyRules(n_seeds=3, arms=arms),
        settings=MethodsConfig(apart={"two_of_four": "half"}, **settings),
        search=lambda config, folder: pytest.fail("nothing is trained here"),
        searched=searched,
    )


def units(dead):
    return UnitCounts(n_units=100, dead=dead, without_incoming=dead, only_bias=0, without_outgoing=0, never_active=0, constant=0)  # fmt: skip


def member(seed, val_loss, *, dead=10, edges=20, kept=8, nonzeros=8, tasks=("a", "b", "c")):
    return MethodMember(
        weights_sha256="0",
        n_nonzero=10,
        n_edges=5,
        val_loss=val_loss,
        bits_per_char=1.0,
        n_steps=100,
        passed=tasks,
        circuits={
            task: CircuitSize(seed=seed, n_nodes=9, n_edges=edges + i, n_slots=50) for i, task in enumerate(tasks)
        },
        kept={"w": kept, "b": 1},
        budgets={"w": 8, "b": 1},
        nonzeros={"w": nonzeros, "b": 1},
        units=units(dead),
    )


def judged(study, **members):
    losses = (3.00, 3.02, 3.01)
    seeds = {arm: [member(seed, loss) for seed, loss in enumerate(losses)] for arm in ARMS} | members
    results = {f"models/{arm}-seed_{seed}": one for arm, found in seeds.items() for seed, one in enumerate(found)}
    with TemporaryDirectory() as folder:
        for stage, one in results.items():
            path = Path(folder) / stage / "metrics.csv"
            path.parent.mkdir(parents=True)
            path.write_text(
                f"step,name,value\n50,val_loss,{one.val_loss + 1}\n50,lr,0.1\n100,val_loss,{one.val_loss}\n"
            )
        return study.conclude(study.plan(), Path(folder), results)


def verdicts(section):
    return {(one.arm, one.name): one.verdict for one in section.verdicts}


def test_arms_are_compared_with_the_reference_of_their_density():
    assert study().references == {"rigl": "topk", "set": "topk", "two_of_four": "half"}
    rigl = of_arm(study().config, ARMS["two_of_four"], 3)
    assert (rigl.sparsity.method, rigl.sparsity.density, rigl.sparsity.floor) == ("two_of_four", 0.5, 0)
    assert study().runs["dense"].sparsity.is_dense and study().config_of("set", 2).seed == 2
    assert of_arm(study().config, Arm(anneal_end=0.001), 0).sparsity.schedule.end == 0.001
    assert list(study(debug=True).runs) == ["topk", "rigl", "set"]


def test_a_worse_method_is_called_worse_and_an_equal_one_is_not():
    worse = [member(seed, loss, dead=60, edges=90) for seed, loss in enumerate((3.10, 3.121, 3.111))]
    section = judged(study(), rigl=worse)
    found = verdicts(section)
    assert found["rigl / topk", "worse loss"] == "supported" and found["rigl / topk", "more dead units"] == "supported"
    assert found["rigl / topk: circuits", "larger circuits"] == "supported"
    assert (
        found["set / topk", "worse loss"] == "not supported"
        and found["set / topk", "more dead units"] == "not supported"
    )
    assert found["set / topk: circuits", "larger circuits"] == "not supported"
    (claim,) = [claim for claim in section.claims if claim.key == "rigl / topk: loss"]
    (figure,) = section.figures
    curve = {one.name: one for one in figure.curves}["rigl"]
    assert (
        curve.x == (50, 100)
        and curve.y[1] == pytest.approx(3.1107, abs=1e-4)
        and (curve.lo[0], curve.hi[0]) == (4.1, 4.121)
    )
    loss, dead = section.overviews
    assert loss.claims == tuple(f"{pair}: loss" for pair in ("rigl / topk", "set / topk", "two_of_four / half"))
    assert len(dead.claims) == 3
    expected = over_seeds([0.1, 0.101, 0.101], confidence=1 - 0.05 / 3)
    assert claim.number.value == pytest.approx(expected.value) and claim.number.lo == pytest.approx(expected.lo)


def test_nothing_to_compare_is_no_error():
    section = judged(study({name: ARMS[name] for name in ("dense", "topk", "half", "two_of_four")}, debug=True))
    assert section.verdicts == () and section.overviews == () and len(section.tables) == 4


def test_a_better_method_is_not_called_worse():
    better = [member(seed, loss, dead=0, edges=5) for seed, loss in enumerate((2.9, 2.921, 2.911))]
    found = verdicts(judged(study(), set=better))
    assert {verdict for (arm, _), verdict in found.items() if arm.startswith("set")} == {"not supported"}


@pytest.mark.parametrize("odd", [{"kept": 9}, {"kept": 7, "nonzeros": 7}, {"nonzeros": 9}])
def test_one_position_too_many_or_too_few_is_no_comparison(odd):
    worse = [member(seed, loss) for seed, loss in enumerate((3.10, 3.12))]
    found = judged(study(), rigl=[*worse, member(2, 3.11, **odd)])
    assert verdicts(found)["rigl / topk", "worse loss"] == "undecided"
    assert verdicts(found)["set / topk", "worse loss"] == "not supported"
    assert [gate.passed for gate in found.gates if gate.key == "rigl / topk: positions"] == [False]


def test_a_kept_position_may_hold_zero():
    zeros = [member(seed, 3.0 + seed / 100, nonzeros=5) for seed in range(3)]
    assert all(one.exact for one in zeros)
    section = judged(study(), rigl=zeros)
    assert [gate.passed for gate in section.gates if gate.key == "rigl / topk: positions"] == [True]


def test_circuits_of_too_few_tasks_are_undecided_and_losses_are_not():
    few = [member(seed, loss, tasks=("a", "d")) for seed, loss in enumerate((3.10, 3.121, 3.111))]
    section = judged(study(), rigl=few)
    assert verdicts(section)["rigl / topk: circuits", "larger circuits"] == "undecided"
    assert verdicts(section)["rigl / topk", "worse loss"] == "supported"
    none = judged(study(), rigl=[replace(one, circuits={}) for one in few])
    assert verdicts(none)["rigl / topk: circuits", "larger circuits"] == "undecided"
    tables = {table.title: table for table in none.tables}
    assert len(tables["Methods"].rows) == len(ARMS)
    rows = {row[0]: row[4:] for row in tables["Circuits"].rows}
    assert rows["rigl"][0] == 0 and rows["rigl"][1].value is None and rows["topk"] == (None, None, None)
    assert (rows["set"][0], rows["set"][1].value, rows["set"][2].value) == (
        3,
        *2 * [pytest.approx((20 * 21 * 22) ** (1 / 3))],
    )
    assert "circuits" not in " ".join(rule.arm for rule in study(searched=False).plan().rules)


def test_ratios_are_over_tasks_that_both_solve():
    arm = [member(seed, 3.0, edges=40) for seed in range(3)]
    reference = [member(seed, 3.0, edges=20, tasks=("b", "c", "e")) for seed in range(3)]
    pair = Compared(arm=arm, reference=reference, n_compared=1)
    # b: 41 edges against 20, c: 42 against 21
    assert pair.tasks == ["b", "c"] and 2**pair.octaves.value == pytest.approx((41 / 20 * 42 / 21) ** 0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": "top"}, r"study\.methods\.reference=top is no arm; allowed: dense, topk"),
        ({"min_ratio": 1.0}, "min_ratio=1.0 must be above 1"),
    ],
)
def test_a_reference_that_is_no_arm_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        study(**settings)


def test_an_arm_apart_that_is_missing_is_refused():
    arms = {name: arm for name, arm in ARMS.items() if name != "half"}
    with pytest.raises(ValueError, match=r"study\.methods\.apart\.two_of_four=half is no arm"):
        study(arms)
