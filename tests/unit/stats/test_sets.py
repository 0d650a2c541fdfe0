"""What random sets share: against scipy, by enumeration, and by drawing."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom

from sparsetrain.stats.intervals import minus
from sparsetrain.stats.number import number
from sparsetrain.stats.sets import central_range, shared_at_random


def test_one_group_is_hypergeometric():
    found = shared_at_random([(12, 30, 200)])
    assert found == pytest.approx(hypergeom(200, 12, 30).pmf(range(13)))
    assert found @ np.arange(13) == pytest.approx(12 * 30 / 200)


def test_two_groups_by_enumeration():
    counts = np.zeros(4)
    for a in combinations(range(4), 2):
        for b in combinations(range(4), 3):
            for c in combinations(range(3), 1):
                for d in combinations(range(3), 2):
                    counts[len({*a} & {*b}) + len({*c} & {*d})] += 1
    assert shared_at_random([(2, 3, 4), (1, 2, 3)]) == pytest.approx(counts / counts.sum())


def test_empty_and_full_groups():
    assert shared_at_random([]) == pytest.approx([1.0])
    assert shared_at_random([(0, 5, 9), (4, 4, 4)]) == pytest.approx([0, 0, 0, 0, 1.0])


def test_range_holds_what_it_says_of_random_sets():
    groups, rng = [(20, 30, 64), (5, 9, 256)], np.random.default_rng(0)
    low, high = central_range(shared_at_random(groups))
    shared = [
        sum(len({*rng.choice(n, a, False)} & {*rng.choice(n, b, False)}) for a, b, n in groups) for _ in range(2000)
    ]
    inside = np.mean([low <= k <= high for k in shared])
    assert 0.94 <= inside <= 1 and high - low < 12


def test_difference_of_two_numbers_by_hand():
    a, b = number(1.0, "nats", n=9, lo=0.7, hi=1.4), number(3.0, "nats", n=5, lo=2.7, hi=3.3)
    got = minus(b, a)
    assert (got.value, got.lo, got.hi, got.n) == pytest.approx((2.0, 2 - 0.5, 2 + np.hypot(0.3, 0.3), 5))
    assert minus(b, number(1.0, "nats")).lo is None and minus(b, number(None, "nats")).value is None


def test_difference_of_normal_means_is_the_usual_interval():
    half = 1.96 * np.array([0.3, 0.4])
    a, b = (number(x, "nats", lo=x - h, hi=x + h) for x, h in zip((1.0, 2.0), half, strict=True))
    assert minus(b, a).hi == pytest.approx(1 + 1.96 * 0.5)
