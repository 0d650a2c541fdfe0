"""From a node circuit to an edge circuit: dropping the surviving weights that can be spared.

A node circuit keeps every nonzero weight between its nodes. Here those are dropped one by one in the same clean-up as
nodes (`circuits.search.cleanup`), each dropped edge carrying weight x mean of its source from then on. A calibration that
is not kept is fitted anew for every loss.
"""

from dataclasses import replace

import torch
from torch import Tensor

from circuits.answers import pair_answers
from circuits.calibrate import calibrated_loss
from circuits.circuit import Circuit
from circuits.search.cleanup import drop_harmless
from circuits.search.learn import Aim
from circuits.tasks.loss import Calibration
from circuits.tasks.pairs import PairSet

MAX_SINGLES = 16  # ours: a pass per edge and over all pairs is what takes the time


@torch.no_grad()
def prune_edges(aim: Aim, circuit: Circuit, val: PairSet, kept: Calibration | None = None) -> tuple[Circuit, float]:
    """Drops edges of a node circuit, until none can go or for `edge_rounds` rounds.

    Where the circuit with all its edges misses the target as an edge circuit (there deleted nodes get no influence from
    kept ones, so that AbsTopK competes otherwise), nothing is dropped.

    Args:
        aim: of its settings, `n_screen` and `screen_slack` act as for nodes.
        circuit: in the aim's model.
        val: pairs on which the target must be met.
        kept: the calibration, where it is not fitted to the circuit.

    Returns:
        The circuit with the edges kept, calibrated on `val`, and its task loss there as an edge circuit, nats.
    """
    few = val.batch(slice(0, aim.config.n_screen))

    def only(mask: Tensor) -> Circuit:
        return replace(circuit, edges=tuple(circuit.edges[i] for i in mask.nonzero().flatten().tolist()))

    def answers(mask: Tensor, pairs: PairSet) -> Tensor:
        with only(mask).attached(aim.model, "edge"):
            return pair_answers(aim.model, pairs, max(1, aim.max_rows // 2))

    def losses(pairs: PairSet, stage: str):
        def of(masks: Tensor) -> Tensor:
            found = []
            for i, mask in enumerate(masks):
                if len(masks) > 1:
                    aim.progress(stage, i, len(masks))
                found.append(float(calibrated_loss(answers(mask, pairs)[None], kept)[0]))
            return torch.tensor(found)

        return of

    left = torch.ones(len(circuit.edges), dtype=torch.bool)
    if float(losses(val, "edges")(left[None])) <= aim.target:
        left = drop_harmless(
            left,
            losses(val, "edges, all pairs"),
            losses(few, "edges"),
            aim.target,
            slack=aim.config.screen_slack,
            max_rounds=aim.config.edge_rounds,
            max_singles=MAX_SINGLES,
        )
    loss, calibration = calibrated_loss(answers(left, val)[None], kept)
    return replace(only(left), calibration=calibration.first), float(loss)
