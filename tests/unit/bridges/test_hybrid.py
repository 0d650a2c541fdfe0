"""Hybrid passes: nothing lost across an identity bridge, equal to passes written out layer by layer, on models of others too; their table."""

import copy
import re

import pytest
import torch
from hub_example import hub_model
from torch import nn

from circuits.bridges.bridge import Between, Bridge
from circuits.bridges.hybrid import Coupled, Route, crossed, crossing_losses, random_routes, single_crossings
from circuits.bridges.sites import Entry, run, sites_of
from sparsetrain.adapters.hugging_face import HookedHubModel
from sparsetrain.model import ModelConfig, Transformer

TOKENS = torch.randint(23, (3, 7), generator=torch.Generator().manual_seed(0))
ABS_TOPK = {"attn_in": 0.5, "mlp_neuron": 0.5, "attn_out": 0.5, "mlp_out": 0.5}


def model(seed: int, d_model: int = 16, **settings) -> Transformer:
    """With nothing left at zero, so that every part of it matters."""
    torch.manual_seed(seed)
    found = Transformer(ModelConfig(**{"d_vocab": 23, "n_layer": 2, "d_model": d_model, "d_head": 8, "n_ctx": 8, "abs_topk": {}, **settings}))  # fmt: skip
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return found.requires_grad_(False)


def coupled(dense: nn.Module, sparse: nn.Module, share: float = 0.5) -> Coupled:
    return Coupled.of(dense, sparse, Bridge.between(sites_of(dense), sites_of(sparse), share=share, seed=1))


def by_hand(pair: Coupled, tokens: torch.Tensor, route: Route) -> torch.Tensor:
    """The layers of both models one after another: another way to say what a hybrid pass is."""
    models, n = route.models(), 0
    now = pair.model(models[0])[0]
    assert isinstance(now, Transformer)
    stream = now.embed(tokens)
    for i in range(len(pair.sites)):
        if i in route.crossings:
            n += 1
            now = pair.model(models[n])[0]
            stream = pair.carried(models[n], i, stream)
        assert isinstance(now, Transformer)
        concat = None if now.positions is None else now.positions[: tokens.shape[1]]
        if i == len(pair.sites) - 1:
            logits = now.unembed(now.final_norm(stream))
            return logits if now.bigram is None else logits + now.bigram(tokens)
        block = now.blocks[i // 2]
        stream = stream + (block.mlp if i % 2 else block.attn)(stream, concat)
    raise AssertionError


@pytest.mark.parametrize("settings", [{}, {"positions": "concat", "d_pos": 4}, {"abs_topk": ABS_TOPK, "bigram": False}])
def test_across_an_identity_bridge_nothing_is_lost(settings):
    dense = model(0, **settings)
    sparse = copy.deepcopy(dense)
    pair = coupled(dense, sparse, share=1.0)
    pair.bridge.make_identity_()
    windows = torch.randint(23, (5, 8), generator=torch.Generator().manual_seed(1))
    routes = [Route(start="dense"), Route(start="sparse"), *single_crossings(5), *random_routes(5, 100, 0)]
    losses = crossing_losses(pair, windows, routes)
    assert len(losses) == 2 * 2**5, "every way through five sites, from either model"
    for found in losses:
        assert found.loss == pytest.approx(losses[0].loss, abs=1e-5), found.route
        assert abs(found.kl) < 1e-5, found.route


@pytest.mark.parametrize("settings", [{}, {"positions": "concat", "d_pos": 4, "abs_topk": ABS_TOPK}])
def test_any_set_of_crossings_is_what_is_written_out_layer_by_layer(settings):
    pair = coupled(model(0, 16), model(1, 24, **settings))
    for route in [*single_crossings(5), *random_routes(5, 100, 0)]:
        torch.testing.assert_close(crossed(pair, TOKENS, route), by_hand(pair, TOKENS, route), rtol=1e-4, atol=1e-4)


def test_rows_are_entered_each_at_a_site_of_its_own():
    """And a row that is not entered is the model's own, bit by bit."""
    sparse = model(1)
    sites = sites_of(sparse)
    streams = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(2))
    logits, seen = run(sparse, sites, TOKENS, entry=Entry(values=streams, at=torch.tensor([-1, 2, 4])), keep=range(5))
    assert torch.equal(logits[0], sparse(TOKENS)[0])
    for row, site in ((1, 2), (2, 4)):
        alone, _ = run(sparse, sites, TOKENS[[row]], entry=Entry(values=streams[[row]], at=torch.tensor([site])))
        torch.testing.assert_close(logits[[row]], alone)
        assert torch.equal(seen[site][row], streams[row])
        assert not torch.equal(seen[site - 1][row], streams[row])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_models_of_others_are_bridged(name):
    hub = HookedHubModel(hub_model(name))
    pair = coupled(hub, copy.deepcopy(hub), share=1.0)
    pair.bridge.make_identity_()
    assert [site.name for site in pair.sites] == ["0.attn", "0.mlp", "1.attn", "1.mlp", "unembed"]
    plain = hub(TOKENS)
    for route in [*single_crossings(5), *random_routes(5, 4, 0)]:
        torch.testing.assert_close(crossed(pair, TOKENS, route), plain, rtol=1e-4, atol=1e-4)
    ours = coupled(hub, model(1, 24, d_vocab=61))
    changed = crossed(ours, TOKENS, Route(start="sparse", crossings=(2,)))
    assert changed.shape == plain.shape and not torch.allclose(changed, plain, atol=0.1)


def test_a_model_without_the_hook_points_is_refused():
    message = "GPTJ|HookedHubModel cannot be bridged: it has no hook point blocks.0.mlp.norm.hook_resid (it reads the same norm as the attention)"
    with pytest.raises(ValueError, match=re.escape(message.split("|")[1])):
        sites_of(HookedHubModel(hub_model("gptj")))


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="the dense model has 2 layers, the sparse one 1; a bridge joins models of the same depth"):  # fmt: skip
        coupled(model(0), model(1, n_layer=1))
    with pytest.raises(ValueError, match=re.escape("k=0 must lie in 1..16")):
        coupled(model(0), model(1), share=0.01)
    with pytest.raises(ValueError, match=re.escape("crossings=[2, 1] must rise")):
        Route(start="dense", crossings=(2, 1))


def test_paths():
    routes = single_crossings(3)
    assert [(route.start, route.crossings, route.end) for route in routes] == [
        *(("dense", (i,), "sparse") for i in range(3)), *(("sparse", (i,), "dense") for i in range(3)),
    ]  # fmt: skip
    assert len(random_routes(3, 100, 0)) == 2 * 4, "the routes of two or three crossings"
    assert random_routes(5, 6, 0) == random_routes(5, 6, 0) != random_routes(5, 6, 1)
    assert Route(start="dense", crossings=(1, 4)).words(sites_of(model(0))) == "dense [0.mlp] sparse [unembed] dense"


def test_a_bridge_of_exchanged_sites_is_told_from_the_right_one():
    """The known-false case: the same encoders and decoders, at each other's sites."""
    dense = model(0)
    pair = coupled(dense, copy.deepcopy(dense), share=1.0)
    pair.bridge.make_identity_()
    with torch.no_grad():
        pair.bridge.decoders[2].weight.mul_(-1)
    right, wrong = (crossed(pair, TOKENS, Route(start="sparse", crossings=(i,))) for i in (1, 2))
    plain = dense(TOKENS)
    torch.testing.assert_close(right, plain, rtol=1e-4, atol=1e-4)
    assert (wrong - plain).abs().max() > 0.5


def test_a_bridge_comes_back_from_its_file(tmp_path):
    pair = coupled(model(0), model(1, 24))
    between = Between(dense_sha256="a" * 64, sparse_sha256="b" * 64)
    pair.bridge.save(tmp_path, between)
    again = Bridge.load(tmp_path, between)
    assert again.k == pair.bridge.k == 12
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), pair.bridge.parameters(), strict=True))
    with pytest.raises(ValueError, match="joins other models"):
        Bridge.load(tmp_path, Between(dense_sha256="a" * 64, sparse_sha256="c" * 64))
    (tmp_path / "bridge.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bridge.safetensors is damaged"):
        Bridge.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no bridge"):
        Bridge.load(tmp_path / "elsewhere")
