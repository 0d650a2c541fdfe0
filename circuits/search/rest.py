"""What stays alive of the rest while circuits are held to the target: fixed draws, or what an adversary has found so far.

`PruneConfig.ablation` decides. Learning draws anew at every step (`circuits.search.learn.alive_part`); here, where circuits are
compared with one another, every run keeps its draws, and remembers the worst parts that the adversary has found for it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.partial import ascend, random_shares
from circuits.search.learn import Aim, MaskRun, partial_losses
from circuits.tasks.loss import Calibration, task_loss
from circuits.tasks.pairs import PairSet

N_FOUND = 4  # ours: parts that are remembered per run, the latest
STEPS = 10  # ours: gradients of the adversary, as a multiple of those that it takes in a step of learning


class Rest:
    """The parts of the rest at which each run's circuits must keep the task."""

    def __init__(self, aim: Aim, runs: Sequence[MaskRun]) -> None:
        self.aim = aim
        n_draws = 0 if aim.config.ablation == "complete" else aim.config.n_draws
        self.draws: list[Tensor] = []
        for run in runs:
            generators = [torch.Generator().manual_seed(1 + run.seed + 1000 * draw) for draw in range(n_draws)]
            self.draws.append(random_shares(aim.space.n_nodes, generators) if n_draws else torch.empty(0))
        self.found: list[list[Tensor]] = [[] for _ in runs]

    def losses(self, keep: Tensor, which: Sequence[int], sets: Sequence[PairSet], calibration: Calibration) -> Tensor:
        """The larger of the mean loss over the draws and of the worst remembered in units of `worst`: `[n]`; 0 under complete ablation.

        Args:
            keep: bool `[n, n_nodes]`.
            which: the run of each.
            sets: the pairs of each.
            calibration: of each.
        """
        found = torch.zeros(len(keep))
        for i, run in enumerate(which):
            alive = [*self.draws[run], *self.found[run]]
            if not alive:
                continue
            n, n_draws = len(alive), len(self.draws[run])
            answers = self.aim.answers(keep[i].expand(n, -1), [sets[i]] * n, torch.stack(alive))
            own = Calibration(scale=calibration.scale[i].expand(n), shift=calibration.shift[i].expand(n))
            losses = task_loss(own.apply(answers.double()))
            worst = losses[n_draws:].max() / self.aim.config.worst if n > n_draws else losses.new_zeros(())
            found[i] = torch.maximum(losses[:n_draws].mean(), worst)
        return found

    def attack(self, keep: Tensor, which: Sequence[int], sets: Sequence[PairSet], calibration: Calibration) -> Tensor:
        """The worst loss that the adversary finds for each circuit, in units of `worst`: `[n]`; what it found is remembered."""
        config, device = self.aim.config, self.aim.device
        if config.ablation != "adversarial":
            return torch.zeros(len(keep))
        worst: list[float] = []
        for i, run in enumerate(which):
            own = Calibration(scale=calibration.scale[i : i + 1], shift=calibration.shift[i : i + 1])
            mask = keep[i : i + 1].to(device)
            start = torch.full((1, self.aim.space.n_nodes), 0.5, device=device)
            r, losses, _ = ascend(
                lambda r, own=own, mask=mask, i=i: partial_losses(self.aim, mask, [sets[i]], own, r),
                start,
                STEPS * config.adversary_steps,
                config.adversary_step / 2,
            )
            self.found[run] = [*self.found[run], r[0].cpu()][-N_FOUND:]
            worst.append(float(losses.mean()) / config.worst)
        return torch.tensor(worst)
