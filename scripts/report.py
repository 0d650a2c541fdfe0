"""Renders report.md and report.html of a run again, from its report.json alone.

python scripts/report.py run=runs/quickstart/<stamp>
python scripts/report.py run=zoo:python-hour open=true                       # a model that ships with the package, in a browser
python scripts/report.py run=runs/quickstart/<stamp> brief=numbers.json      # and the numbers of its tables as a small file
"""

import json
import os
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from circuits.brief import brief
from circuits.run import KINDS
from sparsetrain.entry import entry, require
from sparsetrain.report import load_report
from sparsetrain.report.render import render
from sparsetrain.store import write_atomic


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """Which run."""

    run: str = ""
    """Folder of a finished run, or zoo:<name>."""
    open: bool = False
    """Show the page in a browser, where there is one."""
    brief: str = ""
    """JSON file for what ran, losses and a line per task, without curves and drawings; empty: none."""


@entry(ReportRun, "report", run="changed", literal=("run", "brief"))
def main(config: ReportRun, run_dir: Path) -> None:
    """Renders and prints the paths."""
    run = Path(require("run", config.run))
    if not (run / "report.json").is_file():
        raise FileNotFoundError(2, "no report.json in this run; has it finished? It is written by train.py", str(run))
    report = load_report(run / "report.json", KINDS)
    paths = render(report, KINDS, run)
    if config.brief:
        write_atomic(Path(config.brief), json.dumps(brief(report), indent=1, ensure_ascii=False) + "\n")
        print(f"numbers: {config.brief}")
    print(f"report: {paths['html']}")
    if config.open and not shown(paths["html"]):
        print("no browser to be found here: open the page by its path")


def shown(page: Path) -> bool:
    """Opens a page in a browser with windows; False where there is none. One in the terminal would not run the page."""
    windows = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return windows and webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
