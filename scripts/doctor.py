"""Is this machine fit for a run, and is what a run has left whole? A line per finding: ok, warning or problem, and what to do.

    python scripts/doctor.py                                   versions, devices, kernels, disks, tracker, cached corpora
    python scripts/doctor.py run=runs/quickstart/<stamp>       and a run: what is whole, what can be gone on with, by which command
    python scripts/doctor.py run=<checkpoint or export>        and one checkpoint or export
    python scripts/doctor.py json=doctor.json                  the same for machines

Changes nothing and asks no server. Exit code 1 where there is a problem.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from circuits.doctor import to_lines
from circuits.doctor.files import examine_files
from circuits.doctor.machine import examine_machine
from circuits.run import KINDS
from sparsetrain.entry import conf_dir, entry, load_run
from sparsetrain.run import RunConfig, cache_dir
from sparsetrain.store import write_atomic
from sparsetrain.typed import one_line, to_dict


@dataclass(frozen=True, kw_only=True)
class DoctorRun:
    """What is looked at."""

    run: str = ""
    """Folder of a run or of an export, or a checkpoint; empty: the machine alone."""
    cache_dir: str = RunConfig.cache_dir
    """Tokenised corpora; of a run: where its config says."""
    json: str = ""
    """Where the findings are also written for machines; empty: nowhere."""


@entry(DoctorRun, "doctor", literal=("run", "json", "cache_dir"))
def main(config: DoctorRun, run_dir: Path) -> None:
    """Looks, prints, and says by the exit code whether there is a problem."""
    settings, path = RunConfig(cache_dir=config.cache_dir), Path(config.run)
    unreadable = ""
    if config.run and path.is_dir() and not (path / "model.safetensors").is_file():
        try:
            settings = load_run(RunConfig, path)
        except (OSError, ValueError) as error:
            unreadable = one_line(error)
    written = path if config.run and path.is_dir() else Path("runs")
    chapters = examine_machine(cache_dir(settings), written, conf_dir().parent / "constraints.txt")
    if config.run:
        chapters.append(examine_files(path, KINDS, cache_dir(settings), unreadable))
    print("\n".join(to_lines(chapters)))
    if config.json:
        write_atomic(Path(config.json), json.dumps([to_dict(chapter) for chapter in chapters], indent=1) + "\n")
    if any(finding.level == "problem" for chapter in chapters for finding in chapter.findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
