"""Random models in both layouts, in every combination of their options, against a plain reference of the fixtures."""

from itertools import product

import pytest
import torch
from foreign_checkpoints import (
    EVERY_PLACE,
    doubled,
    gao_logits,
    gao_settings,
    gao_state,
    sparse_pretrain_logits,
    sparse_pretrain_settings,
    sparse_pretrain_state,
    write_gao,
    write_sparse_pretrain,
)

from sparsetrain.adapters.checkpoints import FORMATS, Source
from sparsetrain.export import export_model, load_model
from sparsetrain.hooks import NODE_KINDS

TOKENS = torch.tensor([5, 0, 36, 5, 5, 11, 2])
PLACES = {"none": None, "default": "attn_in,attn_out,mlp_in,mlp_out", "all": EVERY_PLACE, **{kind: kind for kind in NODE_KINDS}}  # fmt: skip
POSITIONS = {
    "zero": {},
    "random": {},
    "concatenated": {"d_pos_emb": 6},
    "sinusoidal": {"d_pos_emb": 6, "sinusoidal_cat_pos_emb": True},
}
SWITCHES = list(product((False, True), repeat=3))


def read(layout, folder):
    return FORMATS[layout](Source(place=str(folder)))


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("places", PLACES)
def test_gao_in_every_combination(tmp_path, places, positions):
    sparsity = {} if PLACES[places] is None else {"afrac": 0.3, "afrac_loctypes": PLACES[places]}
    drawn = positions if positions in ("zero", "sinusoidal") else "random"
    for n, (sink, bigram, tied) in enumerate(SWITCHES):
        settings = gao_settings(sink=sink, enable_bigram_table=bigram, tied_unembed=tied, bias=n % 3 > 0, **sparsity, **POSITIONS[positions])  # fmt: skip
        state = gao_state(settings, seed=n, positions=drawn)
        model = read("gao", write_gao(tmp_path / str(n), settings, state)).model()
        # In float64 no two magnitudes are so close that rounding decides between them.
        expected = gao_logits(settings, doubled(state), TOKENS)
        torch.testing.assert_close(model.double()(TOKENS[None])[0], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("added", [False, True])
def test_sparse_pretrain_in_every_combination(tmp_path, places, added):
    sparsity = {"enabled": False} if PLACES[places] is None else {"fraction": 0.3, "places": PLACES[places]}
    for n, (sink, bigram, tied) in enumerate(SWITCHES):
        settings = sparse_pretrain_settings(
            use_attention_sinks=sink, use_bigram_table=bigram, tie_embeddings=tied, use_bias=n % 3 > 0, use_positional_embeddings=added, **sparsity,
        )  # fmt: skip
        state = sparse_pretrain_state(settings, seed=n)
        model = read("sparse_pretrain", write_sparse_pretrain(tmp_path / str(n), settings, state)).model()
        expected = sparse_pretrain_logits(settings, doubled(state), TOKENS)
        torch.testing.assert_close(model.double()(TOKENS[None])[0], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("layout", ["gao", "sparse_pretrain"])
def test_the_export_itself_in_float32(tmp_path, layout):
    if layout == "gao":
        settings = gao_settings(afrac=0.25, afrac_loctypes=EVERY_PLACE, sink=True, enable_bigram_table=True, tied_unembed=True, d_pos_emb=6)  # fmt: skip
        state = gao_state(settings)
        expected = gao_logits(settings, state, TOKENS)
        imported = read(layout, write_gao(tmp_path / "src", settings, state))
    else:
        settings = sparse_pretrain_settings(use_attention_sinks=True, use_bigram_table=True, use_positional_embeddings=True)  # fmt: skip
        state = sparse_pretrain_state(settings)
        expected = sparse_pretrain_logits(settings, state, TOKENS)
        imported = read(layout, write_sparse_pretrain(tmp_path / "src", settings, state))
    export_model(imported.model(), tmp_path / "dst", None, {"step": None})
    torch.testing.assert_close(load_model(tmp_path / "dst")(TOKENS[None])[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_final_logits_bias_may_be_absent_and_counts_without_other_biases(tmp_path, bias):
    settings = gao_settings(bias=bias)
    state = gao_state(settings)
    model = read("gao", write_gao(tmp_path / "with", settings, state)).model()
    assert model.unembed.bias is not None
    expected = gao_logits(settings, doubled(state), TOKENS)
    torch.testing.assert_close(model.double()(TOKENS[None])[0], expected)
    del state["final_logits_bias"]
    model = read("gao", write_gao(tmp_path / "without", settings, state)).model()
    expected = gao_logits(settings, doubled({**state, "final_logits_bias": torch.zeros(37)}), TOKENS)
    assert (model.unembed.bias is None) == (not bias)
    torch.testing.assert_close(model.double()(TOKENS[None])[0], expected)


def test_relu_older_spellings_masks_and_half_precision(tmp_path):
    settings = gao_settings(activation_type="relu", flash=False, afrac=0.5, afrac_loctypes="mlp_neuron")
    state = {name: tensor.bfloat16() for name, tensor in gao_state(settings).items()}
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(12, 12).tril()[None, None] for i in range(2)}
    settings["n_mlp"] = settings.pop("d_mlp")
    folder = write_gao(tmp_path, settings, {**state, **masks})
    expected = gao_logits({**settings, "d_mlp": 40}, doubled(state), TOKENS)
    torch.testing.assert_close(read("gao", folder).model().double()(TOKENS[None])[0], expected)


def test_absent_settings_take_the_defaults_of_their_code(tmp_path):
    settings = gao_settings(rms_norm=True, tied_unembed=True)
    state = gao_state(settings)
    kept = {key: settings[key] for key in ("block_size", "vocab_size", "n_layer", "n_head", "d_model", "rms_norm", "d_mlp")}  # fmt: skip
    model = read("gao", write_gao(tmp_path, kept, state)).model()
    torch.testing.assert_close(model.double()(TOKENS[None])[0], gao_logits(settings, doubled(state), TOKENS))


def test_sparse_pretrain_keeps_at_least_one_has_no_sinks_without_flash_and_bridges(tmp_path):
    settings = sparse_pretrain_settings(fraction=0.01, places="attn_q,mlp_neuron", use_attention_sinks=True, activation="relu")  # fmt: skip
    settings["model_config"]["use_flash_attention"] = False
    settings["bridges_config"] = {"encoder_afrac": 0.25}
    state = sparse_pretrain_state(settings)
    masks = {f"blocks.{i}.attn.causal_mask": torch.ones(12, 12).tril()[None, None] for i in range(2)}
    folder = write_sparse_pretrain(tmp_path, settings, {**state, **masks}, "sparse_model.bin")
    imported = read("sparse_pretrain", folder)
    assert imported.config.k("attn_q") == imported.config.k("mlp_neuron") == 1
    expected = sparse_pretrain_logits(settings, doubled(state), TOKENS)
    torch.testing.assert_close(imported.model().double()(TOKENS[None])[0], expected)


def test_places_that_an_upload_forgot(tmp_path):
    settings = sparse_pretrain_settings(places=None)
    state = sparse_pretrain_state(settings)
    folder = write_sparse_pretrain(tmp_path, settings, state)
    with pytest.raises(ValueError, match=r"activation_sparsity_locations is missing.*places=<some of attn_in"):
        read("sparse_pretrain", folder)
    given = FORMATS["sparse_pretrain"](Source(place=str(folder), places="mlp_in,attn_q"))
    assert set(given.config.abs_topk) == {"mlp_in", "attn_q"}
    (folder / "training_config.yaml").write_text("sparsity: {activation_sparsity_locations: 'mlp_out,attn_v'}\n")
    assert set(read("sparse_pretrain", folder).config.abs_topk) == {"mlp_out", "attn_v"}
    with pytest.raises(ValueError, match=r"differ: .*mlp_out,attn_v; places=mlp_in"):
        FORMATS["sparse_pretrain"](Source(place=str(folder), places="mlp_in"))
    (folder / "training_config.yaml").write_text("sparsity: {activation_sparsity_locations: 'mlp_out,resid_mid'}\n")
    with pytest.raises(ValueError, match="resid_mid, which cannot be represented"):
        read("sparse_pretrain", folder)
