"""Tuning returns the cheapest trial, never one worse than the settings given, and is a function of its seed."""

import sys

import pytest

from circuits.search.learn import PruneConfig
from circuits.search.tune import RANGES, tuned


def trials(seed: int, n_trials: int, start: PruneConfig) -> list[tuple[PruneConfig, float]]:
    tried: list[tuple[PruneConfig, float]] = []

    def search(config: PruneConfig, settle: float) -> tuple[PruneConfig, float]:
        tried.append((config, settle))
        return config, settle

    def cost(found: tuple[PruneConfig, float]) -> float:
        return abs(found[0].lr - 1e-2) + abs(found[1] - 0.5)

    best = tuned(search, cost, start, n_trials, seed)
    assert best == min(tried, key=cost)
    return tried


def test_the_first_trial_is_the_settings_given_and_the_rest_stays_as_it_is():
    start = PruneConfig(lr=3e-2, n_steps=7)
    tried = trials(0, 12, start)
    assert len(tried) == 12 and tried[0] == (start, 0.6)
    for config, settle in tried:
        assert config.n_steps == 7
        values = {"settle": settle, **{name: getattr(config, name) for name in RANGES if name != "settle"}}
        assert all(RANGES[name][0] <= value <= RANGES[name][1] for name, value in values.items())
    assert trials(0, 12, start) == tried
    assert trials(1, 12, start) != tried


def test_without_optuna_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match=r"sparsetrain\[search\]"):
        tuned(lambda config, settle: 0.0, float, PruneConfig(), 1, 0)
