"""The methods by name."""

from collections.abc import Callable, Mapping
from dataclasses import asdict

from sparsetrain.sparsity.attached import AttachedMethod
from sparsetrain.sparsity.config import Method, SparsityConfig
from sparsetrain.sparsity.hard_concrete import HardConcrete
from sparsetrain.sparsity.one_shot import OneShot
from sparsetrain.sparsity.projection import TopKProjection
from sparsetrain.sparsity.rigl import RigL
from sparsetrain.sparsity.schedule import DENSE, InitialDensity
from sparsetrain.sparsity.set import SparseEvolution
from sparsetrain.sparsity.straight_through import StraightThrough
from sparsetrain.sparsity.top_kast import TopKast
from sparsetrain.sparsity.two_of_four import TwoOfFour
from sparsetrain.typed import from_dict

METHODS: Mapping[Method, Callable[[SparsityConfig, int, InitialDensity], AttachedMethod]] = {
    "topk": TopKProjection,
    "l0": HardConcrete,
    "rigl": RigL,
    "set": SparseEvolution,
    "top_kast": TopKast,
    "straight_through": StraightThrough,
    "one_shot": OneShot,
    "two_of_four": TwoOfFour,
}


def build_sparsity(config: SparsityConfig, n_steps: int, initial: InitialDensity = DENSE) -> AttachedMethod | None:
    """The configured method, for weights that start with these densities; None for a dense run.

    Raises:
        ValueError: settings that cannot hold.
    """
    config = from_dict(SparsityConfig, asdict(config))
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")
    return None if config.is_dense else METHODS[config.method](config, n_steps, initial)
