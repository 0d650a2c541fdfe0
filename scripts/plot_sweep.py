"""A number of every run of a sweep against one of the keys that the sweep varies: a table, a picture, a file.

    python scripts/plot_sweep.py sweeps=[runs/quickstart/multirun/<stamp>]                      validation loss against the rate
    python scripts/plot_sweep.py sweeps=[runs/rates/dense,runs/rates/sparse] out=rates.svg      several sweeps in one picture
    python scripts/plot_sweep.py sweeps=[runs/mine] x=sparsity.density y=training.val_loss.mixed

A curve is what the other keys that vary have in common; runs that differ in their seed alone are one point, the mean with the range. What
has no report yet, or lacks the number, is left out and counted.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsetrain.entry import entry
from sparsetrain.job import Job, command_line, shortened
from sparsetrain.report import RunFacts
from sparsetrain.report.blocks import MISSING, Curve, Lines, format_number
from sparsetrain.report.svg import to_svg
from sparsetrain.stats.number import Number, over_range
from sparsetrain.store import write_atomic
from sparsetrain.typed import entry_at, to_dict

SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class PlotSweepRun:
    """Which sweeps, and what of them."""

    sweeps: list[str] = field(default_factory=list[str])
    """Folders of sweeps (`hydra.sweep.dir`, or `runs/<experiment>/multirun/<stamp>`)."""
    x: str = "optim.lr_peak"
    """Key that the sweeps vary, with numbers for values."""
    y: str = "training.val_loss.mixed"
    """Place of a number in report.json."""
    out: str = ""
    """File of the picture; the numbers stand beside it, ending in .json. Empty: sweep.svg in the first folder."""
    commit: str = ""
    """Of the code that ran, for the record."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """Runs that differ in their seed alone."""

    x: float
    y: Number


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """What is written."""

    run: RunFacts
    commit: str
    commands: tuple[str, ...]
    """That trained the runs."""
    x: str
    y: str
    curves: Mapping[str, tuple[Point, ...]]


def jobs_of(sweep: Path) -> list[tuple[Path, Job]]:
    """Folders of a sweep's runs and how each was asked for.

    Raises:
        ValueError: no sweep there.
    """
    folders = sorted((file.parent for file in sweep.glob("*/job.json")), key=lambda folder: (len(folder.name), folder))
    if not folders:
        raise ValueError(
            f"sweeps: {sweep} holds no runs of a sweep (<number>/job.json); give the folder of `train.py -m`"
        )
    return [(folder, Job.load(folder)) for folder in folders]


def place_of(job: Job, x: str, sweep: Path) -> tuple[float, str]:
    """Where a run stands: its x, and the other keys that vary but for the seed, in words.

    Raises:
        ValueError: x was not given, or is no number.
    """
    given, varying = (
        dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
        for overrides in (job.overrides, job.varying)
    )
    if x not in given | varying:
        raise ValueError(
            f"x={x} is no key that {sweep} was given; its runs differ in {', '.join(varying) or 'nothing'}"
        )
    value = (given | varying)[x]
    try:
        return float(value), shortened(f"{key}={value}" for key, value in varying.items() if key not in (x, SEED))
    except ValueError:
        raise ValueError(f"x={x} has values that are no numbers in {sweep}: {value}; choose another key") from None


def value_of(folder: Path, y: str) -> tuple[float, str] | None:
    """The number at `y` of a run's report and its unit; None where there is no report, or no such number in it."""
    file = folder / "report.json"
    if not file.is_file():
        return None
    try:
        found = entry_at(json.loads(file.read_bytes()), y)
        return None if found["value"] is None else (float(found["value"]), str(found["unit"]))
    except (ValueError, KeyError, TypeError):
        return None


def picture(found: SweepFile, unit: str) -> Lines:
    """A curve per combination of the other keys."""
    return Lines(
        title=f"{found.y} against {found.x}",
        x_label=found.x,
        y_label=unit,
        log_x=all(point.x > 0 for points in found.curves.values() for point in points),
        curves=tuple(
            Curve(
                name=name,
                x=tuple(point.x for point in points),
                y=tuple(point.y.value for point in points),
                lo=tuple(point.y.lo for point in points) if any(point.y.lo is not None for point in points) else (),
                hi=tuple(point.y.hi for point in points) if any(point.y.hi is not None for point in points) else (),
            )
            for name, points in found.curves.items()
        ),
    )


def table(curves: Mapping[str, Iterable[Point]]) -> str:
    """A line per curve, a column per x; the lowest value of a curve is starred."""
    columns = sorted({point.x for points in curves.values() for point in points})
    width = max(map(len, curves))
    lines = [" " * width + "".join(f"{x:>11g}" for x in columns)]
    for name, points in curves.items():
        at = {point.x: point.y.value for point in points}
        best = min(at, key=lambda x: at[x] or 0)
        cells = [f"{format_number(at[x])}{'*' if x == best else ' '}" if x in at else f"{MISSING} " for x in columns]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>11}" for cell in cells))
    return "\n".join(lines)


@entry(PlotSweepRun, "plot_sweep", literal=("x", "y", "out", "commit"))
def main(config: PlotSweepRun, run_dir: Path) -> None:
    """Reads, draws, prints."""
    if not config.sweeps:
        raise ValueError("sweeps=[] names none; give sweeps=[<folder of a sweep>,...]")
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    units: set[str] = set()
    commands: list[str] = []
    n_left_out = 0
    for sweep in map(Path, config.sweeps):
        prefix = f"{sweep.name} " if len(config.sweeps) > 1 else ""
        for folder, job in jobs_of(sweep):
            x, words = place_of(job, config.x, sweep)
            read = value_of(folder, config.y)
            if read is None:
                n_left_out += 1
                continue
            values[f"{prefix}{words}".strip() or sweep.name][x].append(read[0])
            units.add(read[1])
            commands += [] if job.command in commands else [job.command]
    if not values:
        raise ValueError(
            f"y={config.y} is in no report of the {n_left_out} runs; give the place of a number in report.json"
        )
    unit = "/".join(sorted(units))
    found = SweepFile(
        run=RunFacts.now(name="plot_sweep", command=command_line(), device="cpu"),
        commit=config.commit,
        commands=tuple(commands),
        x=config.x,
        y=config.y,
        curves={
            name: tuple(Point(x=x, y=over_range(points[x], unit)) for x in sorted(points))
            for name, points in sorted(values.items())
        },
    )
    out = Path(config.out or Path(config.sweeps[0]) / "sweep.svg")
    write_atomic(out, to_svg(picture(found, unit)))
    write_atomic(out.with_suffix(".json"), json.dumps(to_dict(found), indent=1) + "\n")
    print(table(found.curves))
    print(
        f"{config.y} against {config.x}; * the lowest of its line"
        + (f"; {n_left_out} runs have no such number" if n_left_out else "")
    )
    print(f"written: {out}, {out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
