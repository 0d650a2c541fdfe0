"""What weights are changed by: unit directions u in weight space, drawn for several models of one architecture at once.

| kind | u |
|---|---|
| weight | one entry |
| direction | one unit (a row of a weight matrix) in a random direction of its inputs |
| singular | a singular direction of a weight matrix: outer product of a left and a right singular vector |

Which entries may change:
- `all`: every entry, zeros too; place and random direction are the same in all models.
- `nonzero`: only what the model has, so that what is cut stays cut; the same units in all models.
- `fewest`: as `nonzero`, and in every model as many entries as the model with the fewest nonzeros there has (in the unit; in the matrix, for
  singular directions, where the largest entries are taken), and no more than `most`: models of unequal density are changed in equally many weights,
  and a dense model in as many whether it is drawn for beside a sparse one or beside another dense one.

Units without a nonzero in one of the models are drawn for none of them, unless zeros may change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain.model import Transformer
from sparsetrain.sparsity.schedule import MATRICES
from sparsetrain.typed import Count, Seed, Share

Kind = Literal["weight", "direction", "singular"]
Entries = Literal["all", "nonzero", "fewest"]
RANK_TOLERANCE = 1e-6
"""Singular values below this share of the largest one have no direction. ours"""


@dataclass(frozen=True, kw_only=True)
class PerturbationsConfig:
    """How many perturbations of which kind. ours"""

    kind: Kind = "direction"
    entries: Entries = "nonzero"
    n: Count = 100
    most: Share = 1.0
    """Of `fewest`: share of the entries of a unit, or of the matrix, that is changed at most; at least one is."""
    seed: Seed = 0

    def capped(self, width: int) -> int:
        """Entries of so many that `fewest` changes at most."""
        return max(1, round(self.most * width))


class TooFew(ValueError):
    """There are fewer places than perturbations were asked for."""

    def __init__(self, message: str, n_places: int) -> None:
        super().__init__(message)
        self.n_places = n_places


@dataclass(frozen=True, kw_only=True, eq=False)
class Perturbation:
    """A direction u with |u|_2 = 1 in one weight matrix."""

    kind: Kind
    name: str
    """Module path of the matrix, as `blocks.0.mlp.W_in`."""
    unit: int | None
    """Row that is changed; None: all of them."""
    values: Tensor
    """u: `[in]` of a unit, `[out, in]` without one."""

    @property
    def n_entries(self) -> int:
        """Weights that it changes."""
        return int((self.values != 0).sum())

    def direction(self, weight: Tensor) -> Tensor:
        """u in the shape of the matrix, `[out, in]`."""
        if self.unit is None:
            return self.values
        direction = torch.zeros_like(weight)
        direction[self.unit] = self.values
        return direction


def matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The weight matrices whose density is that of the model, by module path, in forward order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and MATRICES.fullmatch(f"{name}.weight")
    }


def draw_perturbations(
    models: Mapping[str, Transformer], config: PerturbationsConfig
) -> dict[str, tuple[Perturbation, ...]]:
    """Draws the same places in all models, none twice; a function of the weights and the config.

    Args:
        models: by name, of one architecture.
        config: what is drawn.

    Returns:
        By model, `n` perturbations each; those of one number belong together.

    Raises:
        ValueError: models whose matrices differ in name or shape.
        TooFew: fewer places than perturbations.
    """
    weights = _weights([*models.values()])
    draw = _singular if config.kind == "singular" else _of_units
    drawn = draw(weights, config)
    return dict(zip(models, drawn, strict=True))


Weights = dict[str, Tensor]


def _weights(models: Sequence[Transformer]) -> list[Weights]:
    found = [{name: linear.weight.detach() for name, linear in matrices(model).items()} for model in models]
    shapes = [{name: tuple(weight.shape) for name, weight in of.items()} for of in found]
    for shape in shapes:
        if shape != shapes[0]:
            different = sorted({name for name, _ in shape.items() ^ shapes[0].items()})
            raise ValueError(
                f"perturbations are drawn for models of one architecture; these differ in the shape of {', '.join(different[:3])}"
            )
    return found


def _choose(places: Sequence[tuple[str, int]], config: PerturbationsConfig, rng: np.random.Generator, what: str) -> list[tuple[str, int]]:  # fmt: skip
    if len(places) < config.n:
        raise TooFew(
            f"n={config.n} perturbations of kind {config.kind}, but only {len(places)} {what}; lower n or let zeros change (entries=all)",
            len(places),
        )
    return [places[i] for i in rng.choice(len(places), config.n, replace=False)]


def _of_units(weights: Sequence[Weights], config: PerturbationsConfig) -> list[tuple[Perturbation, ...]]:
    rng = np.random.default_rng([config.seed, 1])
    fewest = {
        name: torch.full((len(weight),), weight.shape[1])
        if config.entries == "all"
        else torch.stack([(of[name] != 0).sum(1) for of in weights]).amin(0).cpu()
        for name, weight in weights[0].items()
    }
    places = [(name, unit) for name, count in fewest.items() for unit in count.nonzero().flatten().tolist()]
    drawn: list[list[Perturbation]] = [[] for _ in weights]
    for name, unit in _choose(places, config, rng, "units have a nonzero in every model"):
        width = weights[0][name].shape[1]
        values, order = torch.from_numpy(rng.standard_normal(width)), torch.from_numpy(rng.permutation(width))
        for of, found in zip(weights, drawn, strict=True):
            row = of[name][unit].cpu()
            candidates = order if config.entries == "all" else order[row[order] != 0]
            if config.kind == "weight":
                u = torch.zeros(width, dtype=torch.float64).index_fill(0, candidates[:1], 1.0)
            else:
                n_taken = min(int(fewest[name][unit]), config.capped(width))
                taken = candidates[:n_taken] if config.entries == "fewest" else candidates
                u = torch.zeros(width, dtype=torch.float64)
                u[taken] = values[taken]
            found.append(Perturbation(kind=config.kind, name=name, unit=unit, values=_unit(u, of[name])))
    return [tuple(found) for found in drawn]


def _singular(weights: Sequence[Weights], config: PerturbationsConfig) -> list[tuple[Perturbation, ...]]:
    rng = np.random.default_rng([config.seed, 2])
    factors = [{name: torch.linalg.svd(w.double().cpu(), full_matrices=False) for name, w in of.items()} for of in weights]  # fmt: skip
    ranks = {
        name: min(int((RANK_TOLERANCE * of[name].S[0] < of[name].S).sum()) for of in factors) for name in weights[0]
    }
    fewest = {name: min(int((of[name] != 0).sum()) for of in weights) for name in weights[0]}
    places = [(name, k) for name, rank in ranks.items() for k in range(rank)]
    drawn: list[list[Perturbation]] = [[] for _ in weights]
    for name, k in _choose(places, config, rng, "singular directions in every model"):
        for of, svd, found in zip(weights, factors, drawn, strict=True):
            u = torch.outer(svd[name].U[:, k], svd[name].Vh[k])
            if config.entries != "all":
                # never all zero: over the nonzeros of W, u weighted by W sums to the singular value
                u = torch.where(of[name].cpu() != 0, u, 0.0)
            if config.entries == "fewest":
                largest = u.abs().flatten().topk(min(fewest[name], config.capped(u.numel()))).indices
                u = torch.zeros_like(u).flatten().index_copy(0, largest, u.flatten()[largest]).view_as(u)
            found.append(Perturbation(kind="singular", name=name, unit=None, values=_unit(u, of[name])))
    return [tuple(found) for found in drawn]


def _unit(u: Tensor, like: Tensor) -> Tensor:
    """Of length 1, in the dtype and on the device of the weights."""
    return (u / u.norm()).to(like)
