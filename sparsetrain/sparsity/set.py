"""SET, sparse evolutionary training (`set`): a sparse training whose mask drops the smallest weights and grows at random.

The rest is `sparsetrain/sparsity/drop_grow.py`. In the source a constant share of the smallest positive and largest negative weights is dropped once an epoch, and
what grows starts at a random value; here, as in the comparison of Evci et al. 2020, the share falls along half a cosine, magnitudes decide, and it starts at 0.

Source: Mocanu et al. 2018, Scalable training of artificial neural networks with adaptive sparse connectivity inspired by network science, algorithm 1.
"""

from torch import Tensor

from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.drop_grow import DropGrow
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class SparseEvolution(DropGrow):
    """Grows at random; see the module's docstring."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        super().__init__(config, n_steps, initial, config.set)

    def scores(self, tensor: SparseTensor) -> Tensor:
        return self.seeded.draw(tensor)
