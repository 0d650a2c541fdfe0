"""Statistics against scipy and formulas by hand; verdicts; planted effects are found and planted confounds refused."""

import numpy as np
import pytest
import torch
from scipy import stats

from sparsetrain.representation.measures import all_measures
from sparsetrain.stats.trends import (
    Criterion,
    Estimate,
    _ranks,
    decide,
    difference,
    mixed_model,
    over_seeds,
    partial_spearman,
    permutation_p,
    sign_test,
    spearman,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_spearman_is_scipys():
    x, y = rng().integers(5, size=60), rng(1).standard_normal(60)
    got = spearman(x, x + y, seed=0)
    assert got.value == pytest.approx(stats.spearmanr(x, x + y).statistic)
    assert got.lo < got.value < got.hi and got.n == 60
    assert spearman(x, x + y, seed=0) == got and spearman(x, x + y, seed=1).lo != got.lo
    assert spearman(x, -3 * x, seed=0).value == pytest.approx(-1)
    assert np.isnan(spearman(np.ones(10), np.arange(10), seed=0).value)


def test_ranks_of_resamples_are_scipys():
    v = np.concatenate([rng().integers(4, size=20), rng(1).standard_normal(13)]).astype(float)
    i = rng(2).integers(33, size=(50, 33))
    np.testing.assert_array_equal(_ranks(v)(i), stats.rankdata(v[i], axis=-1))


def test_resamples_of_a_difference_are_drawn_in_turn():
    a, b = rng().standard_normal(9), rng(1).standard_normal(14)
    draw = np.random.default_rng(3)
    means = [a[draw.integers(9, size=9)].mean() - b[draw.integers(14, size=14)].mean() for _ in range(60)]
    got = difference(a, b, n_bootstrap=60, seed=3)
    assert (got.lo, got.hi) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-12)


def test_partial_spearman_of_one_covariate_is_the_textbook_formula():
    z = rng().standard_normal(80)
    x, y = z + rng(1).standard_normal(80), z + rng(2).standard_normal(80)
    r_xy, r_xz, r_yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    want = (r_xy - r_xz * r_yz) / np.sqrt((1 - r_xz**2) * (1 - r_yz**2))
    got = partial_spearman(x, y, [z], seed=0)
    assert got.value == pytest.approx(want)
    assert partial_spearman(x, y, [z, np.ones(80), 2 * z], seed=0).value == pytest.approx(want)
    assert partial_spearman(x, y, [], seed=0).value == pytest.approx(r_xy)


def test_partial_spearman_is_undefined_where_the_covariate_is_the_answer():
    x, y = rng().standard_normal(40), rng(1).standard_normal(40)
    assert np.isnan(partial_spearman(x, y, [np.exp(x)], seed=0).value)


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


def test_permutation_p():
    x = np.arange(20)
    assert permutation_p(x, x, n_permutations=200, seed=0) == pytest.approx(1 / 201)
    assert permutation_p(x, rng().standard_normal(20), n_permutations=200, seed=0) > 0.05


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
        lambda: Criterion(claim="c", expected="positive", margin=0),
        lambda: Criterion(claim="c", expected="positive", margin=1, n_agreeing=0),
        lambda: decide(Criterion(claim="c", expected="positive", margin=1, n_agreeing=4), estimate(1, 0, 2)),
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
    ],
)
def test_verdict(value, lo, hi, per_seed, word):
    n_agreeing = None if per_seed is None else 4
    up = Criterion(claim="c", expected="positive", margin=0.1, n_agreeing=n_agreeing)
    down = Criterion(claim="c", expected="negative", margin=0.1, n_agreeing=n_agreeing)
    assert decide(up, estimate(value, lo, hi), per_seed).verdict == word
    mirrored = None if per_seed is None else [-s for s in per_seed]
    verdict = decide(down, estimate(-value, -hi, -lo), mirrored)
    assert verdict.verdict == word and verdict.reason and "at least 0.1" in verdict.criterion


# Synthetic truth. Activations [window, pos, unit]; sparsity by a power on the magnitudes of a Gaussian.
SPARSER = Criterion(claim="farther is sparser", expected="positive", margin=0.3)
LEVELS = np.repeat(np.arange(5), 60)


def activations(power, seed=0):
    """`[n]` powers -> `[n, 8, 64]`; power 1 is Gaussian, larger is sparser."""
    g = rng(seed).standard_normal((len(power), 8, 64))
    return np.sign(g) * np.abs(g) ** np.asarray(power)[:, None, None]


def gini_per_window(h):
    return all_measures(torch.from_numpy(h), ("gini",))["gini"].mean(-1).numpy()


def test_planted_trend_is_recovered_in_order_and_size():
    gini = gini_per_window(activations(1 + 0.1 * LEVELS))
    means = [gini[level == LEVELS].mean() for level in range(5)]
    assert means == sorted(means)
    assert decide(SPARSER, spearman(LEVELS, gini, seed=0)).verdict == "supported"
    # Gini of |g|^p by a large sample of its own.
    g = np.sort(np.abs(rng(9).standard_normal(400_000)) ** 1.4)
    true_gini = (2 * np.arange(1, 400_001) - 400_001) @ g / (400_000 * g.sum())
    got = difference(gini[LEVELS == 4], gini[LEVELS == 0], seed=0)
    # A vector of 64 units reads (1 - 1/64) of it.
    assert got.value == pytest.approx((true_gini - (np.sqrt(2) - 1)) * 63 / 64, abs=0.005)
    assert decide(Criterion(claim="c", expected="positive", margin=0.05), got).verdict == "supported"


def test_no_effect_is_said_to_be_none():
    gini = gini_per_window(activations(np.ones(len(LEVELS))))
    assert decide(SPARSER, spearman(LEVELS, gini, seed=0)).verdict == "not supported"


def test_norm_alone_is_no_effect():
    h = activations(np.ones(len(LEVELS))) * (1.0 + LEVELS)[:, None, None]
    energy = (h**2).sum((1, 2))
    assert decide(SPARSER, spearman(LEVELS, energy, seed=0)).verdict == "supported"
    assert decide(SPARSER, spearman(LEVELS, gini_per_window(h), seed=0)).verdict == "not supported"


def test_gain_alone_is_no_effect_before_the_gain():
    before = activations(np.ones(len(LEVELS)))
    gain = np.where(np.arange(64) < 3, 1.0 + LEVELS[:, None], 1.0)
    assert decide(SPARSER, spearman(LEVELS, gini_per_window(before * gain[:, None]), seed=0)).verdict == "supported"
    assert decide(SPARSER, spearman(LEVELS, gini_per_window(before), seed=0)).verdict == "not supported"


@pytest.mark.parametrize("confound", ["length", "position"])
def test_a_confound_misleads_the_naive_correlation_and_not_the_partial_one(confound):
    # Shifted windows tend to be longer (read later), and sparsity follows length (position), not shift.
    where = LEVELS + 2 * rng(3).standard_normal(len(LEVELS))
    gini = gini_per_window(activations(1.5 + 0.1 * where, seed=4))
    naive = spearman(LEVELS, gini, seed=0)
    controlled = partial_spearman(LEVELS, gini, [where], seed=0)
    assert decide(SPARSER, naive).verdict == "supported"
    assert decide(SPARSER, controlled).verdict == "not supported"


def test_level_means_overstate():
    gini = LEVELS + 10 * rng(8).standard_normal(len(LEVELS))
    means = [gini[level == LEVELS].mean() for level in range(5)]
    assert abs(spearman(np.arange(5), means, seed=0).value) > 2 * abs(spearman(LEVELS, gini, seed=0).value)


def test_over_seeds_is_students():
    v = np.array([0.2, 0.5, 0.1, 0.4, 0.3])
    got = over_seeds(v)
    lo, hi = stats.t.interval(0.95, 4, loc=v.mean(), scale=stats.sem(v))
    assert (got.value, got.lo, got.hi, got.n) == pytest.approx((v.mean(), lo, hi, 5))
    assert np.isnan(over_seeds([1.0]).lo) and over_seeds([1.0]).value == 1.0
    assert np.isnan(over_seeds([1.0, np.nan, 2.0]).value)


@pytest.mark.parametrize(
    ("lo", "hi", "word"),
    [(-0.1, 0.2, "supported"), (0.5, 0.9, "not supported"), (-0.9, -0.5, "not supported"), (-0.1, 0.6, "undecided")],
)
def test_no_effect_can_be_claimed(lo, hi, word):
    criterion = Criterion(claim="none", expected="none", margin=0.4)
    estimate = Estimate(value=(lo + hi) / 2, lo=lo, hi=hi, n=5, method="")
    assert decide(criterion, estimate, [0.0] * 5).verdict == word
    nothing = Estimate(value=0.0, lo=np.nan, hi=np.nan, n=1, method="")
    assert decide(criterion, nothing).verdict == "undecided"
    with pytest.raises(ValueError, match="no sign for seeds"):
        Criterion(claim="none", expected="none", margin=0.4, n_agreeing=4)


def grouped(slope, seed, n_groups=60, size=8):
    """y = slope * x + intercept of the group + noise; x goes with the group's intercept, which confounds plain regression."""
    r = rng(seed)
    group = np.repeat(np.arange(n_groups), size)
    intercept = r.standard_normal(n_groups) * 3
    x = r.standard_normal(len(group))
    z = r.standard_normal(len(group))
    return slope * x + 0.5 * z + intercept[group] + r.standard_normal(len(group)), x, z, group


def test_mixed_model_recovers_planted_slopes():
    hits = []
    for seed in range(20):
        y, x, z, group = grouped(0.3, seed)
        found = mixed_model(y, {"x": x, "z": z}, group)
        hits.append(found["x"].lo < 0.3 < found["x"].hi)
        assert found["z"].value == pytest.approx(0.5, abs=0.2)
    assert sum(hits) >= 17  # of 20 intervals of 95%


def test_mixed_model_without_groups_that_matter_is_least_squares():
    y, x, z, group = grouped(0.3, 0, n_groups=40)
    y = y - np.array([(y - 0.3 * x - 0.5 * z)[group == g].mean() for g in range(40)])[group]
    found = mixed_model(y, {"x": x, "z": z}, group)
    design = np.stack([np.ones_like(x), x, z], -1)
    assert found["x"].value == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0][1], abs=1e-3)


def test_mixed_model_with_strong_groups_is_the_within_estimate():
    y, x, z, group = grouped(0.3, 1)
    y = y + 1000.0 * rng(9).standard_normal(60)[group]
    within = [v - np.array([v[group == g].mean() for g in range(60)])[group] for v in (y, x, z)]
    want = np.linalg.lstsq(np.stack(within[1:], -1), within[0], rcond=None)[0][0]
    assert mixed_model(y, {"x": x, "z": z}, group)["x"].value == pytest.approx(want, abs=1e-3)


def test_mixed_model_refuses_what_it_cannot_tell():
    y, x, _, group = grouped(0.3, 0)
    with pytest.raises(ValueError, match="determine each other"):
        mixed_model(y, {"x": x, "twice": 2 * x}, group)
    with pytest.raises(ValueError, match="at least two"):
        mixed_model(y, {"x": x}, np.zeros_like(group))
