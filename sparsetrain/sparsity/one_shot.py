"""One-shot magnitude pruning (`one_shot`): a dense training, one cut to the budget, and the rest of the steps as fine-tuning.

Until `one_shot.at` nothing is cut; then every tensor keeps its largest entries, and what was cut stays 0.

Source: Han et al. 2015, Learning both weights and connections for efficient neural networks, section 3 (train, prune, retrain; there by a threshold per layer,
over several rounds). Here one round, to exact budgets, inside one schedule of the learning rate.
"""

from torch import Tensor

from sparsetrain.sparsity.attached import SparseTensor
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.masked import MaskedMethod
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class OneShot(MaskedMethod):
    """Dense, then cut once; see the module's docstring."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        super().__init__(config, n_steps, initial, end=config.one_shot.at)

    def effective(self, tensor: SparseTensor, *, training: bool) -> Tensor:
        return tensor.param if training else tensor.param.detach()

    def density(self, step: int) -> float:
        return self.config.density if step >= self.last_change else 1.0

    def density_of(self, tensor: SparseTensor, step: int) -> float:
        return tensor.target if step >= self.last_change else 1.0
