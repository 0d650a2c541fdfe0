"""A whole run: training, circuits as they form, circuits at the end, report.

`train_and_read` is one model; `circuits.arms` calls it for several.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from circuits.arms import ArmsConfig, run_arms, smoke
from circuits.formation import FormationConfig, formation_section, halving_steps, look
from circuits.stage import N_TEXT_WINDOWS, TEXT_SOURCE, CircuitsConfig, describe_task, run_circuits
from circuits.views import VIEWS as CIRCUIT_VIEWS
from sparsetrain.data import Corpus
from sparsetrain.model import Transformer
from sparsetrain.report import save_report
from sparsetrain.report.blocks import View
from sparsetrain.report.render import render
from sparsetrain.report.sections import VIEWS as TRAINING_VIEWS
from sparsetrain.run import MEANS_SOURCE, RunConfig, Stages, Watch, describe_run, log_to_wandb, text_windows, train
from sparsetrain.training.callbacks import AtSteps
from sparsetrain.training.fit import Exporter
from sparsetrain.training.metrics import wandb_loggers

VIEWS: Mapping[str, View] = {**TRAINING_VIEWS, **CIRCUIT_VIEWS}


@dataclass(frozen=True, kw_only=True)
class TrainRun(RunConfig):
    """A training run and the circuits looked for in its model."""

    circuits: CircuitsConfig = field(default_factory=CircuitsConfig)
    formation: FormationConfig = field(default_factory=FormationConfig)
    arms: ArmsConfig = field(default_factory=ArmsConfig)

    def __post_init__(self) -> None:
        missing = set(self.formation.tasks) - set(self.circuits.names())
        if missing:
            raise ValueError(
                f"formation.tasks={list(self.formation.tasks)} has {sorted(missing)}, which circuits.tasks has not; add "
                f"them there, the finished model's circuits are compared with"
            )


def run(config: TrainRun, run_dir: Path, command: str) -> dict[str, Any] | None:
    """One model, or every arm of a comparison: see `train_and_read` and `circuits.arms`.

    Raises:
        ValueError: stop_at_step with arms.
    """
    if not config.arms.models:
        return train_and_read(config, run_dir, command)
    if config.stop_at_step is not None:
        raise ValueError(
            "stop_at_step cannot be combined with arms.models; interrupt the run, the same command resumes it"
        )
    stages = Stages()
    single = replace(config, arms=ArmsConfig(), logger=replace(config.logger, wandb="disabled"))

    def read(arm: TrainRun, folder: Path) -> dict[str, Any] | None:
        with stages(folder.name):
            return train_and_read(arm, folder, command)

    report = {
        "schema_version": 1,
        "run": describe_run(config, command),
        "arms": run_arms(smoke(config.arms) if config.debug else config.arms, single, run_dir, read),
        "stages": stages.section(),
    }
    publish(report, run_dir, wandb_loggers(config.logger, run_dir, config.name))
    return report


def publish(report: dict[str, Any], run_dir: Path, loggers: list[Any]) -> None:
    """Writes report.json, renders it, sends it to W&B and says where it is."""
    save_report(report, run_dir / "report.json")
    paths = render(report, VIEWS, run_dir)
    log_to_wandb(loggers, report, VIEWS, run_dir)
    print(f"report: {paths['html']}")


def train_and_read(config: TrainRun, run_dir: Path, command: str) -> dict[str, Any] | None:
    """Runs every stage of one model and writes the report.

    Args:
        config: the whole run.
        run_dir: where everything goes.
        command: the command line, for the report.

    Returns:
        The report; None where the run was stopped before its schedule ended.
    """
    done = train(config, run_dir, command, watch=_watch(config, run_dir))
    if done.export is None:
        print(f"stopped at step {config.stop_at_step}; continue with ckpt_path=last hydra.run.dir={run_dir}")
        return None
    report = done.report
    if config.circuits.tasks:
        with done.stages("circuits"):
            report["circuits"] = run_circuits(
                done.export,
                run_dir,
                config.circuits,
                lambda: text_windows(done.corpus, config, "means", config.circuits.n_means_windows),
                windows_source=MEANS_SOURCE,
                text=lambda: text_windows(done.corpus, config, "heldout", N_TEXT_WINDOWS),
                text_source=TEXT_SOURCE,
                on_task=lambda name, result: print(describe_task(name, result)),
                progress=config.trainer.progress,
            )
    if config.formation.tasks:
        report["formation"] = formation_section(run_dir, config.formation.tasks, config.trainer.n_steps, report)
    report["stages"] = done.stages.section()
    publish(report, run_dir, done.loggers)
    return report


def _watch(config: TrainRun, run_dir: Path) -> Watch:
    def watch(corpus: Corpus, export: Exporter) -> list[AtSteps]:
        if not config.formation.tasks:
            return []

        def windows() -> Any:
            return text_windows(corpus, config, "means", config.circuits.n_means_windows)

        def look_at(model: Transformer, step: int) -> Mapping[str, float]:
            folder = export(model, step)
            return look(step, folder, run_dir, config.formation, config.circuits, windows, MEANS_SOURCE)

        return [AtSteps("formation", halving_steps(config.trainer.n_steps, config.formation.n_looks), look_at)]

    return watch
