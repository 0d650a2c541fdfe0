"""Perturbations of image networks: which directions there are, equal effect, symmetry that must stay or go."""

import numpy as np
import pytest
import torch

from circuits.fracture.images.equals import padded
from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.layered import layered
from circuits.fracture.images.network import Layer, Network
from circuits.fracture.images.perturbed import KINDS, STRENGTHS, Perturbed, directions, kept, size_of
from circuits.fracture.images.symmetries import images
from circuits.fracture.images.units import pixels, rgb

X = pixels(8)
ROSETTE = padded(layered(GALLERY["rosette"]), 3)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def read(network, kind, group="left-right", **settings):
    return kept(network, X, images(group, 8), kind=kind, **{"n": 6, "effect": 1e-2, "generator": drawn()} | settings)


def network(*weights, activation="identity"):
    """Layers of the last activation but for the first, which is Gaussian; bias-free."""
    rows = [torch.tensor(w, dtype=torch.float64) for w in weights]
    return Network(
        layers=tuple(
            Layer(weight=w, activations=("gaussian" if i == 0 else activation,) * len(w)) for i, w in enumerate(rows)
        )
    )


EVEN = network([[0.0, 2.0, 0.0, 0.0]], [[0.1], [0.3], [0.3]])
"""One unit, a Gaussian of x: every weight that is not 0 leaves left and right alike."""


def test_single_weights_are_single_weights():
    for kind in ("weights", "largest", "any_weight"):
        found = directions(ROSETTE, kind, 10, drawn())
        assert len({(d.layer, d.unit, int(d.u.argmax())) for d in found}) == 10
        for d in found:
            assert d.u.count_nonzero() == 1 and d.u.sum() == 1
            if kind != "any_weight":
                assert ROSETTE.layers[d.layer].weight[d.unit, d.u.argmax()] != 0


def test_the_largest_are_the_largest():
    sizes = torch.cat([layer.weight.abs().flatten() for layer in ROSETTE.layers]).sort(descending=True).values
    found = [
        ROSETTE.layers[d.layer].weight[d.unit, d.u.argmax()].abs() for d in directions(ROSETTE, "largest", 5, drawn())
    ]
    assert torch.stack(found).tolist() == sizes[:5].tolist()


def test_there_are_no_more_weights_than_there_are():
    assert len(directions(EVEN, "weights", 99, drawn())) == 4
    assert len(directions(EVEN, "any_weight", 99, drawn())) == 7


def test_dead_units_are_left_alone():
    found = directions(ROSETTE, "any_weight", 10_000, drawn())
    living = [layer.weight.any(-1) for layer in ROSETTE.layers]
    assert len(found) == 5 * 4 + 4 * 5 + 6 * 4 + 3 * 6, "entries of the matrices without dead units"
    assert all(living[d.layer][d.unit] and (not d.layer or living[d.layer - 1][d.u.argmax()]) for d in found)


def test_directions_are_of_units_that_read_something():
    for d in directions(ROSETTE, "directions", 30, drawn()):
        assert ROSETTE.layers[d.layer].weight[d.unit].any() and d.u.norm() == pytest.approx(1) and d.u.all()


def test_a_perturbed_network_is_the_network_with_other_weights():
    d = directions(ROSETTE, "directions", 4, drawn())[3]
    weight = ROSETTE.layers[d.layer].weight.clone()
    weight[d.unit] += 0.3 * d.u
    expected = rgb(ROSETTE.with_layer(d.layer, weight=weight).outputs(X))
    assert torch.allclose(Perturbed(ROSETTE, X)(d, torch.tensor([0.0, 0.3], dtype=torch.float64))[1], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_effects_are_equal(kind):
    for net in (ROSETTE, padded(layered(GALLERY["owl"]), 3)):
        found = read(net, kind, "left-right")
        assert found.effect == pytest.approx(1e-2, rel=0.05) and found.size > 0
        assert found.kept.shape == (6, len(STRENGTHS)) and found.share.sum() == pytest.approx(1)


def test_the_size_of_a_linear_effect_by_hand():
    # The value is half of the input that is 1, saturation is 0: all three channels are |value|.
    net = Network(
        layers=(
            Layer(
                weight=torch.tensor([[0.0] * 4, [0.0] * 4, [0.0, 0.0, 0.0, 0.5]], dtype=torch.float64),
                activations=("identity",) * 3,
            ),
        )
    )
    some = directions(net, "weights", 1, drawn())
    # the change is s rho everywhere; mean of s^2 over (1, 1/4, 1/4, 1) is 5/8: rho = sqrt(8/5 effect), .1265 at .01
    assert size_of(Perturbed(net, X), some, 1e-2) == pytest.approx((8 / 5 * 1e-2) ** 0.5, rel=0.02)


def test_what_is_even_stays_even_and_what_reads_x_does_not():
    found = read(EVEN, "weights")
    assert np.nansum(found.kept * found.share) == pytest.approx(1)
    odd = network([[0.0, 2.0, 0.0, 1.0]], [[0.1], [0.3], [0.3]])
    broken = read(odd, "weights")
    assert np.nansum(broken.kept * broken.share) < 0.99
    assert np.nansum(read(EVEN, "weights", "square").kept) < np.nansum(found.kept), "x and y are not alike in it"


def test_zeros_break_what_nonzeros_keep():
    found, zeros = (read(ROSETTE, kind, "left-right", n=40) for kind in ("weights", "any_weight"))
    assert np.nansum(found.kept * found.share) == pytest.approx(1, abs=1e-6)
    assert np.nansum(zeros.kept * zeros.share) < 0.995


def test_an_effect_that_cannot_be_had_is_not_a_number():
    dark = network([[0.0, 2.0, 0.0, 0.0]], [[0.0], [0.0], [1e-9]])
    some = [d for d in directions(dark, "weights", 9, drawn()) if d.layer == 0]
    assert np.isnan(size_of(Perturbed(dark, X), some, 1e-2))


def test_a_network_with_few_weights_has_few_directions():
    found = read(EVEN, "weights", n=9)
    assert found.kept.shape == (9, len(STRENGTHS)) and np.isnan(found.kept[4:]).all() and not found.share[4:].any()
    assert np.nansum(found.kept * found.share) == pytest.approx(1)
    nothing = network([[0.0] * 4], [[0.0], [0.0], [0.0]])
    assert np.isnan(read(nothing, "weights").share).all() and np.isnan(read(nothing, "weights").size)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kind 'all': expected one of weights, largest, any_weight, directions"):
        directions(ROSETTE, "all", 1, drawn())
