"""Can a weight-sparse model be coupled to a dense one so that either may take over anywhere, and does a node found in the sparse one steer the dense one?

1. Per seed: a dense teacher is trained on the run's texts, and a weight-sparse student with a bridge to it.
2. Hybrid passes with every single crossing, and random ones with several, on held-out documents.
3. Per task: a circuit of the student; of its nodes that read the residual stream the one is chosen that steers the teacher best on training pairs; its curve, and the
   curves of controls that were chosen among as many candidates, are those of held-out pairs.

Source: Gao et al. 2025, sections 2.3, 3.3, A.3, A.4; there one node is chosen by hand, for two tasks, beside one random direction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from circuits.answers import pair_answers
from circuits.bridges import tables
from circuits.bridges.bridge import Between, Bridge
from circuits.bridges.hybrid import Coupled, Route, crossing_losses, random_routes, single_crossings
from circuits.bridges.losses import BridgeConfig
from circuits.bridges.readings import (
    CROSSED,
    MAX_GAP,
    NODE,
    QUIET,
    BridgeReadings,
    CrossedLoss,
    CrossingResult,
    SteeringResult,
    StudentResult,
    TaskSteering,
)
from circuits.bridges.steer import (
    CONTROLS,
    DRAWN,
    PATCHED,
    Prompts,
    Steering,
    chosen,
    controls,
    curve,
    moved,
    node_candidate,
    own_change,
)
from circuits.bridges.training import train_bridged, train_on_text
from circuits.means import MEANS, means_once
from circuits.search.task import FindConfig, TaskSearch, aim, searched
from circuits.tasks import get_task
from circuits.tasks.loss import pair_accuracy, task_loss
from sparsetrain.data import Corpus, TokenStream
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.hooks import NodeId
from sparsetrain.model import Transformer
from sparsetrain.progress import progress_bar
from sparsetrain.run import MEANS_SOURCE, RunConfig, corpus_of, text_windows
from sparsetrain.sparsity.schedule import MATRICES
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import Arm, Stage, StageResult
from sparsetrain.studies.section import Figure, Gate, ResultTable
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Study, Subject, gate
from sparsetrain.typed import Count, Several

TEACHER, STUDENT, CROSSINGS, STEERING = "teacher", "student", "crossings", "steering"
MAX_DENSITY = 1 / 16
MIN_ACCURACY = 0.9
"""Of the dense model, on a task that it is steered in."""
APART = 2**16
"""Between the seeds of teachers and of students."""
TWO = 2
"""Tasks that are to be carried across."""
WHOLE = "models"
"""The arm that is about no single task."""


@dataclass(frozen=True, kw_only=True)
class BridgeStudyConfig:
    """Teacher, bridge, and what is asked of them. ours"""

    teacher: Arm = field(default_factory=lambda: Arm(d_model=96, density=1, abs_topk=1, lr_peak=8e-3))
    """How the teacher differs from the run, whose model is the student."""
    teacher_steps: Count = 1000
    """Optimizer steps of the teacher, at most those of the run. One that is trained for longer is harder to keep up with."""
    bridge: BridgeConfig = field(default_factory=lambda: BridgeConfig(n_each=1))
    tasks: tuple[str, ...] = ("single_double_quote", "bracket_brace", "for_while")
    """Such whose prompts are as long on both sides, token beside token."""
    find: FindConfig = field(default_factory=lambda: FindConfig(seeds=(0,), settle=(0.6,), nonsense_twin=False))
    """Of the student's circuits."""
    n_windows: Count = 128
    """Held-out windows on which hybrid passes are read."""
    n_routes: Count = 12
    """Random ways with several crossings."""
    n_means_windows: Count = 128
    """Windows of text for means of deleted nodes and for the RMS of residual streams."""
    n_draws: Count = 10
    """Of each control that chance decides, each with the whole choice among candidates."""
    n_strengths: Several = 11
    """From 0 to 1."""

    def __post_init__(self) -> None:
        if len(set(self.tasks)) < len(self.tasks) or not self.tasks:
            raise ValueError(f"tasks={list(self.tasks)} must be at least one task, each once")
        for name in self.tasks:
            get_task(name)

    @property
    def strengths(self) -> tuple[float, ...]:
        return tuple(i / (self.n_strengths - 1) for i in range(self.n_strengths))


def _above0(key: str, claim: str, effect: object, unit: str) -> Hypothesis[BridgeReadings]:
    """A number that must lie above 0, whatever its size."""
    return Hypothesis(key=key, claim=claim, expected="positive", effect=effect, unit=unit, margin=0.001)  # pyright: ignore[reportArgumentType]


def _dense_accuracy(r: BridgeReadings) -> float:
    return r.of_task.dense_accuracy


def _sparse_loss(r: BridgeReadings) -> float:
    return r.of_task.sparse_loss


def _n_candidates(r: BridgeReadings) -> float:
    return float(r.of_task.n_candidates)


OF_WHOLE = (
    _above0("within", f"hybrid passes: {MAX_GAP:g} less what the worst single crossing loses to the dense model", BridgeReadings.within, "nats/token"),
    _above0("two tasks", f"tasks that are carried across, less {TWO - 0.5:g}", lambda r: r.n_carried() - TWO + 0.5, "tasks"),
    _above0("two tasks, by chance", f"the same beside controls that chance decides alone, less {TWO - 0.5:g}", lambda r: r.n_carried_beside(DRAWN) - TWO + 0.5, "tasks"),
)  # fmt: skip
CROSSES = _above0("crosses", f"highest probability on the node's curve less {CROSSED:g}, having begun below it", BridgeReadings.crosses, "fraction")  # fmt: skip
QUIETS = tuple(
    _above0(
        f"{name} quiet",
        f"{QUIET:g} less the movement of the control: {name}",
        partial(BridgeReadings.quiet, control=name),
        "fraction",
    )
    for name in CONTROLS
)
RULINGS_OF_WHOLE = (
    Ruling(name="either may take over", statement=f"across any one site the loss rises by less than {MAX_GAP:g} nats/token", needs=("within",)),
    Ruling(name="two tasks are carried", statement=f"for at least {TWO} tasks the curve crosses {CROSSED:g} and no control moves by more than {QUIET:g}", needs=("two tasks",)),
    Ruling(name="not by chance", statement=f"for at least {TWO} tasks the curve crosses {CROSSED:g} and nothing drawn at random moves by more than {QUIET:g}", needs=("two tasks, by chance",)),
)  # fmt: skip
RULINGS_OF_TASK = (
    Ruling(name="node steers", statement=f"one node of the sparse circuit, carried across, turns the dense model's answer: the curve crosses {CROSSED:g}", needs=("crosses",)),
    Ruling(name="chance does not", statement=f"no direction and no node drawn at random moves the probability by more than {QUIET:g}", needs=tuple(f"{name} quiet" for name in DRAWN)),
    Ruling(name="a difference of means does not", statement="nor does the dense model's own difference of means, as long as the node's change", needs=tuple(f"{name} quiet" for name in CONTROLS if name not in DRAWN)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BridgeStudy(Study[BridgeReadings]):
    """Claims are about the two models, and about every task."""

    question = "Can a weight-sparse model be bridged to a dense one so that either may take over anywhere, and does a node of the sparse one steer the dense one?"
    hypotheses = (*OF_WHOLE, CROSSES, *QUIETS)
    rulings = (*RULINGS_OF_WHOLE, *RULINGS_OF_TASK)

    settings: BridgeStudyConfig

    def __post_init__(self) -> None:
        if self.rules.arms:
            raise ValueError(f"study.arms={list(self.rules.arms)}: this study has no arms but a teacher (study.bridge.teacher) and its student; leave it empty")  # fmt: skip
        if self.config.trainer.accumulate > 1:
            raise ValueError(f"trainer.accumulate={self.config.trainer.accumulate} must be 1 in this study")

    @property
    def arms(self) -> tuple[str, ...]:
        return (WHOLE, *self.settings.tasks)

    def asked(self, subject: Subject) -> Sequence[Hypothesis[BridgeReadings]]:
        return OF_WHOLE if subject.arm == WHOLE else (CROSSES, *QUIETS)

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        return RULINGS_OF_WHOLE if subject.arm == WHOLE else RULINGS_OF_TASK

    def teacher(self, seed: int) -> RunConfig:
        """The run of a teacher."""
        config = of_arm(self.config, self.settings.teacher, seed + APART)
        n_steps = min(self.settings.teacher_steps, config.trainer.n_steps)
        return replace(config, trainer=replace(config.trainer, n_steps=n_steps))

    def student(self, seed: int) -> RunConfig:
        """The run of a student."""
        return replace(self.config, seed=seed)

    def method(self) -> tuple[str, ...]:
        settings, bridge, model = self.settings, self.settings.bridge, self.config.model
        teacher, sites = self.teacher(self.config.seed).model, 2 * model.n_layer + 1
        each = "all sites" if bridge.n_each is None else f"{bridge.n_each} of {sites} sites a row, dealt at random"
        return (
            f"Per seed a dense teacher of {teacher.n_layer} layers of width {teacher.d_model}, trained for {self.teacher(self.config.seed).trainer.n_steps:,} steps, then frozen, and a student of width {model.d_model} whose weight matrices end at density {self.config.sparsity.density:.3g}, after {self.config.trainer.n_steps:,}; both read {', '.join(self.config.data.sources)}. "
            f"At {sites} sites (before every attention, every MLP and the unembedding) an encoder (linear, AbsTopK of {bridge.share:g} of the channels) and a decoder (linear), both dense and trained with the student.",
            f"Loss: {bridge.cross_entropy:g} x cross-entropy of the student + {bridge.nmse:g} x normalised squared errors of encoders and decoders, mean over sites (over the variance of what is predicted) + {bridge.kl:g} x KL from the teacher to hybrid passes with one crossing, in both directions ({each}).",
            f"Hybrid passes are read on {settings.n_windows} windows of held-out documents: every single crossing, and {settings.n_routes} random ways with several.",
            f"Steering: tasks {', '.join(settings.tasks)}. Of the student's circuit the nodes that read the residual stream are candidates. A node's difference between the prompts of a pair, at every token, times the decoder's column and the ratio of the RMS of both residual streams, is added to what the teacher reads there, at strengths 0 to 1. "
            "The candidate that gives most probability, of both answers of a pair, to the other prompt's answer on training pairs is kept; curves are of held-out pairs, both directions, and begin below a half where the teacher does the task. Over the whole vocabulary they stand beside.",
            f"Controls, each with as many candidates, at the same sites and tokens, chosen on the same pairs: a random direction of equal length; a random other node of the same layer, with its own change and with one of equal length; the teacher's own difference of means, of the last token and of all tokens, at equal length. "
            f"Those that chance decides are drawn {settings.n_draws} times, and the mean over draws counts: the worst would grow with their number. Beside them the teacher's own change at the site of the node: how far a change there can go.",
            "Seeds are of data order, weights of teacher and student, and bridge. Settings and tasks were chosen on other seeds.",
        )  # fmt: skip

    def gates(self) -> Gates[BridgeReadings]:
        found: list[tuple[Gate, Callable[[BridgeReadings], float]]] = [
            gate("density", "density of the student's weight matrices", number(MAX_DENSITY + 1e-3, "fraction"), lambda r: r.student.density, rule="at most")
        ]  # fmt: skip
        target = number(self.settings.find.target_loss, "nats")
        for task in self.settings.tasks:
            found += [
                gate(f"dense, {task}", f"{task}: accuracy of the dense model", number(MIN_ACCURACY, "fraction"), _dense_accuracy, arm=task),
                gate(f"sparse, {task}", f"{task}: task loss of the sparse model", target, _sparse_loss, rule="at most", arm=task),
                gate(f"circuit, {task}", f"{task}: nodes of its circuit to choose from", number(1, "nodes"), _n_candidates, arm=task),
            ]  # fmt: skip
        return found

    def stages(self) -> Sequence[Stage]:
        settings, data = self.settings, self.config.data
        read = {"n_windows": settings.n_windows, "n_routes": settings.n_routes}
        steer = {"tasks": settings.tasks, "find": settings.find, "n_draws": settings.n_draws, "n_strengths": settings.n_strengths, "n_means_windows": settings.n_means_windows}  # fmt: skip
        found: list[Stage] = []
        for seed in self.seeds:
            teacher = {**self.teacher(seed).recipe.key(), "data": data, "bigram_init": self.config.bigram_init}
            student = {"teacher": teacher, "student": self.student(seed).recipe.key(), "bridge": settings.bridge}
            found += [
                Stage(name=f"{TEACHER}/seed_{seed}", inputs=teacher, run=partial(self._teach, seed)),
                Stage(name=f"{STUDENT}/seed_{seed}", inputs=student, run=partial(self._train, seed), schema=StudentResult),
                Stage(name=f"{CROSSINGS}/seed_{seed}", inputs={**student, **read}, run=partial(self._cross, seed), schema=CrossingResult),
                Stage(name=f"{STEERING}/seed_{seed}", inputs={**student, **steer}, run=partial(self._steer, seed), schema=SteeringResult),
            ]  # fmt: skip
        return found

    @cached_property
    def _corpus(self) -> Corpus:
        return corpus_of(self.config)

    def _teach(self, seed: int, folder: Path) -> StageResult:
        return StageResult(weights_sha256=train_on_text(self.teacher(seed), self._corpus, folder).weights_sha256)

    def _train(self, seed: int, folder: Path) -> StudentResult:
        export = latest_export(folder.parents[1] / TEACHER / f"seed_{seed}")
        teacher, sha256 = load_model(export), read_meta(export)["weights_sha256"]
        trained = train_bridged(self.student(seed), self._corpus, folder, teacher, sha256, self.settings.bridge)
        matrices = [p for name, p in trained.model.named_parameters() if MATRICES.fullmatch(name)]
        return StudentResult(
            weights_sha256=trained.weights_sha256,
            density=sum(int((p != 0).sum()) for p in matrices) / sum(p.numel() for p in matrices),
            n_nonzero=sum(
                int((p != 0).sum()) for name, p in trained.model.named_parameters() if not name.startswith("bigram")
            ),
        )

    def _coupled(self, seed: int, run_dir: Path) -> tuple[Coupled, str]:
        """Models and bridge of a seed, and the hash of the student's weights."""
        exports = [latest_export(run_dir / name / f"seed_{seed}") for name in (TEACHER, STUDENT)]
        dense, sparse = (read_meta(export)["weights_sha256"] for export in exports)
        bridge = Bridge.load(exports[1], Between(dense_sha256=dense, sparse_sha256=sparse))
        return Coupled.of(load_model(exports[0]), load_model(exports[1]), bridge), sparse

    def _cross(self, seed: int, folder: Path) -> CrossingResult:
        coupled, sha256 = self._coupled(seed, folder.parents[1])
        settings, n_sites = self.settings, len(coupled.sites)
        stream = TokenStream(self._corpus, "heldout", self.config.model.n_ctx, settings.n_windows, seed=0)
        windows = torch.from_numpy(stream.batch(0))
        routes = [Route(start="dense"), Route(start="sparse"), *single_crossings(n_sites), *random_routes(n_sites, settings.n_routes, 0)]  # fmt: skip
        losses = tuple(
            CrossedLoss(
                route=one.route.words(coupled.sites),
                single=len(one.route.crossings) == 1,
                start=one.route.start,
                site=coupled.sites[one.route.crossings[0]].name if one.route.crossings else "",
                loss=one.loss,
                kl=one.kl,
            )
            for one in crossing_losses(coupled, windows, routes)
        )
        return CrossingResult(weights_sha256=sha256, losses=losses, n_tokens=windows[:, 1:].numel())

    def _steer(self, seed: int, folder: Path) -> SteeringResult:
        settings = self.settings
        coupled, sha256 = self._coupled(seed, folder.parents[1])
        sparse = coupled.sparse
        assert isinstance(sparse, Transformer)

        def windows() -> Tensor:
            return text_windows(self._corpus, self.config, "means", settings.n_means_windows)

        steering = Steering.of(coupled, windows())
        means = means_once(
            sparse, folder / MEANS, windows, source=MEANS_SOURCE, weights_sha256=sha256, n=settings.n_means_windows
        )
        found: dict[str, TaskSteering] = {}
        with progress_bar(self.config.trainer.progress) as bar:
            all_tasks = bar.add_task(f"steering, seed {seed}", total=len(settings.tasks))
            for task in settings.tasks:
                subject = TaskSearch.of(sparse, task, self._corpus.tokenizer, means, settings.find)
                found[task] = steered(steering, subject, settings, seed, folder / task)
                bar.advance(all_tasks)
        return SteeringResult(weights_sha256=sha256, strengths=settings.strengths, tasks=found)

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[BridgeReadings]]:
        students, crossings, steerings = self._seeds_of(results)
        return {
            subject: [
                BridgeReadings(student=students[seed], crossings=crossings[seed], steering=steerings[seed], task=None if subject.arm == WHOLE else subject.arm)
                for seed in self.seeds
            ]
            for subject in self.subjects
        }  # fmt: skip

    def _seeds_of(
        self, results: Mapping[str, StageResult]
    ) -> tuple[dict[int, StudentResult], dict[int, CrossingResult], dict[int, SteeringResult]]:
        students: dict[int, StudentResult] = {}
        crossings: dict[int, CrossingResult] = {}
        steerings: dict[int, SteeringResult] = {}
        for seed in self.seeds:
            student, crossing, steering = (results[f"{name}/seed_{seed}"] for name in (STUDENT, CROSSINGS, STEERING))
            assert isinstance(student, StudentResult) and isinstance(crossing, CrossingResult)
            assert isinstance(steering, SteeringResult)
            students[seed], crossings[seed], steerings[seed] = student, crossing, steering
        return students, crossings, steerings

    def figures(self, read: Mapping[Subject, Sequence[BridgeReadings]]) -> Sequence[Figure]:
        seeds = dict(zip(self.seeds, read[Subject(arm=WHOLE)], strict=True))
        crossing = tables.crossing_figure({seed: one.crossings for seed, one in seeds.items()})
        return [crossing, *tables.steering_figures({seed: one.steering for seed, one in seeds.items()})]

    def tables(
        self, read: Mapping[Subject, Sequence[BridgeReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        students, crossings, steerings = self._seeds_of(results)
        return (
            tables.models_table(students, crossings),
            tables.crossing_table(crossings, single=True),
            tables.crossing_table(crossings, single=False),
            tables.steering_table(steerings),
        )


def steered(
    steering: Steering, subject: TaskSearch, settings: BridgeStudyConfig, seed: int, folder: Path
) -> TaskSteering:
    """One task: circuit, node, curves.

    Args:
        steering: of both models.
        subject: the task in the sparse model.
        settings: of the study.
        seed: of what is drawn.
        folder: gets the circuit.
    """
    answers, calibration = subject.full
    loss = float(task_loss(calibration.apply(answers)))
    heldout_answers = pair_answers(steering.coupled.dense, subject.pairs.heldout, settings.find.batch_size)
    facts = {"dense_accuracy": float(pair_accuracy(heldout_answers).mean()), "sparse_loss": loss}
    does = loss <= settings.find.target_loss
    found = searched(subject, aim(subject, does)).circuits if does or not settings.find.gate else ()
    train, heldout = Prompts.of(subject.pairs.train), Prompts.of(subject.pairs.heldout)
    nodes: list[tuple[int, int]] = []
    if found:
        found[0][0].save(folder)
        parsed = [NodeId.parse(name) for name in found[0][0].node_ids]
        nodes = [(site, node.channel) for node in parsed if (site := steering.site_of(node)) is not None]
    sizes = {"n_nodes": found[0][0].n_nodes, "n_edges": found[0][0].n_edges} if found else {"n_nodes": 0, "n_edges": 0}
    if not nodes or train is None or heldout is None:
        return TaskSteering(**facts, **sizes, node="", site="", n_candidates=0, n_rows=0, curves={}, whole={}, moved={})  # fmt: skip
    candidates = [node_candidate(steering, *node) for node in nodes]
    best, _ = chosen(steering, candidates, train)
    beside = {NODE: best, PATCHED: own_change(steering, best.site)}
    curves, whole = (
        {name: curve(steering, one, heldout, settings.strengths, whole=over).mean(1) for name, one in beside.items()}
        for over in (False, True)
    )
    movements: dict[str, float] = {}
    for control in CONTROLS:
        draws = []
        for draw in range(settings.n_draws if control in DRAWN else 1):
            made = controls(steering, control, nodes, candidates, train, seed * settings.n_draws + draw)
            draws.append(curve(steering, chosen(steering, made, train)[0], heldout, settings.strengths))
        curves[control] = torch.stack(draws).mean((0, 2))
        movements[control] = sum(map(moved, draws)) / len(draws)
    return TaskSteering(
        **facts,
        **sizes,
        node=best.name,
        site=steering.coupled.sites[best.site].name,
        n_candidates=len(nodes),
        n_rows=len(heldout.presented),
        curves={name: tuple(values.tolist()) for name, values in curves.items()},
        whole={name: tuple(values.tolist()) for name, values in whole.items()},
        moved=movements,
    )
