"""The page of a search over recipes: every trial, and the front of those that no other beats.

1. `trials.json` of the sweep says what was tried; a trial's own numbers are those of its report.
2. Held-out pairs are shown to the models on the front alone, and not before the search has had all its trials: nothing is chosen by them.
3. `frontier.svg` is the picture for pages that run no scripts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from circuits.find import examined
from circuits.means import MEANS, Means
from circuits.recipe.selection import SelectionConfig, clipped
from circuits.search.task import TaskSearch
from circuits.section import FrontierSection, FrontierTrial, HeldoutGates, SelectionSection
from circuits.tasks import UnsuitableTask, get_tasks
from circuits.views.recipe import picture
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import latest_export, load_model
from sparsetrain.job import RETURNED, Trial, Trials
from sparsetrain.report import Kinds, Report, RunFacts, load_report, save_report
from sparsetrain.report.render import render
from sparsetrain.report.sections import TrainingSection
from sparsetrain.report.svg import to_svg
from sparsetrain.stats.number import Number, number
from sparsetrain.store import once, sha256, write_atomic
from sparsetrain.typed import entry_at, to_dict

PICTURE = "frontier.svg"


def write_frontier(
    folder: Path, kinds: Kinds, load: Callable[[Path], SelectionConfig], command: str
) -> FrontierSection:
    """Writes report.json, its pages and the picture into a sweep's folder.

    Args:
        folder: of the sweep; its jobs' folders are named by their numbers.
        kinds: of the sections of reports.
        load: folder of a trial -> how it was measured.
        command: the command line, for the report.
    """
    found = Trials.load(folder)
    front = front_of(found.trials)
    trials = [entry_of(folder / str(trial.number), trial, found.objectives, kinds) for trial in found.trials]
    trials = [replace(trial, on_front=trial.number in front) for trial in trials]
    if found.is_whole:
        trials = [judged(folder / str(trial.number), trial, load) if trial.on_front else trial for trial in trials]
    section = FrontierSection(objectives=found.objectives, is_whole=found.is_whole, trials=tuple(trials))
    reports = [load_report(folder / str(trial.number) / "report.json", kinds) for trial in trials if trial.values]
    device, debug = (reports[0].run.device, reports[0].run.debug) if reports else ("auto", None)
    report = Report(
        run=RunFacts.now(name=folder.name, command=command, device=device, debug=debug), sections={"frontier": section}
    )
    save_report(report, folder / "report.json")
    render(report, kinds, folder)
    if len(section.objectives) > 1:
        write_atomic(folder / PICTURE, to_svg(picture(section)))
    return section


def front_of(trials: Sequence[Trial]) -> frozenset[int]:
    """Numbers of the finished trials that no other beats: at least as good by every objective, better by one."""
    values = {trial.number: trial.values for trial in trials if trial.state == "complete" and trial.values is not None}

    def beats(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    return frozenset(n for n, own in values.items() if not any(beats(other, own) for other in values.values()))


def entry_of(run: Path, trial: Trial, objectives: Sequence[str], kinds: Kinds) -> FrontierTrial:
    """A trial with what its report says of it."""
    entry = FrontierTrial(
        number=trial.number, state=trial.state, on_front=False, overrides=trial.overrides, rungs=trial.rungs
    )
    if trial.state != "complete" or trial.values is None:
        return entry
    report, plain = load_report(run / "report.json", kinds), json.loads((run / "report.json").read_bytes())
    training = report.section("training", TrainingSection)
    return replace(
        entry,
        seed=report.run.seed,
        values=tuple(
            number(value, "" if place == RETURNED else entry_at(plain, f"{place}.unit"))
            for place, value in zip(objectives, trial.values, strict=True)
        ),
        selection=report.section("selection", SelectionSection) if "selection" in report.sections else None,
        n_steps=training.n_steps,
        trained=None if training.budget is None else training.budget.trained,
        seconds=number(sum(stage.seconds.value or 0 for stage in report.stages), "s", "measured"),
    )


def judged(run: Path, trial: FrontierTrial, load: Callable[[Path], SelectionConfig]) -> FrontierTrial:
    """A trial of the front on held-out pairs; read from its folder where it was judged before."""
    config = load(run)
    if not config.tasks:
        return trial
    export = latest_export(run)
    key = {"weights": sha256(export / "model.safetensors"), "config": to_dict(config)}
    gates = once(run / "circuits" / "heldout.json", key, lambda: heldout_gates(export, run, config), HeldoutGates)
    return replace(trial, heldout=gates)


def heldout_gates(export: Path, run: Path, config: SelectionConfig) -> HeldoutGates:
    """The tasks on held-out pairs."""
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    means = Means.load(run / "circuits" / MEANS)
    losses: dict[str, Number | None] = {}
    passed, bigram = [], []
    for name, task in get_tasks(config.tasks).items():
        try:
            entry = examined(TaskSearch.of(model, task, tokenizer, means, config.find))
        except UnsuitableTask:
            losses[name] = None
            continue
        losses[name] = entry.gate.loss
        if entry.gate.passed:
            (bigram if entry.status == "bigram" else passed).append(name)
    n = len(losses)
    return HeldoutGates(
        n_passed=number(len(passed), "tasks", n=n),
        n_bigram=number(len(bigram), "tasks", n=n),
        task_loss=number(sum(map(clipped, losses.values())) / n, "nats", n=n),
        failed=tuple(name for name in losses if name not in (*passed, *bigram)),
    )
