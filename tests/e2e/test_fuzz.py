"""Whatever is typed, brought along or lies damaged: a command does what it says, or ends in one line and leaves what was there.

The cases are `tests/fixtures/odd_inputs.py`: 200 of a seeded generator, the first of them in the default suite.
"""

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import SMOKE, in_process
from odd_inputs import COMMANDS, Case, odd_case

from circuits.run import KINDS
from sparsetrain.report import load_report

N_CASES, N_QUICK = 200, 26
LIMIT = 90  # seconds: no case takes more than a few, and one that hangs has to end
REWRITTEN = {"report.json", "report.md", "report.html"}
"""Written anew by commands that work in a finished run; what a report said it still says (of circuits more, or other ones)."""
OWN = {".lock", "error.log", "train.log"}
"""What says who works in the folder and how that went."""


class Hangs(BaseException):
    """Raised where a command does not end: no `except Exception` may swallow it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpus_cache) -> Path:
    """A run with circuits."""
    run = tmp_path_factory.mktemp("finished") / "run"
    settings = ("ood=none", "logger=none", "trainer.n_threads=1", "trainer.n_steps=4", "circuits.find.seeds=[0]")
    in_process("train.py", *SMOKE, *settings, f"hydra.run.dir={run}", f"cache_dir={corpus_cache}")
    return run


def contents(folder: Path) -> dict[str, str]:
    """File below a folder -> hash."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in OWN)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def complete(path: Path) -> bool:
    """Whether a promised file is there, and whole where that can be told."""
    if path.name == "report.json":
        load_report(path, KINDS)
        return not json.loads(path.read_text()).get("missing")
    return path.is_file() and path.stat().st_size > 0


def sections(run: Path) -> dict[str, object]:
    """The sections of the run's report; none where it cannot be read."""
    try:
        return dict(load_report(run / "report.json", KINDS).sections)
    except (OSError, ValueError):
        return {}


def lost(before: dict[str, str], reported: dict[str, object], run: Path) -> list[str]:
    """What of the run is gone or was changed without need: files, and what its report said."""
    after, now = contents(run), sections(run)
    rewritten = REWRITTEN if reported else set[str]()  # nobody can go on with a report that cannot be read
    files = [name for name, content in before.items() if after.get(name) != content and name not in rewritten]
    gone = [name for name in rewritten & before.keys() if name not in after]
    said = [
        name for name, section in reported.items() if name not in now or (now[name] != section and name != "circuits")
    ]
    return files + gone + said


@pytest.mark.parametrize(
    "number", [n if n < N_QUICK else pytest.param(n, marks=pytest.mark.slow) for n in range(N_CASES)]
)
def test_odd_input(number, finished, corpus_cache, tmp_path, monkeypatch, capsys):
    case = odd_case(number)
    shutil.copytree(finished, tmp_path / "run")
    case.prepare(tmp_path)
    before, reported = contents(tmp_path / "run"), sections(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    argv = case.argv(tmp_path, corpus_cache)
    capsys.readouterr()
    code: object = 0
    with within(LIMIT):
        try:
            in_process(case.script, *argv)
        except SystemExit as stop:
            code = stop.code or 0
    out, err = capsys.readouterr()
    story = f"{case.script} {argv}\nexit {code}\n{out[-1500:]}\n{err[-1500:]}"
    assert code in (0, 1, 2), story
    assert "Traceback" not in out + err and "error: unexpected" not in err, story
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 1 and case.judges and not said:
        assert out.strip(), story
    elif code == 1:
        assert len(said) == 1 and err.splitlines()[-1] == said[0] and len(said[0]) > len("error: "), story
    if code == 0:
        assert not said, story
        assert out or not case.prints, story  # blank lines are what a model may write
        assert not [path for path in case.promised(tmp_path) if not complete(path)], story
    if case.kept:
        renewed = case.renews if code == 0 else ""
        rewritten = [
            name
            for name in lost(before, reported, tmp_path / case.kept)
            if not (renewed and name.startswith(renewed) and (tmp_path / case.kept / name).is_file())
        ]
        assert not rewritten, f"{rewritten} of the run are not what they were\n{story}"


def test_cases_are_the_same_for_ever_and_try_every_command():
    def told(case: Case) -> tuple[str, tuple[str, ...]]:
        return case.script, case.arguments

    cases = [told(odd_case(number)) for number in range(N_CASES)]
    assert cases == [told(odd_case(number)) for number in range(N_CASES)]
    assert len(set(cases)) > 0.6 * N_CASES
    scripts = {path.name for path in (Path(__file__).parents[2] / "scripts").glob("[a-z]*.py")}
    tried = {Path(script).name for script, _ in cases[: len(COMMANDS)]}
    assert tried == {name for name in scripts if not name.startswith("bench_")} | {"train.py"}
