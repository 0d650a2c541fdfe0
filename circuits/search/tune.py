"""Hyperparameters of one search by Optuna: the authors of the source re-tuned eight of them per task and model.

Optuna is an option: `pip install sparsetrain[search]`. Trials are seeded; the first is the settings given, so that the
result is never worse than theirs.
Source: Gao et al. 2025, A.5 (there 256 runs of a Bayesian search per task and model).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from circuits.search.learn import PruneConfig

Found = TypeVar("Found")
RANGES = {
    "settle": (0.3, 1.0, False),
    "lr": (5e-3, 5e-2, True),
    "temperature": (0.2, 1.0, True),
    "tau_spread": (0.05, 0.5, False),
    "candidate_share": (0.02, 0.3, True),
    "steer": (0.01, 0.2, True),
}
"""Name -> lowest, highest (widened where the settings given lie outside), whether on a logarithmic scale. `settle` is a run's, the others are fields of `PruneConfig`. ours"""


def tuned(
    search: Callable[[PruneConfig, float], Found],
    cost: Callable[[Found], float],
    config: PruneConfig,
    n_trials: int,
    seed: int,
) -> Found:
    """The cheapest of `n_trials` searches.

    Args:
        search: (settings, settle) -> what was found.
        cost: of what was found, smaller is better.
        config: settings of the first trial, and of what is not in `RANGES`.
        n_trials: how many searches, at least 1.
        seed: of Optuna's sampler.

    Raises:
        ValueError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError(
            "circuits.find.trials needs Optuna, which is not installed: pip install 'sparsetrain[search]', or set trials=0"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    best: list[Found] = []

    first = {"settle": 0.6, **{name: float(getattr(config, name)) for name in RANGES if name != "settle"}}

    def objective(trial: Any) -> float:
        drawn = {
            name: trial.suggest_float(name, min(low, first[name]), max(high, first[name]), log=is_log)
            for name, (low, high, is_log) in RANGES.items()
        }
        settle = drawn.pop("settle")
        found = search(replace(config, **drawn), settle)
        if not best or cost(found) < cost(best[0]):
            best[:] = [found]
        return cost(found)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.enqueue_trial(first)
    study.optimize(objective, n_trials=n_trials)
    return best[0]
