"""What is read of the networks of one arm and picture, and the numbers of it.

1. Contributions are those to the colours that are seen, red, green and blue: hue runs in a circle, and that of a grey pixel is not seen.
2. They are read on a coarser grid of the same square, as perturbations are; total variation on all pixels of the picture.
3. A unit is alive if it contributes anywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log, nan
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.fracture.images.imitation import apart
from circuits.fracture.images.network import Network
from circuits.fracture.images.perturbed import KINDS, kept
from circuits.fracture.images.units import pixels, rgb
from circuits.fracture.measures import (
    Floats,
    contributions,
    effective_rank,
    effective_units,
    gini,
    gini_alive,
    relative_variation,
    total_variation,
)

DEAD = 1e-9
"""Contributions below this share of a network's largest are rounding: units without weights have them too. ours"""


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """On which pixels, and how networks are perturbed. ours"""

    size: int
    """Side of the picture."""
    measured_size: int = 32
    """Side of the grid on which contributions and perturbations are read."""
    n_perturbed: int = 24
    """Directions of each kind."""
    effect: float = 1e-3
    """Mean squared change of the colours by them."""


def read_networks(
    networks: Network,
    picture: torch.Tensor,
    group: NDArray[np.int64],
    seeds: Sequence[int],
    config: ReadingConfig,
    on_part: Callable[[], object] = lambda: None,
) -> dict[str, NDArray[Any]]:
    """All that claims are made of.

    Args:
        networks: weights `[n_seeds, n_out, n_in]`.
        picture: what they imitate, `[size * size, 3]`.
        group: the picture's symmetry on the coarser grid, `[n_elements, measured_size * measured_size]`.
        seeds: of the draws of perturbations, one per network.
        config: pixels and perturbations.
        on_part: called after each seed.

    Returns:
        `error [n_seeds]`; `contributions [n_seeds, n_inputs, n_units]`; `variation`, `relative [n_seeds, n_units]` of each unit's map; and of each kind of
        perturbation `kept|kind`, `share|kind [n_seeds, n_directions, n_strengths]`, `size|kind`, `effect|kind [n_seeds]`.
    """
    x, coarse = pixels(config.size), pixels(config.measured_size)
    rows: dict[str, list[Any]] = {}
    for network, seed in zip(apart(networks), seeds, strict=True):
        with torch.no_grad():
            found: dict[str, Any] = {"error": float((rgb(network.outputs(x)) - picture).square().mean())}
            whole, without = rgb(network.outputs(coarse)), [rgb(outputs) for outputs in network.without(coarse)]
            maps = network.features(x).unflatten(-1, (config.size, config.size)).numpy()
        c = contributions(whole.numpy(), torch.stack(without).numpy())
        found["contributions"] = np.where(c > DEAD * c.max(), c, 0.0).astype(np.float32)
        found |= {"variation": total_variation(maps), "relative": relative_variation(maps)}
        for kind in KINDS:
            said = kept(
                single(network),
                coarse.float(),
                group,
                kind=kind,
                n=config.n_perturbed,
                effect=config.effect,
                generator=torch.Generator().manual_seed(seed),
            )
            found |= {f"{name}|{kind}": value for name, value in vars(said).items()}
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
        on_part()
    return {name: np.stack([np.asarray(value) for value in values]) for name, values in rows.items()}


def single(network: Network) -> Network:
    """The same network in float32."""
    return Network(
        layers=tuple(
            replace(layer, weight=layer.weight.float(), basis=None if layer.basis is None else layer.basis.float())
            for layer in network.layers
        )
    )


@dataclass(frozen=True, kw_only=True)
class NetworkReadings:
    """Of one network; the numbers are of `circuits.fracture.measures`."""

    error: float
    contributions: Floats
    variation: Floats
    relative: Floats
    kept: dict[str, Floats]
    share: dict[str, Floats]
    effect: dict[str, float]
    """Mean squared change of the colours that perturbations of each kind have; NaN where no size has the one asked for."""
    n_nonzero: int
    n_weights: int
    composed: "NetworkReadings | None" = None
    """The network composed by hand, under the same draws."""
    dense: "NetworkReadings | None" = None
    """The dense imitation of the same seed."""

    @classmethod
    def load(cls, path: Path, n_nonzero: Sequence[int], n_weights: int) -> list[Self]:
        """Those of every seed."""
        with np.load(path) as file:
            arrays = {name: file[name].astype(np.float64) for name in file.files}

        def of(name: str, i: int) -> dict[str, Any]:
            return {kind: arrays[f"{name}|{kind}"][i] for kind in KINDS}

        return [
            cls(
                error=float(arrays["error"][i]),
                contributions=arrays["contributions"][i],
                variation=arrays["variation"][i],
                relative=arrays["relative"][i],
                kept=of("kept", i),
                share=of("share", i),
                effect={kind: float(value) for kind, value in of("effect", i).items()},
                n_nonzero=n_nonzero[i],
                n_weights=n_weights,
            )
            for i in range(len(arrays["error"]))
        ]

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        return np.asarray(self.contributions.max(0) > 0)

    @cached_property
    def units(self) -> float:
        """Effective units, mean over inputs."""
        return float(effective_units(self.contributions).mean())

    @cached_property
    def effective_share(self) -> float:
        """Effective units of an input over units that contribute to any, mean over inputs."""
        return self.units / n if (n := int(self.alive.sum())) else nan

    @cached_property
    def gini(self) -> float:
        return _mean(gini(self.contributions))

    @cached_property
    def gini_alive(self) -> float:
        return _mean(gini_alive(self.contributions))

    @cached_property
    def rank(self) -> float:
        """Effective rank of contributions."""
        return effective_rank(self.contributions)

    @cached_property
    def weighted_relative(self) -> float:
        """Relative total variation of units' maps, each counting as it contributes."""
        return float(np.average(self.relative, weights=self.contributions.mean(0))) if self.alive.any() else nan

    @cached_property
    def plain_relative(self) -> float:
        """The same, living units counting alike."""
        return float(self.relative[self.alive].mean()) if self.alive.any() else nan

    @cached_property
    def plain_variation(self) -> float:
        """Total variation of the maps of living units, not divided by their range."""
        return float(self.variation[self.alive].mean()) if self.alive.any() else nan

    def symmetry(self, kind: str) -> float:
        """Share of the change that keeps the symmetry, over all perturbations of a kind, each counting as it changes; NaN where no size had the effect."""
        share = self.share[kind]
        return nan if np.isnan(share).any() else float(np.nansum(self.kept[kind] * share))

    def beside(self, composed: "NetworkReadings", dense: "NetworkReadings | None") -> "NetworkReadings":
        return replace(self, composed=composed, dense=dense)


def ratio(number: Callable[[NetworkReadings], float], of: str) -> Callable[[NetworkReadings], float]:
    """Log of a network's number over that of the network `of` it is compared with; NaN where one is 0."""
    return lambda r: log_ratio(number(r), number(_other(r, of)))


def difference(number: Callable[[NetworkReadings], float], of: str) -> Callable[[NetworkReadings], float]:
    """A network's number less that of the network `of` it is compared with."""
    return lambda r: number(r) - number(_other(r, of))


def log_ratio(a: float, b: float) -> float:
    """log(a / b), of numbers that are at least 0; NaN where one is 0."""
    return log(a / b) if a > 0 and b > 0 else nan


def _other(r: NetworkReadings, of: str) -> NetworkReadings:
    other = getattr(r, of)
    assert isinstance(other, NetworkReadings), of
    return other


def _mean(values: Floats) -> float:
    """Over inputs to which any unit contributes."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else nan
