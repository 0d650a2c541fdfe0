"""Every way to be sparse: masks by hand, gradients, what grows and from what, exact budgets, settings that cannot hold."""

from dataclasses import replace
from functools import partial
from math import log

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsetrain.optim import OptimConfig, build_optimizer
from sparsetrain.sparsity import METHODS, ScheduleConfig, SparsityConfig, build_sparsity
from sparsetrain.sparsity.config import L0Config, RigLConfig, SetConfig, TopKastConfig, TwoOfFourConfig
from sparsetrain.sparsity.hard_concrete import gates, open_probability, quiet_gates
from sparsetrain.sparsity.masked import masked, swapped
from sparsetrain.sparsity.top_kast import BACKWARD
from sparsetrain.sparsity.two_of_four import two_of_four_mask
from sparsetrain.typed import from_dict

OTHERS = tuple(name for name in METHODS if name != "topk")
FIRST = "blocks.0.attn.W_q.weight"


@pytest.fixture
def make_model(make_model):
    """Of a vocabulary that four divides."""
    return partial(make_model, d_vocab=64)


def config(method, **settings):
    half = {"density": 0.5, "floor": 0} if method == "two_of_four" else {"density": 0.25, "floor": 0}
    short = {"rigl": RigLConfig(update_every=2), "set": SetConfig(update_every=2), "top_kast": TopKastConfig(update_every=2)}  # fmt: skip
    return SparsityConfig(method=method, **{**half, **short, **settings})


def begin(model, sparsity, n_steps, optim=None):
    torch.manual_seed(5)
    method = build_sparsity(sparsity, n_steps)
    method.prepare(model)
    optimizer = build_optimizer(model, optim or OptimConfig())
    method.attach(optimizer)
    return method, optimizer


def step(model, method, optimizer, number):
    tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    with method.applied(model, training=True):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    penalty = method.penalty()
    (loss if penalty is None else loss + penalty).backward()
    optimizer.step()
    return loss


class OneMatrix(nn.Module):
    """A single sparse tensor, under a name that has a density."""

    def __init__(self, weight):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Module()])
        self.blocks[0].attn = nn.Module()
        self.blocks[0].attn.W_q = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.blocks[0].attn.W_q.weight = nn.Parameter(weight.clone())

    @property
    def weight(self):
        return self.blocks[0].attn.W_q.weight

    def forward(self, x):
        return self.blocks[0].attn.W_q(x)


W = torch.tensor([[4.0, -3.0, 0.5, 0.1], [0.2, 2.0, -1.0, 0.3]])


def one(method, weight=W, n_steps=20, lr=0.1, **settings):
    model = OneMatrix(weight)
    torch.manual_seed(0)
    built = build_sparsity(config(method, **settings), n_steps)
    built.prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    built.attach(optimizer)
    return model, built, optimizer, built.tensors[0]


# what all have in common


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["after the mask was fixed", "finalize alone"])
def test_budgets_are_exact_at_the_end(make_model, method, end):
    model = make_model()
    built, optimizer = begin(model, config(method), 8)
    for number in range(8 if end == "after the mask was fixed" else 2):
        step(model, built, optimizer, number)
    built.finalize()
    rows = built.audit()
    assert rows and all(row.exact and row.floor_kept for row in rows)
    for row, tensor in zip(rows, built.tensors, strict=True):
        assert row.budget == round(tensor.target * tensor.param.numel())
        assert row.nonzeros == int(tensor.param.count_nonzero()) <= row.budget
        assert (row.kept is None) == (method == "topk") and row.kept in (None, row.budget)
    with built.applied(model):
        assert all(dict(model.named_parameters())[tensor.name] is tensor.param for tensor in built.tensors), (
            "nothing is swapped"
        )


@pytest.mark.parametrize("method", METHODS)
def test_the_last_steps_are_taken_at_the_mask_that_is_exported(make_model, method):
    model = make_model()
    built, optimizer = begin(model, config(method), 20)
    for number in range(19):
        step(model, built, optimizer, number)
    before = {tensor.name: tensor.param.detach() != 0 for tensor in built.tensors}
    step(model, built, optimizer, 19)
    built.finalize()
    if method != "topk":  # which chooses at every step
        assert all(not (tensor.param != 0)[~before[tensor.name]].any() or built.own.mask(tensor)[tensor.param != 0].all() for tensor in built.tensors)  # fmt: skip
        assert built.is_fixed and built.penalty() is None


@pytest.mark.parametrize("method", ["topk", "straight_through", "one_shot", "top_kast", "rigl", "set", "l0"])
def test_floors_are_kept_inside_the_budget(make_model, method):
    model = make_model()
    built, optimizer = begin(model, config(method, floor=3), 8)
    for number in range(8):
        step(model, built, optimizer, number)
    rows = {row.name: row for row in built.audit()}
    assert rows[FIRST].floor == 3 and all(row.exact and row.floor_kept for row in rows.values())


@pytest.mark.parametrize("method", OTHERS)
def test_what_is_seen_is_what_is_exported_and_what_is_stored_comes_back(make_model, method):
    model = make_model()
    built, optimizer = begin(model, config(method), 40)
    for number in range(4):
        step(model, built, optimizer, number)
    stored = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(KeyError), built.applied(model):
        seen, again = ({name: t.clone() for name, t in model.state_dict().items()} for _ in range(2))
        assert all(torch.equal(seen[name], again[name]) for name in seen), "without noise"
        assert not any(t.requires_grad for t in seen.values())
        raise KeyError
    assert all(torch.equal(p, stored[name]) and isinstance(p, nn.Parameter) for name, p in model.named_parameters())
    if method in ("straight_through", "top_kast", "two_of_four"):
        for tensor in built.tensors:
            assert torch.equal(seen[tensor.name], tensor.param * built.own.mask(tensor))
            assert tensor.param.count_nonzero() > seen[tensor.name].count_nonzero()


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_state_dicts_is_bit_exact(make_model, method):
    def run(model, built, optimizer, numbers):
        for number in numbers:
            torch.manual_seed(number)  # what a checkpoint restores
            step(model, built, optimizer, number)

    straight = make_model()
    built, optimizer = begin(straight, config(method), 16)
    run(straight, built, optimizer, range(16))
    first = make_model()
    built, optimizer = begin(first, config(method), 16)
    run(first, built, optimizer, range(6))
    own = None if built.own is None else built.own.state_dict()
    second = make_model(seed=9)
    resumed, goes_on = begin(second, config(method), 16)
    second.load_state_dict(first.state_dict())
    if own is not None:
        resumed.own.load_state_dict(own)
    resumed.prepare(second)
    goes_on.load_state_dict(optimizer.state_dict())
    run(second, resumed, goes_on, range(6, 16))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), second.parameters(), strict=True))


def test_a_density_that_nobody_keeps_is_seen(make_model):
    model = make_model()
    built, _ = begin(model, config("rigl"), 8)
    with torch.no_grad():
        built.own.mask(built.tensors[0])[0] = True
    assert not built.audit()[0].exact and all(row.exact for row in built.audit()[1:])


def test_swapped_tensors_are_used_by_the_one_forward_pass(make_model):
    model, other = make_model(), make_model(seed=1)
    tokens = torch.randint(61, (2, 5))
    with swapped(model, {name: p.detach() for name, p in other.named_parameters()}):
        assert torch.equal(model(tokens), other(tokens))
    assert not torch.equal(model(tokens), other(tokens))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "two_of_four", "density": 0.25, "floor": 0}, r"sparsity\.density=0\.25.*allowed: 0\.5"),
        ({"method": "two_of_four", "density": 0.5, "floor": 4}, r"sparsity\.floor=4: two_of_four.*give sparsity\.floor=0"),
        ({"method": "straight_through", "schedule": {"end": 0.95}}, r"straight_through\.end=0\.9 comes before sparsity\.schedule\.end=0\.95"),
        ({"method": "l0", "schedule": {"end": 0.8}}, r"l0\.end=0\.75 comes before"),
        ({"method": "magnitude"}, "method"),
        ({"top_kast": {"backward": 0.5}}, "backward=0.5 must be at least 1"),
        ({"l0": {"gamma": 0.1}}, "gamma < 0"),
        ({"rigl": {"fraction": 1.0}}, "fraction"),
        ({"set": {"update_every": 0}}, "update_every"),
        ({"one_shot": {"at": 1.0}}, "at"),
        ({"method": "set", "floor": 20}, r"blocks\.0\.attn\.W_q\.weight.*smallest feasible density"),
    ],
)  # fmt: skip
def test_settings_that_cannot_hold_are_one_line(make_model, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        build_sparsity(from_dict(SparsityConfig, settings), 10).prepare(make_model())
    assert "\n" not in str(error.value) or "method" not in settings


def test_rows_that_four_does_not_divide_are_refused_by_name(make_model):
    built = build_sparsity(config("two_of_four"), 10)
    with pytest.raises(ValueError, match=r"unembed\.bias has rows of 61 entries"):
        built.prepare(make_model(d_vocab=61))


@pytest.mark.parametrize("method", OTHERS)
def test_given_sparse_weights_are_for_topk(method):
    from sparsetrain.sparsity import InitialDensity

    with pytest.raises(ValueError, match=f"sparsity.method={method} starts from dense weights.*use topk"):
        build_sparsity(config(method), 10, InitialDensity(matrices=0.5, tensors={FIRST: 0.5}))


# one by one


def test_straight_through_passes_the_gradient_to_all():
    model, built, optimizer, tensor = one("straight_through", schedule=ScheduleConfig(end=0.05))
    model.weight.grad = torch.zeros_like(W)
    optimizer.step()  # from step 1 on 2 of 8 entries: 4 and -3
    assert built.own.mask(tensor).nonzero().tolist() == [[0, 0], [0, 1]]
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    optimizer.zero_grad()
    with built.applied(model, training=True):
        y = model(x)
        assert y.tolist() == [[4.0 - 6.0, 0.0]]
    y.sum().backward()
    assert torch.equal(model.weight.grad, x.expand(2, 4)), "as if nothing were cut"
    assert torch.equal(model.weight.detach(), W), "and what is stored is dense"


def test_straight_through_lets_a_cut_weight_come_back_with_what_it_gathered():
    model, built, optimizer, tensor = one("straight_through", lr=1.0, schedule=ScheduleConfig(end=0.05))
    model.weight.grad = torch.zeros_like(W)
    model.weight.grad[1, 1] = -1.5  # 2 -> 3.5 -> 5 while it is cut
    optimizer.step()
    assert built.own.mask(tensor)[1].tolist() == [False, True, False, False]
    model.weight.grad = torch.zeros_like(W)
    optimizer.step()
    with built.applied(model):
        assert model.weight.tolist() == [[4.0, 0.0, 0.0, 0.0], [0.0, 3.5, 0.0, 0.0]]


def test_one_shot_is_dense_and_then_cut_once():
    model, built, optimizer, _ = one("one_shot", n_steps=4, lr=0.0)
    model.weight.grad = torch.ones_like(W)
    optimizer.step()
    assert torch.equal(model.weight, W) and built.density(1) == 1 and built.audit(1)[0].exact
    optimizer.step()  # step 2 of 4
    assert model.weight.tolist() == [[4.0, -3.0, 0.0, 0.0], [0.0] * 4]
    assert built.density(2) == 0.25 and built.audit(2)[0].exact
    with torch.no_grad():
        model.weight[1, 1] = 9.0  # what an optimizer would do: it stays cut
    optimizer.step()
    assert model.weight[1].tolist() == [0.0] * 4


def test_top_kast_forward_set_backward_set_and_the_rest():
    model, built, _, tensor = one("top_kast", top_kast=TopKastConfig(backward=2.0, update_every=1, penalty=0.5))
    forward, backward = built.own.mask(tensor), built.own.mask(tensor, BACKWARD)
    assert forward.nonzero().tolist() == [[0, 0], [0, 1]]  # 4, -3
    assert backward.nonzero().tolist() == [[0, 0], [0, 1], [1, 1], [1, 2]]  # and 2, -1
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    with built.applied(model, training=True):
        y = model(x)
        assert y.tolist() == [[-2.0, 0.0]]
    y.sum().backward()
    assert model.weight.grad.tolist() == [[1.0, 2.0, 0.0, 0.0], [0.0, 2.0, 3.0, 0.0]]
    # exploration: .5 x (4^2 + 3^2 + (2^2 + 1^2) / (1/4)) = .5 x 45
    assert built.penalty().item() == 22.5
    built.penalty().backward()
    assert model.weight.grad.tolist() == [[1.0 + 4.0, 2.0 - 3.0, 0.0, 0.0], [0.0, 2.0 + 8.0, 3.0 - 4.0, 0.0]]


def test_top_kast_leaves_what_is_in_no_set_alone_whatever_the_optimizer_does():
    model = OneMatrix(W)
    built = build_sparsity(config("top_kast", top_kast=TopKastConfig(backward=2.0, update_every=1)), 20)
    built.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.5)
    built.attach(optimizer)
    model.weight.grad = torch.ones_like(W)
    optimizer.step()
    rest = torch.tensor([[False, False, True, True], [True, False, False, True]])
    assert torch.equal(model.weight[rest], W[rest]) and not (model.weight == W)[~rest].any()
    # 2 and -1 have moved by decay x .75 and a step of -.5: 1 and -1.25; the sets are chosen anew
    assert built.own.mask(built.tensors[0]).nonzero().tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_masks_have_exactly_their_budget_after_every_step_and_move(make_model, method):
    model = make_model()
    built, optimizer = begin(model, config(method), 16)
    starts = [built.own.mask(tensor).clone() for tensor in built.tensors]
    for number in range(16):
        for tensor in built.tensors:
            assert built.own.mask(tensor).sum() == tensor.k(0.25)
            assert not tensor.param[~built.own.mask(tensor)].any()
        before = [built.own.mask(tensor).clone() for tensor in built.tensors]
        step(model, built, optimizer, number)
        moved = any(not torch.equal(b, built.own.mask(t)) for b, t in zip(before, built.tensors, strict=True))
        assert moved == ((number + 1) % 2 == 0 and number + 1 < 12), "every second step, until three quarters"
    assert any(not torch.equal(s, built.own.mask(t)) for s, t in zip(starts, built.tensors, strict=True))
    assert built.density(0) == built.density(16) == 0.25


def test_rigl_drops_the_smallest_and_grows_at_the_largest_gradient_from_zero():
    model, built, _, tensor = one("rigl", rigl=RigLConfig(update_every=1, fraction=0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    built._optimizer = optimizer
    mask = torch.tensor([[True, False, True, False], [False, True, False, True]])
    built.own.mask(tensor).copy_(mask)
    tensor = replace(tensor, target=0.5)  # 4 of 8 are kept: 4, .5, 2, .3
    with torch.no_grad():
        model.weight.copy_(W * mask)
    model.weight.grad = torch.tensor([[9.0, 0.1, 0.0, -5.0], [0.2, 7.0, 3.0, 0.4]])
    optimizer.step()
    moments = optimizer.state[model.weight]
    assert (moments["exp_avg"] != 0).sum() == 7
    built.move_(tensor, built.scores(tensor), 0.5)
    # .3 and .5 are dropped; of what is left without a place -5 and 3 are largest
    assert built.own.mask(tensor).tolist() == [[True, False, False, True], [False, True, True, False]]
    with torch.no_grad():
        built.cut_()
    assert model.weight.tolist() == [[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]
    assert moments["exp_avg"][0, 3] == moments["exp_avg"][1, 2] == 0 and moments["exp_avg"][0, 0] != 0
    assert moments["exp_avg_sq"][0, 3] == 0 and moments["exp_avg_sq"][1, 1] != 0


def test_what_is_dropped_and_grown_at_once_keeps_its_value():
    model, built, _, tensor = one("rigl", rigl=RigLConfig(update_every=1, fraction=0.5))
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    built.own.mask(tensor).copy_(mask)
    with torch.no_grad():
        model.weight.copy_(W * mask)
    model.weight.grad = torch.tensor([[0.0, 1.0, 0.5, 0.0], [0.0] * 4])
    built.move_(tensor, built.scores(tensor), 0.5)  # -3 is dropped, and has the largest gradient
    assert torch.equal(built.own.mask(tensor), mask) and model.weight[0, 1] == -3


def test_a_step_without_a_gradient_moves_no_mask():
    _, built, optimizer, tensor = one("rigl", rigl=RigLConfig(update_every=1))
    before = built.own.mask(tensor).clone()
    optimizer.zero_grad()
    optimizer.step()
    assert torch.equal(before, built.own.mask(tensor))


def test_the_share_that_moves_falls_along_half_a_cosine():
    _, built, _, _ = one("rigl", n_steps=40)  # fixed at step 30
    assert [round(built.fraction(step), 4) for step in (0, 15, 30)] == [0.3, 0.15, 0.0]


def test_set_draws_from_a_generator_of_its_own(make_model):
    def moved(disturb):
        model = make_model()
        built, optimizer = begin(model, config("set"), 16)
        for number in range(4):
            step(model, built, optimizer, number)
            if disturb:
                torch.rand(3)
        return [built.own.mask(tensor).clone() for tensor in built.tensors]

    assert all(torch.equal(a, b) for a, b in zip(moved(True), moved(False), strict=True))


def test_set_grows_everywhere_alike():
    counts = torch.zeros(2, 4)
    for seed in range(400):
        torch.manual_seed(seed)
        model = OneMatrix(W)
        built = build_sparsity(config("set"), 20)
        built.prepare(model)
        counts += built.own.mask(built.tensors[0])
    assert counts.sum() == 800 and ((counts - 100).abs() < 35).all(), "2 of 8 are kept; 4 standard deviations are 35"


def test_hard_concrete_expected_l0_against_draws():
    settings = L0Config()
    log_alpha = torch.tensor([-4.0, -1.0, 0.0, 1.0, 3.0])
    u = torch.rand(200_000, 5, generator=torch.Generator().manual_seed(0)).clamp(1e-6, 1 - 1e-6)
    z = gates(log_alpha, u, settings)
    assert ((z >= 0) & (z <= 1)).all() and (z == 0).any() and (z == 1).any()
    assert torch.allclose((z > 0).float().mean(0), open_probability(log_alpha, settings), atol=0.005)
    # by hand: sigmoid(0 - 2/3 log(.1 / 1.1)) and, without noise, .5 x 1.2 - .1
    assert open_probability(log_alpha, settings)[2].item() == pytest.approx(1 / (1 + 11 ** (-2 / 3)))
    assert quiet_gates(log_alpha, settings)[2].item() == pytest.approx(0.5)
    assert quiet_gates(torch.tensor([-20.0, 20.0]), settings).tolist() == [0.0, 1.0]


def test_hard_concrete_gradients_reach_weights_and_gates():
    settings = L0Config()
    log_alpha = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    u = torch.tensor([0.6], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: gates(a, u, settings), (log_alpha,))
    model, built, _, tensor = one("l0")
    with built.applied(model, training=True):
        model(torch.ones(1, 4)).square().sum().backward()
    assert model.weight.grad.abs().sum() > 0 and built.gated.log_alpha(tensor).grad.abs().sum() > 0


def test_the_price_of_a_gate_rises_with_the_excess_and_falls_to_nothing():
    _, built, optimizer, tensor = one("l0", schedule=ScheduleConfig(end=0.05), l0=L0Config(price_rate=0.5))
    optimizer.param_groups[0]["sparsity_step"] = 1  # 2 of 8 are asked for
    n_open = open_probability(built.gated.log_alpha(tensor), L0Config()).sum().item()
    with torch.no_grad():
        built.change_(1)
    assert built.gated.prices.item() == pytest.approx(0.5 * (n_open / 2 - 1))
    assert built.penalty().item() == pytest.approx(built.gated.prices.item() * n_open / 2)
    with torch.no_grad():
        built.gated.log_alpha(tensor).fill_(-9)
        built.change_(2)
    assert built.gated.prices.item() == 0 and built.penalty().item() == 0


def test_l0_comes_down_to_what_it_is_asked_for_before_it_is_projected(make_model):
    model = make_model()
    built, optimizer = begin(model, config("l0", l0=L0Config(end=0.9)), 200)
    for number in range(175):
        step(model, built, optimizer, number)
    expected = [built.expected(tensor).item() for tensor in built.tensors if tensor.param.ndim == 2]
    assert max(expected) < 1.3, expected


def test_l0_fills_up_with_the_gates_that_are_nearest_to_opening():
    _, built, _, tensor = one("l0")
    with torch.no_grad():
        built.gated.log_alpha(tensor).copy_(torch.tensor([[-9.0, 9.0, -9.0, -9.0], [-9.0, -9.0, -3.0, -9.0]]))
    built.finalize()  # one gate is open, two places are there
    assert built.own.mask(tensor).nonzero().tolist() == [[0, 1], [1, 2]]
    assert tensor.param[0, 1].item() == pytest.approx(-3.0, rel=1e-3) and tensor.param[1, 2] == 0
    assert built.audit()[0].exact and built.audit()[0].nonzeros == 1


def test_two_of_four_by_hand_and_in_every_group(make_model):
    w = torch.tensor([[4.0, -3.0, 0.5, 0.1, 0.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0, -2.0, 0.1, 2.0, 0.2]])
    assert two_of_four_mask(w).int().tolist() == [[1, 1, 0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0, 1, 0]]
    model = make_model()
    built, optimizer = begin(model, config("two_of_four"), 6)
    for number in range(6):
        step(model, built, optimizer, number)
        for tensor in built.tensors:
            assert (built.own.mask(tensor).reshape(-1, 4).sum(1) == 2).all()
    built.finalize()
    assert all((tensor.param.reshape(-1, 4).count_nonzero(1) <= 2).all() for tensor in built.tensors)
    dense = two_of_four_mask(torch.randn(8, 16))
    dense[0, 0] = ~dense[0, 0]
    assert not (dense.reshape(-1, 4).sum(1) == 2).all(), "a mask of another form is told apart"


def test_two_of_four_pulls_what_is_cut_towards_zero():
    model, built, _, _ = one("two_of_four", two_of_four=TwoOfFourConfig(pull=0.5))
    assert built.penalty().item() == pytest.approx(0.25 * (0.5**2 + 0.1**2 + 0.2**2 + 0.3**2))
    built.penalty().backward()
    assert torch.allclose(model.weight.grad, 0.5 * torch.tensor([[0, 0, 0.5, 0.1], [0.2, 0, 0, 0.3]]))


def test_a_masked_product_by_hand():
    w = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    forward, backward = torch.tensor([True, False, False]), torch.tensor([True, True, False])
    (masked(w, forward, backward) * torch.tensor([5.0, 6.0, 7.0])).sum().backward()
    assert w.grad.tolist() == [5.0, 6.0, 0.0]


def test_log_alpha_starts_at_the_dropout_rate(make_model):
    built, optimizer = begin(make_model(), config("l0", l0=L0Config(drop_init=0.2, lr=0.03)), 8)
    start = torch.cat([built.gated.log_alpha(tensor).flatten() for tensor in built.tensors]).detach()
    assert start.mean().item() == pytest.approx(log(4), abs=0.001) and start.std().item() == pytest.approx(
        0.01, rel=0.1
    )
    group = optimizer.param_groups[-1]
    assert group["lr"] == 0.03 and group["weight_decay"] == 0 and len(group["params"]) == len(built.tensors)
