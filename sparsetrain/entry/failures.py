"""How a command ends that fails: one line on stderr, and a record of it where there is a run folder; and streams that outlast their reader."""

import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import TextIO

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from sparsetrain.entry.arguments import quoted_form
from sparsetrain.job import redacted
from sparsetrain.store import write_atomic
from sparsetrain.typed import one_line, unknown_key

RECORD = "error.log"
"""In a run folder: the line with which its last job failed, then the traceback."""


class JobError(Exception):
    """A job failed, and its line has been recorded: what one process tells another."""


NO_FILE = re.compile(
    r"Could not find '([^']*)/([^'/]*)'\s+Available options in '[^']*':\s(.*?)\s+Config search path", re.DOTALL
)
"""What Hydra says of a file that a group has not: group, file, those that it has."""
USER_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    HydraException,
    OmegaConfBaseException,
    JobError,
    BrokenExecutor,
)
"""What a user's input or machine can cause, beside KeyErrors that say something. Anything else is a bug, and the line says so."""


NO_MEMORY = ("can't allocate memory", "Storage size calculation overflowed")
"""What torch says where a tensor is larger than the memory, or than any."""


def explain(error: BaseException, known: Sequence[str]) -> str:
    """One line for a user's mistake; `known` are the config's keys."""
    text = str(error)
    if isinstance(error, OverrideParseException) and re.fullmatch(r"[\w./-]+", error.override):
        return f"cannot read {error.override!r}: keys are set by key=value, files chosen by group=name, as +experiment=quickstart"
    if isinstance(error, OverrideParseException):
        said = text.splitlines()[0].rstrip(".")
        return (
            f"cannot read {error.override!r} ({said}); if its value is text, write it as {quoted_form(error.override)}"
        )
    if isinstance(error, BrokenExecutor):
        return (
            "a process of the sweep was killed, usually for want of memory, and the jobs that ran or waited went with it; the same "
            "command with hydra.sweep.dir=<its folder> ckpt_path=last goes on with all of them, hydra.launcher.n_jobs=<fewer> needs less"
        )
    if group := NO_FILE.search(text):
        folder, name, names = group[1], group[2], group[3].split()
        near = get_close_matches(name, names, n=3)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        return f"no file {name!r} in group {folder!r}; {meant}allowed: {', '.join(names)}"
    if isinstance(error, FileExistsError) and error.filename and os.path.isfile(error.filename):
        return f"{error.filename} is a file, where a folder is to be made; give another name"
    for part in re.findall(r"Could not override '([^']+)'", text):
        if "No match in the defaults list" not in text:
            return unknown_key(part.lstrip("+~"), list(known))
    if is_hydras(error) and not isinstance(error, USER_ERRORS):
        return (
            f"cannot read the command line ({one_line(error)}): keys are set by key=value, files chosen by group=name"
        )
    return one_line(error)


def is_expected(error: BaseException) -> bool:
    """Whether a user's input or machine is the cause; a KeyError of one word is a look-up that failed."""
    return isinstance(error, USER_ERRORS) or (isinstance(error, KeyError) and " " in str(error)) or is_hydras(error)


def is_hydras(error: BaseException) -> bool:
    """Whether Hydra itself stumbled, over what was typed: no error of its own, but raised in its own code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals.get("__name__", "").split(".")[0] == "hydra"


def is_want_of_memory(error: BaseException) -> bool:
    """Whether a tensor or an object was too large; torch raises plain RuntimeErrors on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def escaped(char: str) -> str:
    """A character as it is, one that ends a line as its escape."""
    return char.encode("unicode_escape").decode() if char.splitlines() == [""] else char


def ending(error: Exception, known: Sequence[str], folder: Path | None) -> str:
    """The line with which a failed command ends; leaves a record of it.

    Args:
        error: what was raised.
        known: keys of the config.
        folder: of the run, if it is this process's: gets `error.log`. None: what was not expected leaves its traceback among the
            temporary files.
    """
    line = "".join(escaped(char) for char in redacted(explain(error, known)))
    if is_want_of_memory(error):
        line = f"out of memory ({line}); lower the batch size, or the size of the model"
    elif not is_expected(error):
        line = f"unexpected {type(error).__name__}: {line}"
        folder = folder or Path(tempfile.gettempdir()) / f"sparsetrain_{os.getpid()}"
    if folder is None:
        return line
    record = folder / RECORD
    try:
        write_atomic(
            record,
            f"{line}\n\n{redacted(''.join(traceback.format_exception(error)))}".encode(errors="backslashreplace"),
        )
    except OSError:
        record = None
    if is_expected(error):
        return line
    return f"{line}; the traceback is in {record}" if record else f"{line}; HYDRA_FULL_ERROR=1 shows the traceback"


class LastingStream(io.TextIOWrapper):
    """A stream that writes what its encoding does not have as escapes, and whose reader may leave (`... | head`)."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            return self._to_nobody() or len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._to_nobody()

    def _to_nobody(self) -> None:
        nobody = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nobody, self.fileno())
        os.close(nobody)


def lasting_streams() -> None:
    """Nothing that is printed may end a run: closed streams are opened on nothing, real ones become lasting ones."""
    for descriptor in (0, 1, 2):  # else the next file that is opened takes the place, and gets what is printed
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if type(stream) is not io.TextIOWrapper:
        return stream
    stream.flush()
    return LastingStream(
        stream.buffer,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
