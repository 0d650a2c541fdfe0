"""Extracts circuits from the model of a finished run and puts them into its report; or from a Hugging Face model, with a report of its own.

    python scripts/find_circuits.py run=runs/quickstart/<stamp> task=all
    python scripts/find_circuits.py run=... task=bracket_counting circuits.find.seeds='[0,1,2]'
    python scripts/find_circuits.py run=... task=with_as card=full      # judge the circuit: all criteria, minutes
    python scripts/find_circuits.py run=... task=all baselines=true     # how large circuits by other rankings are
    python scripts/find_circuits.py model=hf:<folder or hub name> task=file:<pairs.jsonl>     # nodes alone; docs/circuits.md

Circuits are searched as the run searched its own (circuits.find), but for what the command line says. A task that this run's folder
already holds, with the same settings, is not searched again.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from circuits.brief import describe_task
from circuits.edges import NO_EDGES
from circuits.evidence.thresholds import PRESETS
from circuits.hub import HubSearch, hub_circuits
from circuits.merged import under_one_rule
from circuits.run import (
    KINDS,
    N_TEXT_WINDOWS,
    CircuitsConfig,
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
from sparsetrain.data.reading import listed
from sparsetrain.entry import entry, load_run, require, stamp
from sparsetrain.export import latest_export
from sparsetrain.folder import own
from sparsetrain.job import command_line
from sparsetrain.report import Report, RunFacts, WeightsFacts, load_report
from sparsetrain.report.stages import Stages, earlier
from sparsetrain.run import RunConfig, cache_dir, means_source, text_windows, trackers_of

N_CARD_WINDOWS = 64  # ours: windows of validation text for the criteria that need pretraining text


@dataclass(frozen=True, kw_only=True)
class FindCircuitsRun:
    """A run, its tasks and how to search them."""

    run: str = ""
    """Folder of a finished run; with `model` the folder of its report, empty for runs/find_circuits/<stamp>."""
    model: str = ""
    """hf:<folder or hub name> or gguf:<file>: a causal language model of somebody else, instead of a run."""
    data: str | list[str] = ""
    """With `model`: files, folders or patterns of text over which the means of deleted nodes are taken; empty: over the prompts of the
    task's training pairs."""
    trust_remote_code: bool = False
    """Run the code that comes with an hf: model; read it first. Without it such a model is refused."""
    task: str = ""
    """A task's name, several as 'task="a,b"', `all`, or file:<pairs.jsonl> for pairs of your own (docs/circuits.md); empty: those of
    circuits.tasks."""
    card: Literal["none", "quick", "full"] = "none"
    """Report card of every task's best circuit: the same criteria and thresholds, fewer draws in `quick`."""
    baselines: bool = False
    """Also find circuits by gradients, integrated gradients, EAP-IG and at random, and compare sizes."""
    circuits: CircuitsConfig = field(default_factory=CircuitsConfig)
    wandb: Literal["as_run", "auto", "online", "offline", "disabled"] = "as_run"
    """Log the report as a W&B run of its own: as the training run's logger.wandb says, or otherwise."""
    progress: bool = True


@entry(FindCircuitsRun, "find_circuits", folder="hub", shares=("circuits/python_tasks", "in_run"), run="changed", literal=("run", "task", "model", "data"), as_run=("circuits.find", "circuits.n_means_windows"))  # fmt: skip
def main(config: FindCircuitsRun, run_dir: Path) -> None:
    """Searches, updates report.json, renders it anew."""
    circuits = replace(config.circuits, tasks=tuple(config.task.split(","))) if config.task else config.circuits
    if config.model:
        return of_hub_model(config, circuits)
    if listed(config.data):
        raise ValueError(
            f"data={config.data} is for model=hf:...; the means of a run of ours are taken over its own text"
        )
    run = Path(require("run", config.run))
    export = latest_export(run)
    report = load_report(run / "report.json", KINDS)
    trained = load_run(RunConfig, run)
    under_one_rule(known_circuits(report), circuits.find, circuits.behaviours(), run / "circuits")
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
            windows_source=means_source(export),
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


def of_hub_model(config: FindCircuitsRun, circuits: CircuitsConfig) -> None:
    """The circuits of a model of somebody else, with a report of their own.

    Raises:
        ValueError: what rests on edges was asked for.
    """
    if config.card != "none":
        raise ValueError(
            f"card={config.card} is for runs of ours: {NO_EDGES}, and several criteria ask for edges; leave card out"
        )
    if circuits.find.prune_edges:
        raise ValueError(f"circuits.find.prune_edges=true is for runs of ours: {NO_EDGES}; leave it out")
    started, behaviours = time.perf_counter(), circuits.behaviours()
    searched = HubSearch.load(
        config.model, listed(config.data), circuits.n_means_windows, trust_remote_code=config.trust_remote_code
    )
    folder = Path(config.run) if config.run else Path("runs", "find_circuits", stamp())
    with ExitStack() as held:
        if not folder.is_dir():
            held.enter_context(own(folder))  # one that was there is held by the entry
        weights = WeightsFacts(sha256=searched.model.weights_sha256, step=None)
        before = earlier(folder, KINDS)
        if before is not None and before.weights != weights:
            raise ValueError(
                f"run={folder} holds a report of other weights than model={config.model}; choose another folder"
            )
        if before is not None:
            under_one_rule(known_circuits(before), circuits.find, behaviours, folder / "circuits")
        stages = Stages(folder, KINDS, ("circuits",))
        ungated = None if circuits.find.gate else True
        facts = RunFacts.now(
            name="find_circuits", seed=circuits.find.pair_seed, command=command_line(), device="cpu", debug=ungated
        )
        stages.begin(Report(run=facts, weights=weights))
        with stages("circuits"):
            section = hub_circuits(
                searched,
                folder,
                behaviours,
                circuits.find,
                baselines=config.baselines,
                known=known_circuits(stages.report),
                on_task=lambda task: print(describe_task(task)),
                on_section=lambda section: stages.add(circuits=section),
                progress=config.progress,
            )
            if config.baselines:
                ratios = size_ratios(section.tasks, seed=0, n_boot=circuits.find.n_boot)
                stages.add(circuits=replace(section, baselines=ratios))
        stages.seconds[f"find_circuits {config.task}".strip()] = time.perf_counter() - started
        publish(stages, ())


if __name__ == "__main__":
    main()
