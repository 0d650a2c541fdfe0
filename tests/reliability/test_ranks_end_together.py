"""Ranks that `companions` starts end together: one line, one exit code, and nothing that waits in vain."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_training import N_STEPS, RECIPE

from sparsetrain.training.checkpoints import newest
from sparsetrain.training.devices import GRACE_S

pytestmark = pytest.mark.slow
FIXTURES = Path(__file__).parents[1] / "fixtures"


def command(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and what the first rank has said was wrong."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{FIXTURES.parents[1]}{os.pathsep}{FIXTURES}"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(FIXTURES / "two_ranks.py"), str(folder), *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stderr


def running(folder: Path) -> list[str]:
    """Processes of this folder's training that are still there."""
    return [
        cmdline
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (cmdline := _read(path)) and str(folder) in cmdline and "two_ranks.py" in cmdline
    ]


def _read(path: Path) -> str:
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_training_of_two_ranks_is_one_command(tmp_path, strategy):
    code, said = command(tmp_path, strategy)
    assert code == 0, said
    assert newest(tmp_path) == tmp_path / "checkpoints" / f"step_{N_STEPS}.ckpt"
    assert not running(tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(rows) == len(set(rows)) and sum(",train_loss," in row for row in rows) == N_STEPS


@pytest.mark.parametrize(
    ("rank", "what", "code", "line"),
    [
        ("1", "refuse", 1, "rank 1 ended with exit code 1: error: this rank has had enough"),
        ("1", "stay away", 1, "error: rank 1 ended with exit code 1: error: this rank does not come"),
        ("0", "refuse", 1, "error: this rank has had enough"),
        ("1", "crash", 1, "rank 1 ended with exit code -9: "),
        ("1", "overflow", 1, "is not finite"),
        ("1", "signal", 143, "stopped by SIGTERM; step 4 is saved"),
        ("0", "signal", 143, "stopped by SIGTERM; step 4 is saved"),
    ],
)
def test_what_ends_one_rank_ends_all(tmp_path, rank, what, code, line):
    started = time.monotonic()
    ended_with, said = command(tmp_path, "ddp", rank, what)
    assert ended_with == code, said
    assert line in said, said
    assert sum(one.startswith(("error:", "stopped")) for one in said.splitlines()) == 1, said
    assert not running(tmp_path)
    assert time.monotonic() - started < 60 + GRACE_S
    path = newest(tmp_path)
    if what != "stay away":
        assert path is not None and "state_dict" in torch.load(path, weights_only=True)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_ranks_roll_back_together(tmp_path, strategy):
    """One rank's loss is infinite: both return to the same checkpoint and leave that step's batches out."""
    code, said = command(tmp_path, strategy, "1", "overflow", "rollback")
    assert code == 0, said
    content = torch.load(tmp_path / "checkpoints" / f"step_{N_STEPS}.ckpt", weights_only=True)
    first = 3 * RECIPE.trainer.accumulate
    assert content["TokenDataModule"]["left_out"] == list(range(first, first + RECIPE.trainer.accumulate))
    assert all(tensor.isfinite().all() for tensor in content["state_dict"].values())
