"""Linear and embedding layers whose product can be computed another way; without one they are torch's own."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.kernels import Pattern, lookup, multiply

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x, weight, bias) -> x weight^T + bias."""
Lookup = Callable[[Tensor, Tensor], Tensor]
"""(tokens, weight) -> rows of weight."""


class Linear(nn.Linear):
    """y = x W^T + b, by `product` where one is given."""

    product: Product | None = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) if self.product is None else self.product(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """Rows of a table, by `product` where one is given."""

    product: Lookup | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight) if self.product is None else self.product(tokens, self.weight)


class _OfWeight:
    """A product by the nonzeros of one weight, as long as it is that weight and has not been changed since."""

    def __init__(self, weight: Tensor, pattern: Pattern | None = None) -> None:
        self.weight = weight
        self.pattern = Pattern.of(weight) if pattern is None else pattern
        self.values = self.pattern.values_of(weight)
        self.version = weight._version

    def holds(self, weight: Tensor) -> bool:
        """Whether the nonzeros are this weight's. One that somebody has exchanged, changed or moved is multiplied as it is."""
        same = weight is self.weight and weight._version == self.version
        return same and weight.dtype == self.values.dtype and weight.device == self.values.device


class SparseProduct(_OfWeight):
    """A product by the nonzeros of a weight. `values` may be made to require gradients; then they get those of the nonzeros.

    Args:
        weight: `[n_rows, n_cols]`.
        pattern: where its nonzeros stand; None: looked up.
        dense_gradient: the weight gets its gradient as from a dense product, and `values` none.
    """

    def __init__(self, weight: Tensor, pattern: Pattern | None = None, *, dense_gradient: bool = False) -> None:
        super().__init__(weight, pattern)
        self.dense_gradient = dense_gradient

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Nobody has asked for gradients of the nonzeros: one of the weight itself needs the dense product.
        plain = (
            weight.requires_grad and torch.is_grad_enabled() and not (self.dense_gradient or self.values.requires_grad)
        )
        if plain or not self.holds(weight) or x.dtype != weight.dtype:
            return F.linear(x, weight, bias)
        return multiply(x, self.values, self.pattern, bias, weight=weight if self.dense_gradient else None)


class SparseLookup(_OfWeight):
    """A lookup whose gradient goes to the nonzeros alone, see `SparseProduct`."""

    def __call__(self, tokens: Tensor, weight: Tensor) -> Tensor:
        if not self.holds(weight):
            return F.embedding(tokens, weight)
        return lookup(tokens, self.values, self.pattern, weight)


def multiply_by_nonzeros_(model: nn.Module, crossover: float = 0.3) -> list[str]:
    """Lets every linear layer whose weight is sparse enough compute by its nonzeros from now on, for as long as nobody changes the weight or
    asks for its gradient.

    Args:
        model: of float32 weights.
        crossover: density up to which that is done.

    Returns:
        Names of these layers.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, Linear) and int(module.weight.count_nonzero()) <= crossover * module.weight.numel():
            module.product = SparseProduct(module.weight)
            found.append(name)
    return found
