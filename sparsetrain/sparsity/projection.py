"""Top-k projection (`topk`): after every optimizer step each tensor keeps its largest entries, exactly as many as its budget.

1. After step s every tensor is projected to round(density(s) * entries) nonzeros, each neuron or attention channel keeping at least `floor`
   of its own weights inside that budget.
2. Gradients and Adam's moments stay dense, so a weight that was cut can come back; with `compute`, seldom (`compute.py`).
3. Given weights that are sparse already stay so: each tensor goes from its own density to its target.

Source: Gao et al. 2025, A.2.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from sparsetrain.kernels import count_short_lines, project_each_topk_, warm_start_state
from sparsetrain.optim import PartialGradient
from sparsetrain.sparsity.attached import AttachedMethod, SparseTensor
from sparsetrain.sparsity.compute import SparseCompute
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class TopKProjection(AttachedMethod):
    """The paper's method; see the module's docstring."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        super().__init__(config, n_steps, initial)
        measured = config.compute == "auto"
        self.compute = None if config.compute == "dense" else SparseCompute(config.computing, self.schedule, measured=measured)  # fmt: skip
        self._thresholds = torch.empty(0)

    def prepare(self, model: nn.Module) -> None:
        super().prepare(model)
        for tensor in self.tensors:
            self._refuse_empty_lines(tensor)
        if self.compute is not None:
            self.compute.prepare(model, [tensor.name for tensor in self.tensors])
            self.compute.falls = any(tensor.initial > tensor.target for tensor in self.tensors)

    def _refuse_empty_lines(self, tensor: SparseTensor) -> None:
        """A floor needs nonzeros where given weights may have units that no gradient reaches."""
        if tensor.initial == 1 or tensor.floor_axis is None or tensor.param.is_meta:
            return
        if n := count_short_lines(tensor.param, tensor.floor_axis, 1):
            raise ValueError(
                f"sparsity.floor={self.config.floor}: {n} {tensor.floor_axis} of {tensor.name} have no nonzero in the weights of init_from, and "
                f"where a unit is dead none may ever come; give sparsity.floor=0"
            )

    def before_step(self) -> None:
        if self.compute is not None:
            assert isinstance(self._optimizer, AdamW)
            self.compute.before_step(self._optimizer)

    def applied(self, model: nn.Module, *, training: bool = False) -> AbstractContextManager[None]:
        if self.compute is None or not training:
            return nullcontext()
        self.compute.measure(self.n_tokens)
        step, tensors = self.step, {tensor.name: tensor for tensor in self.tensors}
        return self.compute.active(step, lambda name: self.density_of(tensors[name], step))

    def partial_gradients(self) -> Sequence[PartialGradient]:
        return () if self.compute is None else self.compute.gradients()

    def drop_gradients(self) -> None:
        if self.compute is not None:
            self.compute.drop_gradients()

    def state_dict(self) -> dict[str, Any]:
        return {} if self.compute is None else self.compute.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.compute is not None:
            self.compute.load_state_dict(state)
        elif any(kept["moments"] == "compressed" and kept["places"] is not None for kept in state.values()):
            raise ValueError(
                "sparsity.compute=dense: the checkpoint has moments at nonzeros alone (sparsity.computing.moments=compressed); go on with "
                "sparsity.compute=sparse or auto, on one device, with trainer.precision=32 and trainer.compile=false"
            )

    def after_step(self) -> None:
        step, compute = self.step, self.compute
        if compute is None:
            self._project_(step)
            return
        assert isinstance(self._optimizer, AdamW)
        compute.take_step(self._optimizer)
        self._project_(step, compute)
        compute.end()

    def finalize(self) -> None:
        self._project_(self.schedule.n_steps)

    @torch.no_grad()
    def _project_(self, step: int, compute: SparseCompute | None = None) -> None:
        begun = self.schedule.progress(step) > 0
        specs = [tensor.spec(self.density_of(tensor, step)) for tensor in self.tensors]
        cut = [
            i
            for i, (tensor, spec) in enumerate(zip(self.tensors, specs, strict=True))
            if (begun or tensor.initial < 1) and not (compute is not None and compute.holds(tensor.name, spec.k))
        ]
        if not cut:
            return
        if len(self._thresholds) != len(self.tensors):
            self._thresholds = warm_start_state(len(self.tensors), self.tensors[0].param.device)
        thresholds = self._thresholds if len(cut) == len(self.tensors) else self._thresholds[cut]
        project_each_topk_([self.tensors[i].param for i in cut], [specs[i] for i in cut], thresholds)
        if thresholds is not self._thresholds:
            self._thresholds[cut] = thresholds
