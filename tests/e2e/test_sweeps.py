"""Sweeps: every job has its folder and its W&B run, whatever becomes of the others; trackers leave the training as it is."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import ROOT, SMOKE, Forks
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from wandb_files import written

import train
from circuits.run import TrainRun, train_and_read
from sparsetrain.entry import conf_dir
from sparsetrain.report.wandb_log import forget
from sparsetrain.training.checkpoints import newest
from sparsetrain.training.resume import record_of
from sparsetrain.typed import from_dict

SMALL = (*SMOKE, "circuits.tasks=[]", "ood=none", "trainer.n_threads=1")
CRASH, STOP = "optim.lr_peak=1e35", "stop_at_step=3"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B in this process as in a new one."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    forget()
    yield
    forget()


def check_sweep(folder: Path, n_jobs: int, failed: set[int], stderr: str) -> None:
    """Every job has a folder and a W&B run with its whole config; those that failed are named."""
    runs = [written(folder / str(number)) for number in range(n_jobs)]
    assert [len(found) for found in runs] == [1] * n_jobs
    assert len({run.id for (run,) in runs}) == n_jobs
    for number, (run,) in enumerate(runs):
        config = yaml.safe_load((folder / str(number) / "config.yaml").read_text())
        assert {key: value for key, value in run.config.items() if key != "_wandb"} == config and len(config) > 15
        assert run.group == folder.name and run.kind == "train" and "quickstart" in run.tags
        assert run.exit_code == int(number in failed)
        outcome = json.loads((folder / "jobs" / f"{number}.json").read_text())
        assert outcome["status"] == ("failed" if number in failed else "done")
        assert (folder / str(number) / "error.log").is_file() == (number in failed)
    assert f"{len(failed)} of {n_jobs} jobs failed" in stderr
    assert {int(number) for number in re.findall(r"^job (\d+) \(", stderr, re.MULTILINE)} == failed
    assert "Traceback" not in stderr


def test_a_sweep_with_a_crash_and_a_stop(python: Forks, corpus_cache: Path, tmp_path: Path) -> None:
    done = python(
        "train.py", "-m", *SMALL, "stop_at_step=null,3", "optim.lr_peak=0.001,1e35", f"hydra.sweep.dir={tmp_path}/sweep",
        f"cache_dir={corpus_cache}",
    )  # fmt: skip
    assert done.returncode == 1
    check_sweep(tmp_path / "sweep", 4, {1, 3}, done.stderr)
    assert [written(tmp_path / "sweep" / n)[0].name for n in "0123"] == [
        "lr_peak=0.001", "lr_peak=1e+35", "lr_peak=0.001", "lr_peak=1e+35",
    ]  # fmt: skip
    assert [(tmp_path / "sweep" / n / "report.json").is_file() for n in "0123"] == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("n_jobs", [20, 50])
def test_many_jobs_under_joblib_with_a_crash_and_a_stop(n_jobs: int, corpus_cache: Path, tmp_path: Path) -> None:
    cases = tmp_path / "conf" / "case"
    cases.mkdir(parents=True)
    for number in range(n_jobs):
        special = {7: "optim: {lr_peak: 1e+35}\n", 13: "stop_at_step: 3\n"}.get(number, "")
        (cases / f"c{number}.yaml").write_text(f"# @package _global_\nseed: {number}\n{special}")
    command = [
        "train.py", "-m", *SMALL, f"+case={','.join(f'c{n}' for n in range(n_jobs))}", f"hydra.searchpath=[file://{tmp_path}/conf]",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}/sweep", f"cache_dir={corpus_cache}",
    ]  # fmt: skip
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    check_sweep(tmp_path / "sweep", n_jobs, {7}, done.stderr)
    (line,) = re.findall(r"^job 7 .*", done.stderr, re.MULTILINE)
    assert line.startswith(f"job 7 (case=c7) in {tmp_path}/sweep/7: ")
    complete = [(tmp_path / "sweep" / str(n) / "report.json").is_file() for n in range(n_jobs)]
    assert [n for n in range(n_jobs) if not complete[n]] == [7, 13], "13 was told to stop, which is no failure"


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_job_ends_no_other_and_a_killed_one_is_named(
    corpus_cache: Path, tmp_path: Path, signum: signal.Signals
) -> None:
    sweep = tmp_path / "sweep"
    command = [
        sys.executable, "train.py", "-m", *SMALL, "seed=1,2,3", "trainer.n_steps=300", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
        f"hydra.sweep.dir={sweep}", f"cache_dir={corpus_cache}",
    ]  # fmt: skip
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    launched = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline, metrics = time.monotonic() + 120, sweep / "0" / "metrics.csv"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(int((sweep / "0" / ".lock").read_text().split()[1]), signum)
    stderr = launched.communicate(timeout=300)[1]
    assert launched.returncode == 1
    (line,) = re.findall(r"^job 0 .*", stderr, re.MULTILINE)
    if signum == signal.SIGTERM:
        assert "1 of 3 jobs failed" in stderr
        assert line.startswith(f"job 0 (seed=1) in {sweep}/0: stopped by SIGTERM; step ") and "ckpt_path=last" in line
        assert [written(sweep / n)[0].exit_code for n in "012"] == [1, 0, 0]
    else:
        assert "it was killed, for want of memory or by somebody" in line
        assert "error: a process of the sweep was killed" in stderr and "Traceback" not in stderr


def run(folder: Path, cache: Path, *overrides: str) -> bytes:
    """One small run in this process; its weights."""
    assert train.main  # importing train.py registers the base config
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[*SMALL, f"cache_dir={cache}", *overrides])
    config = from_dict(TrainRun, OmegaConf.to_container(cfg, resolve=True))
    folder.mkdir(exist_ok=True)
    train_and_read(config, folder, "test")
    weights = folder / "export" / "step_12" / "model.safetensors"
    return weights.read_bytes() if weights.is_file() else b""


def test_trackers_leave_the_training_as_it_is(fresh, corpus_cache, tmp_path, monkeypatch):
    """Switched off, offline, at another tracker, with a server that is not there, with a service that cannot start."""
    plain = run(tmp_path / "none", corpus_cache, "logger=none")
    assert plain and not (tmp_path / "none" / "wandb").exists()
    assert run(tmp_path / "offline", corpus_cache, "logger.wandb=offline") == plain
    assert run(tmp_path / "board", corpus_cache, "logger=tensorboard") == plain
    assert list((tmp_path / "board" / "tensorboard").glob("events*"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert run(tmp_path / "unreachable", corpus_cache, "logger.timeout=1") == plain
    forget()
    monkeypatch.setenv("WANDB_SILENT", "perhaps")
    assert run(tmp_path / "broken", corpus_cache) == plain
    forget()
    assert [len(written(tmp_path / name)) for name in ("none", "offline", "unreachable", "broken")] == [0, 1, 1, 0]
    assert written(tmp_path / "offline")[0].config["trainer"]["n_steps"] == 12
    assert all((tmp_path / name / "report.html").is_file() for name in ("none", "offline", "unreachable", "broken"))


def test_a_resumed_run_goes_on_at_wandb(fresh, corpus_cache, tmp_path):
    run(tmp_path / "run", corpus_cache, STOP)
    run(tmp_path / "run", corpus_cache, "ckpt_path=last")
    forget()
    first, second = written(tmp_path / "run")
    assert first.id == second.id and first.name == second.name == "quickstart"
    last = newest(tmp_path / "run")
    assert last is not None and record_of(last)["facts"]["trackers"] == {"wandb/train": first.id}
    steps = [
        [row["trainer/global_step"] for row in part.history if "trainer/global_step" in row] for part in (first, second)
    ]
    assert max(steps[0]) <= 3 < max(steps[1])


@pytest.mark.slow
def test_the_sample_sweep_runs_as_an_agent_starts_it(corpus_cache, tmp_path, monkeypatch):
    """W&B's own agent starts the command of docs/sweep.yaml, with the first value of each parameter."""
    from wandb.wandb_agent import Agent

    sweep = yaml.safe_load((ROOT / "docs" / "sweep.yaml").read_text())

    def first(parameter: dict) -> object:
        if "parameters" in parameter:
            return {name: first(inner) for name, inner in parameter["parameters"].items()}
        return parameter["values"][0] if "values" in parameter else parameter["min"]

    args = {name: {"value": first(parameter)} for name, parameter in sweep["parameters"].items()}
    (tmp_path / "wandb" / "sweep-s1").mkdir(parents=True)
    for name, value in (
        ("WANDB_SWEEP_ID", "s1"), ("WANDB_DIR", str(tmp_path)), ("WANDB_MODE", "offline"), ("WANDB_RUN_ID", "set-by-agent"),
        ("WANDB_SWEEP_PARAM_PATH", ""), ("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    agent = Agent(None, None, sweep_id="s1")
    changed = {"logger.wandb=online": "logger.wandb=offline"}
    small = [*SMALL[1:], f"hydra.run.dir={tmp_path}/run", f"cache_dir={corpus_cache}"]
    command = [changed.get(part, part) for part in sweep["command"]]
    agent._sweep_command = [*command[:-1], *small, command[-1]]
    agent._command_run({"type": "run", "run_id": "run7", "program": sweep["program"], "args": args})
    assert agent._run_processes["run7"].wait(timeout=300) == 0
    (run,) = written(tmp_path / "run")
    assert run.id == "run7" and run.exit_code == 0
    given = {name: value["value"] for name, value in args.items()}
    assert given.keys() == {"sparsity.density", "optim", "model.bigram", "seed"}
    assert (
        run.config["sparsity"]["density"] == given["sparsity.density"]
        and run.config["optim"]["lr_peak"] == given["optim"]["lr_peak"]
    )
    assert run.config["model"]["bigram"] is given["model.bigram"] and run.config["seed"] == given["seed"]
    assert any("val_loss" in row for row in run.history), "the sweep's metric is logged"


@pytest.mark.slow
def test_a_search_for_a_recipe_goes_on_where_it_was_and_ends_in_a_page(python: Forks, corpus_cache, tmp_path):
    """Two objectives of real trainings, each with a time of its own; the second command has one trial left to do."""
    same = (
        "data.d_vocab=512",
        "model.d_model=64",
        "model.d_head=16",
        "model.n_layer=1",
        "model.n_ctx=64",
        "trainer.batch_size=8",
    )
    command = [
        "train.py", "-m", "+experiment=recipe", "+debug=smoke", *same, "trainer.minutes=0.005", "trainer.progress=false", "logger=none",
        "selection.tasks=[with_as,var_if]", "selection.circuits=[with_as]", f"hydra.sweep.dir={tmp_path}/study", f"cache_dir={corpus_cache}",
    ]  # fmt: skip
    for n_trials in (1, 2):
        done = python(*command, f"hydra.sweeper.n_trials={n_trials}")
        assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"frontier: {tmp_path}/study/report.html"
    report = json.loads((tmp_path / "study" / "report.json").read_text())["frontier"]
    assert report["is_whole"] and [trial["state"] for trial in report["trials"]] == ["complete", "complete"]
    first, second = report["trials"]
    assert (first["overrides"]["abs_topk"], second["overrides"]["abs_topk"]) == ("everywhere", "none")
    assert {len(trial["rungs"]) for trial in report["trials"]} == {2}
    for trial in report["trials"]:
        of_run = json.loads((tmp_path / "study" / str(trial["number"]) / "report.json").read_text())
        numbers = [of_run["selection"][name]["value"] for name in ("capability_loss", "circuit_edges")]
        assert [value["value"] for value in trial["values"]] == numbers
        budget = of_run["training"]["budget"]
        assert budget["given"]["value"] == pytest.approx(0.3)
        assert trial["n_steps"]["value"] == max(1, int(0.3 / budget["step"]["value"]))
        assert ("heldout" in trial) == trial["on_front"]
