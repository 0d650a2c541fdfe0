"""Learned pruning beside rankings: the same pairs, target, clean-up and calibration, another order of the nodes.

Every method ends in a node circuit that meets the target on the search's validation pairs or in none; its loss is then
measured on held-out pairs. Sizes are compared as ratios of geometric means of edges over the tasks that both solve.
"""

from collections.abc import Callable, Sequence
from math import exp, log
from pathlib import Path
from statistics import fmean

import torch

from circuits.answers import Ablated
from circuits.circuit import Circuit
from circuits.edges import NO_EDGES, has_edges
from circuits.intervals import interval
from circuits.search.learn import MaskRun, attribution
from circuits.search.rankings import (
    circuit_by_ranking,
    edge_effects,
    integrated_gradients,
    random_scores,
    strongest_edges,
)
from circuits.search.task import TaskSearch, aim, circuit_of
from circuits.section import RankedCircuit, RankingRatio, TaskEntry
from circuits.tasks.pairs import PairSet
from sparsetrain.stats.number import number

N_PATH_STEPS = 5  # of integrated gradients; EAP-IG's default
N_SCORED_PAIRS = 64  # ours: training pairs that scores are taken from
Scores = Callable[[Ablated, PairSet], torch.Tensor]
"""(model and means, training pairs) -> float `[n_nodes]`."""

OF_EDGES = "EAP-IG per weight"
"""The baseline that a model without edges has not."""
METHODS: dict[str, Scores] = {
    "gradient x activation": attribution,
    "integrated gradients": lambda ablated, pairs: integrated_gradients(ablated, pairs, N_PATH_STEPS),
    OF_EDGES: lambda ablated, pairs: strongest_edges(
        ablated.model, ablated.space, edge_effects(ablated, pairs, N_PATH_STEPS)
    ),
    "random": lambda ablated, pairs: random_scores(ablated.space.n_nodes, 0),
}
"""Name of a baseline -> how it scores nodes."""


def ranked_circuits(subject: TaskSearch, out_dir: Path) -> tuple[RankedCircuit, ...]:
    """A circuit per baseline for a task that the model solves, in the order of `METHODS`; without edges, of those that need none.

    Args:
        out_dir: gets `<task>/baselines/<method>/circuit.json` for every circuit that meets the target.
    """
    towards = aim(subject)
    kept = subject.kept_calibration(subject.pairs)
    run = MaskRun(seed=0, train=subject.pairs.train, val=subject.pairs.val, calibration=kept)
    scored = run.train.batch(slice(0, N_SCORED_PAIRS))
    entries = []
    methods = {name: scores for name, scores in METHODS.items() if has_edges(subject.model) or name != OF_EDGES}
    for i, (method, scores) in enumerate(methods.items()):
        subject.progress(method, i, len(methods))
        pruned = circuit_by_ranking(towards, run, scores(towards, scored))
        circuit = circuit_of(subject, 0, pruned) if pruned.reached else None
        if circuit is not None:
            circuit.save(out_dir / subject.task / "baselines" / folder_of(method))
        entries.append(ranked_entry(subject, method, circuit, pruned.loss))
    return tuple(entries)


def ranked_entry(subject: TaskSearch, method: str, circuit: Circuit | None, val_loss: float) -> RankedCircuit:
    """The entry of a baseline; None: no circuit met the target."""
    if circuit is None:
        return RankedCircuit(method=method, reached=False)
    return RankedCircuit(
        method=method,
        reached=True,
        path=subject.path("baselines", folder_of(method)),
        n_nodes=number(circuit.n_nodes, "nodes"),
        n_edges=number(circuit.n_edges, "edges") if has_edges(subject.model) else number(None, "edges", note=NO_EDGES),
        task_loss=subject.loss(subject.heldout_answers(circuit)),
        val_loss=number(val_loss, "nats", n=subject.pairs.val.n_distinct),
    )


def folder_of(method: str) -> str:
    return method.replace(" ", "_")


def size_ratios(tasks: Sequence[TaskEntry], seed: int, n_boot: int) -> tuple[RankingRatio, ...]:
    """Per baseline: its edges (nodes, without edges) / those of learned pruning, geometric mean over the tasks that both solve.

    A task's learned size is the geometric mean over mask seeds, so that picking the best of them gives no advantage; that each of them is the
    smallest of searches at several prices (`settle`, `trials`) does, where there are several.

    Args:
        tasks: those without `baselines` are passed over.
        seed: of the bootstrap over tasks.
        n_boot: resamples.

    Returns:
        Smallest ratio first: the best baseline.
    """
    rows = []
    for method in METHODS:
        logs: dict[str, float] = {}
        only_learned, only_baseline = [], []
        for task in tasks:
            for entry in task.baselines or ():
                if entry.method != method:
                    continue
                learned = [log(max(1, circuit.size.value or 0)) for circuit in task.circuits]
                size = next(
                    (count.value for count in (entry.n_edges, entry.n_nodes) if count and count.value is not None), None
                )
                if learned and size is not None:
                    logs[task.task] = log(max(1, size)) - fmean(learned)
                elif learned:
                    only_learned.append(task.task)
                elif entry.reached:
                    only_baseline.append(task.task)
        values = torch.tensor(list(logs.values()), dtype=torch.float64)
        low, high = interval(values, seed, n_boot, lambda x: x.mean(-1).exp()) if logs else (None, None)
        ratio = exp(fmean(logs.values())) if logs else None
        rows.append(
            RankingRatio(
                method=method,
                ratio=number(ratio, "factor", n=len(logs), lo=low, hi=high, seed=seed),
                tasks=tuple(sorted(logs)),
                only_learned=tuple(only_learned),
                only_baseline=tuple(only_baseline),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.ratio.value is None, row.ratio.value or 0.0)))
