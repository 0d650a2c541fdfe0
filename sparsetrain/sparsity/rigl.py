"""RigL (`rigl`): a sparse training whose mask drops the smallest weights and grows where the gradient of the loss is largest.

The gradient is the dense one of the step just taken, of positions that are not kept too: it says what a weight there would have been worth.
The rest is `sparsetrain/sparsity/drop_grow.py`.

Source: Evci et al. 2020, Rigging the lottery: making all tickets winners, section 3 and algorithm 1.
"""

from torch import Tensor

from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.drop_grow import DropGrow
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class RigL(DropGrow):
    """Grows by gradient; see the module's docstring."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        super().__init__(config, n_steps, initial, config.rigl)

    def scores(self, tensor: SparseTensor) -> Tensor | None:
        grad = tensor.param.grad
        return None if grad is None else grad.detach().abs()  # none: the guard took the step without a gradient
