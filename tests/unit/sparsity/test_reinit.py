"""Dead units start anew inside the budget: alive afterwards, exact nonzeros and floors, nobody else's last weight, zeroed moments."""

import pytest
import torch

from sparsetrain.optim import OptimConfig, build_optimizer
from sparsetrain.sparsity import ReinitConfig, SparsityConfig, TopKProjection
from sparsetrain.sparsity.dead import dead_units, unit_masks
from sparsetrain.sparsity.reinit import ResidualUse, reinit_dead_
from sparsetrain.typed import from_dict

V, NEURON = "blocks.0.attn.hook_v", "blocks.0.mlp.hook_neuron"
TEXT = [torch.randint(61, (4, 20), generator=torch.Generator().manual_seed(0))]


def step_(model, optimizer, seed):
    tokens = torch.randint(61, (4, 13), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()


def trained(make_model, n=6, **sparsity):
    """A small model after so many steps, at its final density."""
    model = make_model(abs_topk={}, positions="concat", d_pos=4)
    method = TopKProjection(from_dict(SparsityConfig, {"density": 0.25, "floor": 0, **sparsity}), n_steps=n)
    optimizer = build_optimizer(model, OptimConfig())
    method.prepare(model)
    method.attach(optimizer)
    for seed in range(n):
        step_(model, optimizer, seed)
    return model, method, optimizer


def reinit(model, method, optimizer, *, seed=0, step=6, share=1.0):
    floors = {row.name: row.floor for row in method.audit()}
    return reinit_dead_(model, TEXT, optimizer, seed=seed, step=step, floors=floors, share=share)


def move_(weight, line, to):
    """Empties a line, giving its weights to another one: the budget stays."""
    n = int(weight[line].count_nonzero())
    free = (weight[to] == 0).nonzero().flatten()
    assert len(free) >= n
    weight[to, free[:n]] = weight[line][weight[line] != 0]
    weight[line] = 0


def exact(method):
    return [row.name for row in method.audit() if not (row.exact and row.floor_kept)]


@torch.no_grad()
def plant(model):
    """Five dead neurons and two dead v channels, of each kind; the budget is kept."""
    mlp, attn = model.blocks[0].mlp, model.blocks[0].attn
    for unit, to in ((3, 4), (5, 6)):
        move_(mlp.W_in.weight, unit, to)  # without incoming
    mlp.W_in.bias[5] = mlp.W_in.bias[mlp.W_in.bias != 0][0] if mlp.W_in.bias[5] == 0 else mlp.W_in.bias[5]
    move_(mlp.W_out.weight.T, 7, 8)  # without outgoing
    mlp.W_in.bias[9], mlp.W_in.bias[10] = -50, -60  # never active
    move_(attn.W_v.weight, 1, 2)
    move_(attn.W_o.weight.T, 3, 4)


def planted(make_model, **sparsity):
    model, method, optimizer = trained(make_model, bias_density=1.0, **sparsity)
    plant(model)
    assert not exact(method)
    masks = unit_masks(model, TEXT)
    assert masks[NEURON].dead[[3, 5, 7, 9, 10]].all() and masks[V].dead[[1, 3]].all()
    return model, method, optimizer


def test_planted_dead_units_are_alive_afterwards_and_the_budget_is_exact(make_model):
    model, method, optimizer = planted(make_model)
    before = dead_units(model, TEXT)
    n = reinit(model, method, optimizer)
    after = dead_units(model, TEXT)
    assert n == before.total.dead >= 7
    assert after.total.dead == 0, after
    assert not exact(method)
    assert model.blocks[0].mlp.W_in.bias[9] == model.blocks[0].mlp.W_in.bias[10] > 0  # what shut them is gone
    step_(model, optimizer, 99)  # the projection of the next step leaves them alive
    masks = unit_masks(model, TEXT)
    assert not masks[NEURON].dead[[3, 5, 7, 9, 10]].any() and not masks[V].dead[[1, 3]].any()
    assert not exact(method)


def test_floors_are_kept_and_never_active_units_start_anew_under_them(make_model):
    model, method, optimizer = trained(make_model, floor=4, bias_density=1.0)
    with torch.no_grad():
        model.blocks[0].mlp.W_in.bias[9] = -50
    assert dead_units(model).total.dead == 0 and unit_masks(model, TEXT)[NEURON].dead[9]
    weights = model.blocks[0].mlp.W_in.weight.detach().clone()
    assert reinit(model, method, optimizer) >= 1
    assert not unit_masks(model, TEXT)[NEURON].dead[9]
    assert not exact(method)
    assert not torch.equal(model.blocks[0].mlp.W_in.weight[9], weights[9])
    assert model.blocks[0].mlp.W_in.weight[9].count_nonzero() >= 4


def test_a_bias_that_is_cut_keeps_its_budget(make_model):
    model, method, optimizer = trained(make_model, bias_density=0.25)
    with torch.no_grad():
        bias = model.blocks[0].mlp.W_in.bias
        unit = int(bias.nonzero()[0])
        bias[unit] = -50
        smallest = bias[bias != 0].abs().min()
    reinit(model, method, optimizer)
    assert bias[unit] == smallest and not exact(method)


def test_room_is_made_by_the_smallest_weights_and_takes_no_units_last_one(make_model):
    model, method, optimizer = planted(make_model)
    W_in = model.blocks[0].mlp.W_in.weight
    with torch.no_grad():
        move_(W_in, 20, 21)  # leave unit 20 one small weight of unit 21
        place = W_in[21].nonzero()[0]
        W_in[20, place], W_in[21, place] = 0.02, 0
    assert not exact(method)
    before, dead = W_in.detach().clone(), unit_masks(model, TEXT)[NEURON].dead
    reinit(model, method, optimizer)
    living = ~dead
    lost = (before != 0) & (W_in == 0) & living[:, None]
    assert lost.any() and not ((W_in != before) & ~lost & living[:, None]).any()  # nothing else of the living changed
    assert not dead[20] and torch.equal(W_in[20], before[20])
    largest = before[lost].abs().max()
    kept = (W_in != 0) & living[:, None] & (before.abs() < largest)
    assert [int(unit) for unit in kept.any(1).nonzero()] == [20]  # whatever smaller was left is somebody's last


def test_moments_of_fresh_lines_are_zero_and_no_others(make_model):
    model, method, optimizer = planted(make_model)
    mlp = model.blocks[0].mlp
    reinit(model, method, optimizer)
    for parameter, by_unit in (
        (mlp.W_in.weight, lambda x: x),
        (mlp.W_out.weight, lambda x: x.T),
        (mlp.W_in.bias, lambda x: x),
    ):
        for key in ("exp_avg", "exp_avg_sq"):
            moments = by_unit(optimizer.state[parameter][key])
            assert not moments[[3, 5, 7, 9, 10]].any()
            assert moments[[0, 4, 6, 8]].any()


def test_equal_seeds_and_steps_give_equal_weights_and_others_do_not(make_model):
    def weights(seed, step):
        model, method, optimizer = planted(make_model)
        state = torch.get_rng_state()
        reinit(model, method, optimizer, seed=seed, step=step)
        assert torch.equal(torch.get_rng_state(), state)
        return model.blocks[0].mlp.W_in.weight.detach()

    first = weights(1, 6)
    assert torch.equal(first, weights(1, 6))
    assert not torch.equal(first, weights(2, 6)) and not torch.equal(first, weights(1, 7))


def test_no_more_than_its_share_moves(make_model):
    model, method, optimizer = planted(make_model)
    W_in = model.blocks[0].mlp.W_in.weight
    before = W_in.detach().clone()
    n = reinit(model, method, optimizer, share=0.03)
    fresh = int(((W_in != 0) & (W_in != before)).sum())
    assert 0 < fresh <= 0.03 * int(W_in.count_nonzero()) and n < 7
    assert not exact(method)


def test_nothing_happens_where_there_is_no_room(make_model):
    # One weight a unit is all that there is: a dead one can only live by another's death.
    model, method, optimizer = trained(make_model, floor=0)
    W_in = model.blocks[0].mlp.W_in.weight
    with torch.no_grad():
        W_in.zero_()
        W_in[torch.arange(1, 128), torch.arange(1, 128) % 32] = 1.0
        before = W_in.clone()
    reinit(model, method, optimizer)
    assert torch.equal(W_in, before)


def test_fresh_units_read_what_is_written_and_write_what_is_read(make_model):
    model, method, optimizer = planted(make_model)
    with torch.no_grad():
        model.embed.weight[:, :16] = 0
        model.blocks[0].attn.W_o.weight[:16] = 0
        for linear in (
            model.blocks[1].attn.W_q,
            model.blocks[1].attn.W_k,
            model.blocks[1].attn.W_v,
            model.blocks[1].mlp.W_in,
        ):
            linear.weight[:, 20:32] = 0
        model.unembed.weight[:, 20:] = 0
    use = ResidualUse(dict(model.named_parameters()))
    assert use.written_before("blocks.0.mlp.W_in.weight").tolist() == [False] * 16 + [True] * 20  # positions among them
    assert use.read_behind("blocks.0.mlp.W_out.weight").tolist() == [True] * 20 + [False] * 12
    assert use.written_before("blocks.1.attn.W_q.weight").all()  # the MLP of the block before writes them
    reinit(model, method, optimizer)
    mlp = model.blocks[0].mlp
    unwritten = ~use.written_before("blocks.0.mlp.W_in.weight")  # fresh v channels write some of the 16 by now
    assert unwritten.any() and not mlp.W_in.weight[[3, 5]][:, unwritten].any()
    assert not mlp.W_out.weight[20:, [3, 5]].any()


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (ReinitConfig(), set()),
        (ReinitConfig(every=10), {10, 20, 30, 40, 50}),
        (ReinitConfig(every=30, end=1.0), {30, 60, 90}),
        (ReinitConfig(every=50, end=1.0), {50}),
    ],
)
def test_when_they_start_anew(config, steps):
    assert config.steps(100, annealed=0.5) == steps


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("every", 0, "every"), ("end", 1.5, r"end=1\.5 must lie in \(0, 1\]"), ("share", 0, "share"), ("evry", 3, "evry")],
)
def test_bad_settings_are_one_line(key, value, message):
    with pytest.raises(ValueError, match=message) as error:
        from_dict(SparsityConfig, {"reinit_dead": {key: value}})
    assert "\n" not in str(error.value)
