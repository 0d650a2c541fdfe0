"""A whole run: training, circuits as they form, circuits at the end, report; and what is done to a finished run.

1. `train_and_read` is one model; the study `comparison` calls it for several.
2. `run_circuits`: means once, then task after task, resumable, and the data of each best circuit's page.
3. `run_cards` and `run_baselines` add to the tasks found: report cards, circuits by other rankings.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from circuits.bridges.catalogue import BRIDGES
from circuits.bridges.study import BridgeStudyConfig
from circuits.brief import describe_task
from circuits.circuit import Circuit
from circuits.comparison import ComparisonConfig, ComparisonStudy, FrontierStudy, Outcome
from circuits.context_prior.catalogue import CONTEXT_PRIOR
from circuits.context_prior.facts import ConflictsConfig
from circuits.context_prior.trained import ConflictStudyConfig
from circuits.evidence.gather import CARD_WINDOWS, RunFiles, card_of, solved
from circuits.evidence.thresholds import CardConfig
from circuits.explain.activity import MAX_NODES, VERSION, activity
from circuits.find import find_once, passed_over, section_of
from circuits.formation import FormationConfig, formation_section, halving_steps, look
from circuits.fracture.catalogue import FRACTURE
from circuits.fracture.images.study import ImageStudyConfig
from circuits.fracture.study import FractureConfig
from circuits.means import MEANS, Means, means_once
from circuits.merged import merge_tasks, under_one_rule
from circuits.methods import MethodsConfig, MethodsStudy
from circuits.recipe.selection import SelectionConfig, real_code, select
from circuits.search.comparison import ranked_circuits
from circuits.search.learn import Progress
from circuits.search.task import FindConfig, TaskSearch, heldout_pairs
from circuits.section import (
    CardEntry,
    CircuitsSection,
    RankedCircuit,
    SelectionSection,
    TaskEntry,
    Viewer,
)
from circuits.tasks import Task, get_task, get_tasks
from circuits.views import KINDS as CIRCUIT_KINDS
from sparsetrain.data import Corpus
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import load_model, read_meta
from sparsetrain.model import Transformer
from sparsetrain.progress import progress_bar
from sparsetrain.report import Kinds, Report
from sparsetrain.report.sections import TrainingSection
from sparsetrain.report.stages import Stages
from sparsetrain.run import (
    MEANS_SOURCE,
    RunConfig,
    TrainedRun,
    Watch,
    check,
    later_stages,
    text_windows,
    trackers_of,
    train,
)
from sparsetrain.sparsity import SparsitySection
from sparsetrain.store import once, sha256
from sparsetrain.studies.catalogue import STUDIES, Catalogue, StudyConfig
from sparsetrain.studies.page import KINDS as OWN_KINDS
from sparsetrain.training.callbacks import AtSteps
from sparsetrain.training.fit import Exporter
from sparsetrain.training.tracking import Tracker, send_report
from sparsetrain.typed import Count, Index, to_dict

KINDS: Kinds = {**OWN_KINDS, **CIRCUIT_KINDS}
N_TEXT_WINDOWS = 64  # ours: windows of held-out text on which the circuit page looks for activations
TEXT_WINDOWS = "text_windows.safetensors"
"""In a run's `circuits/`: that text."""
TEXT_SOURCE = "held-out documents in the training mixture"


@dataclass(frozen=True, kw_only=True)
class CircuitsConfig:
    """Which tasks are searched, and how."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; `all` for every one; `file:<pairs.jsonl>` for pairs of your own (docs/circuits.md); none: no circuits."""
    most: Index = 0
    """Search only so many of the tasks that the model does, those of lowest loss on validation pairs; the others show their gate, and
    `scripts/find_circuits.py` searches them. 0: all."""
    n_means_windows: Count = 256
    """Windows of n_ctx tokens over which the means of deleted nodes are taken. ours"""
    find: FindConfig = field(default_factory=FindConfig)

    def __post_init__(self) -> None:
        self.names()

    def names(self) -> tuple[str, ...]:
        """The tasks meant.

        Raises:
            ValueError: an unknown task; lists them all.
        """
        return tuple(self.behaviours())

    def behaviours(self) -> dict[str, Task]:
        """The same by name, each once."""
        return get_tasks(self.tasks)


@dataclass(frozen=True, kw_only=True)
class TrainStudy(StudyConfig):
    """The studies that train.py runs."""

    bridge: BridgeStudyConfig = field(default_factory=BridgeStudyConfig)
    """Of a dense teacher and a sparse student with bridges."""
    comparison: ComparisonConfig = field(default_factory=ComparisonConfig)
    conflict_world: ConflictStudyConfig = field(default_factory=ConflictStudyConfig)
    """Of models trained in a made world, in context_prior."""
    conflicts: ConflictsConfig = field(default_factory=ConflictsConfig)
    """Of a pretrained language model, from facts."""
    fracture: FractureConfig = field(default_factory=FractureConfig)
    """Of students of one teacher."""
    fracture_images: ImageStudyConfig = field(default_factory=ImageStudyConfig)
    """Of networks that draw the same picture."""
    methods: MethodsConfig = field(default_factory=MethodsConfig)
    """Of ways to make weights sparse."""


@dataclass(frozen=True, kw_only=True)
class TrainRun(RunConfig):
    """A training run and the circuits looked for in its model."""

    circuits: CircuitsConfig = field(default_factory=CircuitsConfig)
    formation: FormationConfig = field(default_factory=FormationConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    study: TrainStudy = field(default_factory=TrainStudy)
    """A study that is run instead of one training; kind=none: none."""

    def __post_init__(self) -> None:
        missing = set(self.formation.names()) - set(self.circuits.names())
        if missing:
            raise ValueError(
                f"formation.tasks={list(self.formation.tasks)} has {sorted(missing)}, which circuits.tasks has not; add "
                f"them there, the finished model's circuits are compared with"
            )


def studies(command: str) -> Catalogue:
    """The studies of sparsetrain, and those of circuits.

    Args:
        command: the command line, for the reports of single models.
    """

    def read(config: TrainRun, folder: Path) -> Outcome:
        report = train_and_read(config, folder, command)
        assert report is not None, "only stop_at_step ends a run early, and a study has none"
        training = report.section("training", TrainingSection)
        bits, n_steps = training.bits_per_char["mixed"].value, training.n_steps.value
        assert bits is not None and n_steps is not None
        known = known_circuits(report)
        tasks = () if known is None else known.tasks
        tensors = report.section("sparsity", SparsitySection).tensors
        return Outcome(
            val_loss=val_loss(report), bits_per_char=bits, n_steps=int(n_steps), tasks=tasks, tensors=tensors
        )

    def methods(config: TrainRun, study: TrainStudy) -> MethodsStudy[TrainRun]:
        searched, most = bool(config.circuits.tasks), config.circuits.most
        return MethodsStudy(
            config=config, rules=study, settings=study.methods, search=read, searched=searched, most=most
        )

    def comparison(config: TrainRun, study: TrainStudy) -> ComparisonStudy[TrainRun]:
        if config.circuits.most or (study.comparison.about and not config.circuits.tasks):
            raise ValueError(
                f"circuits.most={config.circuits.most} and circuits.tasks={list(config.circuits.tasks)}: a comparison searches the same "
                f"tasks in every arm; give circuits.most=0 and some tasks, or study.comparison.about=[] for losses alone"
            )
        if not study.comparison.about:
            searched = bool(config.circuits.tasks)
            return FrontierStudy(
                config=config, rules=study, comparison=study.comparison, search=read, searched=searched
            )
        return ComparisonStudy(config=config, rules=study, comparison=study.comparison, search=read)

    return {**STUDIES, **BRIDGES, **CONTEXT_PRIOR, **FRACTURE, "comparison": comparison, "methods": methods}


def val_loss(report: Report) -> float:
    """Validation loss of a run's model in the training mixture, nats/token."""
    value = report.section("training", TrainingSection).val_loss["mixed"].value
    assert value is not None
    return value


def publish(stages: Stages, trackers: Sequence[Tracker]) -> Report:
    """Writes the whole report, sends it to the trackers and says where it is."""
    paths, report = stages.write(), stages.report
    send_report(trackers, report, KINDS, stages.folder)
    print(f"report: {paths['html']}")
    return report


def train_and_read(config: TrainRun, run_dir: Path, command: str) -> Report | None:
    """Runs every stage of one model and writes the report.

    Args:
        config: the whole run.
        run_dir: where everything goes.
        command: the command line, for the report.

    Returns:
        The report; None where the run was stopped before its schedule ended.
    """
    check(config, run_dir)
    with trackers_of(config, run_dir, "train") as trackers:
        return _stages(config, run_dir, command, trackers)


def _stages(config: TrainRun, run_dir: Path, command: str, trackers: Sequence[Tracker]) -> Report | None:
    later = [name for name in ("circuits", "formation", "selection") if getattr(config, name).tasks]
    stages = Stages(run_dir, KINDS, (*later_stages(config), *later))
    done = train(config, run_dir, command, watch=_watch(config, run_dir), loggers=trackers, stages=stages)
    if done.export is None:
        print(f"stopped at step {done.step}; continue with ckpt_path=last hydra.run.dir={run_dir}")
        return None
    if config.circuits.tasks:
        with stages("circuits"):
            run_circuits(
                done.export,
                run_dir,
                config.circuits,
                lambda: text_windows(done.corpus, config, "means", config.circuits.n_means_windows),
                text=lambda: text_windows(done.corpus, config, "heldout", N_TEXT_WINDOWS),
                known=known_circuits(stages.report),
                on_task=lambda task: print(describe_task(task)),
                on_section=lambda section: stages.add(circuits=section),
                progress=config.trainer.progress,
            )
    if config.formation.tasks:
        with stages.part("formation"):
            stages.add(formation=formation_section(run_dir, config.formation.names(), done.n_steps, stages.report))
    if config.selection.tasks:
        with stages("selection"):
            stages.add(selection=select_run(config, run_dir, done, stages.report))
    return publish(stages, trackers)


def select_run(config: TrainRun, run_dir: Path, done: TrainedRun, report: Report) -> SelectionSection:
    """What the run's recipe is chosen by, see `circuits.recipe.selection`."""
    assert done.export is not None
    bits = real_code(report.section("training", TrainingSection), config.data.sources)
    model, tokenizer = load_model(done.export), Tokenizer.load(done.export / "tokenizer.json")
    means = means_once(
        model,
        run_dir / "circuits" / MEANS,
        lambda: text_windows(done.corpus, config, "means", config.circuits.n_means_windows),
        n=config.circuits.n_means_windows,
        source=MEANS_SOURCE,
        weights_sha256=read_meta(done.export)["weights_sha256"],
    )
    return select(model, tokenizer, means, config.selection, bits, run_dir / "circuits")


def _watch(config: TrainRun, run_dir: Path) -> Watch:
    find = replace(config.circuits.find, nonsense_twin=False)
    followed = replace(config.circuits, tasks=config.formation.tasks, find=find)

    def watch(corpus: Corpus, export: Exporter) -> list[AtSteps]:
        if not config.formation.tasks:
            return []

        def windows() -> Tensor:
            return text_windows(corpus, config, "means", followed.n_means_windows)

        def look_at(model: Transformer, step: int) -> Mapping[str, float]:
            weights = export(model, step)
            return look(step, run_dir, lambda folder: run_circuits(weights, folder, followed, windows, progress=False))

        return [AtSteps("formation", halving_steps(export.recipe.n_steps, config.formation.n_looks), look_at)]

    return watch


def run_circuits(
    export: Path,
    run_dir: Path,
    config: CircuitsConfig,
    windows: Callable[[], Tensor],
    *,
    windows_source: str = MEANS_SOURCE,
    text: Callable[[], Tensor] | None = None,
    text_source: str = TEXT_SOURCE,
    known: CircuitsSection | None = None,
    on_task: Callable[[TaskEntry], object] = lambda task: None,
    on_section: Callable[[CircuitsSection], object] = lambda section: None,
    progress: bool = True,
) -> CircuitsSection:
    """Finds the circuits of an exported model; what lies in `run_dir`, found with the same settings, is not searched again.

    Args:
        export: folder of the model.
        run_dir: gets `circuits/means.safetensors` and `circuits/<task>/`.
        config: tasks and search.
        windows: gives token windows `[n, n_ctx]` for the means, used for nothing else; called only if there are no
            means of these weights yet.
        windows_source: what those windows are, in words.
        text: gives held-out token windows `[n, n_ctx]` on which the circuit page shows activations; called only if a
            circuit's page is not on disk yet. None: the report's drawings have no such data.
        text_source: what that text is, in words.
        known: what the report says of these weights, to which the tasks are added.
        on_task: called with the entry of each task as its search is done.
        on_section: called with the section so far after each task, and with the whole one.
        progress: draw a progress bar on stderr.
    """
    model, tokenizer, out_dir = load_model(export), Tokenizer.load(export / "tokenizer.json"), run_dir / "circuits"
    weights_sha256, behaviours = read_meta(export)["weights_sha256"], config.behaviours()
    known = under_one_rule(known, config.find, behaviours, out_dir)
    means = means_once(
        model, out_dir / MEANS, windows, source=windows_source, weights_sha256=weights_sha256, n=config.n_means_windows
    )

    def section(tasks: Sequence[TaskEntry]) -> CircuitsSection:
        found = section_of(means, config.find, tasks)
        return merge_tasks(known, found)

    tasks: list[TaskEntry] = []
    over: Mapping[str, TaskEntry] = {}
    if config.most:
        over = passed_over(model, list(behaviours.values()), tokenizer, means, config.find, config.most)
    for name, report in with_bars("circuits", list(behaviours), progress):
        task = over.get(name) or find_once(model, behaviours[name], tokenizer, means, config.find, out_dir, report)
        tasks.append(task)
        on_task(tasks[-1])
        on_section(section(tasks))
    if text is not None:

        @cache
        def text_once() -> Tensor:
            found = text()
            save_file({"windows": found.contiguous()}, out_dir / TEXT_WINDOWS)
            return found

        def page(task: TaskEntry, report: Progress) -> TaskEntry:
            best = task.circuits[0]

            def make() -> Viewer:
                circuit = Circuit.load(run_dir / best.path)
                pairs = heldout_pairs(circuit, tokenizer, out_dir)
                return activity(model, circuit, pairs, text_once(), text_source, tokenizer.token)

            key = {"version": VERSION, "circuit": sha256(run_dir / best.path), "text": text_source}
            return _with_best(task, viewer=once(out_dir / task.task / "viewer.json", key, make, Viewer))

        small = [task.task for task in tasks if task.circuits and (task.circuits[0].n_nodes.value or 0) <= MAX_NODES]
        tasks = _each("circuit pages", tasks, small, page, progress)
    whole = section(tasks)
    on_section(whole)
    return whole


def known_circuits(report: Report) -> CircuitsSection | None:
    """What a report says of circuits so far."""
    return report.section("circuits", CircuitsSection) if "circuits" in report.sections else None


def run_cards(
    export: Path,
    run_dir: Path,
    tasks: Sequence[TaskEntry],
    names: Sequence[str],
    find: FindConfig,
    card: CardConfig,
    windows: Tensor,
    *,
    on_card: Callable[[str, tuple[CardEntry, ...]], object] = lambda task, card: None,
    on_tasks: Callable[[Sequence[TaskEntry]], object] = lambda tasks: None,
    progress: bool = True,
) -> tuple[TaskEntry, ...]:
    """The tasks with a report card in the best circuit of each that has one; a card made before is read from disk.

    Args:
        export: folder of the model.
        run_dir: the run, whose circuits are loaded; gets `circuits/card_windows.safetensors` and
            `circuits/<task>/card.json`.
        tasks: of the section; a circuit is judged beside all of these that the model solves.
        names: tasks to judge; those with status `circuit` get a card.
        find: the search's settings, for its pairs.
        card: thresholds and sizes.
        windows: int64 `[n, n_ctx]`, pretraining text that the means were not taken from.
        on_card: called with (task, card) as each is done.
        on_tasks: called then with all tasks as they are.
        progress: draw a progress bar on stderr.
    """
    save_file({"windows": windows.contiguous()}, run_dir / "circuits" / CARD_WINDOWS)
    files, beside = RunFiles.load(export, run_dir, find), solved(tasks)

    def judged(task: TaskEntry, report: Progress) -> TaskEntry:
        key = {"card": to_dict(card), "find": to_dict(find), "solved": beside}
        key["circuit"] = sha256(run_dir / task.circuits[0].path)
        path, schema = run_dir / "circuits" / task.task / "card.json", tuple[CardEntry, ...]
        found = once(path, key, lambda: card_of(files, task, beside, card, report), schema)
        on_card(task.task, found)
        return _with_best(task, card=found)

    wanted = [task.task for task in tasks if task.task in names and task.has_circuit]
    return tuple(_each("report cards", tasks, wanted, judged, progress, on_tasks))


def run_baselines(
    export: Path,
    run_dir: Path,
    tasks: Sequence[TaskEntry],
    names: Sequence[str],
    find: FindConfig,
    *,
    on_tasks: Callable[[Sequence[TaskEntry]], object] = lambda tasks: None,
    progress: bool = True,
) -> tuple[TaskEntry, ...]:
    """The tasks with the circuits of the baselines beside those of learned pruning; found before, they are read from disk.

    Args:
        export: folder of the model.
        run_dir: the run; gets `circuits/<task>/baselines/` and `baselines.json`.
        tasks: of the section.
        names: tasks to compare; those that the model solves, and the empty circuit does not, get `baselines`.
        find: the search's settings.
        on_tasks: called with all tasks as they are when one has its circuits.
        progress: draw a progress bar on stderr.
    """
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    out_dir = run_dir / "circuits"
    means = Means.load(out_dir / MEANS)

    def compared(task: TaskEntry, report: Progress) -> TaskEntry:
        def make() -> tuple[RankedCircuit, ...]:
            config = replace(find, nonsense_twin=False)
            known = get_task(task.task, out_dir)
            return ranked_circuits(TaskSearch.of(model, known, tokenizer, means, config, report), out_dir)

        key = {"find": to_dict(find), "weights_sha256": means.weights_sha256}
        found = once(out_dir / task.task / "baselines.json", key, make, tuple[RankedCircuit, ...])
        return replace(task, baselines=found)

    wanted = [task.task for task in tasks if task.task in names and (task.has_circuit or task.status == "no_circuit")]
    return tuple(_each("baselines", tasks, wanted, compared, progress, on_tasks))


def _with_best(task: TaskEntry, **added: Any) -> TaskEntry:
    """The task with something added to its best circuit."""
    best, *others = task.circuits
    return replace(task, circuits=(replace(best, **added), *others))


def _each(
    title: str,
    tasks: Sequence[TaskEntry],
    names: Sequence[str],
    change: Callable[[TaskEntry, Progress], TaskEntry],
    shown: bool,
    on_tasks: Callable[[Sequence[TaskEntry]], object] = lambda tasks: None,
) -> list[TaskEntry]:
    """The tasks, the named ones changed one after another."""
    changed = {task.task: task for task in tasks}
    for name, report in with_bars(title, names, shown):
        changed[name] = change(changed[name], report)
        on_tasks(list(changed.values()))
    return list(changed.values())


def with_bars(title: str, names: Sequence[str], shown: bool) -> Iterator[tuple[str, Progress]]:
    """Every name with what reports the stages of its work: a bar over the names and one over the stages, on stderr."""
    with progress_bar(shown) as bars:
        all_names, stages = bars.add_task(title, total=len(names)), bars.add_task("", total=None)
        for name in names:

            def report(stage: str, done: int, total: int, name: str = name) -> None:
                bars.update(stages, description=f"  {name}: {stage}", completed=done, total=total)

            yield name, report
            bars.advance(all_names)
