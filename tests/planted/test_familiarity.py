"""Planted readings: the study's numbers are those worked out by hand, and confounds do not become familiarity."""

import numpy as np
import pytest

from sparsetrain.data.worlds.facts import FactsConfig, draw_facts
from sparsetrain.run import RunConfig
from sparsetrain.studies.engine import Arm, StudyRules, conclude
from sparsetrain.studies.familiarity import FactReadings, FamiliarityStudy, groups_of
from sparsetrain.studies.readings import FINAL

FACTS = FactsConfig(n_groups=4, levels=(0, 1, 4, 16, 64), unlearnable=(4, 64), n_new_subjects=2)
STUDY = FamiliarityStudy(config=RunConfig(), rules=StudyRules(arms={"only": Arm()}), facts=FACTS)


def planted(seed: int, *, seen: float, unseen: float, unlearnable: float = 0.0, gain: float = 1.0) -> FactReadings:
    """Gini starts at .4 everywhere; at the end it has moved by `seen` where facts are shown now, by `unseen` elsewhere."""
    facts, rng = draw_facts(FACTS, seed), np.random.default_rng(seed)
    half = STUDY.switch_step(facts)
    steps, size = (0, half, 2 * half), (3, len(facts.role))
    noise = 0.002 * rng.standard_normal(size)
    moved = np.full(size, unseen)
    shown = facts.of_kind("shown") & (facts.n >= 4)
    moved[:, shown] = seen
    moved[2, facts.of_kind("on")] = seen
    moved[1, facts.of_kind("off")] = seen
    moved[:, facts.of_kind("unlearnable")] = unlearnable
    moved[0] = 0.0
    known = shown | facts.of_kind("on")
    loss = np.where(known, 0.1, 4.0) + 0.3 * rng.random(size)
    values = {control: 0.4 + moved + noise for control in ("none", "trimmed")}
    values |= {"gain": 0.4 + gain * moved + noise, "rotated": 0.414 + noise}
    return FactReadings(
        facts=facts,
        groups=groups_of(facts),
        switch_step=half,
        steps=steps,
        loss=loss,
        entropy=loss,
        logit_norm=loss,
        correct=np.broadcast_to(known, size).astype(float),
        values={(FINAL, control, "gini"): v for control, v in values.items()},
    )


def verdicts(**effects: float) -> dict[str, str]:
    found: dict[str, list[float]] = {}
    for seed in range(5):
        for key, value in STUDY.effects(planted(seed, **effects)).items():
            found.setdefault(f"only: {key}", []).append(value)
    gates = {"recall": [1.0] * 5, "rising": [1.0] * 5, "unlearnable": [0.0] * 5}
    section = conclude(STUDY.plan(), STUDY.claims(), gates=gates, effects=found)
    claims = {claim.key.removeprefix("only: "): claim.verdict for claim in section.claims}
    return claims | {verdict.name: verdict.verdict for verdict in section.verdicts}


def test_numbers_are_those_planted():
    effects = STUDY.effects(planted(0, seen=-0.05, unseen=0.03, unlearnable=0.1))
    want = {
        "seen": -0.08, "switched on": -0.08, "switched off": 0.08, "seen since init": -0.05, "unseen since init": 0.03,
        "unlearnable": 0.07, "equal exposure": -0.15, "at init": 0.0, "rotated": 0.0, "trimmed": -0.08,
    }  # fmt: skip
    for key, value in want.items():
        assert effects[key] == pytest.approx(value, abs=0.002), key


def test_familiarity_that_is_planted_is_found():
    found = verdicts(seen=-0.05, unseen=0.0)
    assert found["relative"] == found["absolute"] == "supported"
    assert found["at init"] == found["rotated"] == "supported"


def test_unseen_facts_that_get_sparser_are_no_density_of_the_seen():
    found = verdicts(seen=0.0, unseen=0.06)
    assert found["relative"] == "supported" and found["absolute"] == "not supported"


def test_nothing_planted_is_refused():
    found = verdicts(seen=0.0, unseen=0.0)
    assert found["relative"] == "not supported" and found["absolute"] == "not supported"


def test_an_effect_of_gains_alone_is_not_enough():
    found = verdicts(seen=-0.05, unseen=0.0, gain=0.0)
    assert found["seen"] == "supported" and found["seen, gain"] == "not supported"
    assert found["relative"] == "not supported"
