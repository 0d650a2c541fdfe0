"""Bias-free multilayer perceptrons with an activation per unit; many of one shape are run at once.

1. A layer computes r = B a(W r'), with r' the layer before; AbsTopK, if there is any, acts on r. The basis B is the identity (None) in all networks that are trained; a rotated one has none of its
   units on an axis of its activations.
2. Weights may have leading axes: `[..., n_out, n_in]` are networks of one shape, for instance one per seed, and run in one pass.
3. Units are what stands in r of every layer but the last, which holds the outputs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import torch
from torch import Tensor

from circuits.fracture.images.units import ACTIVATIONS, check_activation
from sparsetrain.kernels.topk import abs_topk


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """r = B a(W r')."""

    weight: Tensor
    """W, `[..., n_out, n_in]`."""
    activations: tuple[str, ...]
    """Of each entry of W r'."""
    basis: Tensor | None = None
    """B, `[..., n_out, n_out]`; None: the identity."""
    names: tuple[str, ...] = ()
    """Of the units, if they have any."""
    k: int | None = None
    """AbsTopK: of each input only the k units of largest magnitude keep their value; None: all."""

    def __post_init__(self) -> None:
        for name in self.activations:
            check_activation(name)
        if self.weight.ndim < 2 or self.weight.shape[-2] != len(self.activations):
            raise ValueError(
                f"weight of shape {tuple(self.weight.shape)}: expected [..., {len(self.activations)}, n_in], a row per activation"
            )
        if self.basis is not None and self.basis.shape[-2:] != (self.width, self.width):
            raise ValueError(f"basis of shape {tuple(self.basis.shape)}: expected [..., {self.width}, {self.width}]")
        if self.names and len(self.names) != self.width:
            raise ValueError(f"names: {len(self.names)} for {self.width} units")
        if self.k is not None and not 1 <= self.k <= self.width:
            raise ValueError(f"k: {self.k}, expected 1 to {self.width}, the number of units")

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.activations)

    def __call__(self, before: Tensor) -> Tensor:
        """`[..., n_in, n_inputs] -> [..., n_out, n_inputs]`."""
        z = self.weight @ before
        runs = [
            (name, len(list(run))) for name, run in groupby(self.activations)
        ]  # equal neighbours are computed at once
        h = torch.cat(
            [ACTIVATIONS[name](part) for (name, _), part in zip(runs, z.split([n for _, n in runs], -2), strict=True)],
            -2,
        )
        h = h if self.basis is None else self.basis @ h
        return h if self.k is None else abs_topk(h.mT.contiguous(), self.k).mT


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Layers, each reading the one before; the last one's units are the outputs."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a network needs at least one layer")
        for i, (before, after) in enumerate(pairwise(self.layers)):
            if after.weight.shape[-1] != before.width:
                raise ValueError(f"layer {i + 1} reads {after.weight.shape[-1]} units; layer {i} has {before.width}")

    @property
    def n_units(self) -> int:
        """Of all layers but the last."""
        return sum(layer.width for layer in self.layers[:-1])

    def density(self) -> float:
        """Nonzeros / entries over all weights; bases do not count."""
        weights = [layer.weight for layer in self.layers]
        return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)

    def maps(self, inputs: Tensor) -> list[Tensor]:
        """Values of every layer, `[..., width, n_inputs]` each, the outputs last.

        Args:
            inputs: `[n_inputs, n_in]`.
        """
        found, h = [], inputs.mT
        for layer in self.layers:
            h = layer(h)
            found.append(h)
        return found

    def outputs(self, inputs: Tensor) -> Tensor:
        """`[..., n_inputs, n_outputs]`."""
        return self.maps(inputs)[-1].mT

    def features(self, inputs: Tensor) -> Tensor:
        """Values of every unit, layer by layer, `[..., n_units, n_inputs]`."""
        maps = self.maps(inputs)[:-1]
        if not maps:
            return inputs.new_zeros(*self.layers[0].weight.shape[:-2], 0, len(inputs))
        return torch.cat(maps, dim=-2)

    def without(self, inputs: Tensor) -> Iterator[Tensor]:
        """The outputs without each unit, one unit at a time: its value is replaced by its mean over inputs.

        The mean, as everywhere in the project: a unit whose value never changes then contributes nothing.

        Yields:
            `[..., n_inputs, n_outputs]` for each unit, in the order of `features`.
        """
        maps = self.maps(inputs)
        for i, h in enumerate(maps[:-1]):
            for unit in range(h.shape[-2]):
                r = h.clone()
                r[..., unit, :] = h[..., unit, :].mean(-1, keepdim=True)
                for layer in self.layers[i + 1 :]:
                    r = layer(r)
                yield r.mT

    def with_layer(self, i: int, **changes: object) -> "Network":
        """The same network with one layer changed."""
        layers = list(self.layers)
        layers[i] = replace(layers[i], **changes)
        return Network(layers=tuple(layers))


def stack(networks: Sequence[Network]) -> Network:
    """Networks of one shape as one, which runs them all at once.

    Raises:
        ValueError: shapes or activations differ.
    """
    if not networks:
        raise ValueError("no network to stack")
    shapes = {
        tuple((layer.weight.shape, layer.activations, layer.basis is None, layer.k) for layer in network.layers)
        for network in networks
    }
    if len(shapes) > 1:
        raise ValueError(
            f"{len(shapes)} different shapes among {len(networks)} networks; only networks of one shape can be run at once"
        )
    layers = []
    for same in zip(*(network.layers for network in networks), strict=True):
        bases = [layer.basis for layer in same if layer.basis is not None]
        weight = torch.stack([layer.weight for layer in same])
        layers.append(replace(same[0], weight=weight, basis=torch.stack(bases) if bases else None))
    return Network(layers=tuple(layers))
