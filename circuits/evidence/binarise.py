"""Nodes with two values: every kept node becomes a step, lo below a threshold and hi above it.

Threshold and values are the least-squares fit to the node's activations in the circuit over the positions of the fit
pairs; all nodes become steps at once. The task loss that is left says how far the circuit is a diagram of switches.
Source: Gao et al. 2025, appendix C. The least-squares fit is ours.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic
from circuits.evidence.roles import recorded
from circuits.evidence.subject import Subject, hooked_answers, refit_answers
from circuits.masks import ablation_hooks
from circuits.tasks.loss import pair_task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint


@dataclass(frozen=True, kw_only=True)
class Steps:
    """One step per column: float `[width]` each."""

    threshold: Tensor
    lo: Tensor
    hi: Tensor


def fit_steps(x: Tensor) -> Steps:
    """The step x > threshold ? hi : lo of least squared error, per column; a constant column stays constant.

    Args:
        x: float `[n, width]`.
    """
    n = len(x)
    ordered = x.double().sort(0).values
    below = ordered.cumsum(0)[:-1]
    total = ordered.sum(0)
    size = torch.arange(1, n, dtype=torch.float64)[:, None]
    # The squared error is a constant minus this; equal values cannot be told apart by a threshold.
    explained = below.square() / size + (total - below).square() / (n - size)
    explained = explained.masked_fill(ordered[1:] == ordered[:-1], -torch.inf)
    still = ordered[0] == ordered[-1]
    if n == 1 or bool(still.all()):
        return Steps(threshold=ordered[0], lo=ordered[0], hi=ordered[0])
    split = explained.argmax(0)[None]
    lo = below.gather(0, split)[0] / (split[0] + 1)
    hi = (total - below.gather(0, split)[0]) / (n - split[0] - 1)
    threshold = (ordered.gather(0, split)[0] + ordered.gather(0, split + 1)[0]) / 2
    return Steps(
        threshold=torch.where(still, ordered[0], threshold),
        lo=torch.where(still, ordered[0], lo),
        hi=torch.where(still, ordered[0], hi),
    )


def binarised(subject: Subject, seed: int, n_boot: int) -> Measurement:
    """Task loss of the circuit with two-valued nodes, calibrated on the fit pairs."""
    device = next(subject.model.parameters()).device
    hooks = ablation_hooks(subject.space, subject.keep.to(device), subject.means.to(device))
    kept = {name: part for name, part in subject.space.split(subject.keep).items() if bool(part.any())}
    seen, valid = recorded(subject.model, subject.fit, list(kept), hooks)
    steps = {name: fit_steps(x[valid]) for name, x in seen.items()}

    def put(x: Tensor, point: HookPoint) -> Tensor:
        step = steps[point.name]
        value = torch.where(x > step.threshold.to(x), step.hi.to(x), step.lo.to(x))
        return torch.where(kept[point.name].to(x.device), value, x)

    stepped: dict[str, HookFn] = dict.fromkeys(kept, put)

    def answers(pairs: PairSet) -> Tensor:
        return hooked_answers(subject.model, pairs, hooks, stepped)

    losses = pair_task_loss(refit_answers(answers, subject.fit, subject.heldout))
    low, high = bootstrap_statistic(losses, lambda rows: rows.mean(-1), seed, n_boot)
    return Measurement(value=float(losses.mean()), unit="nats", n=len(losses), lo=low, hi=high)
