"""From an estimate to a word: a rule is written down before the data are seen, and "not supported" is as reachable as "supported".

An interval that excludes every effect of interest says "not supported"; what neither rules out nor shows is "undecided".
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from sparsetrain.stats.intervals import Estimate, columns

Word = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True, kw_only=True)
class SignTest:
    """How many of several independent runs (seeds) show an effect of one sign."""

    n_positive: int
    n_negative: int
    n: int
    p: float
    """Two-sided exact binomial probability of so uneven a split of the runs that are not zero."""


def sign_test(values: ArrayLike) -> SignTest:
    """Sign test over seeds; values of exactly zero count for neither side. `[n_seeds] -> SignTest`."""
    (v,) = columns(1, values=values)
    n_positive, n_negative = int((v > 0).sum()), int((v < 0).sum())
    n_signed = n_positive + n_negative
    p = float(binomtest(n_positive, n_signed).pvalue) if n_signed else 1.0
    return SignTest(n_positive=n_positive, n_negative=n_negative, n=len(v), p=p)


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """What must be seen for a claim to hold; written down before the data.

    Supported: the estimate has the expected sign, its interval excludes 0, it is at least `margin`, and at least
    `n_agreeing` seeds have that sign. Not supported: the interval excludes every effect of `margin` or more in the
    expected direction, or at least `n_agreeing` seeds have the other sign and fewer have the expected one. Undecided: anything else.

    Where no effect is expected (`none`), supported: the interval lies within +-`margin`. Not supported: the interval lies outside
    of +-`margin`. Undecided: anything else; seeds are not asked for.
    """

    claim: str
    expected: Literal["positive", "negative", "none"]
    margin: float
    """Smallest effect of interest, in the unit of the estimate, positive. Without one, no data could say no."""
    n_agreeing: int | None = None
    """Of the seeds; None: seeds are not asked for."""

    def __post_init__(self) -> None:
        if not self.margin > 0:
            raise ValueError(f"margin={self.margin} of claim {self.claim!r} must be positive")
        if self.n_agreeing is not None and self.n_agreeing < 1:
            raise ValueError(f"n_agreeing={self.n_agreeing} of claim {self.claim!r} must be at least 1, or None")
        if self.expected == "none" and self.n_agreeing is not None:
            raise ValueError(f"claim {self.claim!r} expects no effect, which has no sign for seeds to agree on")

    def describe(self) -> str:
        """The rule in words."""
        if self.expected == "none":
            return f"interval within +-{self.margin:g}"
        seeds = "" if self.n_agreeing is None else f", the same sign in at least {self.n_agreeing} seeds"
        return f"{self.expected}, interval without 0, size at least {self.margin:g}{seeds}"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What became of a claim: rule -> estimate with interval -> word."""

    claim: str
    rule: str
    estimate: Estimate
    seeds: SignTest | None
    word: Word
    reason: str


def decide(rule: DecisionRule, estimate: Estimate, per_seed: ArrayLike | None = None) -> Decision:
    """Applies a rule.

    Args:
        rule: fixed beforehand.
        estimate: over items, or over seeds.
        per_seed: `[n_seeds]`, the effect in each seed; needed where the rule asks for seeds. With a NaN, which makes the
            estimate undefined too, no signs are counted.

    Raises:
        ValueError: the rule asks for seeds and none are given.
    """
    if rule.n_agreeing is not None and per_seed is None:
        raise ValueError(f"claim {rule.claim!r} asks for {rule.n_agreeing} agreeing seeds; give per_seed")
    defined = per_seed is not None and bool(np.isfinite(np.asarray(per_seed, dtype=np.float64)).all())
    seeds = sign_test(per_seed) if per_seed is not None and defined else None
    word, reason = _judge(rule, estimate, seeds)
    return Decision(
        claim=rule.claim,
        rule=rule.describe(),
        estimate=estimate,
        seeds=seeds,
        word=word,
        reason=reason,
    )


def _judge(rule: DecisionRule, estimate: Estimate, seeds: SignTest | None) -> tuple[Word, str]:
    if rule.expected == "none":
        return _judge_none(rule.margin, estimate)
    sign = 1 if rule.expected == "positive" else -1
    value, lo, hi = sign * estimate.value, *sorted((sign * estimate.lo, sign * estimate.hi))
    if not np.isfinite([value, lo, hi]).all():
        return "undecided", "the estimate is not defined on these data"
    if hi < rule.margin:
        return "not supported", f"the interval excludes a {rule.expected} effect of {rule.margin:g} or more"
    seen = ""
    if rule.n_agreeing is not None:
        assert seeds is not None
        agree, against = (seeds.n_positive, seeds.n_negative)[::sign]
        if against >= rule.n_agreeing > agree:
            return "not supported", f"{against} of {seeds.n} seeds have the other sign"
        if agree < rule.n_agreeing:
            return "undecided", f"{agree} of {seeds.n} seeds have the expected sign, {rule.n_agreeing} are needed"
        seen = f", the expected sign in {agree} of {seeds.n} seeds"
    if lo <= 0:
        return "undecided", "the interval includes 0"
    if value < rule.margin:
        return "undecided", f"the effect is smaller than {rule.margin:g}, but the interval reaches it"
    return "supported", f"the interval excludes 0 and the size is at least {rule.margin:g}{seen}"


def _judge_none(margin: float, estimate: Estimate) -> tuple[Word, str]:
    if not np.isfinite([estimate.value, estimate.lo, estimate.hi]).all():
        return "undecided", "the estimate is not defined on these data"
    lo, hi = sorted((estimate.lo, estimate.hi))
    if -margin < lo and hi < margin:
        return "supported", f"the interval lies within +-{margin:g}"
    if hi <= -margin or lo >= margin:
        return "not supported", f"the interval lies outside of +-{margin:g}"
    return "undecided", f"the interval reaches across {margin:g} or -{margin:g}"
