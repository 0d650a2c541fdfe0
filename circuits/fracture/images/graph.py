"""A picture as a graph: units that read inputs and other units, and end in hue, saturation and value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from circuits.fracture.images.units import ACTIVATIONS, INPUTS, OUTPUTS, check_activation, pixels, rgb


@dataclass(frozen=True)
class Unit:
    """activation(sum of weight times what is read)."""

    activation: str
    reads: Mapping[str, float]
    """Name of an input or unit -> weight."""

    def __post_init__(self) -> None:
        check_activation(self.activation)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Units in an order in which each reads only inputs and units before it.

    Raises:
        ValueError: a unit reads what is not there before it, takes an input's name, or an output is missing or read.
    """

    units: Mapping[str, Unit]
    symmetry: str = "none"
    """Of the picture; a name of `symmetries.GROUPS`."""
    about: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        there = set(INPUTS)
        for name, unit in self.units.items():
            if name in INPUTS:
                raise ValueError(f"unit {name!r} has the name of an input; inputs are {', '.join(INPUTS)}")
            for read in unit.reads:
                if read not in there:
                    raise ValueError(
                        f"unit {name!r} reads {read!r}, which does not stand before it; there are {', '.join(sorted(there))}"
                    )
                if read in OUTPUTS:
                    raise ValueError(f"unit {name!r} reads the output {read!r}; read what the output reads")
            there.add(name)
        missing = [name for name in OUTPUTS if name not in self.units]
        if missing:
            raise ValueError(f"outputs {', '.join(missing)} are missing; a picture needs units {', '.join(OUTPUTS)}")

    @property
    def n_weights(self) -> int:
        """Number of connections."""
        return sum(len(unit.reads) for unit in self.units.values())

    def values(self, inputs: Tensor) -> dict[str, Tensor]:
        """Of every input and unit, by name, `[n_pixels]` each.

        Args:
            inputs: `[n_pixels, 4]`, as `pixels` gives them.
        """
        found = dict(zip(INPUTS, inputs.unbind(-1), strict=True))
        for name, unit in self.units.items():
            total = torch.zeros_like(inputs[:, 0])
            for read, weight in unit.reads.items():
                total = total + weight * found[read]
            found[name] = ACTIVATIONS[unit.activation](total)
        return found

    def outputs(self, inputs: Tensor) -> Tensor:
        """Hue, saturation, value, `[n_pixels, 3]`."""
        found = self.values(inputs)
        return torch.stack([found[name] for name in OUTPUTS], dim=-1)

    def picture(self, size: int) -> Tensor:
        """Colours in [0, 1], float64 `[size, size, 3]`."""
        return rgb(self.outputs(pixels(size))).unflatten(0, (size, size))
