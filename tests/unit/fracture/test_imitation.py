"""Learning a picture at toy size: it is learnt, seeds do not see each other, budgets hold."""

from dataclasses import replace

import pytest
import torch

from circuits.fracture.images.equals import padded
from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.imitation import ImitationConfig, apart, beginning, errors, imitate, variation
from circuits.fracture.images.layered import layered
from circuits.fracture.images.network import Network
from circuits.fracture.images.units import pixels, rgb

INPUTS = pixels(8)
PICTURE = GALLERY["snowflake"].picture(8).reshape(-1, 3)
LIKE = padded(layered(GALLERY["snowflake"]), 3)


def learn(seeds=(0, 1), **config):
    return imitate(LIKE, INPUTS, PICTURE, seeds, ImitationConfig(**config))


def test_the_composed_network_has_no_error():
    network = padded(layered(GALLERY["snowflake"]), 3)
    assert errors(network, INPUTS, PICTURE).item() < 1e-12


@pytest.mark.parametrize("config", [{}, {"density": 0.5}, {"k": 8}])
def test_a_picture_is_learnt(config):
    found = learn(n_steps=120, lr=2e-2, **config)
    variance = PICTURE.var(0, correction=0).mean()
    assert (found.loss < 0.75 * variance).all(), (
        f"errors {found.loss.tolist()}, those of a uniform picture {variance:.3g}"
    )
    assert found.curve.shape == (120, 2) and (found.curve[-1] < found.curve[0] / 2).all()


def test_seeds_do_not_see_each_other():
    both, alone = learn(n_steps=20, density=0.5), learn(seeds=(1,), n_steps=20, density=0.5)
    for a, b in zip(both.network.layers, alone.network.layers, strict=True):
        assert torch.allclose(a.weight[1], b.weight[0], atol=1e-5)
    assert not torch.allclose(both.network.layers[0].weight[0], both.network.layers[0].weight[1], atol=0.1)


def test_weights_are_cut_to_their_budget():
    found = learn(n_steps=10, density=0.25)
    for network in apart(found.network):
        for layer in network.layers:
            assert layer.weight.count_nonzero() == round(0.25 * layer.weight.numel())


def test_activations_are_cut_to_their_budget():
    found = learn(n_steps=3, k=4)
    for layer, h in zip(found.network.layers[:-1], found.network.maps(INPUTS.float())[:-1], strict=True):
        assert layer.k == 4 and (h.count_nonzero(-2) <= 4).all()


def test_a_step_does_not_depend_on_the_size_of_the_gradient():
    # A picture with half the contrast has gradients of another size; Adam's first step on a gradient of norm 1 is lr for each weight that has any.
    start = beginning(LIKE, (0,))
    found = learn(seeds=(0,), n_steps=1, lr=1e-3)
    moved = torch.cat(
        [(a.weight - b.weight).abs().flatten() for a, b in zip(found.network.layers, start.layers, strict=True)]
    )
    assert moved.max() == pytest.approx(1e-3, rel=1e-3)


def test_a_penalty_is_paid():
    config = ImitationConfig(n_steps=60, lr=1e-2)
    free = imitate(LIKE, INPUTS, PICTURE, (0,), config)
    held = imitate(
        LIKE,
        INPUTS,
        PICTURE,
        (0,),
        config,
        penalty=lambda network, maps: sum(w.weight.square().sum((-1, -2)) for w in network.layers),
    )
    norms = [sum(layer.weight.square().sum().item() for layer in found.network.layers) for found in (free, held)]
    assert norms[1] < norms[0]


def test_counts_of_nonzeros_are_kept_from_given_weights_on():
    dense = learn(n_steps=5).network
    counts = (6, 7, 8)
    found = imitate(LIKE, INPUTS, PICTURE, (0, 1), ImitationConfig(n_steps=10, n_nonzero=counts), start=dense)
    for network in apart(found.network):
        assert tuple(int(layer.weight.count_nonzero()) for layer in network.layers) == counts
    again = imitate(LIKE, INPUTS, PICTURE, (0, 1), ImitationConfig(n_steps=1, lr=1e-9), start=dense)
    assert torch.allclose(again.network.layers[0].weight, dense.layers[0].weight, atol=1e-6), (
        "learning begins with them"
    )


def test_a_lattice_of_pixels_is_enough_and_all_of_them_come():
    seen = []
    imitate(
        LIKE,
        INPUTS,
        PICTURE,
        (0,),
        ImitationConfig(n_steps=4, stride=2, lr=1e-9),
        penalty=lambda network, maps: seen.append(maps[0][0, 0]) or maps[0].new_zeros(1),
    )
    everything = beginning(LIKE, (0,)).maps(INPUTS.float())[0][0, 0]
    assert [len(values) for values in seen] == [16] * 4
    assert torch.allclose(torch.cat(seen).sort().values, everything.sort().values, atol=1e-5)
    assert (learn(n_steps=150, lr=2e-2, stride=2).loss < 0.75 * PICTURE.var(0, correction=0).mean()).all()


def test_the_first_layer_begins_larger_and_no_other():
    one, three = beginning(LIKE, (0,)), beginning(LIKE, (0,), gain=3.0)
    factors = [(b.weight / a.weight).mean().item() for a, b in zip(one.layers, three.layers, strict=True)]
    assert factors == pytest.approx([3.0, 1.0, 1.0])


def test_colours_are_pulled_into_their_range():
    outside = Network(
        layers=tuple(
            replace(layer, weight=layer.weight.float()[None] * (1 if i < 2 else 9))
            for i, layer in enumerate(LIKE.layers)
        )
    )
    ends = [
        imitate(
            LIKE, INPUTS, PICTURE, (0,), ImitationConfig(n_steps=60, lr=2e-2, pull=pull), start=outside
        ).network.outputs(INPUTS.float())
        for pull in (0.0, 1.0)
    ]
    free, pulled = ((o[..., 1] - o[..., 1].clamp(0, 1)).abs().mean().item() for o in ends)
    assert pulled < free / 2


def test_variation_by_hand():
    ramp = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).flatten()  # 1 along each row, 0 along columns
    maps = [torch.stack([ramp, torch.zeros(4)])[None], torch.zeros(1, 3, 4)]
    assert variation(maps).tolist() == [0.5], "mean over units; outputs do not count"


def test_networks_of_a_batch_one_by_one():
    batch = beginning(LIKE, (3, 4))
    for one, expected in zip(apart(batch), rgb(batch.outputs(INPUTS.float())), strict=True):
        assert torch.allclose(rgb(one.outputs(INPUTS)).float(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: learn(seeds=()), "expected at least one"),
        (lambda: learn(density=0.0), "density: 0, expected above 0 and at most 1"),
        (lambda: learn(n_steps=0), "n_steps: 0, expected at least 1"),
        (lambda: learn(k=99, n_steps=1), "k: 99, expected 1 to"),
        (lambda: learn(stride=3, n_steps=1), "stride: 3 in a picture of 64 pixels"),
        (lambda: learn(n_nonzero=(3,), n_steps=1), r"n_nonzero: \[3\], expected 3 counts"),
        (lambda: learn(n_nonzero=(3, 3, 3), density=0.5), "expected counts from 1 on and density 1"),
        (lambda: learn(gain=0.0), "gain: 0 and pull: 0"),
        (lambda: imitate(LIKE, INPUTS, PICTURE[:3], (0,), ImitationConfig()), r"expected \[64, 3\]"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
