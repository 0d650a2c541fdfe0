"""Compiles native.cpp and sparse.cpp on first use and calls them through ctypes.

1. The compiler is `$CXX` (default `c++`). The library is kept in `$SPARSETRAIN_CACHE` (default `~/.cache/sparsetrain`) under a hash of all that
   its machine code depends on: source, compiler, flags, processor, OpenMP, torch, libc. Nothing of Python: ctypes calls it.
2. A library is loaded if its checksum fits and nobody but this user (or root) can have written it; any other is compiled anew. Loading a
   truncated one would kill the process instead of raising an error.
3. It is compiled in a temporary folder and appears in the cache by one rename, so that processes may build at once. Where the cache cannot
   hold it (unwritable, full, mounted noexec, no home folder), it is loaded from the temporary folder, for this process alone.
4. Without a working compiler callers use their torch form: slower, same result. Either is said once, in one line of the log.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import stat
import subprocess
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparsetrain.kernels.magnitude import INFINITY_KEYS, refuse_nan
from sparsetrain.store import home, is_whole, sealed, sha256, user, write_atomic

SOURCES = tuple(Path(__file__).with_name(name) for name in ("native.cpp", "sparse.cpp"))
THIS_PROCESSOR = "-mcpu=native" if platform.machine().lower() in ("arm64", "aarch64") else "-march=native"
"""Clang knows the second one not on every ARM."""
FLAGS = ("-std=c++17", "-O3", THIS_PROCESSOR, "-fPIC", "-shared")
BUILD_TIMEOUT_S = 120
ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

KINDS = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int32, "d": ctypes.c_double}
SPARSE = {
    "count_rows": "pnnpi", "find_columns": "pnnppi", "by_columns": "nnppppp", "multiply": "pnnnpppppi", "multiply_backward": "ppnnnpppppppppi",
    "lookup_backward": "ppnnnpppi", "adamw": "pppppnidddddd",
}  # fmt: skip
"""Functions of sparse.cpp that give nothing back, with the kinds of their arguments: pointer, size, int, double."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of the search for compiled kernels."""

    kernels: ctypes.CDLL | None
    """None: the torch forms run."""
    place: Path | None = None
    """Where the library was loaded from."""
    problem: str = ""
    """What a person should know of it and can do; empty: nothing."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be built; a problem is logged once."""
    found = find()
    if found.problem:
        log.warning(found.problem)
    return found.kernels


def compiled() -> ctypes.CDLL:
    """The compiled kernels, for callers that have asked `library` before."""
    kernels = library()
    assert kernels is not None
    return kernels


def find() -> Found:
    """Loads the kernels from the cache, or compiles them."""
    asked = os.environ.get("CXX") or "c++"
    try:
        compiler = shlex.split(asked)
        name = f"native-{build_hash(compiler)}.so"
        try:
            path = cache_folder() / name
            return Found(kernels=load(checked(path)), place=path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.info("%s is compiled anew: %s", name, error)
        return build(compiler, name)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return Found(
            kernels=None,
            problem=f"no native kernels, the torch forms run instead (same results, slower): {asked}: {reason(error)}. "
            f"Install a C++ compiler or set CXX to one.",
        )


def cache_folder() -> Path:
    """Where compiled kernels are kept.

    Raises:
        OSError: there is no place that is this user's own.
    """
    cache = os.environ.get("SPARSETRAIN_CACHE")
    return Path(cache).absolute() if cache else home() / ".cache" / "sparsetrain"


def checked(path: Path) -> Path:
    """`path` itself, if what stands there may be loaded.

    Raises:
        OSError: nothing is there, it is damaged, or somebody else can have written it.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no plain file")
    if found.st_uid not in (0, user()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"{path} belongs to another user, or others can write to it")
    if not is_whole(path):
        raise OSError(f"{path} does not match its checksum")
    return path


def run(command: list[str]) -> str:
    """The output of a command; raises if it fails."""
    done = subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=BUILD_TIMEOUT_S
    )
    return done.stdout


def reason(error: Exception) -> str:
    """What a command or a file had to say, in one line."""
    return textwrap.shorten(str(getattr(error, "stderr", None) or error), 300)


def build_hash(compiler: list[str]) -> str:
    """Names everything that the machine code depends on, and the user: nobody finds another one's library under the own name."""
    parts = [
        *(source.read_text(encoding="utf-8") for source in SOURCES),
        *(*compiler, *compile_flags()),
        run([*compiler, "--version"]),
        # What the compiler takes this processor for, and its language and OpenMP.
        run([*compiler, *compile_flags(), "-dM", "-E", "-x", "c++", os.devnull]),
        *(f"{path.name} {sha256(path)}" for path in openmp()),
        *(torch.__version__, platform.machine(), *platform.libc_ver(), str(user())),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def compile_flags() -> list[str]:
    """Flags for this platform."""
    if platform.system() == "Darwin":  # Apple's compiler has no OpenMP; one thread
        return list(FLAGS)
    return [*FLAGS, "-fopenmp"]


def openmp() -> list[Path]:
    """The OpenMP that torch brings along, if it does: it is linked to, for two would fight for cores."""
    return sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))[:1]


def build(compiler: list[str], name: str) -> Found:
    """Compiles the library, puts it into the cache and loads it from there, or else from where it was made.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be compiled, or not be loaded at all.
    """
    with tempfile.TemporaryDirectory(prefix="sparsetrain-") as folder:
        output = Path(folder) / name
        link = [*map(str, openmp()), "-Wl,--as-needed"] if openmp() else []
        run([*compiler, *compile_flags(), *map(str, SOURCES), *link, "-o", str(output)])
        try:
            path = write_atomic(cache_folder() / name, sealed(output.read_bytes()))
            path.chmod(0o600)
            return Found(kernels=load(path), place=path)
        except OSError as error:
            problem = (
                f"native kernels were compiled for this process alone, their cache cannot be used: {reason(error)}. "
                f"Set SPARSETRAIN_CACHE to a folder that you can write to, on a disk that is not mounted noexec."
            )
            return Found(kernels=load(output), place=output, problem=problem)


def load(path: Path) -> ctypes.CDLL:
    """Loads the library and declares its functions.

    Raises:
        OSError: it is none for this machine, or not ours.
    """
    kernels = ctypes.CDLL(str(path))
    pointer, size, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    try:
        kernels.sparsetrain_abs_topk.argtypes = [pointer, pointer, pointer, size, size, size, small, small, small]
        kernels.sparsetrain_abs_topk.restype = size
        kernels.sparsetrain_keep.argtypes = [pointer, pointer, pointer, size, size, small, small]
        kernels.sparsetrain_keep.restype = None
        kernels.sparsetrain_project.argtypes = [pointer, size, size, size, size, small, pointer, small]
        kernels.sparsetrain_project.restype = None
        for name, arguments in SPARSE.items():
            function = getattr(kernels, f"sparsetrain_{name}")
            function.argtypes = [KINDS[kind] for kind in arguments]
            function.restype = None
    except AttributeError as error:
        raise OSError(f"{path} is not the library of {SOURCES[0].name}: {error}") from error
    return kernels


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and packed bits of AbsTopK. `x` contiguous, one of ROW_DTYPES; ValueError for a NaN."""
    width = x.shape[-1]
    y = torch.empty_like(x)
    bits = torch.empty((*x.shape[:-1], -(-width // 8)), dtype=torch.uint8)
    nan_row = compiled().sparsetrain_abs_topk(
        x.data_ptr(),
        y.data_ptr(),
        bits.data_ptr(),
        x.numel() // width,
        width,
        k,
        x.element_size(),
        INFINITY_KEYS[x.dtype],
        torch.get_num_threads(),
    )
    if nan_row >= 0:
        refuse_nan(x)
    return y, bits


def keep(x: Tensor, bits: Tensor) -> Tensor:
    """`x` where the packed bits are set, else zero. `x` contiguous, one of ROW_DTYPES."""
    width = x.shape[-1]
    y = torch.empty_like(x)
    compiled().sparsetrain_keep(
        x.data_ptr(),
        bits.data_ptr(),
        y.data_ptr(),
        x.numel() // width,
        width,
        x.element_size(),
        torch.get_num_threads(),
    )
    return y


def project_(weight: Tensor, k: int, floor: int, by_column: bool, state: int) -> None:
    """Projects one contiguous float32 tensor in place; `state` is the address of its warm-start state, int32 `[2]`."""
    n_rows, n_columns = weight.shape if floor else (1, weight.numel())
    compiled().sparsetrain_project(
        weight.data_ptr(), n_rows, n_columns, k, floor, by_column, state, torch.get_num_threads()
    )


def call(name: str, *arguments: Tensor | int | float | None) -> None:
    """Calls a function of `SPARSE`; tensors must be contiguous, None is a null pointer."""
    given = [None if x is None else x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    getattr(compiled(), f"sparsetrain_{name}")(*given)
