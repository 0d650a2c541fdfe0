"""A tracker's run: started before the training, closed whatever happens, and never a reason for a run to be lost."""

import gc
import logging
import os
import signal
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_example import KINDS, example_report
from wandb_files import Written
from wandb_files import written as files

from sparsetrain.report import save_report
from sparsetrain.report.render import render
from sparsetrain.report.wandb_log import forget
from sparsetrain.training.tracking import LoggerConfig, kept_ids, send_report, tracking

NOWHERE = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
"""A key, and a server that is not there."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """W&B as in a new process on a machine that knows nothing of it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    forget()
    yield
    forget()


def block(folder: Path, mode: str = "auto", *, raising: BaseException | None = None, **more):
    """One run with one scalar."""
    folder.mkdir(exist_ok=True)
    config = LoggerConfig(wandb=mode, timeout=1)  # pyright: ignore[reportArgumentType]
    with tracking(config, folder, name="mine", kind="train", settings={"seed": 3}, **more) as trackers:
        for tracker in trackers:
            tracker.log_metrics({"loss": 0.5}, step=1)
        if raising is not None:
            raise raising
    return trackers


def written(folder: Path) -> list[Written]:
    """What the service has written once it has ended, too."""
    forget()
    return files(folder)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failed_run_ends_as_failed_and_leaves_the_next_its_own(tmp_path, error):
    for name, raised in (("a", None), ("b", error), ("c", None)):
        try:
            block(tmp_path / name, raising=raised)
        except type(error) as caught:
            assert caught is raised
    (a,), (b,), (c,) = (written(tmp_path / name) for name in "abc")
    assert len({a.id, b.id, c.id}) == 3
    assert [run.exit_code for run in (a, b, c)] == [0, 1, 0]
    assert all(run.history[0]["loss"] == 0.5 and run.history[0]["trainer/global_step"] == 1 for run in (a, b, c))


def test_config_is_what_was_composed_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "open-sesame")
    (tmp_path / "config.yaml").write_text(
        "seed: 3\ndata:\n  path: ${oc.env:MY_PASSWORD}\n  lr: 0.001\n  note: open-sesame\n  token: abc\n"
    )
    block(tmp_path)
    (run,) = written(tmp_path)
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    expected = {"path": "${oc.env:MY_PASSWORD}", "lr": 0.001, "note": "<secret>", "token": "<secret>"}
    assert config == {"seed": 3, "data": expected}
    assert "open-sesame" not in run.text and "abc" not in run.text


def test_a_key_without_a_server_goes_offline_with_one_line(tmp_path, monkeypatch, caplog, capfd):
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    block(tmp_path)
    (line,) = warnings_in(caplog)
    (run,) = written(tmp_path)
    assert line.startswith("W&B: ") and f"wandb sync {run.folder}" in line and "\n" not in line
    assert run.exit_code == 0 and run.config["seed"] == 3
    assert not list(tmp_path.glob("wandb/run-*")), "what the attempt has left"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("environment", "mode", "message"),
    [
        ({}, "online", "not logged in to W&B; `wandb login`"),
        (NOWHERE, "online", "logger.wandb=auto goes on offline"),
        ({"WANDB_API_KEY": "short"}, "online", "must have 40"),
        ({"WANDB_MODE": "onlin"}, "auto", "WANDB_MODE='onlin'; allowed: online, run, shared, offline"),
        ({"WANDB_SILENT": "perhaps"}, "offline", "logger.wandb=offline: silent: Input should be a valid boolean"),
    ],
)
def test_what_cannot_start_is_one_line_before_the_training(tmp_path, monkeypatch, environment, mode, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        block(tmp_path, mode)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("environment", "n_runs"),
    [
        ({"WANDB_API_KEY": "short"}, 1),
        ({"WANDB_SILENT": "perhaps"}, 0),
        ({"WANDB_BASE_URL": "no address", "WANDB_API_KEY": "0" * 40}, 0),
    ],
)
def test_under_auto_a_failure_is_one_warning(tmp_path, monkeypatch, caplog, environment, n_runs):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    block(tmp_path)
    assert len(warnings_in(caplog)) == 1
    assert len(written(tmp_path)) == n_runs


@pytest.mark.parametrize(("word", "n_runs"), [("dryrun", 1), ("offline", 1), ("disabled", 0), ("", 1)])
def test_words_of_wandb_are_understood(tmp_path, monkeypatch, caplog, word, n_runs):
    monkeypatch.setenv("WANDB_MODE", word)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    block(tmp_path / "run")
    assert len(written(tmp_path / "run")) == n_runs and not (tmp_path / "elsewhere").exists()
    assert not warnings_in(caplog)


def test_a_folder_that_takes_no_files_costs_the_tracker_alone(tmp_path, caplog):
    (tmp_path / "wandb").write_text("in the way")
    assert block(tmp_path) == []
    (line,) = warnings_in(caplog)
    assert "this run goes on without it" in line


def test_without_a_home_wandb_works_and_is_silent(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("HOME")
    block(tmp_path)
    assert written(tmp_path)[0].exit_code == 0 and "HOME" not in os.environ and "XDG_CACHE_HOME" not in os.environ
    assert capfd.readouterr().err == ""


def test_a_dead_service_is_one_warning_and_the_next_run_is_whole(tmp_path, caplog):
    (tmp_path / "a").mkdir()
    with tracking(LoggerConfig(), tmp_path / "a", name="mine", kind="train", settings={}) as trackers:
        children = subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
        )
        (service,) = [line.split()[0] for line in children.stdout.splitlines() if "wandb-core" in line]
        os.kill(int(service), signal.SIGKILL)
        os.waitid(os.P_PID, int(service), os.WEXITED | os.WNOWAIT)  # W&B finds it as the system left it
        for step in range(3):
            trackers[0].log_metrics({"loss": 1.0}, step=step)
        send_report(trackers, example_report(), KINDS, tmp_path / "a")
    (line,) = warnings_in(caplog)
    assert line.startswith("W&B failed (") and "are complete" in line
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        forget()
        del trackers
        gc.collect()
    assert not [one for one in said if "still running" in str(one.message)], "its end has been waited for"
    block(tmp_path / "b")
    assert written(tmp_path / "b")[0].exit_code == 0


def test_a_report_that_cannot_be_sent_is_one_warning(tmp_path, monkeypatch, caplog):
    report = example_report()
    save_report(report, tmp_path / "report.json")
    render(report, KINDS, tmp_path)

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsetrain.training.tracking.log_report", refuse)
    with tracking(LoggerConfig(), tmp_path, name="mine", kind="train", settings={}) as trackers:
        send_report(trackers, report, KINDS, tmp_path)
    (line,) = warnings_in(caplog)
    assert "No space left on device" in line
    assert written(tmp_path)[0].exit_code == 0


def test_a_resumed_run_goes_on_under_its_id(tmp_path):
    with pytest.raises(RuntimeError):
        block(tmp_path, raising=RuntimeError())
    block(tmp_path, resume=True)
    block(tmp_path)
    first, second, third = written(tmp_path)
    assert first.id == second.id != third.id
    assert kept_ids(tmp_path) == {"wandb/train": third.id}


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK"])
def test_other_processes_of_a_training_have_no_tracker(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert block(tmp_path) == [] and not (tmp_path / "wandb").exists()


def test_tensorboard_gets_scalars(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tracking(
        LoggerConfig(kind="tensorboard"), tmp_path, name="mine", kind="train", settings={"seed": 3}
    ) as trackers:
        trackers[0].log_metrics({"loss": 0.5}, step=4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(4, 0.5)]


def test_mlflow_gets_scalars_settings_and_the_report(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    warnings.simplefilter("ignore")  # of its database
    report, place = example_report(), f"sqlite:///{tmp_path / 'mlflow.db'}"
    save_report(report, tmp_path / "report.json")
    render(report, KINDS, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.chdir(tmp_path)
    for failed in (False, True):
        try:
            config = LoggerConfig(kind="mlflow")
            with tracking(config, tmp_path, name="mine", kind="train", settings={"seed": 3}, resume=failed) as trackers:
                trackers[0].log_metrics({"loss": 0.5}, step=4)
                send_report(trackers, report, KINDS, tmp_path)
                if failed:
                    raise RuntimeError
        except RuntimeError:
            pass
        client = mlflow.MlflowClient(place)
        run = client.get_run(kept_ids(tmp_path)["mlflow/train"])
        assert run.data.params["seed"] == "3" and run.data.metrics["loss"] == 0.5
        assert run.info.status == ("FAILED" if failed else "FINISHED")
        assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
            "report.json",
            "report.md",
            "report.html",
        }


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard"])
def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, kind):
    def missing(*arguments: object, **named: object) -> None:
        raise ModuleNotFoundError(f"No module named {kind!r}")

    names = {"mlflow": "MLFlowLogger", "tensorboard": "TensorBoardLogger"}
    monkeypatch.setattr(f"sparsetrain.training.tracking.{names[kind]}", missing)
    with (
        pytest.raises(ValueError, match=rf"pip install 'sparsetrain\[{kind}\]'"),
        tracking(LoggerConfig(kind=kind), tmp_path, name="mine", kind="train", settings={}),  # pyright: ignore[reportArgumentType]
    ):
        pass
