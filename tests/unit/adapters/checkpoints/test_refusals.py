"""What cannot be read is one line that names the key and what is allowed."""

import json
import pickle

import pytest
import torch
from foreign_checkpoints import (
    gao_settings,
    gao_state,
    rms_norm,
    sparse_pretrain_settings,
    sparse_pretrain_state,
    write_gao,
    write_sparse_pretrain,
)

from sparsetrain.adapters.checkpoints import FORMATS, Source

LN_1, FC = "transformer.h.1.ln_1.weight", "transformer.h.0.mlp.c_fc.weight"


def gao_error(folder, settings, state):
    with pytest.raises(ValueError) as caught:
        FORMATS["gao"](Source(place=str(write_gao(folder, settings, state))))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_reference_norm_is_that_of_torch():
    x = torch.randn(3, 16) * 1e-3
    torch.testing.assert_close(rms_norm(x, torch.ones(16)), torch.nn.RMSNorm(16)(x))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rms_norm": False}, ("rms_norm=False", "allowed: true")),
        ({"residual_activation_type": "relu"}, ("residual_activation_type='relu'", "allowed: identity")),
        ({"residual_activation_type": "tanh"}, ("residual_activation_type='tanh'", "identity")),
        ({"activation_type": "swish"}, ("activation_type='swish'", "'gelu' or 'relu'")),
        ({"use_tied_aux_matrix": True}, ("use_tied_aux_matrix=True", "allowed: false")),
        ({"afrac": 0.25, "afrac_loctypes": "attn_in,resid_post_mlp"}, ("afrac_loctypes='resid_post_mlp'", "attn_in, attn_q")),
        ({"afrac": 1.5}, ("afrac=1.5", "(0, 1]")),
        ({"afrac": 0.01}, ("afrac=0.01", "abs_topk.attn_in", "[1/16, 1]")),
        ({"d_head": 5}, ("d_head=5", "d_model=16")),
        ({"n_layers": 2}, ("'n_layers'", "n_layer?")),
        ({"n_layer": "two"}, ("n_layer='two'",)),
        ({"rope": True}, ("unknown config key 'rope'", "allowed", "block_size")),
        ({"n_mlp": 40}, ("d_mlp and n_mlp",)),
        ({"vocab_size": 0}, ("vocab_size=0",)),
    ],
)  # fmt: skip
def test_settings(tmp_path, changes, words):
    message = gao_error(tmp_path, gao_settings(**changes), gao_state(gao_settings()))
    assert "beeg_config.json" in message
    assert all(word in message for word in words), message


def test_a_renamed_tensor_is_named_with_both_names(tmp_path):
    state = gao_state(gao_settings())
    state["transformer.h.1.norm_1.weight"] = state.pop(LN_1)
    message = gao_error(tmp_path, gao_settings(), state)
    assert f"lacks {LN_1}" in message
    assert "transformer.h.1.norm_1.weight is unknown" in message
    assert "allowed: transformer.wte.weight" in message
    assert "transformer.h.{i}.ln_1.weight" in message


@pytest.mark.parametrize("setting", ["sink", "enable_bigram_table"])
def test_tensors_that_the_settings_do_not_ask_for_and_those_that_they_do(tmp_path, setting):
    key = {"sink": "transformer.h.0.attn.attn_imp.sink_logit", "enable_bigram_table": "bigram_table"}[setting]
    on, off = gao_settings(**{setting: True}), gao_settings()
    assert f"{key}" in gao_error(tmp_path / "extra", off, gao_state(on))
    assert f"lacks {key}" in gao_error(tmp_path / "missing", on, gao_state(off))


def _nan(tensor):
    tensor = tensor.clone()
    tensor[0, 0] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:, :-1], "has shape [40, 15], beeg_config.json asks for [40, 16]"),
        (lambda t: t.T, "has shape [16, 40]"),
        (lambda t: t.long(), "is int64; allowed: float32, bfloat16, float16"),
        (_nan, "is not finite (NaN or infinity) in 1 entries"),
    ],
)
def test_a_corrupted_tensor_is_named(tmp_path, change, words):
    state = gao_state(gao_settings())
    state[FC] = change(state[FC])
    message = gao_error(tmp_path, gao_settings(), state)
    assert FC in message
    assert words in message


def test_matrices_that_should_be_one(tmp_path):
    settings = gao_settings(tied_unembed=True)
    state = gao_state(settings)
    state["lm_head.weight"] = state["lm_head.weight"] + 1
    assert "tied_unembed=true, but transformer.wte.weight and lm_head.weight differ" in gao_error(tmp_path, settings, state)  # fmt: skip


def test_a_mask_that_is_not_causal(tmp_path):
    state = {**gao_state(gao_settings()), "transformer.h.0.attn.bias": torch.ones(1, 1, 12, 12)}
    assert "transformer.h.0.attn.bias is not the causal mask" in gao_error(tmp_path, gao_settings(flash=False), state)
    assert "transformer.h.0.attn.bias is unknown" in gao_error(tmp_path, gao_settings(flash=True), state)


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_hold_something_else(tmp_path, capsys):
    folder = write_gao(tmp_path, gao_settings(), gao_state(gao_settings()))
    source = Source(place=str(folder))
    torch.save({"transformer.wte.weight": Harmful()}, folder / "final_model.pt", pickle_module=pickle)
    with pytest.raises(ValueError, match="holds more than tensors, which is never read"):
        FORMATS["gao"](source)
    assert "run" not in capsys.readouterr().out
    torch.save([torch.zeros(2)], folder / "final_model.pt")
    with pytest.raises(ValueError, match="holds a list; expected a state_dict"):
        FORMATS["gao"](source)
    torch.save({"model": {"a": torch.zeros(2)}}, folder / "final_model.pt")
    with pytest.raises(ValueError, match="'model' is a dict"):
        FORMATS["gao"](source)
    whole = write_gao(folder, gao_settings(), gao_state(gao_settings())) / "final_model.pt"
    whole.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"final_model.pt is damaged"):
        FORMATS["gao"](source)
    for content in (b"", b"e" * 40, b"\x80\x02]", bytes(range(256))):
        whole.write_bytes(content)
        with pytest.raises(ValueError, match=r"final_model.pt is damaged"):
            FORMATS["gao"](source)
    (folder / "beeg_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds a list; expected an object"):
        FORMATS["gao"](source)
    (folder / "beeg_config.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        FORMATS["gao"](source)
    (folder / "beeg_config.json").unlink()
    with pytest.raises(ValueError, match=r"no beeg_config.json; this layout has beeg_config.json, final_model.pt"):
        FORMATS["gao"](source)
    with pytest.raises(ValueError, match="no such folder"):
        FORMATS["gao"](Source(place="nowhere"))


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("model_config", {"use_rms_norm": False}, "model_config.use_rms_norm=False"),
        ("model_config", {"d_head": 5}, "model_config.d_head=5"),
        ("model_config", {"vocab_size": None}, "model_config.vocab_size=None"),
        ("model_config", {"rotary": True}, "model_config.rotary"),
        ("model_config", {"activation": "swish"}, "model_config.activation='swish'"),
        ("sparsity_config", {"activation_topk_fraction": 0.0}, "sparsity_config.activation_topk_fraction=0.0"),
        ("sparsity_config", {"activation_sparsity_locations": "resid_pre,attn_in"}, "sparsity_config.activation_sparsity_locations has resid_pre"),
        ("sparsity_config", {"l0": 1}, "sparsity_config.l0"),
    ],
)  # fmt: skip
def test_settings_of_the_reproduction(tmp_path, section, changes, words):
    settings = sparse_pretrain_settings()
    state = sparse_pretrain_state(settings)
    settings[section] |= changes
    with pytest.raises(ValueError) as caught:
        FORMATS["sparse_pretrain"](Source(place=str(write_sparse_pretrain(tmp_path, settings, state))))
    assert words in str(caught.value)


def test_tensors_of_the_reproduction(tmp_path):
    settings = sparse_pretrain_settings(use_bigram_table=True)
    state = sparse_pretrain_state(settings)
    source = Source(place=str(tmp_path))
    write_sparse_pretrain(tmp_path, settings, {**state, "blocks.0.attn.q.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"blocks.0.attn.q.weight is unknown; allowed: wte.weight, blocks.\{i\}.ln_1"):
        FORMATS["sparse_pretrain"](source)
    table = state.pop("bigram_table")
    write_sparse_pretrain(tmp_path, settings, state)
    with pytest.raises(ValueError, match="lacks bigram_table"):
        FORMATS["sparse_pretrain"](source)
    write_sparse_pretrain(tmp_path, settings, {**state, "bigram_table": table[:, :5]})
    with pytest.raises(ValueError, match=r"bigram_table has shape \[37, 5\], config.json asks for \[37, 37\]"):
        FORMATS["sparse_pretrain"](source)
    write_sparse_pretrain(tmp_path, settings, state, "sparse_model.bin")
    with pytest.raises(ValueError, match="must hold one of"):
        FORMATS["sparse_pretrain"](source)


def test_places_are_for_the_layout_that_may_forget_them(tmp_path):
    folder = write_gao(tmp_path, gao_settings(), gao_state(gao_settings()))
    with pytest.raises(ValueError, match="places=attn_in is for format=sparse_pretrain"):
        FORMATS["gao"](Source(place=str(folder), places="attn_in"))
    settings = sparse_pretrain_settings(enabled=False)
    write_sparse_pretrain(tmp_path, settings, sparse_pretrain_state(settings))
    with pytest.raises(ValueError, match="leave places out"):
        FORMATS["sparse_pretrain"](Source(place=str(folder), places="attn_in"))
    assert json.loads((folder / "config.json").read_text())["sparsity_config"]["enable_activation_sparsity"] is False
