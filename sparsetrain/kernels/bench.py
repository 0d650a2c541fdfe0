"""Timing for the `bench_*` scripts: ours and the alternative take turns in one process; ratios are medians over turns.

A shared machine drifts by more than the differences of interest; taking turns cancels the drift. What a call consumes
(weights that a projection overwrites, say) is made fresh before each timed call, outside the clock.
Every script prints a table and, last, one JSON line.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median

import torch

from sparsetrain.kernels.host import keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class BenchCase:
    """One line of a benchmark."""

    name: str
    """`<operation>:<size>:<forward|forward_backward|warm|cold|step|run>[:floor]`."""
    ms: float
    """Median milliseconds of ours."""
    ms_min: float
    versus: str
    """What the alternative is."""
    speedup: float
    """Median over turns of alternative / ours."""
    floor_ratio: float | None = None
    """Median over turns of ours / one read-and-write pass."""


def parse_arguments(
    description: str, argv: list[str] | None = None, *, runs: int = 7, more: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """`--device`, `--runs`, `--threads`, `--small`, the same for every benchmark; sets torch's threads.

    Args:
        description: of the benchmark.
        argv: instead of the command line.
        runs: default of `--runs`.
        more: name -> help of further options, empty strings where they are not given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, words in (more or {}).items():
        parser.add_argument(f"--{name}", default="", help=words)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--runs", type=int, default=runs, help="turns; medians are taken over them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--small", action="store_true", help="of several sizes the smallest alone: does it run?")
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error(f"--runs={arguments.runs} must be at least 1")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as every training does
    return arguments


def seconds(call: Callable, argument: object, device: str) -> float:
    """Wall time of `call(argument)`, the device's work included."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = time.perf_counter()
    call(argument)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark: its settings, as `parse_arguments` gives them, and the lines it has so far."""

    name: str
    device: str
    runs: int
    cases: list[BenchCase] = field(default_factory=list[BenchCase])

    def measure(
        self,
        ours: Mapping[str, Callable],
        alternative: Callable,
        versus: str,
        *,
        make: Callable[[], object] = lambda: None,
        one_pass: Callable | None = None,
        n_warmup: int = 1,
    ) -> list[BenchCase]:
        """Times each of `ours` (case name -> call) against `alternative` (and one read-and-write pass) in the same turns.

        Every call gets a fresh `make()`; the first `n_warmup` turns are not counted. Returns the new lines.
        """
        calls = [*ours.values(), alternative, *([] if one_pass is None else [one_pass])]
        for _ in range(n_warmup):
            for call in calls:
                call(make())
        turns = [[seconds(call, make(), self.device) for call in calls] for _ in range(self.runs)]
        found = [
            BenchCase(
                name=name,
                ms=1e3 * median(turn[i] for turn in turns),
                ms_min=1e3 * min(turn[i] for turn in turns),
                versus=versus,
                speedup=median(turn[len(ours)] / turn[i] for turn in turns),
                floor_ratio=None if one_pass is None else median(turn[i] / turn[-1] for turn in turns),
            )
            for i, name in enumerate(ours)
        ]
        self.cases.extend(found)
        return found

    def report(self) -> None:
        """Prints the table for people, then the JSON line for programs."""
        name = (
            torch.cuda.get_device_name(self.device) if self.device.startswith("cuda") else f"cpu ({platform.machine()})"
        )
        print(f"{self.name}: {name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {self.runs} runs")
        print(f"{'case':<52}{'ms':>10}{'min':>10}{'speedup':>10}{'of a pass':>11}  versus")
        for case in self.cases:
            of_a_pass = "" if case.floor_ratio is None else f"{case.floor_ratio:.2f}"
            numbers = f"{case.ms:>10.3f}{case.ms_min:>10.3f}{case.speedup:>10.2f}{of_a_pass:>11}"
            print(f"{case.name:<52}{numbers}  {case.versus}")
        content = {"bench": self.name, "device": self.device, "runs": self.runs}
        print(json.dumps(content | {"cases": [asdict(case) for case in self.cases]}))
