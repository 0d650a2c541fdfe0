"""Packed exports: the same model in a fraction of the bytes; what does not fit is refused."""

import pytest
import torch

from sparsetrain.export import export_model, load_model
from sparsetrain.packed import GAPS, VALUES, pack, rounded, unpack


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


def test_half_precision_is_for_values_that_have_it():
    table = sparse((40, 40), 1.0)
    with pytest.raises(ValueError, match="round it first"):
        pack({"bigram": table}, half=["bigram"])
    packed = pack({"bigram": rounded(table)}, half=["bigram"])
    assert packed["bigram"].dtype == torch.float16
    assert torch.equal(unpack(packed, {"bigram": table.shape})["bigram"], rounded(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"x{GAPS}"), "takes gaps, values"),
        (lambda t: t.pop(f"x{VALUES}"), "takes gaps, values"),
        (lambda t: t.update({f"y{GAPS}": t[f"x{GAPS}"], f"y{VALUES}": t[f"x{VALUES}"]}), "takes gaps, values"),
        (lambda t: t.update({f"x{GAPS}": t[f"x{GAPS}"].float()}), "takes gaps, values"),
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


@torch.no_grad()
def test_a_packed_export_is_the_same_model_in_fewer_bytes(make_model, tmp_path):
    model = make_model(d_model=64, d_head=16, n_ctx=16, bigram=True).eval()
    for name, parameter in model.named_parameters():
        if name.startswith("bigram"):
            parameter.copy_(rounded(torch.randn(parameter.shape)))
        elif parameter.ndim == 2:
            parameter.copy_(sparse(tuple(parameter.shape), 0.02))
    folders = [export_model(model, tmp_path / str(packed), None, {}, packed=packed) for packed in (False, True)]
    tokens = torch.arange(16)[None]
    plain, packed = (load_model(folder) for folder in folders)
    assert torch.equal(plain(tokens), packed(tokens)) and torch.equal(packed(tokens), model(tokens))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes[1] < sizes[0] / 5
