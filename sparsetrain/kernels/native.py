"""Compiles native.cpp on first use and calls it through ctypes.

1. The compiler is `$CXX` (default `c++`); the library is cached in `$SPARSETRAIN_CACHE` (default
   `~/.cache/sparsetrain`) under a hash of the source, the compiler's version, its flags and the processor.
2. Two processes may build at once: each compiles to a file of its own and renames it into place.
3. Without a working compiler this is said once, by a log line, and callers use their torch form: slower, same result.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from sparsetrain.kernels.magnitude import INFINITY_KEYS, refuse_nan

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
BUILD_TIMEOUT_S = 120
ROW_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (logged once) where they cannot be built."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    try:
        version = run([*compiler, "--version"])
        path = cache_folder() / f"native-{build_hash(version)}.so"
        if not path.exists():
            build(compiler, path)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning(
            "no native kernels, the torch forms run instead (same results, slower): %s: %s. "
            "Install a C++ compiler or set CXX to one.",
            shlex.join(compiler),
            str(reason).strip(),
        )
        return None
    return load(path)


def compiled() -> ctypes.CDLL:
    """The compiled kernels, for callers that have asked `library` before."""
    kernels = library()
    assert kernels is not None
    return kernels


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    cache = os.environ.get("SPARSETRAIN_CACHE")
    return Path(cache) if cache else Path.home() / ".cache" / "sparsetrain"


def run(command: list[str]) -> str:
    """The output of a command; raises if it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S).stdout


def build_hash(compiler_version: str) -> str:
    """Names everything that the machine code depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    parts = [SOURCE.read_text(), compiler_version, *compile_flags(), platform.machine(), platform.processor(), *flags]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def compile_flags() -> list[str]:
    """Flags for this platform."""
    if platform.system() == "Darwin":  # Apple's compiler has no OpenMP; one thread
        return list(FLAGS)
    return [*FLAGS, "-fopenmp"]


def build(compiler: list[str], path: Path) -> None:
    """Compiles to a temporary file and renames it to `path`; links torch's own OpenMP, two would fight for cores."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        output = Path(folder) / path.name
        link = [str(bundled[0]), "-Wl,--as-needed"] if bundled else []
        run([*compiler, *compile_flags(), str(SOURCE), *link, "-o", str(output)])
        output.replace(path)


def load(path: Path) -> ctypes.CDLL:
    """Loads the library and declares its functions."""
    kernels = ctypes.CDLL(str(path))
    pointer, size, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    kernels.sparsetrain_abs_topk.argtypes = [pointer, pointer, pointer, size, size, size, small, small, small]
    kernels.sparsetrain_abs_topk.restype = size
    kernels.sparsetrain_keep.argtypes = [pointer, pointer, pointer, size, size, small, small]
    kernels.sparsetrain_keep.restype = None
    kernels.sparsetrain_project.argtypes = [pointer, size, size, size, size, small, pointer, small]
    kernels.sparsetrain_project.restype = None
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
