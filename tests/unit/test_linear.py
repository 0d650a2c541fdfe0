"""Layers that compute by their nonzeros: equal to the dense ones, and dense again as soon as somebody touches a weight."""

import copy
from pathlib import Path

import pytest
import torch

from sparsetrain.export import export_model, load_model
from sparsetrain.hooks import hooked, record
from sparsetrain.linear import Embedding, Linear, SparseLookup, SparseProduct, multiply_by_nonzeros_
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.sparsity import SparsityConfig, build_sparsity

CONFIG = ModelConfig(
    d_vocab=61, n_layer=2, d_model=64, d_head=8, n_ctx=24, positions="concat", abs_topk={"attn_in": 0.5}
)
TOKENS = torch.arange(2 * 17).reshape(2, 17) % 61


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    method = build_sparsity(SparsityConfig(density=0.05, embed_density=0.2, floor=0), n_steps=1)
    assert method is not None
    method.prepare(model)
    method.finalize()
    return export_model(model, tmp_path / "export", None, {"step": 1})


@torch.no_grad()
def test_a_model_by_its_nonzeros_has_the_same_logits_and_activations(exported: Path) -> None:
    dense, sparse = load_model(exported), load_model(exported, compute="sparse")
    torch.testing.assert_close(sparse(TOKENS), dense(TOKENS), atol=1e-5, rtol=1e-5)
    names = ["blocks.0.attn.hook_in", "blocks.1.mlp.hook_neuron", "final_norm.hook_norm"]
    for of in (record(dense, TOKENS, names)[1], record(sparse, TOKENS, names)[1]):
        assert set(of) == set(names)
    for name in names:
        torch.testing.assert_close(record(sparse, TOKENS, [name])[1][name], record(dense, TOKENS, [name])[1][name], atol=1e-5, rtol=1e-5)  # fmt: skip
    half = {"blocks.0.mlp.hook_neuron": lambda x, point: x / 2}
    with hooked(dense, half), hooked(sparse, half):
        torch.testing.assert_close(sparse(TOKENS), dense(TOKENS), atol=1e-5, rtol=1e-5)


def test_layers_that_are_not_sparse_stay_dense(exported: Path) -> None:
    model = load_model(exported)
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight.fill_(0.1)
    names = multiply_by_nonzeros_(model)
    assert "blocks.0.mlp.W_in" not in names and "blocks.0.mlp.W_out" in names and "unembed" in names
    assert "bigram" not in names and not any("embed" in name and name != "unembed" for name in names)


@torch.no_grad()
def test_a_weight_that_is_changed_exchanged_or_copied_is_multiplied_as_it_is(exported: Path) -> None:
    changed, exchanged, converted = (load_model(exported, compute="sparse") for _ in range(3))
    for model in (changed, load_model(exported)):
        model.blocks[0].mlp.W_in.weight.mul_(3)
    reference = load_model(exported)
    reference.blocks[0].mlp.W_in.weight.mul_(3)
    torch.testing.assert_close(changed(TOKENS), reference(TOKENS), atol=1e-5, rtol=1e-5)
    exchanged.blocks[0].mlp.W_in.weight = torch.nn.Parameter(reference.blocks[0].mlp.W_in.weight.clone())
    torch.testing.assert_close(exchanged(TOKENS), reference(TOKENS), atol=1e-5, rtol=1e-5)
    copied = copy.deepcopy(changed)
    copied.blocks[0].mlp.W_in.weight.div_(3)
    torch.testing.assert_close(copied(TOKENS), load_model(exported)(TOKENS), atol=1e-5, rtol=1e-5)
    double = converted.double()
    torch.testing.assert_close(double(TOKENS), load_model(exported).double()(TOKENS))


def test_who_asks_for_gradients_of_the_weights_gets_them(exported: Path) -> None:
    dense, sparse = (load_model(exported, compute=how).requires_grad_(True) for how in ("dense", "sparse"))
    for model in (dense, sparse):
        model(TOKENS).square().mean().backward()
    for (name, one), other in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


def test_gradients_go_to_the_values() -> None:
    weight = torch.nn.Parameter(torch.eye(16))
    product, lookup = SparseProduct(weight), SparseLookup(weight)
    layer, table = Linear(16, 16, bias=False), Embedding(16, 16)
    layer.weight = table.weight = weight
    layer.product, table.product = product, lookup  # pyright: ignore[reportAttributeAccessIssue]
    for one in (product, lookup):
        one.values.requires_grad_()
    (layer(torch.ones(3, 16)).sum() + table(torch.tensor([2, 2, 5])).sum()).backward()
    assert weight.grad is None
    assert product.values.grad is not None and product.values.grad.tolist() == [3.0] * 16
    assert lookup.values.grad is not None
    assert lookup.values.grad.tolist() == [2.0 if i == 2 else 1.0 if i == 5 else 0.0 for i in range(16)]


def test_there_are_two_ways_to_compute(exported: Path) -> None:
    with pytest.raises(ValueError, match="compute='fast' must be dense or sparse"):
        load_model(exported, compute="fast")  # pyright: ignore[reportArgumentType]
