"""One training run as stages: data, training, export, and what the report says of them.

`train(config, run_dir)` is everything that train.py does before circuits: it prepares the corpus, trains with resume and
watchers, exports the model and returns a `TrainedRun`, from which later stages (circuits, report) read.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

from sparsetrain.data import BigramTable, Corpus, DataConfig, TokenStream, describe, fit_bigram, prepare_corpus
from sparsetrain.data.shifts import ShiftsConfig, build_shifts
from sparsetrain.data.stream import chars_per_token, val_batches
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import load_model, read_meta
from sparsetrain.job import Job, is_main_process, redacted
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.report import Report, RunFacts, WeightsFacts
from sparsetrain.report.sections import KINDS
from sparsetrain.report.stages import Stages
from sparsetrain.representation.evaluate import watched_points
from sparsetrain.representation.positions import WatchedSplit
from sparsetrain.representation.section import FilesEntry, RepresentationSection, table_section
from sparsetrain.representation.survey import SurveyConfig, survey, write_examples
from sparsetrain.representation.tracker import SparsityTracker, TrackerConfig
from sparsetrain.representation.trends import survey_section
from sparsetrain.sparsity import SparsityConfig, SparsitySection, dead_units
from sparsetrain.store import below_home, is_whole, sha256, write_atomic
from sparsetrain.training.budget import BUDGET, StepBudget, in_turns, steps_within
from sparsetrain.training.callbacks import AtSteps, CallbacksConfig, Validation, every
from sparsetrain.training.checkpoints import CheckpointsConfig, newest, resume_path
from sparsetrain.training.dead import DeadWatch, reference_text
from sparsetrain.training.devices import check_launch, first_rank_first
from sparsetrain.training.early import EarlyStop, EarlyStopConfig
from sparsetrain.training.fit import Exporter, Recipe, TrainerConfig, train_model
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.resume import ResumeConfig, check_settings, settings_of
from sparsetrain.training.section import training_section
from sparsetrain.training.start import load_weights_, start_of
from sparsetrain.training.tracking import LoggerConfig, RunKind, Tracker, tracking
from sparsetrain.typed import Count, Seed, from_json, to_dict

log = logging.getLogger(__name__)

MEANS_SOURCE = "documents of the `means` split, which nothing else reads, in the training mixture"
MEANS_SOURCE_OF_IMPORTED = (
    "documents of the `means` split of the text that was named at the import, which is not the model's training text"
)


@dataclass(frozen=True, kw_only=True)
class OodConfig:
    """Which shifted splits are watched, and how. ours"""

    enabled: bool = True
    shifts: ShiftsConfig = field(default_factory=ShiftsConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """While training."""
    survey: SurveyConfig | None = field(default_factory=lambda: SurveyConfig(n_examples=32, n_bootstrap=200))
    """Once, of the finished model: single examples and controls. None: the report has the tracker's numbers alone."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run."""

    name: str = "train"
    """Name of the experiment: its runs go to runs/<name>/<stamp>/."""
    seed: Seed = 0
    debug: bool = False
    """A smoke run: accuracy and loss gates are off, and the report says so."""
    ckpt_path: str | None = None
    """Resume: `last` (this run folder's newest whole checkpoint, or from the beginning where there is none) or a path."""
    overwrite: bool = False
    """Remove the run that the folder holds, which is refused otherwise, and start anew."""
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    stop_at_step: Count | None = None
    """Stop after this step as an interruption would, with a checkpoint; schedules keep their length."""
    bigram_init: Literal["counts", "zeros"] = "counts"
    """Where the model's bigram table starts: smoothed log counts of the training tokens (ours), or zeros."""
    init_from: str | None = None
    """Start from the weights of a run (its latest export) or of an export, under a schedule of its own: a new run, not the resumption of one.
    Settings that do not shape weights may differ; see `sparsetrain/training/start.py`."""
    cache_dir: str = "~/.cache/sparsetrain"
    """Tokenised corpora, named by content hash."""
    model: ModelConfig = field(default_factory=ModelConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    ood: OodConfig = field(default_factory=OodConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    @property
    def recipe(self) -> Recipe:
        """What decides the trained weights beside the data."""
        return Recipe(seed=self.seed, model=self.model, sparsity=self.sparsity, optim=self.optim, trainer=self.trainer)


Watch = Callable[[Corpus, Exporter], list[AtSteps]]
"""(corpus, how the model of a step is exported) -> callbacks."""


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What a finished training leaves for the stages after it."""

    model: Transformer
    corpus: Corpus
    export: Path | None
    """None where the run was stopped before its schedule ended: nothing was exported, and there is no report."""
    step: int
    """The last one."""
    n_steps: int
    """Of the whole schedule."""


def cache_dir(config: RunConfig) -> Path:
    """Where tokenised corpora are kept."""
    return below_home(config.cache_dir)


def init_bigram_(model: Transformer, table: BigramTable) -> None:
    """Starts the model's bigram table from smoothed log probabilities."""
    assert model.bigram is not None
    n, n_rows = table.counts.d_vocab, 256  # a few at a time: the table is as large as the model's own
    with torch.no_grad():
        for start in range(0, n, n_rows):
            stop = min(start + n_rows, n)
            model.bigram.weight[start:stop, :n] = torch.from_numpy(table.rows(start, stop))


def corpus_of(config: RunConfig) -> Corpus:
    """The prepared corpus; says which documents were left out and why (report.json has them all).

    Raises:
        ValueError: the model's vocabulary is smaller than the tokenizer's.
    """
    corpus = prepare_corpus(config.data, cache_dir(config), progress=config.trainer.progress)
    for name, source in corpus.manifest.sources.items():
        for skip in source.skipped[:5]:
            log.warning("skipped %s of source %s: %s", skip.name, name, skip.reason)
        if source.n_skipped > 5:
            log.warning("... and %d more of source %s", source.n_skipped - 5, name)
        for note in source.notes:
            log.warning("source %s: %s", name, note)
    if corpus.tokenizer.d_vocab > config.model.d_vocab:
        raise ValueError(
            f"model.d_vocab={config.model.d_vocab} is smaller than the tokenizer's {corpus.tokenizer.d_vocab} "
            f"tokens; set model.d_vocab to data.d_vocab or more"
        )
    return corpus


def recipe_of(config: RunConfig, checkpoint: Path | None) -> Recipe:
    """The recipe with the weights that a training starts from, or that the one of a checkpoint did, and with as many steps as that
    one has if it is for the same `trainer.minutes`.

    Raises:
        FileNotFoundError: `init_from` names no export.
        ValueError: weights of another shape, a checkpoint of a training that started elsewhere.
    """
    trainer = config.trainer
    if checkpoint is not None and counts_on(config, checkpoint):
        trainer = replace(trainer, n_steps=settings_of(checkpoint)["trainer"]["n_steps"])
    return replace(config.recipe, trainer=trainer, start=start_of(config.init_from, config.model, checkpoint))


def check(config: RunConfig, run_dir: Path) -> tuple[Recipe, Path | None]:
    """Refuses what cannot be trained before any text is read; returns the recipe, and the checkpoint to go on from, if any.

    Raises:
        ValueError: an infeasible weight budget, which names the tensor; ranks that nobody would start.
        KeyError: a hook point to watch that does not exist; lists near names.
        FileNotFoundError: no such checkpoint, or no weights to start from.
    """
    resume = resume_path(config.ckpt_path, run_dir)
    recipe = recipe_of(config, resume)
    recipe.check()
    check_launch(config.trainer.devices, config.trainer.nodes, in_sweep=Job.load(run_dir).sweep is not None)
    if config.ood.enabled:
        with torch.device("meta"):
            model = Transformer(config.model)
        watched_points(model, config.ood.tracker)
        if config.ood.survey is not None:
            watched_points(model, config.ood.survey.watch())
    return recipe, resume


def check_resume(config: RunConfig, run_dir: Path) -> None:
    """Refuses what cannot run here, and what would harm or misread what the run's folder holds, before anything in it is touched.

    Raises:
        ValueError: devices that are not here; a name or path that is empty; a checkpoint of other settings, which are named; weights to start from
            that `overwrite` would remove.
    """
    config.trainer.check()
    for key in ("name", "init_from", "ckpt_path", "cache_dir"):
        if getattr(config, key) == "":
            raise ValueError(f"{key}= is empty; give a value, or leave it out")
    removed = config.overwrite and config.init_from is not None
    if removed and Path(str(config.init_from)).resolve().is_relative_to(run_dir.resolve()):
        raise ValueError(
            f"init_from={config.init_from} lies in the folder that overwrite=true removes; choose another hydra.run.dir"
        )
    if config.ckpt_path is not None:
        path = newest(run_dir) if config.ckpt_path == "last" else Path(config.ckpt_path)
        if path is not None and path.is_file() and is_whole(path):
            check_settings(settings_of(path), to_dict(recipe_of(config, path)), config.resume.allow)


def counts_on(config: RunConfig, checkpoint: Path | None) -> bool:
    """Whether a checkpoint is of a training for the same `trainer.minutes`, whose number of steps is kept."""
    minutes = config.trainer.minutes
    return (
        minutes is not None and checkpoint is not None and settings_of(checkpoint)["trainer"].get("minutes") == minutes
    )


def with_steps(config: RunConfig, recipe: Recipe, run_dir: Path, resume: Path | None, stream: TokenStream) -> Recipe:
    """The recipe with as many steps as fit into `trainer.minutes`, where that is given; writes `budget.json`."""
    if config.trainer.minutes is None or counts_on(config, resume):
        return recipe
    fits = steps_within(config.trainer.minutes, recipe, stream)
    write_atomic(run_dir / BUDGET, json.dumps(to_dict(fits), indent=1) + "\n")
    return replace(recipe, trainer=replace(recipe.trainer, n_steps=fits.n_steps))


def steps_in_turns(configs: Mapping[str, RunConfig]) -> dict[str, StepBudget]:
    """How many steps of each of several runs fit into their `trainer.minutes`, timed in turns.

    Args:
        configs: name -> a run; all of the same data and minutes.
    """
    recipes: dict[str, tuple[Recipe, TokenStream]] = {}
    minutes = 0.0
    for name, config in configs.items():
        assert config.trainer.minutes is not None
        minutes, n_ctx, batch = config.trainer.minutes, config.model.n_ctx, config.trainer.micro_batch
        recipes[name] = config.recipe, TokenStream(corpus_of(config), "train", n_ctx, batch, config.seed)
    return in_turns(minutes, recipes)


def budget_of(run_dir: Path, config: RunConfig) -> StepBudget | None:
    """How the number of a run's steps was found; None where it was given, or the run was begun in another folder."""
    path = run_dir / BUDGET
    return from_json(StepBudget, path) if config.trainer.minutes is not None and path.is_file() else None


def trackers_of(config: RunConfig, run_dir: Path, kind: RunKind) -> AbstractContextManager[list[Tracker]]:
    """The trackers of a run while it lasts; a run that goes on in its folder goes on there too."""
    name = redacted(config.name)
    tags = (name[:64], *(("debug",) if config.debug else ()))
    resume = config.ckpt_path is not None or kind == "study"
    settings = to_dict(config)
    return tracking(config.logger, run_dir, name=name, kind=kind, settings=settings, tags=tags, resume=resume)


def train(
    config: RunConfig,
    run_dir: Path,
    command: str,
    watch: Watch = lambda corpus, export: [],
    loggers: Sequence[Logger] = (),
    stages: Stages | None = None,
) -> TrainedRun:
    """Runs the stages data, training, export and representation; the report begins when the model is exported.

    Args:
        config: the whole run.
        run_dir: where everything goes.
        command: the command line, for the report.
        watch: gives more callbacks; they must not touch the training.
        loggers: where scalars go beside metrics.csv.
        stages: of the whole run, to which these belong; None: there are no others.

    Raises:
        ValueError: an empty corpus, an infeasible budget, a checkpoint of other data.
        KeyError: a hook point to watch that does not exist.
        OSError: the disk refused a file; the message names it.
    """
    recipe, resume = check(config, run_dir)
    n_ctx, batch = config.model.n_ctx, config.trainer.micro_batch
    stages = stages or Stages(run_dir, KINDS, later_stages(config))
    with stages("data"):
        with first_rank_first():
            corpus = corpus_of(config)
        first = 0 if recipe.start is None else recipe.start.first_batch(corpus.content_hash, config.seed)
        stream = TokenStream(corpus, "train", n_ctx, batch, config.seed, first=first)
        val = val_batches(corpus, n_ctx, config.callbacks.n_val_batches)
        recipe = with_steps(config, recipe, run_dir, resume, stream)
        n_batches = recipe.n_steps * config.trainer.accumulate
        # The other ranks of a training get the first one's weights, so that any table does for them.
        batches = (stream.batch(k) for k in range(n_batches if is_main_process() else 1))
        bigram = fit_bigram(batches, corpus.tokenizer.d_vocab, val)
        splits = build_shifts(config.ood.shifts, corpus, n_ctx, config.seed) if config.ood.enabled else []

    export = Exporter(
        recipe=recipe,
        folder=run_dir,
        tokenizer=corpus.tokenizer.to_json(),
        facts={"name": redacted(config.name), "corpus_hash": corpus.content_hash},
        first_batch=first,
        packed=config.callbacks.export_packed,
    )
    validation = Validation(
        batches=val,
        weights={name: source.weight for name, source in config.data.sources.items()},
        chars_per_token={name: chars_per_token(of, corpus.tokenizer.n_chars) for name, of in val.items()},
    )
    looks = every(config.callbacks.val_every, recipe.n_steps) | config.early_stop.bounds(recipe.n_steps).keys()
    validated = AtSteps("validation", looks, validation, all_ranks=True)
    watchers: list[L.Callback] = [validated, EarlyStop(validated, config.early_stop, recipe.n_steps)]
    if config.ood.enabled:
        watchers.append(SparsityTracker(config.ood.tracker, splits, run_dir / "ood_sparsity.csv"))
    text = reference_text(val)
    if config.callbacks.dead_every is not None:
        watchers.append(AtSteps("dead_units", every(config.callbacks.dead_every, recipe.n_steps), DeadWatch(text)))
    watchers += watch(corpus, export)

    def untrained(model: Transformer) -> None:
        if config.model.bigram and config.bigram_init == "counts":
            init_bigram_(model, bigram)

    def start(model: Transformer) -> None:
        if recipe.start is None:
            untrained(model)
        elif resume is None:  # a checkpoint brings its own; the folder that they came from may be gone
            load_weights_(model, recipe.start, corpus.tokenizer.to_json())

    with stages("training"):
        trained = train_model(
            recipe,
            stream,
            export,
            start=start,
            watchers=watchers,
            callbacks=config.callbacks,
            checkpoints=config.checkpoints,
            guard=config.guard,
            loggers=loggers,
            resume=resume,
            allow=config.resume.allow,
            stop_at_step=config.stop_at_step,
        )
    folder = None
    if trained.complete:
        with stages("export"):
            folder = trained.export()
            if export.packed:
                trained.model.load_state_dict(load_model(folder).state_dict())
        model_bigram = "the model has no bigram table"
        if config.model.bigram:
            model_bigram = config.bigram_init if recipe.start is None else "as the given weights have it"
        weights = WeightsFacts(step=trained.step, sha256=sha256(folder / "model.safetensors"))
        sections = {
            "training": training_section(
                trained,
                validation,
                bigram,
                model_bigram,
                budget=budget_of(run_dir, config),
                dead=dead_units(trained.model, text),
            ),
            "data": describe(corpus),
            "sparsity": SparsitySection(
                method="none" if trained.sparsity is None else config.sparsity.method,
                tensors=() if trained.sparsity is None else trained.sparsity.audit(),
            ),
        }
        stages.begin(Report(run=run_facts(config, command), weights=weights, sections=sections))
        if config.ood.enabled:
            with stages("representation"):
                stages.add(
                    representation=describe_representation(
                        config, trained.model, untrained, splits, corpus.tokenizer, run_dir
                    )
                )
    return TrainedRun(model=trained.model, corpus=corpus, export=folder, step=trained.step, n_steps=recipe.n_steps)


def later_stages(config: RunConfig) -> tuple[str, ...]:
    """The stages of `train` after the export."""
    return ("representation",) if config.ood.enabled else ()


def run_facts(config: RunConfig, command: str) -> RunFacts:
    """The facts of the run that is under way in this process."""
    trainer = config.trainer
    name = redacted(config.name)
    return RunFacts.now(name=name, seed=config.seed, command=command, device=trainer.torch_device, debug=config.debug)


def describe_representation(
    config: RunConfig,
    model: Transformer,
    untrained: Callable[[Transformer], object],
    splits: Sequence[WatchedSplit],
    tokenizer: Tokenizer,
    run_dir: Path,
) -> RepresentationSection:
    """The report's section on representation sparsity: curves of the training, and a survey of the finished model.

    Also writes `ood_examples.csv`: every example of the survey.
    """
    table = run_dir / "ood_sparsity.csv"
    curves = table_section(table, splits, config.ood.tracker, model=model)
    settings = config.ood.survey
    if settings is None:
        return replace(curves, files=FilesEntry(table=table.name))

    def before_training() -> Transformer:
        with torch.random.fork_rng(devices=[]):
            return config.recipe.draw(untrained).to(next(model.parameters()).device)

    measured = survey(model, splits, settings, initial=before_training)
    places = {split.name: [f"{split.name}:{i}" for i in range(len(split.tokens))] for split in splits}
    write_examples(run_dir / "ood_examples.csv", measured, places)
    files = FilesEntry(table=table.name, examples="ood_examples.csv")
    characters = {split.name: tokenizer.n_chars[split.tokens] for split in splits}
    return replace(survey_section(measured, model, characters), step=curves.step, training=curves.training, files=files)


def means_source(export: Path) -> str:
    """What the text is over which the means of an export's nodes are taken, in words."""
    return MEANS_SOURCE_OF_IMPORTED if "imported" in read_meta(export) else MEANS_SOURCE


def text_windows(corpus: Corpus, config: RunConfig, split: str, n_windows: int) -> torch.Tensor:
    """Token windows `[n_windows, n_ctx]` of a split in the training mixture: `means` is kept for mean activations alone."""
    stream = TokenStream(corpus, split, config.model.n_ctx, n_windows, seed=0)
    return torch.from_numpy(stream.batch(0)[:, :-1])
