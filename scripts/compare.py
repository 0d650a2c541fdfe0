"""Two runs side by side: in which settings they differ, which is better and by how much, and what their circuits share.

python scripts/compare.py a=runs/quickstart/<stamp> b=runs/dense_baseline/<stamp>

The runs may be trainings, studies or measurements (scripts/measure_sparsity.py), finished or not; what one lacks is said. The short
answer is printed, the page written to runs/compare/<stamp> (hydra.run.dir=<folder> for another). Every difference is b - a.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from circuits.run import KINDS, TrainRun
from circuits.side_by_side.compare import compare
from circuits.side_by_side.run import SideRun, read_run
from circuits.side_by_side.settings import Settings
from circuits.views.side_by_side import overview
from sparsetrain.data.texts import TextsConfig
from sparsetrain.entry import entry, load_settings, require
from sparsetrain.job import command_line
from sparsetrain.report import Report, RunFacts, StageTime, save_report
from sparsetrain.report.render import render
from sparsetrain.representation.survey import SurveyConfig
from sparsetrain.stats.number import number


@dataclass(frozen=True, kw_only=True)
class CompareRun:
    """Which two."""

    a: str = ""
    """Folder of a run."""
    b: str = ""
    """Folder of another."""
    overwrite: bool = False
    """Replace the comparison that the folder of this one holds."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The settings of a measurement that have defaults."""

    texts: TextsConfig
    measure: SurveyConfig


SCHEMAS = {"trainer": TrainRun, "measure": Measurement}
"""Key that only one kind of run has -> its settings."""


def read(folder: Path) -> SideRun:
    """A run with its settings, or the reason why they cannot be read."""
    try:
        written, with_defaults = load_settings(folder, SCHEMAS)
        return read_run(folder, Settings(written=written, read=with_defaults), KINDS)
    except FileNotFoundError:
        return read_run(folder, "no config.yaml", KINDS)
    except ValueError as error:
        return read_run(folder, str(error), KINDS)


@entry(CompareRun, "compare", new_run=True, literal=("a", "b"))
def main(config: CompareRun, run_dir: Path) -> None:
    """Compares, prints the short answer, writes the page."""
    started = time.perf_counter()
    folders = [Path(require(side, folder)) for side, folder in (("a", config.a), ("b", config.b))]
    section = compare(*map(read, folders))
    report = Report(
        run=RunFacts.now(
            name=" and ".join("/".join(folder.resolve().parts[-2:]) for folder in folders),
            command=command_line(),
            device="cpu",
        ),
        stages=(StageTime(name="compare", seconds=number(time.perf_counter() - started, "s", "measured")),),
        sections={"side_by_side": section},
    )
    save_report(report, run_dir / "report.json")
    paths = render(report, KINDS, run_dir)
    print("\n".join(overview(section)))
    print(f"report: {paths['html']}")


if __name__ == "__main__":
    main()
