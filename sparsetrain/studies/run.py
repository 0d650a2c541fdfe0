"""Runs a study: plan -> stages -> verdicts -> report."""

import time
from pathlib import Path
from typing import Any

from sparsetrain.report import Kinds, Report, StageTime, save_report
from sparsetrain.report.render import render
from sparsetrain.report.svg import to_svg
from sparsetrain.run import run_facts, trackers_of
from sparsetrain.stats.number import number
from sparsetrain.store import write_atomic
from sparsetrain.studies.engine import preregister, run_stages
from sparsetrain.studies.section import Plan, StudySection
from sparsetrain.studies.study import Study
from sparsetrain.training.tracking import send_report


def run_study(study: Study, run_dir: Path, kinds: Kinds, command: str) -> Report:
    """Runs a study, going on with what the folder holds, and writes its report: the rules before the run, the rest after it.

    Args:
        study: what is asked, of which config.
        run_dir: where everything goes.
        kinds: of the report's sections.
        command: the command line, for the report.

    Raises:
        ValueError: the folder holds a study under other rules; sizes that cannot hold; settings that mean nothing to a study.
    """
    config = study.config
    if config.stop_at_step is not None or config.ckpt_path not in (None, "last"):
        raise ValueError(
            f"stop_at_step={config.stop_at_step} and ckpt_path={config.ckpt_path} are for single trainings; a study goes on where it "
            f"stopped with hydra.run.dir=<folder> ckpt_path=last"
        )
    if config.trainer.devices > 1:
        raise ValueError(
            f"trainer.devices={config.trainer.devices}: a study trains on one device; sweep over seeds instead"
        )
    plan = study.plan()
    planned = preregister(plan, run_dir)
    with trackers_of(config, run_dir, "study") as trackers:
        report, paths = _stages(study, plan, planned, run_dir, kinds, command)
        send_report(trackers, report, kinds, run_dir)
    print(f"report: {paths['html']}")
    return report


def _stages(
    study: Study, plan: Plan, planned: StudySection, run_dir: Path, kinds: Kinds, command: str
) -> tuple[Report, dict[str, Path]]:
    config = study.config
    facts = run_facts(config, command)
    report = Report(run=facts, sections={"study": planned})
    save_report(report, run_dir / "report.json")
    results = run_stages(study.stages(), run_dir)
    trained = time.perf_counter()
    section = study.conclude(plan, run_dir, results)
    sections: dict[str, Any] = {**study.sections(run_dir, results, section), "study": section}
    seconds = {name: result.seconds for name, result in results.items()}
    seconds["conclusions"] = time.perf_counter() - trained
    times = [StageTime(name=name, seconds=number(s, "s", "measured")) for name, s in seconds.items()]
    report = report.plus(*times, **sections)
    for figure in section.figures:
        write_atomic(run_dir / "figures" / f"{figure.key}.svg", to_svg(figure.lines()))
    save_report(report, run_dir / "report.json")
    paths = render(report, kinds, run_dir)
    return report, paths
