"""Items beside others of like size: a difference that x explains vanishes, one that it does not stays."""

import numpy as np
import pytest

from sparsetrain.stats.neighbours import minus_neighbours

RNG = np.random.default_rng(0)
POOL_X = RNG.uniform(0, 10, 2000)
POOL_Y = np.sin(POOL_X) + 0.05 * RNG.standard_normal(2000)


def shifted(x: np.ndarray, by: float):
    y = np.sin(x) + by + 0.05 * RNG.standard_normal(x.shape)
    return minus_neighbours(x, y, POOL_X, POOL_Y, bandwidth=0.1, n_bootstrap=400, seed=0)


def test_what_x_explains_vanishes_and_what_it_does_not_stays():
    x = RNG.uniform(6, 9, (80, 3))
    nothing, something = shifted(x, 0.0), shifted(x, 0.2)
    assert nothing.lo < 0 < nothing.hi and abs(nothing.value) < 0.02
    assert something.value == pytest.approx(0.2, abs=0.02) and something.lo > 0.15


def test_by_hand():
    weights = np.exp(-(np.array([0.0, 1.0]) ** 2) / 2)
    expected = 5 - (weights @ np.array([1.0, 3.0])) / weights.sum()
    found = minus_neighbours(
        np.zeros((2, 1)),
        np.full((2, 1), 5.0),
        [0, 1],
        [1, 3],
        bandwidth=1,
        n_neighbours=1,
        n_min=2,
        n_bootstrap=50,
        seed=0,
    )
    assert found.value == pytest.approx(expected)


def test_items_without_a_like_are_left_out_and_too_few_decide_nothing():
    x = np.column_stack([RNG.uniform(6, 9, 50), np.full(50, 100.0)])
    y = np.column_stack([np.sin(x[:, 0]) + 0.2, np.full(50, 1e6)])
    found = minus_neighbours(x, y, POOL_X, POOL_Y, bandwidth=0.1, n_bootstrap=100, seed=0)
    assert found.n == 50 and found.value == pytest.approx(0.2, abs=0.02) and "50 of 100 items have none" in found.method
    far = minus_neighbours(x[:, 1:], y[:, 1:], POOL_X, POOL_Y, bandwidth=0.1, n_bootstrap=100, seed=0)
    assert far.n == 0 and np.isnan([far.value, far.lo, far.hi]).all()
    few = minus_neighbours(x[:29, :1], y[:29, :1], POOL_X, POOL_Y, bandwidth=0.1, n_bootstrap=100, seed=0)
    assert few.n == 29 and np.isnan(few.value)
