"""What a machine offers: versions, devices, the kernel library, room on disks, the tracker, the corpora in the cache."""

import importlib.metadata
import locale
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.version import Version

from circuits.doctor import Chapter, Finding, ok, problem, warning
from sparsetrain.data.corpus import stopped_drafts, stored_corpora
from sparsetrain.kernels import native
from sparsetrain.report.wandb_log import WandbRun, forget, reason

GB = 1e9
LITTLE, TOO_LITTLE = 10 * GB, 1 * GB  # ours: a quickstart takes 0.1 GB, a day's run some
LITTLE_SHARED = 128e6  # ours; containers often have 64 MB, and ranks that talk through it die
SHARED = Path("/dev/shm")


def examine_machine(cache_dir: Path, runs: Path, tested: Path | None) -> list[Chapter]:
    """Everything that a run will need of this machine.

    Args:
        cache_dir: of tokenised corpora.
        runs: where runs are written.
        tested: a constraints file with the versions that were tested; None: unknown.
    """
    chapters = {
        "versions": versions(tested),
        "processors": processors(),
        "native kernels": kernels(),
        "disks": disks({"cache": cache_dir, "runs": runs}),
        "surroundings": surroundings(),
        "corpora": corpora(cache_dir),
    }
    return [Chapter(title=title, findings=tuple(findings)) for title, findings in chapters.items()]


def versions(tested: Path | None) -> Iterator[Finding]:
    """Python and every library that sparsetrain asks for, against what it asks for and what was tested."""
    lines = tested.read_text(encoding="utf-8").split() if tested is not None and tested.is_file() else []
    pins = dict(line.split("==") for line in lines if "==" in line)
    try:
        wanted = importlib.metadata.metadata("sparsetrain")
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            "sparsetrain", "runs from a folder, is not installed; what it needs is not known", "pip install -e ."
        )
        return
    yield ok("sparsetrain", wanted["Version"])
    python = platform.python_version()
    if python not in Requirement(f"python{wanted['Requires-Python']}").specifier:
        yield problem(
            "python", f"{python}; it needs {wanted['Requires-Python']}", "make the environment with such a Python"
        )
    else:
        yield ok("python", python)
    for line in wanted.get_all("Requires-Dist") or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            yield problem(needed.name, f"is not installed; {line}", f"pip install '{line}'")
            continue
        pin = pins.get(needed.name)
        if not needed.specifier.contains(found, prereleases=True):
            yield problem(needed.name, f"{found}; it has to be {needed.specifier}", f"pip install '{line}'")
        elif pin is not None and Version(found).public != Version(pin).public:
            yield warning(
                needed.name, f"{found}; tested with {pin}", "pip install -c constraints.txt -e . has the tested ones"
            )
        else:
            yield ok(needed.name, found)


def processors() -> Iterator[Finding]:
    """Cores, threads and accelerators."""
    cores, threads = usable_cores(), torch.get_num_threads()
    text = f"{cores:g} of {os.cpu_count()} cores may be used, torch takes {threads} threads"
    if threads > cores + 0.5:
        yield warning("cpu", text, f"trainer.n_threads={max(1, int(cores))}: more threads than cores are slower")
    else:
        yield ok("cpu", text)
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        yield ok(f"cuda:{i}", f"{facts.name}, {facts.total_memory / GB:.0f} GB")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        built = "a build for the CPU alone" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        yield warning(
            "cuda",
            f"there is an NVIDIA driver, but torch {torch.__version__} ({built}) sees no device",
            "see pytorch.org for the build",
        )
    elif not torch.cuda.is_available():
        yield ok("cuda", "no device")
    if torch.backends.mps.is_available():
        yield ok("mps", "Apple's GPU; sums of measurements are kept on the CPU, in float64")


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Cores that this process may use: its affinity, and a container's share of time."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if quota.is_file():
        share, period = quota.read_text().split()
        cores = cores if share == "max" else min(cores, int(share) / int(period))
    return cores


def kernels() -> Iterator[Finding]:
    """Whether the compiled kernels are there and can be loaded; they are compiled if they are not."""
    found = native.find()
    if found.problem:
        text, _, fix = found.problem.rpartition(". ")
        yield warning("kernels", text, fix)
    else:
        yield ok("kernels", f"loaded from {found.place}")


def disks(folders: dict[str, Path]) -> Iterator[Finding]:
    """Room where files are written, and whether they can be."""
    for about, folder in folders.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        text = f"{free / GB:.1f} GB are free at {folder}"
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            fix = "cache_dir=<folder>" if about == "cache" else "hydra.run.dir=<folder>"
            yield problem(about, f"nothing can be written at {there}", f"{fix} chooses another place")
        elif free < LITTLE:
            yield (problem if free < TOO_LITTLE else warning)(about, text, "make room, or choose another disk")
        else:
            yield ok(about, text)
    if SHARED.is_dir():
        size = shutil.disk_usage(SHARED).total
        text = f"{size / GB:.2f} GB at {SHARED}"
        yield (
            ok("shared memory", text)
            if size >= LITTLE_SHARED
            else warning(
                "shared memory", text, "docker run --shm-size=1g (or --ipc=host), if several devices train together"
            )
        )


def surroundings() -> Iterator[Finding]:
    """Text encoding, and what the tracker will do."""
    encodings = {locale.getpreferredencoding(False), sys.getfilesystemencoding()}
    if {encoding.lower().replace("-", "") for encoding in encodings} == {"utf8"}:
        yield ok("text", "UTF-8")
    else:
        yield warning("text", f"files and names are {', '.join(sorted(encodings))} by default", "export LC_ALL=C.UTF-8")
    home = os.environ.get("HOME", "")
    if not os.access(home, os.W_OK):
        yield warning(
            "home",
            f"HOME={home!r} cannot be written to",
            "export HOME=<folder>, or SPARSETRAIN_CACHE and cache_dir=",
        )
    try:
        mode = WandbRun(folder=Path(), project="sparsetrain", name="doctor", config={}).auto()
    except Exception as error:  # wandb's own, pydantic's, those of its files
        yield warning("W&B", reason(error), "logger=none goes without it")
        return
    finally:
        forget()
    words = {
        "online": "there is a key: runs are sent while they train",
        "offline": "no key, or WANDB_MODE=offline: runs are kept in their folders, `wandb sync` sends them",
        "disabled": "WANDB_MODE=disabled: nothing is kept",
    }
    yield ok("W&B", words[mode])


def corpora(cache_dir: Path) -> Iterator[Finding]:
    """The tokenised corpora, each read whole."""
    found = stored_corpora(cache_dir)
    for corpus in found:
        text = f"{corpus.n_bytes / 1e6:.1f} MB in {corpus.folder}"
        files = " ".join(str(path) for path in (corpus.folder, corpus.pointer) if path is not None)
        if corpus.problem:
            yield problem(
                corpus.folder.name[:12],
                f"{corpus.problem}; {text}",
                f"rm -r {files}: it is prepared again when it is needed",
            )
        elif corpus.pointer is None:
            yield warning(
                corpus.folder.name[:12],
                f"no file in {cache_dir / 'prepared'} names it; {text}",
                f"rm -r {files}, if no run needs it",
            )
        else:
            yield ok(corpus.folder.name[:12], text)
    for folder, n_bytes in stopped_drafts(cache_dir).items():
        yield warning(
            folder.name[:12],
            f"a corpus whose preparation was stopped or is under way; {n_bytes / 1e6:.1f} MB in {folder}",
            f"the same command goes on with it; otherwise rm -r {folder}",
        )
    if not found:
        yield ok("corpora", f"none in {cache_dir}")
