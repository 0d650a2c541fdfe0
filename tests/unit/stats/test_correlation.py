"""Rank correlations against scipy and formulas by hand."""

import numpy as np
import pytest
from scipy import stats

from sparsetrain.stats.correlation import _ranks, mean_ranks, permutation_p, spearman


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


def test_partial_spearman_of_one_covariate_is_the_textbook_formula():
    z = rng().standard_normal(80)
    x, y = z + rng(1).standard_normal(80), z + rng(2).standard_normal(80)
    r_xy, r_xz, r_yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    want = (r_xy - r_xz * r_yz) / np.sqrt((1 - r_xz**2) * (1 - r_yz**2))
    got = spearman(x, y, given=[z], seed=0)
    assert got.value == pytest.approx(want)
    assert spearman(x, y, given=[z, np.ones(80), 2 * z], seed=0).value == pytest.approx(want)
    assert spearman(x, y, given=[], seed=0).value == pytest.approx(r_xy)


def test_partial_spearman_is_undefined_where_the_covariate_is_the_answer():
    x, y = rng().standard_normal(40), rng(1).standard_normal(40)
    assert np.isnan(spearman(x, y, given=[np.exp(x)], seed=0).value)


def test_permutation_p():
    x = np.arange(20)
    assert permutation_p(x, x, n_permutations=200, seed=0) == pytest.approx(1 / 201)
    assert permutation_p(x, rng().standard_normal(20), n_permutations=200, seed=0) > 0.05


def test_rows_are_resampled_where_items_of_a_row_belong_together():
    """Ten rows of fifty items that only differ between rows: items on their own would know the correlation far too well."""
    rng = np.random.default_rng(0)
    of_row = rng.standard_normal((2, 10, 1))
    x, y = of_row + 0.01 * rng.standard_normal((2, 10, 50))
    rows, items = spearman(x, y, seed=0), spearman(x.ravel(), y.ravel(), seed=0)
    assert rows.value == pytest.approx(items.value) and rows.n == 10 and items.n == 500
    assert rows.hi - rows.lo > 4 * (items.hi - items.lo)
    given = spearman(x, y, given=[y + 1], seed=0)
    assert np.isnan(given.value)
    with pytest.raises(ValueError, match="give one value per item"):
        spearman(x, y.T, seed=0)


def test_mean_ranks_share_ties():
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 0.0])).tolist() == [3.5, 2, 3.5, 1]
