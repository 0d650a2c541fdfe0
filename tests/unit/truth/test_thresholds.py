"""The card's thresholds are those of the committed calibration."""

import json
from pathlib import Path

import pytest

from circuits.evidence.card import CRITERIA
from circuits.evidence.thresholds import PRESETS, VERDICT
from circuits.truth.calibration import MOST

RESULT = json.loads((Path(__file__).parents[3] / "docs" / "results" / "card" / "calibration.json").read_text())[
    "calibration"
]


def test_the_verdict_rests_on_the_criteria_that_were_chosen():
    assert set(VERDICT) == set(RESULT["verdict"]) and len(VERDICT) <= MOST


@pytest.mark.parametrize("preset", PRESETS)
def test_thresholds_are_those_of_the_calibration(preset):
    limits = {criterion.name: getattr(PRESETS[preset], criterion.limit) for criterion in CRITERIA}
    assert {name: limits[name] for name in VERDICT} == RESULT["thresholds"]


def test_the_result_is_of_circuits_enough_and_says_itself_what_was_judged():
    circuits = [row for row in RESULT["circuits"] if not row["note"]]
    true = [row for row in circuits if row["kind"] == "true"]
    assert len(true) >= 40 and len(circuits) - len(true) >= 80
    judged = [row for row in circuits if row["name"].startswith("judging")]
    for kind, found in RESULT["judging"]["false_by_kind"].items():
        assert found["n_hits"] == sum(row["accepted"] for row in judged if row["kind"] == kind)
    assert RESULT["judging"]["true"]["n_hits"] == sum(row["accepted"] for row in judged if row["kind"] == "true")
