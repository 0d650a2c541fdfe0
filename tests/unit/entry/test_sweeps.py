"""Which overrides vary among the jobs of a sweep, and how jobs note how they ended."""

import json
import math
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from sparsetrain.entry.sweeps import Jobs, unfinished, varying


@pytest.mark.parametrize(
    ("arguments", "overrides", "expected"),
    [
        (["-m", "+experiment=a", "seed=1,2"], ["+experiment=a", "seed=1"], ("seed=1",)),
        (["-m", "+experiment=a,b", "seed=1"], ["+experiment=b", "seed=1"], ("+experiment=b",)),
        (["-m", "x=[1, 2]", "y='a b'", "z=range(3)"], ["x=[1,2]", "y='a b'", "z=2"], ("z=2",)),
        (["-m", "seed=1"], ["seed=1", "lr=0.1"], ("lr=0.1",)),  # from hydra.sweeper.params
        (["-m", "~ood", "flag=true"], ["~ood", "flag=true"], ()),
    ],
)
def test_varying_overrides(arguments, overrides, expected):
    assert varying(arguments, overrides) == expected


def config_of(folder: Path, number: int) -> OmegaConf:
    hydra = {
        "mode": RunMode.MULTIRUN,
        "sweep": {"dir": str(folder)},
        "job": {"num": number},
        "runtime": {"output_dir": str(folder / str(number))},
        "overrides": {"task": ["seed=1,2,3"] if number < 0 else [f"seed={number}"]},
    }
    return OmegaConf.create({"hydra": hydra})  # pyright: ignore[reportReturnType]


def ended(status: JobStatus, value: object) -> JobReturn:
    return JobReturn(status=status, _return_value=value)


def test_failed_and_killed_jobs_are_named_and_end_no_sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Jobs, "launched", [])
    sweep = tmp_path / "sweep"
    (sweep / "jobs").mkdir(parents=True)
    (sweep / "jobs" / "7.json").write_text("of an earlier sweep in this folder")
    (sweep / "multirun.yaml").write_text("hydra:\n  overrides:\n    task:\n    - token=abc\n    - seed=1,2\n")
    jobs = Jobs()
    jobs.on_multirun_start(config_of(sweep, -1))
    good, bad = ended(JobStatus.COMPLETED, 0.5), ended(JobStatus.FAILED, ValueError("loss diverged, token=abc"))
    for number in range(3):
        jobs.on_job_start(config_of(sweep, number))
    jobs.on_job_end(config_of(sweep, 0), good)
    jobs.on_job_end(config_of(sweep, 1), bad)  # job 2 is killed
    assert good.return_value == 0.5 and math.isnan(bad.return_value)
    assert list(unfinished()) == [
        "2 of 3 jobs failed",
        "job 1 (seed=1) in sweep/1: loss diverged, token=<secret>",
        "job 2 (seed=2) in sweep/2: ended without a word; it was killed, for want of memory or by somebody",
    ]
    assert list(unfinished()) == [], "said once"
    assert json.loads((sweep / "jobs" / "0.json").read_text())["status"] == "done"
    assert "abc" not in (sweep / "multirun.yaml").read_text() and "seed=1,2" in (sweep / "multirun.yaml").read_text()


def test_a_sweep_without_failures_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Jobs, "launched", [])
    jobs = Jobs()
    jobs.on_multirun_start(config_of(tmp_path, -1))
    jobs.on_job_start(config_of(tmp_path, 0))
    jobs.on_job_end(config_of(tmp_path, 0), ended(JobStatus.COMPLETED, 1.0))
    assert list(unfinished()) == []
