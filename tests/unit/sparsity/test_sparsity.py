"""The projection on the optimizer: exact budgets, floors on the right axis, counter, errors before step 0."""

import pytest
import torch

from sparsetrain.optim import OptimConfig, build_optimizer
from sparsetrain.sparsity import ScheduleConfig, SparsityConfig, TopKProjection, build_sparsity, require_attached
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.typed import from_dict


def train(model, method, n_steps, start=0, optimizer=None):
    if optimizer is None:
        optimizer = build_optimizer(model, OptimConfig())
        method.prepare(model)
        method.attach(optimizer)
    for step in range(start, n_steps):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(61, (2, 9), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    return optimizer


def budget_violations(method, step):
    return [t.name for t in method.tensors if int(t.param.count_nonzero()) > t.k(method.density_of(t, step))]


def test_every_step_keeps_budgets_and_floors(make_model):
    model = make_model()
    method = TopKProjection(SparsityConfig(density=0.25, floor=4), n_steps=12)
    optimizer = build_optimizer(model, OptimConfig())
    method.prepare(model)
    method.attach(optimizer)
    for step in range(1, 13):
        train(model, method, step, step - 1, optimizer)
        assert optimizer.param_groups[0][STEP_KEY] == step
        assert not budget_violations(method, step)
        for block in model.blocks:
            for linear in (block.attn.W_q, block.attn.W_k, block.attn.W_v, block.mlp.W_in):
                assert linear.weight.count_nonzero(dim=1).min() >= 4
            for linear in (block.attn.W_o, block.mlp.W_out):
                assert linear.weight.count_nonzero(dim=0).min() >= 4
    rows = method.audit()
    assert all(row.exact for row in rows)
    assert {row.name for row in rows} >= {"embed.weight", "unembed.weight", "unembed.bias", "blocks.0.mlp.W_in.bias"}
    assert not any(name in row.name for row in rows for name in ("gain", "sink", "bigram"))


def test_embedding_and_biases_have_their_own_density(make_model):
    method = TopKProjection(SparsityConfig(density=0.25, embed_density=0.5, bias_density=1.0), n_steps=4)
    method.prepare(make_model())
    targets = {t.name: t.target for t in method.tensors}
    assert targets["embed.weight"] == 0.5 and targets["blocks.1.mlp.W_out.weight"] == 0.25
    assert not any(name.endswith("bias") for name in targets)


def test_counter_survives_the_optimizer_state_dict(make_model):
    straight = make_model()
    method = TopKProjection(SparsityConfig(density=0.25), n_steps=10)
    train(straight, method, 10)

    model = make_model()
    first = TopKProjection(SparsityConfig(density=0.25), n_steps=10)
    saved = train(model, first, 4).state_dict()
    resumed = make_model()
    resumed.load_state_dict(model.state_dict())
    second = TopKProjection(SparsityConfig(density=0.25), n_steps=10)
    optimizer = build_optimizer(resumed, OptimConfig())
    second.prepare(resumed)
    second.attach(optimizer)
    optimizer.load_state_dict(saved)
    train(resumed, second, 10, 4, optimizer)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_gradient_accumulation_projects_once_per_real_step(make_model):
    model = make_model()
    method = TopKProjection(SparsityConfig(density=0.25), n_steps=4)
    optimizer = build_optimizer(model, OptimConfig())
    method.prepare(model)
    method.attach(optimizer)
    for micro in range(4):
        model(torch.randint(61, (1, 5))).logsumexp(-1).mean().backward()
        if micro % 2:
            optimizer.step()
    assert optimizer.param_groups[0][STEP_KEY] == 2


@pytest.mark.parametrize("density", [0.01, 0.12])
def test_infeasible_floor_names_tensor_and_smallest_density(make_model, density):
    method = TopKProjection(SparsityConfig(density=density, floor=4), n_steps=4)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.W_q\.weight.*smallest feasible density 0\.125"):
        method.prepare(make_model())


@pytest.mark.parametrize("bad", [{"density": 0.0}, {"density": 1.5}, {"embed_density": 0.0}, {"floor": -1}])
def test_bad_values_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        from_dict(SparsityConfig, bad)


def test_dense_runs_have_no_method_and_sparse_ones_must_be_attached(make_model):
    assert build_sparsity(SparsityConfig(density=1), 10) is None
    with pytest.raises(RuntimeError, match="no method is attached"):
        require_attached(build_optimizer(make_model(), OptimConfig()))


def test_annealing_start_leaves_weights_alone(make_model):
    model = make_model()
    method = TopKProjection(SparsityConfig(density=0.25, schedule=ScheduleConfig(start=0.5, end=1.0)), n_steps=10)
    train(model, method, 5)
    assert model.blocks[0].mlp.W_in.weight.count_nonzero() == model.blocks[0].mlp.W_in.weight.numel()
