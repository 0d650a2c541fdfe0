"""Packed exports: the same model in a fraction of the bytes; what does not fit is refused."""

import pytest
import torch

from sparsetrain.export import export_model, load_model
from sparsetrain.packed import GAPS, LEVELS, LOW, STEP, VALUES, pack, unpack


def sparse(shape: tuple[int, ...], density: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)


@pytest.mark.parametrize("density", [0, 1e-5, 1 / 128, 0.25, 0.9, 1])
@pytest.mark.parametrize("shape", [(300, 1000), (7,), (1, 1), (0, 3), (70_000, 3)])
def test_values_come_back_as_they_were(shape, density):
    state = {"a.b": sparse(shape, density), "c": torch.ones(3)}
    tensors = pack(state)
    back = unpack(tensors, {name: tensor.shape for name, tensor in state.items()})
    assert set(back) == set(state)
    for name, tensor in state.items():
        assert torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype
    if 0 < density < 0.1 and len(shape) == 2 and state["a.b"].numel() > 1000:
        n_bytes = sum(tensor.numel() * tensor.element_size() for name, tensor in tensors.items() if name != "c")
        assert n_bytes <= state["a.b"].count_nonzero() * 8


def test_first_last_and_lonely_entries_keep_their_places():
    for at in ([0], [99_999], [0, 99_999], [5, 6], list(range(100))):
        tensor = torch.zeros(100_000)
        tensor[at] = torch.arange(1.0, len(at) + 1)
        assert torch.equal(unpack(pack({"x": tensor}), {"x": tensor.shape})["x"], tensor)


@pytest.mark.parametrize("shape", [(40, 30), (1, 1), (3, 1), (2, 5000)])
def test_a_table_comes_back_within_half_a_level_of_its_row(shape):
    table = sparse(shape, 1.0) * 10
    table[0] = 4.0  # a row of one value
    back = unpack(pack({"x": table}, tables=["x"]), {"x": table.shape})["x"]
    step = (table.amax(1) - table.amin(1)) / 255
    assert (back - table).abs().amax(1).le(step * 0.501 + 1e-6).all()
    assert torch.equal(back[0], table[0]) and torch.equal(back.amin(1), table.amin(1))


def test_rows_that_are_mostly_alike_take_few_bytes():
    table = torch.full((300, 300), -9.0)
    table[:, :10] = sparse((300, 10), 1.0)
    packed = pack({"x": table}, tables=["x"])
    assert sum(tensor.numel() * tensor.element_size() for tensor in packed.values()) < table.numel() * 4 / 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"x{GAPS}"), "stand for no tensor"),
        (lambda t: t.pop(f"x{VALUES}"), "stand for no tensor"),
        (lambda t: t.update({f"y{GAPS}": t[f"x{GAPS}"], f"y{VALUES}": t[f"x{VALUES}"]}), "stand for no tensor"),
        (lambda t: t.update({f"x{GAPS}": t[f"x{GAPS}"].float()}), "gaps of type"),
        (lambda t: t.update({f"x{VALUES}": t[f"x{VALUES}"][1:]}), "no places in order"),
        (lambda t: t.update({f"x{GAPS}": torch.zeros(len(t[f"x{VALUES}"]), dtype=torch.int32)}), "no places in order"),
        (lambda t: t.update({f"x{GAPS}": -t[f"x{GAPS}"].to(torch.int32)}), "no places in order"),
        (lambda t: t.update({f"x{GAPS}": t[f"x{GAPS}"].to(torch.int32) * 3}), "behind the end"),
        (lambda t: t.update({f"x{GAPS}": torch.full((len(t[f"x{VALUES}"]),), 2**31 - 1, dtype=torch.int32)}), "behind the end"),
    ],
)  # fmt: skip
def test_gaps_and_values_that_make_no_tensor_are_refused(change, message):
    tensors = pack({"x": sparse((30, 30), 0.1)})
    change(tensors)
    with pytest.raises(ValueError, match=message):
        unpack(tensors, {"x": torch.Size((30, 30))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"x{LOW}"), "stand for no tensor"),
        (lambda t: t.update({f"x{VALUES}": t[f"x{LOW}"]}), "stand for no tensor"),
        (lambda t: t.update({f"x{STEP}": t[f"x{STEP}"][1:]}), "are no table"),
        (lambda t: t.update({f"x{LEVELS}": t[f"x{LEVELS}"][:9]}), "are no table"),
        (lambda t: t.update({f"x{LEVELS}": t[f"x{LEVELS}"] + 1}), "cannot be inflated"),
        (lambda t: t.update({f"x{LEVELS}": pack({"y": torch.ones(99, 99)}, ["y"])[f"y{LEVELS}"]}), "are no table"),
    ],
)
def test_levels_that_make_no_table_are_refused(change, message):
    tensors = pack({"x": sparse((30, 30), 1)}, tables=["x"])
    change(tensors)
    with pytest.raises(ValueError, match=message):
        unpack(tensors, {"x": torch.Size((30, 30))})


@torch.no_grad()
def test_a_packed_export_is_the_same_model_in_fewer_bytes(make_model, tmp_path):
    model = make_model(d_model=64, d_head=16, n_ctx=16, bigram=True).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.copy_(sparse(tuple(parameter.shape), 1.0 if name.startswith("bigram") else 0.02))
    packed = export_model(model, tmp_path / "packed", None, {}, packed=True)
    loaded = load_model(packed)
    plain = export_model(loaded, tmp_path / "plain", None, {})
    tokens = torch.arange(16)[None]
    assert torch.equal(load_model(plain)(tokens), loaded(tokens))
    assert torch.allclose(loaded(tokens), model(tokens), atol=0.02), "but for the rounded table"
    for (name, given), (_, back) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name.startswith("bigram") or torch.equal(given, back), name
    assert (packed / "model.safetensors").stat().st_size < (plain / "model.safetensors").stat().st_size / 5
