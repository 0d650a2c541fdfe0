"""The transformer: config checks, causality, positions, AbsTopK places, fused against reference attention."""

import pytest
import torch

from sparsetrain.hooks import NODE_KINDS, hooked, node_points, record
from sparsetrain.model import ModelConfig


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"n_head": 3}, "does not divide"),
        ({"d_head": 7}, "does not divide"),
        ({"abs_topk": {"mlp": 0.5}}, "unknown kinds"),
        ({"abs_topk": {"mlp_in": 0.001}}, r"must lie in \[1/32, 1\]"),
        ({"n_layer": 0}, "at least 1"),
        ({"norm_positions": True}, "norm_positions=true is for model.positions=concat"),
        ({"norm_positions": True, "positions": "concat", "abs_topk": {"mlp_in": 0.01}}, r"must lie in \[1/48, 1\]"),
    ],
)
def test_bad_config_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"d_model": 32, "d_head": 8, **bad})


@pytest.mark.parametrize("positions", ["none", "learned", "concat"])
@pytest.mark.parametrize("sink", [True, False])
def test_causal_and_position_aware_as_configured(make_model, positions, sink):
    model = make_model(positions=positions, sink=sink)
    tokens = torch.randint(61, (2, 10))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 61
    a, b = model(tokens), model(changed)
    torch.testing.assert_close(a[:, :7], b[:, :7])
    assert not torch.allclose(a[:, 7:], b[:, 7:])
    # Without positions (and with one repeated token) every position computes the same thing.
    same = model(torch.full((1, 6), 5))[0]
    assert torch.allclose(same[0], same[5], atol=1e-5) == (positions == "none" and not sink)


def test_too_many_positions_is_an_error_only_where_there_are_positions(make_model):
    tokens = torch.randint(61, (1, 30))
    assert make_model()(tokens).shape == (1, 30, 61)
    with pytest.raises(ValueError, match="n_ctx=24"):
        make_model(positions="learned")(tokens)


def test_abs_topk_at_every_kind_and_hooks_see_the_value_after_it(make_model):
    model = make_model(abs_topk={kind: 0.25 for kind in NODE_KINDS})
    _, seen = record(model, torch.randint(61, (2, 9)), node_points(model))
    for name, x in seen.items():
        assert (x != 0).sum(-1).max() == x.shape[-1] // 4, name


def test_normed_positions_compete_for_the_places_of_the_reads(make_model):
    share = {"attn_in": 0.25, "mlp_in": 0.25}
    model = make_model(positions="concat", d_pos=8, norm_positions=True, abs_topk=share)
    assert model.config.k("attn_in") == 10
    assert model.config.places_compete
    tokens, read = torch.randint(61, (2, 9)), {}
    layer = model.blocks[0].attn
    handle = layer.W_q.register_forward_pre_hook(lambda module, inputs: read.update(x=inputs[0]))
    _, seen = record(model, tokens, ["blocks.0.attn.hook_in", "blocks.0.attn.norm.hook_norm"])
    handle.remove()
    assert (read["x"] != 0).sum(-1).eq(10).all()
    assert torch.equal(read["x"][..., :32], seen["blocks.0.attn.hook_in"])
    whole = torch.cat([seen["blocks.0.attn.norm.hook_norm"] * layer.norm.gain, layer.places(model.positions[:9]).expand(2, -1, -1)], -1)  # fmt: skip
    kept = whole.abs() >= whole.abs().sort(-1).values[..., -10:-9]
    assert torch.equal(read["x"], whole * kept)


def test_at_selects_the_same_logits(make_model):
    model = make_model()
    tokens, at = torch.randint(61, (3, 9)), torch.tensor([8, 2, 5])
    torch.testing.assert_close(model(tokens, at=at), model(tokens)[torch.arange(3), at])


@pytest.mark.parametrize("sink", [True, False])
def test_fused_attention_equals_reference(make_model, sink):
    fused, reference = make_model(sink=sink), make_model(sink=sink, attention="reference")
    tokens = torch.randint(61, (2, 20))
    for model in (fused, reference):
        model(tokens).logsumexp(-1).sum().backward()
    torch.testing.assert_close(fused(tokens), reference(tokens), atol=1e-5, rtol=1e-5)
    for a, b in zip(fused.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)


def test_bigram_row_of_the_current_token_is_added(make_model):
    model = make_model()
    tokens = torch.randint(61, (1, 5))
    with torch.no_grad():
        before = model(tokens)
        model.bigram.weight[tokens[0, 3]] += 1.5
        after = model(tokens)
    changed = tokens[0] == tokens[0, 3]
    torch.testing.assert_close(after[0, changed], before[0, changed] + 1.5)
    assert torch.equal(after[0, ~changed], before[0, ~changed])


def test_frozen_norm_scale_is_used(make_model):
    model = make_model()
    tokens = torch.randint(61, (1, 5))
    with hooked(model, {"final_norm.hook_scale": lambda x, p: x * 2}):
        doubled = model(tokens)
    bigram = model.bigram(tokens) + model.unembed.bias
    torch.testing.assert_close(doubled - bigram, 2 * (model(tokens) - bigram), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("key", ["n_layer", "d_mlp", "d_pos", "n_head"])
def test_a_size_below_one_is_refused_by_name(key):
    with pytest.raises(ValueError, match=rf"model\.{key}=0 must be at least 1"):
        ModelConfig(**{"d_model": 32, "d_head": 8, "positions": "concat", key: 0})
