"""Pictures, their networks, and networks of the same function with other insides."""

import colorsys
from math import cos, exp, sin, tanh

import numpy as np
import pytest
import torch

from circuits.fracture.images.equals import duplicated, mixed, padded, permuted, random_rotation, rotated, split
from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.graph import Graph, Unit
from circuits.fracture.images.layered import layered, levels
from circuits.fracture.images.network import Layer, Network, stack
from circuits.fracture.images.symmetries import GROUPS, images
from circuits.fracture.images.units import ACTIVATIONS, pixels, rgb
from circuits.fracture.measures import symmetry_kept

SIZE = 64


def small() -> Graph:
    """Levels 1, 2, 2, 3; `bump` and x are read by the last level."""
    return Graph(
        units={
            "bump": Unit("gaussian", {"x": 2.0}),
            "bent": Unit("tanh", {"bump": 1.5, "y": -1.0}),
            "hue": Unit("sin", {"bump": 0.5, "x": 0.25}),
            "saturation": Unit("identity", {"bent": 1.0, "one": 0.5}),
            "value": Unit("cos", {"d": 1.0}),
        }
    )


def outputs_by_hand(y: float, x: float) -> list[float]:
    bump = 2 * exp(-((2 * x) ** 2)) - 1
    return [sin(0.5 * bump + 0.25 * x), tanh(1.5 * bump - y) + 0.5, cos(1.4 * (x * x + y * y) ** 0.5)]


@pytest.mark.parametrize(
    ("name", "at_one"),
    [("identity", 1), ("sin", 0.8414709848), ("cos", 0.5403023059), ("tanh", 0.7615941560), ("sigmoid", 0.4621171573), ("gaussian", -0.2642411177)],
)  # fmt: skip
def test_activations(name, at_one):
    assert ACTIVATIONS[name](torch.tensor(1.0, dtype=torch.float64)).item() == pytest.approx(at_one, abs=1e-9)


def test_pixels_are_antisymmetric_to_the_bit():
    grid = pixels(5).reshape(5, 5, 4)
    assert grid[0, 0].tolist() == [-1, -1, pytest.approx(1.4 * 2**0.5), 1] and grid[1, 3].tolist()[:2] == [-0.5, 0.5]
    x = pixels(SIZE).reshape(SIZE, SIZE, 4)[..., 1]
    assert torch.equal(x, -x.flip(1))


def test_colours_are_those_of_the_standard_library():
    hsv = torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = [colorsys.hsv_to_rgb(*row) for row in hsv.tolist()]
    np.testing.assert_allclose(rgb(hsv), expected, atol=1e-12)
    np.testing.assert_allclose(
        rgb(hsv * torch.tensor([1, 1, -1]) + torch.tensor([3, 0, 0])), expected, atol=1e-12
    )  # turns of hue; |v|
    assert rgb(torch.tensor([0.0, -1.0, 7.0])).tolist() == [1, 1, 1]


def test_a_graph_computes_what_it_says():
    inputs = pixels(7)
    expected = [outputs_by_hand(y, x) for y, x, _, _ in inputs.tolist()]
    np.testing.assert_allclose(small().outputs(inputs), expected, atol=1e-12)


def test_a_graph_in_layers():
    network = layered(small())
    assert levels(small()) == {
        "y": 0,
        "x": 0,
        "d": 0,
        "one": 0,
        "bump": 1,
        "bent": 2,
        "hue": 3,
        "saturation": 3,
        "value": 3,
    }
    # Layer 1 carries all inputs (y for bent, x and d and one for the outputs), layer 2 all but y.
    assert [set(layer.names) for layer in network.layers] == [
        {"bump", "y'", "x'", "d'", "one'"}, {"bent", "bump'", "x'", "d'", "one'"}, {"hue", "saturation", "value"},
    ]  # fmt: skip
    assert network.n_units == 10
    assert network.density() == pytest.approx((5 + 6 + 5) / (20 + 25 + 15))


@pytest.mark.parametrize("name", GALLERY)
def test_layers_compute_the_graph(name):
    graph, network = GALLERY[name], layered(GALLERY[name])
    inputs = pixels(SIZE)
    assert (network.outputs(inputs) - graph.outputs(inputs)).abs().max() <= 1e-6
    assert (rgb(network.outputs(inputs)).reshape(SIZE, SIZE, 3) - graph.picture(SIZE)).abs().max() <= 1e-6
    named = [name for layer in network.layers[:-1] for name in layer.names]
    values = graph.values(inputs)
    for unit, values_of_unit in zip(named, network.features(inputs), strict=True):
        np.testing.assert_allclose(values_of_unit, values[unit.rstrip("'")], atol=1e-12, err_msg=unit)


@pytest.mark.parametrize("name", GALLERY)
def test_pictures_are_symmetric_and_colourful(name):
    picture = GALLERY[name].picture(SIZE).numpy()
    flat = picture.reshape(-1, 3)
    for image in images(GALLERY[name].symmetry, SIZE):
        np.testing.assert_allclose(flat[image], flat, atol=1e-6)
    hues = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in flat])
    coloured = hues[(hues[:, 1] > 0.2) & (hues[:, 2] > 0.2), 0]
    sixths = np.bincount((coloured * 6 + 0.5).astype(int) % 6, minlength=6) / len(flat)
    assert (sixths > 0.01).sum() >= 3, (
        f"hues of {name}, share of pixels about red, yellow, green, cyan, blue, magenta: {sixths.round(3)}"
    )
    assert len(GALLERY) >= 3


@pytest.mark.parametrize(("group", "n"), list(zip(GROUPS, (1, 2, 4, 8), strict=True)))
def test_groups(group, n):
    found = images(group, 4)
    assert len({g.tobytes() for g in found}) == n
    symmetry_kept(np.ones((16, 1)), found)  # refuses what is no group
    if n == 2:
        assert found[1].reshape(4, 4)[0].tolist() == [3, 2, 1, 0]


# Networks of the same function


def test_rotations_are_orthogonal():
    q = random_rotation(6, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(q @ q.T, np.eye(6), atol=1e-12)


def equals(network: Network) -> dict[str, Network]:
    return {
        "rotated": rotated(network, torch.Generator().manual_seed(0)),
        "rotated twice": rotated(rotated(network, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)),
        "mixed": mixed(network, 1, (0, 3), 0.7),
        "split": split(network, 0, 1),
        "duplicated": duplicated(network, 0, 2, 3),
        "split, duplicated and mixed": mixed(duplicated(split(network, 0, 1), 1, 0, 2), 1, (0, 4), -0.3),
        "padded": padded(network, 7),
        "permuted": permuted(network, 0, range(network.layers[0].width)[::-1]),
        "permuted after a rotation": permuted(
            rotated(network, torch.Generator().manual_seed(2)), 1, range(network.layers[1].width)[::-1]
        ),
    }


@pytest.mark.parametrize("name", GALLERY)
def test_other_insides_of_the_same_function(name):
    network, inputs = layered(GALLERY[name]), pixels(SIZE)
    expected = network.outputs(inputs)
    for how, other in equals(network).items():
        assert (other.outputs(inputs) - expected).abs().max() <= 1e-9, how


def test_no_feature_of_a_rotated_network_is_one_of_the_composed():
    network, inputs = layered(GALLERY["owl"]), pixels(16)
    before, after = (
        np.asarray(n.features(inputs)) for n in (network, rotated(network, torch.Generator().manual_seed(0)))
    )
    before, after = (f[f.std(1) > 1e-9] for f in (before, after))
    correlations = np.corrcoef(before, after)[: len(before), len(before) :]
    assert np.abs(correlations).max() < 0.999


def test_split_serves_each_reader_alone():
    network = layered(GALLERY["owl"])
    at = network.layers[0].names.index("left")
    before = network.layers[1].weight[:, at]
    after = split(network, 0, at)
    copies = [i for i, name in enumerate(after.layers[0].names) if name == "left"]
    assert len(copies) == before.count_nonzero() == 2
    assert all(after.layers[1].weight[:, i].count_nonzero() == 1 for i in copies)
    assert torch.equal(after.layers[1].weight[:, copies].sum(1), before)


def test_many_networks_in_one_pass():
    one, inputs = layered(GALLERY["butterfly"]), pixels(16)
    other = Network(
        layers=tuple(Layer(weight=1.1 * layer.weight, activations=layer.activations) for layer in one.layers)
    )
    both = stack([one, other])
    np.testing.assert_allclose(both.outputs(inputs), torch.stack([one.outputs(inputs), other.outputs(inputs)]))
    np.testing.assert_allclose(both.features(inputs), torch.stack([one.features(inputs), other.features(inputs)]))
    for joint, first, second in zip(both.without(inputs), one.without(inputs), other.without(inputs), strict=True):
        np.testing.assert_allclose(joint, torch.stack([first, second]))
    turned = [rotated(one, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    np.testing.assert_allclose(stack(turned).outputs(inputs), torch.stack([one.outputs(inputs)] * 2))


def test_without_a_unit_its_mean_stands_there():
    # Outputs 3u and 4u + v of u = x and v = 1: without u the mean of x, 1; a constant unit changes nothing.
    eye = Layer(weight=torch.eye(2), activations=("identity", "identity"))
    network = Network(
        layers=(eye, Layer(weight=torch.tensor([[3.0, 0.0], [4.0, 1.0]]), activations=("identity", "identity")))
    )
    inputs = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    first, second = network.without(inputs)
    assert first.tolist() == [[3, 5], [3, 5]]
    assert torch.equal(second, network.outputs(inputs))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Unit("relu", {}), "'relu': expected one of identity, sin"),
        (lambda: Graph(units={"a": Unit("sin", {"b": 1.0})}), "reads 'b', which does not stand before it"),
        (lambda: Graph(units={"x": Unit("sin", {})}), "has the name of an input"),
        (lambda: Graph(units={"hue": Unit("sin", {"x": 1.0})}), "outputs saturation, value are missing"),
        (lambda: Graph(units={"hue": Unit("sin", {}), "a": Unit("sin", {"hue": 1.0})}), "reads the output 'hue'"),
        (lambda: images("six mirrors", 4), "expected one of none, left-right"),
        (lambda: pixels(1), "expected at least 2 pixels"),
        (lambda: Layer(weight=torch.ones(2, 3), activations=("sin",)), "a row per activation"),
        (lambda: stack([layered(GALLERY["owl"]), layered(GALLERY["rosette"])]), "2 different shapes among 2 networks"),
        (lambda: split(layered(small()), 2, 0), "layer: 2, expected 0 to 1; the last layer holds the outputs"),
        (lambda: duplicated(layered(small()), 0, 9, 2), "unit: 9, expected 0 to 4"),
        (lambda: duplicated(rotated(layered(small()), torch.Generator()), 0, 0, 2), "layer 0 is rotated"),
        (lambda: mixed(layered(small()), 0, (1, 1), 0.5), "expected two different ones"),
        (lambda: permuted(layered(small()), 0, [0, 0]), "expected each of 0 to 4 once"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
