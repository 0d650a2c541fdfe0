"""Synthetic truth: planted effects are found and planted confounds refused."""

import numpy as np
import pytest
import torch

from sparsetrain.representation.measures import all_measures
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule, decide
from sparsetrain.stats.intervals import difference


def rng(seed=0):
    return np.random.default_rng(seed)


# Synthetic truth. Activations [window, pos, unit]; sparsity by a power on the magnitudes of a Gaussian.
SPARSER = DecisionRule(claim="farther is sparser", expected="positive", margin=0.3)


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
    assert decide(SPARSER, spearman(LEVELS, gini, seed=0)).word == "supported"
    # Gini of |g|^p by a large sample of its own.
    g = np.sort(np.abs(rng(9).standard_normal(400_000)) ** 1.4)
    true_gini = (2 * np.arange(1, 400_001) - 400_001) @ g / (400_000 * g.sum())
    got = difference(gini[LEVELS == 4], gini[LEVELS == 0], seed=0)
    # A vector of 64 units reads (1 - 1/64) of it.
    assert got.value == pytest.approx((true_gini - (np.sqrt(2) - 1)) * 63 / 64, abs=0.005)
    assert decide(DecisionRule(claim="c", expected="positive", margin=0.05), got).word == "supported"


def test_no_effect_is_said_to_be_none():
    gini = gini_per_window(activations(np.ones(len(LEVELS))))
    assert decide(SPARSER, spearman(LEVELS, gini, seed=0)).word == "not supported"


def test_norm_alone_is_no_effect():
    h = activations(np.ones(len(LEVELS))) * (1.0 + LEVELS)[:, None, None]
    energy = (h**2).sum((1, 2))
    assert decide(SPARSER, spearman(LEVELS, energy, seed=0)).word == "supported"
    assert decide(SPARSER, spearman(LEVELS, gini_per_window(h), seed=0)).word == "not supported"


def test_gain_alone_is_no_effect_before_the_gain():
    before = activations(np.ones(len(LEVELS)))
    gain = np.where(np.arange(64) < 3, 1.0 + LEVELS[:, None], 1.0)
    assert decide(SPARSER, spearman(LEVELS, gini_per_window(before * gain[:, None]), seed=0)).word == "supported"
    assert decide(SPARSER, spearman(LEVELS, gini_per_window(before), seed=0)).word == "not supported"


@pytest.mark.parametrize("confound", ["length", "position"])
def test_a_confound_misleads_the_naive_correlation_and_not_the_partial_one(confound):
    # Shifted windows tend to be longer (read later), and sparsity follows length (position), not shift.
    where = LEVELS + 2 * rng(3).standard_normal(len(LEVELS))
    gini = gini_per_window(activations(1.5 + 0.1 * where, seed=4))
    naive = spearman(LEVELS, gini, seed=0)
    controlled = spearman(LEVELS, gini, given=[where], seed=0)
    assert decide(SPARSER, naive).word == "supported"
    assert decide(SPARSER, controlled).word == "not supported"


def test_level_means_overstate():
    gini = LEVELS + 10 * rng(8).standard_normal(len(LEVELS))
    means = [gini[level == LEVELS].mean() for level in range(5)]
    assert abs(spearman(np.arange(5), means, seed=0).value) > 2 * abs(spearman(LEVELS, gini, seed=0).value)
