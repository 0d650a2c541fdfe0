"""Signals that ask a process to end, as one exception: at once, or at the next point where nothing is lost.

1. `raising` (of a whole command): SIGINT and SIGTERM raise `Interrupted` wherever the program is, so that `finally` blocks run.
2. `held_back` (of a training): they only set a flag; the loop calls `Pending.check` between steps. A second signal of the same kind
   does not wait any longer.
3. The exit code is 128 + the signal's number, as a shell expects: 130 for Ctrl-C, 143 for SIGTERM.
4. One more signal asks for the same and for the job to be queued again: under SLURM SIGUSR1 (`sbatch --signal=B:USR1@120`), in a job
   of submitit the one that it handles itself.

Imports nothing of this project.
"""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked this process to end.

    Args:
        signum: the signal's number.
        left: what was left for whoever goes on, in words.
    """

    def __init__(self, signum: int, left: str = "") -> None:
        name = signal.Signals(signum).name
        super().__init__(f"stopped by {name}{f'; {left}' if left else ''}")
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + the signal's number."""
        return 128 + self.signum


def in_submitit() -> bool:
    """Whether submitit has started this process, as a job of a sweep."""
    return "SUBMITIT_EXECUTOR" in os.environ


def asking_to_requeue() -> signal.Signals | None:
    """The signal that asks to end and to be queued again; None outside clusters."""
    if in_submitit():
        return signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
    return signal.SIGUSR1 if "SLURM_JOB_ID" in os.environ else None


def asking_to_end() -> tuple[signal.Signals, ...]:
    """The signals that are understood: SIGINT, SIGTERM, and the one that asks to be queued again."""
    requeue = asking_to_requeue()
    return (signal.SIGINT, signal.SIGTERM, *(() if requeue is None else (requeue,)))


class Pending:
    """Whether a signal has come while it was held back."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signum:
            raise Interrupted(signum, "at once, as it was asked twice")
        self.signum = signum
        # No logging here: the signal may have come while the logger holds its lock.
        os.write(2, f"\n{signal.Signals(signum).name}: stopping after this step\n".encode())

    def install(self) -> None:
        """Takes the signals, whoever had them; does nothing outside the main thread, which alone may."""
        if threading.current_thread() is threading.main_thread():
            for signum in asking_to_end():
                signal.signal(signum, self)


@contextmanager
def _restored() -> Generator[None]:
    handlers = {signum: signal.getsignal(signum) for signum in asking_to_end()}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in handlers.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@contextmanager
def held_back() -> Generator[Pending]:
    """Signals that ask to end are only noted inside the block."""
    with _restored():
        pending = Pending()
        pending.install()
        yield pending


@contextmanager
def raising() -> Generator[None]:
    """Signals that ask to end raise `Interrupted` inside the block, wherever the program is."""

    def raise_now(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    with _restored():
        if threading.current_thread() is threading.main_thread():
            for signum in asking_to_end():
                signal.signal(signum, raise_now)
        yield


def requeue(run: Callable[[Sequence[str]], object] = subprocess.check_call) -> str | None:
    """Asks SLURM to queue this job again; returns the job's id, or None outside SLURM.

    Args:
        run: calls a command; raises where that fails.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None or not re.fullmatch(r"\d+(_\d+)?", job):
        return None
    run(["scontrol", "requeue", job])
    return job
