"""Top-k projection (`topk`): after every optimizer step each tensor keeps its largest entries, exactly as many as its budget.

1. After step s every tensor is projected to round(density(s) * entries) nonzeros, each neuron or attention channel keeping at least `floor`
   of its own weights inside that budget.
2. Gradients and Adam's moments stay dense, so a weight that was cut can come back.
3. Given weights that are sparse already stay so: each tensor goes from its own density to its target.

Source: Gao et al. 2025, A.2.
"""

import torch

from sparsetrain.kernels import project_each_topk_, warm_start_state
from sparsetrain.sparsity.attached import AttachedMethod
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class TopKProjection(AttachedMethod):
    """The paper's method; see the module's docstring."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        super().__init__(config, n_steps, initial)
        self._thresholds = torch.empty(0)

    def after_step(self) -> None:
        self._project_(self.step)

    def finalize(self) -> None:
        self._project_(self.schedule.n_steps)

    @torch.no_grad()
    def _project_(self, step: int) -> None:
        begun = self.schedule.progress(step) > 0
        cut = [tensor for tensor in self.tensors if begun or tensor.initial < 1]
        if not cut:
            return
        params = [tensor.param for tensor in cut]
        specs = [tensor.spec(self.density_of(tensor, step)) for tensor in cut]
        if len(self._thresholds) != len(params):
            self._thresholds = warm_start_state(len(params), params[0].device)
        project_each_topk_(params, specs, self._thresholds)
