"""What perturbations of an image network's weights do to its symmetry, at equal effect on the colours.

1. A `Direction` changes the weights that one unit reads: one of them alone, or all along a random direction of norm 1.
2. `size_of` finds per network by bisection the size rho at which theta + s rho u changes the colours by a given mean square, on average over directions and
   strengths s: networks are compared at equal effect, not at equal size.
3. `kept` is the share of such a change that keeps the picture's symmetry (`measures.symmetry_kept`).

| kind | directions | compares networks |
|---|---|---|
| `weights` | single weights, drawn among those that are not 0 | on equally many nonzeros |
| `largest` | the single weights of largest magnitude | on equally many of the largest, whatever the density |
| `any_weight` | single weights between living units, zeros too | on every connection that there could be |
| `directions` | all that a living unit could read at random, weights that are 0 too | on units |

Source: sweeps of weights and of random directions are Kumar et al. 2025; equal effect and the kinds are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.fracture.images.network import Network
from circuits.fracture.images.units import rgb
from circuits.fracture.measures import Floats, symmetry_kept

KINDS = ("weights", "largest", "any_weight", "directions")
STRENGTHS = (-1.0, -0.5, 0.5, 1.0)
N_STEPS = 24
"""Of a search for a size, at most. ours"""
LARGEST = 1e4
"""Size beyond which none is looked for. ours"""
CLOSE = 0.02
"""Relative error of the mean squared change at which it ends. ours"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Direction:
    """u: a change of what one unit reads."""

    layer: int
    unit: int
    u: Tensor
    """Of norm 1, `[n_in]`."""


def _living(network: Network) -> list[tuple[int, int]]:
    """Layer and number of the units (outputs too) that read something."""
    return [(i, int(j)) for i, layer in enumerate(network.layers) for j in layer.weight.any(-1).nonzero()[:, 0]]


def _places(network: Network) -> tuple[Tensor, Tensor]:
    """Layer, unit and what it reads, `[n_places, 3]`, of every weight between two living units, and its magnitude; inputs are alive."""
    found, sizes = [], []
    alive = torch.ones(network.layers[0].weight.shape[-1], dtype=torch.bool)
    for i, layer in enumerate(network.layers):
        reads = layer.weight.any(-1)
        rows, columns = reads.nonzero()[:, 0], alive.nonzero()[:, 0]
        pairs = torch.cartesian_prod(rows, columns)
        found.append(torch.cat([torch.full((len(pairs), 1), i), pairs], 1))
        sizes.append(layer.weight[pairs[:, 0], pairs[:, 1]].abs())
        alive = reads if layer.basis is None else (layer.basis[:, reads] != 0).any(-1)
    return torch.cat(found), torch.cat(sizes)


def directions(network: Network, kind: str, n: int, generator: torch.Generator) -> list[Direction]:
    """Some directions of a network, fewer than n only where there are no more.

    Args:
        network: one, its weights `[n_out, n_in]`.
        kind: of `KINDS`.
        n: how many.
        generator: of the draw.

    Raises:
        ValueError: a kind that is not in `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    if kind == "directions":
        units = _living(network)
        chosen = [units[int(i)] for i in torch.randint(len(units), (n,), generator=generator)]
        drawn = (torch.randn(network.layers[i].weight.shape[-1], generator=generator) for i, _ in chosen)
        return [
            Direction(layer=i, unit=j, u=(v / v.norm()).to(network.layers[i].weight))
            for (i, j), v in zip(chosen, drawn, strict=True)
        ]
    places, sizes = _places(network)
    if kind != "any_weight":
        places, sizes = places[sizes > 0], sizes[sizes > 0]
    drawn = torch.randperm(len(places), generator=generator)
    order = sizes.argsort(descending=True, stable=True) if kind == "largest" else drawn
    found = []
    for i, j, column in places[order[:n]].tolist():
        u = torch.zeros_like(network.layers[i].weight[j])
        u[column] = 1.0
        found.append(Direction(layer=i, unit=j, u=u))
    return found


class Perturbed:
    """Colours of a network with a direction added to its weights.

    Args:
        network: one, its weights `[n_out, n_in]`.
        inputs: `[n_pixels, 4]`, of the network's dtype.
    """

    def __init__(self, network: Network, inputs: Tensor) -> None:
        self.network = network
        maps = network.maps(inputs)
        self.read = [inputs.mT, *maps[:-1]]  # what each layer reads
        self.colours = rgb(maps[-1].mT)

    def __call__(self, direction: Direction, sizes: Tensor) -> Tensor:
        """Colours at theta + size u for each size, `[n_sizes, n_pixels, 3]`."""
        layer = self.network.layers[direction.layer]
        weight = layer.weight.expand(len(sizes), -1, -1).clone()
        weight[:, direction.unit] += sizes[:, None] * direction.u
        h = self.network.with_layer(direction.layer, weight=weight).layers[direction.layer](self.read[direction.layer])
        for after in self.network.layers[direction.layer + 1 :]:
            h = after(h)
        return rgb(h.mT)

    def changes(self, some: Sequence[Direction], size: float) -> Tensor:
        """Change of the colours by each direction at each strength, `[n_directions, n_strengths, n_pixels, 3]`."""
        sizes = size * torch.tensor(STRENGTHS, dtype=self.colours.dtype)
        return torch.stack([self(direction, sizes) - self.colours for direction in some])


def size_of(perturbed: Perturbed, some: Sequence[Direction], effect: float) -> float:
    """rho at which the mean squared change of the colours, over directions and strengths, is `effect`; NaN where none is found.

    The effect need not rise with the size everywhere: found is a size where it crosses the asked one from below.
    """
    low, high, size = 0.0, LARGEST, 0.1
    for _ in range(N_STEPS):
        found = float(perturbed.changes(some, size).square().mean())
        if abs(found / effect - 1) < CLOSE:
            return size
        low, high = (size, high) if found < effect else (low, size)
        if low >= LARGEST:
            return float("nan")
        size = float(np.sqrt(low * high)) if low > 0 and high < LARGEST else 4 * size if low > 0 else size / 4
        size = min(size, LARGEST)
    return float("nan")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What one kind of perturbation does to a network."""

    kept: Floats
    """Share of each change that keeps the symmetry, `[n, n_strengths]`; NaN where nothing changes, where a network has fewer directions, or no size reaches the effect."""
    share: Floats
    """Each change's part of all effect, same shape; 0 where there is none."""
    size: float
    effect: float
    """Mean squared change that was reached."""


@torch.no_grad()
def kept(
    network: Network,
    inputs: Tensor,
    group: NDArray[np.int64],
    *,
    kind: str,
    n: int,
    effect: float,
    generator: torch.Generator,
) -> Kept:
    """How much of a picture's symmetry stays under perturbations of a kind.

    Args:
        network: one, its weights `[n_out, n_in]`.
        inputs: `[n_pixels, 4]`, of the network's dtype.
        group: the symmetry's elements as permutations of pixels, `[n_elements, n_pixels]`.
        kind: of `KINDS`.
        n: how many directions.
        effect: mean squared change of colours.
        generator: of the draw.
    """
    some = directions(network, kind, n, generator)
    perturbed = Perturbed(network, inputs)
    size = size_of(perturbed, some, effect) if some else float("nan")
    keeps, share = np.full((2, n, len(STRENGTHS)), np.nan)
    if np.isnan(size):  # nothing that this network's weights do changes its colours so much
        return Kept(kept=keeps, share=share, size=size, effect=size)
    changes = perturbed.changes(some, size).double().numpy()
    squares = (changes**2).mean((-1, -2))
    keeps[: len(some)], share[:] = symmetry_kept(changes, group), 0.0
    share[: len(some)] = squares / squares.sum()
    return Kept(kept=keeps, share=share, size=size, effect=float(squares.mean()))
