"""Dead units of each kind, planted by hand; what is counted of them, and that nothing else is."""

import pytest
import torch
from torch import nn

from sparsetrain.sparsity.dead import GELU_DEPTH, TOLERANCE, UnitCounts, dead_units, unit_masks

Q, K, V, NEURON = "blocks.0.attn.hook_q", "blocks.0.attn.hook_k", "blocks.0.attn.hook_v", "blocks.0.mlp.hook_neuron"


@pytest.fixture
def text():
    return [torch.randint(61, (4, 20), generator=torch.Generator().manual_seed(s)) for s in range(2)]


@pytest.fixture
def model(make_model):
    return make_model(abs_topk={}, positions="concat", d_pos=4)


def counts(model, point, text=None):
    return dead_units(model, text).points[point]


@torch.no_grad()
def test_a_whole_model_has_none(model, text):
    found = dead_units(model, text)
    assert found.total == UnitCounts(
        n_units=2 * (3 * 32 + 128),
        dead=0,
        without_incoming=0,
        only_bias=0,
        without_outgoing=0,
        never_active=0,
        constant=0,
    )
    assert (found.residual.n_channels, found.residual.unwritten, found.residual.unread) == (32, 0, 0)
    assert found.n_tokens == 160 and dead_units(model).n_tokens is None


@torch.no_grad()
def test_units_without_incoming_and_outgoing_weights(model, text):
    attn, mlp = model.blocks[0].attn, model.blocks[0].mlp
    attn.W_q.weight[3] = 0  # its bias remains: it moves, but not with the text
    attn.W_k.weight[4], attn.W_k.bias[4] = 0, 0
    attn.W_o.weight[:, [5, 6]] = 0
    mlp.W_in.weight[7:10] = 0
    mlp.W_in.bias[8] = 0
    mlp.W_out.weight[:, 9] = 0  # one that lacks both counts once
    by_weights = {name: counts(model, name) for name in (Q, K, V, NEURON)}
    assert [(c.dead, c.without_incoming, c.only_bias, c.without_outgoing) for c in by_weights.values()] == [
        (1, 1, 1, 0),
        (1, 1, 0, 0),
        (2, 0, 0, 2),
        (3, 3, 2, 1),
    ]
    assert {(c.never_active, c.constant) for c in by_weights.values()} == {(None, None)}
    seen = {name: counts(model, name, text) for name in (Q, K, V, NEURON)}
    assert [(c.dead, c.never_active, c.constant) for c in seen.values()] == [(1, 0, 1), (1, 1, 0), (2, 0, 0), (3, 1, 2)]
    total = dead_units(model, text).total
    assert (total.dead, total.without_incoming, total.only_bias) == (7, 5, 3)
    assert total.dead_share == 7 / 448


@torch.no_grad()
def test_a_weight_on_a_position_is_an_incoming_one(model):
    weight = model.blocks[0].mlp.W_in.weight
    weight[2, :32] = 0
    assert weight[2, 32:].any() and counts(model, NEURON).without_incoming == 0
    weight[2, 32:] = 0
    assert counts(model, NEURON).without_incoming == 1


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_gelu_neurons_that_no_token_opens(make_model, text, activation):
    model = make_model(abs_topk={}, activation=activation)
    W_in = model.blocks[0].mlp.W_in
    W_in.weight.zero_()
    W_in.weight[2:] = torch.randn(126, 32, generator=torch.Generator().manual_seed(0)) / 32**0.5
    W_in.bias.zero_()
    W_in.bias[:2] = torch.tensor(
        [-4.5, -3.0]
    )  # GELU gives -1.5e-5, which is zero by the tolerance, and -.004, which is not
    found = unit_masks(model, text)[NEURON]
    assert found.never_active is not None and found.never_active.nonzero().flatten().tolist() == [0]
    assert found.constant is not None and found.constant.nonzero().flatten().tolist() == [1]
    W_in.weight[0] = 1e-3 * torch.randn(32, generator=torch.Generator().manual_seed(1))  # it moves a little, far down
    found = unit_masks(model, text)[NEURON]
    assert found.never_active is not None and found.never_active[0] and not found.without_incoming[0]


@torch.no_grad()
def test_the_tolerance_of_gelu_neurons_is_relative_to_their_fellows(make_model, text):
    model = make_model(abs_topk={}, biases=False)
    W_in = model.blocks[0].mlp.W_in
    W_in.weight.zero_()
    W_in.weight[1:] = 100 * torch.randn(127, 32, generator=torch.Generator().manual_seed(0))
    W_in.weight[0] = 1e-3 * W_in.weight[1] / 100  # about 1e-3 here beside several hundred there
    found = unit_masks(model, text)[NEURON]
    assert found.never_active is not None and found.never_active.nonzero().flatten().tolist() == [0]
    W_in.weight[1:] /= 100  # beside fellows of about 1 it is .001: more than the tolerance of a thousandth of .6
    assert not unit_masks(model, text)[NEURON].dead.any()


@torch.no_grad()
def test_a_layer_of_shut_neurons_has_no_scale_of_its_own(make_model, text):
    model = make_model(abs_topk={})
    W_in = model.blocks[0].mlp.W_in
    W_in.weight.mul_(0.01)
    W_in.bias.fill_(-5.0)
    assert counts(model, NEURON, text).never_active == 128
    assert abs(torch.nn.functional.gelu(torch.tensor(-3.9)).item()) > TOLERANCE * GELU_DEPTH
    assert abs(torch.nn.functional.gelu(torch.tensor(-4.0)).item()) < TOLERANCE * GELU_DEPTH


@torch.no_grad()
def test_relu_neurons_are_zero_or_they_are_not(make_model, text):
    model = make_model(abs_topk={}, activation="relu")
    W_in = model.blocks[0].mlp.W_in
    W_in.weight[0], W_in.bias[0] = 0, -1e-6  # shut
    W_in.weight[1], W_in.bias[1] = 0, 1e-6  # open, if barely, and always alike
    W_in.weight[2] *= 1e-6
    W_in.bias[2] = 0  # small, but it moves and passes on a gradient
    W_in.bias[3] = -100  # shut for all that the text can do
    found = unit_masks(model, text)[NEURON]
    assert found.never_active is not None and found.never_active.nonzero().flatten().tolist() == [0, 3]
    assert found.constant is not None and found.constant.nonzero().flatten().tolist() == [1]


@torch.no_grad()
def test_a_unit_that_never_gets_through_abs_topk_is_never_active(make_model, text):
    model = make_model(abs_topk={"attn_v": 0.25})
    model.blocks[0].attn.W_v.weight[5] *= 1e-4
    model.blocks[0].attn.W_v.bias[5] = 0
    found = unit_masks(model, text)[V]
    assert found.never_active is not None and found.never_active[5] and not found.without_incoming[5]


@torch.no_grad()
def test_residual_channels_that_nobody_writes_or_reads(model):
    def write_nothing(channel):
        model.embed.weight[:, channel] = 0
        for block in model.blocks:
            for linear in (block.attn.W_o, block.mlp.W_out):
                linear.weight[channel], linear.bias[channel] = 0, 0

    write_nothing(1)
    write_nothing(2)
    model.blocks[1].mlp.W_out.bias[2] = 1
    for block in model.blocks:
        for linear in (block.attn.W_q, block.attn.W_k, block.attn.W_v, block.mlp.W_in):
            linear.weight[:, 4] = 0
    found = dead_units(model).residual
    assert (found.unwritten, found.only_bias, found.unread) == (2, 1, 0)  # the unembedding reads channel 4
    model.unembed.weight[:, 4] = 0
    assert dead_units(model).residual.unread == 1


@torch.no_grad()
def test_added_positions_write_and_concatenated_ones_do_not(make_model):
    for positions, unwritten in (("learned", 0), ("concat", 1)):
        model = make_model(positions=positions, d_pos=32)
        model.embed.weight[:, 0] = 0
        for block in model.blocks:
            block.attn.W_o.weight[0] = block.mlp.W_out.weight[0] = 0
        assert dead_units(model).residual.unwritten == unwritten


def test_counting_leaves_the_model_and_the_generator_alone(model, text):
    before = {name: p.clone() for name, p in model.named_parameters()}
    state, mode = torch.get_rng_state(), model.training
    dead_units(model, text)
    assert torch.equal(torch.get_rng_state(), state) and model.training is mode
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not any(point.fns for point in model.modules() if hasattr(point, "fns"))


def test_what_cannot_be_counted_is_one_line(model):
    with pytest.raises(ValueError, match=r"at least one token"):
        dead_units(model, [])
    with pytest.raises(ValueError, match=r"Linear has no weights that belong to neurons.*sparsetrain\.model"):
        dead_units(nn.Linear(2, 2))
