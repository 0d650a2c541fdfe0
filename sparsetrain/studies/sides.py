"""How both sides of a set of probes are answered as the number of active channels is set by hand, at one place of a model.

Effects are estimates over items. Familiar and shifted items are different items, so that both sides are resampled; what is held at
either density is the same items twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.probes.adaptive_sets import LEVELS
from sparsetrain.report.blocks import Curve
from sparsetrain.stats.intervals import (
    Estimate,
    Floats,
    Ints,
    difference,
    estimate,
    over_items,
    paired_shares,
    percentiles,
)
from sparsetrain.studies.adaptation import ENOUGH, N_SPLITS, SHIFTED, By
from sparsetrain.studies.surfaces import enough_level, gains_of_own_best, resampled_best

FAMILIAR = LEVELS[0]


@dataclass(frozen=True, kw_only=True)
class SideReadings:
    """How both sides of a set are answered at one place."""

    arrays: Mapping[str, Floats]
    """Each `[n_items]`; `by` is topk or temperature, `target` familiar or shifted:

    correct: whether an item is answered untouched.
    loss: mean over its answer's tokens.
    active|point, first|point, spread|point: log2 of the channels that it uses there untouched, mean over the answer's tokens and at the first
    of them; log2 of the participation ratio.
    correct|place|how|k, loss|...: with k channels, the largest or random ones.
    correct|place|by|target, loss|...: at the density that `target` items have.
    """
    is_shifted: NDArray[np.bool_]
    place: str
    points: tuple[str, ...]
    """Hook points of the place."""
    tried: Mapping[str, tuple[int, ...]]
    """`largest` or `random` -> numbers of channels tried, rising, the last one all."""
    n_bootstrap: int
    confidence: float

    def at(self, *key: str) -> Floats:
        """An array by the parts of its name."""
        return self.arrays["|".join(key)]

    def items(self, side: str) -> NDArray[np.bool_]:
        """Which items are of a side."""
        return self.is_shifted == (side == SHIFTED)

    def levels(self, how: str = "largest") -> Floats:
        """log2 of the numbers of channels tried."""
        return np.log2(np.array(self.tried[how], dtype=np.float64))

    def responses(self, side: str, outcome: str = "correct", how: str = "largest") -> Floats:
        """`correct` or `loss` of the items of a side at each level, `[n_levels, n]`; all channels are the untouched model."""
        touched = [self.at(outcome, self.place, how, str(k)) for k in self.tried[how][:-1]]
        return np.stack([*touched, self.at(outcome)])[:, self.items(side)]

    def used(self, side: str, name: str = "active") -> Floats:
        """log2 of the channels that the items of a side use untouched, mean over the place's hook points, `[n]`."""
        return np.mean([self.at(name, point) for point in self.points], axis=0)[self.items(side)]

    def answered(self, side: str) -> float:
        """Share of a side, untouched."""
        return float(self.at("correct")[self.items(side)].mean())

    def resampled(self, how: str = "largest", outcome: str = "correct") -> dict[str, Floats]:
        """log2 of the best k of each side in each bootstrap resample; the best loss is the smallest. Side -> `[n_bootstrap]`"""
        rng = np.random.default_rng(0)
        sign = 1 if outcome == "correct" else -1
        n_items = min(int(self.items(side).sum()) for side in LEVELS)
        return {
            side: resampled_best(
                sign * self.responses(side, outcome, how),
                self.levels(how),
                n_items=n_items,
                n_bootstrap=self.n_bootstrap,
                rng=rng,
            )
            for side in LEVELS
        }

    def natural(self, name: str = "active") -> Estimate:
        """How many octaves fewer channels shifted items use untouched."""
        return difference(
            self.used(FAMILIAR, name), self.used(SHIFTED, name), n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=0
        )  # fmt: skip

    def best(self, *, how: str = "largest", outcome: str = "correct") -> Estimate:
        """How many octaves fewer channels shifted items are answered best with: mean and interval over resamples of both sides."""
        found = self.resampled(how, outcome)
        values = found[FAMILIAR] - found[SHIFTED]
        lo, hi = percentiles(values, (1 - self.confidence) / 2)
        return Estimate(
            value=float(values.mean()),
            lo=float(lo),
            hi=float(hi),
            n=min(int(self.items(side).sum()) for side in LEVELS),
            method=f"difference of best levels, mean and {self.confidence:.2%} percentiles of {self.n_bootstrap} resamples of both sides, seed 0",
        )

    def enough(self) -> Estimate:
        """How many octaves fewer channels are enough for shifted items."""
        own, shifted = (self.responses(side) for side in LEVELS)
        levels, n = self.levels(), own.shape[1]

        def of(outcome: Floats, i: Ints) -> Floats:
            return np.array([enough_level(outcome[:, row].mean(1), levels, share=ENOUGH) for row in i])

        return estimate(
            "difference of levels that are enough",
            lambda i: of(own, i[:, :n]) - of(shifted, i[:, n:]),
            n,
            shifted.shape[1],
            n_bootstrap=self.n_bootstrap,
            confidence=self.confidence,
            seed=0,
        )

    def held(self, side: str, by: By, target: str, outcome: str = "correct") -> Floats:
        """`correct` or `loss` of a side held at the density of a target, `[n]`."""
        return self.at(outcome, self.place, by, target)[self.items(side)]

    def cost(self, side: str, by: By = "topk") -> Estimate:
        """Accuracy of a side at its own density minus that at the other's, item by item."""
        other = LEVELS[1 - LEVELS.index(side)]
        return paired_shares(self.held(side, by, side), self.held(side, by, other), confidence=self.confidence)

    def cost_in_loss(self) -> Estimate:
        """Loss of shifted items held at the number of channels of familiar ones minus that at their own."""
        rises = self.held(SHIFTED, "topk", FAMILIAR, "loss") - self.held(SHIFTED, "topk", SHIFTED, "loss")
        return self.mean(rises)

    def gain(self) -> Estimate:
        """How much better shifted items are answered with their own best k than with that of familiar ones."""
        shifted, reference = self.responses(SHIFTED), self.responses(FAMILIAR)
        return self.mean(gains_of_own_best(shifted, reference, n_splits=N_SPLITS, rng=np.random.default_rng(0)))

    def mean(self, values: Floats) -> Estimate:
        """Mean over items with its interval."""
        return over_items(values, n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=0)

    def curve(self, side: str, outcome: str = "correct", how: str = "largest") -> Curve:
        """Mean outcome of a side at each level, with its 95% band."""
        found = [
            over_items(of_level, n_bootstrap=self.n_bootstrap, seed=0)
            for of_level in self.responses(side, outcome, how)
        ]
        return Curve(
            name=side if how == "largest" else f"{side}, {how} channels",
            x=tuple(self.levels(how).tolist()),
            y=tuple(e.value for e in found),
            lo=tuple(e.lo for e in found),
            hi=tuple(e.hi for e in found),
        )
