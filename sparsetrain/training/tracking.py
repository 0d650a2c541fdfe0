"""The run's record at a tracker (W&B, MLflow, TensorBoard): started before the training, closed whatever happens.

    with tracking(config.logger, run_dir, name=..., kind="train", settings=...) as trackers:
        ...                                              # trackers go to the trainer as loggers
        send_report(trackers, report, kinds, run_dir)

1. What cannot start is an error before anything is trained, in one line; under `logger.wandb=auto` it is a warning, and W&B
   goes on offline.
2. Once it runs, a tracker never costs the run: its first failure is a warning, after which nothing more is sent there.
   metrics.csv and the report on disk are complete in any case.
3. At the end of the block its run is closed, as failed where the block was left by an exception; so the next job in this
   process starts one of its own.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from sparsetrain.job import Job, is_main_process, redact
from sparsetrain.report import Kinds, Report
from sparsetrain.report.wandb_log import WandbMode, WandbRun, finish_run, log_report, reason, report_files
from sparsetrain.store import write_atomic
from sparsetrain.typed import Above0, from_dict

log = logging.getLogger(__name__)

RunKind = Literal["train", "study", "find_circuits"]
IDS = "trackers.json"


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    """Where scalars and reports go beside metrics.csv. ours"""

    kind: Literal["wandb", "mlflow", "tensorboard", "none"] = "wandb"
    """tensorboard holds scalars alone; the others get the report too."""
    wandb: WandbMode = "auto"
    """auto: online when logged in (WANDB_MODE, where set, decides), offline otherwise and whenever W&B fails."""
    project: str = "sparsetrain"
    """W&B's project, MLflow's experiment."""
    timeout: Above0 = 30.0
    """Seconds that W&B's server may take to answer at the start."""


class Tracker(Logger):
    """A Lightning logger that cannot harm the run, with the report and the end of the run beside it.

    Args:
        title: what messages call it.
        inner: gets the scalars.
        send: gets report, kinds and the path of report.html.
        close: gets whether the run failed.
    """

    def __init__(
        self,
        title: str,
        inner: Logger,
        send: Callable[[Report, Kinds, Path], object],
        close: Callable[[bool], object],
    ) -> None:
        super().__init__()
        self.title, self.inner, self.send, self.close = title, inner, send, close
        self.failed = False

    @property
    def name(self) -> str:
        return self.title

    @property
    def version(self) -> str:
        return ""

    def attempt(self, call: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """Calls, unless something failed before; an exception is one warning."""
        if self.failed:
            return
        try:
            call(*arguments, **named)
        except Exception as error:
            self.failed = True
            log.warning(
                "%s failed (%s): nothing more is sent there; metrics.csv and the report in the run folder are complete",
                self.title,
                reason(error),
            )

    def end(self, run_failed: bool) -> None:
        """Closes its run, also where something failed before: the next run in this process has to be one of its own."""
        if not self.failed:
            self.attempt(self.close, run_failed)
            return
        with suppress(Exception):  # has been said
            self.close(run_failed)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.attempt(self.inner.log_metrics, dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The settings were given at the start."""

    def finalize(self, status: str) -> None:
        """The run goes on after its training: `close` ends it."""


@contextmanager
def tracking(
    config: LoggerConfig,
    run_dir: Path,
    *,
    name: str,
    kind: RunKind,
    settings: Mapping[str, Any],
    tags: Sequence[str] = (),
    resume: bool = False,
) -> Iterator[list[Tracker]]:
    """The trackers of a run while it lasts: one, or none where it is switched off and in all but the main process.

    Args:
        config: which one.
        run_dir: gets its files; `config.yaml` there, as it was composed, is the run's config.
        name: of the experiment.
        kind: what is done.
        settings: the run's config where the folder has no config.yaml.
        tags: to find the run by.
        resume: go on with the tracker's run that this folder holds, if it holds one.

    Raises:
        ValueError: it cannot start, and is not `auto`; says what to do.
    """
    tracker = None
    if config.kind != "none" and is_main_process():
        tracker = STARTS[config.kind](
            Start(config, run_dir, name, kind, composed(run_dir, settings), tuple(tags), resume)
        )
    failed = True
    try:
        yield [] if tracker is None else [tracker]
        failed = False
    finally:
        if tracker is not None:
            tracker.end(failed)


def send_report(trackers: Sequence[Tracker], report: Report, kinds: Kinds, run_dir: Path) -> None:
    """Sends a report, rendered in `run_dir`, wherever it can go."""
    for tracker in trackers:
        tracker.attempt(tracker.send, report, kinds, run_dir / "report.html")


def composed(run_dir: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The run's config without secrets: as composed, with interpolations unresolved, where the folder has it."""
    path = run_dir / "config.yaml"
    return redact(yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else settings)


@dataclass(frozen=True)
class Start:
    """What a tracker is started with."""

    config: LoggerConfig
    run_dir: Path
    name: str
    kind: RunKind
    settings: Mapping[str, Any]
    tags: tuple[str, ...]
    resume: bool

    @property
    def job(self) -> Job:
        """How the run was asked for."""
        return Job.load(self.run_dir)

    @property
    def title(self) -> str:
        """Of the run."""
        title = self.job.title(self.name)
        return title if self.kind == "train" else f"{title} ({self.kind})"

    @property
    def group(self) -> str | None:
        """The sweep."""
        return None if self.job.sweep is None else Path(self.job.sweep).name

    @property
    def id(self) -> str | None:
        """Of the tracker's run to go on with."""
        return kept_ids(self.run_dir).get(self.key) if self.resume else None

    @property
    def key(self) -> str:
        """Names the run in the folder's list of them."""
        return f"{self.config.kind}/{self.kind}"

    def keep(self, id: str) -> None:
        """Notes the run's id in the folder."""
        ids = {**kept_ids(self.run_dir), self.key: id}
        write_atomic(self.run_dir / IDS, json.dumps(ids, indent=1) + "\n")


def kept_ids(run_dir: Path) -> dict[str, str]:
    """Ids of the trackers' runs of a folder: `<tracker>/<what was done>` -> id."""
    path = run_dir / IDS
    return from_dict(dict[str, str], json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def start_wandb(start: Start) -> Tracker | None:
    """A run of W&B; None where it is disabled."""
    config = start.config
    described = WandbRun(
        folder=start.run_dir,
        project=config.project,
        name=start.title,
        config=start.settings,
        id=start.id,
        group=start.group,
        kind=start.kind,
        tags=start.tags,
        timeout=config.timeout,
    )
    run = described.start(config.wandb)
    if run is None:
        return None
    start.keep(run.id)
    logger = WandbLogger(experiment=run, save_dir=start.run_dir)
    return Tracker("W&B", logger, partial(log_report, run), partial(finish_run, run))


def start_mlflow(start: Start) -> Tracker:
    """A run of MLflow, where MLFLOW_TRACKING_URI says or MLflow itself; the report's files become artifacts."""
    config = start.config
    with installed("mlflow"):
        from mlflow import get_tracking_uri

        logger = MLFlowLogger(
            experiment_name=config.project,
            run_name=start.title,
            tracking_uri=get_tracking_uri(),
            tags={"kind": start.kind, **({} if start.group is None else {"group": start.group})},
            run_id=start.id,
        )
        assert logger.run_id is not None
        start.keep(logger.run_id)
        if start.id is None:
            logger.log_hyperparams(dict(start.settings))

    def send(report: Report, kinds: Kinds, html: Path) -> None:
        for path in report_files(html.parent):
            parent = path.parent.relative_to(html.parent)
            logger.experiment.log_artifact(logger.run_id, str(path), None if parent == Path() else str(parent))

    return Tracker("MLflow", logger, send, lambda failed: logger.finalize("failed" if failed else "success"))


def start_tensorboard(start: Start) -> Tracker:
    """Event files in `<run_dir>/tensorboard/`. They hold no files: the report stays in the run folder."""
    with installed("tensorboard"):
        logger = TensorBoardLogger(save_dir=start.run_dir, name="tensorboard", version="")
        logger.log_hyperparams(dict(start.settings))
    return Tracker("TensorBoard", logger, lambda report, kinds, html: None, lambda failed: logger.finalize("success"))


@contextmanager
def installed(library: str) -> Iterator[None]:
    """What goes wrong as a tracker starts, as one line.

    Raises:
        ValueError: the library is missing, or it cannot start; says what to do.
    """
    try:
        yield
    except ModuleNotFoundError:
        raise ValueError(f"logger={library} needs another package: pip install 'sparsetrain[{library}]'") from None
    except Exception as error:
        raise ValueError(f"logger={library} cannot start: {reason(error)}; logger=none goes without it") from error


STARTS: Mapping[str, Callable[[Start], Tracker | None]] = {
    "wandb": start_wandb,
    "mlflow": start_mlflow,
    "tensorboard": start_tensorboard,
}
