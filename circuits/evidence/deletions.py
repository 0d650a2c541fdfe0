"""Does the circuit depend on how the rest is deleted?

1. Robustness: a table of task losses, {zero, mean, task mean, resample} x {nodes, edges} x {norms moving or frozen}, each
   cell calibrated anew:
   - task mean: over the positions of the task's own prompts;
   - resample: what all nodes were at one random place of pretraining text, mean over draws;
   - edges: deleted edges carry weight x value as well (`circuits.edges`);
   - frozen: 1/rms of every norm is the full model's on the same prompt.
2. Causal scrubbing: recovered = (L_random - L_scrubbed) / (L_random - L_model). Scrubbed: every node outside the circuit
   takes, per prompt and position, its value at a random place of pretraining text (one place for all nodes of that prompt and
   position). Random: every node does. All three losses are calibrated alike.
   Source: Chan et al. 2022. Deviation: L_random scrubs everything, where Chan et al. shuffle the outputs, so that 0 means
   "no better than the current token".
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from circuits.edges import Edge, edge_masks, edge_weights
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import NO_WINDOWS, Measurement, floats, missing
from circuits.masks import NodeSpace
from circuits.tasks.loss import pair_task_loss, task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint, hook_points, record


class Cell(NamedTuple):
    """One entry of the table: what deleted nodes emit, whether deleted edges carry it too, whether norms are frozen."""

    deletion: str
    kind: str
    norms: str
    loss: float
    """Task loss, nats."""


@torch.no_grad()
def text_values(exam: Examination, windows: Tensor, n_places: int) -> Tensor:
    """What all nodes are at random places of text, `[n_places, n_nodes]`; a row comes from one place.

    Args:
        windows: int64 `[n, pos]`.
    """
    generator = torch.Generator().manual_seed(exam.config.seed)
    places = torch.randint(windows.numel(), (n_places,), generator=generator)
    rows = torch.tensor(sorted({int(place) // windows.shape[1] for place in places}))  # only these windows are run
    _, seen = record(exam.model, windows[rows].to(exam.device), exam.space.names)
    at = torch.searchsorted(rows, places // windows.shape[1]), places % windows.shape[1]
    return exam.space.join({name: x.cpu()[at] for name, x in seen.items()})


def task_means(exam: Examination) -> Tensor:
    """Mean activation of every node over the positions of the task's fit prompts, float32 `[n_nodes]`."""
    seen, valid = exam.recorded(exam.fit, exam.space.names, {})
    return exam.space.join({name: x[valid].double().mean(0) for name, x in seen.items()}).float()


def scale_hooks(exam: Examination, pairs: PairSet) -> dict[str, HookFn]:
    """Hooks that give every norm the scale it has, as the model stands, in one pass over these prompts."""
    names = [name for name, point in hook_points(exam.model).items() if point.kind == "norm_scale"]
    scales, _ = exam.recorded(pairs, names, {})

    def put(x: Tensor, point: HookPoint) -> Tensor:
        return scales[point.name].to(x)

    return dict.fromkeys(names, put)


def deleted_loss(
    exam: Examination,
    values: Tensor,
    edges: Sequence[Edge] | None = None,
    scales: tuple[Mapping[str, HookFn], Mapping[str, HookFn]] = ({}, {}),
) -> float:
    """Task loss in nats of the circuit when deleted nodes emit `values`, calibrated on the fit pairs.

    Args:
        values: float `[n_nodes]`.
        edges: the edges that stay, for an edge circuit; None for the node circuit.
        scales: `scale_hooks` of the fit and of the held-out pairs, where norms are to be frozen.
    """
    values = values.to(exam.device)
    hooks = exam.deleting(exam.keep, values)
    frozen = {id(exam.fit): scales[0], id(exam.heldout): scales[1]}
    with ExitStack() as stack:
        extra: Mapping[str, HookFn] = {}
        if edges is not None:
            masks = edge_masks(exam.model, exam.space, list(edges))
            extra = stack.enter_context(edge_weights(exam.model, exam.space, masks, values))
        return float(
            task_loss(exam.refitted(lambda pairs: exam.hooked_answers(pairs, {**hooks, **frozen[id(pairs)]}, extra)))
        )


def ablation_table(exam: Examination) -> list[Cell]:
    """All cells; those of `resample` are left out where there is no text."""
    values = {
        "zero": torch.zeros(1, exam.space.n_nodes),
        "mean": exam.circuit.means[None],
        "task mean": task_means(exam)[None],
    }
    if exam.inputs.windows is not None:
        values["resample"] = text_values(exam, exam.inputs.windows, exam.config.n_resample)
    edges = {"nodes": None, "edges": exam.circuit.edges}
    scales: dict[str, tuple[dict[str, HookFn], dict[str, HookFn]]] = {
        "moving": ({}, {}),
        "frozen": (scale_hooks(exam, exam.fit), scale_hooks(exam, exam.heldout)),
    }
    return [
        Cell(deletion, kind, norms, fmean(deleted_loss(exam, row, edges[kind], scales[norms]) for row in rows))
        for (deletion, rows), kind, norms in product(values.items(), edges, scales)
    ]


@criterion("robustness", "critique 9", at_least="min_robust")
def robustness(exam: Examination) -> Measurement:
    """What share of the ways to delete (value x nodes or edges x norms) does the circuit survive?"""
    cells = ablation_table(exam)
    n_held = sum(cell.loss <= exam.config.max_robust_loss for cell in cells)
    worst = max(cells, key=lambda cell: cell.loss)
    note = f"n counts settings; worst: {worst.deletion}, {worst.kind}, norms {worst.norms}: {worst.loss:.3f} nats"
    # The settings are all there are and no sample: no interval.
    detail = {"table": [cell._asdict() for cell in cells]}
    return Measurement(value=n_held / len(cells), unit="fraction", n=len(cells), note=note, detail=detail)


def scrub_hooks(space: NodeSpace, keep: Tensor, pool: Tensor, places: Tensor) -> dict[str, HookFn]:
    """Hooks that put rows of `pool` in place of the nodes outside the circuit.

    Args:
        keep: bool `[n_nodes]`.
        pool: float `[n_places, n_nodes]`, values to draw from.
        places: int64 `[row, pos]`, which row of the pool each prompt and position takes.
    """
    parts, pools = space.split(keep), space.split(pool)

    def put(x: Tensor, point: HookPoint) -> Tensor:
        drawn = pools[point.name][places[: x.shape[0], : x.shape[1]]]
        return torch.where(parts[point.name].to(x.device), x, drawn.to(x))

    return {name: put for name, part in parts.items() if not bool(part.all())}


def scrubbed(exam: Examination, pool: Tensor) -> Measurement:
    """Recovered loss, mean over draws; the interval is over pairs.

    Args:
        pool: float `[n_places, n_nodes]` (see `text_values`).
    """
    generator = torch.Generator().manual_seed(exam.config.seed)

    def losses(keep: Tensor) -> Tensor:  # [n]
        def answers(pairs: PairSet) -> Tensor:
            shape = (2 * len(pairs), int(pairs.last.max()) + 1)
            places = torch.randint(len(pool), shape, generator=generator)
            return exam.hooked_answers(pairs, scrub_hooks(exam.space, keep, pool, places))

        draws = [pair_task_loss(exam.refitted(answers)) for _ in range(exam.config.n_scrub)]
        return torch.stack(draws).mean(0)

    model = pair_task_loss(exam.full_calibration.apply(exam.full.double()))
    rows = torch.stack([losses(~exam.everything), losses(exam.keep), model], dim=-1)

    def recovered(values: Tensor) -> Tensor:  # [..., n, 3]
        random, own, full = values.mean(-2).unbind(-1)
        return (random - own) / (random - full)

    random, own, full = floats(rows.mean(0))
    if random == full:
        return missing("fraction", "scrubbing everything changes nothing", len(rows))
    note = f"{exam.config.n_scrub} draws; task loss: all scrubbed {random:.3f}, circuit {own:.3f}, model {full:.3f}"
    return exam.measured(rows, "fraction", recovered, note=note)


@criterion("causal scrubbing", "metrics", at_least="min_recovered", needs="min_pairs")
def scrubbing(exam: Examination) -> Measurement:
    """How much of the loss is recovered when all nodes outside the circuit are resampled from text?"""
    windows = exam.inputs.windows
    if windows is None:
        return missing("fraction", NO_WINDOWS)
    return scrubbed(exam, text_values(exam, windows, exam.config.n_scrub_places))
