"""The study `comparison`: several models trained alike and read alike, with sparse weights, AbsTopK, both or neither, or a grid of sizes.

1. An arm is a difference from the run's own config (width, density, AbsTopK, its own learning rate); each is trained per seed with the
   whole schedule and the same tokens, and searched for circuits of the same tasks with the same number of trials.
2. A model per arm and seed is a run of its own under `<run>/models/`; one that is finished is not run again, and one whose
   search has other settings now is searched anew, not trained.
3. Pairs: an arm that is sparse in weights (or has AbsTopK) and one that is not. Compared are the tasks for which both have a circuit
   at the target. A circuit has three sizes: nodes, edges, and slots, the weights between its nodes whether they are zero or not. Sparse
   weights leave slots empty, so a ratio of edges exceeds one even between the same nodes: the ratio of slots decides, edges stand beside.
4. Intervals are over tasks and model seeds (`stats.crossed`). Gates: validation losses (mean over seeds) within `max_gap`, `min_tasks`
   such tasks, `min_seeds` seeds.
5. Frontier: bits per character against nonzeros and against the size of circuits of the tasks that every arm solves. Where nothing is to be
   judged (`about=[]`) it is all there is: `FrontierStudy`.

Source: Gao et al. 2025, figures 2 and 3 (there edges, on one pretraining loss, at 16x; grids of L0 and width). Slots are ours.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log2, nan
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar

import numpy as np
import torch

from circuits.circuit import Circuit
from circuits.edges import count_edges, count_slots
from circuits.masks import NodeSpace
from circuits.section import ArmEntry, ArmsSection, CircuitSize, Difference, Pair, PairEntry, Sizes, TaskEntry
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.run import RunConfig, steps_in_turns
from sparsetrain.sparsity import TensorAudit
from sparsetrain.stats.crossed import crossed_difference
from sparsetrain.stats.decisions import Word
from sparsetrain.stats.intervals import Estimate, Floats
from sparsetrain.stats.number import Number, number, over_range
from sparsetrain.store import once
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.section import StudySection
from sparsetrain.studies.study import Gates, Hypothesis, R, Ruling, Subject, TrainedStudy, gate
from sparsetrain.training.budget import StepBudget
from sparsetrain.training.checkpoints import newest
from sparsetrain.training.tracking import LoggerConfig
from sparsetrain.typed import Above0, Count

C = TypeVar("C", bound=RunConfig)
Kind = Literal["slots", "edges", "nodes"]
KINDS: Mapping[Kind, str] = {"slots": "slots between the nodes", "edges": "edges", "nodes": "nodes"}
"""Sizes of a circuit in words; the first decides."""
BASELINE = 1.1
"""Smallest ratio of sizes of interest. ours"""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """How models are compared. All numbers are ours."""

    about: tuple[Literal["weights", "abs_topk"], ...] = ("weights",)
    """Which sparsity is judged: arms of sparse weights against dense ones; arms with AbsTopK against those without, of the same weights
    (sparse or dense). None: no pairs, just the frontier."""
    max_gap: Above0 = 0.01
    """Largest relative difference of the validation losses of two arms that are compared."""
    min_tasks: Count = 6
    """Tasks that both must solve for a verdict."""
    min_seeds: Count = 3
    """Model seeds that both must have circuits in for a verdict: the interval covers what it promises from three on."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What is read of one model."""

    val_loss: float
    """In the training mixture, nats/token."""
    bits_per_char: float
    """The same per character."""
    n_steps: int
    """Optimizer steps of its training."""
    tasks: tuple[TaskEntry, ...]
    """With their circuits; empty where none was looked for."""
    tensors: tuple[TensorAudit, ...] = ()
    """The sparse ones, counted."""


@dataclass(frozen=True, kw_only=True)
class Member(StageResult):
    """One finished model of an arm."""

    n_nonzero: int
    """Nonzero parameters, the bigram table left out."""
    n_edges: int
    """Nonzero weights between node hook points: the edges of the circuit that is the whole model."""
    val_loss: float
    bits_per_char: float
    n_steps: int
    passed: tuple[str, ...]
    """Tasks whose gate the model passes and the empty circuit does not."""
    circuits: Mapping[str, CircuitSize]
    """Task -> its best circuit, of the tasks that have one at the target."""
    searched: bool = True
    """Whether circuits were looked for."""


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Steps of arms that have equal minutes."""

    arms: Mapping[str, StepBudget]


def known(value: float | None) -> float:
    """NaN for what is not available."""
    return nan if value is None else value


def has_abs_topk(run: RunConfig) -> bool:
    """Whether any place keeps less than all."""
    return any(share < 1 for share in run.model.abs_topk.values())


def octaves(kind: Kind) -> Callable[[PairEntry], Estimate]:
    """A function from a pair to the ratio of a size as its log2; undefined where there is none."""

    def effect(pair: PairEntry) -> Estimate:
        ratio: Number = getattr(pair.ratios, kind)
        value, lo, hi = (log2(known(end)) for end in (ratio.value, ratio.lo, ratio.hi))
        return Estimate(value=value, lo=lo, hi=hi, n=len(pair.tasks), method=ratio.note or "")

    return effect


@dataclass(frozen=True, kw_only=True)
class RunsStudy(TrainedStudy[R], Generic[C, R]):
    """A study whose arms are whole runs: trained and searched for circuits, each in a folder of its own under `<run>/models/`."""

    result = Member
    in_minutes = True

    config: C
    search: Callable[[C, Path], Outcome]
    """Trains one model in a folder (or goes on with it) and searches it."""
    budgets: Mapping[str, StepBudget] = field(default_factory=dict[str, StepBudget])
    """Name of a model -> its steps, where arms have equal minutes; measured before the first stage."""

    @property
    @abstractmethod
    def runs(self) -> Mapping[str, C]:
        """Name of a model -> its run in the first seed."""

    @property
    def budget(self) -> str:
        """What every arm has as much of, in words."""
        minutes = self.config.trainer.minutes
        return (
            "number of tokens"
            if minutes is None
            else f"{minutes:g} minutes of optimizer steps (timed in turns before the first training)"
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        return super().seeds[: 1 if self.config.debug else None]

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(self.runs)

    def folder(self, arm: str, seed: int) -> str:
        return f"models/{arm}-seed_{seed}"

    def begun(self, run_dir: Path) -> Self:
        if self.config.trainer.minutes is None:
            return self
        configs = {arm: self.config_of(arm, self.seeds[0]) for arm in self.trained}
        # Of what was trained under them alone: going on with other searches, threads or bars must not time anew, and so train anew.
        inputs = {arm: {**self.kept_under(one), "minutes": one.trainer.minutes} for arm, one in configs.items()}
        timed = once(run_dir / "budgets.json", inputs, lambda: Budgets(arms=steps_in_turns(configs)), Budgets)
        return replace(self, budgets=timed.arms)

    def config_of(self, arm: str, seed: int) -> C:
        run = replace(self.runs[arm], seed=seed, logger=LoggerConfig(kind="none"))
        if arm not in self.budgets:
            return run
        return replace(run, trainer=replace(run.trainer, minutes=None, n_steps=self.budgets[arm].n_steps))

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        how = ("study", "logger", "cache_dir", "ckpt_path", "overwrite")
        return {key: value for key, value in vars(config).items() if key not in how}

    def kept_under(self, config: RunConfig) -> Mapping[str, object]:
        begun = {"bigram_init": config.bigram_init, "init_from": config.init_from}
        return {**config.recipe.key(), "data": config.data, **begun}

    def work(self, config: C, folder: Path) -> Member:
        begun = newest(folder) is not None
        found = self.search(replace(config, ckpt_path="last") if begun else config, folder)
        return self.member(config, folder, found)

    def member(self, config: C, folder: Path, found: Outcome) -> Member:
        """What is kept of a model that has been trained and searched."""
        export, tasks = latest_export(folder), found.tasks
        model = load_model(export)
        space = NodeSpace.of(model)

        def size(path: str) -> CircuitSize:
            keep = Circuit.load(folder / path).keep
            edges, slots = count_edges(model, space, keep), count_slots(model, space, keep)
            return CircuitSize(seed=config.seed, n_nodes=int(keep.sum()), n_edges=edges, n_slots=slots)

        return Member(
            weights_sha256=read_meta(export)["weights_sha256"],
            n_nonzero=sum(
                int(p.count_nonzero()) for key, p in model.named_parameters() if not key.startswith("bigram")
            ),
            n_edges=count_edges(model, space, torch.ones(space.n_nodes, dtype=torch.bool)),
            val_loss=found.val_loss,
            bits_per_char=found.bits_per_char,
            n_steps=found.n_steps,
            searched=bool(tasks),
            passed=tuple(t.task for t in tasks if t.is_solved),
            circuits={task.task: size(task.circuits[0].path) for task in tasks if task.has_circuit},
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonStudy(RunsStudy[C, PairEntry], Generic[C]):
    """Arms are models, and pairs of them, about which claims are made."""

    question = "Are circuits of sparser models smaller than those of denser ones of the same loss, and which sparsity makes them so?"
    hypotheses = tuple(
        Hypothesis(
            key=kind,
            claim=f"{words} of circuits, denser / sparser (log2 of the ratio of geometric means over tasks)",
            expected="positive",
            effect=octaves(kind),
            unit="octaves",
            margin=log2(BASELINE),
            per_seed=False,
        )
        for kind, words in KINDS.items()
    )
    rulings = (
        Ruling(
            name="smaller circuits",
            statement="at equal loss, circuits of the sparser model have fewer slots between their nodes",
            needs=("slots",),
        ),
    )
    comparison: ComparisonConfig

    @property
    def runs(self) -> dict[str, C]:
        """Name of a model -> its run in the first seed. A debug run tries out the first dense one and the first sparse one of each way to compute, at the run's own width."""
        arms, of_kind = self.rules.arms, {}
        if self.config.debug:
            arms = {name: replace(arm, d_model=None) for name, arm in arms.items()}
        runs = {name: of_arm(self.config, arm, self.config.seed, name=name) for name, arm in arms.items()}
        for name, run in runs.items():
            of_kind.setdefault((run.sparsity.is_dense, run.sparsity.compute), name)
        return {name: run for name, run in runs.items() if not self.config.debug or name in of_kind.values()}

    @property
    def pairs(self) -> dict[str, Pair]:
        """`denser / sparser` -> the two."""
        found = [self._pair(a, b) for a in self.runs for b in self.runs]
        return {f"{pair.denser} / {pair.sparser}": pair for pair in found if pair is not None}

    def _pair(self, sparser: str, denser: str) -> Pair | None:
        """The two as a pair, if they differ in something that is judged."""
        a, b = self.runs[sparser], self.runs[denser]
        dense, topk = (a.sparsity.is_dense, b.sparsity.is_dense), (has_abs_topk(a), has_abs_topk(b))
        differs: dict[Difference, bool] = {
            "density": a.sparsity != b.sparsity,
            "abs_topk": topk[0] != topk[1],
            "d_model": a.model.d_model != b.model.d_model,
        }
        if dense == (False, True) and "weights" in self.comparison.about:
            about, implied = "weights", "density"
        elif dense[0] == dense[1] and topk == (True, False) and "abs_topk" in self.comparison.about:
            about, implied = "abs_topk", "abs_topk"
        else:
            return None
        also: list[Difference] = [key for key, other in differs.items() if other and key != implied]
        return Pair(sparser=sparser, denser=denser, about=about, also=tuple(also))

    @property
    def arms(self) -> tuple[str, ...]:
        return (*self.runs, *self.pairs)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(Subject(arm=name) for name in self.pairs)

    def method(self) -> tuple[str, ...]:
        return (
            f"Every arm has the same data, the same {self.budget} and the whole schedule, its own learning rate, and is searched for "
            "circuits of the same tasks with the same settings and number of trials. Arms are compared in pairs, over the tasks for "
            "which both have a circuit at the target.",
            "A slot is a weight, zero or not, that joins two kept nodes. Edges fill all slots of a dense model and a part of those of a "
            "sparse one, so that edges alone make circuits of the same nodes look smaller: the ratio of slots decides, those of edges and "
            f"nodes stand beside it. A ratio below {BASELINE} does not count.",
            "Intervals are over tasks and model seeds: both are a sample, and all tasks share the seeds.",
        )

    def gates(self) -> Gates[PairEntry]:
        rules = self.comparison
        gap, tasks = number(rules.max_gap, "fraction"), number(rules.min_tasks, "tasks")
        seeds = number(rules.min_seeds, "seeds")

        def gap_of(pair: PairEntry) -> float:
            return abs(known(pair.loss_gap.value))

        def tasks_of(pair: PairEntry) -> float:
            return len(pair.tasks)

        def seeds_of(pair: PairEntry) -> float:
            return pair.n_seeds

        return [
            made
            for arm in self.pairs
            for made in (
                gate(f"{arm}: loss", f"{arm}: the validation losses differ by", gap, gap_of, rule="at most", arm=arm),
                gate(f"{arm}: tasks", f"{arm}: tasks that both solve", tasks, tasks_of, arm=arm),
                gate(f"{arm}: seeds", f"{arm}: model seeds of each", seeds, seeds_of, arm=arm),
            )
        ]

    def models(self, results: Mapping[str, StageResult]) -> dict[str, ArmEntry]:
        """Every arm over its seeds."""
        members: dict[str, list[Member]] = {}
        for stage, result in results.items():
            assert isinstance(result, Member)
            members.setdefault(stage.removeprefix("models/").rpartition("-seed_")[0], []).append(result)
        solved = [{task for member in found for task in member.circuits} for found in members.values()]
        return {name: self._entry(name, found, set.intersection(*solved)) for name, found in members.items()}

    def _entry(self, name: str, members: Sequence[Member], common: Collection[str]) -> ArmEntry:
        run = self.runs[name]
        circuits: dict[str, tuple[CircuitSize, ...]] = {}
        for member in members:
            for task, size in member.circuits.items():
                circuits[task] = (*circuits.get(task, ()), size)

        return ArmEntry(
            name=name,
            d_model=run.model.d_model,
            method="none" if run.sparsity.is_dense else run.sparsity.method,
            density=number(run.sparsity.density, "fraction"),
            abs_topk=run.model.abs_topk if has_abs_topk(run) else {},
            lr_peak=run.optim.lr_peak,
            eps=run.optim.eps,
            n_steps=over_range([member.n_steps for member in members], "steps"),
            n_nonzero=number(members[0].n_nonzero, "weights", note="of all parameters but the bigram table"),
            n_edges=number(members[0].n_edges, "weights", note="nonzero weights between nodes"),
            val_loss=over_range([member.val_loss for member in members], "nats/token"),
            bits_per_char=over_range([member.bits_per_char for member in members], "bits/char"),
            passed=tuple(sorted(set.intersection(*(set(member.passed) for member in members)))),
            circuits=dict(sorted(circuits.items())),
            common=Sizes(**{kind: mean_size(circuits, sorted(common), kind) for kind in KINDS}),
        )

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[PairEntry]]:
        models = self.models(results)
        return {
            Subject(arm=name): [compared(pair, models[pair.sparser], models[pair.denser])]
            for name, pair in self.pairs.items()
        }

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, ArmsSection]:
        models = tuple(self.models(results).values())
        verdicts: dict[str, Word] = {entry.arm: entry.verdict for entry in section.verdicts}
        return {
            "arms": ArmsSection(
                seeds=self.seeds,
                max_gap=self.comparison.max_gap,
                searched=any(isinstance(result, Member) and result.searched for result in results.values()),
                common_tasks=tuple(sorted(set.intersection(*(set(model.circuits) for model in models)))),
                models=models,
                judged=bool(self.comparison.about),
                pairs=tuple(
                    replace(pair, verdict=verdicts[subject.arm])
                    for subject, (pair,) in self.read(run_dir, results).items()
                    if abs(known(pair.loss_gap.value)) <= self.comparison.max_gap
                ),
            )
        }


@dataclass(frozen=True, kw_only=True)
class FrontierStudy(ComparisonStudy[C], Generic[C]):
    """Arms are models, about which no claim is made: the numbers of each stand side by side."""

    question = "What losses do these models have, which tasks do they do, and how large are their circuits?"
    hypotheses = ()
    rulings = ()
    searched: bool
    """Whether circuits are looked for."""

    def method(self) -> tuple[str, ...]:
        read = (
            ", and is searched for circuits of the same tasks with the same settings and number of trials"
            if self.searched
            else ""
        )
        return (
            f"Every arm has the same data, the same {self.budget} and the whole schedule, its own learning rate{read}.",
            "No claim is judged: the numbers stand side by side, with their range over seeds.",
        )


def table(circuits: Mapping[str, Sequence[CircuitSize]], tasks: Sequence[str], kind: Kind) -> Floats:
    """log2 of a size of circuits, `[n_tasks, n_seeds]`, NaN where a seed has none; a size of 0 counts as 1."""
    seeds = sorted({size.seed for task in tasks for size in circuits[task]})
    found = np.full((len(tasks), len(seeds)), nan)
    for i, task in enumerate(tasks):
        for size in circuits[task]:
            found[i, seeds.index(size.seed)] = log2(max(1, getattr(size, f"n_{kind}")))
    return found


def mean_size(circuits: Mapping[str, Sequence[CircuitSize]], tasks: Sequence[str], kind: Kind) -> Number:
    """Geometric mean of a size of circuits over seeds and tasks; without a task not available."""
    mean = 2 ** float(np.nanmean(table(circuits, tasks, kind), 1).mean()) if tasks else None
    return number(mean, kind, "measured", n=len(tasks), note="geometric mean")


def compared(pair: Pair, sparser: ArmEntry, denser: ArmEntry) -> PairEntry:
    """The pair with what is known of its arms."""
    arms = (sparser, denser)
    tasks = sorted(set(sparser.circuits) & set(denser.circuits))
    passed = set(sparser.passed) & set(denser.passed)

    def ratio(kind: Kind) -> Number:
        if not tasks:
            return number(None, "factor", "measured", n=0, note="no task that both solve")
        found = crossed_difference(*(table(arm.circuits, tasks, kind) for arm in arms))
        value, lo, hi = (2**end for end in (found.value, found.lo, found.hi))
        lo, hi = (None, None) if np.isnan(lo) else (lo, hi)
        return number(value, "factor", "measured", n=len(tasks), lo=lo, hi=hi, note=found.method)

    return PairEntry(
        **vars(pair),
        loss_gap=number(known(denser.val_loss.value) / known(sparser.val_loss.value) - 1, "fraction", "measured"),
        n_seeds=min(len({size.seed for task in tasks for size in arm.circuits[task]}) for arm in arms),
        tasks=tuple(tasks),
        passed_by_both=tuple(sorted(passed)),
        without_circuit={arm.name: tuple(sorted(passed - set(arm.circuits))) for arm in arms},
        ratios=Sizes(nodes=ratio("nodes"), edges=ratio("edges"), slots=ratio("slots")),
    )
