"""A folder has one owner, who leaves it however he ends; a run in it is never started over by accident."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sparsetrain import folder as folders
from sparsetrain.folder import begin, leftovers, own

HOLD = "import sys, time; from pathlib import Path; from sparsetrain.folder import own\nwith own(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def start(folder: Path, *, mine: bool = True, go_on: bool | None = False, overwrite: bool = False) -> None:
    begin(folder, is_mine=lambda path: mine, go_on=go_on, overwrite=overwrite)


def test_a_held_folder_is_refused_with_its_owner_until_it_is_left(tmp_path):
    owner = rf"pid {os.getpid()} on {socket.gethostname()} since \d+"
    with own(tmp_path / "new"):
        with pytest.raises(ValueError, match=owner) as refused, own(tmp_path / "new"):
            pass
        assert "choose another folder" in str(refused.value) and "\n" not in str(refused.value)
    with own(tmp_path / "new"):
        pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_goes_with_the_process_that_held_it(tmp_path, end):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"in use by pid {holder.pid} "), own(tmp_path):
        pass
    holder.send_signal(end)
    holder.wait()
    holder.stdout.close()
    with own(tmp_path):
        assert f"pid {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_readers_share_a_folder_and_keep_writers_out(tmp_path):
    with (
        own(tmp_path, shared=True),
        own(tmp_path, shared=True),
        pytest.raises(ValueError, match="in use"),
        own(tmp_path),
    ):
        pass
    with own(tmp_path), pytest.raises(ValueError, match="in use"), own(tmp_path, shared=True):
        pass


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(file, shared):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(folders, "_lock", refuse)
    with caplog.at_level(logging.WARNING), own(tmp_path):
        pass
    assert "no locks" in caplog.text


def test_a_folder_that_cannot_be_written_can_be_read(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(folders.os, "open", refuse)
    with own(tmp_path, shared=True):
        assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("name", ["config.yaml", "report.json", "metrics.csv", "export/step_3/model.safetensors", "a/seed_0/inputs.sha256"])  # fmt: skip
def test_a_folder_with_a_run_is_refused_as_it_is(tmp_path, name):
    before = files(fill(tmp_path, name))
    with pytest.raises(ValueError, match="holds a run already") as refused:
        start(tmp_path)
    assert "ckpt_path=last goes on with it, overwrite=true replaces it" in str(refused.value)
    with pytest.raises(ValueError, match=r"\); overwrite=true replaces it, or choose another folder"):
        start(tmp_path, go_on=None)
    assert files(tmp_path) == before


def test_what_is_no_run_is_nobodys_business(tmp_path):
    before = files(fill(tmp_path, "notes.txt", "data/rows.jsonl"))
    for overwrite in (False, True):
        start(tmp_path, overwrite=overwrite)
    assert files(tmp_path) == before


def test_overwriting_removes_the_run_and_nothing_else(tmp_path):
    kept = files(fill(tmp_path, "notes.txt", "sparse/notes.txt", "other/config.yaml", "other/a/inputs.sha256"))
    fill(
        tmp_path, "config.yaml", "report.html", "checkpoints/step_2.ckpt", "circuits/task/circuit.json", "dense/seed_0/inputs.sha256",
        "dense/seed_0/export/step_1/config.json", "sparse/seed_1/inputs.sha256", "seed_2/inputs.sha256",
    )  # fmt: skip
    start(tmp_path, overwrite=True)
    assert files(tmp_path) == kept and not (tmp_path / "dense").exists()


def test_a_link_to_a_folder_is_removed_without_what_it_leads_to(tmp_path):
    far = fill(tmp_path / "far", "weights")
    run = fill(tmp_path / "run", "config.yaml")
    (run / "checkpoints").symlink_to(far)
    start(run, overwrite=True)
    assert files(far) == {"weights": b"weights"} and not (run / "checkpoints").is_symlink()


def test_going_on_leaves_everything(tmp_path):
    before = files(fill(tmp_path, "config.yaml", "checkpoints/step_2.ckpt"))
    start(tmp_path, go_on=True)
    assert files(tmp_path) == before
    with pytest.raises(ValueError, match="one of the two"):
        start(tmp_path, go_on=True, overwrite=True)


@pytest.mark.parametrize("ways", [{"go_on": True}, {"overwrite": True}])
def test_a_run_of_another_command_is_never_touched(tmp_path, ways):
    before = files(fill(tmp_path, "config.yaml", "report.json"))
    with pytest.raises(ValueError, match="is of another command"):
        start(tmp_path, mine=False, **ways)
    assert files(tmp_path) == before


def test_folders_that_only_look_like_a_run_are_not_removed(tmp_path):
    # hydra.run.dir=. in a checkout of this project: `circuits` is the package
    before = files(fill(tmp_path, "circuits/__init__.py"))
    with pytest.raises(ValueError, match="that is no run"):
        start(tmp_path, overwrite=True)
    assert files(tmp_path) == before and leftovers(tmp_path) == [tmp_path / "circuits"]
