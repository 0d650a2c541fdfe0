"""A factored network written by hand, and copies that are fractured on purpose: every number moves as far as arithmetic says, and units may change places.

Inputs are all (a, b) with a, b = +-1. Units u = a and v = b; outputs 3u and 4v: two behaviours, one unit each. The second network has one unit u that serves both,
3u and 4u: one rule in two contexts.
"""

from dataclasses import dataclass
from math import cos, log, pi, sin, sqrt

import numpy as np
import pytest
import torch

from circuits.fracture import measures as m
from circuits.fracture.images.equals import duplicated, mixed, permuted, rotated, split
from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.layered import layered
from circuits.fracture.images.network import Layer, Network
from circuits.fracture.images.symmetries import images
from circuits.fracture.images.units import pixels, rgb

INPUTS = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], dtype=torch.float64)


def linear(*rows: tuple[float, ...]) -> Layer:
    return Layer(weight=torch.tensor(rows, dtype=torch.float64), activations=("identity",) * len(rows))


FACTORED = Network(layers=(linear((1, 0), (0, 1)), linear((3, 0), (0, 4))))
SHARED = Network(layers=(linear((1, 0)), linear((3,), (4,))))


@dataclass(frozen=True)
class Inside:
    """What ablating single units does: C and the responses of each output."""

    network: Network
    inputs: torch.Tensor = INPUTS

    @property
    def changes(self):
        """`[n_units, n_inputs, n_outputs]`"""
        return np.asarray(torch.stack(list(self.network.without(self.inputs))) - self.network.outputs(self.inputs))

    @property
    def c(self):
        whole = np.asarray(self.network.outputs(self.inputs))
        return m.contributions(whole, self.changes + whole)

    @property
    def responses(self):
        return np.abs(self.changes).mean(1)

    def numbers(self):
        """In this order: N_eff and Gini (means over inputs), effective rank, modularity, entanglement, fracture of outputs as contexts, union ratio."""
        c, r = self.c, self.responses
        return [
            m.effective_units(c).mean(), m.gini(c).mean(), m.effective_rank(c), m.modularity(r), m.entanglement(r), m.fracture(r.T), m.union_ratio(r.T > 1e-9),
        ]  # fmt: skip


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def entropy(*p: float) -> float:
    return -sum(x * log(x) for x in p if x)


BOTH = 1 - entropy(3 / 7, 4 / 7) / log(2)
"""Modularity of a unit that moves the outputs by 3 and by 4."""


def test_factored():
    # C = (3, 4) on every input: N_eff 49/25, Gini 1/14, rank 1. Each unit moves one output.
    close(Inside(FACTORED).c, [[3, 4]] * 4)
    close(Inside(FACTORED).numbers(), [49 / 25, 1 / 14, 1, 1, 0, 1, 2])


def test_duplicated():
    # Each unit as three: C = (1, 1, 1, 4/3, 4/3, 4/3). Three times as many units; no other number sees equal copies.
    copies = duplicated(duplicated(FACTORED, 0, 0, 3), 0, 1, 3)
    close(np.sort(Inside(copies).c[0]), [1, 1, 1, 4 / 3, 4 / 3, 4 / 3])
    close(Inside(copies).numbers(), [3 * 49 / 25, 1 / 14, 1, 1, 0, 1, 2])
    # One unit alone as two: C = (1.5, 1.5, 4), N_eff 49 / 20.5; Gini from pairs 2 (0 + 2.5 + 2.5) / (2 * 3 * 7).
    close(Inside(duplicated(FACTORED, 0, 0, 2)).numbers()[:3], [49 / 20.5, 10 / 42, 1])


@pytest.mark.parametrize("degrees", [0, 15, 30, 45])
def test_mixed_by_a_rotation(degrees):
    # r1 = cu - sv and r2 = su + cv; the outputs are 3 (c r1 + s r2) and 4 (-s r1 + c r2), |r| is c + s on half of the inputs and |c - s| on the others, mean c.
    t = degrees * pi / 180
    c, s = cos(t), sin(t)
    turned = Inside(mixed(FACTORED, 0, (0, 1), t))
    close(turned.responses, [[3 * c * c, 4 * s * c], [3 * s * c, 4 * c * c]])
    total = 3 * c + 4 * s, 3 * s + 4 * c
    spread = entropy(3 * c / total[0], 4 * s / total[0]), entropy(3 * s / total[1], 4 * c / total[1])
    close(
        m.modularity(turned.responses), 1 - sum(w * h for w, h in zip(total, spread, strict=True)) / sum(total) / log(2)
    )
    close(m.entanglement(turned.responses), sin(2 * t))
    close(m.fracture(turned.responses.T), 1 - sin(2 * t))


def test_units_of_a_mixed_network_by_hand():
    # At 45 degrees r1 = (a - b) / sqrt 2 is 0 where a = b, and r2 where a != b: one unit works on each input, with C = 5, and they take turns.
    turned = Inside(mixed(FACTORED, 0, (0, 1), pi / 4))
    close(np.sort(turned.c, 1), [[0, 5]] * 4)
    # N_eff falls from 1.96 to 1 although nothing stands for a or b any more: it counts units per input and knows no axes. The rank over inputs rises from 1 to 2.
    close(turned.numbers(), [1, 1 / 2, 2, BOTH, 1, 0, 1])


def test_shared():
    # One unit: C = 5, and both outputs hang on it.
    close(Inside(SHARED).c, [[5]] * 4)
    close(Inside(SHARED).numbers(), [1, 0, 1, BOTH, 1, 0, 1])


def test_split():
    # A unit per reader: C = (3, 4). The rule is fractured as far as it can be over two contexts, and the behaviours are no longer entangled.
    pieces = Inside(split(SHARED, 0, 0))
    close(np.sort(pieces.c, 1), [[3, 4]] * 4)
    close(pieces.numbers(), [49 / 25, 1 / 14, 1, 1, 0, 1, 2])
    # Random circuits of one node of two have a union of 1.5 nodes: these share less than by chance.
    close(m.excess_union(pieces.responses.T > 0), 2)
    # Copies of the whole unit are redundant and not fractured.
    close(Inside(duplicated(SHARED, 0, 0, 2)).numbers(), [2, 0, 1, BOTH, 1, 0, 1])


def test_redundancy_of_units_that_stand_in_for_each_other():
    # tanh(20 (u1 + u2) + 20) with u1 = u2 = 1/2: without one 1, without both tanh 20. Ablation to 0, the effect is on -20 + 20 (u1 + u2).
    def effect(*units: float) -> float:
        return float(np.tanh(40 * sum(units)))

    whole = effect(0.5, 0.5)
    joint, single = whole - effect(0, 0), [whole - effect(0.5, 0), whole - effect(0, 0.5)]
    close(m.redundancy([joint], [single]), [1])
    # Linear copies are not: without one half of the effect is gone.
    changes = Inside(duplicated(SHARED, 0, 0, 2)).responses[:, 0]
    close(m.redundancy([3.0], [changes]), [0])


X = torch.tensor([-pi, -pi / 3, pi / 3, pi], dtype=torch.float64)
MIRROR = np.array([[0, 1, 2, 3], [3, 2, 1, 0]])


def test_symmetry_is_lost_when_an_even_unit_is_mixed_with_an_odd_one():
    # e = cos x = (-1, .5, .5, -1), less its mean -.25: (-.75, .75, .75, -.75), energy 2.25; x has energy 2 (pi^2 + pi^2 / 9). Output e.
    composed = Network(
        layers=(Layer(weight=torch.ones(2, 1, dtype=torch.float64), activations=("cos", "identity")), linear((1, 0)))
    )
    even, odd = Inside(composed, X[:, None]).changes
    close(m.symmetry_kept(even, MIRROR), 1)
    close(odd, 0)
    # At 45 degrees either unit's ablation changes the output by (e -+ x) / 2.
    kept = 2.25 / (2.25 + 20 * pi**2 / 9)
    changes = Inside(mixed(composed, 0, (0, 1), pi / 4), X[:, None]).changes
    close(m.symmetry_kept(changes, MIRROR), [kept, kept])
    close(m.coherence(changes, changes[:, MIRROR[1]]), [2 * kept - 1] * 2)


def test_variation_of_mixed_maps():
    # Ramps in x and in y go from -1 to 1; mixed at 45 degrees they are ramps of 2 sqrt 2, and as smooth for their range.
    grid = pixels(9)[:, [1, 0]]
    for network, expected in ((FACTORED, 2), (mixed(FACTORED, 0, (0, 1), pi / 4), 2 * sqrt(2))):
        maps = network.features(grid).reshape(2, 9, 9)
        close(m.total_variation(maps), [expected] * 2)
        close(m.relative_variation(maps), [1, 1])
    # Copies have the same maps.
    close(m.total_variation(duplicated(FACTORED, 0, 0, 2).features(grid).reshape(3, 9, 9)), [2] * 3)


@pytest.mark.parametrize("name", GALLERY)
def test_a_picture_network_does_not_depend_on_the_order_of_its_units(name):
    size = 16
    inputs, network = pixels(size), layered(GALLERY[name])
    group = images(GALLERY[name].symmetry, size)
    rng = np.random.default_rng(0)
    shuffled = network
    for i, layer in enumerate(network.layers[:-1]):
        shuffled = permuted(shuffled, i, rng.permutation(layer.width).tolist())

    def numbers(n: Network):
        whole, without = np.asarray(rgb(n.outputs(inputs))), np.stack([rgb(one) for one in n.without(inputs)])
        c, responses = m.contributions(whole, without), np.abs(without - whole).mean(1)
        kept = m.symmetry_kept(without - whole, group)
        variation = m.relative_variation(n.features(inputs).reshape(-1, size, size))
        return [
            m.effective_units(c).mean(), m.effective_rank(c), np.nanmean(m.gini_alive(c)), m.modularity(responses), m.entanglement(responses),
            m.fracture(responses.T), np.nanmean(kept), variation.mean(),
        ]  # fmt: skip

    composed = numbers(network)
    np.testing.assert_allclose(numbers(shuffled), composed, rtol=1e-9)
    # The rotated equivalent draws the same picture with more units at once, each less of one channel's.
    turned = numbers(rotated(network, torch.Generator().manual_seed(0)))
    assert turned[0] > 1.3 * composed[0] and turned[3] < composed[3]
