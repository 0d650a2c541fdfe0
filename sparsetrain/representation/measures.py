"""Sparsity measures of an activation vector h of width d: pure functions `[..., d] -> [...]`.

1. Every measure sees magnitudes a = |h| / max|h| only: no sign, order or scale matters; nothing overflows.
2. Magnitudes are sorted once and shared: `all_measures(h)` costs little more than the sort.
3. A zero vector has no distribution of energy: every measure is NaN there, except `l0`, which is 0. Averages leave such
   vectors out. NaN or infinite input gives NaN.
4. `gaussian_reference(width)` says what each measure reads on a Gaussian vector. Without it "dense" means nothing.
5. Population (per vector, over units) and lifetime (per unit, over vectors) readings are the same functions on
   different axes; they need not agree.

The six axioms (Hurley & Rickard 2009, arXiv 0811.4706, section II), stated for c >= 0 that is not constant:
`robin_hood` taking from a larger entry to a smaller one makes c less sparse; `scaling` does not matter; `rising_tide`
adding a constant makes it less sparse; `cloning` (c, c) is as sparse as c; `bill_gates` an entry that grows beyond all
bounds makes it sparser in the end; `babies` appending zeros makes it sparser. All but `scaling` and `cloning` strictly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from math import e, inf, log, pi, sqrt
from typing import Literal

import numpy as np
import torch
from scipy.special import gamma, psi
from scipy.stats import norm
from torch import Tensor

AXIOMS = ("robin_hood", "scaling", "rising_tide", "cloning", "bill_gates", "babies")


@dataclass(frozen=True, kw_only=True)
class PowerSums:
    """Power sums of magnitudes a accumulated elsewhere, for instance over a stream of tokens.

    Enough for every measure that needs no sorting.
    """

    n: float | Tensor
    """Number of entries."""
    half: Tensor
    """Sum of a^(1/2)."""
    one: Tensor
    """Sum of a."""
    two: Tensor
    """Sum of a^2, the energy."""
    four: Tensor
    """Sum of a^4."""
    n_active: Tensor
    """Number of entries that are not zero."""


def sort_ascending(x: Tensor) -> Tensor:
    """Sorts the last axis. NaN comes last.

    On the CPU numpy's vectorised sort does it, about eight times faster than torch's; the result is the same.
    """
    if x.device.type == "cpu" and not x.requires_grad:
        return torch.from_numpy(np.sort(x.numpy(), axis=-1))
    return x.sort(dim=-1).values


class Magnitudes:
    """|h| / max|h| along the last axis, and what several measures share, each computed once and only when asked for.

    Args:
        h: `[..., width]`, any float type; computed in float32 or better.

    Raises:
        ValueError: a width below 2, where sparsity is not defined.
    """

    def __init__(self, h: Tensor) -> None:
        if h.ndim < 1 or h.shape[-1] < 2:
            raise ValueError(f"activations of shape {tuple(h.shape)} need a last axis of at least 2 units")
        self.raw = h.abs().to(torch.promote_types(h.dtype, torch.float32))
        self.width = h.shape[-1]
        self.peak = self.raw.amax(-1)

    @property
    def n(self) -> float:
        return float(self.width)

    @cached_property
    def sorted(self) -> Tensor:
        """Ascending, `[..., width]`, the last entry 1 (NaN for a zero vector)."""
        return sort_ascending(self.raw) / self.peak[..., None]

    @cached_property
    def squared(self) -> Tensor:
        """Ascending squares, `[..., width]`."""
        return self.sorted.square()

    @cached_property
    def logs(self) -> Tensor:
        """Ascending logarithms, `[..., width]`; finite at zero, where it is always multiplied by zero."""
        return self.sorted.clamp_min(torch.finfo(self.raw.dtype).tiny).log()

    @cached_property
    def roots(self) -> Tensor:
        """Square roots of the raw magnitudes, `[..., width]`."""
        return self.raw.sqrt()

    @cached_property
    def active(self) -> Tensor:
        """1 where an entry is not zero, else 0, `[..., width]`."""
        return self.raw.sign()

    @cached_property
    def half(self) -> Tensor:
        return self.roots.sum(-1) / self.peak.sqrt()

    @cached_property
    def one(self) -> Tensor:
        return self.sorted.sum(-1)

    @cached_property
    def two(self) -> Tensor:
        return self.squared.sum(-1)

    @cached_property
    def four(self) -> Tensor:
        return torch.linalg.vecdot(self.squared, self.squared)

    @cached_property
    def n_active(self) -> Tensor:
        # 0 * peak turns NaN and infinity into NaN.
        return self.active.sum(-1) + 0 * self.peak


Sums = Magnitudes | PowerSums


def magnitudes(h: Tensor | Magnitudes) -> Magnitudes:
    """Magnitudes of a tensor; shared ones pass through."""
    return h if isinstance(h, Magnitudes) else Magnitudes(h)


def sums(h: Tensor | Sums) -> Sums:
    """Power sums of a tensor along its last axis; shared ones pass through."""
    return Magnitudes(h) if isinstance(h, Tensor) else h


def n_top(width: int, percent: int) -> int:
    """How many units `percent` of a width are: floor(percent * width / 100), but at least one (ours)."""
    return max(1, percent * width // 100)


Direction = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One entry of `MEASURES`."""

    name: str
    fn: Callable[..., Tensor]
    words: str
    """What it says, on the page."""
    direction: Direction
    """Which way is sparser."""
    gaussian_limit: float
    """Value on a Gaussian vector as its width grows (exact; formula at the entry)."""
    axioms: frozenset[str]
    """The axioms it satisfies."""
    unit: str
    """Empty: it has none."""
    from_sums: bool
    """Whether power sums suffice, so that it can be accumulated over a stream."""


MEASURES: dict[str, Measure] = {}
"""Every measure of a single vector, by name."""


def measure(
    direction: Direction,
    words: str,
    gaussian_limit: float,
    *,
    fails: tuple[str, ...] = (),
    unit: str = "fraction",
    from_sums: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Enters a function into `MEASURES`; `fails`: the axioms that it does not satisfy."""

    def enter(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        MEASURES[fn.__name__] = Measure(
            name=fn.__name__,
            fn=fn,
            words=words + ("; lower is sparser" if direction == "lower" else ""),
            direction=direction,
            gaussian_limit=gaussian_limit,
            axioms=frozenset(AXIOMS) - set(fails),
            unit=unit,
            from_sums=from_sums,
        )
        return fn

    return enter


def top_energy(h: Tensor | Magnitudes, percent: int) -> Tensor:
    """Share of the energy in the largest `percent` (1 to 99) of the units: `top1`, `top5`, `top10`.

    sum of the k largest h_i^2 / sum h_i^2, k = max(1, floor(percent * d / 100)); range [k/d, 1].
    Fails Robin Hood (a transfer among small entries lowers the total energy), cloning and babies (the floor), Bill Gates where
    the top units hold everything already.

    Source: Jin et al. 2026 (arXiv 2603.03415), released code; at least one unit is ours.
    """
    m = magnitudes(h)
    return m.squared[..., -n_top(m.width, percent) :].sum(-1) / m.two


def _enter_top(percent: int) -> None:
    # E[x^2; |x| > t] of a standard normal with P(|x| > t) = percent / 100: 2 t phi(t) + percent / 100
    t = float(norm.isf(percent / 200))
    fn = partial(top_energy, percent=percent)
    fn.__name__ = f"top{percent}"  # pyright: ignore[reportAttributeAccessIssue]
    measure(
        "higher",
        f"share of the energy in the strongest {percent}% of channels",
        2 * t * float(norm.pdf(t)) + percent / 100,
        fails=("robin_hood", "cloning", "babies", "bill_gates"),
    )(fn)


for _percent in (1, 5, 10):
    _enter_top(_percent)


# exp(-E[x^2 ln x^2]), E[x^2 ln x^2] = psi(3/2) + ln 2
@measure(
    "lower",
    "effective share of channels that carry the energy",
    e ** -(float(psi(1.5)) + log(2)),
    fails=("robin_hood",),
)
def energy_rank(h: Tensor | Magnitudes) -> Tensor:
    """Effective number of units that carry the energy, as a fraction of the width.

    exp(-sum s ln s) / d with s_i = h_i^2 / sum h^2; range [1/d, 1]. A transfer changes the total energy, so Robin Hood fails.
    """
    m = magnitudes(h)
    # With a^2 = s * sum a^2:  -sum s ln s = ln(sum a^2) - sum a^2 ln a^2 / sum a^2
    entropy = m.two.log() - 2 * torch.linalg.vecdot(m.squared, m.logs) / m.two
    return entropy.exp() / m.width


# exp(ln E|x| - E[|x| ln|x|] / E|x|), the ratio being (ln 2 - Euler's constant) / 2
@measure(
    "lower", "effective share of channels that carry the magnitude", sqrt(2 / pi) * e ** (-(log(2) + float(psi(1))) / 2)
)
def magnitude_rank(h: Tensor | Magnitudes) -> Tensor:
    """Effective number of units that carry the magnitude, as a fraction of the width.

    exp(-sum p ln p) / d with p_i = |h_i| / |h|_1; range [1/d, 1].
    """
    m = magnitudes(h)
    entropy = m.one.log() - torch.linalg.vecdot(m.sorted, m.logs) / m.one
    return entropy.exp() / m.width


@measure(
    "higher",
    "Hoyer sparsity: 0 if all channels are equally strong, 1 if one holds everything",
    1 - sqrt(2 / pi),
    fails=("cloning",),
    unit="",
    from_sums=True,
)
def hoyer(h: Tensor | Sums) -> Tensor:
    """Hoyer's measure: (sqrt d - |h|_1 / |h|_2) / (sqrt d - 1); range [0, 1]."""
    m = sums(h)
    root = m.n**0.5
    return (root - m.one / m.two.sqrt()) / (root - 1)


@measure(
    "higher",
    "Gini coefficient of |h|: 0 if all channels are equally strong, 1 if one holds everything",
    sqrt(2) - 1,
    unit="",
)
def gini(h: Tensor | Magnitudes) -> Tensor:
    """Gini index of the magnitudes: 2 sum_i i |h|_(i) / (d |h|_1) - (d + 1) / d, |h|_(1) <= ... <= |h|_(d).

    Range [0, 1 - 1/d]. All six axioms: the default headline.
    """
    m = magnitudes(h)
    # The same sum with the constant drawn in: no difference of large numbers.
    weights = torch.arange(1 - m.width, m.width, 2, device=m.raw.device).to(m.raw.dtype)
    return m.sorted @ weights / (m.width * m.one)


@measure(
    "higher",
    "Gini coefficient among the channels that are not zero",
    sqrt(2) - 1,
    fails=("robin_hood", "rising_tide", "babies"),
    unit="",
)
def gini_active(h: Tensor | Magnitudes) -> Tensor:
    """Gini index among the entries that are not zero: 1 - (1 - gini) d / n_active; range [0, 1 - 1/n_active].

    For points behind AbsTopK, where `l0` is fixed by construction and most of `gini` with it. Equals `gini` where
    nothing is zero. Zeros do not count, so babies, and Robin Hood and rising tide at a zero, fail.
    """
    m = magnitudes(h)
    return 1 - (1 - gini(m)) * m.width / m.n_active


@measure("higher", "kurtosis about zero", 3.0, fails=("robin_hood",), unit="", from_sums=True)
def kurtosis(h: Tensor | Sums) -> Tensor:
    """Kurtosis about zero: mean h^4 / (mean h^2)^2; range [1, d].

    It is d / participation ratio for one vector, yet their averages over vectors differ.
    """
    m = sums(h)
    return m.n * m.four / m.two.square()


@measure(
    "lower",
    "number of channels that share the energy",
    inf,
    fails=("robin_hood", "cloning", "babies"),
    unit="units",
    from_sums=True,
)
def participation_ratio(h: Tensor | Sums) -> Tensor:
    """Number of units that share the energy: (sum h^2)^2 / sum h^4; range [1, d]. It counts units, so cloning and babies fail."""
    m = sums(h)
    return m.two.square() / m.four


@measure("lower", "share of the channels that share the energy", 1 / 3, fails=("robin_hood",), from_sums=True)
def participation_share(h: Tensor | Sums) -> Tensor:
    """Participation ratio / d: the fraction of the units that share the energy; range [1/d, 1]."""
    m = sums(h)
    return participation_ratio(m) / m.n


@measure("lower", "Treves-Rolls activity", 2 / pi, from_sums=True)
def treves_rolls(h: Tensor | Sums) -> Tensor:
    """Treves-Rolls activity: (mean |h|)^2 / mean h^2; range [1/d, 1]; for a binary vector the fraction of active units."""
    m = sums(h)
    return m.one.square() / (m.n * m.two)


# (E|x|^(1/2))^2, E|x|^p = 2^(p/2) Gamma((p + 1)/2) / sqrt(pi)
@measure(
    "higher",
    "pq-mean with p = 1/2, q = 2",
    -((2**0.25 * float(gamma(0.75)) / sqrt(pi)) ** 2),
    unit="",
    from_sums=True,
)
def pq_half_2(h: Tensor | Sums) -> Tensor:
    """pq-mean with p = 1/2, q = 2: -(mean |h|^(1/2))^2 / (mean h^2)^(1/2); range [-1, -d^(-3/2)].

    Source: Hurley & Rickard 2009, table I.
    """
    m = sums(h)
    return -(m.half / m.n).square() / (m.two / m.n).sqrt()


@measure("higher", "pq-mean with p = 1, q = 2", -sqrt(2 / pi), unit="", from_sums=True)
def pq_1_2(h: Tensor | Sums) -> Tensor:
    """pq-mean with p = 1, q = 2: -mean |h| / (mean h^2)^(1/2); range [-1, -d^(-1/2)].

    Source: Hurley & Rickard 2009, table I.
    """
    m = sums(h)
    return -(m.one / m.n) / (m.two / m.n).sqrt()


@measure(
    "lower",
    "share of the channels that are not zero",
    1.0,
    fails=("robin_hood", "rising_tide", "bill_gates"),
    from_sums=True,
)
def l0(h: Tensor | Sums) -> Tensor:
    """Fraction of the units that are not zero: 0 for a zero vector; k/d behind AbsTopK by construction. Range [0, 1]."""
    m = sums(h)
    return m.n_active / m.n


HEADLINE = "gini"
"""The measure that is plotted and tested unless another is asked for."""


def all_measures(h: Tensor, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """Measures of each vector, sharing one sort.

    Args:
        h: `[..., width]`.
        names: which (all where None).

    Returns:
        name -> `[...]`, float32 or better.
    """
    m = Magnitudes(h)
    return {name: MEASURES[name].fn(m) for name in (MEASURES if names is None else names)}


@cache
def gaussian_reference(
    width: int, k: int | None = None, *, n_entries: int = 2**20, seed: int = 0
) -> Mapping[str, float]:
    """Mean of each measure over independent standard normal vectors of a width, by seeded Monte-Carlo.

    Args:
        width: units.
        k: keep the k largest magnitudes of each vector, as AbsTopK does (None: all of them).
        n_entries: random numbers drawn; the standard error of each mean is below 0.5% from 2^20 on.
        seed: of the draw.

    Returns:
        name -> value.
    """
    n_vectors = max(2, n_entries // width)
    a = np.abs(np.random.default_rng(seed).standard_normal((n_vectors, width), dtype=np.float32))
    if k is not None:
        if not 1 <= k <= width:
            raise ValueError(f"k={k} of width {width}: it must lie in [1, {width}]")
        a.sort(axis=-1)
        a[:, : width - k] = 0
    return {name: value.double().mean().item() for name, value in all_measures(torch.from_numpy(a)).items()}


def active_jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of two active sets: size of the intersection / size of the union, in [0, 1].

    Args:
        a: `[..., width]` bool, or 0/1 floats.
        b: the same.

    Returns:
        `[...]` float32; NaN where both sets are empty.
    """
    a, b = a.float(), b.float()
    both = torch.linalg.vecdot(a, b)
    return both / (a.sum(-1) + b.sum(-1) - both)
