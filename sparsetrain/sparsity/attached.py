"""What all methods share: which tensors are sparse, their budgets and floors, the density of a step, the hook on the optimizer, the audit.

1. `prepare` lists the model's sparse tensors with their target densities and floors, and refuses what cannot hold.
2. `attach` registers a step-post-hook, which counts the step and calls `after_step`.
3. `audit` counts what is kept beside the budget: round(density * entries) of every tensor, whatever the method.

Floors stand on the rows ([out, in]) of the q, k, v and MLP-in matrices and on the columns of the two output projections:
one line per attention channel or neuron either way.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.kernels import ProjectionSpec, check_budget, count_nonzero, count_short_lines
from sparsetrain.optim import PartialGradient
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.method import STEP_KEY, TensorAudit
from sparsetrain.sparsity.schedule import DENSE, MATRICES, DensitySchedule, InitialDensity

FLOOR_AXIS: dict[str, Literal["rows", "columns"]] = {
    "attn.W_q": "rows", "attn.W_k": "rows", "attn.W_v": "rows", "mlp.W_in": "rows", "attn.W_o": "columns", "mlp.W_out": "columns",
}  # fmt: skip
"""Which lines of a matrix belong to one attention channel or neuron."""


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

    def audit(self, density: float, *, values: Tensor | None = None, mask: Tensor | None = None) -> TensorAudit:
        """Its nonzeros beside its budget at a density, counted; where its rows are spread over ranks, every rank must call.

        Args:
            density: of the budget.
            values: what would be exported in its place; None: what is stored.
            mask: bool, the positions that are kept; None: the nonzeros.
        """
        values = self.param if values is None else values
        nonzeros, budget = count_nonzero(values), self.k(density)
        counted = values if mask is None else mask
        kept = None if mask is None else int(mask.sum())
        short = 0 if self.floor_axis is None else count_short_lines(counted, self.floor_axis, self.floor)
        return TensorAudit(
            name=self.name,
            shape=tuple(self.param.shape),
            density_target=density,
            budget=budget,
            nonzeros=nonzeros,
            entries=self.param.numel(),
            floor=self.floor,
            exact=(nonzeros if kept is None else kept) == budget,
            floor_kept=short == 0,
            kept=kept,
            from_sparse=self.initial < 1,
        )


class AttachedMethod(ABC):
    """Tensors, budgets, schedule, hook and audit of a method; see the module's docstring.

    Args:
        config: densities, floor, and the settings of the method.
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
        self.n_tokens = 0
        """Of a batch, for whoever times products with it."""
        self._optimizer: Optimizer | None = None

    @property
    def own(self) -> nn.Module | None:
        return None

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        assert self._optimizer is not None, "the method is not attached to an optimizer"
        return self._optimizer.param_groups[0][STEP_KEY]

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

    def attach(self, optimizer: Optimizer) -> None:
        """Works after every step of `optimizer`; the counter rides in its first parameter group."""
        assert self._optimizer is None, "a method belongs to one optimizer"
        self._optimizer = optimizer
        optimizer.param_groups[0][STEP_KEY] = 0
        optimizer.register_step_post_hook(self._step_post_hook)

    def _step_post_hook(self, optimizer: Optimizer, args: object, kwargs: object) -> None:
        optimizer.param_groups[0][STEP_KEY] += 1
        self.after_step()

    def applied(self, model: nn.Module, *, training: bool = False) -> AbstractContextManager[None]:
        return nullcontext()  # what is stored is what is used

    def penalty(self) -> Tensor | None:
        return None

    def partial_gradients(self) -> Sequence[PartialGradient]:
        return ()

    def before_step(self) -> None:
        return  # its state has the shape of the parameters

    def drop_gradients(self) -> None:
        return  # they are the parameters' own

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert not state, "all of it is in `own`"

    @abstractmethod
    def after_step(self) -> None: ...

    @abstractmethod
    def finalize(self) -> None: ...

    def density(self, step: int) -> float:
        return self.schedule.density(step)

    def density_of(self, tensor: SparseTensor, step: int) -> float:
        """Density of one tensor after `step` optimizer steps."""
        return replace(self.schedule, target=tensor.target, initial=tensor.initial).density(step)

    def audit(self, step: int | None = None) -> tuple[TensorAudit, ...]:
        return tuple(
            tensor.audit(tensor.target if step is None else self.density_of(tensor, step)) for tensor in self.tensors
        )


def require_attached(optimizer: Optimizer) -> None:
    """A run that asks for sparsity must have it on its optimizer.

    Raises:
        RuntimeError: no sparsity method is attached.
    """
    if STEP_KEY not in optimizer.param_groups[0]:
        raise RuntimeError(
            "sparsity was asked for, but no method is attached to the optimizer; call method.attach(optimizer)"
        )
