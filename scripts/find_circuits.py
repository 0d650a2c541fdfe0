"""Extracts circuits from the model of a finished run and puts them into its report.

    python scripts/find_circuits.py run=runs/quickstart/<stamp> task=all
    python scripts/find_circuits.py run=... task=bracket_counting circuits.find.seeds='[0,1,2]'
    python scripts/find_circuits.py run=... task=with_as card=full      # judge the circuit: all criteria, minutes
    python scripts/find_circuits.py run=... task=all baselines=true     # how large circuits by other rankings are

A task that this run's folder already holds, with the same settings, is not searched again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from circuits.evidence.thresholds import PRESETS
from circuits.run import (
    KINDS,
    N_TEXT_WINDOWS,
    CircuitsConfig,
    describe_task,
    known_circuits,
    publish,
    run_baselines,
    run_cards,
    run_circuits,
)
from circuits.search.comparison import size_ratios
from circuits.section import TaskEntry
from circuits.views.card import summary
from sparsetrain.data import prepare_corpus
from sparsetrain.entry import entry, load_run, require
from sparsetrain.export import latest_export
from sparsetrain.report import load_report
from sparsetrain.report.stages import Stages
from sparsetrain.run import RunConfig, cache_dir, text_windows, trackers_of

N_CARD_WINDOWS = 64  # ours: windows of validation text for the criteria that need pretraining text


@dataclass(frozen=True, kw_only=True)
class FindCircuitsRun:
    """A run, its tasks and how to search them."""

    run: str = ""
    """Folder of a finished run."""
    task: str = ""
    """A task's name, several as 'task="a,b"', or `all`; empty: those of circuits.tasks."""
    card: Literal["none", "quick", "full"] = "none"
    """Report card of every task's best circuit: the same criteria and thresholds, fewer draws in `quick`."""
    baselines: bool = False
    """Also find circuits by gradients, integrated gradients, EAP-IG and at random, and compare sizes."""
    circuits: CircuitsConfig = field(default_factory=CircuitsConfig)
    wandb: Literal["as_run", "auto", "online", "offline", "disabled"] = "as_run"
    """Log the report as a W&B run of its own: as the training run's logger.wandb says, or otherwise."""
    progress: bool = True


@entry(FindCircuitsRun, "find_circuits", run="changed", literal=("run", "task"))
def main(config: FindCircuitsRun, run_dir: Path) -> None:
    """Searches, updates report.json, renders it anew."""
    circuits = replace(config.circuits, tasks=tuple(config.task.split(","))) if config.task else config.circuits
    run = Path(require("run", config.run))
    export = latest_export(run)
    report = load_report(run / "report.json", KINDS)
    trained = load_run(RunConfig, run)
    started, of_tasks = time.perf_counter(), "circuits"
    if config.task not in ("", "all"):
        of_tasks += f" of {config.task}"
    torch.set_num_threads(report.run.n_threads)  # the same numbers whatever OMP_NUM_THREADS says
    stages = Stages(
        run, KINDS, (of_tasks, *(["baselines"] * config.baselines), *(["report cards"] * (config.card != "none")))
    )
    stages.begin(report)

    def windows(split: str, n: int):
        corpus = prepare_corpus(trained.data, cache_dir(trained), progress=config.progress)
        return text_windows(corpus, trained, split, n)

    def add(tasks: Sequence[TaskEntry]) -> None:
        ratios = size_ratios(tasks, seed=0, n_boot=find.n_boot) if any(task.baselines for task in tasks) else None
        stages.add(circuits=replace(section, tasks=tuple(tasks), baselines=ratios))

    with stages.part(of_tasks):
        section = run_circuits(
            export,
            run,
            circuits,
            lambda: windows("means", circuits.n_means_windows),
            text=lambda: windows("heldout", N_TEXT_WINDOWS),
            known=known_circuits(report),
            on_task=lambda task: print(describe_task(task)),
            on_section=lambda section: stages.add(circuits=section),
            progress=config.progress,
        )
    names, find, tasks = circuits.names(), circuits.find, section.tasks
    if config.baselines:
        with stages.part("baselines"):
            tasks = run_baselines(export, run, tasks, names, find, on_tasks=add, progress=config.progress)
    if config.card != "none":
        with stages.part("report cards"):
            tasks = run_cards(
                export,
                run,
                tasks,
                names,
                find,
                PRESETS[config.card],
                windows("val", N_CARD_WINDOWS),
                on_card=lambda name, card: print(f"{name}: {summary(card)}"),
                on_tasks=add,
                progress=config.progress,
            )
    add(tasks)
    stages.seconds[f"find_circuits {config.task}".strip()] = time.perf_counter() - started
    if config.wandb != "as_run":
        trained = replace(trained, logger=replace(trained.logger, kind="wandb", wandb=config.wandb))
    with trackers_of(replace(trained, ckpt_path=None), run, "find_circuits") as trackers:
        publish(stages, trackers)


if __name__ == "__main__":
    main()
