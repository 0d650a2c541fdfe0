"""Straight-through masking (`straight_through`): the forward pass sees the largest weights alone, the gradient passes to all of them.

1. What is stored stays dense. After each step the mask is that of the largest entries, as many as the density of the step allows.
2. The forward pass uses weights times mask; the gradient that this product gets goes to every stored weight as it is, so that a weight that was cut goes on
   moving and can come back. Unlike in `topk`, it comes back with all that it has gathered meanwhile.
3. At `straight_through.end` what was cut is dropped; the rest of the training is at that mask.

Source: Bengio et al. 2013, Estimating or propagating gradients through stochastic neurons, section 4 (the estimator); Lin et al. 2020, Dynamic model pruning
with feedback (dense weights, forward and gradient at pruned ones). There the mask is chosen every 16 steps under a cubic schedule; here after every step, under
the schedule of this project.
"""

from sparsetrain.kernels import kept_mask
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.masked import MaskedMethod
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class StraightThrough(MaskedMethod):
    """Dense weights behind a mask; see the module's docstring.

    Raises:
        ValueError: the mask would be fixed before annealing ends.
    """

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        end = config.straight_through.end
        if config.schedule.end > end:
            raise ValueError(
                f"sparsity.straight_through.end={end} comes before sparsity.schedule.end={config.schedule.end}; the density must have reached its target"
            )
        super().__init__(config, n_steps, initial, end=end)

    def change_(self, step: int) -> None:
        if self.schedule.progress(step) > 0:
            for tensor in self.tensors:
                self.own.mask(tensor).copy_(kept_mask(tensor.param, tensor.spec(self.density_of(tensor, step))))
