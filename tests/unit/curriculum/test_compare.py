"""Accuracies, gains and the smallest difference that can be seen, by hand and by simulation."""

import numpy as np
import pytest
from scipy.stats import binom

from sparsetrain.curriculum.arms import ARMS, DEALT, DRAWN, RANDOM_ORDER, ZERO_SHOT
from sparsetrain.curriculum.compare import Answers, detectable_correlation, detectable_share
from sparsetrain.stats.intervals import paired_shares

N_DRAWS = 10


def answers_of(**right: list[float]) -> Answers:
    n = len(next(iter(right.values())))
    filled = {name: np.array(right.get(name, [0.0] * n)) for name in ARMS}
    return Answers(right=filled, loss={name: 2 - values for name, values in filled.items()})


def test_gains_are_against_the_control_of_an_arm_item_by_item():
    found = answers_of(
        zero_shot=[0, 0, 0, 1], random_order=[0.5, 0.5, 1, 1], sparsity=[1, 1, 1, 0], drawn=[0.2, 0, 0, 0], matched=[1, 0, 0, 0], dealt=[0, 1, 0, 0], published=[0, 0, 0, 0]
    )  # fmt: skip
    assert found.learned == pytest.approx(0.5)
    assert found.gain("sparsity").value == pytest.approx((0.5 + 0.5 + 0 - 1) / 4)
    assert found.gain("matched").value == pytest.approx(0.2) and found.gain("published").value == pytest.approx(-0.25)
    assert found.falls("sparsity") == pytest.approx([0.5, 0.5, 0, -1])
    assert found.accuracy(RANDOM_ORDER).value == pytest.approx(0.75) and found.accuracy(ZERO_SHOT).n == 4


def test_an_accuracy_lies_between_0_and_1_with_its_interval():
    """Wilson's interval of 0 of 100 at 95%: 0 to z^2 / (n + z^2)."""
    none, every = answers_of(sparsity=[0.0] * 100), answers_of(sparsity=[1.0] * 100)
    z2 = 1.959964**2
    lowest, highest = none.accuracy("sparsity"), every.accuracy("sparsity")
    assert (lowest.lo, lowest.hi) == pytest.approx((0, z2 / (100 + z2)), abs=1e-6)
    assert (highest.lo, highest.hi) == pytest.approx((100 / (100 + z2), 1), abs=1e-6)


def test_the_smallest_difference_by_hand():
    assert detectable_share(100) == pytest.approx((1.959964 + 0.841621) * 0.2**0.5 / 10, abs=1e-6)
    assert detectable_share(400) == pytest.approx(detectable_share(100) / 2)
    assert detectable_share(100, confidence=0.99) > detectable_share(100)


def test_the_smallest_correlation_is_seen_four_times_in_five():
    """Ranks of normal pairs; the simple test of a Fisher transform with the same variance."""
    n, rng = 200, np.random.default_rng(0)
    least = detectable_correlation(n)
    assert least == pytest.approx(np.tanh(2.801585 * (1.06 / 197) ** 0.5), abs=1e-6)
    r = 2 * np.sin(np.pi * least / 6)  # of values, where that of ranks is `least`
    x, noise = rng.standard_normal((2, 1000, n))
    y = r * x + (1 - r * r) ** 0.5 * noise
    rho = [np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1] for a, b in zip(x, y, strict=True)]
    assert 0.76 <= (np.arctanh(rho) > 1.959964 * (1.06 / 197) ** 0.5).mean() <= 0.84


@pytest.mark.parametrize("n", [100, 600])
def test_the_smallest_difference_is_seen_four_times_in_five(n):
    rng, least, n_times = np.random.default_rng(0), detectable_share(n), 1000
    which = rng.random((n_times, n))
    better = which < (0.2 + least) / 2
    worse = (which >= (0.2 + least) / 2) & (which < 0.2)
    seen = sum(paired_shares(a, b).lo > 0 for a, b in zip(better.astype(float), worse.astype(float), strict=True))
    assert 0.75 <= seen / n_times <= 0.9  # a little more often than .8, for a real difference takes from the spread


def tried(rng: np.random.Generator, chance: np.ndarray) -> np.ndarray:
    """Share of `N_DRAWS` draws that are right."""
    return rng.binomial(N_DRAWS, chance) / N_DRAWS


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize("kind", ["same items", "middling items", "hardly any", "all but fixed"])
def test_intervals_of_shares_of_draws_cover_as_often_as_they_say(n, kind):
    """An arm that is tried once against ten random draws of its control: each item has a chance of its own, and the arm adds to it."""
    rng, n_times = np.random.default_rng(0), 1500
    a, b, more = {"same items": (1, 1, 0.1), "middling items": (8, 8, 0.1), "hardly any": (0.3, 6, 0.0), "all but fixed": (0.05, 0.05, 0.0)}[kind]  # fmt: skip
    chance = rng.beta(a, b, (n_times, n))
    of_arm = np.minimum(1, chance + more)
    truth = float((np.minimum(1, rng.beta(a, b, 10**6) + more)).mean()) - a / (a + b)
    covered = 0
    for own, other in zip(of_arm, chance, strict=True):
        found = paired_shares(rng.binomial(1, own).astype(float), tried(rng, other))
        covered += found.lo <= truth <= found.hi
    # But for the luck of 1500 simulations; where items hardly differ the half items that are added make it too wide, and never too narrow.
    assert covered >= binom.ppf(0.001, n_times, 0.94)
    assert kind in ("hardly any", "all but fixed") or covered / n_times <= 0.98


def test_an_arm_that_is_no_better_is_seldom_found_better():
    """One of ten random draws, called an arm: the same chances as its control."""
    rng, n_times, n = np.random.default_rng(1), 2000, 100
    chance = rng.beta(1, 1, (n_times, n))
    called = sum(paired_shares(rng.binomial(1, own).astype(float), tried(rng, own)).lo > 0 for own in chance)
    assert called <= binom.ppf(0.999, n_times, 0.025)


def test_controls_are_in_the_answers():
    assert {RANDOM_ORDER, DRAWN, DEALT, ZERO_SHOT} <= set(answers_of(sparsity=[1, 1]).right)
