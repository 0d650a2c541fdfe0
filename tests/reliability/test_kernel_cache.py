"""Whatever stands in the kernel cache, and wherever the cache lies: the kernels are loaded, compiled anew, or done without in one line.

A library is compiled once; the "compiler" of the tests is the real one but for the last step, where it copies that library and notes that
it was asked. Nothing is imitated beside: files are really cut, a file system is really mounted noexec, users really have no home. What only
root can arrange is skipped for others, and says so.
"""

import logging
import os
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from sparsetrain.kernels import abs_topk, abs_topk_reference, native
from sparsetrain.store import SEAL, home, is_whole, sealed

ROOT = Path(__file__).parents[2]
CXX = os.environ.get("CXX") or "c++"
NOBODY = 54321  # a user's number without an entry

pytestmark = pytest.mark.skipif(shutil.which(CXX.split()[0]) is None, reason="no compiler: there is nothing to cache")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, mount, and become another user")


@dataclass(frozen=True)
class Cache:
    """A cache that no process has used yet."""

    path: Path
    """Of the library."""
    library: bytes
    """What is right there."""
    asked: Path

    @property
    def n_compiled(self) -> int:
        return len(self.asked.read_text().splitlines()) if self.asked.exists() else 0

    def put(self, content: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(content)
        self.path.chmod(0o600)


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """A folder that every user can read; pytest's are its user's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def compiled_once(readable: Path) -> tuple[Path, bytes]:
    """(the compiler, the library it gives)."""
    folder = readable
    script, library = folder / "cxx", folder / "library"
    subprocess.run(
        [
            *CXX.split(),
            *native.compile_flags(),
            *map(str, native.SOURCES),
            *map(str, native.openmp()),
            "-o",
            str(library),
        ],
        check=True,
    )
    script.write_text(
        f'#!/bin/sh\nfor last; do :; done\ncase "$*" in\n*--version* | *-dM*) exec {CXX} "$@" ;;\n'
        f'*) echo asked >> "$ASKED"; exec cp {library} "$last" ;;\nesac\n'
    )
    script.chmod(0o755)
    return script, library.read_bytes()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_once: tuple[Path, bytes]) -> Cache:
    script, library = compiled_once
    asked = tmp_path / "asked"
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("ASKED", str(asked))
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    name = f"native-{native.build_hash([str(script)])}.so"
    return Cache(tmp_path / "cache" / name, library, asked)


def works(found: native.Found, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernels are there and give what torch gives."""
    monkeypatch.setattr(native, "library", lambda: found.kernels)
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    return found.kernels is not None and abs_topk(x, 24).equal(abs_topk_reference(x, 24))


def test_a_library_is_compiled_once_sealed_and_private(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        found = native.find()
        assert works(found, monkeypatch) and (found.place, found.problem, cache.n_compiled) == (cache.path, "", 1)
    assert cache.path.read_bytes() == sealed(cache.library) and is_whole(cache.path)
    assert stat.S_IMODE(cache.path.stat().st_mode) == 0o600 and os.listdir(cache.path.parent) == [cache.path.name]


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "first byte": lambda b: b[:1],
    "header alone": lambda b: b[:64],
    "one page": lambda b: b[:4096],  # the loader maps it and dies of SIGBUS
    "half": lambda b: b[: len(b) // 2],
    "no seal": lambda b: b[: b.rindex(SEAL)],
    "last byte gone": lambda b: b[:-1],
    "a byte more": lambda b: b + b"\0",
    "bit in the header": lambda b: flipped(b, 20),
    "bit in the middle": lambda b: flipped(b, len(b) // 2),
    "bit in the seal": lambda b: flipped(b, len(b) - 1),
    "zeros": lambda b: bytes(len(b)),
    "text": lambda b: b"not a library\n",
    "of another processor": lambda b: sealed(
        b[:18] + struct.pack("<H", 183 if sys.platform == "linux" else 0) + b[20 : b.rindex(SEAL)]
    ),
    "sealed nonsense": lambda b: sealed(b"not a library\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_library_is_compiled_anew(
    damage: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(DAMAGE[damage](sealed(cache.library)))
    found = native.find()
    assert works(found, monkeypatch) and (found.place, found.problem, cache.n_compiled) == (cache.path, "", 1)
    assert cache.path.read_bytes() == sealed(cache.library)


def test_another_library_under_the_name_is_not_called(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.so"
    (tmp_path / "other.cpp").write_text("int nothing;\n")
    subprocess.run([*CXX.split(), "-shared", "-fPIC", str(tmp_path / "other.cpp"), "-o", str(other)], check=True)
    cache.put(sealed(other.read_bytes()))
    assert works(native.find(), monkeypatch) and cache.n_compiled == 1
    assert cache.path.read_bytes() == sealed(cache.library)


def link(cache: Cache) -> None:
    elsewhere = cache.path.with_name("elsewhere")
    elsewhere.write_bytes(sealed(cache.library))
    cache.path.unlink()
    cache.path.symlink_to(elsewhere)


def fifo(cache: Cache) -> None:
    cache.path.unlink()
    os.mkfifo(cache.path)


HOSTILE: dict[str, Callable[[Cache], None]] = {
    "others can write": lambda cache: cache.path.chmod(0o666),
    "a group can write": lambda cache: cache.path.chmod(0o660),
    "a link": link,
    "a pipe": fifo,  # opening it would wait for ever
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_library_that_others_can_have_written_is_not_loaded(
    fault: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(sealed(cache.library))
    HOSTILE[fault](cache)
    with pytest.raises(OSError, match=r"others can write|no plain file"):
        native.checked(cache.path)
    found = native.find()
    assert works(found, monkeypatch) and (found.place, cache.n_compiled) == (cache.path, 1)
    assert native.checked(cache.path) == cache.path


@as_root
def test_another_user_s_library_is_not_loaded(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put(sealed(cache.library))
    os.chown(cache.path, NOBODY, NOBODY)
    with pytest.raises(OSError, match="belongs to another user"):
        native.checked(cache.path)
    found = native.find()
    assert works(found, monkeypatch) and cache.n_compiled == 1 and cache.path.stat().st_uid == 0


def test_a_folder_in_the_library_s_place_costs_a_line_and_no_run(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache.path / "kept").mkdir(parents=True)
    found = native.find()
    assert works(found, monkeypatch) and "for this process alone" in found.problem and (cache.path / "kept").is_dir()


def test_a_cache_that_cannot_be_made_costs_a_line_and_no_run(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.path.parent.write_text("a file where the folder should be")
    found = native.find()
    assert works(found, monkeypatch) and found.place is not None and not found.place.exists()
    assert (
        "for this process alone" in found.problem
        and "Set SPARSETRAIN_CACHE" in found.problem
        and "\n" not in found.problem
    )


@pytest.fixture
def noexec(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "noexec"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "noexec,size=4m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@as_root
def test_a_cache_mounted_noexec_costs_a_line_and_no_run(
    cache: Cache, noexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(noexec))
    for _ in range(2):
        found = native.find()
        assert works(found, monkeypatch) and "noexec" in found.problem and str(noexec) in found.problem
        assert "\n" not in found.problem


@as_root
def test_nowhere_to_load_from_is_the_torch_form_and_one_line(
    cache: Cache, noexec: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(noexec))
    monkeypatch.setattr("tempfile.tempdir", str(noexec))
    with caplog.at_level(logging.WARNING):
        assert native.library.__wrapped__() is None
    (record,) = caplog.records
    assert "the torch forms run instead" in record.message and "\n" not in record.message


@pytest.mark.parametrize("compiler", ["/nonexistent/c++", 'c++ "-O2', "/tmp", "false"])
def test_no_usable_compiler_is_one_line(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        assert native.library.__wrapped__() is None
    (record,) = caplog.records
    assert compiler in record.message and "set CXX" in record.message and "\n" not in record.message


PROBE = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from sparsetrain.kernels import abs_topk, abs_topk_reference, native
from sparsetrain.run import RunConfig, cache_dir
x = torch.randn(64, 96)
assert abs_topk(x, 24).equal(abs_topk_reference(x, 24))
print("kernels", native.library() is not None, native.cache_folder(), cache_dir(RunConfig()))
"""


def probe(as_user: int, **environment: str) -> list[str]:
    """What a process of another user, without HOME, says."""
    found = {k: v for k, v in os.environ.items() if k not in ("HOME", "USER", "LOGNAME", "SPARSETRAIN_CACHE")}
    command = ["setpriv", f"--reuid={as_user}", f"--regid={as_user}", "--clear-groups", sys.executable, "-c", PROBE]
    done = subprocess.run(
        command, env={**found, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True, cwd="/"
    )
    if done.returncode and "Permission denied" in done.stderr:
        pytest.skip(f"another user cannot read this checkout: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@as_root
@pytest.mark.slow
def test_a_user_without_home_or_entry(cache: Cache, readable: Path) -> None:
    temporary = readable / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    asked = readable / "asked"
    asked.touch()
    asked.chmod(0o666)
    own = temporary / f"sparsetrain-{NOBODY}"
    for _ in range(2):  # the second finds what the first compiled
        assert probe(NOBODY, TMPDIR=str(temporary), ASKED=str(asked)) == [
            f"kernels True {own}/.cache/sparsetrain {own}/.cache/sparsetrain"
        ]
        assert asked.read_text() == "asked\n" and stat.S_IMODE(own.stat().st_mode) == 0o700
    # A cache of root's that this user may not write to.
    denied = readable / "denied"
    denied.mkdir(mode=0o755)
    line, last = probe(NOBODY, TMPDIR=str(temporary), ASKED=str(asked), SPARSETRAIN_CACHE=str(denied))
    assert "for this process alone" in line and "Permission denied" in line and last.startswith("kernels True")


def test_home_is_never_someone_else_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home() == Path.home()

    def without(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(without))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = home()
    assert own.parent == tmp_path and stat.S_IMODE(own.stat().st_mode) == 0o700 and home() == own
    own.rename(tmp_path / "another")
    own.symlink_to(tmp_path / "another")
    with pytest.raises(PermissionError, match="set HOME"):
        home()


def test_the_name_holds_everything_the_machine_code_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = CXX.split()
    plain = native.build_hash(compiler)
    assert native.build_hash(compiler) == plain
    real = native.run

    def other(*, version: str = "", macros: str = "") -> Callable[[list[str]], str]:
        return lambda command: real(command) + (version if command[-1] == "--version" else macros)

    changes: list[tuple[object, str, object]] = [
        (native, "run", other(version="2")),
        (native, "run", other(macros="#define __AVX1024__ 1")),
        (native, "FLAGS", (*native.FLAGS, "-g")),
        (native, "openmp", lambda: [Path(__file__)]),
        (torch, "__version__", "0.0"),
        (native.platform, "machine", lambda: "riscv64"),
        (native.platform, "libc_ver", lambda: ("glibc", "1.0")),
        (os, "geteuid", lambda: NOBODY),
    ]
    found = {plain, native.build_hash([*compiler, "-DX"])}
    for place, name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            found.add(native.build_hash(compiler))
    assert len(found) == len(changes) + 2
