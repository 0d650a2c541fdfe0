"""Schedules by hand, gradient RMS by brute force, AdamW's groups."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsetrain.optim import OptimConfig, build_optimizer, grad_rms, lr_factor, scale_gradients_
from sparsetrain.sparsity.schedule import DensitySchedule, ScheduleConfig


def test_linear_and_exponential_density_by_hand():
    linear = DensitySchedule(target=0.25, n_steps=100, config=ScheduleConfig())
    assert [linear.density(s) for s in (0, 25, 50, 100)] == [1.0, 0.625, 0.25, 0.25]
    exponential = DensitySchedule(target=1 / 16, n_steps=100, config=ScheduleConfig(shape="exponential"))
    assert [exponential.density(s) for s in (0, 25, 50, 99)] == [1.0, 0.25, 1 / 16, 1 / 16]


@given(
    st.floats(0.001, 1),
    st.integers(1, 500),
    st.floats(0, 0.4),
    st.floats(0.5, 1),
    st.sampled_from(["linear", "exponential"]),
)
def test_density_falls_monotonically_to_exactly_the_target(target, n_steps, start, end, shape):
    schedule = DensitySchedule(target=target, n_steps=n_steps, config=ScheduleConfig(shape=shape, start=start, end=end))
    densities = [schedule.density(s) for s in range(n_steps + 1)]
    assert densities[0] == 1.0 and densities[-1] == pytest.approx(target, rel=1e-12)
    assert all(a >= b for a, b in pairwise(densities))


def test_schedule_rejects_an_empty_interval():
    with pytest.raises(ValueError, match=r"start=0\.6"):
        ScheduleConfig(start=0.6, end=0.5)


def test_learning_rate_by_hand():
    config = OptimConfig(warmup=0.1, density_factor="off")
    assert lr_factor(0, 100, config) == pytest.approx(1 / 11)
    assert lr_factor(10, 100, config) == 1.0
    assert lr_factor(55, 100, config) == pytest.approx(0.5)
    assert lr_factor(55, 100, OptimConfig(warmup=0.1), density=0.25) == pytest.approx(1.0)
    assert lr_factor(55, 100, OptimConfig(warmup=0.1, density_factor="script"), 0.25, 0.25) == pytest.approx(0.5)
    assert lr_factor(55, 100, OptimConfig(warmup=0.1, density_factor="script"), 1.0, 0.25) == pytest.approx(0.25)


@pytest.mark.parametrize("mode", ["normalise", "clip", "off"])
@pytest.mark.parametrize("size", [1e-3, 10.0, 0.0])
def test_gradient_rms(mode, size):
    params = [
        torch.nn.Parameter(torch.randn(3, 4)),
        torch.nn.Parameter(torch.randn(5)),
        torch.nn.Parameter(torch.ones(2)),
    ]
    for p in params[:2]:
        p.grad = torch.randn_like(p) * size
    flat = torch.cat([p.grad.flatten() for p in params[:2]])
    expected = flat.square().mean().sqrt()
    assert torch.allclose(scale_gradients_(params, OptimConfig(grad_rms=mode)), expected)
    after = grad_rms(params).item()
    by_hand = {"normalise": 1.0 if size else 0.0, "clip": min(expected.item(), 1.0), "off": expected.item()}[mode]
    assert after == pytest.approx(by_hand, rel=1e-5)


def test_only_matrices_decay(make_model):
    model = make_model()
    decayed, rest = build_optimizer(model, OptimConfig()).param_groups
    assert decayed["weight_decay"] == 0.1 and rest["weight_decay"] == 0
    ids = {id(p) for p in rest["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in ids}
    assert "bigram.weight" in names and "final_norm.gain" in names and "blocks.0.attn.sink" in names
    assert not any(name.endswith(("W_q.weight", "embed.weight")) for name in names)
