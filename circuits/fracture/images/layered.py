"""A graph as a multilayer perceptron of the same function.

1. A unit's level is one more than the highest of what it reads; inputs are at 0. The outputs all stand at the last level.
2. Layer l holds the units of level l, and carries by an identity unit of weight 1 whatever a later level still reads.

Source: Kumar et al. 2025. The order of levels is ours: as early as possible, so that networks are as flat as the graph allows.
"""

import torch

from circuits.fracture.images.graph import Graph
from circuits.fracture.images.network import Layer, Network
from circuits.fracture.images.units import INPUTS, OUTPUTS


def levels(graph: Graph) -> dict[str, int]:
    """Name of an input or unit -> its level; that of the outputs is the number of layers."""
    found = dict.fromkeys(INPUTS, 0)
    for name, unit in graph.units.items():
        found[name] = 1 + max((found[read] for read in unit.reads), default=0)
    last = max(found.values())
    return found | dict.fromkeys(OUTPUTS, last)


def layered(graph: Graph, dtype: torch.dtype = torch.float64) -> Network:
    """The graph's function as a bias-free network; its units are named as in the graph, and carried ones `name'`."""
    level = levels(graph)
    n_layers = max(level.values())
    needed = dict.fromkeys(level, 0)
    for name, unit in graph.units.items():
        for read in unit.reads:
            needed[read] = max(needed[read], level[name] - 1)
    layers: list[Layer] = []
    before: list[str] = list(INPUTS)
    for depth in range(1, n_layers + 1):
        computed = list(OUTPUTS) if depth == n_layers else [name for name in graph.units if level[name] == depth]
        carried = [name for name in before if needed[name] >= depth]
        weight = torch.zeros(len(computed) + len(carried), len(before), dtype=dtype)
        for row, name in enumerate(computed):
            for read, value in graph.units[name].reads.items():
                weight[row, before.index(read)] = value
        for row, name in enumerate(carried, start=len(computed)):
            weight[row, before.index(name)] = 1.0
        activations = [graph.units[name].activation for name in computed] + ["identity"] * len(carried)
        names = [*computed, *(f"{name}'" for name in carried)]
        layers.append(Layer(weight=weight, activations=tuple(activations), names=tuple(names)))
        before = computed + carried
    return Network(layers=tuple(layers))
