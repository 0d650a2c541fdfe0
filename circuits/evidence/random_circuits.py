"""Random circuits: as many nodes at every hook point, drawn from the channels alive in pretraining text.

The circuit's own nodes may be among those drawn. Circuit and random circuits are calibrated and scored alike, on the same pairs.
Source: Shi et al. 2024.
"""

import torch
from torch import Tensor

from circuits.masks import NodeSpace
from circuits.search.learn import calibrated_loss, masked_answers
from circuits.tasks.loss import task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer


def random_circuits(space: NodeSpace, keep: Tensor, alive: Tensor, n: int, seed: int) -> Tensor:
    """Random masks with as many nodes at every hook point as `keep`, bool `[n, n_nodes]`.

    Args:
        keep: bool `[n_nodes]`, the circuit.
        alive: bool `[n_nodes]`, channels to draw from; the circuit's own are always added.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(n, space.n_nodes, dtype=torch.bool)
    pools = space.split(alive | keep)
    for name, kept in space.split(keep).items():
        size = int(kept.sum())
        if size == 0:
            continue
        pool = pools[name].nonzero().flatten()
        scores = torch.rand(n, len(pool), generator=generator)
        channels = pool[scores.topk(size, dim=1).indices]
        drawn[:, space.slice(name)] = torch.zeros(n, len(kept), dtype=torch.bool).scatter(1, channels, True)
    return drawn


def random_losses(
    model: Transformer, space: NodeSpace, masks: Tensor, means: Tensor, fit: PairSet, heldout: PairSet, max_rows: int
) -> Tensor:
    """Task loss on `heldout` of many circuits, each calibrated on `fit`: float64 `[n]`, nats.

    The circuit itself, given as one more row, is treated exactly like the random ones.
    """
    answers = [masked_answers(model, space, masks, means, [pairs] * len(masks), max_rows) for pairs in (fit, heldout)]
    _, calibration = calibrated_loss(answers[0])
    return task_loss(calibration.apply(answers[1].double()))
