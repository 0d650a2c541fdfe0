"""Between the circuit and the model: deleted nodes let part of their deviation from the mean through.

A deleted node emits mean + r (x - mean), one r in [0, 1] per node and batch: r = 0 is the circuit, r = 1 the model.
1. The mean task loss over r drawn from U(0, 1) per node.
2. The worst found by projected gradient ascent: r steps along the sign of the loss's gradient and is cut to [0, 1], from
   r = 1/2 and from random starts; the worst r on the way counts.

A circuit that is the mechanism, and not an artefact of the ablation, does not care. Calibrated by the circuit's rule, on the fit
pairs under the same shares where that rule is a fit. Runs are folded into the batch axis.
"""

import torch
from einops import rearrange
from torch import Tensor

from circuits.answers import run_answers
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement
from circuits.masks import NodeSpace
from circuits.search.learn import frozen
from circuits.tasks.loss import pair_task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint, hooked


def partial_hooks(space: NodeSpace, keep: Tensor, means: Tensor, r: Tensor) -> dict[str, HookFn]:
    """Hooks that let the share r of every deleted node's deviation through, differentiable in r.

    Args:
        keep: bool `[n_nodes]`; kept nodes pass whole.
        means: float `[n_nodes]`.
        r: float `[n_runs, n_nodes]` in [0, 1], runs folded into the batch axis.
    """
    parts, values, shares = space.split(keep), space.split(means), space.split(r)

    def blend(name: str) -> HookFn:
        def hook(x: Tensor, point: HookPoint) -> Tensor:
            x = rearrange(x, "(run row) pos width -> run row pos width", run=len(r))
            value = values[name].to(x.dtype)
            some = value + shares[name][:, None, None] * (x - value)
            return rearrange(torch.where(parts[name], x, some), "run row pos width -> (run row) pos width")

        return hook

    return {name: blend(name) for name, part in parts.items() if not bool(part.all())}


def partial_answers(exam: Examination, r: Tensor, pairs: PairSet) -> Tensor:
    """Answers `[n_runs, n, side, answer]` under shares r `[n_runs, n_nodes]`, differentiable in them."""
    keep, means, r = (x.to(exam.device) for x in (exam.keep, exam.circuit.means, r))
    with hooked(exam.model, partial_hooks(exam.space, keep, means, r)):
        return run_answers(exam.model, [pairs] * len(r))


def partial_losses(exam: Examination, r: Tensor) -> Tensor:
    """Calibrated task loss of each held-out pair, `[n_runs, n]` nats, differentiable in r `[n_runs, n_nodes]`."""
    calibration = exam.calibrated_by(lambda pairs: partial_answers(exam, r.detach(), pairs), len(r))
    return pair_task_loss(calibration.apply(partial_answers(exam, r, exam.heldout)))


def _random_shares(exam: Examination, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(exam.config.seed)
    return torch.rand(n, exam.space.n_nodes, generator=generator)


@criterion("partial ablation", "critique 4", at_most="max_partial_loss", needs="min_pairs")
def random_partial(exam: Examination) -> Measurement:
    """Does the circuit keep the task loss, on average, when deleted nodes come back in part?"""
    r = _random_shares(exam, exam.config.n_partial)
    step = max(1, exam.config.max_rows // (2 * len(exam.heldout)))
    with torch.no_grad():
        losses = torch.cat([partial_losses(exam, part).cpu() for part in torch.split(r, step)])
    note = f"{len(r)} draws, the worst {float(losses.mean(1).max()):.3f}"
    return exam.measured(losses.double().mean(0), "nats", note=note)


@criterion("worst partial ablation", "critique 4", at_most="max_worst_loss", needs="min_pairs")
def worst_partial(exam: Examination) -> Measurement:
    """Does it stay better than a guess under the worst partial ablation found by gradient ascent?

    The shares are sought on the pairs that are judged: an adversary may fit them. The interval is over pairs, at the worst r.
    """
    config, worst, started = exam.config, torch.full((len(exam.heldout),), -torch.inf), 0.0
    r = _random_shares(exam, config.n_adversary_starts)
    r[0] = 0.5
    with frozen(exam.model), torch.enable_grad():
        for turn in range(config.n_adversary_steps + 1):
            r = r.detach().requires_grad_()
            losses = partial_losses(exam, r)
            found = losses.detach().cpu()
            found = found[found.mean(1).argmax()]
            worst = found if float(found.mean()) > float(worst.mean()) else worst
            started = float(found.mean()) if turn == 0 else started
            if turn == config.n_adversary_steps:
                break
            (grad,) = torch.autograd.grad(losses.mean(1).sum(), [r])
            r = (r.detach() + config.adversary_step * grad.sign()).clamp(0, 1)
    note = f"{len(r)} starts, {config.n_adversary_steps} steps; started at {started:.3f}"
    return exam.measured(worst, "nats", note=note)
