"""A run as stages, and the report that grows by them: on disk after each, with what is still missing and why.

    stages = Stages(run_dir, kinds, to_come=("circuits",))
    with stages("training"):
        ...
    stages.begin(Report(...))             # from here on there is something to lose
    with stages("circuits"):
        stages.add(circuits=section)
    stages.write()                        # whole, and nothing is missing

A stage that fails is named in the report, with the one line of its exception, which goes on to the caller.
"""

import logging
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsetrain.report import Kinds, Missing, Report, StageTime, load_report, save_report
from sparsetrain.report.render import render
from sparsetrain.stats.number import number
from sparsetrain.typed import one_line

log = logging.getLogger(__name__)

NOT_REACHED = "not reached when this was written"
PAGE = "page"
SHARE = 0.05  # ours: of a run's time that may go into writing what is written again later


class Stages:
    """The stages of a run: how long each took, and the report so far.

    Args:
        folder: of the run.
        kinds: of the report's sections.
        to_come: stages after `begin` that a finished run has; the report misses them until they are done.
    """

    def __init__(self, folder: Path, kinds: Kinds, to_come: Sequence[str] = ()) -> None:
        self.folder = folder
        self.kinds = kinds
        self.seconds: dict[str, float] = {}
        self._missing = dict.fromkeys(to_come, NOT_REACHED)
        self._begun: Report | None = None
        self._written = _Cost()
        self._rendered = _Cost()

    @property
    def report(self) -> Report:
        """The report as it is now."""
        assert self._begun is not None, "the report begins with what the first stages leave"
        times = (StageTime(name=n, seconds=number(s, "s", "measured")) for n, s in self.seconds.items())
        missing = (Missing(stage=stage, reason=reason) for stage, reason in self._missing.items())
        return replace(self._begun, stages=(*self._begun.stages, *times), missing=tuple(missing))

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        """A stage that is timed, named on the terminal and, once the report has begun, written."""
        log.info("%s ...", name)
        started = time.perf_counter()
        with self.part(name):
            yield
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        log.info("%s took %.1f s", name, self.seconds[name])

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """What the report misses until the block is done, and says why if it is not."""
        try:
            yield
        except BaseException as error:
            self._missing[name] = one_line(error) if isinstance(error, Exception) else "interrupted"
            if self._begun is not None:
                try:
                    self.write()
                except Exception as second:
                    log.warning("the report could not be written: %s", one_line(second))
            raise
        self._missing.pop(name, None)
        if self._begun is not None:
            self._keep()

    def begin(self, report: Report) -> None:
        """The report with what is known by now.

        What an earlier command missed is still missing, and what it has left of the same weights stays until a stage replaces it.
        """
        before = earlier(self.folder, self.kinds)
        if before is not None and before.weights is not None and before.weights == report.weights:
            report = replace(report, sections={**before.sections, **report.sections})
        self._begun = report
        self._missing = {**{entry.stage: entry.reason for entry in report.missing}, **self._missing}
        self._keep()

    def add(self, **sections: Any) -> None:
        """Sections that take the place of those of their names. They are written at once where that costs little, else with their stage."""
        assert self._begun is not None
        self._begun = self._begun.plus(**sections)
        if self._written.is_due():
            self._save()

    def write(self) -> dict[str, Path]:
        """Writes report.json, then the pages; returns {"md": path, "html": path}."""
        self._missing.pop(PAGE, None)
        self._save()
        try:
            with self._rendered:
                return render(self.report, self.kinds, self.folder)
        except Exception as error:
            self._missing[PAGE] = one_line(error)
            self._save()
            raise

    def _save(self) -> None:
        with self._written:
            save_report(self.report, self.folder / "report.json")

    def _keep(self) -> None:
        """Writes what there is while the run goes on; the page where it costs little, and the run goes on without it."""
        self._save()
        if self._rendered.is_due():
            try:
                with self._rendered:
                    render(self.report, self.kinds, self.folder)
            except Exception as error:
                log.warning("the page could not be written: %s", one_line(error))


def earlier(folder: Path, kinds: Kinds) -> Report | None:
    """The report that a folder holds; None where there is none that this version reads."""
    try:
        return load_report(folder / "report.json", kinds)
    except (OSError, ValueError):
        return None


class _Cost:
    """What the last writing of a file cost, and when it was."""

    def __init__(self) -> None:
        self.seconds, self.at = 0.0, float("-inf")

    def is_due(self) -> bool:
        """Whether writing it again stays within the share of time that it may take."""
        return self.seconds <= SHARE * (time.perf_counter() - self.at)

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.at = time.perf_counter()
        self.seconds = self.at - self._started
