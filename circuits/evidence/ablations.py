"""Does the circuit depend on how the rest is deleted? A table of task losses, each cell calibrated anew.

{zero, mean, task mean, resample} x {nodes, edges} x {norms moving or frozen}:
- task mean: over the positions of the task's own prompts;
- resample: what all nodes were at one random place of pretraining text, mean over draws;
- edges: deleted edges carry weight x value as well (`circuits.edges`);
- frozen: 1/rms of every norm is the full model's on the same prompt.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.edges import Edge, edge_masks, edge_weights
from circuits.evidence.measurement import Measurement
from circuits.evidence.roles import recorded
from circuits.evidence.subject import Subject, hooked_answers, refit_answers
from circuits.masks import NodeSpace, ablation_hooks
from circuits.tasks.loss import task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint, hook_points, record
from sparsetrain.model import Transformer

Deletion = Literal["zero", "mean", "task mean", "resample"]
CellKind = Literal["nodes", "edges"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the table.

    Args:
        deletion: what deleted nodes emit.
        kind: whether deleted edges carry it too.
        frozen: whether norms keep the full model's scale.
        loss: task loss in nats.
    """

    deletion: Deletion
    kind: CellKind
    frozen: bool
    loss: float


@torch.no_grad()
def text_values(model: Transformer, space: NodeSpace, windows: Tensor, n_places: int, seed: int) -> Tensor:
    """What all nodes are at random places of text, `[n_places, n_nodes]`; a row comes from one place.

    Args:
        windows: int64 `[n, pos]`.
    """
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(windows.numel(), (n_places,), generator=generator)
    rows = (places // windows.shape[1]).unique()  # only these windows are run
    _, seen = record(model, windows[rows].to(next(model.parameters()).device), space.names)
    at = torch.searchsorted(rows, places // windows.shape[1]), places % windows.shape[1]
    return space.join({name: x.cpu()[at] for name, x in seen.items()})


def task_means(model: Transformer, space: NodeSpace, pairs: PairSet) -> Tensor:
    """Mean activation of every node over the positions of a task's prompts, float32 `[n_nodes]`."""
    seen, valid = recorded(model, pairs, space.names, {})
    return space.join({name: x[valid].double().mean(0) for name, x in seen.items()}).float()


def scale_hooks(model: Transformer, pairs: PairSet) -> dict[str, HookFn]:
    """Hooks that give every norm the scale it has, as the model stands, in one pass over these prompts."""
    names = [name for name, point in hook_points(model).items() if point.kind == "norm_scale"]
    scales, _ = recorded(model, pairs, names, {})

    def put(x: Tensor, point: HookPoint) -> Tensor:
        return scales[point.name].to(x)

    return dict.fromkeys(names, put)


def deleted_loss(
    subject: Subject,
    values: Tensor,
    edges: Sequence[Edge] | None,
    scales: tuple[Mapping[str, HookFn], Mapping[str, HookFn]] = ({}, {}),
) -> float:
    """Task loss in nats of the circuit when deleted nodes emit `values`, calibrated on the fit pairs.

    Args:
        values: float `[n_nodes]`.
        edges: the edges that stay, for an edge circuit; None for the node circuit.
        scales: `scale_hooks` of the fit and of the held-out pairs, where norms are to be frozen.
    """
    model, space = subject.model, subject.space
    device = next(model.parameters()).device
    values = values.to(device)
    hooks = ablation_hooks(space, subject.keep.to(device), values)
    frozen = {id(subject.fit): scales[0], id(subject.heldout): scales[1]}
    with ExitStack() as stack:
        extra: Mapping[str, HookFn] = {}
        if edges is not None:
            extra = stack.enter_context(edge_weights(model, space, edge_masks(model, space, list(edges)), values))

        def answers(pairs: PairSet) -> Tensor:
            return hooked_answers(model, pairs, {**hooks, **frozen[id(pairs)]}, extra)

        return float(task_loss(refit_answers(answers, subject.fit, subject.heldout)))


def ablation_table(
    subject: Subject, edges: Sequence[Edge], windows: Tensor | None, *, n_draws: int, seed: int
) -> list[Cell]:
    """All cells; those of `resample` are left out where there is no text.

    Args:
        edges: of the circuit.
        windows: int64 `[n, pos]`, pretraining text to resample from, or None.
        n_draws: places of text per resample cell.
    """
    values: dict[Deletion, Tensor] = {
        "zero": torch.zeros(1, subject.space.n_nodes),
        "mean": subject.means[None],
        "task mean": task_means(subject.model, subject.space, subject.fit)[None],
    }
    if windows is not None:
        values["resample"] = text_values(subject.model, subject.space, windows, n_draws, seed)
    as_in_model = scale_hooks(subject.model, subject.fit), scale_hooks(subject.model, subject.heldout)
    cells = []
    for deletion, kind, frozen in product(values, get_args(CellKind), (False, True)):
        kept, scales = edges if kind == "edges" else None, as_in_model if frozen else ({}, {})
        loss = fmean(deleted_loss(subject, row, kept, scales) for row in values[deletion])
        cells.append(Cell(deletion=deletion, kind=kind, frozen=frozen, loss=loss))
    return cells


def robustness(cells: Sequence[Cell], most: float) -> Measurement:
    """Share of the table's cells with a task loss of at most `most` nats."""
    table = [
        {
            "deletion": cell.deletion,
            "kind": cell.kind,
            "norms": "frozen" if cell.frozen else "moving",
            "loss": cell.loss,
        }
        for cell in cells
    ]
    n_held = sum(cell.loss <= most for cell in cells)
    worst = max(cells, key=lambda cell: cell.loss)
    norms = "frozen" if worst.frozen else "moving"
    note = f"n counts settings; worst: {worst.deletion}, {worst.kind}, norms {norms}: {worst.loss:.3f} nats"
    # The settings are all there are and no sample: no interval.
    return Measurement(value=n_held / len(cells), unit="fraction", n=len(cells), note=note, detail={"table": table})
