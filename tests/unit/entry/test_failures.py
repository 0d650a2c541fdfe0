"""Whatever goes wrong ends in one line and an exit code; what was not expected leaves its traceback in a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

from sparsetrain.entry.failures import ending, escaped, is_expected

COMMAND = '''
import sys
from dataclasses import dataclass
from pathlib import Path
from sparsetrain.entry import entry

@dataclass(frozen=True, kw_only=True)
class Nothing:
    page: str = ""
    out: str = ""

@entry(Nothing, "report_schema", literal=("page", "out"))
def main(config, run_dir):
    """A command."""
    {body}

main()
'''


def command(body: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", COMMAND.replace("{body}", body)], capture_output=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "a b"),
        (OSError(28, "No space left on device", "/x"), "No space left on device: /x"),
        (KeyError("no hook point named 'x'; near names: y"), "no hook point named 'x'; near names: y"),
    ],
)
def test_a_users_mistake_is_its_message(error, line, tmp_path):
    assert ending(error, [], None) == line
    assert ending(error, [], tmp_path) == line
    assert (tmp_path / "error.log").read_text().startswith(f"{line}\n\n")


def test_a_line_stays_one_whatever_ends_lines_is_in_it():
    assert ending(ValueError("a"), [], None) == "a"
    assert [escaped(char) for char in ("\u2028", "\x85", "\n", "é", " ")] == ["\\u2028", "\\x85", "\\n", "é", " "]


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), TypeError("a b"), KeyError("x"), KeyError(), RecursionError("x"), AssertionError()])  # fmt: skip
def test_a_bug_says_that_it_is_one_and_where_its_traceback_lies(error, tmp_path):
    line = ending(error, [], tmp_path)
    assert line.startswith(f"unexpected {type(error).__name__}: ") and "\n" not in line
    assert line.endswith(f"; the traceback is in {tmp_path / 'error.log'}") and not is_expected(error)
    assert (tmp_path / "error.log").read_text().splitlines()[0] in line


def test_without_a_folder_the_traceback_lies_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    line = ending(RuntimeError("x"), [], None)
    record = Path(line.rpartition(" ")[2])
    assert record.is_relative_to(tmp_path) and "RuntimeError: x" in record.read_text()


def test_where_no_record_can_be_written_the_line_says_how_to_see_the_traceback(tmp_path):
    (tmp_path / "file").touch()
    assert ending(RuntimeError("x"), [], tmp_path / "file").endswith("HYDRA_FULL_ERROR=1 shows the traceback")


def test_too_little_memory_is_said_in_words(tmp_path):
    class OutOfMemoryError(RuntimeError):
        """As torch's is called."""

    torchs = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried ..."
    )
    too_large = RuntimeError("Storage size calculation overflowed with sizes=[4000000000, 1000000000]")
    for error in (MemoryError(), OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), torchs, too_large):
        line = ending(error, [], tmp_path)
        assert line.startswith("out of memory (") and "lower the batch size" in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "body", ["raise RuntimeError('a\\nb')", "(lambda f: f(f))(lambda f: f(f))", "{}['x']", "None + 1"]
)
def test_a_command_that_breaks_prints_one_line(body):
    done = command(body)
    assert done.returncode == 1 and done.stdout == b""
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"error: unexpected "), done.stderr
    record = Path(done.stderr.decode().strip().rpartition(" ")[2])
    assert "Traceback" in record.read_text()
    record.unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_console_that_lacks_letters_shows_escapes(settings, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    body = "print('\\u043f', '\\u2501'); import logging; logging.getLogger().warning('\\u043f'); raise ValueError('\\u043f')"
    done = command(body)
    assert done.returncode == 1 and done.stdout.startswith(b"\\u043f \\u2501"), done
    assert done.stderr.splitlines()[-1] == b"error: \\u043f" and b"Logging error" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["| head -c 1", "| true", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_reader_that_leaves_and_streams_that_are_closed_end_no_command(redirection, tmp_path):
    body = f"[print('x' * 4000) for _ in range(100)]; Path({str(tmp_path / 'done')!r}).write_text('done'); sys.stderr.write('')"
    script = tmp_path / "command.py"
    script.write_text(COMMAND.replace("{body}", body))
    shell = f"set -o pipefail; {sys.executable} {script} {redirection}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stderr == b"", done
    assert (tmp_path / "done").read_text() == "done"


def test_what_hydra_stumbles_over_is_the_command_line():
    done = subprocess.run(
        [sys.executable, "train.py", "+experiment=quickstart", "sparsity=[[]]"],
        capture_output=True,
        cwd=ROOT,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: cannot read the command line (")


def test_a_command_that_has_nothing_to_resume_says_how_to_go_on():
    done = command("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert done.returncode == 143
    assert done.stderr.decode().splitlines()[-1] == "stopped by SIGTERM; run the same command again"
