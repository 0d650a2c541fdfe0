"""Renders report.md and report.html of a run again, from its report.json alone.

python scripts/report.py run=runs/quickstart/<stamp>
"""

from dataclasses import dataclass
from pathlib import Path

from circuits.run import KINDS
from sparsetrain.entry import entry, require
from sparsetrain.report import load_report
from sparsetrain.report.render import render


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """Which run."""

    run: str = ""
    """Folder of a finished run."""


@entry(ReportRun, "report", run="changed", literal=("run",))
def main(config: ReportRun, run_dir: Path) -> None:
    """Renders and prints the paths."""
    run = Path(require("run", config.run))
    if not (run / "report.json").is_file():
        raise FileNotFoundError(2, "no report.json in this run; has it finished? It is written by train.py", str(run))
    paths = render(load_report(run / "report.json", KINDS), KINDS, run)
    print(f"report: {paths['html']}")


if __name__ == "__main__":
    main()
