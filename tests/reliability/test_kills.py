"""kill -9 at any moment: what is resumed ends in the bytes of the undisturbed training."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from small_training import N_STEPS, at_step, bigger, left, start

from sparsetrain.store import TEMPORARY
from sparsetrain.training.checkpoints import checkpoints, newest


def finish(folder: Path, **settings: Any) -> None:
    """Goes on to the end."""
    process = start(folder, **settings)
    process.join()
    assert process.exitcode == 0, (folder / "stderr").read_text()


def kill_at(folder: Path, step: int, delay: float = 0.0, **settings: Any) -> None:
    """Starts, and kills as soon as that step is logged."""
    process = start(folder, **settings)
    at_step(folder, step, process)
    process.join(delay)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(folder)
    return left(folder)


def check_killed(straight: dict[str, Any], folder: Path, steps: list[int]) -> None:
    for step in steps:
        kill_at(folder, step)
    finish(folder)
    assert left(folder) == straight
    assert not [*folder.rglob(f"*{TEMPORARY}")], "nothing is left of writing"


@pytest.mark.parametrize("step", random.Random(0).sample(range(1, N_STEPS), 3))
def test_killed_at_a_step(straight, tmp_path: Path, step: int) -> None:
    check_killed(straight, tmp_path / "run", [step])


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("step", random.Random(1).choices(range(1, N_STEPS), k=20))
def test_killed_at_twenty_steps(straight, tmp_path: Path, step: int) -> None:
    check_killed(straight, tmp_path / "run", [step])


def test_killed_five_times_in_one_run(straight, tmp_path: Path) -> None:
    check_killed(straight, tmp_path / "run", sorted(random.Random(2).sample(range(2, N_STEPS), 5)))


def check_killed_while_saving(folder: Path, n: int) -> None:
    """Kills `n` times, a random moment after a checkpoint of megabytes has begun to be written; each time the newest whole one loads."""
    rng = random.Random(3)
    n_torn, reached = 0, 0
    for _ in range(n):
        before = {*folder.rglob(f"*{TEMPORARY}")}
        process = start(folder, recipe=bigger(), every=1)
        while process.is_alive() and not {*folder.rglob(f".step_*{TEMPORARY}")} - before:
            pass
        process.join(rng.uniform(0, 0.03))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        n_torn += bool([*folder.rglob(f"*{TEMPORARY}")])
        path = newest(folder)
        assert path is not None or not reached, "what had been reached is still there"
        reached = 0 if path is None else int(path.stem.removeprefix("step_"))
        assert len(checkpoints(folder)) <= 3, "the last two, and one that was about to go"
        if reached >= N_STEPS - 2:
            for old in [*checkpoints(folder), folder / "metrics.csv"]:
                old.unlink()
            reached = 0
    assert n_torn, "no kill hit a write: the test shows nothing"


def test_killed_while_saving(tmp_path: Path) -> None:
    check_killed_while_saving(tmp_path / "run", 8)


@pytest.mark.slow
@pytest.mark.long
def test_killed_while_saving_two_hundred_times(tmp_path: Path) -> None:
    check_killed_while_saving(tmp_path / "run", 200)
