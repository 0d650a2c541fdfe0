"""Partial ablation: what is left out of a circuit stays alive in part, by chance or as an adversary chooses.

A deleted node emits mean + r (x - mean), one r in [0, 1] per node (`circuits.masks.ablation_hooks`, `alive`): r = 0 is the circuit,
r = 1 the model. Complete ablation alone lets what is left out cancel unseen; a circuit that is the mechanism does not care
which part of the rest is alive.
1. `random_shares`: a share of the nodes, drawn from U(0, 1) per run, is alive, each by a share of its own from U(0, 1).
2. `ascend`: an adversary; r steps along the sign of the loss's gradient and is cut to [0, 1]; the worst r on the way counts.

Source: the demand that what is left out be ablatable in any combination, an adversary's included, comes from parameter
decomposition (VPD, 2026); drawing the share of live nodes is ours.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def random_shares(n_nodes: int, generators: Sequence[torch.Generator]) -> Tensor:
    """One draw of r per generator, float `[n_runs, n_nodes]` in [0, 1]."""
    drawn: list[Tensor] = []
    for generator in generators:
        u = torch.rand(2, n_nodes, generator=generator)
        drawn.append(torch.where(u[0] < torch.rand(1, generator=generator), u[1], 0.0))
    return torch.stack(drawn)


def ascend(
    losses: Callable[[Tensor], Tensor], start: Tensor, n_steps: int, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The worst shares that an adversary finds for each run.

    Args:
        losses: r float `[n_runs, n_nodes]` -> losses `[n_runs, n]`, a run's being a function of its row alone.
        start: r to begin from.
        n_steps: gradients taken.
        step: change of every share per step.

    Returns:
        The worst r seen, `[n_runs, n_nodes]`; its losses `[n_runs, n]`; those at the start.
    """
    r, worst = start, start
    first = found = torch.empty(0)
    with torch.enable_grad():
        for turn in range(n_steps + 1):
            r = r.detach().requires_grad_(turn < n_steps)
            now = losses(r)
            seen = now.detach()
            if turn == 0:
                first = found = seen
            else:
                up = (seen.mean(1) > found.mean(1))[:, None]
                found, worst = torch.where(up, seen, found), torch.where(up, r.detach(), worst)
            if turn < n_steps:
                (grad,) = torch.autograd.grad(now.mean(1).sum(), [r])
                r = (r.detach() + step * grad.sign()).clamp(0, 1)
    return worst, found, first
