"""Twins of circuits: the same nodes elsewhere, other nodes treated alike."""

from dataclasses import replace

import torch
from torch import Tensor

from circuits.answers import Ablated
from circuits.calibrate import calibrated_loss
from circuits.circuit import Circuit, Provenance
from circuits.edges import find_edges
from circuits.masks import NodeSpace
from circuits.tasks.loss import Calibration
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer


def no_nodes(model: Transformer, task: str, means: Tensor) -> Circuit:
    """The empty circuit of a model, uncalibrated: what `same_nodes` makes others of."""
    return Circuit(
        task=task,
        nodes={},
        edges=(),
        space=NodeSpace.of(model),
        means=means,
        calibration=Calibration(scale=torch.tensor(1.0), shift=torch.tensor(0.0)),
        provenance=Provenance(
            weights_sha256="0" * 64, seed=0, config={}, loss_convention="", means_source="", means_n_tokens=1
        ),
    )


def same_nodes(model: Transformer, circuit: Circuit, keep: Tensor, means: Tensor, fit: PairSet) -> Circuit:
    """Other nodes or another model of the same shape, as a circuit that gets the same treatment.

    Args:
        model: where the circuit is to live, e.g. a permuted one.
        circuit: lends task, space and provenance.
        keep: bool `[n_nodes]`.
        means: float `[n_nodes]`, of `model`.
        fit: pairs to calibrate on.
    """
    space = circuit.space
    _, calibration = calibrated_loss(Ablated(model=model, means=means, max_rows=2 * len(fit)).answers(keep[None], fit))
    return replace(
        circuit,
        nodes=space.nodes(keep),
        edges=tuple(find_edges(model, space, keep)),
        means=means,
        calibration=calibration.first,
    )
