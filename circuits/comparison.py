"""The study `comparison`: several models trained alike and read alike, dense beside sparse, or a grid of sizes.

1. An arm is a difference from the run's own config (width, density, AbsTopK); each is trained per seed with the whole
   schedule and the same tokens, and searched for circuits of the same tasks with the same number of trials.
2. A model per arm and seed is a run of its own under `<run>/models/`; one that is finished is not run again, and one whose
   search has other settings now is searched anew, not trained.
3. Pairs: a dense and a sparse arm. Compared are the tasks for which both have a circuit at the target; the ratio of geometric-mean
   edges gets an interval from a bootstrap over tasks and, within tasks, seeds. Gates: validation losses (mean over seeds) within
   `max_gap`, and `min_tasks` such tasks.
4. Frontier: validation loss against the geometric mean of edges over the tasks that every arm solves.

Source: Gao et al. 2025, figures 2 and 3 (there on one pretraining loss, at 16x; grids of L0 and width).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, log2, nan
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from circuits.edges import count_edges
from circuits.masks import NodeSpace
from circuits.section import ArmEntry, ArmsSection, CircuitsSection, PairEntry
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.run import RunConfig
from sparsetrain.stats.decisions import Word
from sparsetrain.stats.intervals import Estimate
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.section import StudySection
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Study, Subject, gate
from sparsetrain.training.checkpoints import newest
from sparsetrain.training.tracking import LoggerConfig
from sparsetrain.typed import Above0, Count

C = TypeVar("C", bound=RunConfig)
BASELINE = 1.1
"""Smallest ratio of edges of interest. ours"""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """How models are compared. All numbers are ours."""

    max_gap: Above0 = 0.01
    """Largest relative difference of the validation losses of a dense and a sparse arm that are compared."""
    min_tasks: Count = 5
    """Tasks that both must solve for a verdict."""
    n_boot: Count = 2000


@dataclass(frozen=True, kw_only=True)
class Member(StageResult):
    """One finished model of an arm."""

    n_edges: int
    """Nonzero weights between node hook points: the edges of the circuit that is the whole model."""
    val_loss: float
    """In the training mixture, nats/token."""
    passed: tuple[str, ...]
    """Tasks whose gate the model passes and the empty circuit does not."""
    edges: Mapping[str, int]
    """Task -> edges of its best circuit, of the tasks that have one at the target."""


def known(value: float | None) -> float:
    """NaN for what is not available."""
    return nan if value is None else value


def octaves(pair: PairEntry) -> Estimate:
    """The ratio of a pair as its log2; undefined where there is none."""
    value, lo, hi = (log2(known(end)) for end in (pair.ratio.value, pair.ratio.lo, pair.ratio.hi))
    return Estimate(value=value, lo=lo, hi=hi, n=len(pair.tasks), method=pair.ratio.note or "")


@dataclass(frozen=True, kw_only=True)
class ComparisonStudy(Study[PairEntry], Generic[C]):
    """Arms are models, and pairs of a sparse and a dense one, about which claims are made."""

    question = "Are circuits of weight-sparse models smaller than those of dense models of the same loss?"
    hypotheses = (
        Hypothesis(
            key="edges",
            claim="edges of circuits, dense / sparse (log2 of the ratio of geometric means over tasks)",
            expected="positive",
            effect=octaves,
            unit="octaves",
            margin=log2(BASELINE),
            per_seed=False,
        ),
    )
    rulings = (
        Ruling(
            name="smaller circuits",
            statement="at equal loss, circuits of the sparse model are smaller",
            needs=("edges",),
        ),
    )
    result = Member

    config: C
    comparison: ComparisonConfig
    search: Callable[[C, Path], tuple[float, CircuitsSection]]
    """Trains one model in a folder (or goes on with it) and searches it; gives its validation loss and circuits."""

    @property
    def runs(self) -> dict[str, C]:
        """Name of a model -> its run in the first seed. A debug run tries out the first dense and the first sparse one at the run's own width."""
        arms, of_kind = self.rules.arms, {}
        if self.config.debug:
            arms = {name: replace(arm, d_model=None) for name, arm in arms.items()}
        runs = {name: of_arm(self.config, arm, self.config.seed, name=name) for name, arm in arms.items()}
        for name, run in runs.items():
            of_kind.setdefault(run.sparsity.is_dense, name)
        return {name: run for name, run in runs.items() if not self.config.debug or name in of_kind.values()}

    @property
    def seeds(self) -> tuple[int, ...]:
        return super().seeds[: 1 if self.config.debug else None]

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """Every sparse arm with every dense one."""
        dense = {name: run.sparsity.is_dense for name, run in self.runs.items()}
        return {f"{a} / {b}": (a, b) for a in dense for b in dense if not dense[a] and dense[b]}

    @property
    def arms(self) -> tuple[str, ...]:
        return (*self.runs, *self.pairs)

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(self.runs)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(Subject(arm=name) for name in self.pairs)

    def method(self) -> tuple[str, ...]:
        return (
            "Every arm has the same data, the same number of tokens and the whole schedule, and is searched for circuits of the same "
            "tasks with the same settings and number of trials. Arms are compared in pairs, a sparse and a dense one, over the tasks "
            "for which both have a circuit at the target.",
            f"A ratio of edges below {BASELINE} does not count. Intervals: tasks are resampled and, within task and arm, seeds.",
        )

    def gates(self) -> Gates[PairEntry]:
        gap, tasks = number(self.comparison.max_gap, "fraction"), number(self.comparison.min_tasks, "tasks")
        differ, solved = "the validation losses differ by", "tasks that both solve"

        def gap_of(pair: PairEntry) -> float:
            return abs(known(pair.loss_gap.value))

        def n_tasks(pair: PairEntry) -> float:
            return len(pair.tasks)

        return [
            made
            for arm in self.pairs
            for made in (
                gate(f"{arm}: loss", f"{arm}: {differ}", gap, gap_of, rule="at most", arm=arm),
                gate(f"{arm}: tasks", f"{arm}: {solved}", tasks, n_tasks, arm=arm),
            )
        ]

    def folder(self, arm: str, seed: int) -> str:
        return f"models/{arm}-seed_{seed}"

    def config_of(self, arm: str, seed: int) -> C:
        run = self.runs[arm]
        return replace(run, seed=seed, logger=LoggerConfig(kind="none"))

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        how = ("study", "logger", "cache_dir", "ckpt_path", "overwrite")
        return {key: value for key, value in vars(config).items() if key not in how}

    def kept_under(self, config: RunConfig) -> Mapping[str, object]:
        return {**config.recipe.key(), "data": config.data, "bigram_init": config.bigram_init}

    def work(self, config: C, folder: Path) -> Member:
        begun = newest(folder) is not None
        val_loss, circuits = self.search(replace(config, ckpt_path="last") if begun else config, folder)
        export = latest_export(folder)
        model = load_model(export)
        space = NodeSpace.of(model)
        best = {task.task: task.circuits[0] for task in circuits.tasks if task.has_circuit}
        return Member(
            weights_sha256=read_meta(export)["weights_sha256"],
            n_edges=count_edges(model, space, torch.ones(space.n_nodes, dtype=torch.bool)),
            val_loss=val_loss,
            passed=tuple(t.task for t in circuits.tasks if t.gate.passed and t.status != "bigram"),
            edges={task: max(1, int(circuit.n_edges.value or 0)) for task, circuit in best.items()},
        )

    def models(self, results: Mapping[str, StageResult]) -> dict[str, ArmEntry]:
        """Every arm over its seeds."""
        members: dict[str, list[Member]] = {}
        for stage, result in results.items():
            assert isinstance(result, Member)
            members.setdefault(stage.removeprefix("models/").rpartition("-seed_")[0], []).append(result)
        solved = [{task for member in found for task in member.edges} for found in members.values()]
        return {name: self._entry(name, found, set.intersection(*solved)) for name, found in members.items()}

    def _entry(self, name: str, members: Sequence[Member], common: Collection[str]) -> ArmEntry:
        run, losses = self.runs[name], [member.val_loss for member in members]
        edges: dict[str, tuple[int, ...]] = {}
        for member in members:
            for task, n_edges in member.edges.items():
                edges[task] = (*edges.get(task, ()), n_edges)
        low, high = (min(losses), max(losses)) if len(losses) > 1 else (None, None)
        size = exp(sum(log_mean(edges[task]) for task in sorted(common)) / len(common)) if common else None
        loss, of_loss = sum(losses) / len(losses), "lo and hi: range over seeds"
        return ArmEntry(
            name=name,
            d_model=run.model.d_model,
            method="none" if run.sparsity.is_dense else run.sparsity.method,
            density=number(run.sparsity.density, "fraction"),
            abs_topk=bool(run.model.abs_topk),
            n_edges=number(members[0].n_edges, "weights", note="nonzero weights between nodes"),
            val_loss=number(loss, "nats/token", "measured", n=len(losses), lo=low, hi=high, note=of_loss),
            passed=tuple(sorted(set.intersection(*(set(member.passed) for member in members)))),
            edges=dict(sorted(edges.items())),
            common_edges=number(size, "edges", "measured", n=len(common), note="geometric mean"),
        )

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[PairEntry]]:
        models = self.models(results)
        return {
            Subject(arm=name): [pair_of(models[a], models[b], self.comparison.n_boot)]
            for name, (a, b) in self.pairs.items()
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
                common_tasks=tuple(sorted(set.intersection(*(set(model.edges) for model in models)))),
                models=models,
                pairs=tuple(
                    replace(pair, verdict=verdicts[subject.arm])
                    for subject, (pair,) in self.read(run_dir, results).items()
                    if abs(known(pair.loss_gap.value)) <= self.comparison.max_gap
                ),
            )
        }


def pair_of(sparse: ArmEntry, dense: ArmEntry, n_boot: int) -> PairEntry:
    """What is compared of two arms."""
    tasks = sorted(set(sparse.edges) & set(dense.edges))
    passed = set(sparse.passed) & set(dense.passed)
    a, b = ([arm.edges[task] for task in tasks] for arm in (sparse, dense))
    value, lo, hi, how = None, None, None, "no task that both solve"
    if tasks:
        value = exp(sum(log_mean(y) - log_mean(x) for x, y in zip(a, b, strict=True)) / len(tasks))
        lo, hi = bootstrap_ratio(a, b, n_boot)
        how = f"95% bootstrap over tasks and, within them, seeds ({n_boot} resamples, seed 0)"
    gap = known(dense.val_loss.value) / known(sparse.val_loss.value) - 1
    return PairEntry(
        sparse=sparse.name,
        dense=dense.name,
        loss_gap=number(gap, "fraction", "measured"),
        tasks=tuple(tasks),
        passed_by_both=tuple(sorted(passed)),
        without_circuit={arm.name: tuple(sorted(passed - set(arm.edges))) for arm in (sparse, dense)},
        ratio=number(value, "factor", "measured", n=len(tasks), lo=lo, hi=hi, seed=0, note=how),
    )


def log_mean(sizes: Sequence[int]) -> float:
    """Logarithm of the geometric mean."""
    return sum(log(size) for size in sizes) / len(sizes)


def bootstrap_ratio(
    sparse: Sequence[Sequence[int]], dense: Sequence[Sequence[int]], n_boot: int
) -> tuple[float, float]:
    """95% interval of the ratio of geometric means, dense / sparse: tasks are resampled, and seeds within task and arm.

    Args:
        sparse: edges per task and seed; tasks may have different numbers of seeds.
        dense: the same tasks.
        n_boot: resamples.
    """
    rng = np.random.default_rng(0)
    logs = [[np.log(sizes) for sizes in arm] for arm in (sparse, dense)]
    found = []
    for _ in range(n_boot):
        tasks = rng.integers(len(sparse), size=len(sparse))
        a, b = (np.mean([rng.choice(arm[t], len(arm[t])).mean() for t in tasks]) for arm in logs)
        found.append(exp(b - a))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
