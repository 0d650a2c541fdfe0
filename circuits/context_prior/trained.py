"""When does a model answer from memory although the prompt says otherwise, and what turns it? Small models in a world whose exposures are known.

1. Arms are weights (dense, sparse) times shares `e` of training statements that contradict memory with the document being right. Each model is asked about clean
   facts, which were never contradicted: is the statement in the prompt believed, at 0 to 1024 exposures of the fact?
2. Prompts and interventions are tuned on some facts of every exposure count, each with as many settings, and read on the others (`circuits.prior`). What recalls is
   found by extraction on facts of contradicted subjects, of which nothing else is reported.
3. Checkpoints are read under one statement and under none.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from circuits.context_prior import trained_tables as tables
from circuits.context_prior.readings import (
    AGREEING,
    NO_CONTEXT,
    NO_HARM,
    RANDOM,
    STATED,
    TrainedReadings,
    TrainedResult,
    kept,
)
from circuits.context_prior.recall import RecallConfig, recall_circuit
from circuits.context_prior.world_cases import conflict_cases, neutral_questions, recalled_from
from circuits.prior.arm import Kind
from circuits.prior.asking import Subject as Asked
from circuits.prior.asking import ask, plain
from circuits.prior.cases import Case, Form, deal
from circuits.prior.gentle import Gentle, gentle
from circuits.prior.interventions import RecallNodes, interventions
from circuits.prior.page import section_of
from circuits.prior.prompts import PROMPT_ARMS, REFERENCES, SATURATION
from circuits.prior.sparsity import sparsity as sparsity_of
from circuits.prior.study import ExamineConfig, examine, forms_for, n_asked
from circuits.prior.tuning import words
from sparsetrain.data.worlds.conflicts import LENGTH, ConflictWorldConfig, draw_world, write_documents
from sparsetrain.model import Transformer
from sparsetrain.progress import progress_bar
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.run import RunConfig
from sparsetrain.stats.intervals import Floats
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import Arrays, Reader, of_arm, train_arm
from sparsetrain.studies.engine import Arm, Stage, StageResult, log_spaced_steps
from sparsetrain.studies.engine import section_of as in_section
from sparsetrain.studies.readings import FINAL, correlation, over_seeds_figure, sparsity
from sparsetrain.studies.section import Figure, Gate, ResultTable, StudySection
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, TrainedStudy, gate
from sparsetrain.training.objectives import asked_loss

DENSE, SPARSE = "dense", "weight_sparse"
WEIGHTS = {DENSE: Arm(density=1), SPARSE: Arm(density=0.25)}  # ours
MARGIN = 0.05
"""Smallest difference of a probability of interest. ours"""
LEAST = 0.95
"""What must be read from the prompt at no exposures, and remembered from `RECALLED` on."""
GAP = 0.1
"""Largest difference of the loss of new documents of a sparse and a dense model that are compared, nats. ours"""
HARM = 0.1
"""KL on neutral questions below which an intervention leaves them alone, nats. ours"""
N_NEW = 512
"""New documents of either kind on which losses are compared. ours"""
FAR = Form(behind=8)
SIZE = 256
"""Cases of one forward pass."""
FIT_EACH = 6
"""Fitting facts of every exposure count. ours"""


@dataclass(frozen=True, kw_only=True)
class ConflictStudyConfig:
    """The worlds, and how models are asked. ours"""

    world: ConflictWorldConfig = field(default_factory=ConflictWorldConfig)
    rates: tuple[float, ...] = (0.0, 0.01, 0.1)
    """Shares of training statements that contradict memory; each is an arm. The first is 0."""
    examine: ExamineConfig = field(default_factory=lambda: ExamineConfig(n_heads=42))
    recall: RecallConfig = field(default_factory=RecallConfig)

    def __post_init__(self) -> None:
        rates = list(self.rates)
        if not rates or rates != sorted(set(rates)) or rates[0] != 0:
            raise ValueError(f"rates={rates} must rise from 0")
        if rates[-1] > 1 / 3:
            raise ValueError(f"rates={rates} must be at most 1/3: a third of the subjects is contradicted")
        for rate in rates:
            replace(self.world, conflict=rate)
        n_asked = len(self.world.levels) * (self.world.n_subjects - self.world.n_contradicted)
        if self.n_fit >= n_asked:
            raise ValueError(f"examine.n_fit={self.n_fit} must be below {n_asked}, the facts that are asked about")
        if self.examine.seed:
            raise ValueError(f"examine.seed={self.examine.seed} is the run's seed here; leave it 0")
        if self.world.conflict:
            raise ValueError(f"world.conflict={self.world.conflict} is set by rates={rates}; leave it 0")

    @property
    def n_fit(self) -> int:
        """Cases that arms are tuned on."""
        return self.examine.n_fit or FIT_EACH * len(self.world.levels)


def _claim(
    key: str, claim: str, effect: object, *, expected: str = "positive", unit: str = "fraction", margin: float = MARGIN
) -> Hypothesis[TrainedReadings]:
    return Hypothesis(key=key, claim=claim, expected=expected, effect=effect, unit=unit, margin=margin)  # pyright: ignore[reportArgumentType]


def _against(r: TrainedReadings, other: TrainedReadings | None, name: str) -> float:
    assert other is not None
    return r.at(r.levels[-1], name) - other.at(r.levels[-1], name)


def _strongest(r: TrainedReadings, values: Floats) -> float:
    return float(values[r.strongest].mean())


def _of(other: TrainedReadings | None) -> TrainedReadings:
    assert other is not None
    return other


def _octaves(r: TrainedReadings) -> float:
    assert r.dense is not None
    return math.log2(max(r.dense.result.n_circuit, 1) / max(r.result.n_circuit, 1))


RECALL_ARM = RecallNodes.name
OF_ALL: tuple[Hypothesis[TrainedReadings], ...] = (
    _claim("prior wins", "one statement: P(context) at no exposures less that at the most", lambda r: -r.gained(r.score(STATED))),
    correlation("dose", "negative", "one statement: the more exposures, the lower P(context) (Spearman over facts)", TrainedReadings.dose),
    _claim("best prompt", "most exposures: P(context) of the best prompt less that of one statement", lambda r: _strongest(r, r.score(r.best("prompt")) - r.score(STATED))),
    _claim("saturates", "most exposures: the statement eight times does what it does four times", lambda r: _strongest(r, r.score(SATURATION[1]) - r.score(SATURATION[0])), expected="none"),
    _claim("headroom", "most exposures: P(context) of the best intervention less that of the best prompt", lambda r: _strongest(r, r.headroom())),
    _claim("headroom grows", "headroom at the most exposures less that at none", lambda r: r.gained(r.headroom())),
    _claim("headroom, no donor", "most exposures: the same without activation patching, whose donor is a prompt", lambda r: _strongest(r, r.headroom(r.best_without_patching()))),
    _claim("headroom, no harm", f"most exposures: the same of those that leave neutral questions alone (KL at most {HARM:g} nats)", lambda r: _strongest(r, r.headroom_at_no_harm())),
    _claim("beyond random", "most exposures: P(context) of the best intervention less that of its random controls", TrainedReadings.beyond_random),
    _claim("restores", "the best intervention turned round: memory's share of answers rises, known facts", TrainedReadings.restored),
    _claim("harmless", f"the best intervention leaves neutral questions alone: KL at most {HARM:g} nats", TrainedReadings.collateral, expected="none", unit="nats", margin=HARM),
    _claim("recall edited", f"most exposures: P(context) under the arm `{RECALL_ARM}` less that of one statement", TrainedReadings.edited),
    _claim("suffices", f"most exposures: the best prompt is at most {MARGIN:g} below the best intervention (best prompt less best intervention plus {MARGIN:g})", lambda r: MARGIN - _strongest(r, r.headroom()), margin=0.001),
    sparsity("conflict is sparser", "positive", f"known facts: {HEADLINE} at {FINAL} under a contradicting statement less that under an agreeing one", lambda r: float(r.more_sparse()[r.known].mean())),
    sparsity("sparser without memory", "none", "control: the same at no exposures, where nothing is contradicted", lambda r: float(r.more_sparse()[r.n == 0].mean())),
)  # fmt: skip
OF_RATES: tuple[Hypothesis[TrainedReadings], ...] = (
    _claim("contradictions teach", "most exposures, one statement: P(context) less that of models never contradicted in training", lambda r: _against(r, r.uncontradicted, STATED)),
)  # fmt: skip
OF_SPARSE: tuple[Hypothesis[TrainedReadings], ...] = (
    _claim("as dense", "most exposures, one statement: P(context) less that of dense weights", lambda r: _against(r, r.dense, STATED), expected="none"),
    _claim("switched off", f"most exposures: what the arm `{RECALL_ARM}` adds to P(context) of one statement, less the same of dense weights", lambda r: r.edited() - _of(r.dense).edited()),
    _claim("found smaller", "nodes of the recall circuit, dense / sparse (log2)", _octaves, unit="octaves", margin=math.log2(1.1)),
)  # fmt: skip
RULINGS_OF_ALL = (
    Ruling(name="memory beats context", statement="the more exposures a fact has had, the less a statement that contradicts it is believed", needs=("prior wins", "dose")),
    Ruling(name="interventions do what prompts cannot", statement="headroom of interventions over prompts grows with exposures, beats random controls, and saying it more often has come to its end", needs=("headroom", "headroom grows", "beyond random", "saturates")),
    Ruling(name="interventions do so at no harm", statement="where the prior is strongest the best intervention that leaves neutral questions alone does more than the best prompt that does", needs=("headroom, no harm",)),
    Ruling(name="prompting suffices", statement=f"where the prior is strongest the best prompt is not worse than the best intervention by {MARGIN:g} or more", needs=("suffices",)),
    Ruling(name="conflict is sparser", statement="representations are sparser where the prompt contradicts what is known, and not where nothing is known", needs=("conflict is sparser", "sparser without memory")),
)  # fmt: skip
RULINGS_OF_RATES = (
    Ruling(name="contradictions teach", statement="training on some contradictions makes statements about other facts believed", needs=("contradictions teach",)),
)  # fmt: skip
RULINGS_OF_SPARSE = (
    Ruling(name="sparse: found and switched off", statement="in sparse weights the prior is held by fewer nodes and easier to switch off", needs=("recall edited", "switched off", "found smaller")),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainedConflictStudy(TrainedStudy[TrainedReadings]):
    """Claims are made about every arm; those of sparse weights are compared with dense ones, those of contradictions with none.

    Raises:
        ValueError: arms other than dense and weight_sparse.
    """

    question = "When does a model answer from memory although the prompt says otherwise, and what turns it?"
    hypotheses = (*OF_ALL, *OF_RATES, *OF_SPARSE)
    rulings = (*RULINGS_OF_ALL, *RULINGS_OF_RATES, *RULINGS_OF_SPARSE)
    overviews: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "overview": ("Where the prior is strongest: P(context) of the best intervention less that of the best prompt, and less random controls", ("headroom", "beyond random")),
        "prior": ("One statement: P(context) at no exposures less that at the most", ("prior wins",)),
    }  # fmt: skip
    result = TrainedResult

    conflicts: ConflictStudyConfig

    def __post_init__(self) -> None:
        if set(self.weights) != set(WEIGHTS):
            raise ValueError(
                f"arms={list(self.weights)} must be {', '.join(WEIGHTS)}; change their settings, not their names"
            )

    @property
    def weights(self) -> Mapping[str, Arm]:
        return self.rules.arms or WEIGHTS

    @cached_property
    def _kinds(self) -> Mapping[str, tuple[str, float]]:
        """Arm -> weights and share of contradictions."""
        return {f"{name} e={rate:g}": (name, rate) for rate in self.conflicts.rates for name in WEIGHTS}

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self._kinds)

    def folder(self, arm: str, seed: int) -> str:
        name, rate = self._kinds[arm]
        return f"{name}_e{rate:g}/seed_{seed}"

    def asked(self, subject: Subject) -> Sequence[Hypothesis[TrainedReadings]]:
        name, rate = self._kinds[subject.arm]
        return (*OF_ALL, *(OF_RATES if rate else ()), *(OF_SPARSE if name == SPARSE else ()))

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        name, rate = self._kinds[subject.arm]
        more = (*(RULINGS_OF_RATES if rate else ()), *(RULINGS_OF_SPARSE if name == SPARSE else ()))
        return (*RULINGS_OF_ALL, *more)

    def world_of(self, arm: str) -> ConflictWorldConfig:
        """The world's settings of an arm."""
        return replace(self.conflicts.world, conflict=self._kinds[arm][1])

    def method(self) -> tuple[str, ...]:
        world = self.conflicts.world
        counts = draw_world(world, self.config.seed).counts()
        n_clean = world.n_subjects - world.n_contradicted
        return (
            f"A world of {world.n_subjects} subjects, as many objects and {world.n_relations} relations: of every subject one fact for each of {', '.join(map(str, world.levels))} exposures, and "
            f"{world.n_given} bindings that only documents give. Documents of {world.n_triples} triples: {counts['recall documents']:,} recall documents and {counts['given documents']:,} given ones, "
            f"{counts['statements']:,} statements and {counts['questions']:,} questions about them in those. Every subject, relation and object is shown equally often. Trained on are the objects that are asked for.",
            f"Arms: weights times e, the share of all statements that contradict memory, the document being right: {', '.join(f'{rate:g}' for rate in self.conflicts.rates)}. They are about the subjects of the first third of the "
            f"groups; asked about are the facts of the {n_clean} others, {n_clean} of each exposure count, contradicted in the prompt by the object of another fact of the same count.",
            f"Tuning: {self.conflicts.n_fit} facts, as many of each exposure count, for four settings of every arm; the best prompt and the best intervention are chosen there too. All other facts are reported. "
            f"Interventions: contrastive decoding, heads scaled, dual run, one direction, activation patching (its donor is the statement four times), and the edit of the recall circuit, which is found by "
            f"extraction on facts of contradicted subjects. Measure: {self.conflicts.examine.measure}; {self.conflicts.examine.n_random} random controls each.",
            "Neutral questions, on which damage is measured, ask for facts of contradicted subjects that have to be known behind a statement about something else.",
            f"Gates: greedy answers are the statement's at no exposures, and memory's from {recalled_from(world)} exposures on where nothing is stated, both at least {LEAST:g}; sparse and dense weights differ by at most {GAP:g} nats on "
            f"new documents. A model that cannot read or cannot remember says nothing about which wins.",
            f"Margins: {MARGIN:g} of a probability, {self.rules.margin:g} of {HEADLINE}. Intervals are Student's t over seeds. n50: exposures at which P(context) is one half.",
        )  # fmt: skip

    def gates(self) -> Gates[TrainedReadings]:
        least, gap = number(LEAST, "fraction"), number(GAP, "nats")
        reads = "the statement is answered at no exposures"
        knows = f"memory's answer where nothing is stated, from {recalled_from(self.conflicts.world)} exposures on"
        apart = "loss of new documents, apart from that of dense weights"
        found: list[tuple[Gate, Callable[[TrainedReadings], float]]] = []
        for arm, (name, _) in self._kinds.items():
            found.append(gate(f"context, {arm}", f"{arm}: {reads}", least, TrainedReadings.reads, arm=arm))
            found.append(gate(f"recall, {arm}", f"{arm}: {knows}", least, TrainedReadings.remembers, arm=arm))
            if name == SPARSE:
                found.append(gate(f"loss, {arm}", f"{arm}: {apart}", gap, _loss_gap, rule="at most", arm=arm))
        return found

    def config_of(self, arm: str, seed: int) -> RunConfig:
        world = self.world_of(arm)
        config = of_arm(self.config, self.weights[self._kinds[arm][0]], seed)
        with in_section("study.conflict_world.world"):
            n_steps = math.ceil(n_documents(world, seed) / config.trainer.batch_size)
        model = replace(config.model, d_vocab=world.d_vocab, n_ctx=world.n_tokens - 1)
        return replace(config, model=model, trainer=replace(config.trainer, n_steps=n_steps))

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        return {**config.recipe.key(), "conflicts": self.conflicts, "n_checkpoints": self.rules.n_checkpoints}

    def stages(self) -> Sequence[Stage]:
        """Of every seed dense and sparse weights side by side."""
        return [
            Stage(
                name=self.folder(arm, seed),
                inputs={**self.inputs(config := self.config_of(arm, seed)), "e": self._kinds[arm][1]},
                run=partial(self._train, arm, config),
                schema=TrainedResult,
            )
            for seed in self.seeds
            for arm in self.arms
        ]

    def work(self, config: RunConfig, folder: Path) -> StageResult:
        raise TypeError("a stage of this study belongs to an arm; `stages` says which")

    def _train(self, arm: str, config: RunConfig, folder: Path) -> TrainedResult:
        world = draw_world(self.world_of(arm), config.seed)
        write_documents(world, config.trainer.batch_size, folder / "documents.csv.gz")
        cases = conflict_cases(world, forms_for(PROMPT_ARMS), config.seed)
        dealt = deal(cases, self.conflicts.n_fit, config.seed)
        steps = log_spaced_steps(config.trainer.n_steps, self.rules.n_checkpoints)
        reader = Reader(partial(_at_step, cases=dealt.evaluated))
        started = time.perf_counter()
        model, weights = train_arm(
            config, world.rows, folder, steps, {"conflicts": reader}, objective=asked_loss(LENGTH)
        )
        training_s = time.perf_counter() - started
        subject = Asked(module=model, weights_sha256=weights, batch_size=SIZE)
        circuit = recall_circuit(model, world, weights, self.conflicts.recall, config.seed)
        found, left_out = interventions(subject, circuit.nodes, circuit.means)
        if not circuit.nodes:
            left_out[RECALL_ARM] = circuit.reason
        assert not {str(fact) for fact in circuit.facts} & {case.fact for case in cases}
        arms, neutral = [*PROMPT_ARMS, *found], neutral_questions(world, forms_for(PROMPT_ARMS), config.seed)
        examining = replace(self.conflicts.examine, n_fit=self.conflicts.n_fit, seed=config.seed)
        with progress_bar(config.trainer.progress) as bar:
            task = bar.add_task("answers", total=n_asked(dealt, arms, examining))
            outcome = examine(subject, dealt, arms, neutral, examining, folder / "answers", partial(bar.advance, task))
        kinds: tuple[Kind, ...] = ("prompt", "intervention")
        gentlest: dict[Kind, Gentle | None] = {kind: gentle(subject, outcome, neutral, kind, HARM) for kind in kinds}
        unharmed = {NO_HARM[kind]: one.scores for kind, one in gentlest.items() if one is not None}
        arrays = {
            "n": np.array([case.strength for case in dealt.evaluated]),
            **kept(outcome, {"far": ask(subject, dealt.evaluated, plain(subject, FAR)), **unharmed}),
            **{f"gini|{name}": sparsity_of(subject, dealt.evaluated, REFERENCES[name]) for name in (STATED, AGREEING, NO_CONTEXT)},
            "steps": np.array(sorted(reader.found)),
            **{name: np.stack([reader.found[step][key] for step in sorted(reader.found)]) for key in AT_STEPS for name in [f"{key}|steps"]},
        }  # fmt: skip
        np.savez(folder / "read.npz", **arrays)  # pyright: ignore[reportArgumentType]
        losses = _new_losses(model, self.world_of(arm), config.seed)
        return TrainedResult(
            weights_sha256=weights,
            section=section_of(outcome, model=f"{arm}, seed {config.seed}", strength="exposures in training", exposures=True, left_out=left_out),
            recall_loss=losses[0],
            given_loss=losses[1],
            at_no_harm={kind: f"{one.arm}: {words(one.setting)}" for kind, one in gentlest.items() if one is not None},
            training_s=training_s,
            n_circuit=len(circuit.nodes),
            n_edges=circuit.n_edges,
            circuit_reason=circuit.reason,
            circuit_loss=circuit.loss,
            n_nonzero=sum(int((p != 0).sum()) for p in model.parameters()),
        )  # fmt: skip

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[TrainedReadings]]:
        def loaded(arm: str, seed: int) -> TrainedReadings:
            name = self.folder(arm, seed)
            result = results[name]
            assert isinstance(result, TrainedResult)
            world = self.conflicts.world
            path = run_dir / name / "read.npz"
            return TrainedReadings.load(path, levels=world.levels, recalled_from=recalled_from(world), result=result)

        found: dict[Subject, list[TrainedReadings]] = {subject: [] for subject in self.subjects}
        for seed in self.seeds:
            of_seed = {kind: loaded(arm, seed) for arm, kind in self._kinds.items()}
            for arm, (name, rate) in self._kinds.items():
                dense = of_seed[DENSE, rate] if name == SPARSE else None
                first = of_seed[name, 0.0] if rate else None
                found[Subject(arm=arm)].append(of_seed[name, rate].beside(dense, first))
        return found

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, object]:
        """The page of one model: the first arm's in the first seed."""
        first = results[self.folder(self.arms[0], self.seeds[0])]
        assert isinstance(first, TrainedResult)
        return {"context_prior": first.section}

    def figures(self, read: Mapping[Subject, Sequence[TrainedReadings]]) -> Sequence[Figure]:
        levels = self.conflicts.world.levels
        x = [math.log2(1 + n) for n in levels]
        label = f"log2(1 + exposures), at {', '.join(map(str, levels))}"

        def over_levels(
            key: str, title: str, groups: Mapping[str, Sequence[Floats]], y_label: str = P_CONTEXT
        ) -> Figure:
            return _cut(over_seeds_figure(key, title, x, groups, x_label=label, y_label=y_label))

        found = [
            over_levels("stated", "One statement against memory", {s.arm: [r.curve(STATED) for r in rs] for s, rs in read.items()}),
            over_levels("headroom", "Best intervention less best prompt", {s.arm: [_by_level(r, r.headroom()) for r in rs] for s, rs in read.items()}, "difference of P(context)"),
            over_levels("sparsity", f"{HEADLINE} under a contradicting less that under an agreeing statement", {s.arm: [_by_level(r, r.more_sparse()) for r in rs] for s, rs in read.items()}, HEADLINE),
        ]  # fmt: skip
        for subject, rs in read.items():
            groups = {
                "stated once": [r.curve(STATED) for r in rs],
                "stated 8 times": [r.curve(SATURATION[1]) for r in rs],
                "best prompt": [r.curve(r.best("prompt")) for r in rs],
                "best intervention": [r.curve(r.best("intervention")) for r in rs],
                "its random controls": [r.curve(f"{r.best('intervention')}{RANDOM}") for r in rs],
            }
            key = subject.arm.replace(" ", "_").replace("=", "")
            found.append(over_levels(key, f"What turns an answer: {subject.arm}", groups))
        first, rs = next(iter(read.items()))
        when = [math.log2(1 + step) for step in rs[0].steps]
        for key, title, name, score in (
            ("formed_stated", "One statement against memory over training", STATED, "p_context"),
            ("formed_recall", "Memory's answer where nothing is stated, over training", NO_CONTEXT, "says_prior"),
        ):
            groups = {f"{n} exposures": [r.over_training(name, score, n) for r in rs] for n in levels}
            found.append(_cut(over_seeds_figure(key, title, when, groups, x_label="log2(1 + step)", y_label=P_CONTEXT if name == STATED else SAID, note=f"arm {first.arm}, ")))  # fmt: skip
        return found

    def tables(
        self, read: Mapping[Subject, Sequence[TrainedReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        return (*tables.of_models(read), *tables.of_answers(read))


@cache
def n_documents(config: ConflictWorldConfig, seed: int) -> int:
    """Of a world, which decide how many optimizer steps there are; drawn once per process."""
    return len(draw_world(config, seed).tokens)


P_CONTEXT, SAID = "P(context)", "share of answers"
AT_STEPS = (f"{STATED}|p_context", f"{STATED}|says_context", f"{NO_CONTEXT}|says_prior")


def _cut(figure: Figure) -> Figure:
    """Bands of shares end at 0 and 1, which Student's t does not know."""
    if figure.y_label not in (P_CONTEXT, SAID):
        return figure

    def between(ends: tuple[float | None, ...]) -> tuple[float | None, ...]:
        return tuple(None if end is None else min(max(end, 0.0), 1.0) for end in ends)

    curves = tuple(replace(curve, lo=between(curve.lo), hi=between(curve.hi)) for curve in figure.curves)
    return replace(figure, curves=curves, note=f"{figure.note}, cut at 0 and 1")


def _at_step(model: Transformer, step: int, cases: Sequence[Case]) -> Arrays:
    subject = Asked(module=model, weights_sha256="", batch_size=SIZE)
    stated, nothing = (ask(subject, cases, plain(subject, REFERENCES[name])) for name in (STATED, NO_CONTEXT))
    return dict(zip(AT_STEPS, (stated.p_context, stated.says_context, nothing.says_prior), strict=True))


def _new_losses(model: Transformer, config: ConflictWorldConfig, seed: int) -> tuple[float, float]:
    """Of new documents of the same facts: objects to be remembered, objects that the document gives; nats."""
    world, found = draw_world(config, seed, draw=4), []
    for kind in range(2):
        rows = torch.from_numpy(world.rows[world.kind == kind][-N_NEW:])
        with evaluating(model), torch.no_grad():
            found.append(float(asked_loss(LENGTH)(model, {"tokens": rows})))
    return found[0], found[1]


def _by_level(r: TrainedReadings, values: Floats) -> Floats:
    return np.array([values[r.n == n].mean() for n in r.levels])


def _loss_gap(r: TrainedReadings) -> float:
    assert r.dense is not None
    own, dense = ((one.recall_loss + one.given_loss) / 2 for one in (r.result, r.dense.result))
    return abs(own - dense)
