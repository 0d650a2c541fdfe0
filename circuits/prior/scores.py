"""What a model answers in a conflict, as numbers: case by case, and over cases.

| score | is |
|---|---|
| p_context, p_prior | probability of the whole answer: the product over its tokens |
| p_other | 1 - p_context - p_prior |
| margin | log-probability of the context's answer less that of memory's, each the mean over its tokens; of one token the logit margin |
| memory_ratio | M_R = p_o / (p_o + p_s) of these means: sigmoid(-margin) (o memorised, s stated) |
| says | what the greedy answer is: the context's, memory's, another one |
| persuasion | KL(p(A | x, q) || p(A | q)) over the case's answers A, from the means over tokens |
| susceptibility | its mean over contexts x |

Source: Yu et al. 2023, Longpre et al. 2021 (M_R); Du et al. 2024, sections 2 and 3 (persuasion, susceptibility).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, rel_entr  # pyright: ignore[reportMissingTypeStubs]

from sparsetrain.stats.intervals import Estimate, columns, difference, over_items

Floats = NDArray[np.float64]
Measure = Literal["p_context", "preference", "says_context"]
"""What arms are tuned and compared by: P(context), 1 - M_R, or the share of greedy answers that are the context's."""


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """How each case is answered; `[n_cases]` float64 each, NaN where the case has no such prompt."""

    mean_logp: Floats
    """`[n_cases, n_answers]`, nats/token: the context's answer, memory's, others; NaN behind the last one."""
    p_context: Floats
    p_prior: Floats
    says_context: Floats
    says_prior: Floats

    @classmethod
    def of(cls, arrays: Mapping[str, Floats]) -> "CaseScores":
        """From what `asking.read_answers` keeps."""
        return cls(**{name: arrays[name] for name in cls.__annotations__})

    def take(self, rows: ArrayLike) -> "CaseScores":
        """Some cases, by a mask or by numbers."""
        at = np.asarray(rows)
        return CaseScores(**{name: getattr(self, name)[at] for name in type(self).__annotations__})

    @property
    def p_other(self) -> Floats:
        """Probability of any other answer."""
        return 1 - self.p_context - self.p_prior

    @property
    def margin(self) -> Floats:
        """Towards the context's answer, nats/token."""
        return self.mean_logp[:, 0] - self.mean_logp[:, 1]

    @property
    def memory_ratio(self) -> Floats:
        """M_R, in [0, 1]."""
        return np.asarray(expit(-self.margin))

    @property
    def preference(self) -> Floats:
        """1 - M_R."""
        return 1 - self.memory_ratio

    @property
    def says_other(self) -> Floats:
        """1 where the greedy answer is neither."""
        return 1 - self.says_context - self.says_prior

    @property
    def over_answers(self) -> Floats:
        """p(A), `[n_cases, n_answers]`, sums to 1; 0 behind the last answer, NaN where the case has no such prompt."""
        lp = np.where(np.isnan(self.mean_logp), -np.inf, self.mean_logp)
        asked = ~np.isnan(self.mean_logp[:, :1])
        p = np.exp(lp - np.where(asked, lp.max(1, keepdims=True), 0.0))
        return np.where(asked, p / np.maximum(p.sum(1, keepdims=True), 1e-300), np.nan)

    def persuasion(self, without: "CaseScores") -> Floats:
        """Of these prompts against those without a context, nats."""
        return persuasion(self.over_answers, without.over_answers)


def persuasion(p: ArrayLike, q: ArrayLike) -> Floats:
    """KL(p || q) over the last axis, nats; p(A | x, q) against p(A | q). Infinite where p allows what q excludes."""
    return np.asarray(rel_entr(np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)).sum(-1))


@dataclass(frozen=True, kw_only=True)
class Susceptibility:
    """Mean persuasion over contexts, nats."""

    value: float
    form: Literal["mixture", "without context"]
    """`mixture`: p(A | q) is the mixture over the sampled contexts, and the value is I(A; X | q); `without context`: it is the model's answer
    without any, and the value is the mutual information plus the divergence of the mixture from it."""


def susceptibility(given: ArrayLike, without: ArrayLike | None = None) -> Susceptibility:
    """How far contexts move the answer to a question.

    Args:
        given: p(A | x, q) for sampled contexts x, `[n_contexts, n_answers]`.
        without: p(A | q), `[n_answers]`; None: the mixture of `given`.

    Source: Du et al. 2024, section 3.
    """
    p = np.asarray(given, dtype=np.float64)
    reference = p.mean(0) if without is None else np.asarray(without, dtype=np.float64)
    value = float(persuasion(p, reference[None]).mean())
    return Susceptibility(value=value, form="mixture" if without is None else "without context")


def by_fact(values: ArrayLike, facts: Sequence[str]) -> Floats:
    """Mean of the cases of each fact, in the order of first appearance: what is independent of each other."""
    v = np.asarray(values, dtype=np.float64)
    of = np.unique(facts, return_inverse=True)[1] if len(facts) else np.empty(0, dtype=np.int64)
    return np.array([v[of == i].mean() for i in dict.fromkeys(of.tolist())])


def mean_over_facts(
    values: ArrayLike, facts: Sequence[str], *, n_bootstrap: int = 1000, seed: int = 0
) -> Estimate | None:
    """Mean with a bootstrap interval over facts; None: fewer than two facts."""
    v = by_fact(values, facts)
    return over_items(v, n_bootstrap=n_bootstrap, seed=seed) if len(v) > 1 else None


def headroom(
    intervention: ArrayLike, prompt: ArrayLike, facts: Sequence[str], *, n_bootstrap: int = 1000, seed: int = 0
) -> Estimate | None:
    """Best intervention less best prompt, of the same cases, with a bootstrap over facts; None: fewer than two facts.

    Both must have been chosen on other facts: what selects is never what is reported.
    """
    a, b = by_fact(intervention, facts), by_fact(prompt, facts)
    return difference(a, b, paired=True, n_bootstrap=n_bootstrap, seed=seed) if len(a) > 1 else None


@dataclass(frozen=True, kw_only=True)
class HalfPoint:
    """Exposures at which P(context) has fallen to one half."""

    n50: float
    lo: float
    hi: float
    n_facts: int
    beyond: Literal["", "below", "above"]
    """Where one half is not crossed within the exposures that were tried: the ends stand for it, and n50 lies `below` the lowest or `above`
    the highest of them."""
    method: str = (
        "P(context) at each exposure count, made to fall (isotonic), straight lines between against log2(1 + n)"
    )


def half_point(p_context: ArrayLike, n: ArrayLike, facts: Sequence[str], *, n_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> HalfPoint:  # fmt: skip
    """n50 with a bootstrap interval over facts, drawn anew within each exposure count.

    Args:
        p_context: `[n_cases]`.
        n: exposures of each, `[n_cases]`; the cases of a fact have the same.
        facts: of each case.
        n_bootstrap: resamples for the interval, whose ends are those of the tried exposures where a resample does not cross.
        confidence: of the interval.
        seed: of the resamples.

    Raises:
        ValueError: fewer than two exposure counts.
    """
    p, n = columns(2, p_context=p_context, n=n)
    p, n = by_fact(p, facts), by_fact(n, facts)
    levels = np.unique(n)
    if len(levels) < 2:
        raise ValueError(f"n50 needs at least two exposure counts; all cases have n={levels[0]:g}")
    x, rows = np.log2(1 + levels), [np.flatnonzero(n == level) for level in levels]
    sizes = np.array([len(row) for row in rows])

    def crossing(means: Floats) -> float:
        return _crossing(x, falling(means, sizes))

    rng, centre = np.random.default_rng(seed), crossing(np.array([p[row].mean() for row in rows]))
    drawn = np.stack([p[row][rng.integers(len(row), size=(n_bootstrap, len(row)))].mean(1) for row in rows], axis=1)
    values = np.array([crossing(means) for means in drawn])
    lo, hi = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2]) if n_bootstrap else (np.nan, np.nan)
    beyond = "" if x[0] < centre < x[-1] else "below" if centre <= x[0] else "above"
    ends = [float(2**value - 1) for value in (centre, lo, hi)]
    return HalfPoint(n50=ends[0], lo=ends[1], hi=ends[2], n_facts=len(p), beyond=beyond)


def falling(means: Floats, weights: NDArray[np.int64]) -> Floats:
    """The nearest values that never rise, by weighted squares (pool adjacent violators)."""
    blocks: list[tuple[float, int, int]] = []
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        blocks.append((mean, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, wa, ka), (b, wb, kb) = blocks[-2:]
            blocks[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, ka + kb)]
    return np.concatenate([np.full(k, mean) for mean, _, k in blocks])


def _crossing(x: Floats, y: Floats) -> float:
    """Where falling values cross one half; an end where they do not."""
    if y[0] <= 0.5:
        return float(x[0])
    if y[-1] > 0.5:
        return float(x[-1])
    i = int(np.flatnonzero(y <= 0.5)[0])
    return float(x[i - 1] + (y[i - 1] - 0.5) / (y[i - 1] - y[i]) * (x[i] - x[i - 1]))
