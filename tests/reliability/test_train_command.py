"""train.py under signals, and resumed with other settings: exit codes, one line, and what stands in the folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, SMOKE

from sparsetrain.training.checkpoints import newest

WEIGHTS = "export/step_40/model.safetensors"


def command(folder: Path, cache: Path, *more: str) -> list[str]:
    return [
        "train.py", *SMOKE, "circuits=none", "ood=none", "logger=none", "trainer.n_steps=40", "trainer.n_threads=1", "callbacks.val_every=40",
        "checkpoints.every=1000", f"hydra.run.dir={folder}", f"cache_dir={cache}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, corpus_cache: Path, python) -> bytes:
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = python(*command(folder, corpus_cache))
    assert done.returncode == 0, done.stderr
    return (folder / WEIGHTS).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_it_in_order(
    straight: bytes, corpus_cache: Path, python, tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    folder = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, *command(folder, corpus_cache)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    while process.poll() is None and not (
        (folder / "metrics.csv").is_file() and ",train_loss," in (folder / "metrics.csv").read_text()
    ):
        time.sleep(0.002)
    process.send_signal(signum)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert (
        f"stopped by {signum.name}; step " in said
        and "continue with ckpt_path=last" in said
        and "Traceback" not in said
    )
    reached = newest(folder)
    assert reached is not None and not (folder / "export").exists()
    config = (folder / "config.yaml").read_bytes()
    refused = python(*command(folder, corpus_cache, "ckpt_path=last", "optim.lr_peak=0.001"))
    assert (
        refused.returncode == 1
        and "optim.lr_peak=0.012 there, 0.001 here" in refused.stderr
        and refused.stderr.count("\n") == 1
    )
    assert (folder / "config.yaml").read_bytes() == config, "a refused run leaves the folder as it is"
    done = python(*command(folder, corpus_cache, "ckpt_path=last"))
    assert done.returncode == 0 and (folder / WEIGHTS).read_bytes() == straight
