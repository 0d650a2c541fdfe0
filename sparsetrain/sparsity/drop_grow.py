"""Sparse from the first step to the last, with a mask that moves: drop the smallest weights, grow as many elsewhere.

1. Every tensor starts with a random mask of exactly its budget (uniform: every tensor has the density asked for; the Erdos-Renyi densities of the papers
   would move budgets between tensors, which this project fixes).
2. Every `update_every` steps, before `end`, a share of the kept positions is dropped, those of smallest magnitude, inside the floors; the share falls from
   `fraction` to 0 along half a cosine. As many positions that are not kept are grown, by the scores of the method. So k is exact after every step.
3. A position that was not kept before starts at 0, and Adam's moments of it at 0. One that is dropped and grown at once stays as it is.

Source: Evci et al. 2020, Rigging the lottery, sections 3 and 4 and the authors' code. There the mask changes instead of a step; here after one, by its gradient.
"""

from abc import abstractmethod
from math import cos, pi

import torch
from torch import Tensor

from sparsetrain.kernels import kept_mask, largest_mask, magnitude_keys
from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import DropGrowConfig, SparsityConfig
from sparsetrain.sparsity.masked import ConstantDensity, MethodState
from sparsetrain.sparsity.schedule import InitialDensity


class SeededState(MethodState):
    """Masks, and the state of a generator of their own: random choices ride in the checkpoint and draw from no other generator."""

    generator: Tensor

    def __init__(self, tensors: list[SparseTensor]) -> None:
        super().__init__(tensors)
        # The run's seed, as torch was given it: reading it draws nothing.
        self.register_buffer("generator", torch.Generator().manual_seed(torch.initial_seed()).get_state())

    def draw(self, tensor: SparseTensor) -> Tensor:
        """Uniform numbers in (0, 1], in the tensor's shape."""
        generator = torch.Generator()
        generator.set_state(self.generator.cpu())
        drawn = 1 - torch.rand(tensor.param.shape, generator=generator)
        self.generator.copy_(generator.get_state())
        return drawn.to(tensor.param.device)


class DropGrow(ConstantDensity):
    """Dropping and growing; see the module's docstring.

    Args:
        settings: those of the method.
    """

    stored_dense = False

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity, settings: DropGrowConfig) -> None:
        super().__init__(config, n_steps, initial, end=settings.end)
        self.settings = settings

    @property
    def seeded(self) -> SeededState:
        """The state with its generator."""
        assert isinstance(self.own, SeededState)
        return self.own

    def new_state(self) -> SeededState:
        with torch.device("cpu"):  # generators have no meta device
            state = SeededState([])
        for tensor in self.tensors:
            state.add_mask("mask", tensor)
        return state

    def begin(self) -> None:
        for tensor in self.tensors:
            self.own.mask(tensor).copy_(kept_mask(self.seeded.draw(tensor), tensor.spec(tensor.target)))
        self.cut_()

    def fraction(self, step: int) -> float:
        """Share of the kept positions that a change after `step` steps drops."""
        return self.settings.fraction / 2 * (1 + cos(pi * min(1.0, step / self.last_change)))

    @abstractmethod
    def scores(self, tensor: SparseTensor) -> Tensor | None:
        """What is grown first, at least 0; None: this step has nothing to go by, and the mask stays."""

    def change_(self, step: int) -> None:
        if step % self.settings.update_every:
            return
        self.cut_()
        for tensor in self.tensors:
            scores = self.scores(tensor)
            if scores is not None:
                self.move_(tensor, scores, self.fraction(step))

    def move_(self, tensor: SparseTensor, scores: Tensor, fraction: float) -> None:
        """Drops a share of the kept positions of a tensor and grows as many."""
        mask, spec = self.own.mask(tensor), tensor.spec(tensor.target)
        n_lines = 0 if spec.floor_axis is None else mask.shape[0 if spec.floor_axis == "rows" else 1]
        n_moved = min(round(fraction * spec.k), spec.k - spec.floor * n_lines)
        if n_moved == 0:
            return
        # A kept position that holds 0 still comes before one that is not kept.
        held = torch.where(mask, tensor.param.abs().clamp_min(torch.finfo(tensor.param.dtype).tiny), 0.0)
        left = kept_mask(held, type(spec)(k=spec.k - n_moved, floor=spec.floor, floor_axis=spec.floor_axis))
        keys = torch.where(left, -1, magnitude_keys(scores)).flatten()
        grown = largest_mask(keys, n_moved).view(mask.shape)
        fresh = grown & ~mask
        mask.copy_(left | grown)
        assert self._optimizer is not None
        for moment in self._optimizer.state[tensor.param].values():
            if moment.shape == mask.shape and moment.ndim:
                moment.masked_fill_(fresh, 0)

    def settle_(self) -> None:
        self.own.fixed.fill_(True)  # the mask has its budget already
        self._fixed = True
