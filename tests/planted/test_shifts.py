"""Planted activations: what length and position do alone is no shift, and a shift that they hide is found."""

import numpy as np
import pytest
import torch

from sparsetrain.data.worlds.graded import GradedConfig, Name
from sparsetrain.data.worlds.knowledge_graph import GraphConfig
from sparsetrain.representation.measures import HEADLINE, MEASURES, Magnitudes
from sparsetrain.run import RunConfig
from sparsetrain.studies.engine import StudyRules, conclude
from sparsetrain.studies.readings import FINAL
from sparsetrain.studies.shifts import OWN, ShiftReadings, ShiftsStudy

LEVELS = (0, 1, 2, 4)
N, WIDTH = 300, 256


def study_of(*names: Name) -> ShiftsStudy:
    shifts = GradedConfig(names=names)
    return ShiftsStudy(config=RunConfig(), rules=StudyRules(), shifts=shifts, graph=GraphConfig())


STUDY = study_of("context")


def planted(seed: int, *, form: float, claimed: float, gain: float = 1.0, farther: float = 1.0) -> ShiftReadings:
    """Gaussian vectors, peaked the more the higher the level: by `form` in shift and control, by `claimed` in the shift alone."""
    rng = np.random.default_rng(seed)
    share = np.arange(len(LEVELS)) / (len(LEVELS) - 1)
    shift_alone = np.array([1.0, 0.0])[:, None]
    shape = (2, len(LEVELS), N)

    def gini(form: float, claimed: float) -> np.ndarray:
        power = 1 + (form * share[None] + claimed * share[None] * shift_alone)[..., None, None]
        h = rng.standard_normal((*shape, WIDTH))
        magnitudes = Magnitudes(torch.from_numpy(np.sign(h) * np.abs(h) ** power))
        return MEASURES[HEADLINE].fn(magnitudes).numpy().astype(np.float64).ravel()

    plain, untrained = gini(form, claimed), gini(0, 0)
    values = {
        "none": plain,
        "trimmed": plain,
        "gain": plain if gain == 1 else gini(form, gain * claimed),
        "rotated": gini(0, 0),
    }
    loss = rng.random(shape).ravel()
    own = np.broadcast_to((farther * share)[None, :, None], shape) + 0.01 * rng.random(shape)
    return ShiftReadings(
        levels=LEVELS,
        distances={OWN: own.ravel(), "bigram_loss": own.ravel(), "unseen_pairs": np.zeros(loss.shape)},
        steps=(0, 1),
        loss=np.stack([loss, loss]),
        entropy=np.stack([loss, rng.random(loss.shape)]),
        logit_norm=np.stack([loss, rng.random(loss.shape)]),
        correct=np.ones((2, len(loss))),
        values={(FINAL, control, HEADLINE): np.stack([untrained, v]) for control, v in values.items()},
    )


def verdicts(**settings: float) -> dict[str, str]:
    found: dict[str, list[float]] = {}
    for seed in range(5):
        for key, value in STUDY.effects(planted(seed, **settings)).items():
            found.setdefault(f"context: {key}", []).append(value)
    section = conclude(STUDY.plan(), STUDY.claims(), gates={"context": [1.0] * 5}, effects=found)
    claims = {claim.key.removeprefix("context: "): claim.verdict for claim in section.claims}
    return claims | {v.name: v.verdict for v in section.verdicts}


def test_length_and_position_alone_are_no_shift() -> None:
    found = verdicts(form=0.15, claimed=0.0)
    assert found["naive: farther, sparser"] == "supported" and found["naive per item"] == "supported"
    assert found["farther, sparser"] == "not supported"
    assert found["per item"] == found["beyond prediction"] == "not supported"
    assert found["is farther"] == "supported"


def test_a_shift_is_found_beside_length_and_position() -> None:
    found = verdicts(form=0.15, claimed=0.15)
    assert found["farther, sparser"] == found["naive: farther, sparser"] == "supported"
    assert found["per item"] == found["beyond prediction"] == found["trimmed"] == "supported"
    assert found["at init"] == found["rotated"] == "supported"


def test_a_shift_that_length_and_position_hide_is_found() -> None:
    found = verdicts(form=-0.15, claimed=0.15)
    assert found["farther, sparser"] == "supported" and found["naive: farther, sparser"] == "not supported"


def test_denser_is_not_sparser_and_a_level_need_not_be_farther() -> None:
    found = verdicts(form=0.0, claimed=-0.15, farther=0.0)
    assert found["farther, sparser"] == found["is farther"] == found["own loss"] == "not supported"


def test_an_effect_without_the_gain_alone_is_not_enough() -> None:
    found = verdicts(form=0.0, claimed=0.15, gain=0.0)
    assert found["controlled"] == "supported" and found["controlled, gain"] == "not supported"
    assert found["farther, sparser"] == "not supported"


def test_a_failed_gate_decides_about_its_own_arm_alone() -> None:
    study = study_of("context", "conflict")
    plan, claims = study.plan(), study.claims()
    found = {claim.key: [0.1, 0.1, 0.1, 0.11, 0.1] for claim in plan.claims}
    section = conclude(plan, claims, gates={"context": [1.0] * 5, "conflict": [0.2] * 5}, effects=found)
    words = {(v.arm, v.name): v.verdict for v in section.verdicts}
    assert section.interpretable
    assert words["context", "farther, sparser"] == "supported"
    assert words["conflict", "farther, sparser"] == "undecided"
    neither = conclude(plan, claims, gates={"context": [0.0] * 5, "conflict": [0.2] * 5}, effects=found)
    assert not neither.interpretable


def test_rise_is_the_difference_of_differences() -> None:
    r = STUDY.effects(planted(0, form=0.15, claimed=0.15))
    alone = STUDY.effects(planted(0, form=0.0, claimed=0.15))
    assert r["naive"] == pytest.approx(0.08, abs=0.03) and r["controlled"] == pytest.approx(
        alone["controlled"], abs=0.02
    )
