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
from functools import cache, cached_property
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


def top_energy(h: Tensor | Magnitudes, percent: int) -> Tensor:
    """Share of the energy in the largest `percent` of the units.

    sum of the k largest h_i^2 / sum h_i^2, k = max(1, floor(percent * d / 100)). Higher is sparser; range [k/d, 1].
    Axioms: scaling, rising tide. Fails Robin Hood (a transfer among small entries lowers the total energy), cloning and
    babies (the floor), Bill Gates where the top units hold everything already.

    Args:
        h: `[..., d]`.
        percent: 1 to 99.

    Returns:
        `[...]`, fraction of energy.

    Source: Jin et al. 2026 (arXiv 2603.03415), released code; at least one unit is ours.
    """
    m = magnitudes(h)
    return m.squared[..., -n_top(m.width, percent) :].sum(-1) / m.two


def top1(h: Tensor | Magnitudes) -> Tensor:
    """Share of the energy in the largest 1% of the units; see `top_energy`. `[..., d] -> [...]`."""
    return top_energy(h, 1)


def top5(h: Tensor | Magnitudes) -> Tensor:
    """Share of the energy in the largest 5% of the units; see `top_energy`. `[..., d] -> [...]`."""
    return top_energy(h, 5)


def top10(h: Tensor | Magnitudes) -> Tensor:
    """Share of the energy in the largest 10% of the units; see `top_energy`. `[..., d] -> [...]`."""
    return top_energy(h, 10)


def energy_rank(h: Tensor | Magnitudes) -> Tensor:
    """Effective number of units that carry the energy, as a fraction of the width.

    exp(-sum s ln s) / d with s_i = h_i^2 / sum h^2. Lower is sparser; range [1/d, 1]. `[..., d] -> [...]`.
    Axioms: all but Robin Hood (a transfer changes the total energy).
    """
    m = magnitudes(h)
    # With a^2 = s * sum a^2:  -sum s ln s = ln(sum a^2) - sum a^2 ln a^2 / sum a^2
    entropy = m.two.log() - 2 * torch.linalg.vecdot(m.squared, m.logs) / m.two
    return entropy.exp() / m.width


def magnitude_rank(h: Tensor | Magnitudes) -> Tensor:
    """Effective number of units that carry the magnitude, as a fraction of the width.

    exp(-sum p ln p) / d with p_i = |h_i| / |h|_1. Lower is sparser; range [1/d, 1]. `[..., d] -> [...]`.
    All six axioms.
    """
    m = magnitudes(h)
    entropy = m.one.log() - torch.linalg.vecdot(m.sorted, m.logs) / m.one
    return entropy.exp() / m.width


def hoyer(h: Tensor | Sums) -> Tensor:
    """Hoyer's measure: (sqrt d - |h|_1 / |h|_2) / (sqrt d - 1).

    Higher is sparser; range [0, 1]: 0 all equal, 1 a single active unit. `[..., d] -> [...]`. Axioms: all but cloning.
    """
    m = sums(h)
    root = m.n**0.5
    return (root - m.one / m.two.sqrt()) / (root - 1)


def gini(h: Tensor | Magnitudes) -> Tensor:
    """Gini index of the magnitudes: 2 sum_i i |h|_(i) / (d |h|_1) - (d + 1) / d, |h|_(1) <= ... <= |h|_(d).

    Higher is sparser; range [0, 1 - 1/d]. `[..., d] -> [...]`. All six axioms: the default headline.
    """
    m = magnitudes(h)
    # The same sum with the constant drawn in: no difference of large numbers.
    weights = torch.arange(1 - m.width, m.width, 2, device=m.raw.device).to(m.raw.dtype)
    return m.sorted @ weights / (m.width * m.one)


def gini_active(h: Tensor | Magnitudes) -> Tensor:
    """Gini index among the entries that are not zero: 1 - (1 - gini) d / n_active.

    For points behind AbsTopK, where `l0` is fixed by construction and most of `gini` with it. Equals `gini` where
    nothing is zero. Higher is sparser; range [0, 1 - 1/n_active]. `[..., d] -> [...]`.
    Axioms: scaling, cloning, Bill Gates; zeros do not count, so babies, and Robin Hood and rising tide at a zero, fail.
    """
    m = magnitudes(h)
    return 1 - (1 - gini(m)) * m.width / m.n_active


def kurtosis(h: Tensor | Sums) -> Tensor:
    """Kurtosis about zero: mean h^4 / (mean h^2)^2.

    Higher is sparser; range [1, d]. `[..., d] -> [...]`. Axioms: all but Robin Hood. It is d / participation ratio for
    one vector, yet their averages over vectors differ.
    """
    m = sums(h)
    return m.n * m.four / m.two.square()


def participation_ratio(h: Tensor | Sums) -> Tensor:
    """Number of units that share the energy: (sum h^2)^2 / sum h^4.

    Lower is sparser; range [1, d], in units. `[..., d] -> [...]`. Axioms: scaling, rising tide, Bill Gates; it counts
    units, so cloning and babies fail; Robin Hood fails.
    """
    m = sums(h)
    return m.two.square() / m.four


def participation_share(h: Tensor | Sums) -> Tensor:
    """Participation ratio / d: the fraction of the units that share the energy.

    Lower is sparser; range [1/d, 1]. `[..., d] -> [...]`. Axioms: all but Robin Hood.
    """
    m = sums(h)
    return participation_ratio(m) / m.n


def treves_rolls(h: Tensor | Sums) -> Tensor:
    """Treves-Rolls activity: (mean |h|)^2 / mean h^2.

    Lower is sparser; range [1/d, 1]; for a binary vector it is the fraction of active units. `[..., d] -> [...]`.
    All six axioms.
    """
    m = sums(h)
    return m.one.square() / (m.n * m.two)


def pq_half_2(h: Tensor | Sums) -> Tensor:
    """pq-mean with p = 1/2, q = 2: -(mean |h|^(1/2))^2 / (mean h^2)^(1/2).

    Higher is sparser; range [-1, -d^(-3/2)]. `[..., d] -> [...]`. All six axioms.
    Source: Hurley & Rickard 2009, table I.
    """
    m = sums(h)
    return -(m.half / m.n).square() / (m.two / m.n).sqrt()


def pq_1_2(h: Tensor | Sums) -> Tensor:
    """pq-mean with p = 1, q = 2: -mean |h| / (mean h^2)^(1/2).

    Higher is sparser; range [-1, -d^(-1/2)]. `[..., d] -> [...]`. All six axioms.
    Source: Hurley & Rickard 2009, table I.
    """
    m = sums(h)
    return -(m.one / m.n) / (m.two / m.n).sqrt()


def l0(h: Tensor | Sums) -> Tensor:
    """Fraction of the units that are not zero: 0 for a zero vector; k/d behind AbsTopK by construction.

    Lower is sparser; range [0, 1]. `[..., d] -> [...]`. Axioms: scaling, cloning, babies.
    """
    m = sums(h)
    return m.n_active / m.n


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One entry of `MEASURES`."""

    name: str
    fn: Callable[..., Tensor]
    direction: Literal["higher", "lower"]
    """Which way is sparser."""
    gaussian_limit: float
    """Value on a Gaussian vector as its width grows (exact; formula at the entry)."""
    axioms: frozenset[str]
    """The axioms it satisfies."""
    from_sums: bool
    """Whether power sums suffice, so that it can be accumulated over a stream."""

    def gaussian(self, width: int | None = None) -> float:
        """Value on a Gaussian vector: the limit, or the mean at this width (see `gaussian_reference`)."""
        return self.gaussian_limit if width is None else gaussian_reference(width)[self.name]


def _tail_energy(fraction: float) -> float:
    """E[x^2; |x| > t] of a standard normal with P(|x| > t) = fraction: 2 t phi(t) + fraction."""
    t = float(norm.isf(fraction / 2))
    return 2 * t * float(norm.pdf(t)) + fraction


def _measures() -> dict[str, Measure]:
    everything = frozenset(AXIOMS)
    but_robin_hood = everything - {"robin_hood"}
    euler = -float(psi(1))
    rows = [
        ("top1", top1, "higher", _tail_energy(0.01), {"scaling", "rising_tide"}),
        ("top5", top5, "higher", _tail_energy(0.05), {"scaling", "rising_tide"}),
        ("top10", top10, "higher", _tail_energy(0.10), {"scaling", "rising_tide"}),
        # exp(-E[x^2 ln x^2]), E[x^2 ln x^2] = psi(3/2) + ln 2
        ("energy_rank", energy_rank, "lower", e ** -(float(psi(1.5)) + log(2)), but_robin_hood),
        # exp(ln E|x| - E[|x| ln|x|] / E|x|), the ratio being (ln 2 - Euler's constant) / 2
        ("magnitude_rank", magnitude_rank, "lower", sqrt(2 / pi) * e ** (-(log(2) - euler) / 2), everything),
        ("hoyer", hoyer, "higher", 1 - sqrt(2 / pi), everything - {"cloning"}),
        ("gini", gini, "higher", sqrt(2) - 1, everything),
        ("gini_active", gini_active, "higher", sqrt(2) - 1, {"scaling", "cloning", "bill_gates"}),
        ("kurtosis", kurtosis, "higher", 3.0, but_robin_hood),
        ("participation_ratio", participation_ratio, "lower", inf, {"scaling", "rising_tide", "bill_gates"}),
        ("participation_share", participation_share, "lower", 1 / 3, but_robin_hood),
        ("treves_rolls", treves_rolls, "lower", 2 / pi, everything),
        # (E|x|^(1/2))^2, E|x|^p = 2^(p/2) Gamma((p + 1)/2) / sqrt(pi)
        ("pq_half_2", pq_half_2, "higher", -((2**0.25 * float(gamma(0.75)) / sqrt(pi)) ** 2), everything),
        ("pq_1_2", pq_1_2, "higher", -sqrt(2 / pi), everything),
        ("l0", l0, "lower", 1.0, {"scaling", "cloning", "babies"}),
    ]
    from_sums = {hoyer, kurtosis, participation_ratio, participation_share, treves_rolls, pq_half_2, pq_1_2, l0}
    return {
        name: Measure(
            name=name, fn=fn, direction=way, gaussian_limit=limit, axioms=frozenset(axioms), from_sums=fn in from_sums
        )
        for name, fn, way, limit, axioms in rows
    }


MEASURES: Mapping[str, Measure] = _measures()
"""Every measure of a single vector, by name."""

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


def lifetime_measures(h: Tensor, names: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """Measures of each unit over vectors: is this unit active rarely and strongly?

    Args:
        h: `[n_vectors, width]`.
        names: which (all where None).

    Returns:
        name -> `[width]`; NaN (l0: 0) for a unit that is never active.
    """
    return all_measures(h.T, names)


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


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of two active sets: size of the intersection / size of the union, in [0, 1].

    Args:
        a, b: `[..., width]` bool, or 0/1 floats.

    Returns:
        `[...]` float32; NaN where both sets are empty.
    """
    a, b = a.float(), b.float()
    both = torch.linalg.vecdot(a, b)
    return both / (a.sum(-1) + b.sum(-1) - both)


def mean_pairwise_jaccard(active: Tensor) -> Tensor:
    """Mean Jaccard overlap over all pairs of examples, pairs of empty sets left out.

    Args:
        active: `[n, width]` bool; n >= 2. Needs n^2 memory: for samples, not for streams.

    Returns:
        scalar float32.
    """
    a = active.float()
    both = a @ a.T
    size = a.sum(-1)
    overlap = both / (size[:, None] + size[None, :] - both)
    return overlap[torch.triu(torch.ones_like(overlap, dtype=torch.bool), diagonal=1)].nanmean()


def dead_share(active: Tensor) -> Tensor:
    """Fraction of the units that are active in no example. `[n, width]` bool -> scalar float32."""
    return (~active.any(0)).float().mean()


def always_on_share(active: Tensor) -> Tensor:
    """Fraction of the units that are active in every example. `[n, width]` bool -> scalar float32."""
    return active.all(0).float().mean()
