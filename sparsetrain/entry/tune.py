"""`hydra/sweeper=optuna`: Optuna chooses the values of a sweep, from what the jobs before have returned (train.py: the validation loss).

1. A distribution is written as in any sweep of Hydra: `optim.lr_peak=tag(log,interval(1e-4,1e-1))`, `model.n_layer=int(interval(1,4))`,
   `sparsity.density=0.25,0.125`. What is no distribution is the same in all trials.
2. A trial is a job like any other: the launcher starts it, its folder is `<sweep>/<number of the trial>`, it notes how it ended.
   One that failed, or returned no number, is a failed trial; the study goes on.
3. The study stands in `<sweep>/study.db`. The same command with the same `hydra.sweep.dir` goes on with it: trials that were under way
   go on where they were. `<sweep>/best.json` holds the best one.
"""

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sparsetrain.job import redacted
from sparsetrain.store import write_atomic

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Minimises what the command returns.

    Args:
        n_trials: of the study, those of earlier commands included.
        n_parallel: trials that are proposed at a time, for launchers that run jobs side by side.
        seed: of the sampler (TPE).
    """

    def __init__(self, n_trials: int, n_parallel: int, seed: int) -> None:
        if n_trials < 1 or n_parallel < 1:
            raise ValueError(f"hydra.sweeper.n_trials={n_trials} and n_parallel={n_parallel} must be at least 1")
        self.n_trials, self.n_parallel, self.seed = n_trials, n_parallel, seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        try:
            import optuna
        except ImportError:
            raise ValueError("hydra/sweeper=optuna needs Optuna: pip install 'sparsetrain[search]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        overrides = self.parser.parse_overrides(arguments)
        space = {one.get_key_element(): distribution(one) for one in overrides if one.is_sweep_override()}
        fixed = [
            f"{one.get_key_element()}={one.get_value_element_as_str()}" if not one.is_delete() else str(one.input_line)
            for one in overrides
            if not one.is_sweep_override()
        ]
        if not space:
            raise ValueError(
                "hydra/sweeper=optuna has nothing to choose; give distributions, for instance optim.lr_peak=tag(log,interval(1e-4,1e-1))"
            )
        config = self.config
        assert config is not None, "setup comes first"
        folder = Path(config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(storage=f"sqlite:///{folder}/study.db", study_name="sweep", load_if_exists=True)
        # A sampler draws from its seed on: what is gone on with must not propose the same again.
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))

        def launch(trials: Sequence[Any], more: Sequence[str] = ()) -> None:
            jobs = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items()), *more] for trial in trials]
            results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
            for trial, result in zip(trials, results, strict=True):
                value = result.return_value
                if isinstance(value, float) and math.isfinite(value):
                    study.tell(trial.number, value)
                else:
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

        under_way = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        for trials in consecutive(under_way):
            launch(trials, ["ckpt_path=last" if "ckpt_path" in config else "overwrite=true"])
        while (n_left := self.n_trials - len(study.trials)) > 0:
            launch([study.ask(space) for _ in range(min(n_left, self.n_parallel))])
        done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        if done:
            best = study.best_trial
            found = {"number": best.number, "value": best.value, "overrides": best.params}
            write_atomic(folder / "best.json", json.dumps(found, indent=1) + "\n")
            log.info(redacted(f"best of {len(done)} trials: {best.value:.6g} in {folder / str(best.number)}"))


def distribution(override: Override) -> Any:
    """What Optuna draws a swept override from; values of a choice are kept as Hydra writes them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if not isinstance(value, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    assert value.start is not None and value.end is not None
    kind = IntDistribution if isinstance(value.start, int) and isinstance(value.end, int) else FloatDistribution
    return kind(value.start, value.end, log="log" in value.tags)  # pyright: ignore[reportArgumentType]


def consecutive(trials: Sequence[Any]) -> Iterator[list[Any]]:
    """Runs of trials whose numbers follow each other, which is how a launcher numbers jobs."""
    for _, group in groupby(enumerate(trials), key=lambda pair: pair[1].number - pair[0]):
        yield [trial for _, trial in group]


def register() -> None:
    """Makes the sweeper known to Hydra, which takes plugins from the package `hydra_plugins` alone: this module is one of its from here on."""
    plugins = Plugins.instance()  # has imported the package, if anything is installed in it
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    package.sparsetrain = sys.modules[__name__]  # pyright: ignore[reportAttributeAccessIssue]
    OptunaSweeper.__module__ = "hydra_plugins.sparsetrain"
    plugins.register(OptunaSweeper)
