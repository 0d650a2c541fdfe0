"""Top-KAST (`top_kast`): the forward pass uses the largest weights, the gradient reaches those and the next largest ones.

1. Of every tensor the forward set A holds the k largest entries, the backward set B the `backward` * k largest ones. They are chosen anew every `update_every`
   steps.
2. The forward pass uses A. The gradient is that of the forward weights at the entries of B; the others, C, stay exactly as they are (no decay, no momentum).
3. Exploration loss: penalty x (sum over A of w^2 + sum over B without A of w^2 / density). What is in B without A has to earn its place or shrinks, until
   something of C is larger and takes it.
4. At `top_kast.end` what is not in A is dropped.

Source: Jayakumar et al. 2021, Top-KAST: top-k always sparse training, arXiv 2106.03517 (NeurIPS 2020), section 2. Its loss stands there with |w| and is called
an L2 regularisation; squares here. AdamW's own weight decay, which acts on B here, is not in it.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsetrain.kernels import kept_mask
from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.masked import ConstantDensity, MethodState, masked
from sparsetrain.sparsity.schedule import DENSE, InitialDensity

BACKWARD = "backward"
"""Kind of mask."""


class TopKast(ConstantDensity):
    """A forward and a backward set; see the module's docstring."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        super().__init__(config, n_steps, initial, end=config.top_kast.end)
        self.settings = config.top_kast
        self._held: list[Tensor] = []

    def new_state(self) -> MethodState:
        state = super().new_state()
        for tensor in self.tensors:
            state.add_mask(BACKWARD, tensor)
        return state

    def begin(self) -> None:
        for tensor in self.tensors:
            backward = min(1.0, self.settings.backward * tensor.target)
            self.own.mask(tensor).copy_(kept_mask(tensor.param, tensor.spec(tensor.target)))
            self.own.mask(tensor, BACKWARD).copy_(kept_mask(tensor.param, tensor.spec(backward)))

    def attach(self, optimizer: Optimizer) -> None:
        super().attach(optimizer)
        optimizer.register_step_pre_hook(self._step_pre_hook)

    def _step_pre_hook(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        self._held = [] if self.is_fixed else [tensor.param.detach().clone() for tensor in self.tensors]

    def effective(self, tensor: SparseTensor, *, training: bool) -> Tensor:
        mask = self.own.mask(tensor)
        if training:
            return masked(tensor.param, mask, self.own.mask(tensor, BACKWARD))
        return tensor.param.detach() * mask

    def penalty(self) -> Tensor | None:
        if self.is_fixed or not self.settings.penalty or not self.tensors:
            return None
        parts: list[Tensor] = []
        for tensor in self.tensors:
            forward, backward = self.own.mask(tensor), self.own.mask(tensor, BACKWARD)
            weight = forward + (backward & ~forward) / tensor.target
            parts.append((weight * tensor.param.square()).sum())
        return self.settings.penalty * torch.stack(parts).sum()

    @torch.no_grad()
    def after_step(self) -> None:
        if not self.is_fixed:
            for tensor, held in zip(self.tensors, self._held, strict=True):
                tensor.param.copy_(torch.where(self.own.mask(tensor, BACKWARD), tensor.param, held))
            self._held = []
        super().after_step()

    def change_(self, step: int) -> None:
        if step % self.settings.update_every == 0:
            self.begin()
