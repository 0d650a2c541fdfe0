"""Each number against arithmetic written out here, at its edges, and under changes of order that it must not see."""

from math import log, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from circuits.fracture import measures as m


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


# By hand


def test_contributions_are_distances_of_outputs():
    whole = [[0, 0], [1, 1]]
    without = [[[3, 4], [1, 1]], [[0, 0], [1, 3]]]  # unit 0 moves input 0 by (3, 4), unit 1 moves input 1 by (0, 2)
    close(m.contributions(whole, without), [[5, 0], [0, 2]])


@pytest.mark.parametrize(
    ("c", "units", "share", "gini", "alive"),
    [
        ([3, 4], 49 / 25, 49 / 50, 1 / 14, 1 / 14),  # gini: 2 |3 - 4| / (2 * 2 * 7)
        ([5, 5, 5, 5], 4, 1, 0, 0),
        ([0, 0, 7, 0], 1, 1, 3 / 4, 0),  # one of four does everything; among those alive there is no difference
        (
            [1, 3, 0, 0],
            16 / 10,
            8 / 10,
            5 / 8,
            1 / 4,
        ),  # pairs: 2 (2 + 1 + 1 + 3 + 3 + 0) / (2 * 4 * 4); alive: 2 * 2 / (2 * 2 * 4)
        ([1e-200, 1e-200], 2, 1, 0, 0),  # squares vanish in float64, the number does not
    ],
)
def test_units_by_hand(c, units, share, gini, alive):
    close(m.effective_units(c), units)
    close(m.effective_share(c), share)
    close(m.gini(c), gini)
    close(m.gini_alive(c), alive)


def test_effective_rank_by_hand():
    close(m.effective_rank([[3, 4], [6, 8]]), 1)
    close(m.effective_rank(np.eye(5)), 5)
    close(m.effective_rank(np.diag([3.0, 1.0])), np.exp(0.75 * log(4 / 3) + 0.25 * log(4)))


def test_total_variation_by_hand():
    ramp = np.linspace(-1, 1, 5)
    close(m.total_variation(np.tile(ramp, (3, 1))), 2)
    close(m.total_variation(np.tile(ramp, (3, 1)).T), 2)
    close(m.total_variation(np.add.outer(ramp, ramp)), 4)
    close(m.total_variation([[0, 1, 0], [0, 1, 0]]), 2)  # up and down again along each row
    close(m.total_variation([[0, 3], [0, 0]]), 3 / 2 + 3 / 2)  # one of two rows, one of two columns
    close(m.relative_variation([[0, 3], [0, 0]]), 1)
    close(m.relative_variation(np.stack([np.add.outer(ramp, ramp) * 7, np.full((5, 5), 2.0)])), [1, 0])


@pytest.mark.parametrize("size", [8, 64, 512])
def test_total_variation_does_not_depend_on_resolution(size):
    x = np.linspace(-1, 1, size)
    assert m.total_variation(np.tile(np.cos(np.pi * x), (size, 1))) == pytest.approx(4, rel=0.07 if size == 8 else 1e-2)


MIRROR = [[0, 1, 2], [2, 1, 0]]


def test_symmetry_kept_by_hand():
    even, odd, both = (
        [[1], [5], [1]],
        [[1], [0], [-1]],
        [[2], [0], [0]],
    )  # both: even part (1, 0, 1), odd part (1, 0, -1)
    close(m.symmetry_kept([even, odd, both], MIRROR), [1, 0, 1 / 2])


def test_a_change_at_random_keeps_the_share_of_its_orbits():
    changes = np.random.default_rng(0).standard_normal((4000, 3, 2))
    assert m.symmetry_kept(changes, MIRROR).mean() == pytest.approx(2 / 3, abs=0.02)  # orbits {0, 2} and {1}


def test_coherence_by_hand():
    x = np.array([[1.0, 2.0], [3.0, 0.0]])
    close(m.coherence(x, x[:, ::-1], [1, 0]), 1)  # outputs are renamed as the inputs are
    close(m.coherence(x, -x), -1)
    close(m.coherence([[3.0, 0.0]], [[3.0, 4.0]]), 3 / 5)
    assert np.isnan(m.coherence(x, 0 * x))


def test_coherence_and_symmetry_kept_agree_on_a_mirror():
    changes = np.random.default_rng(1).standard_normal((20, 3, 2))
    close(m.coherence(changes, changes[:, [2, 1, 0]]), 2 * m.symmetry_kept(changes, MIRROR) - 1)


THIRD = 1 - (log(3) - 2 / 3 * log(2)) / log(2)
"""Modularity of a perturbation that moves one behaviour twice as much as the other: H(1/3, 2/3) = ln 3 - 2/3 ln 2."""


@pytest.mark.parametrize(
    ("responses", "modularity", "entanglement"),
    [
        ([[3, 0], [0, 4]], 1, 0),
        ([[1, 1], [5, 5]], 0, 1),
        ([[1, 2], [2, 4]], THIRD, 1),  # in fixed proportion
        ([[1, 2], [2, 1]], THIRD, 4 / 5),
        (
            [[6, 0], [1, 2]],
            (6 + 3 * THIRD) / 9,
            6 / sqrt(37 * 4) * 2 / 6,
        ),  # columns (6, 1) and (0, 2): cosine 2 / (sqrt 37 * 2)
        ([[2, 0, 0], [0, 1, 1]], (1 + (1 - log(2) / log(3))) / 2, 1 / 3),  # one of three pairs
    ],
)
def test_behaviours_by_hand(responses, modularity, entanglement):
    close(m.modularity(responses), modularity)
    close(m.entanglement(responses), entanglement)


def test_profiles_take_sizes_away():
    close(m.profiles([[10, 30], [1, 3], [0, 0]]), [[0.25, 0.75], [0.25, 0.75], [0, 0]])


def test_correlations_after_removing_row_means_say_nothing():
    # Why `entanglement` is no such correlation: modules and none at all read alike.
    def of(r):
        centred = r - r.mean(1, keepdims=True)
        correlations = np.corrcoef(centred.T)
        return correlations[np.triu_indices(len(correlations), 1)].mean()

    separate, in_pairs = np.eye(4), np.kron(np.eye(2), np.ones((2, 2)))
    close([of(separate), of(in_pairs)], [-1 / 3, -1 / 3])
    close([m.entanglement(separate), m.entanglement(in_pairs)], [0, 2 / 6])


@pytest.mark.parametrize(
    ("attributions", "fracture"),
    [
        ([[1, 2, 0], [2, 4, 0]], 0),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 5]], 1),
        ([[1, 1], [-1, -1]], 2),
        ([[3, 0], [3, 4]], 1 - 3 / 5),
        ([[1, 0], [1, 0], [0, 1]], 2 / 3),  # cosines 1, 0, 0
    ],
)
def test_fracture_by_hand(attributions, fracture):
    close(m.fracture(attributions), fracture)


def test_fracture_of_equally_many_units():
    attributions = [[5, 1, 1, 1, 1], [5, -1, -1, -1, -1]]
    close(m.fracture(attributions), 1 - 21 / 29)
    close(m.fracture(attributions, k=1), 0)
    # k = 3: the four ones share two places, half each: 25 - 4 / 4 of 25 + 4 / 4.
    close(m.fracture(attributions, k=3), 1 - 24 / 26)


@pytest.mark.parametrize(
    ("circuits", "ratio", "excess"),
    [
        ([[1, 1, 0, 0], [1, 1, 0, 0]], 1, 0),
        ([[1, 1, 0, 0], [0, 0, 1, 1]], 2, 2),  # by chance 4 (1 - 1/4) = 3 nodes, ratio 3/2
        ([[1, 1, 0, 0], [0, 1, 1, 0]], 3 / 2, 1),
        ([[1, 0, 0, 0], [1, 1, 1, 0]], 3 / 2, 1 / (4 * (1 - 3 / 16) / 2 - 1) / 2),
        ([[1, 1], [1, 1]], 1, nan),  # all nodes: nothing could be less shared
        ([[1, 0, 0]], 1, nan),
        ([[0, 0], [0, 0]], nan, nan),
    ],
)
def test_unions_by_hand(circuits, ratio, excess):
    close(m.union_ratio(circuits), ratio)
    close(m.excess_union(circuits), excess)


def test_random_circuits_have_an_excess_of_one():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(400):
        circuits = np.zeros((3, 40))
        for row, size in zip(circuits, (4, 10, 20), strict=True):
            row[rng.permutation(40)[:size]] = 1
        found.append(m.excess_union(circuits))
    assert np.mean(found) == pytest.approx(1, abs=0.02)


def test_ablations_by_hand():
    joint, single = [3, 1, 1, 0], [[1, 2], [0, 0], [1, 1], [0, 0]]
    close(m.interaction(joint, single), [0, 1, -1, 0])  # they add up; stand in for each other; each is needed
    close(m.redundancy(joint, single), [0, 1, -1, nan])
    close(m.redundancy([2.0], np.zeros((1, 0))), [1])


@pytest.mark.parametrize(
    ("sizes", "k", "chosen"),
    [
        ([3, -5, 1, 0], 2, [1, 1, 0, 0]),
        ([1, 1, 1, 2], 2, [1 / 3, 1 / 3, 1 / 3, 1]),
        ([1, 0, 0, 0], 3, [1, 0, 0, 0]),
        ([1, 0, 2, 0], 9, [1, 0, 1, 0]),
        ([1, 2], 0, [0, 0]),
        ([], 2, []),
    ],
)
def test_largest_by_hand(sizes, k, chosen):
    close(m.largest(sizes, k), chosen)


def test_a_dense_network_is_compared_on_as_many_weights_as_a_sparse_one():
    # Two modular weights in both; the dense network has eight small ones beside them that move everything alike.
    sparse = np.array([[4.0, 0.0], [0.0, 4.0]])
    dense = np.concatenate([sparse, np.full((8, 2), 0.5)])
    weights = np.array([2.0, -2.0] + [0.1] * 8)
    close([m.modularity(sparse), m.modularity(dense)], [1, 1 / 2])  # 8 of 16 units of effect are spread over both
    close(m.modularity(dense, m.largest(weights, 2)), 1)
    close(
        [m.entanglement(dense), m.entanglement(dense, m.largest(weights, 2))], [2 / 18, 0]
    )  # columns: 8 * .25 of 16 + 2


# Edges

EMPTY, ONE, ZERO = np.zeros((3, 0)), np.array([[2.0], [0.0], [1.0]]), np.zeros((3, 4))


def test_edges_of_units():
    close(m.effective_units(EMPTY), [0, 0, 0])
    close(m.effective_units(ONE), [1, 0, 1])
    close(m.effective_units(ZERO), [0, 0, 0])
    for number in (m.gini, m.gini_alive):
        close(number(EMPTY), [nan] * 3)
        close(number(ONE), [0, nan, 0])
        close(number(ZERO), [nan] * 3)
    close(m.effective_share(ONE), [1, nan, 1])
    assert [m.effective_rank(x) for x in (EMPTY, ONE, ZERO)] == [0, pytest.approx(1), 0]
    close(m.contributions(np.ones((3, 2)), np.ones((0, 3, 2))).shape, (3, 0))


def test_edges_of_maps_and_changes():
    assert m.total_variation([[3.0]]) == m.relative_variation([[3.0]]) == 0
    close(m.symmetry_kept(np.zeros((2, 3, 1)), MIRROR), [nan, nan])


@pytest.mark.parametrize("number", [m.modularity, m.entanglement])
@pytest.mark.parametrize("responses", [np.zeros((3, 2)), np.ones((3, 1)), np.ones((3, 0)), np.ones((0, 2))])
def test_edges_of_behaviours(number, responses):
    assert np.isnan(number(responses))


def test_a_behaviour_that_is_never_moved():
    assert m.modularity([[1, 0], [2, 0]]) == 1
    assert np.isnan(m.entanglement([[1, 0], [2, 0]]))


@pytest.mark.parametrize(
    "attributions", [np.ones((1, 3)), np.zeros((2, 3)), [[1, 0], [0, 0]], np.zeros((2, 0)), np.zeros((0, 3))]
)
def test_edges_of_fracture(attributions):
    assert np.isnan(m.fracture(attributions))


@pytest.mark.parametrize("bad", [nan, np.inf])
@pytest.mark.parametrize(
    "number",
    [m.effective_units, m.effective_share, m.effective_rank, m.gini, m.gini_alive, m.total_variation, m.relative_variation, m.modularity,
     m.entanglement, m.profiles, m.fracture, m.union_ratio, m.excess_union, lambda x: m.largest(x, 1), lambda x: m.contributions(x, x[None]),
     lambda x: m.symmetry_kept(x, [[0, 1]]), lambda x: m.coherence(x, x), lambda x: m.redundancy(x[0], x.T)],
)  # fmt: skip
def test_nan_is_refused(number, bad):
    with pytest.raises(ValueError, match=r"1 of [24] entries are NaN or infinite"):
        number(np.array([[1.0, bad], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.effective_units([-1.0, 2.0]), "smallest entry -1, expected at least 0"),
        (lambda: m.modularity([1.0, 2.0]), r"expected \[n_perturbations, n_behaviours\]"),
        (lambda: m.modularity([[1.0, 2.0]], [1, 1]), "2 entries for 1 perturbations"),
        (lambda: m.contributions(np.ones((3, 2)), np.ones((4, 2, 2))), r"expected \[n_units, 3, 2\]"),
        (lambda: m.symmetry_kept(np.ones((3, 1)), [[0, 1, 1]]), "expected permutations of 3 inputs"),
        (lambda: m.symmetry_kept(np.ones((3, 1)), [[1, 2, 0]]), "are no group"),
        (lambda: m.coherence(np.ones((3, 2)), np.ones((3, 2)), [0, 0]), "expected each of 0 to 1 once"),
        (lambda: m.coherence(np.ones((3, 2)), np.ones((2, 2))), r"expected that of changes, \(3, 2\)"),
        (lambda: m.redundancy([1.0, 2.0], [[1.0]]), r"expected that of joint, \(2,\)"),
        (lambda: m.total_variation(np.ones((0, 3))), "at least one pixel"),
        (lambda: m.largest([1.0], -1), "k: -1, expected at least 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Order and scale

magnitudes = st.floats(0, 1e3, allow_subnormal=False).map(lambda x: round(x, 6))
matrices = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=magnitudes)
ACROSS_UNITS = {
    "effective_units": lambda c, w: m.effective_units(c),
    "effective_share": lambda c, w: m.effective_share(c),
    "effective_rank": lambda c, w: m.effective_rank(c),
    "gini": lambda c, w: m.gini(c),
    "gini_alive": lambda c, w: m.gini_alive(c),
    "modularity": lambda c, w: m.modularity(c.T),
    "modularity of the largest": lambda c, w: m.modularity(c.T, m.largest(w, 2)),
    "entanglement": lambda c, w: m.entanglement(c.T),
    "entanglement of profiles": lambda c, w: m.entanglement(m.profiles(c.T)),
    "entanglement of the largest": lambda c, w: m.entanglement(c.T, m.largest(w, 2)),
    "fracture": lambda c, w: m.fracture(c),
    "fracture of the largest": lambda c, w: m.fracture(c, 2),
    "union_ratio": lambda c, w: m.union_ratio(c > 1),
    "excess_union": lambda c, w: m.excess_union(c > 1),
    "redundancy": lambda c, w: m.redundancy(c.sum(1) / 2, c),
}  # fmt: skip
"""Name -> number of a matrix whose columns are units, and of the units' weights."""


@settings(max_examples=50, deadline=None)
@given(data=st.data(), c=matrices, scale=st.sampled_from([1e-6, 0.5, 1e6]))
def test_neither_order_nor_scale_matters(data, c, scale):
    weights = data.draw(hnp.arrays(np.float64, c.shape[1], elements=st.sampled_from([0.0, 1.0, -1.0, 2.0, 3.0])))
    order = data.draw(st.permutations(range(c.shape[1])))
    for name, number in ACROSS_UNITS.items():
        expected = number(c, weights)
        np.testing.assert_allclose(number(c[:, order], weights[order]), expected, rtol=1e-7, atol=1e-7, err_msg=name)
        if "union" not in name:
            np.testing.assert_allclose(number(c * scale, weights), expected, rtol=1e-7, atol=1e-7, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(c=matrices)
def test_numbers_stay_in_their_range(c):
    n_inputs, n_units = c.shape
    alive = c.any(1)
    units, gini = m.effective_units(c), m.gini(c)
    assert (units <= n_units + 1e-9).all() and (units[alive] >= 1 - 1e-9).all()
    assert (gini[alive] >= -1e-9).all() and (gini[alive] <= 1 - 1 / n_units + 1e-9).all()
    assert m.effective_rank(c) <= min(c.shape) + 1e-9
    for number in (m.modularity(c), m.entanglement(c)):
        assert np.isnan(number) or -1e-9 <= number <= 1 + 1e-9
    ratio = m.union_ratio(c > 1)
    assert np.isnan(ratio) or 1 <= ratio <= n_inputs + 1e-9


@settings(max_examples=30, deadline=None)
@given(c=matrices, k=st.integers(0, 8))
def test_as_many_are_chosen_as_were_asked_for(c, k):
    close(m.largest(c, k).sum(-1), np.minimum(k, (c != 0).sum(-1)))
