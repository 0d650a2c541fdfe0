"""SIGTERM and Ctrl-C at any moment: the step is finished and saved, the exit code says which it was, and the resumed run ends in the same bytes."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from small_training import N_STEPS, at_step, left, start

from sparsetrain.entry import leave
from sparsetrain.interrupt import Interrupted, held_back, raising, requeue
from sparsetrain.training.checkpoints import newest

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("straight") / "run"
    process = start(folder)
    process.join()
    return left(folder)


def check_stopped(straight: dict[str, Any], folder: Path, n: int, seed: int) -> None:
    """Stops `n` trainings once each, at a random step and a random moment in it, and resumes them."""
    rng = random.Random(seed)
    for i in range(n):
        run, signum, step = folder / str(i), rng.choice([*CODES]), rng.randrange(1, N_STEPS - 1)
        process = start(run, every=1000)
        at_step(run, step, process)
        process.join(rng.uniform(0, 0.01))
        if process.is_alive():
            os.kill(process.pid or 0, signum)
        process.join()
        reached = newest(run)
        assert reached is not None
        if process.exitcode != 0:  # the signal came before the last step was done
            assert process.exitcode == CODES[signum], (run / "stderr").read_text()
            assert (
                f"stopped by {signum.name}; step {reached.stem.removeprefix('step_')} is saved"
                in (run / "stderr").read_text()
            )
        again = start(run, every=1000)
        again.join()
        assert again.exitcode == 0 and left(run) == straight, f"{signum.name} after step {step}"


def test_stopped_at_random_moments(straight, tmp_path: Path) -> None:
    check_stopped(straight, tmp_path, 6, seed=0)


@pytest.mark.slow
@pytest.mark.long
def test_stopped_at_forty_random_moments(straight, tmp_path: Path) -> None:
    check_stopped(straight, tmp_path, 40, seed=1)


def test_a_signal_is_held_back_until_it_is_checked_and_the_second_one_is_not() -> None:
    with held_back() as pending:
        os.kill(os.getpid(), signal.SIGTERM)
        assert pending.signum == signal.SIGTERM
        with pytest.raises(Interrupted, match="asked twice"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_elsewhere_it_is_raised_at_once_and_the_handlers_return() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with raising(), pytest.raises(Interrupted, match="SIGTERM") as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143 and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({"SLURM_JOB_ID": "17"}, "17"),
        ({"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "4"}, "17_4"),
        ({"SLURM_JOB_ID": "17; rm -rf /"}, None),
        ({}, None),
    ],
)
def test_a_job_of_slurm_is_queued_again(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], job: str | None
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    called = []
    assert requeue(called.append) == job and called == ([["scontrol", "requeue", job]] if job else [])


@pytest.mark.parametrize("scontrol", [None, "#!/bin/sh\nexit 3\n"], ids=["missing", "failing"])
def test_a_job_that_cannot_be_queued_again_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scontrol: str | None
) -> None:
    if scontrol is not None:
        (tmp_path / "scontrol").write_text(scontrol)
        (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert leave(Interrupted(signal.SIGUSR1)) == 128 + signal.SIGUSR1
    assert "error: the job is not queued again (" in capsys.readouterr().err
