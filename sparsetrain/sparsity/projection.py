"""Top-k projection: after every optimizer step each tensor keeps its largest entries, exactly as many as its budget.

1. `prepare` lists the model's sparse tensors with their target densities and floors, and refuses what cannot hold.
2. `attach` registers a step-post-hook: after step s every tensor is projected to round(density(s) * entries) nonzeros,
   each neuron or attention channel keeping at least `floor` of its own weights inside that budget.
3. Gradients and Adam's moments stay dense, so a weight that was cut can come back.
4. Given weights that are sparse already stay so: each tensor goes from its own density to its target.

Floors stand on the rows ([out, in]) of the q, k, v and MLP-in matrices and on the columns of the two output projections:
one line per attention channel or neuron either way.
Source: Gao et al. 2025, A.2.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sparsetrain.kernels import (
    ProjectionSpec,
    check_budget,
    count_nonzero,
    count_short_lines,
    project_each_topk_,
    warm_start_state,
)
from sparsetrain.optim import PartialGradient
from sparsetrain.sparsity.compute import ComputeConfig, SparseCompute
from sparsetrain.sparsity.method import STEP_KEY, SparsityMethod, TensorAudit
from sparsetrain.sparsity.reinit import ReinitConfig
from sparsetrain.sparsity.schedule import DENSE, MATRICES, DensitySchedule, InitialDensity, ScheduleConfig
from sparsetrain.typed import Index, Share

FLOOR_AXIS: dict[str, Literal["rows", "columns"]] = {
    "attn.W_q": "rows", "attn.W_k": "rows", "attn.W_v": "rows", "mlp.W_in": "rows", "attn.W_o": "columns", "mlp.W_out": "columns",
}  # fmt: skip
"""Which lines of a matrix belong to one attention channel or neuron."""

AUTO_FLOOR = 4
"""The paper's floor."""


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    """Which weights are cut, how far, and how fast. Source: Gao et al. 2025, A.2, where not marked `ours`."""

    method: Literal["topk"] = "topk"
    density: Share = 1 / 64
    """Nonzeros / entries of every weight matrix at the end. 1: a dense model, whatever the method."""
    embed_density: Share | None = None
    """Embedding and unembedding. None: as `density` (paper; the authors' script: 1/16)."""
    bias_density: Share | None = None
    """Biases. None: as `density` (paper); 1: never cut (the authors' script)."""
    floor: Index | Literal["auto"] = 4
    """Nonzeros that every neuron and attention channel keeps at least. auto: 4 on tensors whose density is at least 8 /
    (length of a line), so that the floor leaves a choice, none on the others (ours)."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    compute: Literal["dense", "sparse", "auto"] = "dense"
    """Products with sparse weights: with their zeros; by their nonzeros from a density on; from the density on at which that is faster on
    this machine, which is measured at the start. ours"""
    computing: ComputeConfig = field(default_factory=ComputeConfig)
    """Of sparse and auto."""
    reinit_dead: ReinitConfig = field(default_factory=ReinitConfig)
    """Dead units start anew while the density falls, with weights that others lose: see `sparsetrain/sparsity/reinit.py` (ours)."""

    def __post_init__(self) -> None:
        if self.compute != "dense" and self.reinit_dead.every is not None:
            raise ValueError(
                f"sparsity.reinit_dead.every={self.reinit_dead.every} moves nonzeros between dense gradients, which sparsity.compute={self.compute} "
                f"does not expect; use sparsity.compute=dense, or sparsity.reinit_dead.every=null"
            )

    @property
    def is_dense(self) -> bool:
        """Whether no tensor is cut."""
        return all(density in (None, 1) for density in (self.density, self.embed_density, self.bias_density))

    def floor_for(self, density: float, line_length: int) -> int:
        """The floor of lines of `line_length` entries in a tensor of this density."""
        if self.floor != "auto":
            return self.floor
        return AUTO_FLOOR if density * line_length >= 2 * AUTO_FLOOR else 0


@dataclass(frozen=True, kw_only=True)
class SparseTensor:
    """One tensor under the constraint."""

    name: str
    param: nn.Parameter
    target: float
    initial: float
    """Density of the weights that the training starts from."""
    floor: int
    floor_axis: Literal["rows", "columns"] | None

    def k(self, density: float) -> int:
        """Entries kept at a density: the nearest integer, at least one."""
        return max(1, round(density * self.param.numel()))

    def spec(self, density: float) -> ProjectionSpec:
        """What the projection keeps at a density."""
        return ProjectionSpec(k=self.k(density), floor=self.floor, floor_axis=self.floor_axis)

    def audit(self, density: float) -> TensorAudit:
        """Its nonzeros beside its budget at a density, counted; where its rows are spread over ranks, every rank must call."""
        nonzeros, budget = count_nonzero(self.param), self.k(density)
        short = 0 if self.floor_axis is None else count_short_lines(self.param, self.floor_axis, self.floor)
        return TensorAudit(
            name=self.name,
            shape=tuple(self.param.shape),
            density_target=density,
            budget=budget,
            nonzeros=nonzeros,
            entries=self.param.numel(),
            floor=self.floor,
            exact=nonzeros == budget,
            floor_kept=short == 0,
        )


class TopKProjection:
    """The paper's method; see the module's docstring.

    Args:
        config: densities and floor.
        n_steps: optimizer steps of the whole run.
        initial: densities of the weights that the training starts from.
    """

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> None:
        self.config = config
        self.initial = initial
        self.schedule = DensitySchedule(
            target=config.density, n_steps=n_steps, config=config.schedule, initial=initial.matrices
        )
        self.tensors: list[SparseTensor] = []
        self.compute = (
            None
            if config.compute == "dense"
            else SparseCompute(config.computing, n_steps, measured=config.compute == "auto")
        )
        self._optimizer: Optimizer | None = None
        self._thresholds = torch.empty(0)

    def prepare(self, model: nn.Module) -> None:
        """Lists the sparse tensors of `model`.

        Raises:
            ValueError: a budget smaller than its floor; names the tensor and the smallest feasible density.
        """
        config = self.config
        self.tensors = []
        for name, param in model.named_parameters():
            path, _, part = name.rpartition(".")
            if part == "bias":
                target = config.bias_density
            elif path in ("embed", "unembed"):
                target = config.embed_density
            elif MATRICES.fullmatch(name):
                target = config.density
            else:  # gains, sinks, positions, bigram table: never cut
                continue
            target = config.density if target is None else target
            axis = None if part == "bias" else FLOOR_AXIS.get(path.split(".", 2)[-1])
            initial = self.initial.of(name)
            least = min(target, initial)
            floor = config.floor_for(least, param.shape[1 if axis == "rows" else 0]) if axis else 0
            tensor = SparseTensor(
                name=name, param=param, target=target, initial=initial, floor=floor, floor_axis=axis if floor else None
            )
            if target < 1:
                check_budget(name, param.shape, tensor.spec(least))
                self.tensors.append(tensor)
        if self.compute is not None:
            self.compute.prepare(model, [tensor.name for tensor in self.tensors])

    def attach(self, optimizer: Optimizer) -> None:
        """Projects after every step of `optimizer`; its counter rides in the first parameter group."""
        assert self._optimizer is None, "a method belongs to one optimizer"
        self._optimizer = optimizer
        optimizer.param_groups[0][STEP_KEY] = 0
        optimizer.register_step_pre_hook(self._step_pre_hook)
        optimizer.register_step_post_hook(self._step_post_hook)

    def _step_pre_hook(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        if self.compute is not None:
            assert isinstance(optimizer, AdamW)
            self.compute.before_step(optimizer)

    def _step_post_hook(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        optimizer.param_groups[0][STEP_KEY] += 1
        self.after_step()

    def penalty(self) -> Tensor | None:
        return None

    @property
    def step(self) -> int:
        """Optimizer steps that were taken."""
        assert self._optimizer is not None
        return self._optimizer.param_groups[0][STEP_KEY]

    def after_step(self) -> None:
        step, compute = self.step, self.compute
        if compute is None:
            self._project_(step)
            return
        assert isinstance(self._optimizer, AdamW)
        compute.take_step(self._optimizer)
        self._project_(step, compute)
        compute.end(step - 1, self._optimizer)

    def finalize(self) -> None:
        self._project_(self.schedule.n_steps)

    @contextmanager
    def computing(self, n_tokens: int) -> Iterator[None]:
        """Inside, the model computes the next step as `config.compute` says.

        Args:
            n_tokens: of a batch.
        """
        if self.compute is None:
            yield
            return
        self.compute.measure(n_tokens)
        step, tensors = self.step, {tensor.name: tensor for tensor in self.tensors}
        with self.compute.active(step, lambda name: self.density_of(tensors[name], step)):
            yield

    def partial_gradients(self) -> Sequence[PartialGradient]:
        """Gradients of this step that some entries alone have."""
        return () if self.compute is None else self.compute.gradients()

    def drop_gradients(self) -> None:
        """This step is not taken."""
        if self.compute is not None:
            self.compute.drop_gradients()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside weights and optimizer."""
        return {} if self.compute is None else self.compute.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, on a prepared model."""
        if self.compute is not None:
            self.compute.load_state_dict(state)

    @torch.no_grad()
    def _project_(self, step: int, compute: SparseCompute | None = None) -> None:
        begun = self.schedule.progress(step) > 0
        if len(self._thresholds) != len(self.tensors):
            self._thresholds = warm_start_state(len(self.tensors), self.tensors[0].param.device)
        specs = [tensor.spec(self.density_of(tensor, step)) for tensor in self.tensors]
        cut = [
            i
            for i, (tensor, spec) in enumerate(zip(self.tensors, specs, strict=True))
            if (begun or tensor.initial < 1) and not (compute is not None and compute.holds(tensor.name, spec.k))
        ]
        if not cut:
            return
        thresholds = self._thresholds if len(cut) == len(self.tensors) else self._thresholds[cut]
        project_each_topk_([self.tensors[i].param for i in cut], [specs[i] for i in cut], thresholds)
        if thresholds is not self._thresholds:
            self._thresholds[cut] = thresholds

    def density(self, step: int) -> float:
        return self.schedule.density(step)

    def density_of(self, tensor: SparseTensor, step: int) -> float:
        """Density of one tensor after `step` optimizer steps."""
        return replace(self.schedule, target=tensor.target, initial=tensor.initial).density(step)

    def audit(self, step: int | None = None) -> tuple[TensorAudit, ...]:
        return tuple(
            tensor.audit(tensor.target if step is None else self.density_of(tensor, step)) for tensor in self.tensors
        )


def build_sparsity(config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> SparsityMethod | None:
    """The configured method, for weights that start with these densities; None for a dense run."""
    return None if config.is_dense else TopKProjection(config, n_steps, initial)


def require_attached(optimizer: Optimizer) -> None:
    """A run that asks for sparsity must have it on its optimizer.

    Raises:
        RuntimeError: no sparsity method is attached.
    """
    if STEP_KEY not in optimizer.param_groups[0]:
        raise RuntimeError(
            "sparsity was asked for, but no method is attached to the optimizer; call method.attach(optimizer)"
        )
