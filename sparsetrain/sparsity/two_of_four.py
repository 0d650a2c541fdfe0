"""2:4 (`two_of_four`): of each four consecutive entries of a row exactly two are kept, the form that tensor cores multiply at twice the speed.

1. The forward pass sees the two largest of each four; the gradient passes to all (straight-through), and what is cut is also pulled towards 0, so that the mask
   does not flicker: SR-STE's gradient g + lambda_w (w where it is cut), here as a term of the loss.
2. The mask is chosen anew after every step, until `two_of_four.end`; then what was cut is dropped.

A density of 1/2 in every tensor, whose rows must divide by four: a bias is one row. It promises nothing about columns, so it takes no floor.

Source: Zhou et al. 2021, Learning N:M fine-grained structured sparse neural networks from scratch, section 3 (SR-STE); Mishra et al. 2021, Accelerating sparse
deep neural networks (the form).
"""

from dataclasses import replace

import torch
from torch import Tensor

from sparsetrain.kernels import largest_mask, magnitude_keys
from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.masked import ConstantDensity
from sparsetrain.sparsity.schedule import DENSE, InitialDensity

KEPT, OF = 2, 4


def two_of_four_mask(w: Tensor) -> Tensor:
    """Bool mask of the two largest magnitudes of each four consecutive entries of the last axis; ties to the lowest index."""
    return largest_mask(magnitude_keys(w).reshape(-1, OF), KEPT).view(w.shape)


class TwoOfFour(ConstantDensity):
    """Two of each four; see the module's docstring.

    Raises:
        ValueError: another density, or a floor.
    """

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        densities = {name: getattr(config, name) for name in ("density", "embed_density", "bias_density")}
        if other := [f"sparsity.{name}={d:g}" for name, d in densities.items() if d not in (None, KEPT / OF, 1)]:
            raise ValueError(
                f"{' and '.join(other)} with sparsity.method=two_of_four; allowed: 0.5, or 1 for what is never cut"
            )
        if config.floor not in (0, "auto"):
            raise ValueError(
                f"sparsity.floor={config.floor}: two_of_four chooses within rows and cannot keep a floor on columns; give sparsity.floor=0"
            )
        super().__init__(replace(config, floor=0), n_steps, initial, end=config.two_of_four.end)

    def check(self, tensor: SparseTensor) -> None:
        super().check(tensor)
        if tensor.param.shape[-1] % OF:
            raise ValueError(
                f"{tensor.name} has rows of {tensor.param.shape[-1]} entries, which four does not divide; choose other widths, or a density of 1 for it"
            )

    def begin(self) -> None:
        for tensor in self.tensors:
            self.own.mask(tensor).copy_(two_of_four_mask(tensor.param))

    def change_(self, step: int) -> None:
        self.begin()

    def final_mask(self, tensor: SparseTensor, values: Tensor) -> Tensor:
        return two_of_four_mask(values)

    def penalty(self) -> Tensor | None:
        pull = self.config.two_of_four.pull
        if self.is_fixed or not pull or not self.tensors:
            return None
        parts = [(~self.own.mask(tensor) * tensor.param).square().sum() for tensor in self.tensors]
        return pull / 2 * torch.stack(parts).sum()
