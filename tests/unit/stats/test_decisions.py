"""Every word can be reached, and no other input."""

import numpy as np
import pytest

from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule, decide, sign_test
from sparsetrain.stats.intervals import Estimate, difference


def test_sign_test():
    got = sign_test([0.1, 0.2, 0.3, 0.4, -0.1, 0.0])
    assert (got.n_positive, got.n_negative, got.n) == (4, 1, 6)
    assert got.p == pytest.approx(2 * (5 + 1) / 32)
    assert sign_test([0.0]).p == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: spearman([1, 2, 3], [1, 2], seed=0),
        lambda: spearman([1, 2], [1, 2], seed=0),
        lambda: spearman([1, 2, np.nan], [1, 2, 3], seed=0),
        lambda: difference([], [1, 2], seed=0),
        lambda: DecisionRule(claim="c", expected="positive", margin=0),
        lambda: DecisionRule(claim="c", expected="positive", margin=1, n_agreeing=0),
        lambda: decide(DecisionRule(claim="c", expected="positive", margin=1, n_agreeing=4), estimate(1, 0, 2)),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError):
        call()


def estimate(value, lo, hi):
    return Estimate(value=value, lo=lo, hi=hi, n=10, method="")


@pytest.mark.parametrize(
    ("value", "lo", "hi", "per_seed", "word"),
    [
        (0.3, 0.2, 0.4, None, "supported"),
        (0.3, -0.1, 0.6, None, "undecided"),
        (0.08, 0.02, 0.15, None, "undecided"),
        (0.05, 0.01, 0.09, None, "not supported"),
        (0.0, -0.05, 0.05, None, "not supported"),
        (-0.3, -0.4, -0.2, None, "not supported"),
        (float("nan"), float("nan"), float("nan"), None, "undecided"),
        (0.3, 0.2, 0.4, [1, 1, 1, 1, -1], "supported"),
        (0.3, 0.2, 0.4, [1, 1, 1, -1, -1], "undecided"),
        (0.3, 0.2, 0.4, [1, -1, -1, -1, -1], "not supported"),
        (0.3, 0.2, 0.4, [1, 1, 1, 1, 1, 1, -1, -1, -1, -1], "supported"),  # as many more seeds as agree may disagree
        (0.3, -0.1, 0.6, [1, 1, 1, 1, -1, -1, -1, -1], "undecided"),
    ],
)
def test_verdict(value, lo, hi, per_seed, word):
    n_agreeing = None if per_seed is None else 4
    up = DecisionRule(claim="c", expected="positive", margin=0.1, n_agreeing=n_agreeing)
    down = DecisionRule(claim="c", expected="negative", margin=0.1, n_agreeing=n_agreeing)
    assert decide(up, estimate(value, lo, hi), per_seed).word == word
    mirrored = None if per_seed is None else [-s for s in per_seed]
    decision = decide(down, estimate(-value, -hi, -lo), mirrored)
    assert decision.word == word and decision.reason and "at least 0.1" in decision.rule


@pytest.mark.parametrize(
    ("lo", "hi", "word"),
    [(-0.1, 0.2, "supported"), (0.5, 0.9, "not supported"), (-0.9, -0.5, "not supported"), (-0.1, 0.6, "undecided")],
)
def test_no_effect_can_be_claimed(lo, hi, word):
    rule = DecisionRule(claim="none", expected="none", margin=0.4)
    estimate = Estimate(value=(lo + hi) / 2, lo=lo, hi=hi, n=5, method="")
    assert decide(rule, estimate, [0.0] * 5).word == word
    nothing = Estimate(value=0.0, lo=np.nan, hi=np.nan, n=1, method="")
    assert decide(rule, nothing).word == "undecided"
    with pytest.raises(ValueError, match="no sign for seeds"):
        DecisionRule(claim="none", expected="none", margin=0.4, n_agreeing=4)
