"""Between the circuit and the model: deleted nodes let part of their deviation from the mean through.

A deleted node emits mean + r (x - mean), one r in [0, 1] per node and batch: r = 0 is the circuit, r = 1 the model.
1. The mean task loss over r drawn from U(0, 1) per node.
2. The worst found by projected gradient ascent: r steps along the sign of the loss's gradient and is cut to [0, 1], from
   r = 1/2 and from random starts; the worst r on the way counts.

A circuit that is the mechanism, and not an artefact of the ablation, does not care. Runs are folded into the batch axis.
"""

import torch
from einops import rearrange
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic
from circuits.evidence.subject import Subject
from circuits.masks import NodeSpace
from circuits.search.learn import frozen, run_answers
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


def partial_losses(subject: Subject, pairs: PairSet, r: Tensor) -> Tensor:
    """Calibrated task loss of each pair, `[n_runs, n]` nats, differentiable in r `[n_runs, n_nodes]`."""
    device = next(subject.model.parameters()).device
    hooks = partial_hooks(subject.space, subject.keep.to(device), subject.means.to(device), r.to(device))
    with hooked(subject.model, hooks):
        answers = run_answers(subject.model, [pairs] * len(r))
    return pair_task_loss(subject.calibration.apply(answers))


def random_partial(subject: Subject, n_draws: int, seed: int, n_boot: int) -> Measurement:
    """Mean task loss over r ~ U(0, 1) per deleted node and draw; the interval is over pairs."""
    generator = torch.Generator().manual_seed(seed)
    r = torch.rand(n_draws, subject.space.n_nodes, generator=generator)
    step = max(1, subject.max_rows // (2 * len(subject.heldout)))
    with torch.no_grad():
        losses = torch.cat([partial_losses(subject, subject.heldout, part).cpu() for part in r.split(step)])
    per_pair = losses.double().mean(0)
    low, high = bootstrap_statistic(per_pair, lambda rows: rows.mean(-1), seed, n_boot)
    note = f"{n_draws} draws, the worst {float(losses.mean(1).max()):.3f}"
    return Measurement(value=float(per_pair.mean()), unit="nats", n=len(per_pair), lo=low, hi=high, note=note)


def worst_partial(
    subject: Subject, pairs: PairSet, *, n_steps: int, n_starts: int, step: float, seed: int, n_boot: int
) -> Measurement:
    """Largest task loss that projected gradient ascent over r finds; the interval is over pairs, at that r.

    Args:
        pairs: on which r is sought and judged: an adversary may fit them.
        n_steps: gradient steps.
        n_starts: runs; the first starts at 1/2, the others at random.
        step: change of every r per step.
    """
    generator = torch.Generator().manual_seed(seed)
    r = torch.rand(n_starts, subject.space.n_nodes, generator=generator)
    r[0] = 0.5
    worst, started = torch.full((len(pairs),), -torch.inf), 0.0
    with frozen(subject.model), torch.enable_grad():
        for turn in range(n_steps + 1):
            r = r.detach().requires_grad_()
            losses = partial_losses(subject, pairs, r)
            found = losses.detach().cpu()
            found = found[found.mean(1).argmax()]
            worst = found if float(found.mean()) > float(worst.mean()) else worst
            started = float(found.mean()) if turn == 0 else started
            if turn == n_steps:
                break
            (grad,) = torch.autograd.grad(losses.mean(1).sum(), [r])
            r = (r.detach() + step * grad.sign()).clamp(0, 1)
    low, high = bootstrap_statistic(worst, lambda rows: rows.mean(-1), seed, n_boot)
    note = f"{n_starts} starts, {n_steps} steps; started at {started:.3f}"
    return Measurement(value=float(worst.mean()), unit="nats", n=len(pairs), lo=low, hi=high, note=note)
