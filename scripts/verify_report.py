"""Computes again, from saved files alone, everything that report.json says of circuits, and names what differs.

    python scripts/verify_report.py run=runs/quickstart/<stamp>

Weights, means, texts, the nodes of saved circuits (those of nonsense twins too) and all settings come from the run's folder; pairs are built anew,
calibrations fitted anew. Compared are whole entries: numbers with intervals and sizes of samples, statuses, verdicts, words, drawings;
and the files of the circuits. Number of threads and batch sizes are the recorded ones, so that on a CPU nothing differs; anything that
does, or that could not be recomputed, is named in a line and ends with exit code 1.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from circuits.edges import NO_EDGES
from circuits.run import KINDS
from circuits.verify import Difference, VerifiedRun, leaves, verify
from sparsetrain.entry import entry, require
from sparsetrain.report import load_report
from sparsetrain.typed import from_json

MAX_NAMED = 20
"""Leaves of a task that are named; the others are counted. ours"""


@dataclass(frozen=True, kw_only=True)
class VerifyRun:
    """Which run."""

    run: str = ""
    """Folder of a finished run."""


@entry(VerifyRun, "verify_report", run="read", literal=("run",))
def main(config: VerifyRun, run_dir: Path) -> None:
    """Prints a line per task, and what is wrong."""
    folder = Path(require("run", config.run))
    report = load_report(folder / "report.json", KINDS)
    if "circuits" not in report.sections:
        raise ValueError(f"run={folder}: its report holds no circuits; scripts/find_circuits.py finds some")
    torch.set_num_threads(report.run.n_threads)
    stored = from_json(dict[str, Any], folder / "report.json")["circuits"]
    try:
        run = VerifiedRun.load(folder)
    except FileNotFoundError:
        if NO_EDGES not in stored["definitions"]["kind"]:
            raise
        raise ValueError(
            f"run={folder} is of a model of somebody else (find_circuits.py model=hf:...), which is not recomputed; give a run of ours"
        ) from None
    n_wrong = 0
    if report.weights is not None and report.weights.sha256 != run.means.weights_sha256:
        say(
            [
                Difference(
                    file="report.json",
                    place="weights.sha256",
                    stored=report.weights.sha256,
                    recomputed=run.means.weights_sha256,
                )
            ]
        )
        n_wrong += 1
    for name, found in verify(run, stored):
        n_leaves = sum(1 for task in stored["tasks"] if task["task"] == name for _ in leaves(task))
        print(
            f"{name}: {n_leaves:,} values, {len(found):,} differ" if n_leaves else f"{name}: {len(found):,} differ",
            flush=True,
        )
        say(found)
        n_wrong += len(found)
    print(f"{sum(1 for _ in leaves(stored)):,} values recomputed, {n_wrong:,} differ")
    if n_wrong:
        sys.exit(1)


def say(found: list[Difference]) -> None:
    """Names differences on stderr, one a line."""
    for difference in found[:MAX_NAMED]:
        print(f"not as recomputed: {difference}", file=sys.stderr)
    if len(found) > MAX_NAMED:
        print(f"... and {len(found) - MAX_NAMED:,} more", file=sys.stderr)


if __name__ == "__main__":
    main()
