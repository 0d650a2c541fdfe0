"""Between the circuit and the model: deleted nodes let part of their deviation from the mean through (`circuits.partial`).

1. The mean task loss over r drawn from U(0, 1) per node: all of the rest is alive in part.
2. The worst found by projected gradient ascent from r = 1/2 and from random starts.

A circuit that is the mechanism, and not an artefact of the ablation, does not care. Calibrated by the circuit's rule, on the fit
pairs under the same shares where that rule is a fit.
"""

import torch
from torch import Tensor

from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement
from circuits.partial import ascend
from circuits.search.learn import partial_answers
from circuits.tasks.loss import pair_task_loss
from circuits.tasks.pairs import PairSet


def heldout_losses(exam: Examination, r: Tensor) -> Tensor:
    """Calibrated task loss of each held-out pair, `[n_runs, n]` nats, differentiable in r float `[n_runs, n_nodes]`."""
    n, keep = len(r), exam.keep.to(exam.device)

    def answers(pairs: PairSet, alive: Tensor) -> Tensor:
        return partial_answers(exam.ablated, keep.expand(n, -1), [pairs] * n, alive)

    calibration = exam.calibrated_by(lambda pairs: answers(pairs, r.detach()), n)
    return pair_task_loss(calibration.apply(answers(exam.heldout, r)))


def _random_shares(exam: Examination, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(exam.config.seed)
    return torch.rand(n, exam.space.n_nodes, generator=generator).to(exam.device)


@criterion("partial ablation", "critique 4", at_most="max_partial_loss", needs="min_pairs")
def random_partial(exam: Examination) -> Measurement:
    """Does the circuit keep the task loss, on average, when deleted nodes come back in part?"""
    r = _random_shares(exam, exam.config.n_partial)
    step = max(1, exam.config.max_rows // (2 * len(exam.heldout)))
    with torch.no_grad():
        losses = torch.cat([heldout_losses(exam, part).cpu() for part in torch.split(r, step)])
    note = f"{len(r)} draws, the worst {float(losses.mean(1).max()):.3f}"
    return exam.measured(losses.double().mean(0), "nats", note=note)


@criterion("worst partial ablation", "critique 4", at_most="max_worst_loss", needs="min_pairs")
def worst_partial(exam: Examination) -> Measurement:
    """Does it stay better than a guess under the worst partial ablation found by gradient ascent?

    The shares are sought on the pairs that are judged: an adversary may fit them. The interval is over pairs, at the worst r.
    """
    config = exam.config
    r = _random_shares(exam, config.n_adversary_starts)
    r[0] = 0.5
    found, first = (
        x.cpu()
        for x in ascend(lambda r: heldout_losses(exam, r), r, config.n_adversary_steps, config.adversary_step)[1:]
    )
    worst, started = found[found.mean(1).argmax()], float(first.mean(1).max())
    note = f"{len(r)} starts, {config.n_adversary_steps} steps; started at {started:.3f}"
    return exam.measured(worst, "nats", note=note)
