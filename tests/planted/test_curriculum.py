"""Planted readings: the study finds what is planted, and says no where nothing is."""

import re
from dataclasses import replace

import numpy as np
import pytest

from sparsetrain.curriculum.arms import ARMS
from sparsetrain.data.worlds.functions import FAMILIES
from sparsetrain.run import RunConfig
from sparsetrain.studies.curriculum import COMPARED, TRAINED, CurriculumStudy, DemonstrationsConfig
from sparsetrain.studies.demonstrated import BY_ENTROPY, GUIDED, Demonstrated
from sparsetrain.studies.engine import Arm, StudyRules, conclude
from sparsetrain.studies.section import StudySection
from sparsetrain.studies.study import Subject

STUDY = CurriculumStudy(
    config=RunConfig(), rules=StudyRules(n_seeds=3, n_agreeing=3), demonstrations=DemonstrationsConfig()
)
NAMES = list(FAMILIES)


def planted(
    seed: int,
    *,
    gain: float = 0.4,
    sparsity: float = 0.0,
    graded: float = 0.0,
    marks: float = 0.0,
    loss: float = 1.0,
    rule: float = 0.0,
) -> Demonstrated:
    """2000 rows and questions: accuracy rises by `gain`, order by sparsity adds `sparsity`, by known difficulty `graded` where it is graded."""
    rng, n = np.random.default_rng(seed), 2000
    family = rng.permutation(np.arange(n) % len(NAMES))
    hardness = np.minimum(np.arange(13) / 8, 1)
    correct = (rng.random((n, 13)) < 0.15 + gain * hardness).astype(float)
    operations = np.repeat(rng.integers(0, 5, n)[:, None], 13, 1)
    losses = loss + 0.3 * rng.standard_normal((n, 13))
    base = rng.random(n)

    def right(share: float, keep: np.ndarray | None = None) -> np.ndarray:
        added = share if keep is None else share * keep
        return (base < 0.5 + added).astype(float)

    of_graded = np.isin(family, [NAMES.index("conditional")])
    more = {
        "sparsity": right(sparsity),
        "published": right(rule),
        "dealt": right(rule),
        "easy_to_hard": right(graded, of_graded),
    }
    parts = ("seen", "val", "unseen", "misled")
    ways = (*ARMS, *(name + BY_ENTROPY for name in GUIDED))
    return Demonstrated(
        n_shown=8,
        family=dict.fromkeys(parts, family),
        correct=dict.fromkeys(parts, correct),
        loss=dict.fromkeys(parts, losses),
        sparsity=marks * operations + rng.standard_normal((n, 13)),
        operations=operations,
        answers=rng.integers(0, 7, (n, 13)),
        asked=family,
        right={**dict.fromkeys(ways, right(0.0)), **more},
        answer_loss=dict.fromkeys(ways, losses[:, 0]),
    )


def concluded(*, shuffled: float = 0.0, ahead: float = 0.0, **effects: float) -> StudySection:
    read: dict[Subject, list[Demonstrated]] = {subject: [] for subject in STUDY.subjects}
    for seed in range(3):
        control, dense = planted(10 + seed, gain=shuffled), planted(seed, **effects)
        for subject, readings in read.items():
            ordered = planted(20 + seed, loss=1.0 - ahead)
            r = replace(ordered, random_order=dense) if subject.arm in ("easy_first", "hard_first") else dense
            readings.append(replace(r, shuffled=control))
    found = {
        f"{subject.key}: {key}": [STUDY.effects(r, subject)[key] for r in seeds]
        for subject, seeds in read.items()
        for key in STUDY.effects(seeds[0], subject)
    }
    gates = {
        gate.key: [value(r) for subject, seeds in read.items() if subject.arm == gate.arm for r in seeds]
        for gate, value in STUDY.gates()
    }
    return conclude(STUDY.plan(), STUDY.claims(), gates=gates, effects=found)


def verdicts(section: StudySection) -> dict[str, str]:
    claims = {claim.key: claim.verdict for claim in section.claims}
    return claims | {f"{verdict.arm}: {verdict.name} holds": verdict.verdict for verdict in section.verdicts}


def test_an_order_that_helps_is_found_and_by_how_much() -> None:
    found = verdicts(concluded(sparsity=0.1))
    assert found["dense: order holds"] == found["weight_sparse: order holds"] == "supported"
    assert found["dense: as published holds"] == found["dense: ours holds"] == "not supported"
    effects = STUDY.effects(planted(0, sparsity=0.1), Subject(arm="dense"))
    assert effects["sparsity"] == pytest.approx(0.1, abs=0.02) and effects["similarity"] == 0


def test_where_nothing_is_planted_the_word_is_no() -> None:
    found = verdicts(concluded())
    assert {found[f"dense: {way}"] for way in COMPARED} == {"not supported"}
    assert found["dense: marks difficulty holds"] == found["easy_first: training order holds"] == "not supported"


def test_a_rule_that_helps_on_any_sparsity_is_no_sparsity() -> None:
    found = verdicts(concluded(rule=0.1))
    assert found["dense: published, above entropy"] == "supported" and found["dense: published"] == "not supported"
    assert found["dense: as published holds"] == "not supported"


def test_known_difficulty_counts_where_it_is_graded() -> None:
    effects = STUDY.effects(planted(0, graded=0.2), Subject(arm="dense"))
    assert effects["easy_to_hard"] == pytest.approx(0.2, abs=0.04)  # over all families it were an eighth of that
    assert effects["hard_to_easy"] == 0


def test_sparsity_that_marks_difficulty_is_found() -> None:
    found = verdicts(concluded(marks=0.5))
    assert found["dense: marks difficulty holds"] == found["dense: within a function"] == "supported"
    assert found["dense: own loss"] == "not supported"


def test_an_order_of_training_that_helps_is_found() -> None:
    found = verdicts(concluded(ahead=0.2))
    assert found["easy_first: training order holds"] == found["hard_first: training order holds"] == "supported"


def test_without_learning_in_context_nothing_is_concluded() -> None:
    section = concluded(gain=0.1, sparsity=0.1)
    assert {entry.verdict for entry in section.verdicts} == {"undecided"} and not section.interpretable
    assert not {gate.key: gate.passed for gate in section.gates}["learned, dense"]


def test_a_control_that_learns_spoils_the_study() -> None:
    section = concluded(shuffled=0.2, sparsity=0.1)
    assert {entry.verdict for entry in section.verdicts} == {"undecided"}
    assert not {gate.key: gate.passed for gate in section.gates}["shuffled, dense"]


def test_saying_the_same_is_chance_whatever_the_unseen_functions_are() -> None:
    r = planted(0)
    answers = np.where(r.family["unseen"][:, None] == NAMES.index("constant"), 3, r.answers)
    always = {**r.correct, "unseen": (answers == 3).astype(float)}
    r = replace(r, answers=answers, correct=always)
    assert r.by_answer() == pytest.approx(1 / 7)
    assert r.curve("unseen")[8] > 1 / 7 + 0.05  # one family of eight is right by luck


def test_the_plan_says_what_it_can_see_and_what_is_unseen() -> None:
    words = " ".join(STUDY.plan().method)
    assert (
        "Smallest difference of accuracy" in words and "0 seen, 10 unseen" in words and "permuted among rows" in words
    )
    assert not any("length" in claim.key for claim in STUDY.plan().claims)


def test_arms_have_the_study_s_names() -> None:
    assert set(TRAINED) == {"dense", "weight_sparse", "shuffled", "easy_first", "hard_first"}
    with pytest.raises(ValueError, match=re.escape("arms=['a'] must be dense, weight_sparse, shuffled, easy_first")):
        CurriculumStudy(config=RunConfig(), rules=StudyRules(arms={"a": Arm()}), demonstrations=DemonstrationsConfig())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_pool": 10}, "n_pool=10 must have the n_retrieved=16"),
        ({"n_pool": 49}, "n_pool=49 must have .* and leave some of the 49 inputs"),
        ({"n_shots": 7}, "n_shown=8 must be at most n_shots=7"),
    ],
)
def test_sizes_that_cannot_hold(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(DemonstrationsConfig(), **wrong)
