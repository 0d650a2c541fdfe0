"""A study of Optuna over a sweep's overrides: what is chosen, what failed, and how it goes on."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import SMOKE, Forks
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from sparsetrain.entry.tune import OptunaSweeper, consecutive, distribution

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


def sweep(folder: Path, value: Callable[[dict[str, str]], Any], *, arguments: Sequence[str] = SPACE, **settings: int):
    sweeper = OptunaSweeper(**{"n_trials": 6, "n_parallel": 1, "seed": 0, **settings})
    sweeper.config = OmegaConf.create({"ckpt_path": None, "hydra": {"sweep": {"dir": str(folder)}}})
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
