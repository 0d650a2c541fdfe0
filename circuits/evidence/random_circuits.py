"""Random circuits: as many nodes at every hook point, drawn from the channels alive in pretraining text.

The circuit's own nodes may be among those drawn. Circuit and random circuits are calibrated and scored alike, on the same pairs.
Source: Shi et al. 2024.
"""

import torch
from torch import Tensor

from circuits.calibrate import calibrated_loss
from circuits.evidence.effect import necessity
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.hypotheses import enough_draws, permutation_p
from circuits.evidence.measurement import Measurement, floats, missing, share
from circuits.masks import NodeSpace
from circuits.tasks.loss import task_loss


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


def drawn(exam: Examination) -> Tensor:
    """Random circuits of the circuit's size and place, bool `[n_random, n_nodes]`."""
    return random_circuits(exam.space, exam.keep, exam.inputs.alive.cpu(), exam.config.n_random, exam.config.seed)


def losses(exam: Examination) -> list[float]:
    """Task loss of the circuit, then of the random ones, all calibrated alike on the same few pairs."""
    fit = exam.fit.batch(slice(0, exam.config.n_random_pairs))
    masks = torch.cat([exam.keep[None], exam.once(drawn)])
    _, calibration = calibrated_loss(exam.answers(masks, fit))
    return floats(task_loss(calibration.apply(exam.answers(masks, exam.some).double())))


def without(exam: Examination) -> Tensor:
    """Answers of the full model without each of the first random sets, on a few pairs: `[n_sets, n, side, answer]`."""
    return exam.answers(~exam.once(drawn)[: exam.config.n_random_necessity], exam.some)


@criterion("random circuits", "critique 3", at_least="min_beaten", core=True)
def beaten(exam: Examination) -> Measurement:
    """What share of random circuits of the same size and place has a higher loss?"""
    own, *others = exam.once(losses)
    note = f"n counts circuits; the circuit's loss {own:.3f}, the best random one's {min(others):.3f}"
    return share(sum(own < other for other in others), len(others), note=note)


@criterion("necessity among random sets", "metrics", at_least="min_beaten")
def needed_more(exam: Examination) -> Measurement:
    """Is more lost without the circuit than without random sets of the same size and place?"""
    n = len(exam.some)
    found = necessity(exam.full[:n], exam.empty[:n], torch.cat([exam.without[None, :n], exam.once(without)]))
    if not found:
        return exam.no_effect()
    own, *others = found
    note = f"n counts random sets; the most that one of them loses: {max(others):.3f}"
    return share(sum(own > other for other in others), len(others), note=note, detail={"random": others})


@criterion("sufficiency test", "tests", at_most="alpha")
def sufficiency_test(exam: Examination) -> Measurement:
    """How likely is so low a loss for a random circuit of the same size and place?"""
    own, *others = exam.once(losses)
    if not enough_draws(len(others), 1):
        return missing("p-value", "too few circuits drawn", len(others))
    p = permutation_p(-own, [-other for other in others])
    return Measurement(value=p, unit="p-value", n=len(others), note="n counts random circuits")
