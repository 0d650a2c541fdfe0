"""Directions: length one, the same places in every model, nonzeros counted by hand."""

import re
from dataclasses import replace

import pytest
import torch

from circuits.fracture.perturbations import (
    Perturbation,
    PerturbationsConfig,
    draw_perturbations,
    matrices,
)
from sparsetrain.model import ModelConfig, Transformer

CONFIG = ModelConfig(d_vocab=12, n_layer=2, d_model=8, d_head=4, d_mlp=8, n_ctx=6, abs_topk={}, positions="learned")


def cut_to(n: int, seed: int = 0) -> Transformer:
    """Each unit of a block's matrices keeps n weights; unit 3 of the first keeps none where n < 8."""
    torch.manual_seed(seed)
    model = Transformer(CONFIG)
    with torch.no_grad():
        for linear in matrices(model).values():
            weight = linear.weight
            order = torch.rand(weight.shape).argsort(1)
            weight.mul_(torch.zeros_like(weight).scatter_(1, order[:, :n], 1.0))
        if n < 8:
            model.get_submodule("blocks.0.attn.W_q").weight[3] = 0  # pyright: ignore[reportIndexIssue, reportArgumentType]
    return model


DENSE, SPARSE, SPARSER = cut_to(8), cut_to(3, 1), cut_to(2, 2)
MODELS = {"dense": DENSE, "sparse": SPARSE, "sparser": SPARSER}


def test_matrices_are_those_of_the_blocks() -> None:
    assert [*matrices(DENSE)] == [
        f"blocks.{i}.{name}" for i in range(2) for name in ("attn.W_q", "attn.W_k", "attn.W_v", "attn.W_o", "mlp.W_in", "mlp.W_out")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["weight", "direction", "singular"])
@pytest.mark.parametrize("entries", ["all", "nonzero", "fewest"])
def test_directions_have_length_one_and_change_what_they_may(kind, entries):
    n = 24 if kind == "singular" else 80
    drawn = draw_perturbations(MODELS, PerturbationsConfig(kind=kind, entries=entries, n=n, seed=4))
    for name, model in MODELS.items():
        assert len(drawn[name]) == n
        for one, first in zip(drawn[name], drawn["dense"], strict=True):
            weight = matrices(model)[one.name].weight
            u = one.direction(weight)
            assert u.shape == weight.shape and float(u.norm()) == pytest.approx(1, abs=1e-6)
            assert one.n_entries == int((u != 0).sum())
            assert (one.name, one.unit) == (first.name, first.unit)
            if one.unit is not None:
                assert not u[[i for i in range(len(u)) if i != one.unit]].any()
            if entries != "all":
                assert not u[weight == 0].any()
            if kind == "weight":
                assert one.n_entries == 1 and float(u.sum()) == 1
            if entries == "all" and kind != "singular":
                assert torch.equal(one.values, first.values)
    counts = {name: {one.n_entries for one in drawn[name]} for name in MODELS}
    if kind == "direction":
        expected = {"all": (8, 8, 8), "nonzero": (8, 3, 2), "fewest": (2, 2, 2)}[entries]
        assert counts == {name: {count} for name, count in zip(MODELS, expected, strict=True)}
    if kind == "singular" and entries == "fewest":
        for one in drawn["dense"]:
            assert one.n_entries == int((matrices(SPARSER)[one.name].weight != 0).sum())
        per_model = [[one.n_entries for one in drawn[name]] for name in MODELS]
        assert per_model[0] == per_model[1] == per_model[2]
    if kind == "singular" and entries == "nonzero":
        assert counts["dense"] == {64} and counts["sparse"] <= {24, 21}


def test_no_place_is_drawn_twice_and_no_dead_unit_for_any_model() -> None:
    n = 12 * 8 - 1  # every unit but the dead one
    drawn = draw_perturbations(MODELS, PerturbationsConfig(kind="direction", entries="nonzero", n=n))["dense"]
    places = {(one.name, one.unit) for one in drawn}
    assert len(places) == n and ("blocks.0.attn.W_q", 3) not in places
    with pytest.raises(
        ValueError,
        match=re.escape("n=96 perturbations of kind direction, but only 95 units have a nonzero in every model"),
    ):
        draw_perturbations(MODELS, PerturbationsConfig(kind="direction", entries="nonzero", n=n + 1))
    assert len(draw_perturbations(MODELS, PerturbationsConfig(kind="weight", entries="all", n=n + 1))["dense"]) == n + 1
    with pytest.raises(ValueError, match="singular directions in every model; lower n"):
        draw_perturbations(MODELS, PerturbationsConfig(kind="singular", n=97))


def test_singular_directions_are_those_of_the_matrix() -> None:
    drawn = draw_perturbations({"dense": DENSE}, PerturbationsConfig(kind="singular", entries="all", n=96))["dense"]
    for name, linear in matrices(DENSE).items():
        mine = [one.values for one in drawn if one.name == name]
        rebuilt = sum(float((linear.weight.detach() * u).sum()) * u for u in mine)
        torch.testing.assert_close(rebuilt, linear.weight.detach(), atol=1e-5, rtol=0)


def test_equal_models_get_equal_perturbations_and_the_seed_decides() -> None:
    config = PerturbationsConfig(n=10)
    drawn = draw_perturbations({"one": SPARSE, "other": cut_to(3, 1)}, config)
    assert all(torch.equal(a.values, b.values) for a, b in zip(*drawn.values(), strict=True))
    other = draw_perturbations({"one": SPARSE}, replace(config, seed=1))["one"]
    assert [(a.name, a.unit) for a in drawn["one"]] != [(b.name, b.unit) for b in other]


def test_models_of_another_architecture_are_refused() -> None:
    wider = Transformer(replace(CONFIG, d_mlp=16))
    with pytest.raises(
        ValueError, match=re.escape("differ in the shape of blocks.0.mlp.W_in, blocks.0.mlp.W_out, blocks.1.mlp.W_in")
    ):
        draw_perturbations({"one": DENSE, "other": wider}, PerturbationsConfig())


def test_a_direction_of_a_unit_in_the_shape_of_its_matrix() -> None:
    one = Perturbation(kind="direction", name="blocks.0.mlp.W_in", unit=1, values=torch.tensor([0.6, 0.0, 0.8]))
    assert one.direction(torch.zeros(2, 3)).tolist() == [[0, 0, 0], pytest.approx([0.6, 0, 0.8])] and one.n_entries == 2
