"""Runs a study: plan -> stages -> verdicts -> report."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsetrain.report import Kinds, Report
from sparsetrain.report.stages import Stages, earlier
from sparsetrain.report.svg import intervals_svg, to_svg
from sparsetrain.run import run_facts, trackers_of
from sparsetrain.store import write_atomic
from sparsetrain.studies.engine import preregister, run_stages
from sparsetrain.studies.page import overviews
from sparsetrain.studies.section import StudySection
from sparsetrain.studies.study import Study
from sparsetrain.training.fit import set_arithmetic
from sparsetrain.training.tracking import send_report

log = logging.getLogger(__name__)
CONCLUSIONS = "conclusions"


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
    if config.init_from is not None:
        raise ValueError(
            f"init_from={config.init_from} is for single trainings: every arm of a study starts from weights of its own"
        )
    config.trainer.check()
    if config.trainer.n_ranks > 1:
        raise ValueError(
            f"trainer.devices={config.trainer.devices}: a study trains on one device; sweep over seeds instead"
        )
    if config.trainer.minutes is not None and not study.in_minutes:
        raise ValueError(
            f"trainer.minutes={config.trainer.minutes}: a study's plan has its steps; give trainer.n_steps, and trainer.minutes=null"
        )
    set_arithmetic(config.trainer)  # of studies that train nothing too
    rules = study.rules
    asks_seeds = any(one.rule.n_agreeing is not None for one in study.claims())
    if asks_seeds and 2 * rules.n_agreeing <= rules.n_seeds:
        raise ValueError(
            f"study.n_agreeing={rules.n_agreeing} of study.n_seeds={rules.n_seeds} are no majority: seeds could agree on both signs; "
            f"give study.n_agreeing={rules.n_seeds // 2 + 1} to {rules.n_seeds}"
        )
    if asks_seeds and rules.n_agreeing > rules.n_seeds:
        log.warning(
            "study.n_agreeing=%d seeds must agree and study.n_seeds=%d are run: no claim can be supported; give study.n_agreeing=%d or more seeds",
            rules.n_agreeing, rules.n_seeds, rules.n_seeds,
        )  # fmt: skip
    plan = study.plan()
    planned = preregister(plan, run_dir)
    with trackers_of(config, run_dir, "study") as trackers:
        stages = Stages(run_dir, kinds, (*(stage.name for stage in study.stages()), CONCLUSIONS))
        stages.begin(Report(run=run_facts(config, command), sections=known_sections(planned, run_dir, kinds)))
        if line := study.announce(run_dir):
            print(line, flush=True)
        study = study.begun(run_dir)
        results = run_stages(study.stages(), run_dir, stages.part)
        stages.seconds |= {name: result.seconds for name, result in results.items()}
        with stages(CONCLUSIONS):
            section = study.conclude(plan, run_dir, results)
            stages.add(**{**study.sections(run_dir, results, section), "study": section})
            for key, shown in overviews(section).items():
                write_atomic(run_dir / "figures" / f"{key}.svg", intervals_svg(shown))
            for figure in section.figures:
                write_atomic(run_dir / "figures" / f"{figure.key}.svg", to_svg(figure.lines()))
        paths, report = stages.write(), stages.report
        send_report(trackers, report, kinds, run_dir)
    print(f"report: {paths['html']}")
    return report


def known_sections(planned: StudySection, run_dir: Path, kinds: Kinds) -> Mapping[str, Any]:
    """The sections before the run: the rules alone, or what was concluded under the same rules before."""
    before = earlier(run_dir, kinds)
    study = None if before is None else before.sections.get("study")
    same = isinstance(study, StudySection) and study.plan_sha256 == planned.plan_sha256
    return before.sections if before is not None and same else {"study": planned}
