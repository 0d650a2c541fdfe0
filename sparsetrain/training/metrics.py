"""Where the scalars of a training go: metrics.csv, and the loggers beside it."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from sparsetrain.store import write_atomic


class MetricsCSV(Logger):
    """Every scalar as a row `step,name,value` of `metrics.csv`; a resumed run first drops the rows it will write again."""

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them."""

    @rank_zero_only
    def start_at(self, step: int) -> None:
        """Keeps the rows of steps up to and including `step` (0: starts the file anew)."""
        rows = [row for row in read_metrics(self.path) if row[0] <= step] if step and self.path.is_file() else []
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "name", "value"])
        writer.writerows([step, name, repr(value)] for step, name, value in rows)
        write_atomic(self.path, out.getvalue())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([step, name, repr(float(value))] for name, value in metrics.items() if name != "epoch")


def read_metrics(path: Path) -> list[tuple[int, str, float]]:
    """Rows `(step, name, value)` of a metrics.csv; a last one whose writing was interrupted is left out.

    Raises:
        ValueError: a line that is not `step,name,value`; the message names it.
    """
    head, *rows = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0].split("\n")
    found: list[tuple[int, str, float]] = []
    if head.strip() not in ("step,name,value", ""):
        raise ValueError(f"{path} does not begin with the line step,name,value: {head[:80]!r}")
    for number, row in enumerate(rows, 2):
        try:
            ((step, name, value),) = csv.reader([row])
            found.append((int(step), name, float(value)))
        except (ValueError, csv.Error):
            raise ValueError(f"{path}, line {number}, is not step,name,value: {row[:80]!r}") from None
    return found


def log_scalars(trainer: L.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Sends scalars to every logger of the training."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)


class ResumeLogs(L.Callback):
    """Cuts metrics.csv back to the step that the training starts from."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.start_at(trainer.global_step)
