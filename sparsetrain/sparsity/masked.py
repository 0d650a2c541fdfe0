"""What methods with a mask share: the mask of every tensor, which rides in the checkpoint, and the step from which it is fixed.

1. `begin` chooses the first masks, once, when the method is first prepared on real tensors.
2. Until `last_change` steps the method moves its masks (`change_`). Where the stored weights are others than those of the forward pass,
   `effective` says what the forward pass uses, and `applied` puts it in the place of what is stored.
3. At `last_change` the weights are projected to exactly their budgets (`settle_`): what is stored is now what is used, and the rest of the
   training happens at that mask. `finalize` does it where it has not happened.

A position of the mask is kept whatever its value: one that has just grown holds 0. Budgets count positions.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from sparsetrain.kernels import is_sharded, kept_mask
from sparsetrain.sparsity.attached import AttachedMethod, SparseTensor
from sparsetrain.sparsity.config import SparsityConfig
from sparsetrain.sparsity.method import TensorAudit
from sparsetrain.sparsity.schedule import DENSE, InitialDensity


class MethodState(nn.Module):
    """Masks (bool) by the names of their tensors, and whether they are fixed; methods add to it.

    Args:
        tensors: the sparse ones.
    """

    fixed: Tensor

    def __init__(self, tensors: Iterable[SparseTensor]) -> None:
        super().__init__()
        self.register_buffer("fixed", torch.zeros((), dtype=torch.bool))
        for tensor in tensors:
            self.add_mask("mask", tensor)

    def add_mask(self, kind: str, tensor: SparseTensor) -> None:
        """Everything is kept."""
        self.register_buffer(place(kind, tensor), torch.ones_like(tensor.param, dtype=torch.bool))

    def mask(self, tensor: SparseTensor, kind: str = "mask") -> Tensor:
        """Bool, in the tensor's shape."""
        return self.get_buffer(place(kind, tensor))


def place(kind: str, tensor: SparseTensor) -> str:
    """Where something of a tensor lies in the state; a name there has no dots."""
    return f"{kind}/{tensor.name.replace('.', '/')}"


class _Masked(torch.autograd.Function):
    """w * forward; the gradient is that of w * forward, at the entries of `backward` alone."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, forward: Tensor, backward: Tensor | None) -> Tensor:
        ctx.passed = backward
        return w * forward

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] if ctx.passed is None else grads[0] * ctx.passed, None, None


def masked(w: Tensor, forward: Tensor, backward: Tensor | None = None) -> Tensor:
    """`w` at the entries of a bool mask, 0 elsewhere, whose gradient passes to all entries, or to those of another mask.

    Source: the straight-through estimator, Bengio et al. 2013, section 4; with a mask of its own: Jayakumar et al. 2021, section 2.
    """
    return _Masked.apply(w, forward, backward)  # pyright: ignore[reportReturnType]


@contextmanager
def swapped(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it these tensors stand in the place of the parameters of those names; hooks, buffers and other parameters are the model's."""
    places: list[tuple[dict[str, Any], str, Any]] = []
    for name in tensors:
        path, _, part = name.rpartition(".")
        held: dict[str, Any] = model.get_submodule(path)._parameters  # pyright: ignore[reportPrivateUsage]
        places.append((held, part, held[part]))
    try:
        for (held, part, _), tensor in zip(places, tensors.values(), strict=True):
            held[part] = tensor
        yield
    finally:
        for held, part, stored in places:
            held[part] = stored


class MaskedMethod(AttachedMethod):
    """A method with masks; see the module's docstring.

    Args:
        end: fraction of the steps from which the mask is fixed.
    """

    stored_dense = True
    """Whether weights outside of the mask live on in what is stored, until the mask is fixed."""

    def __init__(self, config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE, *, end: float) -> None:
        if initial.matrices < 1:
            raise ValueError(
                f"sparsity.method={config.method} starts from dense weights, those of init_from have density {initial.matrices:.3g}; use topk"
            )
        super().__init__(config, n_steps, initial)
        self.last_change = ceil(end * n_steps)
        self._state: MethodState | None = None
        self._fixed: bool | None = None

    @property
    def own(self) -> MethodState:
        assert self._state is not None, "the method is not prepared"
        return self._state

    @property
    def is_fixed(self) -> bool:
        """Whether the masks stay as they are from now on."""
        if self._fixed is None:
            self._fixed = bool(
                self.own.fixed
            )  # one look after a checkpoint was loaded; a GPU is not asked at every step
        return self._fixed

    def prepare(self, model: nn.Module) -> None:
        """Lists the sparse tensors of `model`; the first time, on real tensors, it also chooses the first masks.

        Raises:
            ValueError: a budget smaller than its floor, or tensors that are spread over ranks.
        """
        super().prepare(model)
        for tensor in self.tensors:
            self.check(tensor)
        self._fixed = None
        if self._state is None:
            self._state = self.new_state()
            if not any(tensor.param.is_meta for tensor in self.tensors):
                with torch.no_grad():
                    self.begin()

    def check(self, tensor: SparseTensor) -> None:
        """Refuses a tensor that the method cannot keep to its budget.

        Raises:
            ValueError: names the tensor.
        """
        if is_sharded(tensor.param):
            raise ValueError(
                f"{tensor.name} is spread over ranks; sparsity.method={self.config.method} is for whole tensors, use topk"
            )

    def new_state(self) -> MethodState:
        """What the method remembers, before its first step."""
        return MethodState(self.tensors)

    def begin(self) -> None:
        """Chooses the first masks and makes what is stored fit them."""

    def change_(self, step: int) -> None:
        """Moves the masks after a step, before `last_change`."""

    def effective(self, tensor: SparseTensor, *, training: bool) -> Tensor:
        """What the forward pass uses in the place of what is stored, while the masks are not fixed."""
        mask = self.own.mask(tensor)
        return masked(tensor.param, mask) if training else tensor.param.detach() * mask

    def final_mask(self, tensor: SparseTensor, values: Tensor) -> Tensor:
        """The positions that are kept, from the weights as the forward pass has them."""
        return kept_mask(values, tensor.spec(tensor.target))

    def applied(self, model: nn.Module, *, training: bool = False) -> AbstractContextManager[None]:
        if not self.stored_dense or self.is_fixed:
            return nullcontext()
        return swapped(model, {tensor.name: self.effective(tensor, training=training) for tensor in self.tensors})

    @torch.no_grad()
    def after_step(self) -> None:
        if not self.is_fixed:
            if self.step >= self.last_change:
                self.settle_()
            else:
                self.change_(self.step)
        if self.is_fixed or not self.stored_dense:
            self.cut_()

    def cut_(self) -> None:
        """Sets stored weights outside of the masks to 0."""
        for tensor in self.tensors:
            tensor.param.mul_(self.own.mask(tensor))

    def settle_(self) -> None:
        """Projects to the budgets, in place, and fixes the masks."""
        for tensor in self.tensors:
            values = self.effective(tensor, training=False)
            self.own.mask(tensor).copy_(self.final_mask(tensor, values))
            tensor.param.copy_(values)
        self.own.fixed.fill_(True)
        self._fixed = True
        self.cut_()

    @torch.no_grad()
    def finalize(self) -> None:
        if not self.is_fixed:
            self.settle_()
        self.cut_()

    def mask_density(self, tensor: SparseTensor, step: int) -> float:
        """Share of a tensor's positions in its mask after `step` steps."""
        return self.density_of(tensor, step)

    @torch.no_grad()
    def audit(self, step: int | None = None) -> tuple[TensorAudit, ...]:
        found: list[TensorAudit] = []
        for tensor in self.tensors:
            density = tensor.target if step is None else self.mask_density(tensor, step)
            values = tensor.param if self.is_fixed or not self.stored_dense else self.effective(tensor, training=False)
            found.append(tensor.audit(density, values=values, mask=self.own.mask(tensor)))
        return tuple(found)


class ConstantDensity(MaskedMethod):
    """A method that has its target density from the first step on."""

    def density(self, step: int) -> float:
        return self.config.density

    def density_of(self, tensor: SparseTensor, step: int) -> float:
        return tensor.target
