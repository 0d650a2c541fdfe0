"""The study of students on planted numbers: an effect is found, a null is not, a pair that misses the gate is not compared, and the null's rates by hand."""

from dataclasses import replace

import numpy as np
import pytest

from circuits.fracture.gates import Match, Matching
from circuits.fracture.pairs import BOUNDS, MEASURES
from circuits.fracture.readings import NullResult, SeedResult, StudentResult
from circuits.fracture.study import ARMS, DENSE, NULL, READ, FractureConfig, FractureStudy
from circuits.fracture.tables import null_rate, null_table
from circuits.fracture.transfer import SHOWN
from sparsetrain.run import RunConfig
from sparsetrain.studies.engine import Arm, StageResult, StudyRules

N_SEEDS = 5
GOOD, BAD = Match(kl=1e-5, agreement=1.0, n=100), Match(kl=0.3, agreement=0.98, n=100)


def study() -> FractureStudy:
    return FractureStudy(config=RunConfig(), rules=StudyRules(n_seeds=N_SEEDS, n_agreeing=5), settings=FractureConfig())


def seed_result(seed: int, less: float, missed: tuple[str, ...] = ()) -> SeedResult:
    """Measures differ between students by a fiftieth of the bound; those of the sparse one by `less` bounds more, towards less fractured."""
    rng = np.random.default_rng(seed)
    numbers = {
        name: {key: 0.5 + bound * (0.02 * rng.normal() + (less if name == "weight_sparse" else 0) * (1 if MEASURES[key].less == "higher" else -1)) for key, bound in BOUNDS.items()}
        for name in (DENSE, *ARMS)
    }  # fmt: skip
    return SeedResult(
        weights_sha256="",
        matching={
            name: Matching(a=DENSE, b=name, train=GOOD, heldout=BAD if name in missed else GOOD) for name in ARMS
        },
        numbers=numbers,
        kl=dict.fromkeys(numbers, 0.1),
        rho=dict.fromkeys(numbers, 1.0),
        n_nonzero=dict.fromkeys(numbers, 10),
        lr=dict.fromkeys(numbers, 1e-3),
        steps=(0, 1, 8),
        curves={name: {key: (0.0, 0.5, 1.0) for key in SHOWN} for name in numbers},
    )


def of_null(results, spread: float = 1.0):
    """The dense students' numbers once more, read together: `spread` times as far from the middle."""
    found = {}
    for name, result in results.items():
        if isinstance(result, SeedResult):
            for student in (DENSE, "dense_again"):
                near = {
                    key: 0.5 + spread * (result.numbers[student][key] - 0.5)
                    for key in ("modularity", "entanglement", "coherence")
                }  # pyright: ignore[reportOptionalOperand]
                found[f"{student}/{str(name).rpartition('/')[2] if isinstance(name, str) else f'seed_{name}'}"] = near
    return found


def concluded(less: float, missed: tuple[str, ...] = (), spread: float = 1.0):
    one = study()
    names = [f"{name}/seed_{seed}" for seed in one.seeds for name in (DENSE, "dense_again")]
    results: dict[str, StageResult] = {f"{READ}/seed_{seed}": seed_result(seed, less, missed) for seed in one.seeds}
    pairs = tuple(Matching(a=a, b=b, train=GOOD, heldout=GOOD) for i, a in enumerate(names) for b in names[i + 1 :])
    for name in (DENSE, *ARMS):
        for seed in one.seeds:
            results[f"{name}/seed_{seed}"] = StudentResult(weights_sha256="", matching=Matching(a="teacher", b=name, train=GOOD, heldout=GOOD), n_tries=1)  # fmt: skip
    results[NULL] = NullResult(weights_sha256="", matching=pairs, numbers=of_null(results, spread))
    section = one.conclude(one.plan(), None, results)  # pyright: ignore[reportArgumentType]
    return section, {(verdict.arm, verdict.name): verdict.verdict for verdict in section.verdicts}


def test_a_planted_effect_is_found_in_its_arm_alone():
    section, words = concluded(less=2.0)
    assert {word for (arm, _), word in words.items() if arm == "weight_sparse"} == {"supported"}
    assert {word for (arm, _), word in words.items() if arm != "weight_sparse"} == {"not supported"}
    null = section.tables[0]
    assert null.rows[0][0] == "any of them" and null.rows[0][2] == 0 and "45 of the 45 pairs" in null.note
    assert next(gate for gate in section.gates if gate.key == "null").passed


def test_a_null_that_is_called_different_too_often_leaves_nothing_to_conclude():
    section, words = concluded(less=2.0, spread=150.0)
    assert not next(gate for gate in section.gates if gate.key == "null").passed
    assert set(words.values()) == {"undecided"}


def test_a_planted_null_and_an_effect_the_other_way_are_not_supported():
    assert set(concluded(less=0.0)[1].values()) == {"not supported"}
    assert set(concluded(less=-2.0)[1].values()) == {"not supported"}


def test_a_pair_that_misses_the_gate_is_not_compared():
    section, words = concluded(less=2.0, missed=("weight_sparse",))
    assert {word for (arm, _), word in words.items() if arm == "weight_sparse"} == {"undecided"}
    claims = [claim for claim in section.claims if claim.arm == "weight_sparse"]
    assert all((claim.number.value is None and set(claim.per_seed) <= {None}) or all(np.isnan(claim.per_seed)) for claim in claims)  # fmt: skip
    assert next(gate for gate in section.gates if gate.key == "KL, heldout, weight_sparse").passed is False


def test_the_rate_of_the_null_counts_pairs_beyond_the_bound():
    one = study()
    results = {seed: seed_result(seed, 0.0) for seed in one.seeds}
    odd = {key: value + 5 * BOUNDS[key] * (key == "fracture") for key, value in results[0].numbers[DENSE].items()}  # pyright: ignore[reportOptionalOperand]
    odd["damage"] = None
    results[0] = replace(results[0], numbers={**results[0].numbers, DENSE: odd})
    names = [f"{name}/seed_{seed}" for seed in one.seeds for name in (DENSE, "dense_again")]
    pairs = [Matching(a=a, b=b, train=GOOD, heldout=GOOD) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs[-1] = replace(pairs[-1], heldout=BAD)
    null = NullResult(weights_sha256="", matching=tuple(pairs), numbers=of_null(results))
    rows = {row[0]: row for row in null_table(null, results).rows}
    assert rows["any of them"][2] == 9 and null_rate(null, results) == pytest.approx(9 / 44)
    assert rows[MEASURES["fracture"].words][2] == 9 and rows[MEASURES["union"].words][2] == 0
    assert rows[MEASURES["damage"].words][3].n == 44 - 9, "where one has no number there is nothing to compare"  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    assert "44 of the 45 pairs" in null_table(null, results).note


def test_arms_of_ones_own_and_a_short_context_are_refused_in_one_line():
    with pytest.raises(
        ValueError, match="this study has the arms dense, dense_again, weight_sparse, abs_topk of its own"
    ):
        FractureStudy(config=RunConfig(), rules=StudyRules(arms={"mine": Arm()}), settings=FractureConfig())
    config = RunConfig()
    short = replace(config, model=replace(config.model, n_ctx=4))
    with pytest.raises(ValueError, match="n_ctx=4 is shorter than a prompt of the language; give 5 or more"):
        FractureStudy(config=short, rules=StudyRules(), settings=FractureConfig()).stages()
