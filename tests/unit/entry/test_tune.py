"""A study of Optuna over a sweep's overrides: what is chosen, what failed, and how it goes on."""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import SMOKE, Forks
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from sparsetrain.entry.tune import OptunaSweeper, consecutive, distribution
from sparsetrain.job import Trials

pytest.importorskip("optuna", reason="needs the extra search")
SPACE = ["seed=3", "optim.lr_peak=tag(log,interval(1e-4,1e-1))", "sparsity.density=0.25,0.125"]


class Launcher:
    """Runs a job by calling a function of its overrides; notes what it was asked for."""

    def __init__(self, value: Callable[[dict[str, str]], Any]) -> None:
        self.value = value
        self.launched: dict[int, dict[str, str]] = {}

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        found = []
        for number, overrides in enumerate(jobs, initial_job_idx):
            self.launched[number] = dict(override.split("=") for override in overrides)
            value = self.value(self.launched[number])
            found.append(JobReturn(status=JobStatus.COMPLETED, _return_value=value))
        return found


def sweep(
    folder: Path,
    value: Callable[[dict[str, str]], Any],
    *,
    arguments: Sequence[str] = SPACE,
    debug: bool = False,
    **settings: Any,
):
    sweeper = OptunaSweeper(**{"n_trials": 6, "n_parallel": 1, "seed": 0, **settings})
    sweeper.config = OmegaConf.create({"ckpt_path": None, "debug": debug, "hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.parser = OverridesParser.create()
    sweeper.launcher = launcher = Launcher(value)  # pyright: ignore[reportAttributeAccessIssue]
    sweeper.sweep(list(arguments))
    return launcher.launched


def loss(overrides: dict[str, str]) -> float:
    return (math.log10(float(overrides["optim.lr_peak"])) + 2) ** 2 + float(overrides["sparsity.density"])


def test_trials_are_jobs_and_the_best_one_is_kept(tmp_path):
    launched = sweep(tmp_path, loss, n_parallel=4)
    assert list(launched) == [0, 1, 2, 3, 4, 5]
    for overrides in launched.values():
        assert overrides["seed"] == "3" and "ckpt_path" not in overrides
        assert 1e-4 <= float(overrides["optim.lr_peak"]) <= 1e-1 and overrides["sparsity.density"] in ("0.25", "0.125")
    best = json.loads((tmp_path / "best.json").read_text())
    values = {number: loss(overrides) for number, overrides in launched.items()}
    assert best["value"] == min(values.values()) == values[best["number"]]


def test_failed_trials_are_recorded_and_end_nothing(tmp_path):
    results = iter([math.nan, None, 2.0, 1.0])
    assert len(sweep(tmp_path, lambda overrides: next(results), n_trials=4)) == 4
    assert json.loads((tmp_path / "best.json").read_text())["number"] == 3
    assert sweep(tmp_path, loss, n_trials=4) == {}, "failed ones count"


def test_all_failed_leaves_no_best(tmp_path):
    sweep(tmp_path, lambda overrides: math.nan, n_trials=2)
    assert not (tmp_path / "best.json").exists()


def test_an_interrupted_study_goes_on_with_what_was_under_way(tmp_path):
    started: list[dict[str, str]] = []

    def stop_at_third(overrides: dict[str, str]) -> float:
        started.append(overrides)
        if len(started) == 3:
            raise KeyboardInterrupt
        return loss(overrides)

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, stop_at_third)
    launched = sweep(tmp_path, loss)
    assert list(launched) == [2, 3, 4, 5]
    assert launched[2] == {**started[2], "ckpt_path": "last"}, "the same values in the same folder"
    assert all("ckpt_path" not in launched[number] for number in (3, 4, 5))
    drawn = [one["optim.lr_peak"] for one in (*started, *(launched[n] for n in (3, 4, 5)))]
    assert len(set(drawn)) == 6, "nothing is proposed twice"


def test_the_same_seed_proposes_the_same(tmp_path):
    assert sweep(tmp_path / "a", loss) == sweep(tmp_path / "b", loss) != sweep(tmp_path / "c", loss, seed=1)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=tag(log,interval(1e-4,1e-1))", "FloatDistribution(high=0.1, log=True, low=0.0001, step=None)"),
        ("a=interval(0,1)", "FloatDistribution(high=1.0, log=False, low=0.0, step=None)"),
        ("a=int(interval(1,4))", "IntDistribution(high=4, log=False, low=1, step=1)"),
        ("a=x,'y z'", """CategoricalDistribution(choices=('x', "'y z'"))"""),
        ("a=range(1,4)", "CategoricalDistribution(choices=('1', '2', '3'))"),
    ],
)
def test_hydras_sweeps_as_distributions(override, expected):
    assert repr(distribution(OverridesParser.create().parse_override(override))) == expected


def test_what_cannot_be_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="has nothing to choose; give distributions"):
        sweep(tmp_path, loss, arguments=["seed=3"])
    with pytest.raises(ValueError, match="n_trials=0"):
        OptunaSweeper(n_trials=0, n_parallel=1, seed=0)


def test_consecutive_numbers():
    trials = [type("Trial", (), {"number": number}) for number in (1, 2, 5, 7, 8)]
    assert [[trial.number for trial in run] for run in consecutive(trials)] == [[1, 2], [5], [7, 8]]


class Run:
    """A job that leaves what a training leaves: losses at rungs in metrics.csv and, unless it gives up, a report."""

    def __init__(self, folder: Path, loss: Callable[[int], float] = lambda number: 1.0) -> None:
        self.folder, self.number, self.loss = folder, 0, loss
        self.given_up: list[int] = []

    def __call__(self, overrides: dict[str, str]) -> None:
        run, loss = self.folder / str(self.number), self.loss(self.number)
        run.mkdir(exist_ok=True)
        (run / "metrics.csv").write_text(f"step,name,value\n5,train_loss,9.0\n5,rung/0.25,{loss}\n")
        (bound,) = json.loads(overrides.get("early_stop.above", "[null]"))
        if bound is not None and loss > bound:
            self.given_up.append(self.number)
        else:
            lr = float(overrides["optim.lr_peak"])
            numbers = {
                "a": {"value": lr, "unit": "nats"},
                "b": {"value": 1 / lr, "unit": "edges"},
                "gone": {"value": None},
            }
            (run / "report.json").write_text(json.dumps({"selection": numbers}))
        self.number += 1


TWO = ("selection.a", "selection.b")


def test_several_objectives_are_read_off_the_reports_and_the_front_is_kept(tmp_path):
    sweep(tmp_path, Run(tmp_path), objectives=TWO)
    found = Trials.load(tmp_path)
    assert found.objectives == TWO and found.is_whole and [trial.number for trial in found.trials] == [*range(6)]
    assert all(
        t.state == "complete" and t.values == (float(t.overrides["optim.lr_peak"]), 1 / t.values[0])
        for t in found.trials
    )
    front = json.loads((tmp_path / "best.json").read_text())
    assert {one["number"] for one in front} == {*range(6)}, "none beats another"
    assert front[0]["values"]["selection.a"] == min(trial.values[0] for trial in found.trials)
    with pytest.raises(ValueError, match="holds a study of 2 objectives"):
        sweep(tmp_path, loss)


@pytest.mark.parametrize(
    ("place", "reason"), [("selection.c", "'c' is missing; there are a, b, gone"), ("selection.gone", "")]
)
def test_a_report_without_the_number_is_a_failed_trial(tmp_path, caplog, place, reason):
    sweep(tmp_path, Run(tmp_path), objectives=[place], n_trials=1)
    (trial,) = Trials.load(tmp_path).trials
    assert trial.state == "fail" and trial.values is None and reason in caplog.text


def test_the_command_line_has_the_last_word_over_params(tmp_path):
    params = {"optim.lr_peak": "tag(log,interval(1e-3,1e-2))", "sparsity.density": "0.5,0.25", "seed": 7}
    launched = sweep(tmp_path, loss, arguments=["sparsity.density=0.125"], params=params, n_trials=2)
    assert all(one["sparsity.density"] == "0.125" and one["seed"] == "7" for one in launched.values())
    assert all(1e-3 <= float(one["optim.lr_peak"]) <= 1e-2 for one in launched.values())


def test_what_is_to_come_first_does_and_only_once(tmp_path):
    first = [{"optim.lr_peak": 0.02, "sparsity.density": 0.125}, {"optim.lr_peak": 0.03}]
    launched = sweep(tmp_path, loss, first=first, n_trials=3)
    assert [one["optim.lr_peak"] for one in launched.values()][:2] == ["0.02", "0.03"] and launched[0][
        "sparsity.density"
    ] == "0.125"
    again = sweep(tmp_path, loss, first=first, n_trials=4)
    assert list(again) == [3] and again[3]["optim.lr_peak"] not in ("0.02", "0.03")


@pytest.mark.parametrize(("values", "said"), [({"optim.lr": 1}, "optim.lr, which is no param; there are optim.lr_peak"), ({"optim.lr_peak": 9}, "optim.lr_peak=9, which is not of"), ({"sparsity.density": 0.3}, "sparsity.density=0.3, which is not of")])  # fmt: skip
def test_a_first_trial_that_cannot_be_is_one_line(tmp_path, values, said):
    with pytest.raises(ValueError, match=re.escape(f"hydra.sweeper.first has {said}")):
        sweep(tmp_path, loss, first=[values])


def test_a_smoke_run_tries_three(tmp_path):
    assert len(sweep(tmp_path, loss, debug=True)) == 3


RUNGS = {"objectives": TWO, "rungs": [0.25], "n_startup": 2, "slack": 0.1}


def test_a_trial_that_is_behind_the_front_is_given_up(tmp_path):
    run = Run(tmp_path, lambda number: [1.0, 2.0, 2.1, 2.3, 1.5][number])
    launched = sweep(tmp_path, run, n_trials=5, **RUNGS)
    above = [one["early_stop.above"] for one in launched.values()]
    assert above == ["[null]", "[null]", "[2.2]", "[2.31]", "[2.53]"], (
        "a tenth above the worst of the front, once two have finished"
    )
    assert run.given_up == [] and {one["early_stop.rungs"] for one in launched.values()} == {"[0.25]"}
    run = Run(tmp_path / "b", lambda number: [1.0, 2.0, 2.3, 1.5][number])
    sweep(tmp_path / "b", run, n_trials=4, **RUNGS)
    assert run.given_up == [2]
    assert [trial.state for trial in Trials.load(tmp_path / "b").trials] == [
        "complete",
        "complete",
        "pruned",
        "complete",
    ]
    assert Trials.load(tmp_path / "b").trials[2].rungs == {"0.25": 2.3}


def test_a_trial_that_had_been_given_up_before_it_was_told_is_not_run_again(tmp_path):
    class Cut(Run):
        def __call__(self, overrides: dict[str, str]) -> None:
            super().__call__(overrides)
            if self.number == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, Cut(tmp_path, lambda number: [1.0, 1.0, 9.0][number]), n_trials=3, **RUNGS)
    assert sweep(tmp_path, Run(tmp_path), n_trials=3, **RUNGS) == {}
    assert Trials.load(tmp_path).trials[2].state == "pruned"


def test_a_trial_goes_on_under_the_bounds_that_it_was_begun_with(tmp_path):
    class Cut(Run):
        def __call__(self, overrides: dict[str, str]) -> None:
            if self.number == 2:
                raise KeyboardInterrupt
            super().__call__(overrides)

    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, Cut(tmp_path), n_trials=3, **RUNGS)
    after = Run(tmp_path)
    after.number = 2
    launched = sweep(tmp_path, after, n_trials=3, **{**RUNGS, "slack": 5.0})
    assert launched[2]["early_stop.above"] == "[1.1]" and launched[2]["ckpt_path"] == "last"


@pytest.mark.slow
def test_a_study_of_trainings(python: Forks, corpus_cache: Path, tmp_path: Path):
    command = [
        "train.py", "-m", *SMOKE, "circuits.tasks=[]", "ood=none", "logger=none", "trainer.n_threads=1", "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2", "optim.lr_peak=tag(log,interval(1e-3,1e-1))", f"hydra.sweep.dir={tmp_path}", f"cache_dir={corpus_cache}",
    ]  # fmt: skip
    done = python(*command)
    assert done.returncode == 0, done.stderr
    best = json.loads((tmp_path / "best.json").read_text())
    assert all((tmp_path / number / "report.json").is_file() for number in "01")
    assert (
        best["value"] > 0 and f"{best['value']:.3f}"[:4] in (tmp_path / str(best["number"]) / "report.md").read_text()
    )
