"""Streaming sums against the same numbers computed at once; their size; sharding over ranks."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t

from sparsetrain.representation.accumulate import UnitSums, WindowMeans
from sparsetrain.representation.measures import Magnitudes, all_measures

GENERATOR = torch.Generator().manual_seed(0)
CONFIDENCE = 0.95


def feed(metric, values, batch=4, only=lambda first: True):
    for first in range(0, len(values), batch):
        if only(first):
            part = values[first : first + batch]
            metric.update(part, ~part.isnan(), torch.arange(first, first + len(part)))
    return metric


def test_means_and_bootstrap():
    values = torch.randn(12, 3, generator=GENERATOR)
    values[:5, 1] = torch.nan
    summary = feed(WindowMeans(3, 12), values).summary(20_000, CONFIDENCE, 0)
    v = values.double().numpy()
    np.testing.assert_allclose(summary.value, np.nanmean(v, 0))
    assert summary.n.tolist() == [12, 7, 12]
    draws = np.random.default_rng(1).integers(12, size=(20_000, 12))
    lo, hi = np.quantile(v[:, 0][draws].mean(1), [0.025, 0.975])
    assert summary.lo[0] == pytest.approx(lo, abs=0.03) and summary.hi[0] == pytest.approx(hi, abs=0.03)
    assert (summary.lo < summary.value).all() and (summary.value < summary.hi).all()


def test_a_nan_that_is_defined_stays_visible():
    metric = WindowMeans(1, 2)
    metric.update(torch.tensor([[torch.nan], [1.0]]), torch.ones(2, 1, dtype=torch.bool), torch.arange(2))
    assert np.isnan(metric.summary(10, CONFIDENCE, 0).value[0])


def test_one_window_has_no_interval_and_none_no_value():
    metric = WindowMeans(2, 1)
    metric.update(torch.tensor([[2.0, 0.0]]), torch.tensor([[True, False]]), torch.tensor([0]))
    summary = metric.summary(10, CONFIDENCE, 0)
    assert summary.value[0] == 2 and np.isnan(summary.value[1]) and np.isnan([summary.lo, summary.hi]).all()
    assert summary.n.tolist() == [1, 0]


def test_batch_means_beyond_the_slots_keep_mean_and_width_of_the_interval():
    values = torch.randn(1024, 1, generator=GENERATOR)
    exact = feed(WindowMeans(1, 1024), values).summary(1000, CONFIDENCE, 0)
    slots = feed(WindowMeans(1, 64), values).summary(1000, CONFIDENCE, 0)
    assert slots.value[0] == pytest.approx(exact.value[0]) and slots.n[0] == 1024
    assert slots.hi[0] - slots.lo[0] == pytest.approx(exact.hi[0] - exact.lo[0], rel=0.35)


def test_bootstrap_interval_covers():
    covered = 0
    for seed in range(200):
        values = torch.randn(24, 1, generator=torch.Generator().manual_seed(seed))
        summary = feed(WindowMeans(1, 24), values, batch=24).summary(200, CONFIDENCE, seed)
        covered += summary.lo[0] <= 0 <= summary.hi[0]
    assert 0.87 <= covered / 200 <= 0.98


def test_lifetime_equals_the_measures_over_all_tokens():
    h = torch.randn(8, 5, 11, generator=GENERATOR).double()
    h[..., 3] = 0
    h[..., 4] = h[..., 4].clamp_min(0)
    metric = UnitSums([6, 11], 4)
    for first in (0, 4):
        metric.update(Magnitudes(h[None, first : first + 4]), 1, torch.arange(first, first + 4))
        metric.update(Magnitudes(h[None, first : first + 4, :, :6]), 0, torch.arange(first, first + 4))
    first, second = metric.summary(("treves_rolls", "kurtosis", "hoyer"), CONFIDENCE)
    flat = h.flatten(0, 1)
    for name in ("treves_rolls", "kurtosis", "hoyer"):
        assert second[f"lifetime_{name}"][0] == pytest.approx(all_measures(flat.T, (name,))[name].nanmean().item())
    assert first["dead"][0] == pytest.approx(1 / 6) and second["dead"][0] == pytest.approx(1 / 11)
    assert second["always_on"][0] == pytest.approx(9 / 11)
    # The jackknife by hand: leave out windows g, g + 4.
    deleted = [
        all_measures(h[[i for i in range(8) if i % 4 != g]].flatten(0, 1).T, ("treves_rolls",))["treves_rolls"]
        .nanmean()
        .item()
        for g in range(4)
    ]
    half = student_t.isf(0.025, 3) * np.sqrt(3 / 4 * np.sum((np.array(deleted) - np.mean(deleted)) ** 2))
    value, lo, hi = second["lifetime_treves_rolls"]
    assert (hi - value, value - lo) == pytest.approx((half, half))


def test_all_units_dead_has_no_lifetime_and_one_group_no_interval():
    metric = UnitSums([4], 1)
    metric.update(Magnitudes(torch.zeros(1, 2, 3, 4)), 0, torch.zeros(2, dtype=torch.int64))
    (numbers,) = metric.summary(("hoyer",), CONFIDENCE)
    assert numbers["dead"][0] == 1 and np.isnan(numbers["lifetime_hoyer"]).all() and np.isnan(numbers["dead"][1])


def test_ranks_add_up():
    # What a sum over ranks does: states of disjoint shards added are the states of the whole.
    values = torch.randn(16, 2, generator=GENERATOR)
    whole = feed(WindowMeans(2, 8), values)
    shards = [feed(WindowMeans(2, 8), values, only=lambda first, r=r: (first // 4) % 2 == r) for r in range(2)]
    assert whole._reductions.keys() == {"total", "count"}
    for name, reduction in whole._reductions.items():
        stacked = torch.stack([getattr(shard, name) for shard in shards])
        torch.testing.assert_close(reduction(stacked), getattr(whole, name))  # pyright: ignore[reportCallIssue]


def n_bytes(metric):
    return sum(state.numel() * state.element_size() for state in (getattr(metric, name) for name in metric._defaults))


def test_memory_does_not_grow_with_tokens():
    sizes = []
    for n_windows in (10**4 // 50, 10**6 // 50):
        means, units = WindowMeans(4, 64), UnitSums([8], 4)
        for first in range(0, n_windows, 2000):
            numbers = torch.arange(first, min(first + 2000, n_windows))
            means.update(torch.ones(len(numbers), 4), torch.ones(len(numbers), 4, dtype=torch.bool), numbers)
            units.update(Magnitudes(torch.ones(1, len(numbers), 50, 8)), 0, numbers)
        assert means.count.sum() == 4 * n_windows and units.n_tokens.sum() == 50 * n_windows
        sizes.append((n_bytes(means), n_bytes(units)))
    assert sizes[0] == sizes[1]
