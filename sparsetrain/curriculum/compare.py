"""How often an arm is answered, and how much more often than its control: item by item, with intervals.

The smallest difference that a comparison can see is said before it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt, tanh

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri  # pyright: ignore[reportMissingTypeStubs]

from sparsetrain.curriculum.arms import ARMS, RANDOM_ORDER, ZERO_SHOT
from sparsetrain.stats.intervals import Estimate, paired_shares, share

Floats = NDArray[np.float64]
POWER = 0.8
"""Chance to see a difference of the smallest detectable size."""
APART = 0.2
"""Share of the items that are right in one of two arms alone, where nothing is known of it. ours"""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """How the same items are answered in every arm."""

    right: Mapping[str, Floats]
    """Arm -> share of its draws that are right, `[n_items]`."""
    loss: Mapping[str, Floats]
    """Arm -> mean loss of the answer over its draws, nats/token, `[n_items]`."""
    n_dropped: Mapping[str, int] = field(default_factory=dict)
    """Arm -> demonstrations that the budget of tokens had no room for."""

    def accuracy(self, arm: str, confidence: float = 0.95) -> Estimate:
        """Share of the items; the interval counts items, not draws."""
        return share(self.right[arm], confidence=confidence)

    def gain(self, arm: str, confidence: float = 0.95) -> Estimate:
        """Accuracy of an arm minus that of its control, of the same items."""
        return paired_shares(self.right[arm], self.right[ARMS[arm].control], confidence=confidence)

    def falls(self, arm: str) -> Floats:
        """Loss in the control minus loss in the arm, item by item."""
        return self.loss[ARMS[arm].control] - self.loss[arm]

    @property
    def learned(self) -> float:
        """Accuracy with demonstrations in random order minus that without any."""
        return float((self.right[RANDOM_ORDER] - self.right[ZERO_SHOT]).mean())


def detectable_correlation(n_items: int, *, confidence: float = 0.95) -> float:
    """The smallest rank correlation that is seen with a chance of `POWER`: tanh((z(confidence) + z(power)) sqrt(1.06 / (n - 3))), two-sided.

    Args:
        n_items: that have both values; more than three.
        confidence: of the interval that must leave out 0.

    Source: Fieller, Hartley and Pearson 1957, Tests for rank correlation coefficients I, for the variance.
    """
    return tanh(_both(confidence) * sqrt(1.06 / (n_items - 3)))


def _both(confidence: float) -> float:
    return float(-ndtri((1 - confidence) / 2) + ndtri(POWER))


def detectable_share(n_items: int, *, confidence: float = 0.95, apart: float = APART) -> float:
    """The smallest difference of two paired shares that is seen with a chance of `POWER`.

    (z(confidence) + z(power)) sqrt(apart / n), two-sided.

    Args:
        n_items: answered in both arms.
        confidence: of the interval that must leave out 0.
        apart: share of the items that are right in one of them alone.

    Source: Connor 1987, Sample size for testing differences in proportions for the paired-sample design, for small differences.
    """
    return _both(confidence) * sqrt(apart / n_items)
