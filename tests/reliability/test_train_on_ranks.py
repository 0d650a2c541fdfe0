"""train.py on two ranks: one set of files, one report, one W&B run, one line where something is wrong; started by itself or by torchrun."""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from commands import ROOT, SMOKE

from sparsetrain.export import latest_export, load_model
from sparsetrain.training.devices import free_port

CPU = ("circuits=none", "trainer.device=cpu", "trainer.n_threads=1")


SRUN = {
    "SLURM_JOB_ID": "123", "SLURM_JOB_NAME": "large", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1",
}  # fmt: skip
"""What srun tells each of two tasks of one machine."""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )


def metrics(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [(row["step"], row["name"], float(row["value"])) for row in csv.DictReader(file)]
    found = {(step, name): value for step, name, value in rows if name not in ("tokens_per_s", "ood/seconds")}
    assert len(rows) - len(found) == sum(name in ("tokens_per_s", "ood/seconds") for _, name, _ in rows)  # none twice
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus_cache: Path) -> dict[str, Path]:
    """One device, and two of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    made = {name: folder / name for name in ("auto", "ddp", "fsdp")}
    for name, run in made.items():
        on = () if name == "auto" else (f"trainer={name}",)
        done = command("train.py", *SMOKE, *CPU, *on, f"hydra.run.dir={run}", f"cache_dir={corpus_cache}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"report: {run}/report.html"
        assert "error" not in done.stderr and "Traceback" not in done.stderr
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_two_ranks_leave_what_one_device_leaves(runs: dict[str, Path], name: str) -> None:
    """The same files, among them one W&B run; the same numbers as far as float32 goes."""

    def files(run: Path) -> list[str]:
        paths = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
        return sorted(str(path) for path in paths if path.parts[0] not in ("wandb", "error.log"))

    assert files(runs[name]) == files(runs["auto"])
    assert len(list((runs[name] / "wandb").glob("offline-run-*"))) == 1
    logged = [line for line in (runs[name] / "train.log").read_text().splitlines() if line.startswith("training")]
    assert len(logged) == 2  # began and took so long, said by one
    ours, one = metrics(runs[name]), metrics(runs["auto"])
    assert ours.keys() == one.keys()
    for key, value in one.items():
        assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True), key
    for a, b in zip(
        load_model(latest_export(runs[name])).parameters(),
        load_model(latest_export(runs["auto"])).parameters(),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_torchrun_starts_the_ranks_and_one_prepares_the_corpus(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    settings = (*SMOKE, *CPU, "logger=none", "ood=none", f"cache_dir={cache}")
    done = command(*torchrun, "train.py", *settings, "trainer=fsdp", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("report:")] == [f"report: {run}/report.html"]
    assert len(list((cache / "prepared").glob("*.json"))) == 1
    for wrong, line in (
        (
            (f"hydra.run.dir={tmp_path / 'other'}",),
            "2 processes were started together, but trainer.devices * trainer.nodes = 1",
        ),
        (("trainer=fsdp",), "processes started by torchrun or srun share one folder: give hydra.run.dir=<folder>"),
    ):
        refused = command(*torchrun, "train.py", *settings, *wrong)
        assert refused.returncode != 0 and line in refused.stderr


def together(*commands: tuple[Mapping[str, str], Sequence[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Runs commands with settings of the environment at once. If one fails the others would wait for it, so they are ended."""

    def start(settings: Mapping[str, str], arguments: Sequence[str], log: Path) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
        with log.open("w") as errors:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(number) for number in range(len(commands))]
        started = [start(*one, log) for one, log in zip(commands, logs, strict=True)]
        until = time.monotonic() + 400
        while any(process.poll() is None for process in started) and not any(process.poll() for process in started):
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        codes = [process.poll() for process in started]
        for process in started:
            process.kill()
        outputs = [process.communicate()[0] for process in started]
        errors = [log.read_text() for log in logs]
    assert codes == [0] * len(codes), [(code, error[-3000:]) for code, error in zip(codes, errors, strict=True)]
    return [
        subprocess.CompletedProcess(process.args, 0, output, error)
        for process, output, error in zip(started, outputs, errors, strict=True)
    ]


@pytest.mark.slow
def test_srun_starts_the_ranks_and_one_device_goes_on(tmp_path: Path, corpus_cache: Path) -> None:
    settings = (
        *SMOKE,
        *CPU,
        "logger=none",
        "ood=none",
        f"cache_dir={corpus_cache}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    started = ["train.py", *settings, "trainer=fsdp", "stop_at_step=6"]
    first, second = together(*(({**SRUN, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}, started) for rank in "01"))
    assert "stopped at step 6" in first.stdout and not second.stdout
    done = command("train.py", *settings, "ckpt_path=last")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"report: {tmp_path / 'run'}/report.html", (
        done.stderr
    )


@pytest.mark.slow
def test_two_machines(tmp_path: Path, corpus_cache: Path) -> None:
    """Two torchruns, each with one process, as two machines have."""
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
        f"--master-port={free_port()}",
    )
    settings = (
        *SMOKE,
        *CPU,
        "logger=none",
        "ood=none",
        f"cache_dir={corpus_cache}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    train = ("train.py", *settings, "trainer=ddp", "trainer.devices=1", "trainer.nodes=2")
    first, second = together(*(({}, [*torchrun, f"--node-rank={rank}", *train]) for rank in range(2)))
    assert first.stdout.splitlines()[-1] == f"report: {tmp_path / 'run'}/report.html" and not second.stdout


@pytest.mark.slow
def test_what_cannot_run_on_ranks_is_refused(python, tmp_path: Path, corpus_cache: Path) -> None:
    settings = (*SMOKE, *CPU, "logger=none", "trainer=ddp", f"cache_dir={corpus_cache}")
    sweep = python("train.py", "-m", *settings, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert sweep.returncode == 1
    assert "error: trainer.devices=2 in a sweep, whose jobs cannot start processes of their own" in sweep.stderr
    study = python(
        "train.py",
        "+experiment=shifts",
        "+debug=smoke",
        "logger=none",
        "trainer=ddp",
        f"hydra.run.dir={tmp_path / 'study'}",
    )
    assert study.returncode == 1 and "trainer.devices=2: a study trains on one device" in study.stderr
    for forked in ("ddp_fork", "ddp_spawn"):
        refused = python("train.py", *settings, f"trainer.strategy={forked}", f"hydra.run.dir={tmp_path / forked}")
        assert refused.returncode == 1 and "input should be 'auto', 'ddp' or 'fsdp'" in refused.stderr
        assert not (tmp_path / forked / "checkpoints").exists()
