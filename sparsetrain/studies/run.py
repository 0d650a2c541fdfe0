"""Runs the study that a config names: plan -> stages -> verdicts -> report."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sparsetrain.report import number, save_report
from sparsetrain.report.blocks import View
from sparsetrain.report.render import render
from sparsetrain.report.studies import lines_of
from sparsetrain.report.svg import to_svg
from sparsetrain.run import RunConfig, log_to_wandb, run_facts
from sparsetrain.studies.adaptive import AdaptiveStudy
from sparsetrain.studies.engine import Plan, Stage, preregister, run_stages
from sparsetrain.studies.familiarity import FamiliarityStudy
from sparsetrain.studies.knowledge_graph import KnowledgeGraphStudy
from sparsetrain.studies.shifts import ShiftsStudy
from sparsetrain.training.metrics import wandb_loggers
from sparsetrain.typed import plain


class Study(Protocol):
    """What a study brings along."""

    def plan(self) -> Plan: ...

    def stages(self) -> Sequence[Stage]: ...

    def conclude(self, plan: Plan, results: Mapping[str, Mapping[str, Any]], run_dir: Path) -> dict[str, Any]:
        """Sections of the report; `study` among them, as `sparsetrain.studies.engine.conclude` gives it, with figures and tables."""
        ...


STUDIES: Mapping[str, Callable[[RunConfig], Study]] = {
    "adaptive_sparsity": AdaptiveStudy,
    "familiarity": FamiliarityStudy,
    "knowledge_graph": KnowledgeGraphStudy,
    "shifts": ShiftsStudy,
}


def check(config: RunConfig) -> None:
    """Refuses what means nothing to a study; the ValueError says what to do instead."""
    if config.stop_at_step is not None or config.ckpt_path not in (None, "last"):
        raise ValueError(
            f"stop_at_step={config.stop_at_step} and ckpt_path={config.ckpt_path} are for single trainings; a study started "
            f"again in its folder (hydra.run.dir=<folder>) runs what is not done yet"
        )
    if config.trainer.devices > 1:
        raise ValueError(
            f"trainer.devices={config.trainer.devices}: a study trains on one device; sweep over seeds instead"
        )


def run_study(config: RunConfig, run_dir: Path, views: Mapping[str, View], command: str) -> dict[str, Any]:
    """Runs a study, resuming what the folder holds, and writes its report: the rules before the run, the rest after it.

    Args:
        config: the study and its rules; model, optimizer and trainer of every arm.
        run_dir: where everything goes.
        views: of the report's sections.
        command: the command line, for the report.

    Raises:
        ValueError: the folder holds a study under other rules; sizes that cannot hold.
    """
    check(config)
    started = STUDIES[config.study.kind](config)
    plan = started.plan()
    preregister(plan, run_dir)
    head = {"schema_version": 1, "run": plain(run_facts(config, command))}
    planned = {"plan": plan.section(), "plan_sha256": plan.sha256()}
    save_report({**head, "study": {**planned, "status": "planned"}}, run_dir / "report.json")
    results = run_stages(started.stages(), run_dir)
    trained = time.perf_counter()
    sections = started.conclude(plan, results, run_dir)
    report = {
        **head,
        **sections,
        "study": {**planned, "status": "done", **sections["study"]},
        "stages": [
            *({"name": name, "seconds": number(r["seconds"], "s", "measured")} for name, r in results.items()),
            {"name": "conclusions", "seconds": number(time.perf_counter() - trained, "s", "measured")},
        ],
    }
    for figure in report["study"]["figures"]:
        (run_dir / "figures").mkdir(exist_ok=True)
        (run_dir / "figures" / f"{figure['key']}.svg").write_text(to_svg(lines_of(figure)), encoding="utf-8")
    save_report(report, run_dir / "report.json")
    paths = render(report, views, run_dir)
    log_to_wandb(wandb_loggers(config.logger, run_dir, config.name), report, views, run_dir)
    print(f"report: {paths['html']}")
    return report
