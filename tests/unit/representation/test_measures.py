"""Each measure against a formula written again in numpy, its Gaussian value, and the axioms it satisfies and fails."""

from math import inf, isfinite, sqrt

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsetrain.representation.measures import (
    AXIOMS,
    MEASURES,
    PowerSums,
    active_jaccard,
    all_measures,
    gaussian_reference,
    n_top,
    sort_ascending,
    top_energy,
)


def entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


def gini_by_pairs(a):
    return np.abs(a[:, None] - a[None, :]).sum() / (2 * len(a) * a.sum())


def top(percent):
    def share(h):
        squares = sorted((float(x) ** 2 for x in h), reverse=True)
        return sum(squares[: max(1, int(len(h) * percent / 100 + 1e-9))]) / sum(squares)

    return share


def pq(p, q):
    return lambda h: -(np.mean(np.abs(h) ** p) ** (1 / p)) / np.mean(np.abs(h) ** q) ** (1 / q)


FORMULAS = {
    "top1": top(1),
    "top5": top(5),
    "top10": top(10),
    "energy_rank": lambda h: np.exp(entropy(h**2 / (h**2).sum())) / len(h),
    "magnitude_rank": lambda h: np.exp(entropy(np.abs(h) / np.abs(h).sum())) / len(h),
    "hoyer": lambda h: (sqrt(len(h)) - np.abs(h).sum() / sqrt((h**2).sum())) / (sqrt(len(h)) - 1),
    "gini": lambda h: gini_by_pairs(np.abs(h)),
    "gini_active": lambda h: gini_by_pairs(np.abs(h[h != 0])),
    "kurtosis": lambda h: np.mean(h**4) / np.mean(h**2) ** 2,
    "participation_ratio": lambda h: (h**2).sum() ** 2 / (h**4).sum(),
    "participation_share": lambda h: (h**2).sum() ** 2 / (h**4).sum() / len(h),
    "treves_rolls": lambda h: np.mean(np.abs(h)) ** 2 / np.mean(h**2),
    "pq_half_2": pq(0.5, 2),
    "pq_1_2": pq(1, 2),
    "l0": lambda h: np.count_nonzero(h) / len(h),
}


def vectors(width, n=40, share_zero=0.0, seed=0):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((n, width)) * rng.lognormal(size=(n, width))
    h[rng.random(h.shape) < share_zero] = 0
    h[:, 0] = 1.0
    return h


@pytest.mark.parametrize("width", [2, 7, 30, 128, 257])
@pytest.mark.parametrize("share_zero", [0.0, 0.75])
def test_numpy_formulas(width, share_zero):
    h = vectors(width, share_zero=share_zero)
    got = all_measures(torch.from_numpy(h))
    assert set(got) == set(FORMULAS) == set(MEASURES)
    for name, value in got.items():
        np.testing.assert_allclose(value, [FORMULAS[name](x) for x in h], rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", MEASURES)
def test_alone_as_together_for_any_leading_shape(name):
    h = torch.from_numpy(vectors(16, n=6)).float().reshape(2, 3, 16)
    torch.testing.assert_close(MEASURES[name].fn(h), all_measures(h)[name], rtol=0, atol=0)


def test_hand_computed():
    got = {k: v.item() for k, v in all_measures(torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=torch.float64)).items()}
    want = {
        "top1": 16 / 25,
        "top5": 16 / 25,
        "top10": 16 / 25,
        "hoyer": (2 - 7 / 5) / 1,
        "gini": 2 * (3 * 3 + 4 * 4) / (4 * 7) - 5 / 4,
        "gini_active": 2 * (1 * 3 + 2 * 4) / (2 * 7) - 3 / 2,
        "kurtosis": (337 / 4) / (25 / 4) ** 2,
        "participation_ratio": 625 / 337,
        "participation_share": 625 / 337 / 4,
        "treves_rolls": (7 / 4) ** 2 / (25 / 4),
        "pq_1_2": -(7 / 4) / (5 / 2),
        "pq_half_2": -(((sqrt(3) + 2) / 4) ** 2) / (5 / 2),
        "l0": 0.5,
    }
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name


def test_extremes_of_the_ranges():
    one_hot, flat = torch.eye(8, dtype=torch.float64)[3], torch.ones(8, dtype=torch.float64)
    high = {k: v.item() for k, v in all_measures(one_hot).items()}
    low = {k: v.item() for k, v in all_measures(flat).items()}
    d = 8
    assert high["hoyer"] == pytest.approx(1) and low["hoyer"] == pytest.approx(0)
    assert high["gini"] == pytest.approx(1 - 1 / d) and low["gini"] == pytest.approx(0)
    assert high["kurtosis"] == pytest.approx(d) and low["kurtosis"] == pytest.approx(1)
    assert high["participation_ratio"] == pytest.approx(1) and low["participation_ratio"] == pytest.approx(d)
    assert high["pq_half_2"] == pytest.approx(-(d**-1.5)) and low["pq_half_2"] == pytest.approx(-1)
    assert high["pq_1_2"] == pytest.approx(-(d**-0.5)) and low["pq_1_2"] == pytest.approx(-1)
    for name in ("energy_rank", "magnitude_rank", "treves_rolls", "participation_share", "l0"):
        assert high[name] == pytest.approx(1 / d) and low[name] == pytest.approx(1), name
    for name, measure in MEASURES.items():
        if name != "gini_active":
            assert (high[name] > low[name]) == (measure.direction == "higher"), name


# The literature's values (three decimals), and the exact limits against a large sample.
LITERATURE = {
    "top1": 0.084,
    "top5": 0.279,
    "top10": 0.440,
    "hoyer": 0.202,
    "gini": 0.414,
    "energy_rank": 0.482,
    "kurtosis": 3.0,
    "participation_share": 0.333,
}


@pytest.mark.parametrize("name", [name for name in MEASURES if isfinite(MEASURES[name].gaussian_limit)])
def test_gaussian_value(name):
    measure = MEASURES[name]
    if name in LITERATURE:
        assert measure.gaussian_limit == pytest.approx(LITERATURE[name], abs=0.0011)
    x = torch.from_numpy(np.random.default_rng(3).standard_normal(1_000_000))
    assert measure.fn(x).item() == pytest.approx(measure.gaussian_limit, rel=0.01)


def test_gaussian_value_at_a_width():
    assert MEASURES["participation_ratio"].gaussian_limit == inf
    assert gaussian_reference(1024)["participation_ratio"] == pytest.approx(1024 / 3, rel=0.01)
    assert gaussian_reference(64)["gini"] == pytest.approx((sqrt(2) - 1) * 63 / 64, rel=0.01)
    h = torch.from_numpy(np.random.default_rng(5).standard_normal((2000, 1024)))
    assert all_measures(h, ("top5",))["top5"].std().item() == pytest.approx(0.012, abs=0.001)
    assert gaussian_reference(1024)["top5"] == pytest.approx(
        all_measures(h, ("top5",))["top5"].mean().item(), abs=0.002
    )


def test_gaussian_value_behind_abs_topk():
    reference = gaussian_reference(128, 32)
    assert reference["l0"] == pytest.approx(0.25)
    assert reference["gini_active"] < MEASURES["gini"].gaussian_limit < reference["gini"]
    with pytest.raises(ValueError, match=r"k=129 of width 128"):
        gaussian_reference(128, 129)


def test_zero_vector_and_bad_values():
    for name, value in all_measures(torch.zeros(3, 8)).items():
        assert (value == 0).all() if name == "l0" else value.isnan().all(), name
    for bad in (float("nan"), inf):
        for name, value in all_measures(torch.tensor([1.0, bad, 3.0])).items():
            assert value.isnan().all(), name
    with pytest.raises(ValueError, match="at least 2 units"):
        all_measures(torch.ones(5, 1))


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e15, 1e37])
def test_no_underflow_or_overflow(scale):
    h = torch.from_numpy(vectors(32)).float() / 100
    scaled = all_measures(h * scale)
    for name, value in all_measures(h).items():
        # Below 1e-38 float32 itself has few digits left.
        torch.testing.assert_close(scaled[name], value, rtol=1e-3 if scale > 1e-30 else 0.2, atol=1e-3, msg=name)


def test_half_precision_is_measured_in_float32():
    h = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, value in all_measures(h).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, all_measures(h.float())[name], rtol=0, atol=0)


def test_two_ways_to_sort_agree_and_carry_gradients():
    x = torch.rand(7, 33, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_()
    assert torch.equal(sort_ascending(x), sort_ascending(leaf))
    h = torch.from_numpy(vectors(6, n=2)).requires_grad_()
    assert torch.autograd.gradcheck(MEASURES["gini"].fn, (h,))


def test_top_energy_counts_units():
    assert [n_top(1000, p) for p in (1, 5, 10)] == [10, 50, 100]
    assert [n_top(30, p) for p in (1, 5, 10)] == [1, 1, 3]
    assert top_energy(torch.tensor([1.0, 2.0, 2.0, 0.0]), 50).item() == pytest.approx(8 / 9)


def sparser(name, a, b):
    """Whether `a` is strictly sparser than `b`."""
    x, y = (MEASURES[name].fn(torch.tensor(v, dtype=torch.float64)).item() for v in (a, b))
    return (x - y) * (1 if MEASURES[name].direction == "higher" else -1) > 1e-12


def same(name, a, b):
    x, y = (MEASURES[name].fn(torch.tensor(v, dtype=torch.float64)).item() for v in (a, b))
    return x == pytest.approx(y, rel=1e-9)


def holds(name, axiom, before, after):
    """What the axiom demands of a pair that it is about."""
    if axiom in ("scaling", "cloning"):
        return same(name, before, after)
    if axiom in ("robin_hood", "rising_tide"):
        return sparser(name, before, after)
    return sparser(name, after, before)


@st.composite
def pairs(draw, axiom):
    """A magnitude vector that is not constant and has two active entries, and what the axiom turns it into."""
    c = draw(st.lists(st.integers(0, 40).map(float), min_size=3, max_size=12))
    assume(len(set(c)) > 1 and sum(x > 0 for x in c) > 1)
    if axiom == "robin_hood":
        i, j = draw(st.sampled_from([(i, j) for i in range(len(c)) for j in range(len(c)) if c[i] > c[j]]))
        amount = draw(st.sampled_from([0.05, 0.25, 0.45])) * (c[i] - c[j])
        after = list(c)
        after[i], after[j] = c[i] - amount, c[j] + amount
        return c, after
    if axiom == "scaling":
        factor = draw(st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
        return c, [factor * x for x in c]
    if axiom == "rising_tide":
        constant = draw(st.integers(1, 40))
        return c, [x + constant for x in c]
    if axiom == "cloning":
        return c, c * draw(st.integers(2, 3))
    if axiom == "bill_gates":
        i = draw(st.integers(0, len(c) - 1))
        rich = 100 * (sum(c) + 1)
        return [rich if k == i else x for k, x in enumerate(c)], [2 * rich if k == i else x for k, x in enumerate(c)]
    return c, c + [0.0] * draw(st.integers(1, 3))


@pytest.mark.parametrize(("name", "axiom"), [(n, a) for n in MEASURES for a in AXIOMS if a in MEASURES[n].axioms])
def test_axiom_holds(name, axiom):
    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(pairs(axiom))
    def check(pair):
        assert holds(name, axiom, *pair), pair

    check()


LARGE_AND_TWO_SMALL = ([10.0, 4.0, 2.0], [10.0, 3.0, 3.0])
COUNTER_EXAMPLES = {
    **{(n, "robin_hood"): LARGE_AND_TWO_SMALL for n in ("top1", "top5", "top10", "energy_rank", "kurtosis")},
    **{(n, "robin_hood"): LARGE_AND_TWO_SMALL for n in ("participation_ratio", "participation_share")},
    **{(n, "cloning"): ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0] * 2) for n in ("top1", "top5", "top10", "hoyer")},
    ("participation_ratio", "cloning"): ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0] * 2),
    **{(n, "babies"): ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0, 0.0]) for n in ("top1", "top5", "top10", "gini_active")},
    ("participation_ratio", "babies"): ([3.0, 2.0, 1.0], [3.0, 2.0, 1.0, 0.0]),
    # Two units hold everything and two are the top: nothing is left to gain.
    **{
        (f"top{p}", "bill_gates"): ([900.0, 3.0] + [0.0] * (200 // p - 2), [1800.0, 3.0] + [0.0] * (200 // p - 2))
        for p in (1, 5, 10)
    },
    ("gini_active", "robin_hood"): ([1.0, 1.0, 0.0], [1.0, 0.75, 0.25]),
    ("gini_active", "rising_tide"): ([1.0, 1.0, 0.0], [2.0, 2.0, 1.0]),
    ("l0", "robin_hood"): ([3.0, 1.0], [2.5, 1.5]),
    ("l0", "rising_tide"): ([3.0, 1.0], [4.0, 2.0]),
    ("l0", "bill_gates"): ([300.0, 1.0], [600.0, 1.0]),
}


def test_every_axiom_that_is_not_claimed_has_a_counter_example():
    assert set(COUNTER_EXAMPLES) == {(n, a) for n in MEASURES for a in AXIOMS if a not in MEASURES[n].axioms}


@pytest.mark.parametrize(("name", "axiom"), COUNTER_EXAMPLES)
def test_axiom_fails(name, axiom):
    assert not holds(name, axiom, *COUNTER_EXAMPLES[name, axiom])


def test_lifetime_is_population_along_the_other_axis():
    h = torch.from_numpy(vectors(9, n=50, share_zero=0.5))
    h[:, 4] = 0
    lifetime = all_measures(h.T, ("gini", "treves_rolls", "l0"))
    assert lifetime["gini"].shape == (9,) and lifetime["gini"][4].isnan() and lifetime["l0"][4] == 0
    a = h.abs()
    sums = PowerSums(
        n=50.0,
        half=a.sqrt().sum(0),
        one=a.sum(0),
        two=a.square().sum(0),
        four=(a**4).sum(0),
        n_active=(a > 0).double().sum(0),
    )
    for name, measure in MEASURES.items():
        if measure.from_sums:
            torch.testing.assert_close(measure.fn(sums), all_measures(h.T, (name,))[name], equal_nan=True)


def test_active_sets():
    a = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert active_jaccard(a[0], a[1]).item() == pytest.approx(1 / 3)
    assert active_jaccard(a[0], a[2]).item() == 0 and active_jaccard(a[2], a[2]).isnan()
