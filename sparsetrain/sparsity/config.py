"""Settings of weight sparsity: which tensors are cut how far, by which method, and each method's own."""

from dataclasses import dataclass, field, replace
from typing import Literal

from sparsetrain.sparsity.compute import ComputeConfig
from sparsetrain.sparsity.reinit import ReinitConfig
from sparsetrain.sparsity.schedule import ScheduleConfig
from sparsetrain.typed import Above0, Count, Index, NotNegative, OpenShare, Share

Method = Literal["topk", "l0", "rigl", "set", "top_kast", "straight_through", "one_shot", "two_of_four"]

AUTO_FLOOR = 4
"""The paper's floor."""


@dataclass(frozen=True, kw_only=True)
class L0Config:
    """Hard-concrete gates (`l0`). Source: Louizos et al. 2018, section 4, where not marked `ours`."""

    beta: OpenShare = 2 / 3
    """Temperature of the concrete distribution."""
    gamma: float = -0.1
    """Lower end of the stretched interval, below 0."""
    zeta: float = 1.1
    """Its upper end, above 1."""
    drop_init: OpenShare = 0.5
    """Dropout rate that the gates start with: log alpha = log((1 - rate) / rate), with noise of .01 (the authors' code)."""
    lr: Above0 = 0.05
    """Of log alpha, by Adam (betas .9, .999, eps 1e-8), constant after the warm-up. ours"""
    price_rate: Above0 = 0.01
    """Dual ascent on the price of a position, nats a step at an excess of 100%: the price rises while more positions are expected than the
    budget of the step, and is 0 where they are not. Source: Gallego-Posada et al. 2022 (dual restarts); the paper has one price for all steps."""
    end: Share = 0.75
    """Fraction of the steps at which the gates are projected to the budget; from there on the mask is fixed. ours"""

    def __post_init__(self) -> None:
        if not (self.gamma < 0 and self.zeta > 1):
            raise ValueError(
                f"gamma={self.gamma} and zeta={self.zeta} must satisfy gamma < 0 and zeta > 1: gates have to reach 0 and 1"
            )


@dataclass(frozen=True, kw_only=True)
class DropGrowConfig:
    """Settings that RigL and SET share."""

    update_every: Count = 100
    """Steps between two changes of the mask."""
    fraction: OpenShare = 0.3
    """Share of the kept positions that is dropped and grown at the first change."""
    end: Share = 0.75
    """Fraction of the steps from which the mask is fixed; until there the share falls to 0 along half a cosine."""


@dataclass(frozen=True, kw_only=True)
class RigLConfig(DropGrowConfig):
    """Drop by magnitude, grow by gradient (`rigl`). Defaults: Evci et al. 2020, section 4.1."""


@dataclass(frozen=True, kw_only=True)
class SetConfig(DropGrowConfig):
    """Drop by magnitude, grow at random (`set`). The fraction: Mocanu et al. 2018; there it stays, once an epoch. The rest: Evci et al. 2020, who
    run SET so."""


@dataclass(frozen=True, kw_only=True)
class TopKastConfig:
    """A forward set and a larger backward set (`top_kast`). Source: Jayakumar et al. 2021 (NeurIPS 2020), where not marked `ours`."""

    backward: float = 2.5
    """Entries of the backward set over those of the forward set; at most all of a tensor (of the paper's pairs: densities .2 and .5)."""
    update_every: Count = 100
    """Steps between two choices of the sets."""
    penalty: NotNegative = 1e-4
    """Of the exploration loss: penalty x (sum over the forward set of w^2 + sum over the rest of the backward set of w^2 / density)."""
    end: Share = 0.9
    """Fraction of the steps from which the mask is fixed. ours"""

    def __post_init__(self) -> None:
        if not self.backward >= 1:
            raise ValueError(f"backward={self.backward} must be at least 1: the backward set holds the forward set")


@dataclass(frozen=True, kw_only=True)
class StraightThroughConfig:
    """The forward pass is cut, the gradient passes to all weights (`straight_through`). Source: Bengio et al. 2013; Lin et al. 2020."""

    end: Share = 0.9
    """Fraction of the steps from which the mask is fixed. ours"""


@dataclass(frozen=True, kw_only=True)
class OneShotConfig:
    """Dense, then cut once by magnitude, then fine-tuned (`one_shot`). Source: Han et al. 2015."""

    at: OpenShare = 0.5
    """Fraction of the steps at which the weights are cut. ours"""


@dataclass(frozen=True, kw_only=True)
class TwoOfFourConfig:
    """Two of each four consecutive entries of a row (`two_of_four`). Source: Zhou et al. 2021, SR-STE, where not marked `ours`."""

    pull: NotNegative = 2e-4
    """Of cut weights towards 0, which keeps the mask from flickering: lambda_w of the paper, as a loss pull / 2 x sum of their squares."""
    end: Share = 0.9
    """Fraction of the steps from which the mask is fixed. ours"""


@dataclass(frozen=True, kw_only=True)
class SparsityConfig:
    """Which weights are cut, how far, and how fast. Source: Gao et al. 2025, A.2, where not marked `ours`."""

    method: Method = "topk"
    """By what: docs/methods.md. Settings of the others are ignored."""
    density: Share = 1 / 64
    """Nonzeros / entries of every weight matrix at the end. 1: a dense model, whatever the method."""
    embed_density: Share | None = None
    """Embedding and unembedding. None: as `density` (paper; the authors' script: 1/16)."""
    bias_density: Share | None = None
    """Biases. None: as `density` (paper); 1: never cut (the authors' script)."""
    floor: Index | Literal["auto"] = "auto"
    """Nonzeros that every neuron and attention channel keeps at least (paper: 4). auto: 4 on tensors whose density is at least 8 /
    (length of a line), so that the floor leaves a choice, none on the others (ours)."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Of `topk` and `straight_through`, and of what `l0` aims at; the other methods have none."""
    compute: Literal["dense", "sparse", "auto"] = "dense"
    """Products with sparse weights: with their zeros; by their nonzeros from a density on; the same where the run can have it (one device,
    float32, method=topk, nothing compiled or started anew), from the density on at which it is faster on this machine. ours"""
    computing: ComputeConfig = field(default_factory=ComputeConfig)
    """Of sparse and auto."""
    reinit_dead: ReinitConfig = field(default_factory=ReinitConfig)
    """Dead units start anew while the density falls, with weights that others lose: see `sparsetrain/sparsity/reinit.py` (ours)."""
    l0: L0Config = field(default_factory=L0Config)
    rigl: RigLConfig = field(default_factory=RigLConfig)
    set: SetConfig = field(default_factory=SetConfig)
    top_kast: TopKastConfig = field(default_factory=TopKastConfig)
    straight_through: StraightThroughConfig = field(default_factory=StraightThroughConfig)
    one_shot: OneShotConfig = field(default_factory=OneShotConfig)
    two_of_four: TwoOfFourConfig = field(default_factory=TwoOfFourConfig)

    def __post_init__(self) -> None:
        every = self.reinit_dead.every
        for given, wanted in (
            (f"sparsity.reinit_dead.every={every}", every is not None),
            (f"sparsity.compute={self.compute}", self.compute == "sparse"),
        ):
            if wanted and self.method != "topk":
                raise ValueError(
                    f"{given} is for sparsity.method=topk, this is {self.method}, which chooses its masks itself; leave it out"
                )
        if self.compute == "sparse" and every is not None:
            raise ValueError(
                f"sparsity.reinit_dead.every={every} moves nonzeros between dense gradients, which sparsity.compute={self.compute} "
                f"does not expect; use sparsity.compute=dense, or sparsity.reinit_dead.every=null"
            )

    @property
    def obstacle(self) -> str:
        """What keeps these settings from products by nonzeros, in words; empty: nothing."""
        every = self.reinit_dead.every
        return (
            f"sparsity.method={self.method}"
            if self.method != "topk"
            else ""
            if every is None
            else f"sparsity.reinit_dead.every={every}"
        )

    def computed(self, obstacle: str) -> "SparsityConfig":
        """These settings with what `compute` comes to in a training.

        Args:
            obstacle: what keeps it from products by nonzeros, in words; empty: nothing.

        Raises:
            ValueError: compute=sparse cannot be had; says why.
        """
        if self.compute == "sparse" and obstacle and not self.is_dense:
            raise ValueError(
                f"sparsity.compute=sparse is for one device, trainer.precision=32 and trainer.compile=false, this has {obstacle}; use "
                "sparsity.compute=dense, or auto, which computes with the zeros where it must"
            )
        return replace(self, compute="dense") if self.compute == "auto" and obstacle else self

    @property
    def is_dense(self) -> bool:
        """Whether no tensor is cut."""
        return all(density in (None, 1) for density in (self.density, self.embed_density, self.bias_density))

    def floor_for(self, density: float, line_length: int) -> int:
        """The floor of lines of `line_length` entries in a tensor of this density."""
        if self.floor != "auto":
            return self.floor
        return AUTO_FLOOR if density * line_length >= 2 * AUTO_FLOOR else 0
