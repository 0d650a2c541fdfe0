"""A run as the comparison reads it: whatever of config, report and metrics its folder holds, and words for what it does not."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from circuits.section import CircuitsSection
from circuits.side_by_side.section import Kind, RunEntry
from circuits.side_by_side.settings import Settings
from sparsetrain.data import DataSection
from sparsetrain.report import Kinds, Report, load_report
from sparsetrain.report.sections import TrainingSection
from sparsetrain.representation.section import MeasurementSection, RepresentationSection
from sparsetrain.stats.number import StepCurve
from sparsetrain.studies.section import StudySection
from sparsetrain.training.section import training_curves

T = TypeVar("T")
FILES = ("config.yaml", "report.json", "metrics.csv")
"""What makes a folder a run's: any of them."""


@dataclass(frozen=True, kw_only=True)
class SideRun:
    """One of the two runs."""

    folder: Path
    settings: Settings | None
    report: Report | None
    curves: Mapping[str, StepCurve]
    """Scalars of metrics.csv."""
    lacks: tuple[str, ...]

    def section(self, name: str, schema: type[T]) -> T | None:
        """A section of the report, if it is there."""
        return None if self.report is None or name not in self.report.sections else self.report.section(name, schema)

    @property
    def training(self) -> TrainingSection | None:
        return self.section("training", TrainingSection)

    @property
    def data(self) -> DataSection | None:
        return self.section("data", DataSection)

    @property
    def circuits(self) -> CircuitsSection | None:
        return self.section("circuits", CircuitsSection)

    @property
    def study(self) -> StudySection | None:
        return self.section("study", StudySection)

    @property
    def sparsity(self) -> RepresentationSection | None:
        """Of a training, or of a user's texts."""
        return self.section("representation", RepresentationSection) or self.section("measurement", MeasurementSection)

    @property
    def last_step(self) -> int | None:
        """Of metrics.csv."""
        return max((curve.step[-1] for curve in self.curves.values() if curve.step), default=None)

    @property
    def kind(self) -> Kind:
        read = {} if self.settings is None else self.settings.read
        study = read.get("study")
        if self.study is not None or (isinstance(study, Mapping) and study.get("kind", "none") != "none"):
            return "study"
        if self.training is not None or "trainer" in read or self.curves:
            return "training"
        return "measurement" if self.section("measurement", MeasurementSection) or "measure" in read else "unknown"

    def entry(self) -> RunEntry:
        """What the report says of the run itself."""
        run = None if self.report is None else self.report.run
        weights = None if self.report is None else self.report.weights
        measured, training = self.section("measurement", MeasurementSection), self.training
        n_params = training.n_params if training else measured.model.n_params if measured else None
        return RunEntry(
            folder=str(self.folder),
            kind=self.kind,
            name=run and run.name,
            created=run and run.created,
            version=run and run.version,
            gates=run and run.gates,
            step=weights.step if weights else self.last_step,
            n_params=n_params,
            weights_sha256=weights and weights.sha256,
            lacks=self.lacks,
        )


def read_run(folder: Path, settings: Settings | str, kinds: Kinds) -> SideRun:
    """What a folder holds of a run, finished or not.

    Args:
        folder: of a training, a study or a measurement.
        settings: of its config; or why there are none, in words.
        kinds: of the sections that its report may have.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a folder that is no run's.
    """
    if not folder.is_dir():
        raise FileNotFoundError(2, "no such run folder", str(folder))
    if not any((folder / name).is_file() for name in FILES):
        raise ValueError(
            f"{folder} is no run's folder: it holds none of {', '.join(FILES)}; give runs/<experiment>/<stamp>"
        )
    lacks: list[str] = [] if isinstance(settings, Settings) else [settings]
    report: Report | None = None
    curves: Mapping[str, StepCurve] = {}
    if (path := folder / "report.json").is_file():
        try:
            report = load_report(path, kinds)
        except ValueError as error:
            lacks.append(f"its report cannot be read: {error}")
    else:
        lacks.append("no report.json: the run has not finished")
    if (path := folder / "metrics.csv").is_file():
        try:
            curves = training_curves(path)
        except ValueError as error:
            lacks.append(f"its metrics cannot be read: {error}")
    read = SideRun(
        folder=folder,
        settings=settings if isinstance(settings, Settings) else None,
        report=report,
        curves=curves,
        lacks=tuple(lacks),
    )
    if read.kind == "training" and not curves:
        read = replace(read, lacks=(*lacks, "no metrics.csv"))
    return read
