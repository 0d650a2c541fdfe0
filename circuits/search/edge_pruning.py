"""From a node circuit to an edge circuit: dropping the surviving weights that can be spared.

A node circuit keeps every nonzero weight between its nodes. Here those are dropped one by one in the same clean-up as
nodes (`circuits.search.cleanup`), each dropped edge carrying weight x mean of its source from then on. The calibration is fitted
anew for every loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.answers import pair_answers
from circuits.calibrate import calibrated_loss
from circuits.edges import Edge, edge_masks, edge_weights
from circuits.masks import NodeSpace, ablation_hooks
from circuits.search.cleanup import drop_harmless
from circuits.search.learn import Progress, PruneConfig, silent
from circuits.tasks.loss import Calibration
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import hooked
from sparsetrain.model import Transformer

MAX_SINGLES = 16  # ours: a pass per edge and over all pairs is what takes the time


@dataclass(frozen=True, kw_only=True)
class PrunedEdges:
    """What is left of a node circuit's edges.

    Args:
        edges: the edges kept.
        loss: calibrated task loss of the edge circuit on the validation pairs, nats.
        calibration: fitted on the validation pairs.
    """

    edges: tuple[Edge, ...]
    loss: float
    calibration: Calibration


@torch.no_grad()
def prune_edges(
    model: Transformer,
    space: NodeSpace,
    keep: Tensor,
    edges: Sequence[Edge],
    means: Tensor,
    val: PairSet,
    target: float,
    config: PruneConfig,
    progress: Progress = silent,
) -> PrunedEdges:
    """Drops edges of a node circuit, until none can go or for `config.edge_rounds` rounds.

    Where the circuit with all its edges misses the target as an edge circuit (there deleted nodes get no influence from
    kept ones, so that AbsTopK competes otherwise), nothing is dropped.

    Args:
        keep: bool `[n_nodes]`, the node circuit.
        edges: its edges.
        means: `[n_nodes]`.
        val: pairs on which the target must be met.
        target: calibrated task loss, nats.
        config: `edge_rounds`, and `n_screen`, `screen_slack`, `max_rows` as for nodes.
    """
    device = next(model.parameters()).device
    values, all_edges = means.to(device), list(edges)
    nodes = ablation_hooks(space, keep.to(device), values)
    few = val.batch(slice(0, config.n_screen))

    def answers(mask: Tensor, pairs: PairSet) -> Tensor:
        masks = edge_masks(model, space, [all_edges[i] for i in mask.nonzero().flatten().tolist()])
        with edge_weights(model, space, masks, values) as hooks, hooked(model, nodes), hooked(model, hooks):
            return pair_answers(model, pairs, max(1, config.max_rows // 2))

    def losses(pairs: PairSet, stage: str):
        def of(masks: Tensor) -> Tensor:
            found = []
            for i, mask in enumerate(masks):
                if len(masks) > 1:
                    progress(stage, i, len(masks))
                found.append(calibrated_loss(answers(mask, pairs))[0])
            return torch.stack(found)

        return of

    everything = torch.ones(len(all_edges), dtype=torch.bool)
    kept = everything
    if float(losses(val, "edges")(everything[None])) <= target:
        kept = drop_harmless(
            everything,
            losses(val, "edges, all pairs"),
            losses(few, "edges"),
            target,
            slack=config.screen_slack,
            max_rounds=config.edge_rounds,
            max_singles=MAX_SINGLES,
        )
    loss, calibration = calibrated_loss(answers(kept, val))
    return PrunedEdges(
        edges=tuple(edge for edge, on in zip(all_edges, kept.tolist(), strict=True) if on),
        loss=float(loss),
        calibration=calibration,
    )
