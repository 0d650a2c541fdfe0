"""Networks of one shape as a file: weights in safetensors, the rest in what the stage says of them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from circuits.fracture.images.network import Layer, Network
from sparsetrain.store import write_atomic
from sparsetrain.studies.engine import StageResult


@dataclass(frozen=True, kw_only=True)
class NetworksResult(StageResult):
    """What a stage says of its networks."""

    activations: tuple[tuple[str, ...], ...]
    """Of each layer's units."""
    k: int | None
    """AbsTopK of every layer but the last."""
    n_nonzero: tuple[int, ...]
    """Of all weights of each seed's network; bases do not count."""
    n_weights: int


def stored(network: Network, path: Path) -> NetworksResult:
    """Writes networks with a leading axis of seeds, float64 or float32 as they are."""
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(network.layers):
        tensors[f"{i}.weight"] = layer.weight.contiguous()
        if layer.basis is not None:
            tensors[f"{i}.basis"] = layer.basis.contiguous()
    content = save(tensors)
    write_atomic(path, content)
    counts = sum(layer.weight.count_nonzero((-1, -2)) for layer in network.layers)
    return NetworksResult(
        weights_sha256=hashlib.sha256(content).hexdigest(),
        activations=tuple(layer.activations for layer in network.layers),
        k=network.layers[0].k if len(network.layers) > 1 else None,
        n_nonzero=tuple(counts.tolist() if isinstance(counts, Tensor) else ()),
        n_weights=sum(layer.weight[0].numel() for layer in network.layers),
    )


def loaded(result: NetworksResult, path: Path) -> Network:
    """The networks that `stored` wrote."""
    tensors = load_file(path)
    last = len(result.activations) - 1
    return Network(
        layers=tuple(
            Layer(
                weight=tensors[f"{i}.weight"],
                basis=tensors.get(f"{i}.basis"),
                activations=activations,
                k=None if i == last else result.k,
            )
            for i, activations in enumerate(result.activations)
        )
    )
