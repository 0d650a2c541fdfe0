"""L0 by hard-concrete gates (`l0`): every weight times a gate in [0, 1] that is exactly 0 with a learned probability.

    s = sigmoid((log u - log(1 - u) + log alpha) / beta),  u uniform in (0, 1)
    z = min(1, max(0, s (zeta - gamma) + gamma)),          P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta))

1. Gates are drawn anew for every batch; the gradient reaches weights and log alphas. Whatever looks at the model sees the gates without noise:
   min(1, max(0, sigmoid(log alpha) (zeta - gamma) + gamma)).
2. The loss has a term price x E[positions] / budget for every tensor. So that it ends at a budget that others have too, the price is not fixed: it rises by
   `price_rate` x (E[positions] / budget - 1) a step while more are expected than the schedule of the density allows, and is 0 where they are not.
3. At `l0.end` weights times gates are projected to exactly their budgets, inside the floors; the rest of the training is at that mask, without gates.

Source: Louizos et al. 2018, Learning sparse neural networks through L0 regularization, sections 2 and 4. The price as a dual variable with restarts:
Gallego-Posada et al. 2022, Controlled sparsity via constrained optimization. Schedule and projection: ours.
"""

from math import log

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.kernels import kept_mask
from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import L0Config, SparsityConfig
from sparsetrain.sparsity.masked import MaskedMethod, MethodState, place
from sparsetrain.sparsity.schedule import DENSE, InitialDensity

LOG_ALPHA = "log_alpha"
NOISE = 0.01
"""Standard deviation of log alpha at the start (the authors' code)."""
EDGE = 1e-6
"""Uniform numbers keep so far from 0 and 1."""


def gates(log_alpha: Tensor, u: Tensor, config: L0Config) -> Tensor:
    """Gates z in [0, 1] for uniform numbers u in (0, 1)."""
    s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / config.beta)
    return (s * (config.zeta - config.gamma) + config.gamma).clamp(0, 1)


def quiet_gates(log_alpha: Tensor, config: L0Config) -> Tensor:
    """Gates without noise, the source's estimate for after the training."""
    return (torch.sigmoid(log_alpha) * (config.zeta - config.gamma) + config.gamma).clamp(0, 1)


def open_probability(log_alpha: Tensor, config: L0Config) -> Tensor:
    """P(z > 0) of each gate: their sum is the expected L0."""
    return torch.sigmoid(log_alpha - config.beta * log(-config.gamma / config.zeta))


class GatedState(MethodState):
    """Masks, log alphas (trained), and the price of every tensor."""

    prices: Tensor

    def __init__(self, tensors: list[SparseTensor], config: L0Config) -> None:
        super().__init__(tensors)
        self.register_buffer("prices", torch.zeros(len(tensors)))
        for tensor in tensors:
            start = torch.full_like(tensor.param, log(1 - config.drop_init) - log(config.drop_init))
            self.register_parameter(place(LOG_ALPHA, tensor), nn.Parameter(start))

    def log_alpha(self, tensor: SparseTensor) -> nn.Parameter:
        """In the tensor's shape."""
        return self.get_parameter(place(LOG_ALPHA, tensor))


class HardConcrete(MaskedMethod):
    """Gates; see the module's docstring.

    Raises:
        ValueError: the gates would be projected before the density has reached its target.
    """

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        self.settings = config.l0
        if config.schedule.end > self.settings.end:
            raise ValueError(
                f"sparsity.l0.end={self.settings.end} comes before sparsity.schedule.end={config.schedule.end}; the density must have reached its target"
            )
        super().__init__(config, n_steps, initial, end=self.settings.end)

    @property
    def gated(self) -> GatedState:
        """The state with its gates."""
        assert isinstance(self.own, GatedState)
        return self.own

    def new_state(self) -> GatedState:
        return GatedState(self.tensors, self.settings)

    def begin(self) -> None:
        generator = torch.Generator().manual_seed(torch.initial_seed())
        for tensor in self.tensors:
            noise = torch.randn(tensor.param.shape, generator=generator)
            self.gated.log_alpha(tensor).add_(NOISE * noise.to(tensor.param.device))

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        own = {"lr": self.settings.lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
        optimizer.add_param_group({"params": [*self.gated.parameters()], **own})

    def effective(self, tensor: SparseTensor, *, training: bool) -> Tensor:
        log_alpha = self.gated.log_alpha(tensor)
        if not training:
            return tensor.param.detach() * quiet_gates(log_alpha.detach(), self.settings)
        u = torch.rand_like(tensor.param).clamp(EDGE, 1 - EDGE)
        return tensor.param * gates(log_alpha, u, self.settings)

    def final_mask(self, tensor: SparseTensor, values: Tensor) -> Tensor:
        # Where fewer gates are open than the budget has places, those nearest to opening fill it up, and start at 0.
        likely = tensor.param * open_probability(self.gated.log_alpha(tensor), self.settings)
        return kept_mask(values.abs() + 1e-6 * likely.abs(), tensor.spec(tensor.target))

    def expected(self, tensor: SparseTensor) -> Tensor:
        """Expected number of open gates over the budget of the step: a scalar, with gradient."""
        budget = tensor.k(self.density_of(tensor, self.step))
        return open_probability(self.gated.log_alpha(tensor), self.settings).sum() / budget

    def penalty(self) -> Tensor | None:
        if self.is_fixed or not self.tensors:
            return None
        return torch.stack([self.expected(tensor) for tensor in self.tensors]) @ self.gated.prices

    def change_(self, step: int) -> None:
        excess = torch.stack([self.expected(tensor) for tensor in self.tensors]) - 1
        prices = self.gated.prices
        prices.copy_(torch.where(excess > 0, prices + self.settings.price_rate * excess, 0.0))

    def mask_density(self, tensor: SparseTensor, step: int) -> float:
        # Until the projection no position is closed for good: the budget is the schedule's wish.
        return self.density_of(tensor, step) if step >= self.last_change else 1.0
