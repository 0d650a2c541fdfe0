"""Thresholds and choice on made-up values, where the right answer is known."""

import ast
import inspect
from dataclasses import replace
from math import inf

import pytest

from circuits.evidence.card import CRITERIA
from circuits.evidence.thresholds import CardConfig
from circuits.section import CardEntry, Threshold
from circuits.truth import calibration
from circuits.truth.calibration import (
    FIXED,
    MOST,
    Share,
    apply,
    auc,
    calibrate,
    choose,
    passes,
    rank,
    roc,
    rounded,
    threshold_between,
    thresholds_of,
)
from circuits.truth.cases import HALVES, Case, CaseResult, Half, Kind, plan
from circuits.truth.page import BEGIN, END, markdown, page_with, svg
from sparsetrain.stats.number import number

CONFIG = CardConfig()
NAMES = [criterion.name for criterion in CRITERIA]


def result(half: Half, kind: Kind, i: int, **values: float | None) -> CaseResult:
    """A circuit whose card says what is given (0.5 elsewhere), with samples enough for any criterion."""
    case = Case(half=half, kind=kind, host="planted", family=HALVES[half][0], form="plain", seed=i)
    card = []
    for criterion in CRITERIA:
        value = values.get(criterion.name, 0.9 if criterion.name in FIXED else 0.5)
        card.append(
            CardEntry(
                name=criterion.name,
                role="further",
                group=criterion.group,
                question=criterion.question,
                value=number(value, "share", n=1000),
                threshold=Threshold(sense=criterion.sense, value=0.5),
                verdict="not enough data" if value is None else "pass",
                detail={},
            )
        )
    return CaseResult(case=case, n_nodes=3, n_edges=2, card=tuple(card))


def half_of(half: Half, n: int = 20) -> list[CaseResult]:
    """True circuits with sufficiency .1 and minimality .95; one kind fails the first, another the second, and half of each both."""
    true = [result(half, "true", i, sufficiency=0.1 + i / 1000, minimality=0.95 - i / 1000) for i in range(n)]
    broken = [result(half, "broken", i, sufficiency=0.5, minimality=(0.95, 0.5)[i % 2]) for i in range(n)]
    bloated = [result(half, "bloated", i, sufficiency=(0.1, 0.3)[i % 2], minimality=0.4 + i / 1000) for i in range(n)]
    return [*true, *broken, *bloated]


def test_auc_and_curve_of_known_values():
    assert auc([3, 4], [1, 2]) == 1 and auc([1], [2]) == 0 and auc([1, 1], [1]) == 0.5
    assert auc([1, 3], [2, 2]) == 0.5 and auc([], [1]) is None
    assert auc([inf], [inf]) == 0.5
    assert roc([3, 1], [2, 0]) == ((0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0))


def test_threshold_stands_halfway_between_the_worst_true_and_the_best_false_below():
    assert threshold_between([0.9, 0.8], [0.4, 0.2]) == pytest.approx(0.6)
    assert threshold_between([0.9, 0.8], [0.85, 0.2]) == pytest.approx(0.5)  # a false one above cannot be told
    assert threshold_between([0.9, 0.8], [0.95]) is None  # tells nothing
    assert threshold_between([0.8, -inf], [0.1]) is None  # a true one that fails without a value
    assert threshold_between([0.8, inf], [-inf]) == 0.8 and threshold_between([inf], [0.3]) == 0.3
    spared = [0.9] * 60 + [0.1]
    assert threshold_between(spared, [0.5], 0.03) == pytest.approx(0.7)  # one of sixty-one is spared
    assert threshold_between(spared, [0.5]) is None


def test_ranks_follow_the_sense_and_missing_values_the_verdict():
    made = result("setting", "true", 0, sufficiency=0.2, necessity=None)
    by_name = {entry.name: entry for entry in made.card}
    assert rank(by_name["sufficiency"]) == -0.2 and rank(by_name["minimality"]) == 0.5
    assert rank(by_name["necessity"]) is None
    assert rank(replace(by_name["necessity"], verdict="pass")) == inf
    assert rank(replace(by_name["necessity"], verdict="fail")) == -inf


def test_the_criteria_that_tell_are_chosen_and_no_others():
    setting = half_of("setting")
    chosen = choose(setting, CONFIG)
    assert set(chosen) == {*FIXED, "sufficiency", "minimality"} and len(chosen) <= MOST
    assert chosen["sufficiency"] == pytest.approx((0.5 + 0.119) / 2, abs=0.01)
    assert chosen["minimality"] == pytest.approx((0.931 + 0.419) / 2, abs=0.01)
    judged = apply(half_of("judging"), chosen, CONFIG)
    assert judged.true.value == 1 and judged.false.value == 0 and judged.meets_goals
    assert judged.false_by_kind["broken"].n == 20 and (judged.false_by_kind["broken"].hi or 1) < 0.2


def test_a_criterion_that_does_not_discriminate_is_not_chosen():
    true = [result("setting", "true", i, sufficiency=0.1 + i / 100, minimality=0.9) for i in range(20)]
    false = [result("setting", "broken", i, sufficiency=0.1 + i / 100 + 0.005, minimality=0.5) for i in range(20)]
    assert set(choose([*true, *false], CONFIG)) == {*FIXED, "minimality"}


def test_a_criterion_that_says_nothing_of_true_circuits_is_not_chosen():
    setting = [
        replace(
            r, card=tuple(replace(e, value=number(None, "share", n=0)) if e.name == "minimality" else e for e in r.card)
        )
        for r in half_of("setting")
    ]
    silent = [
        replace(r, card=tuple(replace(e, verdict="not enough data") if e.name == "minimality" else e for e in r.card))
        for r in setting
    ]
    assert "minimality" not in thresholds_of(silent)


def test_the_half_that_judges_chooses_nothing():
    both = half_of("setting") + half_of("judging")
    first = calibrate(both, CONFIG)
    turned = [
        replace(r, card=tuple(replace(e, value=number(0.77, "share", n=1000)) for e in r.card))
        if r.case.half == "judging"
        else r
        for r in both
    ]
    second = calibrate(turned, CONFIG)
    assert second.thresholds == first.thresholds and second.verdict == first.verdict and second.setting == first.setting
    assert second.judging != first.judging
    source = ast.parse(inspect.getsource(calibration.choose)).body[0]
    assert "judging" not in {node.value for node in ast.walk(source) if isinstance(node, ast.Constant)}


def test_a_failure_to_meet_the_goals_is_said():
    bad = [result("judging", "broken", 100 + i, sufficiency=0.1, minimality=0.95) for i in range(4)]
    done = calibrate(half_of("setting") + half_of("judging") + bad, CONFIG)
    assert not done.judging.meets_goals
    assert done.judging.false_by_kind["broken"].n_hits == 4
    assert set(done.judging.accepted_false) == {r.case.name for r in bad}
    assert "misses the goals" in markdown(done, "command", "roc.svg")


def test_a_half_without_true_circuits_is_refused():
    with pytest.raises(ValueError, match="the judging half"):
        calibrate([*half_of("setting"), result("judging", "broken", 0)], CONFIG)


def test_more_data_turns_no_pass_into_a_fail():
    made = result("setting", "true", 0, minimality=0.8)
    more = replace(made, card=tuple(replace(e, value=number(e.value.value, "share", n=100_000)) for e in made.card))
    assert passes(made, "minimality", 0.7, CONFIG) and passes(more, "minimality", 0.7, CONFIG)


@pytest.mark.parametrize("n", [1, 3])
def test_halves_share_no_family_no_run_and_no_task(n):
    cases = plan(n, ["a", "b", "c"], n_own=3)
    sides = {half: [case for case in cases if case.half == half] for half in HALVES}
    families = [{case.family for case in side} for side in sides.values()]
    hosts = [{case.host for case in side} - {"planted"} for side in sides.values()]
    assert not families[0] & families[1] and not hosts[0] & hosts[1]
    assert len({case.name for case in cases}) == len(cases)


def test_the_plan_is_as_large_as_is_wanted():
    cases = plan(2, ["a", "b"])
    true = [case for case in cases if case.kind == "true"]
    assert len(true) >= 60 and len(cases) - len(true) >= 120
    assert {case.kind for case in cases if case.half == "judging"} == {
        case.kind for case in cases if case.half == "setting"
    }
    assert any(case.searched for case in true) and not all(case.searched for case in true)


def test_numbers_and_page():
    assert rounded(0.123456) == 0.12 and rounded(0.0) == 0.0
    assert Share.of([]).value is None
    done = calibrate(half_of("setting") + half_of("judging"), CONFIG)
    made = markdown(done, "python scripts/calibrate_card.py", "roc.svg")
    assert "| sufficiency |" in made and "meets the goals" in made
    assert "sufficiency" in svg(done)
    page = page_with(made, f"before\n{BEGIN}\nwhat stood here\n{END}\nafter")
    assert made in page and "what stood here" not in page and page.startswith("before") and page.endswith("after")
    with pytest.raises(ValueError, match="page="):
        page_with(made, "no markers")
