"""A run folder has one owner at a time, and holds one run.

1. `own` locks a folder for as long as this process works in it. The lock is the operating system's: it goes with the process, however that
   ends, and with what the process has forked. Who holds it stands in `.lock`.
2. `begin` decides whether a run may start in a folder that it owns: an empty one, or one whose run is gone on with or replaced.

Imports nothing of this project, so that every room may use it.
"""

import errno
import logging
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

LOCK = ".lock"
MARK = "inputs.sha256"
"""Lies in the folder of every stage of a study."""
FILES = (
    "config.yaml", "job.json", "trackers.json", "train.log", "error.log", "plan.json", "metrics.csv", "ood_sparsity.csv", "ood_examples.csv", "sparsity.csv",
    "examples.csv", "ordering.csv", "ordering.jsonl", "answers.csv", "profile.json", "budget.json", "budgets.json", "report.json", "report.md", "report.html",
)  # fmt: skip
FOLDERS = ("checkpoints", "export", "circuits", "formation", "figures", "wandb", "tensorboard")
"""With `FILES`: what a run leaves in its folder, beside the stages of a study."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_LOCKED_BYTE = 1 << 30  # of Windows' lock, which keeps others from reading what it covers


def _lock(file: int, shared: bool, wait: bool = False) -> None:
    """Takes the lock of an open file; unless it is waited for, raises OSError at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


@contextmanager
def own(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Holds a folder; it is made if it is not there.

    Where the file system knows no locks this is said, and where nothing can be written there is nothing to keep from others.

    Args:
        folder: of a run.
        shared: to read what a run has left: beside other readers, not beside one who writes.
        wait: until whoever else works in it is done.

    Raises:
        ValueError: another process, or this one, works in it; names it and the fix.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        yield
        return
    try:
        try:
            _lock(file, shared)
        except OSError as error:
            if error.errno in _BUSY:
                owner = path.read_text(errors="replace").strip() or "another process"
                if not wait:
                    raise ValueError(
                        f"{folder} is in use by {owner}; wait for it, end it, or choose another folder"
                    ) from None
                log.warning("%s: waiting for %s", folder, owner)
                _lock(file, shared, wait=True)
                if not (path.exists() and os.path.samestat(os.fstat(file), path.stat())):
                    with own(folder, shared=shared, wait=True):  # the folder went with its owner
                        yield
                    return
            elif error.errno not in _NO_LOCKS:
                raise
            else:
                log.warning("%s: the file system has no locks; see to it that no second job works there", folder)
        if not shared:
            os.ftruncate(file, 0)
            since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            os.write(file, f"pid {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
        yield
    finally:
        os.close(file)


def leftovers(folder: Path) -> list[Path]:
    """What runs have left in a folder; nothing else of what lies there."""
    stages = {
        mark.parent
        for pattern in (f"*/{MARK}", f"*/*/{MARK}")
        for mark in folder.glob(pattern)
        if not any((inside / "config.yaml").exists() for inside in mark.parents if inside != folder and inside.is_relative_to(folder))
    }  # fmt: skip
    return [path for name in (*FILES, *FOLDERS) if os.path.lexists(path := folder / name)] + sorted(stages)


def begin(folder: Path, *, is_mine: Callable[[Path], bool], go_on: bool | None, overwrite: bool) -> None:
    """Refuses a folder that holds a run, unless that is gone on with or replaced; then it is removed, and nothing else.

    Args:
        folder: owned.
        is_mine: whether a config.yaml is one of this command.
        go_on: whether to go on with what the folder holds; None: this command cannot.
        overwrite: whether to remove it.

    Raises:
        ValueError: go on and overwrite at once, a run that is in the way, or one of another command.
    """
    if go_on and overwrite:
        raise ValueError(
            "ckpt_path=last goes on with the run of a folder, overwrite=true removes it; give one of the two"
        )
    found, config = leftovers(folder), folder / "config.yaml"
    if not found:
        return
    ways = (
        "overwrite=true replaces it" if go_on is None else "ckpt_path=last goes on with it, overwrite=true replaces it"
    )
    names = ", ".join(str(path.relative_to(folder)) for path in found[:3]) + (", ..." if len(found) > 3 else "")
    if (go_on or overwrite) and config.is_file() and not is_mine(config):
        raise ValueError(
            f"{config} is of another command; its run is neither gone on with nor replaced, choose another folder"
        )
    if overwrite and not config.is_file():
        raise ValueError(
            f"{folder} holds {names} but no config.yaml: that is no run, and overwrite=true removes runs alone"
        )
    if not go_on and not overwrite:
        raise ValueError(f"{folder} holds a run already ({names}); {ways}, or choose another folder")
    if overwrite:
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for parent in {path.parent for path in found} - {folder}:
            if not any(parent.iterdir()):
                parent.rmdir()
