"""What the doctor says of a machine, with one thing wrong at a time."""

import importlib.metadata
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from circuits.doctor import Finding, machine

Usage = namedtuple("Usage", "total used free")


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.about: finding.level for finding in findings}


def test_versions_are_held_against_what_is_asked_for_and_what_was_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"numpy=={real('numpy')}\ntorch=={real('torch').split('+')[0]}\nscipy==0.1\n")

    def version(name: str) -> str:
        if name == "einops":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.6.2" if name == "lightning" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = list(machine.versions(pins))
    found = levels(findings)
    assert (found["numpy"], found["torch"], found["scipy"]) == ("ok", "ok", "warning")
    assert (found["lightning"], found["einops"]) == ("problem", "problem")  # 2.6.2 was a malicious release
    assert "pip install" in next(f.fix for f in findings if f.about == "lightning")
    assert "pytest" not in found  # of an extra
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    assert levels(list(machine.versions(None)))["python"] == "problem"


def test_more_threads_than_cores_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text("50000 100000\n")
    assert machine.usable_cores(quota) == 0.5
    quota.write_text("max 100000\n")
    assert machine.usable_cores(quota) == machine.usable_cores(tmp_path / "none") >= 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    assert levels(list(machine.processors()))["cpu"] == "warning"


def test_kernels_that_cannot_be_had_are_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    (finding,) = machine.kernels()
    assert finding.level == "warning" and "/nonexistent/c++" in finding.text and "CXX" in finding.fix


def test_little_room_and_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, level in ((100e9, "ok"), (5e9, "warning"), (0.1e9, "problem")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(2e11, 0, free))
        assert levels(list(machine.disks({"cache": tmp_path / "not" / "yet"})))["cache"] == level
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64e6, 0, 100e9))
    assert levels(list(machine.disks({})))["shared memory"] == "warning" or not machine.SHARED.is_dir()
    (tmp_path / "file").touch()
    found = next(machine.disks({"runs": tmp_path / "file" / "runs"}))
    assert found.level == "problem" and "hydra.run.dir" in found.fix


@pytest.mark.parametrize(
    ("mode", "words"),
    [("offline", "kept in their folders"), ("disabled", "nothing is kept"), ("nonsense", "nonsense")],
)
def test_the_tracker_s_mode_is_said_in_words(mode: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr("locale.getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    monkeypatch.delenv("HOME", raising=False)
    found = {finding.about: finding for finding in machine.surroundings()}
    assert found["text"].level == found["home"].level == "warning" and "LC_ALL" in found["text"].fix
    assert words in found["W&B"].text


def test_corpora_that_are_damaged_lost_or_half_made(corpus_cache: Path, smoke: Path, tmp_path: Path) -> None:
    assert smoke
    cache = Path(shutil.copytree(corpus_cache, tmp_path / "cache"))
    assert [f.level for f in machine.corpora(cache)] and set(levels(list(machine.corpora(cache))).values()) == {"ok"}
    folder = next((cache / "tokens").iterdir())
    (cache / "drafts" / "stopped").mkdir(parents=True)
    (folder / "tokenizer.json").unlink()
    shutil.copytree(folder, cache / "tokens" / "unnamed")
    found = levels(list(machine.corpora(cache)))
    assert found[folder.name[:12]] == "problem" and found["stopped"] == found["unnamed"] == "warning"
    assert [f.text for f in machine.corpora(tmp_path / "none")] == [f"none in {tmp_path / 'none'}"]
