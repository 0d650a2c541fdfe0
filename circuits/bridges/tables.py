"""Tables and figures of the study of bridges."""

from collections.abc import Mapping, Sequence

import numpy as np

from circuits.bridges.readings import CROSSED, MAX_GAP, NODE, CrossingResult, SteeringResult, StudentResult
from circuits.bridges.steer import CONTROLS, PATCHED
from sparsetrain.report.blocks import Reference
from sparsetrain.stats.number import number
from sparsetrain.studies.readings import over_seeds_figure, seeds_number
from sparsetrain.studies.section import Figure, ResultTable, TableCell

Crossings = Mapping[int, CrossingResult]
Steerings = Mapping[int, SteeringResult]


def crossing_figure(seeds: Crossings) -> Figure:
    """What a single crossing costs, by site."""
    first = next(iter(seeds.values()))
    groups = {words: [np.array(one.gaps(start)) for one in seeds.values()] for start, words in (("dense", "dense to sparse"), ("sparse", "sparse to dense"))}  # fmt: skip
    sites = [one.site for one in first.losses if one.single and one.start == "dense"]
    return over_seeds_figure(
        "crossings", "Hybrid passes with one crossing: loss less that of the dense model", [float(i) for i in range(len(sites))], groups,
        x_label=f"site ({', '.join(f'{i}: {name}' for i, name in enumerate(sites))})", y_label="nats/token",
        references=(Reference(label="allowed", value=MAX_GAP),),
    )  # fmt: skip


def steering_figures(seeds: Steerings) -> list[Figure]:
    """A figure per task, of the seeds that have a node."""
    found: list[Figure] = []
    for task in next(iter(seeds.values())).tasks:
        there = [one for one in seeds.values() if one.tasks[task].curves]
        if not there:
            continue
        names = (NODE, PATCHED, *CONTROLS)
        groups = {name: [np.array(one.tasks[task].curves[name]) for one in there] for name in names}
        found.append(
            over_seeds_figure(
                f"steering_{task}", f"Steering the dense model: {task}", there[0].strengths, groups,
                x_label="strength", y_label="probability of the other prompt's answer",
                references=(Reference(label="a half", value=CROSSED),), note="held-out prompts; ",
            )
        )  # fmt: skip
    return found


def crossing_table(seeds: Crossings, *, single: bool) -> ResultTable:
    """Every way through the models, over seeds: those with one crossing and none, or random ones."""
    results = [*seeds.values()]
    rows: list[tuple[TableCell, ...]] = []
    for i, one in enumerate(results[0].losses):
        if (one.single or not one.site) != single:
            continue
        per_seed = [result.losses[i] for result in results]
        gaps = [here.loss - result.dense for here, result in zip(per_seed, results, strict=True)]
        rows.append((one.route, seeds_number([here.loss for here in per_seed], "nats/token"), seeds_number(gaps, "nats/token"), number(max(gaps), "nats/token", n=len(gaps)), seeds_number([here.kl for here in per_seed], "nats/token")))  # fmt: skip
    return ResultTable(
        title="Hybrid passes: the models alone and every single crossing" if single else "Hybrid passes: random ways with several crossings",
        columns=("way", "loss", "less the dense model's", "the same, worst seed", "KL from the dense model"),
        rows=tuple(rows),
        note=f"held-out documents, {results[0].n_tokens:,} tokens; [site]: where the residual stream goes over to the other model",
    )  # fmt: skip


def models_table(students: Mapping[int, StudentResult], seeds: Crossings) -> ResultTable:
    """Every student."""
    rows: list[tuple[TableCell, ...]] = [
        (f"{seed}", number(one.density, "fraction"), one.n_nonzero, number(seeds[seed].dense, "nats/token"), number(seeds[seed].losses[1].loss, "nats/token"), number(seeds[seed].worst, "nats/token"), number(one.seconds, "s", "measured"))
        for seed, one in students.items()
    ]  # fmt: skip
    return ResultTable(
        title="Teachers and students",
        columns=("seed", "density", "nonzero weights", "dense loss", "sparse loss", "worst single crossing, less dense", "training of the student"),
        rows=tuple(rows),
        note="density: of the weight matrices of the blocks; nonzero weights without the bigram table",
    )  # fmt: skip


def steering_table(seeds: Steerings) -> ResultTable:
    """Every task in every seed: circuit, node, how far it steers, how far each control moves."""
    rows: list[tuple[TableCell, ...]] = []
    for seed, result in seeds.items():
        for task, one in result.tasks.items():
            if not one.curves:
                found: Sequence[TableCell] = ["none", None, None, None, None, *(None for _ in CONTROLS)]
            else:
                ends = [number(one.curves[name][at], "fraction", n=one.n_rows) for name, at in ((NODE, 0), (NODE, -1), (PATCHED, -1))]  # fmt: skip
                ends.append(number(one.whole[NODE][-1], "fraction", n=one.n_rows))
                found = [f"{one.node} ({one.site})", *ends, *(number(one.moved[name], "fraction", n=one.n_rows) for name in CONTROLS)]  # fmt: skip
            rows.append((task, f"{seed}", number(one.dense_accuracy, "fraction"), number(one.sparse_loss, "nats"), one.n_nodes, one.n_edges, one.n_candidates, *found))  # fmt: skip
    return ResultTable(
        title="Steering: nodes, and how far each control moves",
        columns=(
            "task", "seed", "dense accuracy", "sparse task loss", "circuit, nodes", "its edges", "candidates", "node", "unsteered", "at strength 1",
            "own change at strength 1", "node, of the whole vocabulary", *CONTROLS,
        ),
        rows=tuple(rows),
        note="probability of the other prompt's answer, of both answers of the pair, mean over held-out prompts of both sides; controls: largest movement, mean over draws",
    )  # fmt: skip
