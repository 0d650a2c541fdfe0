"""Learned pruning beside rankings: the same pairs, target, clean-up and calibration, another order of the nodes.

Every method ends in a node circuit that meets the target on the search's validation pairs or in none; its loss is then
measured on held-out pairs. Sizes are compared as ratios of geometric means of edges over the tasks that both solve.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from circuits.find import Finder
from circuits.intervals import interval
from circuits.masks import NodeSpace
from circuits.search.learn import Run
from circuits.search.rankings import (
    attribution,
    circuit_by_ranking,
    edge_effects,
    integrated_gradients,
    random_scores,
    strongest_edges,
)
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer
from sparsetrain.report import number, value_of

N_PATH_STEPS = 5  # of integrated gradients; EAP-IG's default
N_SCORED_PAIRS = 64  # ours: training pairs that scores are taken from
Scores = Callable[[Transformer, NodeSpace, torch.Tensor, PairSet, int], torch.Tensor]
"""(model, space, means, training pairs, prompts per pass) -> float `[n_nodes]`."""

METHODS: dict[str, Scores] = {
    "gradient x activation": attribution,
    "integrated gradients": lambda model, space, means, pairs, max_rows: integrated_gradients(
        model, space, means, pairs, N_PATH_STEPS, max_rows
    ),
    "EAP-IG per weight": lambda model, space, means, pairs, max_rows: strongest_edges(
        model, space, edge_effects(model, space, means, pairs, N_PATH_STEPS, max_rows)
    ),
    "random": lambda model, space, means, pairs, max_rows: random_scores(space.n_nodes, 0),
}
"""Name of a baseline -> how it scores nodes."""


def baseline_circuits(finder: Finder) -> list[dict[str, Any]]:
    """A circuit per baseline for a task that the model solves.

    Args:
        finder: of the task; its folder gets `baselines/<method>/circuit.json` for every circuit that meets the target.

    Returns:
        One entry of plain JSON data per method, in the order of `METHODS`: `method reached path n_nodes n_edges task_loss
        val_loss`; without the target reached, `method reached` alone.
    """
    config, model, space, means = finder.config, finder.model, finder.space, finder.values
    run = Run(seed=0, train=finder.pairs.train, val=finder.pairs.val)
    scored = run.train.batch(slice(0, N_SCORED_PAIRS))
    entries = []
    for i, (method, scores) in enumerate(METHODS.items()):
        if finder.progress is not None:
            finder.progress(method, i, len(METHODS))
        ranking = scores(model, space, means, scored, finder.max_rows)
        target = config.margin * config.target_loss
        pruned = circuit_by_ranking(model, space, means, run, ranking, target, config.prune)
        entry: dict[str, Any] = {"method": method, "reached": pruned.reached}
        if pruned.reached:
            circuit = finder.circuit(0, pruned)
            name = f"baselines/{method.replace(' ', '_')}"
            if finder.folder is not None:
                circuit.save(finder.folder / name)
            entry |= {
                "path": finder.path(name),
                **finder.size_and_loss(circuit, pruned.loss),
            }
        entries.append(entry)
    return entries


def size_ratios(tasks: Sequence[Mapping[str, Any]], seed: int, n_boot: int) -> list[dict[str, Any]]:
    """Per baseline: its edges / those of learned pruning, geometric mean over the tasks that both solve.

    A task's learned size is the geometric mean over mask seeds, so that picking the best of them gives no advantage.

    Args:
        tasks: the report's `circuits.tasks`; those without `baselines` are passed over.
        seed: of the bootstrap over tasks.
        n_boot: resamples.

    Returns:
        `method ratio tasks only_learned only_baseline` each, smallest ratio first: the best baseline.
    """
    rows = []
    compared = [task for task in tasks if "baselines" in task]
    for method in METHODS:
        logs: dict[str, float] = {}
        alone: dict[str, list[str]] = {"learned": [], "baseline": []}
        for task in compared:
            learned = [float(value_of(circuit["n_edges"])) for circuit in task["circuits"]]
            entry = next(entry for entry in task["baselines"] if entry["method"] == method)
            if learned and entry["reached"]:
                other = float(value_of(entry["n_edges"]))
                logs[task["task"]] = float(torch.tensor(other).clamp(min=1).log()) - float(
                    torch.tensor(learned).clamp(min=1).log().mean()
                )
            elif learned or entry["reached"]:
                alone["learned" if learned else "baseline"].append(task["task"])
        values = torch.tensor(list(logs.values()), dtype=torch.float64)
        low, high = interval(values, seed, n_boot, lambda x: x.mean(-1).exp()) if logs else (None, None)
        ratio = float(values.mean().exp()) if logs else None
        rows.append(
            {
                "method": method,
                "ratio": number(ratio, "factor", n=len(logs), lo=low, hi=high, seed=seed),
                "tasks": sorted(logs),
                "only_learned": alone["learned"],
                "only_baseline": alone["baseline"],
            }
        )
    return sorted(rows, key=lambda row: (value_of(row["ratio"]) is None, value_of(row["ratio"])))
