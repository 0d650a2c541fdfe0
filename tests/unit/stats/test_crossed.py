"""The interval over items crossed with runs: by hand, with cells missing, and how often it covers the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sparsetrain.stats.coverage import World, coverage, draw
from sparsetrain.stats.crossed import NOTICED, crossed_difference
from sparsetrain.stats.intervals import Estimate, estimate, over_seeds

PLAUSIBLE = World(n_items=6, n_runs=3, items=1.0, runs=(0.4, 0.4), rest=(0.4, 0.4))


def mean_squares(y):
    """Of runs and of the rest, of a whole table `[items, runs]`."""
    n, m = y.shape
    runs, items, mean = y.mean(0), y.mean(1), y.mean()
    rest = y - items[:, None] - runs + mean
    return n * ((runs - mean) ** 2).sum() / (m - 1), (rest**2).sum() / ((n - 1) * (m - 1))


def test_a_whole_table_is_the_textbooks_analysis_of_variance():
    a, b = draw(PLAUSIBLE, np.random.default_rng(3))
    got, (n, m) = crossed_difference(a, b), a.shape
    d = b.mean(1) - a.mean(1)
    (runs_a, rest_a), (runs_b, rest_b) = mean_squares(a), mean_squares(b)
    assert runs_a + runs_b > NOTICED * (rest_a + rest_b), "runs differ"
    items, runs, rest = d.var(ddof=1) / n, (runs_a + runs_b) / (n * m), (rest_a + rest_b) / (n * m)
    variance = items + runs - rest
    spread = items**2 / (n - 1) + (runs_a**2 + runs_b**2) / (n * m) ** 2 / (m - 1) + rest**2 / (2 * (n - 1) * (m - 1))
    half = stats.t.ppf(0.975, variance**2 / spread) * np.sqrt(variance)
    assert (got.value, got.lo, got.hi, got.n) == pytest.approx((d.mean(), d.mean() - half, d.mean() + half, n))


def test_runs_that_do_not_differ_leave_students_t_over_items():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 6, 3))
    a, b = noise - noise.mean(1, keepdims=True)  # every run has the same mean over items
    got, plain = crossed_difference(a, b), over_seeds(b.mean(1) - a.mean(1))
    assert (got.value, got.lo, got.hi) == pytest.approx((plain.value, plain.lo, plain.hi))


def test_missing_cells_leave_each_item_the_mean_of_its_runs():
    a = np.array([[1.0, 3.0], [2.0, np.nan], [4.0, 8.0]])
    b = np.array([[5.0, np.nan, 7.0], [6.0, 8.0, 4.0], [np.nan, 9.0, 9.0]])
    got = crossed_difference(a, b)
    assert got.value == pytest.approx(np.mean([6 - 2, 6 - 2, 9 - 6])) and got.lo < got.value < got.hi
    turned = crossed_difference(a[::-1, ::-1], b[::-1, [1, 2, 0]])
    assert (turned.lo, turned.hi) == pytest.approx((got.lo, got.hi)), "names of items and runs do not matter"


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ([[1.0, 2.0]], [[3.0, 4.0]], "fewer than two items"),
        ([[1.0], [2.0], [3.0]], [[3.0, 4.0], [1.0, 2.0], [0.0, 5.0]], "cannot be told apart"),
        ([[1.0, np.nan], [np.nan, 2.0]], [[3.0, 4.0], [1.0, 2.0]], "cannot be told apart"),
    ],
)
def test_where_runs_cannot_be_seen_there_is_no_interval(a, b, why):
    got = crossed_difference(a, b)
    assert np.isfinite(got.value) and np.isnan([got.lo, got.hi]).all() and why in got.method


def test_every_item_needs_a_value_in_both_arms():
    with pytest.raises(ValueError, match="same items of both arms"):
        crossed_difference([[1.0], [np.nan]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="2 and 1 items"):
        crossed_difference([[1.0], [2.0]], [[1.0]])
    assert np.isnan(crossed_difference(np.empty((0, 2)), np.empty((0, 2))).value)


def resampled(a, b, n_boot=200):
    """A bootstrap over items and, within them, runs: what one writes first."""
    rng, n = np.random.default_rng(0), len(a)
    items = rng.integers(n, size=(n_boot, n))
    sides = [np.take_along_axis(y[items], rng.integers(y.shape[1], size=(n_boot, n, y.shape[1])), 2) for y in (a, b)]
    lo, hi = np.quantile((sides[1] - sides[0]).mean((1, 2)), [0.025, 0.975])
    return Estimate(value=float((b - a).mean()), lo=float(lo), hi=float(hi), n=n, method="")


def resampled_items(y):
    return estimate("mean", lambda i: y[i].mean(-1), len(y), n_bootstrap=200, confidence=0.95, seed=0)


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("runs", [0.1, 0.4])
def test_the_interval_covers(runs, missing):
    world = World(n_items=6, n_runs=3, items=0.36, runs=(runs, runs), rest=(0.4, 0.4), missing=missing)
    found = coverage(crossed_difference, world, n_sets=1000, seed=1)
    assert 0.93 - 2 * found.error <= found.covered <= 0.97 + 2 * found.error and found.undefined < 0.01


def test_intervals_that_forget_that_items_share_the_runs_do_not_cover():
    forgetful = {
        "resampled cells": resampled,
        "resampled items": lambda a, b: resampled_items(b.mean(1) - a.mean(1)),
        "Student's t": lambda a, b: over_seeds(b.mean(1) - a.mean(1)),
    }
    covered = {name: coverage(interval, PLAUSIBLE, n_sets=300, seed=1).covered for name, interval in forgetful.items()}
    assert max(covered.values()) < 0.91, covered


def test_the_result_of_the_docs_says_that_the_interval_covers_from_six_items_and_three_runs_on():
    result = Path(__file__).parents[3] / "docs/results/dense_vs_sparse/coverage.json"
    saved = json.loads(result.read_text(encoding="utf-8"))
    rows = [row for row in saved["rows"] if row["n_tasks"] >= 6 and row["n_seeds"] >= 3 and "skew" not in row["kind"]]
    covered = [row["covered"]["tasks and seeds"] for row in rows]
    assert saved["n_sets"] >= 2000 and len(rows) == 45 and min(covered) >= 0.93 and max(covered) <= 0.97
