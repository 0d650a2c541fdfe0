"""How often the interval of a ratio over tasks and model seeds covers the truth, in simulated sets of known variances.

    python scripts/interval_coverage.py n_sets=200      a first look
    python scripts/interval_coverage.py out=docs/results/dense_vs_sparse/coverage.json commit=$(git rev-parse --short HEAD)

Beside it stand two intervals that forget that all tasks share the seeds: Student's t and the percentile bootstrap over tasks.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from sparsetrain.entry import entry
from sparsetrain.job import command_line
from sparsetrain.progress import progress_bar
from sparsetrain.report import RunFacts
from sparsetrain.stats.coverage import Interval, World, coverage
from sparsetrain.stats.crossed import crossed_difference
from sparsetrain.stats.intervals import Estimate, Floats, estimate, over_seeds
from sparsetrain.store import write_atomic
from sparsetrain.typed import Count, Seed, to_dict

MEASURED, ALIKE = {"runs": (0.4, 0.15), "rest": (0.9, 0.5)}, {"runs": (0.6, 0.6), "rest": (0.6, 0.6)}
KINDS: Mapping[str, Mapping[str, object]] = {
    "as measured": {"items": 0.7, **MEASURED},
    "seeds differ as much as the rest": {"items": 0.7, **ALIKE},
    "tasks alike": {"items": 0.3, **MEASURED},
    "tasks alike, seeds differ": {"items": 0.3, **ALIKE},
    "seeds of one arm differ": {"items": 0.3, "runs": (0.1, 0.9), "rest": (0.5, 0.7)},
    "as measured, skew": {"items": 0.7, **MEASURED, "shape": "exponential"},
    "skew, little noise": {"items": 1.0, "runs": (0.1, 0.1), "rest": (0.4, 0.4), "shape": "exponential"},
}
"""Standard deviations in octaves (log2 of a size). As measured: docs/results/dense_vs_sparse/study.json, where slots of circuits of
sparse weights differ by .9 from seed to seed and task to task and by .3 to .5 with the seed alone, those of dense weights by .5 and .1
to .2, and the ratio of two arms by .7 to 1.1 from task to task, all of which noise is a part."""
SIZES = [(n_tasks, n_seeds, 0.0) for n_tasks in (5, 6, 8, 12) for n_seeds in (2, 3, 5)]
SIZES += [(n_tasks, 3, 0.2) for n_tasks in (6, 8, 12)]
"""Tasks, seeds of each arm, share of the cells in which no circuit was found."""


def over_tasks(a: Floats, b: Floats) -> Floats:
    """The tasks' differences of means over seeds."""
    return np.nanmean(b, 1) - np.nanmean(a, 1)


def resampled(values: Floats) -> Estimate:
    """The bootstrap of a mean, of however few values."""
    return estimate(
        "mean over tasks", lambda i: values[i].mean(-1), len(values), n_bootstrap=200, confidence=0.95, seed=0
    )


INTERVALS: Mapping[str, Interval] = {
    "tasks and seeds": crossed_difference,
    "Student's t over tasks": lambda a, b: over_seeds(over_tasks(a, b)),
    "bootstrap over tasks": lambda a, b: resampled(over_tasks(a, b)),
}


@dataclass(frozen=True, kw_only=True)
class IntervalCoverageRun:
    """How many sets, and where to."""

    n_sets: Count = 4000
    """Of every kind and size."""
    seed: Seed = 0
    out: str = "runs/interval_coverage.json"
    commit: str = ""
    """Of the code, for the record."""
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """One kind and size of sets."""

    kind: str
    n_tasks: int
    n_seeds: int
    missing: float
    covered: Mapping[str, float]
    """Interval -> share of the sets whose truth it holds."""
    error: float
    """Largest standard error of those shares."""
    undefined: float
    """Share of the sets that have no interval."""


@dataclass(frozen=True, kw_only=True)
class CoverageFile:
    """What is written."""

    run: RunFacts
    commit: str
    n_sets: int
    kinds: Mapping[str, Mapping[str, object]]
    """Kind -> standard deviations, in octaves."""
    rows: tuple[CoverageRow, ...]


def row(kind: str, size: tuple[int, int, float], n_sets: int, seed: int) -> CoverageRow:
    """Every interval on the same sets."""
    n_tasks, n_seeds, missing = size
    world = World(n_items=n_tasks, n_runs=n_seeds, missing=missing, **KINDS[kind])  # pyright: ignore[reportArgumentType]
    found = {name: coverage(interval, world, n_sets=n_sets, seed=seed) for name, interval in INTERVALS.items()}
    return CoverageRow(
        kind=kind,
        n_tasks=n_tasks,
        n_seeds=n_seeds,
        missing=missing,
        covered={name: one.covered for name, one in found.items()},
        error=max(one.error for one in found.values()),
        undefined=max(one.undefined for one in found.values()),
    )


@entry(IntervalCoverageRun, "interval_coverage", literal=("out", "commit"))
def main(config: IntervalCoverageRun, run_dir: Path) -> None:
    """Draws, takes intervals, counts, writes."""
    rows: list[CoverageRow] = []
    with progress_bar(config.progress) as bar:
        task = bar.add_task("kinds and sizes of sets", total=len(KINDS) * len(SIZES))
        for kind, size in product(KINDS, SIZES):
            rows.append(row(kind, size, config.n_sets, config.seed))
            bar.advance(task)
    facts = RunFacts.now(name="interval_coverage", seed=config.seed, command=command_line(), device="cpu")
    whole = CoverageFile(run=facts, commit=config.commit, n_sets=config.n_sets, kinds=KINDS, rows=tuple(rows))
    write_atomic(Path(config.out), json.dumps(to_dict(whole), indent=1) + "\n")
    for line in rows:
        shares = ", ".join(f"{name} {covered:.1%}" for name, covered in line.covered.items())
        print(f"{line.kind}; {line.n_tasks} tasks, {line.n_seeds} seeds, {line.missing:.0%} missing: {shares}")
    print(f"written: {config.out}")


if __name__ == "__main__":
    main()
