"""Planted slopes are recovered; limits are least squares and the within estimate."""

import numpy as np
import pytest

from sparsetrain.stats.mixed_model import mixed_model


def rng(seed=0):
    return np.random.default_rng(seed)


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
