"""Jobs of a cluster that are told to requeue: they save at the end of the step, are queued again, and end in the bytes of an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import ROOT, SMOKE, Forks
from fake_slurm import JOB, Slurm, options
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import train
from sparsetrain.entry import conf_dir
from sparsetrain.entry.sweeps import Jobs, go_on_
from sparsetrain.interrupt import Interrupted, asking_to_requeue, held_back, raising
from sparsetrain.training.checkpoints import newest

WEIGHTS = "export/step_60/model.safetensors"
PATIENCE_S = 200


def overrides(cache: Path, *more: str) -> list[str]:
    return [
        *SMOKE, "circuits.tasks=[]", "ood=none", "logger=none", "trainer.n_steps=60", "trainer.n_threads=1", "callbacks.val_every=60",
        "checkpoints.every=1000", f"cache_dir={cache}", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, corpus_cache: Path, python: Forks) -> bytes:
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = python("train.py", *overrides(corpus_cache, "seed=1", f"hydra.run.dir={folder}"))
    assert done.returncode == 0, done.stderr
    return (folder / WEIGHTS).read_bytes()


def until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def trains(folder: Path) -> bool:
    """Whether the run in a folder has taken a step."""
    path = folder / "metrics.csv"
    return path.is_file() and ",train_loss," in path.read_text()


def owner(folder: Path) -> int:
    """The process that works in a folder."""
    return int((folder / ".lock").read_text().split()[1])


def check_sweep(sweep: Path, straight: bytes, log: str) -> None:
    assert "stopped by SIGUSR2; step " in log and "resuming from " in log and "Traceback" not in log
    assert (sweep / "0" / WEIGHTS).read_bytes() == straight != (sweep / "1" / WEIGHTS).read_bytes()
    assert [json.loads((sweep / "jobs" / f"{n}.json").read_text())["status"] for n in "01"] == ["done", "done"]
    assert len(list((sweep / "0" / "checkpoints").iterdir())) == 2, "the one it was stopped with, and the last"
    assert len(list((sweep / "1" / "checkpoints").iterdir())) == 1, "nobody has stopped it"


@pytest.mark.slow
def test_a_local_job_of_submitit_goes_on_where_it_was_told_to_requeue(
    straight: bytes, corpus_cache: Path, tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    command = [
        "train.py", "-m", *overrides(corpus_cache, "seed=1,2", "hydra/launcher=submitit_local", f"hydra.sweep.dir={sweep}"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    until(lambda: trains(sweep / "0") or launched.poll() is not None, "the first job trains")
    os.kill(owner(sweep / "0"), signal.SIGUSR2)
    said = launched.communicate(timeout=PATIENCE_S)[1]
    assert launched.returncode == 0, said
    check_sweep(sweep, straight, "".join(path.read_text() for path in sweep.glob(".submitit/*/*_log.err")))


@pytest.mark.slow
def test_a_sweep_as_jobs_of_slurm(straight: bytes, corpus_cache: Path, tmp_path: Path) -> None:
    """`hydra/launcher=slurm`: what submitit hands to sbatch is run, and `scontrol requeue` runs it again."""
    slurm, sweep = Slurm.install(tmp_path / "slurm"), tmp_path / "sweep"
    command = [
        "train.py",
        "-m",
        *overrides(corpus_cache, "seed=1,2", "hydra/launcher=slurm", f"hydra.sweep.dir={sweep}"),
    ]
    launched = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=slurm.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    until(
        lambda: trains(sweep / "0") or launched.poll() is not None or slurm.read(f"{JOB}_0.code"),
        "the first job trains",
    )
    assert not slurm.read(f"{JOB}_0.code"), slurm.read(f"{JOB}_0.log")
    (script,) = sweep.glob(".submitit/*/*_submission.sh")
    asked = options(script)
    assert asked["signal"] == "USR2@120" and asked["time"] == "720" and "requeue" in asked
    os.kill(owner(sweep / "0"), signal.SIGUSR2)
    said = launched.communicate(timeout=PATIENCE_S)[1]
    assert launched.returncode == 0, said
    assert slurm.read(f"{JOB}_0.calls") == f"requeue {JOB}_0\n" and not slurm.read(f"{JOB}_1.calls")
    logs = [path.read_text() for path in sweep.glob(".submitit/*/*") if path.suffix in (".err", ".out")]
    check_sweep(sweep, straight, "".join([*logs, slurm.read(f"{JOB}_0.log"), slurm.read(f"{JOB}_1.log")]))


@pytest.mark.slow
def test_the_sample_job_of_slurm_is_queued_again_and_goes_on(
    straight: bytes, corpus_cache: Path, tmp_path: Path
) -> None:
    slurm, folder = Slurm.install(tmp_path / "slurm"), tmp_path / "run"
    command = ["sbatch", "docs/slurm.sh", *overrides(corpus_cache, "seed=1", f"hydra.run.dir={folder}")]
    subprocess.run(command, cwd=ROOT, env=slurm.environment(), check=True, capture_output=True)
    until(lambda: trains(folder) or slurm.read(f"{JOB}.code"), "the job trains")
    shell = int(slurm.read(f"{JOB}.pid"))
    assert options(ROOT / "docs" / "slurm.sh")["signal"].startswith("B:USR1@"), "signals the batch shell alone"
    os.kill(shell, signal.SIGUSR1)
    until(lambda: slurm.read(f"{JOB}.code"), "the job ends")
    log = slurm.read(f"{JOB}.log")
    assert slurm.read(f"{JOB}.code") == "0" and "Traceback" not in log, log
    assert slurm.read(f"{JOB}.calls") == f"requeue {JOB}\n" and f"job {JOB} is queued again" in log
    assert "holds no checkpoint: starting from the beginning" in log and "resuming from " in log
    assert (folder / WEIGHTS).read_bytes() == straight
    assert newest(folder) == folder / "checkpoints" / "step_60.ckpt"


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[object]:
    """Job 3 of a sweep, as Hydra composes it."""
    assert train.main  # importing train.py registers the base config
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=["+experiment=quickstart", "overwrite=true", "hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}", "hydra.job.num=3", f"hydra.runtime.output_dir={tmp_path}/3"],
            return_hydra_config=True,
        )  # fmt: skip
    HydraConfig.instance().set_config(cfg)
    yield cfg
    HydraConfig.instance().cfg = None
    Jobs.launched.clear()
    Jobs.is_again = False


def test_a_job_that_finds_its_own_note_goes_on(composed, tmp_path: Path) -> None:
    jobs = Jobs()
    jobs.on_multirun_start(composed)
    jobs.on_job_start(composed)
    go_on_(composed)
    assert composed.ckpt_path is None and composed.overwrite, "a first start is left as it was asked for"
    jobs.on_job_start(composed)
    go_on_(composed)
    assert composed.ckpt_path == "last" and not composed.overwrite
    jobs.on_multirun_start(composed)
    jobs.on_job_start(composed)
    assert not Jobs.is_again, "a sweep that a person starts is a new one"


def test_a_command_that_cannot_go_on_starts_anew(composed, tmp_path: Path) -> None:
    Jobs.is_again = True
    other = OmegaConf.create({"overwrite": False})
    go_on_(other)
    assert other == {"overwrite": True}


def test_other_ranks_make_no_notes_and_ask_slurm_whether_it_is_another_start(composed, monkeypatch, tmp_path) -> None:
    jobs = Jobs()
    jobs.on_multirun_start(composed)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    jobs.on_job_start(composed)
    assert not Jobs.is_again and not (tmp_path / "jobs").exists()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    jobs.on_job_start(composed)
    assert Jobs.is_again


@pytest.mark.parametrize(
    ("environment", "signum"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "17"}, signal.SIGUSR1),
        ({"SLURM_JOB_ID": "17", "SUBMITIT_EXECUTOR": "slurm"}, signal.SIGUSR2),
        ({"SUBMITIT_EXECUTOR": "local", "SUBMITIT_PREEMPT_SIGNAL": "USR1"}, signal.SIGUSR1),
    ],
)
def test_the_signal_is_held_back_in_a_training_and_given_back_afterwards(monkeypatch, environment, signum) -> None:
    for name in ("SLURM_JOB_ID", "SUBMITIT_EXECUTOR", "SUBMITIT_PREEMPT_SIGNAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert asking_to_requeue() == signum
    if signum is None:
        return
    got: list[int] = []
    before = signal.signal(signum, lambda signum, frame: got.append(signum))
    try:
        with raising():
            with held_back() as pending:
                os.kill(os.getpid(), signum)
                assert pending.signum == signum
            with pytest.raises(Interrupted):
                os.kill(os.getpid(), signum)
        assert not got
        os.kill(os.getpid(), signum)
        assert got == [signum]
    finally:
        signal.signal(signum, before)


def test_slurms_launcher_composes_with_what_a_cluster_asks_for() -> None:
    assert train.main
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "train", overrides=["+experiment=quickstart", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"], return_hydra_config=True
        )  # fmt: skip
    launcher = cfg.hydra.launcher
    assert launcher._target_.endswith(".SlurmLauncher") and launcher.partition == "gpu"
    assert launcher.max_num_timeout > 0 and launcher.signal_delay_s == 120, "a job whose time is up is queued again"
