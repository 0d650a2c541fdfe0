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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import exp, log, log2
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from circuits.edges import count_edges
from circuits.masks import NodeSpace
from circuits.section import ArmEntry, ArmsSection, CircuitsSection, PairEntry, Sense
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.run import RunConfig
from sparsetrain.stats.decisions import DecisionRule, Word
from sparsetrain.stats.intervals import Estimate
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import ClaimRule, Stage, StageResult, conclude
from sparsetrain.studies.section import Gate, Plan, StudySection, VerdictRule
from sparsetrain.studies.study import Study
from sparsetrain.training.resume import last_checkpoint
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


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What is compared of a sparse and a dense arm."""

    sparse: str
    dense: str
    loss_gap: float
    edges: Mapping[str, tuple[Sequence[int], Sequence[int]]]
    """Task that both solve -> edges in every seed that has a circuit, sparse and dense."""
    passed: frozenset[str]
    """Tasks that both pass in every seed."""
    solved: Mapping[str, frozenset[str]]
    """Arm -> tasks with a circuit in at least one seed."""

    @property
    def name(self) -> str:
        return f"{self.sparse} / {self.dense}"

    def ratio(self, n_boot: int) -> Estimate | None:
        """Ratio of geometric-mean edges over tasks, dense / sparse; None: no task."""
        if not self.edges:
            return None
        sparse, dense = zip(*self.edges.values(), strict=True)
        value = exp(sum(log_mean(b) - log_mean(a) for a, b in self.edges.values()) / len(self.edges))
        lo, hi = bootstrap_ratio(sparse, dense, n_boot)
        method = f"95% bootstrap over tasks and, within them, seeds ({n_boot} resamples, seed 0)"
        return Estimate(value=value, lo=lo, hi=hi, n=len(self.edges), method=method)


@dataclass(frozen=True, kw_only=True)
class ComparisonStudy(Study, Generic[C]):
    """Arms are models; claims are made about pairs of a sparse and a dense one."""

    config: C
    comparison: ComparisonConfig
    read: Callable[[C, Path], tuple[float, CircuitsSection]]
    """Trains one model in a folder (or goes on with it) and searches it; gives its validation loss and circuits."""

    @property
    def arms(self) -> dict[str, C]:
        """Name -> its run in the first seed. A debug run tries out the first dense and the first sparse one at the run's own width."""
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

    def plan(self) -> Plan:
        settings, names = self.comparison, [f"{sparse} / {dense}" for sparse, dense in self._pairs()]
        bounds: dict[str, tuple[str, Sense, Number]] = {
            "loss": ("the validation losses differ by", "at most", number(settings.max_gap, "fraction")),
            "tasks": ("tasks that both solve", "at least", number(settings.min_tasks, "tasks")),
        }
        return Plan(
            question="Are circuits of weight-sparse models smaller than those of dense models of the same loss?",
            method=(
                "Every arm has the same data, the same number of tokens and the whole schedule, and is searched for circuits of the same "
                "tasks with the same settings and number of trials. Arms are compared in pairs, a sparse and a dense one, over the tasks "
                "for which both have a circuit at the target.",
                f"A ratio of edges below {BASELINE} does not count. Intervals: tasks are resampled and, within task and arm, seeds.",
            ),
            seeds=self.seeds,
            arms=(*self.arms, *names),
            gates=tuple(
                Gate(key=f"{name}: {key}", words=f"{name}: {words}", rule=rule, bound=bound, arm=name)
                for name in names
                for key, (words, rule, bound) in bounds.items()
            ),
            claims=tuple(rule.claim() for rule in self.claims()),
            rules=tuple(
                VerdictRule(
                    name="smaller circuits",
                    arm=name,
                    statement="at equal loss, circuits of the sparse model are smaller",
                    needs=(f"{name}: edges",),
                )
                for name in names
            ),
        )

    def claims(self) -> tuple[ClaimRule, ...]:
        """One claim per pair."""
        claim = "edges of circuits, dense / sparse (log2 of the ratio of geometric means over tasks)"
        rule = DecisionRule(claim=claim, expected="positive", margin=log2(BASELINE))
        return tuple(
            ClaimRule(key=f"{sparse} / {dense}: edges", arm=f"{sparse} / {dense}", rule=rule, unit="octaves")
            for sparse, dense in self._pairs()
        )

    def stages(self) -> Sequence[Stage]:
        runs = {
            f"models/{name}-seed_{seed}": replace(run, seed=seed, logger=replace(run.logger, wandb="disabled"))
            for name, run in self.arms.items()
            for seed in self.seeds
        }
        return [
            Stage(
                name=name,
                inputs={key: value for key, value in vars(run).items() if key not in ("study", "logger", "cache_dir")},
                kept_under={**run.recipe.key(), "data": run.data, "bigram_init": run.bigram_init},
                run=partial(self._member, run),
                schema=Member,
            )
            for name, run in runs.items()
        ]

    def _member(self, run: C, folder: Path) -> Member:
        begun = last_checkpoint(folder).is_file()
        val_loss, circuits = self.read(replace(run, ckpt_path="last") if begun else run, folder)
        export = latest_export(folder)
        model = load_model(export)
        space = NodeSpace.of(model)
        best = {task.task: task.circuits[0] for task in circuits.tasks if task.status == "circuit"}
        return Member(
            weights_sha256=read_meta(export)["weights_sha256"],
            n_edges=count_edges(model, space, torch.ones(space.n_nodes, dtype=torch.bool)),
            val_loss=val_loss,
            passed=tuple(t.task for t in circuits.tasks if t.gate.passed and t.status != "bigram"),
            edges={task: max(1, int(circuit.n_edges.value or 0)) for task, circuit in best.items()},
        )

    def conclude(self, plan: Plan, run_dir: Path, results: Mapping[str, StageResult]) -> StudySection:
        gates: dict[str, Sequence[float]] = {}
        effects: dict[str, Estimate] = {}
        for pair in self.pairs(members_of(results)):
            gates[f"{pair.name}: loss"], gates[f"{pair.name}: tasks"] = [abs(pair.loss_gap)], [len(pair.edges)]
            effects[f"{pair.name}: edges"] = octaves(pair.ratio(self.comparison.n_boot))
        section = conclude(plan, self.claims(), gates=gates, effects=effects)
        return replace(section, models={name: result.weights_sha256 for name, result in results.items()})

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, ArmsSection]:
        members = members_of(results)
        solved = {name: sizes_of(found) for name, found in members.items()}
        common = tuple(sorted(set.intersection(*(set(sizes) for sizes in solved.values()))))
        verdicts: dict[str, Word] = {entry.arm: entry.verdict for entry in section.verdicts}
        return {
            "arms": ArmsSection(
                seeds=self.seeds,
                max_gap=self.comparison.max_gap,
                common_tasks=common,
                models=tuple(self._entry(name, found, solved[name], common) for name, found in members.items()),
                pairs=tuple(
                    self._pair_entry(pair, verdicts[pair.name])
                    for pair in self.pairs(members)
                    if abs(pair.loss_gap) <= self.comparison.max_gap
                ),
            )
        }

    def _pairs(self) -> list[tuple[str, str]]:
        """Every sparse arm with every dense one."""
        dense = {name: run.sparsity.is_dense for name, run in self.arms.items()}
        return [(a, b) for a in dense for b in dense if not dense[a] and dense[b]]

    def pairs(self, members: Mapping[str, Sequence[Member]]) -> list[Pair]:
        """What is compared."""
        found = []
        for sparse, dense in self._pairs():
            a, b = (sizes_of(members[name]) for name in (sparse, dense))
            found.append(
                Pair(
                    sparse=sparse,
                    dense=dense,
                    loss_gap=loss_of(members[dense]) / loss_of(members[sparse]) - 1,
                    edges={task: (a[task], b[task]) for task in sorted(set(a) & set(b))},
                    passed=passed_of([*members[sparse], *members[dense]]),
                    solved={sparse: frozenset(a), dense: frozenset(b)},
                )
            )
        return found

    def _entry(
        self, name: str, members: Sequence[Member], sizes: Mapping[str, Sequence[int]], common: Sequence[str]
    ) -> ArmEntry:
        run, losses = self.arms[name], [member.val_loss for member in members]
        low, high = (min(losses), max(losses)) if len(losses) > 1 else (None, None)
        size = exp(sum(log_mean(sizes[task]) for task in common) / len(common)) if common else None
        return ArmEntry(
            name=name,
            d_model=run.model.d_model,
            method="none" if run.sparsity.is_dense else run.sparsity.method,
            density=number(run.sparsity.density, "fraction"),
            abs_topk=bool(run.model.abs_topk),
            n_edges=number(members[0].n_edges, "weights", note="nonzero weights between nodes"),
            val_loss=number(
                loss_of(members),
                "nats/token",
                "measured",
                n=len(losses),
                lo=low,
                hi=high,
                note="lo and hi: range over seeds",
            ),
            passed=tuple(sorted(passed_of(members))),
            edges={task: tuple(found) for task, found in sorted(sizes.items())},
            common_edges=number(size, "edges", "measured", n=len(common), note="geometric mean"),
        )

    def _pair_entry(self, pair: Pair, verdict: Word) -> PairEntry:
        ratio = pair.ratio(self.comparison.n_boot)
        value, lo, hi = (None, None, None) if ratio is None else (ratio.value, ratio.lo, ratio.hi)
        return PairEntry(
            sparse=pair.sparse,
            dense=pair.dense,
            loss_gap=number(pair.loss_gap, "fraction", "measured"),
            tasks=tuple(pair.edges),
            passed_by_both=tuple(sorted(pair.passed)),
            without_circuit={name: tuple(sorted(pair.passed - solved)) for name, solved in pair.solved.items()},
            ratio=number(value, "factor", "measured", n=len(pair.edges), lo=lo, hi=hi, seed=0),
            verdict=verdict,
        )


def members_of(results: Mapping[str, StageResult]) -> dict[str, list[Member]]:
    """Arm -> one model per seed."""
    members: dict[str, list[Member]] = {}
    for stage, result in results.items():
        assert isinstance(result, Member)
        members.setdefault(stage.removeprefix("models/").rpartition("-seed_")[0], []).append(result)
    return members


def loss_of(members: Sequence[Member]) -> float:
    """Mean over seeds."""
    return sum(member.val_loss for member in members) / len(members)


def passed_of(members: Sequence[Member]) -> frozenset[str]:
    """Tasks that all pass."""
    return frozenset.intersection(*(frozenset(member.passed) for member in members))


def sizes_of(members: Sequence[Member]) -> dict[str, list[int]]:
    """Task -> edges of its circuit in every seed that has one."""
    sizes: dict[str, list[int]] = {}
    for member in members:
        for task, n_edges in member.edges.items():
            sizes.setdefault(task, []).append(n_edges)
    return sizes


def log_mean(sizes: Sequence[int]) -> float:
    """Logarithm of the geometric mean."""
    return sum(log(size) for size in sizes) / len(sizes)


def octaves(ratio: Estimate | None) -> Estimate:
    """A ratio as its log2; undefined where there is none."""
    if ratio is None:
        return Estimate(value=float("nan"), lo=float("nan"), hi=float("nan"), n=0, method="no task that both solve")
    return replace(ratio, value=log2(ratio.value), lo=log2(ratio.lo), hi=log2(ratio.hi))


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
