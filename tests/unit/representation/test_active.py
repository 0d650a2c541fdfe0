"""Numbers of active channels by hand-computed values and brute force; settings as hooks, on models with and without AbsTopK."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sparsetrain.representation.active import (
    answer,
    at_last,
    keep_largest,
    keep_random,
    n_active,
    set_participation,
)
from sparsetrain.representation.measures import participation_ratio
from sparsetrain.studies.surfaces import best_level, enough_level, gain_of_own_best, level_grid, resampled_best


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 12), st.floats(0.05, 1.0), st.integers(0, 999))
def test_n_active_is_the_smallest_number_that_carries_the_share(width, energy, seed):
    h = gaussian(width, seed=seed).double()
    squares = np.sort(h.numpy() ** 2)[::-1]
    want = next(k for k in range(1, width + 1) if squares[:k].sum() >= energy * squares.sum() * (1 - 1e-9))
    assert n_active(h, energy).item() == want


def test_n_active_by_hand():
    h = torch.tensor([[2.0, -1.0, 1.0, 0.0], [0.0, 0.0, 3.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert n_active(h, 0.6).tolist() == [1, 1, 3, 1]
    assert n_active(h, 1.0).tolist() == [3, 1, 4, 1]


@given(st.floats(1.05, 7.5), st.integers(0, 999))
@example(target=1.25, seed=1)  # its two largest entries differ by 0.007%
def test_temperature_reaches_its_target_and_keeps_norm_sign_and_order(target, seed):
    h = gaussian(5, 8, seed=seed)
    y = set_participation(target)(h)
    assert torch.allclose(participation_ratio(y), torch.full((5,), target), rtol=1e-3)
    assert torch.allclose(y.norm(dim=-1), h.norm(dim=-1), rtol=1e-4)
    assert (y.sign() * h.sign() >= 0).all()
    largest = h.abs().argmax(-1)
    assert (y.abs().argmax(-1) == largest).all()


def test_temperature_at_a_vectors_own_density_leaves_it_and_zeros_stay():
    h = gaussian(1, 16)
    h[0, :4] = 0
    y = set_participation(participation_ratio(h).item())(h)
    assert torch.allclose(y, h, atol=1e-4)
    denser = set_participation(16.0)(h)
    assert (denser[0, :4] == 0).all() and participation_ratio(denser).item() == pytest.approx(12, abs=0.2)
    assert (set_participation(3.0)(torch.zeros(1, 4)) == 0).all()


def test_temperature_tells_neighbouring_numbers_apart_and_equal_ones_not():
    one = torch.tensor(1.0)
    h = torch.stack([one, torch.nextafter(one, 2 * one), 0.5 * one])[None]
    for target in (1.05, 1.5, 2.5):
        assert participation_ratio(set_participation(target)(h)).item() == pytest.approx(target, rel=1e-3)
    equal = torch.tensor([[2.0, -2.0, 2.0, 1.0, 0.0]])
    assert set_participation(1.5)(equal)[0].tolist() == pytest.approx(
        [13**0.5 / 3**0.5, -(13**0.5) / 3**0.5, 13**0.5 / 3**0.5, 0, 0]
    )
    assert participation_ratio(set_participation(4.9)(equal)).item() == pytest.approx(4, abs=1e-3)


def test_kept_channels():
    h = gaussian(50, 16)
    kept = keep_largest(3)(h)
    for row, out in zip(h, kept, strict=True):
        want = torch.zeros(16)
        top = row.abs().argsort(descending=True)[:3]
        want[top] = row[top]
        assert (out == want).all()
    few, more = (keep_random(k, 0)(h) != 0 for k in (3, 9))
    assert (few.sum(-1) == 3).all() and (more.sum(-1) == 9).all() and (more | ~few).all()
    assert len({tuple(row.tolist()) for row in few}) > 40  # drawn anew for each vector
    assert (keep_random(16, 0)(h) == h).all() and (keep_largest(99)(h) == h).all()


@pytest.mark.parametrize("abs_topk", [{}, {"mlp_neuron": 0.25}])
def test_settings_work_through_hooks_at_the_last_position_alone(make_model, abs_topk):
    model = make_model(bigram=False, abs_topk=abs_topk)
    prompts = torch.randint(0, 61, (6, 5), generator=torch.Generator().manual_seed(0))
    point = "blocks.0.mlp.hook_neuron"
    width = model.config.mlp_width
    plain = model(prompts[:, :-1])[:, -1]
    assert torch.equal(answer(model, prompts, {}), plain)
    assert torch.equal(answer(model, prompts, {point: keep_largest(width)}), plain)
    assert not torch.allclose(answer(model, prompts, {point: keep_largest(1)}), plain)
    k = model.config.k("mlp_neuron")
    if abs_topk:  # the model's own number of channels changes nothing
        assert torch.equal(answer(model, prompts, {point: keep_largest(k)}), plain)
    x = gaussian(2, 3, 8)
    y = at_last(keep_largest(2))(x, None)  # pyright: ignore[reportArgumentType]
    assert torch.equal(y[:, :-1], x[:, :-1]) and (y[:, -1] != 0).sum().item() == 4
    with pytest.raises(KeyError, match="near names"):
        answer(model, prompts, {"blocks.0.mlp.hook_neurons": keep_largest(1)})


def test_levels():
    assert level_grid(8, 1).tolist() == [1, 2, 4, 8]
    assert level_grid(128, 2).tolist() == [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128]
    assert level_grid(100, 1)[-1] == 100


def test_best_level_shares_ties():
    outcome = np.array([[0.2, 1.0], [0.9, 1.0], [0.9, 0.5], [0.1, 1.0]])
    assert best_level(outcome, np.arange(4.0)).tolist() == [1.5, 4 / 3]


def test_enough_means_from_there_on():
    levels = np.arange(5.0)
    assert enough_level(np.array([0.1, 0.96, 0.5, 0.95, 1.0]), levels, share=0.95) == 3  # level 1 is luck
    assert enough_level(np.array([1.0, 1.0, 1.0, 1.0, 1.0]), levels, share=0.95) == 0
    assert enough_level(np.array([0.0, 0.0, 0.0, 0.0, 1.0]), levels, share=0.95) == 4
    assert enough_level(np.array([0.5, 1.0, 0.8, 0.2, 0.1]), levels, share=0.95) == 1  # too many channels hurt


def test_resampling_is_that_of_items():
    # Two kinds of items, each answered at one level only: the best level is that of the kind drawn more often.
    outcome = np.array([[1.0] * 3 + [0.0] * 7, [0.0] * 3 + [1.0] * 7])
    best = resampled_best(outcome, np.arange(2.0), n_items=11, n_bootstrap=4000, rng=np.random.default_rng(0))
    few = np.random.default_rng(1).binomial(11, 0.7, size=100_000) > 5
    assert best.mean() == pytest.approx(few.mean(), abs=0.02)


def test_gain_is_measured_on_items_that_did_not_choose():
    rng = np.random.default_rng(0)
    noise = (rng.random((20, 40)) < 0.5).astype(float)  # every level alike: choosing must not look like a gain
    alike = [
        gain_of_own_best(
            (rng.random((20, 40)) < 0.5).astype(float), noise, n_splits=20, rng=np.random.default_rng(seed)
        )
        for seed in range(60)
    ]
    assert abs(np.mean(alike)) < 0.03
    reference, shifted = np.zeros((3, 40)), np.zeros((3, 40))
    reference[2], shifted[0], shifted[2, :10] = 1, 1, 1
    assert gain_of_own_best(shifted, reference, n_splits=200, rng=rng) == pytest.approx(0.75, abs=0.02)
