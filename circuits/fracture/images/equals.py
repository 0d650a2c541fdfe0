"""Networks of the same function with other insides: what a measure of fracture must tell apart although every output agrees.

| function | changes | outputs |
|---|---|---|
| `rotated` | every layer is read in a random orthogonal basis: no unit stands for anything | same |
| `mixed` | two units of a layer are turned into each other by an angle | same |
| `split` | a unit becomes one unit per reader: one concept in pieces that know nothing of each other | same |
| `duplicated` | a unit becomes n equal ones, each with a share of its outgoing weights | same |
| `padded` | dead units are added: as many as an imitation gets | same |
| `permuted` | units change places; no measure may see it | same |

Fracture is done here on purpose, and by how much is known. Source: ours, after Kumar et al. 2025.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from circuits.fracture.images.network import Layer, Network
from circuits.fracture.images.units import ACTIVATIONS


def _check_unit(network: Network, layer: int, *units: int) -> None:
    if not 0 <= layer < len(network.layers) - 1:
        raise ValueError(f"layer: {layer}, expected 0 to {len(network.layers) - 2}; the last layer holds the outputs")
    for unit in units:
        if not 0 <= unit < network.layers[layer].width:
            raise ValueError(f"unit: {unit}, expected 0 to {network.layers[layer].width - 1} in layer {layer}")


def random_rotation(width: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Orthogonal `[width, width]`, uniform (Haar): Q of a Gaussian matrix, with the signs of R's diagonal."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).to(dtype)


def turned(network: Network, layer: int, basis: Tensor) -> Network:
    """The same function with a layer read in another basis: r -> Q r, and the next layer's weights W -> W Q^T.

    Args:
        network: unchanged.
        layer: which, not the last.
        basis: Q, orthogonal, `[width, width]`.
    """
    _check_unit(network, layer)
    here, after = network.layers[layer], network.layers[layer + 1]
    if here.k is not None:
        raise ValueError(
            f"layer {layer} keeps its {here.k} largest units: in another basis those are others, and the function changes"
        )
    whole = basis if here.basis is None else basis @ here.basis
    return network.with_layer(layer, basis=whole, names=()).with_layer(layer + 1, weight=after.weight @ basis.mT)


def rotated(network: Network, generator: torch.Generator) -> Network:
    """The same function without axes: every layer but the last is turned by a random rotation of its own."""
    for i, layer in enumerate(network.layers[:-1]):
        network = turned(network, i, random_rotation(layer.width, generator, layer.weight.dtype))
    return network


def mixed(network: Network, layer: int, units: tuple[int, int], angle: float) -> Network:
    """Two units a, b of a layer become cos(t) a - sin(t) b and sin(t) a + cos(t) b, t in radians."""
    _check_unit(network, layer, *units)
    a, b = units
    if a == b:
        raise ValueError(f"units: {units}, expected two different ones")
    weight = network.layers[layer].weight
    basis = torch.eye(network.layers[layer].width, dtype=weight.dtype)
    cosine, sine = torch.tensor(angle, dtype=weight.dtype).cos(), torch.tensor(angle, dtype=weight.dtype).sin()
    basis[a, a], basis[a, b], basis[b, a], basis[b, b] = cosine, -sine, sine, cosine
    return turned(network, layer, basis)


def _replaced(network: Network, layer: int, unit: int, outgoing: Sequence[Tensor]) -> Network:
    """A unit as several equal ones with these outgoing weights, `[..., n_readers]` each; the first stays in place, the others follow the layer's last."""
    here, after = network.layers[layer], network.layers[layer + 1]
    if here.basis is not None:
        raise ValueError(
            f"layer {layer} is rotated: no activation of it stands alone; split or duplicate units before turning"
        )
    order = [*range(here.width), *[unit] * (len(outgoing) - 1)]
    weight = torch.cat([after.weight, *(part[..., None] for part in outgoing[1:])], dim=-1)
    weight[..., unit] = outgoing[0]
    names = tuple(here.names[i] for i in order) if here.names else ()
    first = Layer(weight=here.weight[..., order, :], activations=tuple(here.activations[i] for i in order), names=names)
    return Network(layers=(*network.layers[:layer], first, replace(after, weight=weight), *network.layers[layer + 2 :]))


def split(network: Network, layer: int, unit: int) -> Network:
    """A unit as one unit per unit that reads it: each computes the same and serves one reader alone."""
    _check_unit(network, layer, unit)
    column = network.layers[layer + 1].weight[..., unit]
    readers = column.reshape(-1, column.shape[-1]).any(0).nonzero()[:, 0]
    if len(readers) < 2:
        return network
    return _replaced(
        network, layer, unit, [torch.zeros_like(column).index_copy(-1, r[None], column[..., r[None]]) for r in readers]
    )


def duplicated(network: Network, layer: int, unit: int, n: int) -> Network:
    """A unit as n equal ones, each with 1/n of its outgoing weights."""
    _check_unit(network, layer, unit)
    if n < 1:
        raise ValueError(f"n: {n}, expected at least 1")
    return _replaced(network, layer, unit, [network.layers[layer + 1].weight[..., unit] / n] * n)


def permuted(network: Network, layer: int, order: Sequence[int]) -> Network:
    """Units of a layer in another order."""
    _check_unit(network, layer)
    here, after = network.layers[layer], network.layers[layer + 1]
    if sorted(order) != list(range(here.width)):
        raise ValueError(f"order: {list(order)}, expected each of 0 to {here.width - 1} once")
    at = list(order)
    if here.basis is not None:
        network = network.with_layer(layer, basis=here.basis[..., at, :])
    else:
        names = tuple(here.names[i] for i in at) if here.names else ()
        activations = tuple(here.activations[i] for i in at)
        network = network.with_layer(layer, weight=here.weight[..., at, :], activations=activations, names=names)
    return network.with_layer(layer + 1, weight=after.weight[..., at])


def padded(network: Network, n_dead: int, activations: Sequence[str] = tuple(ACTIVATIONS)) -> Network:
    """Dead units are added to every layer but the last, with weights of 0: the same function in a network with room to spare, as evolved ones have.

    Args:
        network: unrotated.
        n_dead: units added to each layer.
        activations: of the added units, in turn.
    """
    if n_dead < 0 or not activations:
        raise ValueError(f"n_dead: {n_dead} units of {len(activations)} activations; expected at least 0 of at least 1")
    if any(layer.basis is not None for layer in network.layers):
        raise ValueError("the network is rotated; pad before turning")
    added = tuple(activations[i % len(activations)] for i in range(n_dead))
    layers: list[Layer] = []
    for i, layer in enumerate(network.layers):
        last = i == len(network.layers) - 1
        weight = nn.functional.pad(layer.weight, (0, n_dead if i else 0, 0, 0 if last else n_dead))
        names = (*layer.names, *(f"dead {j}" for j in range(n_dead))) if layer.names and not last else layer.names
        layers.append(
            replace(layer, weight=weight, activations=layer.activations + (() if last else added), names=names)
        )
    return Network(layers=tuple(layers))
