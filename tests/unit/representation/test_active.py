"""Numbers of active channels by hand-computed values and brute force; settings as hooks, on models with and without AbsTopK."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sparsetrain.adapters.hugging_face import HookedHubModel
from sparsetrain.representation.active import (
    Prompts,
    at_places,
    drawn_order,
    keep_largest,
    keep_random,
    n_active,
    set_participation,
)
from sparsetrain.representation.items import Item, Looks, read_items_of_any_length
from sparsetrain.representation.measures import participation_ratio
from sparsetrain.studies.surfaces import best_level, enough_level, gains_of_own_best, level_grid, resampled_best


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
    order = drawn_order(50, 16, seed=0)
    few, more = (keep_random(k, order)(h) != 0 for k in (3, 9))
    assert (few.sum(-1) == 3).all() and (more.sum(-1) == 9).all() and (more | ~few).all()
    assert len({tuple(row.tolist()) for row in few}) > 40  # drawn anew for each vector
    assert (keep_random(16, order)(h) == h).all() and (keep_largest(99)(h) == h).all()


@pytest.mark.parametrize("abs_topk", [{}, {"mlp_neuron": 0.25}])
def test_settings_work_through_hooks_where_the_answer_is_predicted(make_model, abs_topk):
    model = make_model(bigram=False, abs_topk=abs_topk)
    prompts = torch.randint(0, 61, (6, 5), generator=torch.Generator().manual_seed(0))
    asked = Prompts(model, [Item(tokens=tuple(row), n_answer=1) for row in prompts.tolist()])
    point = "blocks.0.mlp.hook_neuron"
    width = model.config.mlp_width
    plain = model(prompts[:, :-1])[:, -1]
    assert torch.equal(asked.logits({}), plain)
    assert torch.equal(asked.logits({point: keep_largest(width)}), plain)
    assert not torch.allclose(asked.logits({point: keep_largest(1)}), plain)
    k = model.config.k("mlp_neuron")
    if abs_topk:  # the model's own number of channels changes nothing
        assert torch.equal(asked.logits({point: keep_largest(k)}), plain)
    x, places = gaussian(2, 3, 8), torch.tensor([[False, True, True], [False, False, True]])
    y = at_places(keep_largest(2), places)(x, None)  # pyright: ignore[reportArgumentType]
    assert torch.equal(y[~places], x[~places]) and ((y[places] != 0).sum(-1) == 2).all()
    with pytest.raises(KeyError, match="near names"):
        asked.logits({"blocks.0.mlp.hook_neurons": keep_largest(1)})


def several(n: int = 7) -> list[Item]:
    """Items of several lengths, with answers of several."""
    rng = np.random.default_rng(0)
    sizes = [(int(rng.integers(4, 12)), int(rng.integers(1, 4))) for _ in range(n)]
    return [Item(tokens=tuple(rng.integers(0, 61, length).tolist()), n_answer=k) for length, k in sizes]


def test_answers_of_several_tokens_are_those_of_the_reader_and_company_changes_nothing(make_model):
    model, items = make_model(bigram=False), several()
    asked = Prompts(model, items)
    plain, read = asked.answer({}), read_items_of_any_length(model, items, Looks(points=()))
    assert plain.loss.numpy() == pytest.approx(read["answer_loss"], abs=1e-5)
    assert plain.correct.tolist() == read["correct"].tolist()
    point = "blocks.0.mlp.hook_neuron"
    setting, seen = {point: keep_largest(3)}, asked.seen([point])[point]
    together, start = asked.answer(setting), 0
    for i, item in enumerate(items):
        alone = Prompts(model, [item])
        assert alone.answer(setting).loss[0] == pytest.approx(together.loss[i].item(), abs=1e-5)
        h = alone.seen([point])[point]
        assert h.shape[0] == item.n_answer
        assert torch.allclose(h, seen[start : start + item.n_answer], atol=1e-5)
        start += item.n_answer
    assert asked.per_item(torch.arange(start)).tolist()[0] == (items[0].n_answer - 1) / 2
    with pytest.raises(AssertionError, match="every item needs an answer"):
        Prompts(model, [Item(tokens=(1, 2))])


def test_what_stands_in_front_is_read_once(make_model):
    transformers = pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
    from hub_example import hub_model

    assert transformers
    model, items = HookedHubModel(hub_model("llama")), several()
    n_read: list[int] = []
    hub_forward = model.hub.forward

    def counted(*args, **kwargs):
        n_read.append(kwargs["input_ids"].shape[1])
        return hub_forward(*args, **kwargs)

    model.hub.forward = counted  # pyright: ignore[reportAttributeAccessIssue]
    asked = Prompts(model, items)
    setting = {"blocks.1.mlp.hook_neuron": keep_largest(3)}
    found, again = asked.answer(setting), asked.answer(setting)
    first, longest = min(item.last for item in items), max(len(item.tokens) for item in items)
    assert n_read == [first, longest - 1 - first, longest - 1 - first] and torch.equal(found.loss, again.loss)
    for i, item in enumerate(items):  # a prompt of one token leaves nothing to be read before
        whole = Prompts(model, [item, Item(tokens=(1, 2), n_answer=1)])
        assert whole.answer(setting).loss[0] == pytest.approx(found.loss[i].item(), abs=1e-5)


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
        gains_of_own_best(
            (rng.random((20, 40)) < 0.5).astype(float), noise, n_splits=20, rng=np.random.default_rng(seed)
        ).mean()
        for seed in range(60)
    ]
    assert abs(np.mean(alike)) < 0.03
    reference, shifted = np.zeros((3, 40)), np.zeros((3, 40))
    reference[2], shifted[0], shifted[2, :10] = 1, 1, 1
    gains = gains_of_own_best(shifted, reference, n_splits=200, rng=rng)
    assert gains.mean() == pytest.approx(0.75, abs=0.02)
    assert (
        gains[10:] == pytest.approx(1, abs=0.3) and (gains[:10] == 0).all()
    )  # each item is tested in about half of the splits
