"""Intervals against scipy and formulas by hand; they cover what they should."""

import numpy as np
import pytest
from scipy import stats

from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.intervals import (
    bootstrap,
    difference,
    over_items,
    over_seeds,
    paired_shares,
    percentiles,
    share,
    simultaneous,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_resamples_of_a_difference_are_drawn_in_turn():
    a, b = rng().standard_normal(9), rng(1).standard_normal(14)
    draw = np.random.default_rng(3)
    means = [a[draw.integers(9, size=9)].mean() - b[draw.integers(14, size=14)].mean() for _ in range(60)]
    got = difference(a, b, n_bootstrap=60, seed=3)
    assert (got.lo, got.hi) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-12)


def test_difference():
    a, b = rng().standard_normal(50) + 1, rng(1).standard_normal(70)
    got = difference(a, b, n_bootstrap=4000, seed=0)
    assert got.value == pytest.approx(a.mean() - b.mean())
    half = 1.96 * np.sqrt(a.var() / 50 + b.var() / 70)
    assert (got.lo, got.hi) == pytest.approx((got.value - half, got.value + half), abs=0.05)
    paired = difference(a, a - 0.5 + 0.01 * b[:50], paired=True, seed=0)
    assert paired.hi - paired.lo < 0.02 and 0.4 < paired.value < 0.6


def test_intervals_cover():
    covered = 0
    for seed in range(100):
        x, y = rng(seed).standard_normal((2, 40))
        estimate = spearman(x, y, n_bootstrap=200, seed=seed)
        covered += estimate.lo <= 0 <= estimate.hi
    assert covered >= 87


def test_over_seeds_is_students():
    v = np.array([0.2, 0.5, 0.1, 0.4, 0.3])
    got = over_seeds(v)
    lo, hi = stats.t.interval(0.95, 4, loc=v.mean(), scale=stats.sem(v))
    assert (got.value, got.lo, got.hi, got.n) == pytest.approx((v.mean(), lo, hi, 5))
    assert np.isnan(over_seeds([1.0]).lo) and over_seeds([1.0]).value == 1.0
    assert np.isnan(over_seeds([1.0, np.nan, 2.0]).value)


def test_one_bootstrap_serves_every_kind_of_resample():
    v = rng(5).standard_normal(23)

    def mean(i):
        return v[i].mean(-1)

    whole = v[np.random.default_rng(1).integers(23, size=(300, 23))].mean(-1)
    want = tuple(np.quantile(whole, [0.025, 0.975]))
    assert bootstrap(mean, 23, n_bootstrap=300, seed=1) == want
    # A generator goes on, another draw is the caller's, half of the resamples may be undefined.
    going = np.random.default_rng(1)
    assert bootstrap(mean, 23, n_bootstrap=300, seed=going) == want != bootstrap(mean, 23, n_bootstrap=300, seed=going)
    assert bootstrap(mean, 23, n_bootstrap=9, seed=0, draw=lambda g, n, b: np.zeros((b, len(n)), int)) == pytest.approx(
        (v[0], v[0])
    )
    assert np.isnan(bootstrap(mean, 23, n_bootstrap=0, seed=0)).all()
    series = np.stack([whole, np.where(whole > np.median(whole), np.nan, whole), np.full(300, np.nan)])
    lo, hi = percentiles(series, 0.1)
    assert (lo[0], hi[0]) == tuple(np.quantile(whole, [0.1, 0.9]))
    assert (lo[1], hi[1]) == tuple(np.nanquantile(series[1], [0.1, 0.9])) and np.isnan([lo[2], hi[2]]).all()


def test_over_items_is_the_mean():
    v = rng().standard_normal(40)
    got = over_items(v, seed=0)
    assert got.value == pytest.approx(v.mean()) and got.lo < got.value < got.hi
    entry = got.number("nats", seed=0)
    assert (entry.value, entry.lo, entry.n, entry.seed) == (got.value, got.lo, 40, 0)
    assert over_seeds([1.0]).number("nats").lo is None


def test_the_mean_of_few_items_has_the_interval_that_holds():
    """Two numbers close together bound nothing; over many small sets the interval has the truth in it as often as it says."""
    few = over_items([0.02, 0.03], confidence=0.99, seed=0)
    assert few.lo < 0 < few.hi and "2 items" in few.method and "99%" in few.method
    held = {n: 0 for n in (3, 8, 29)}
    for n in held:
        for seed in range(300):
            found = over_items(np.random.default_rng(seed).standard_normal(n), n_bootstrap=200, seed=seed)
            held[n] += found.lo <= 0 <= found.hi
    assert all(0.91 <= count / 300 <= 0.985 for count in held.values()), held


def test_simultaneous_intervals_hold_for_all_series_together_and_single_ones_do_not():
    """Sixty series of nothing, some of which go together: all of them inside in about 95 of 100 data sets."""
    whole = single = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((60, 80)) + rng.standard_normal(80)
        values -= rng.standard_normal(80) * 0.5
        found = simultaneous(values, n_bootstrap=400, seed=seed)
        whole += all(e.lo <= 0 <= e.hi for e in found)
        single += all(e.lo <= 0 <= e.hi for e in (over_items(v, n_bootstrap=400, seed=seed) for v in values))
    assert whole >= 88 and single < 80


def test_simultaneous_intervals_are_wider_with_more_series_and_have_no_width_without_spread():
    values = np.random.default_rng(0).standard_normal((40, 50))
    few, many = (simultaneous(v, n_bootstrap=500, seed=0)[0] for v in (values[:1], values))
    assert few.value == many.value == pytest.approx(values[0].mean()) and many.hi - many.lo > few.hi - few.lo
    constant = simultaneous(np.ones((3, 10)), n_bootstrap=100, seed=0)
    assert [(e.lo, e.value, e.hi) for e in constant] == [(1.0, 1.0, 1.0)] * 3
    with pytest.raises(ValueError, match="not finite"):
        simultaneous([[1.0, np.nan]], seed=0)


def test_paired_shares_by_hand():
    a, b = np.repeat([1, 1, 0, 0], [5, 7, 2, 6]), np.repeat([1, 0, 1, 0], [5, 7, 2, 6])
    got = paired_shares(a, b)
    centre = 5 / 22
    half = 1.959964 * np.sqrt((10 - 22 * centre**2) / 22**2)
    assert got.value == 5 / 20 and got.n == 20
    assert (got.lo, got.hi) == pytest.approx((centre - half, centre + half), abs=1e-6)
    same = paired_shares(np.ones(50), np.ones(50), confidence=0.99)
    assert same.value == 0 and same.hi == -same.lo == pytest.approx(2.575829 / 52, abs=1e-6)
    with pytest.raises(ValueError, match="items differ in number"):
        paired_shares(np.ones(3), np.ones(4))


@pytest.mark.parametrize("n", [40, 150])
def test_paired_shares_cover_where_few_items_differ(n):
    """Three in a hundred are right in one way alone, one in the other: a bootstrap often has no width there."""
    cells = rng().multinomial(1, [0.5, 0.03, 0.01, 0.46], size=(1000, n))
    hits = 0
    for one in cells:
        got = paired_shares(one[:, :2].sum(1), one[:, [0, 2]].sum(1))
        hits += got.lo <= 0.02 <= got.hi
    assert hits >= 940


def test_tries_that_cancel_leave_nothing():
    a, b = np.array([1 / 3, 2 / 3, 0.1, 1.0]), np.array([2 / 3, 1 / 3, 0.3, 0.8])
    assert float((a - b).mean()) != 0.0 == paired_shares(a, b).value


def test_share_by_hand():
    """Wilson's interval of 5 of 10: (.5 + z^2 / 20) / (1 + z^2 / 10) -+ z sqrt(.025 + z^2 / 400) / (1 + z^2 / 10)."""
    got, z = share(np.repeat([0.0, 1.0], 5)), 1.959964
    assert got.value == 0.5 and got.n == 10
    half = z * (0.025 + z * z / 400) ** 0.5 / (1 + z * z / 10)
    assert (got.lo, got.hi) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert share(np.full(10, 0.5)) == got  # right in half of its tries


@pytest.mark.parametrize(("n_right", "n"), [(0, 8), (3, 8), (8, 8), (41, 100)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_share_has_wilsons_interval(n_right, n, confidence):
    got = share([1.0] * n_right + [0.0] * (n - n_right), confidence=confidence)
    expected = stats.binomtest(n_right, n).proportion_ci(confidence_level=confidence, method="wilson")
    assert got.value == n_right / n and got.n == n
    assert (got.lo, got.hi) == pytest.approx((expected.low, expected.high), abs=1e-12)
