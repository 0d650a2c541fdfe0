"""What a weight-sparsity method is: something attached to an optimizer.

The constraint lives on the optimizer and not in the training loop: `attach` registers a step-post-hook, so the weights
are sparse after every real step, whatever accumulates gradients, before the schedulers and checkpoints, and
without Lightning too. The method's step counter rides in `param_groups`, hence in every optimizer state dict.

Where the forward pass uses other weights than the stored ones, `applied` puts them in their place, and nothing else knows of it: there is
no second forward pass. What a method has to remember (masks, gates, a generator) is the module `own`, which rides in the checkpoint.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.optim import PartialGradient

STEP_KEY = "sparsity_step"
"""Key in `optimizer.param_groups[0]` that counts the steps the method has seen."""


@dataclass(frozen=True, kw_only=True)
class TensorAudit:
    """Whether a sparse tensor has exactly the nonzeros it may have."""

    name: str
    shape: tuple[int, ...]
    density_target: float
    """Nonzeros / entries asked for."""
    budget: int
    """Nonzeros allowed: the nearest integer to target x entries."""
    nonzeros: int
    entries: int
    floor: int
    """Nonzeros that each line keeps at least."""
    exact: bool
    """What is kept equals the budget: the positions of the mask where there is one, the nonzeros elsewhere."""
    floor_kept: bool
    """Every line has its floor."""
    kept: int | None = None
    """Positions of the method's mask; one that has just grown holds 0, as does one whose gradient always was. None: the method has no mask."""
    from_sparse: bool = False
    """The training began with weights that were sparse already: of them a line that no gradient reaches may be shorter than the floor."""


@dataclass(frozen=True, kw_only=True)
class SparsitySection:
    """Whether every sparse tensor has exactly its nonzeros; density is nonzeros / entries."""

    method: str
    """`none`: a dense model."""
    tensors: tuple[TensorAudit, ...]


class SparsityMethod(Protocol):
    """The interface every method has."""

    @property
    def own(self) -> nn.Module | None:
        """Buffers and parameters of the method's own, None where it has none; the parameters are trained beside the model's."""
        ...

    def prepare(self, model: nn.Module) -> None:
        """Checks the budget against the model's tensors; raises ValueError before anything is trained."""
        ...

    def attach(self, optimizer: Optimizer) -> None:
        """Registers the step-post-hook and the counter; groups of `own` are added here."""
        ...

    def applied(self, model: nn.Module, *, training: bool = False) -> AbstractContextManager[None]:
        """Within it the sparse tensors of `model` are what the method makes of the stored ones.

        Args:
            training: with gradients to what is stored, and with the method's noise; else as they would be exported.
        """
        ...

    def penalty(self) -> Tensor | None:
        """A term of the loss (nats/token), or None where the method has none."""
        ...

    def partial_gradients(self) -> Sequence[PartialGradient]:
        """Gradients of this step that some entries alone have, beside the parameters' own."""
        ...

    def before_step(self) -> None:
        """All gradients of a step are there: makes the optimizer's state ready for them."""
        ...

    def drop_gradients(self) -> None:
        """This step is not taken: its gradients beside the parameters' own are forgotten."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside weights, optimizer and `own`: what has no fixed size."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, on a prepared model."""
        ...

    def after_step(self) -> None:
        """Makes the weights satisfy the constraint of the step just taken, in place."""
        ...

    def finalize(self) -> None:
        """Makes the weights exactly as sparse as the target says; called once before the last export."""
        ...

    def density(self, step: int) -> float:
        """Density of the weight matrices after `step` optimizer steps."""
        ...

    def audit(self, step: int | None = None) -> tuple[TensorAudit, ...]:
        """Every sparse tensor, counted now, beside its budget after so many steps (None: the target's)."""
        ...
