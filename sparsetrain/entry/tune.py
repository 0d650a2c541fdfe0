"""`hydra/sweeper=optuna`: Optuna chooses the values of a sweep, from what the jobs before have reached.

1. A distribution is written as in any sweep of Hydra: `optim.lr_peak=tag(log,interval(1e-4,1e-1))`, `model.n_layer=int(interval(1,4))`,
   `sparsity.density=0.25,0.125`; or in `hydra.sweeper.params`, where the command line has the last word. What is no distribution is the
   same in all trials.
2. A trial is a job like any other: the launcher starts it, its folder is `<sweep>/<number of the trial>`, it notes how it ended.
   What is minimised is what the command returns (train.py: the validation loss), or the numbers of its report.json that
   `hydra.sweeper.objectives` names. A trial without them is a failed one; the study goes on.
3. With `hydra.sweeper.rungs` a trial is given up where its validation loss is behind: once `n_startup` trials have finished, the bound at
   a rung is the highest loss there of those on the front (with one objective: the best one's), and `slack` more. The bounds are part of
   the job's overrides, so it needs nobody to tell it, under any launcher.
4. The study stands in `<sweep>/study.db`. The same command with the same `hydra.sweep.dir` goes on with it: trials that were under way
   go on where they were. `<sweep>/trials.json` holds all trials, `<sweep>/best.json` the best one, or those on the front.
"""

import csv
import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sparsetrain.job import RETURNED, Trial, Trials, TrialState, redacted
from sparsetrain.store import write_atomic
from sparsetrain.typed import entry_at

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger(__name__)

STATES: Mapping[str, TrialState] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "fail", "RUNNING": "running"}
"""Optuna's names of what becomes of a trial that has been begun."""
N_DEBUG = 3  # ours: trials of a smoke run


class OptunaSweeper(Sweeper):
    """Minimises one number of a command, or several at once.

    Args:
        n_trials: of the study, those of earlier commands included; of a smoke run (`debug`) three at most.
        n_parallel: trials that are proposed at a time, for launchers that run jobs side by side.
        seed: of the sampler (TPE).
        objectives: places of numbers in a job's report.json, as `training.val_loss.mixed`; none: what the command returns.
        params: override -> distribution, as on the command line.
        first: values of params that are tried before any others; those that an entry leaves out are drawn.
        rungs: shares of the steps at which a trial may be given up; none: all go to their end.
        metric: the validation loss that is looked at there, a name of metrics.csv.
        n_startup: trials that must have finished before any is given up.
        slack: share by which the loss at a rung may be higher than the bound.
    """

    def __init__(
        self,
        n_trials: int,
        n_parallel: int,
        seed: int,
        objectives: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
        first: Sequence[Mapping[str, Any]] = (),
        rungs: Sequence[float] = (),
        metric: str = "val_loss",
        n_startup: int = 8,
        slack: float = 0.03,
    ) -> None:
        if n_trials < 1 or n_parallel < 1:
            raise ValueError(f"hydra.sweeper.n_trials={n_trials} and n_parallel={n_parallel} must be at least 1")
        if n_startup < 1 or slack < 0:
            raise ValueError(f"hydra.sweeper.n_startup={n_startup} must be at least 1, and slack={slack} at least 0")
        self.n_trials, self.n_parallel, self.seed = n_trials, n_parallel, seed
        self.objectives, self.params, self.first = list(objectives), dict(params or {}), list(first)
        self.rungs, self.metric, self.n_startup, self.slack = list(rungs), metric, n_startup, slack

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
        space, fixed = self._space(arguments)
        config = self.config
        assert config is not None, "setup comes first"
        self.folder = Path(config.hydra.sweep.dir).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        study = optuna.create_study(
            storage=f"sqlite:///{self.folder}/study.db",
            study_name="sweep",
            directions=[optuna.study.StudyDirection.MINIMIZE] * max(1, len(self.objectives)),
            load_if_exists=True,
        )
        if len(study.directions) != max(1, len(self.objectives)):
            raise ValueError(
                f"hydra.sweep.dir={self.folder} holds a study of {len(study.directions)} objectives, and hydra.sweeper.objectives names "
                f"{len(self.objectives)}; use another hydra.sweep.dir"
            )
        # A sampler draws from its seed on: what is gone on with must not propose the same again.
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials))
        if not study.trials:
            for values in self.first:
                fixed_here = self.params.keys() - space.keys()  # by the command line
                drawn = {key: value for key, value in values.items() if key not in fixed_here}
                study.enqueue_trial({key: known(key, value, space) for key, value in drawn.items()})
        states = optuna.trial.TrialState

        def launch(trials: Sequence[Any], more: Sequence[str] = ()) -> None:
            jobs = [
                [*fixed, *(f"{key}={value}" for key, value in trial.params.items()), *self._stop(trial), *more]
                for trial in trials
            ]
            results = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
            for trial, result in zip(trials, results, strict=True):
                self._tell(study, trial, result.return_value)
            self._write(study)

        def propose(n: int) -> list[Any]:
            trials = [study.ask(space) for _ in range(n)]
            for trial in trials:
                trial.set_user_attr("bounds", self._bounds(study))
            return trials

        under_way = study.get_trials(states=(states.RUNNING,))
        ended = {trial.number for trial in under_way if self._given_up(trial)}  # before it could be told
        for trial in under_way:
            if trial.number in ended:
                self._tell(study, trial, None)
        for trials in consecutive([trial for trial in under_way if trial.number not in ended]):
            launch(trials, ["ckpt_path=last" if "ckpt_path" in config else "overwrite=true"])
        n_trials = min(self.n_trials, N_DEBUG) if config.get("debug") else self.n_trials
        while (n_left := n_trials - sum(trial.state != states.WAITING for trial in study.trials)) > 0:
            launch(propose(min(n_left, self.n_parallel)))
        self._write(study, is_whole=True)

    def _space(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Override -> distribution, and what is the same in all trials."""
        typed = self.parser.parse_overrides(list(arguments))
        named = {one.get_key_element().lstrip("+") for one in typed}
        own = [f"{key}={value}" for key, value in self.params.items() if key.lstrip("+") not in named]
        overrides = [*typed, *self.parser.parse_overrides(own)]
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
        return space, fixed

    def _tell(self, study: "Study", trial: Any, returned: Any) -> None:
        from optuna.trial import TrialState as Ended

        found = self._reported(trial.number) if self.objectives else [returned]
        values = [value for value in found if isinstance(value, float) and math.isfinite(value)]
        if self._given_up(trial):
            study.tell(trial.number, state=Ended.PRUNED)
        elif len(values) == len(found):
            study.tell(trial.number, values)
        else:
            study.tell(trial.number, state=Ended.FAIL)

    def _reported(self, number: int) -> list[float | None]:
        """The objectives of a trial; None where its report lacks one."""
        path = self.folder / str(number) / "report.json"
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            return [number_at(report, place) for place in self.objectives]
        except (OSError, ValueError) as error:
            log.warning("trial %d: %s: %s", number, path, error)
            return [None] * len(self.objectives)

    def _rungs(self, number: int) -> dict[str, float]:
        """Share of the steps -> validation loss, as a trial has logged them."""
        path = self.folder / str(number) / "metrics.csv"
        rows = csv.reader(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
        return {name.removeprefix("rung/"): float(value) for _, name, value in rows if name.startswith("rung/")}

    def _bounds(self, study: "Study") -> dict[str, float | None]:
        """Share of the steps -> validation loss above which the next trial is given up; None: no bound yet."""
        front = study.best_trials if n_complete(study) >= self.n_startup else []
        bounds: dict[str, float | None] = {}
        for rung in (f"{rung:g}" for rung in self.rungs):
            highest = max((self._rungs(trial.number).get(rung, math.inf) for trial in front), default=math.inf)
            bounds[rung] = round(highest * (1 + self.slack), 6) if math.isfinite(highest) else None
        return bounds

    def _stop(self, trial: Any) -> list[str]:
        """The overrides by which a trial knows its bounds."""
        bounds: dict[str, float | None] = trial.user_attrs.get("bounds", {})  # none: it was cut off before it had any
        if not bounds:
            return []
        above = ",".join("null" if bound is None else str(bound) for bound in bounds.values())
        return [
            f"early_stop.rungs=[{','.join(bounds)}]",
            f"early_stop.above=[{above}]",
            f"early_stop.metric={self.metric}",
        ]

    def _given_up(self, trial: Any) -> bool:
        """Whether a trial was above its bound at one of its rungs."""
        losses = self._rungs(trial.number)
        bounds = {rung: bound for rung, bound in trial.user_attrs.get("bounds", {}).items() if bound is not None}
        return any(rung in losses and not losses[rung] <= bound for rung, bound in bounds.items())

    def _write(self, study: "Study", *, is_whole: bool = False) -> None:
        """trials.json, and best.json once a trial has finished."""
        names = tuple(self.objectives or [RETURNED])
        trials = [
            Trial(
                number=trial.number,
                state=STATES[trial.state.name],
                overrides={key: redacted(str(value)) for key, value in trial.params.items()},
                values=None if trial.values is None else tuple(trial.values),
                rungs=self._rungs(trial.number),
            )
            for trial in study.trials
            if trial.state.name in STATES
        ]
        Trials(objectives=names, is_whole=is_whole, trials=tuple(trials)).save(self.folder)
        if not n_complete(study):
            return
        best = sorted(study.best_trials, key=lambda trial: trial.values)
        found = [{"number": one.number, "values": dict(zip(names, one.values, strict=True)), "overrides": one.params} for one in best]  # fmt: skip
        if len(names) == 1:
            found = {"number": best[0].number, "value": best[0].value, "overrides": best[0].params}
        write_atomic(self.folder / "best.json", json.dumps(found, indent=1) + "\n")
        if is_whole:
            places = "; ".join(
                f"{', '.join(f'{v:.6g}' for v in one.values)} in {self.folder / str(one.number)}" for one in best
            )
            log.info(redacted(f"best of {n_complete(study)} trials: {places}"))


def n_complete(study: "Study") -> int:
    """Trials that have reached their end."""
    return sum(trial.state.name == "COMPLETE" for trial in study.trials)


def number_at(report: Any, place: str) -> float | None:
    """A number of a report.json by its dotted place; None where it is not known.

    Raises:
        ValueError: there is no such place.
    """
    found = entry_at(report, place)
    value = found.get("value") if isinstance(found, Mapping) else found
    return float(value) if isinstance(value, int | float) else None


def known(key: str, value: Any, space: Mapping[str, Any]) -> Any:
    """A value of `hydra.sweeper.first` as its distribution has it.

    Raises:
        ValueError: it has none, or the value is not one of its.
    """
    from optuna.distributions import CategoricalDistribution

    if key not in space:
        raise ValueError(f"hydra.sweeper.first has {key}, which is no param; there are {', '.join(space)}")
    found = space[key]
    if isinstance(found, CategoricalDistribution):
        fitting = [choice for choice in found.choices if choice == str(value)]
    else:
        fitting = [value] if found.low <= value <= found.high else []
    if not fitting:
        raise ValueError(f"hydra.sweeper.first has {key}={value}, which is not of {found}")
    return fitting[0]


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
