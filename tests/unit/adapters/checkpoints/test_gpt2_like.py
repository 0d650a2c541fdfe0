"""GPT-2 and OPT of transformers as models of ours: the same logits; what our model has not is refused by name."""

import pytest
import torch

from sparsetrain.adapters.checkpoints import FORMATS, Source

transformers = pytest.importorskip("transformers", reason="needs transformers (extra: test)")

SIZES = {"vocab_size": 37, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
GPT2 = {**SIZES, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 12}
OPT = {
    **SIZES, "hidden_size": 32, "ffn_dim": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32,
    "max_position_embeddings": 12,
}  # fmt: skip
TOKENS = torch.arange(36).view(3, 12) % 37


def saved(folder, config):
    torch.manual_seed(0)
    hub = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in hub.parameters():
            p.add_(0.2 * torch.randn_like(p) + 0.05)
    hub.save_pretrained(folder)
    return hub


def read(folder):
    return FORMATS["huggingface"](Source(place=str(folder)))


@pytest.mark.parametrize(
    "config",
    [
        lambda: transformers.GPT2Config(**GPT2),
        lambda: transformers.GPT2Config(**GPT2, activation_function="gelu", tie_word_embeddings=False, n_inner=50),
        lambda: transformers.GPT2Config(**GPT2, activation_function="relu", scale_attn_weights=False),
        lambda: transformers.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True, layer_norm_epsilon=1e-3),
        lambda: transformers.OPTConfig(**OPT),
        lambda: transformers.OPTConfig(**OPT, activation_function="gelu", tie_word_embeddings=False),
    ],
)
def test_same_logits(tmp_path, config):
    hub = saved(tmp_path, config())
    imported = read(tmp_path)
    with torch.no_grad():
        expected = hub(TOKENS).logits
    torch.testing.assert_close(imported.model()(TOKENS), expected, atol=1e-5, rtol=1e-5)
    assert imported.facts["tied_unembed"] == hub.config.tie_word_embeddings
    assert imported.tokenizer_json is None
    stream = imported.state["embed.weight"] + imported.state["positions"][0]
    torch.testing.assert_close(stream.mean(-1), torch.zeros(37), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda: transformers.GPT2Config(**GPT2, activation_function="silu"), r"activation_function='silu'.*allowed: gelu, gelu_new"),
        (lambda: transformers.OPTConfig(**{**OPT, "word_embed_proj_dim": 16}), "word_embed_proj_dim=16 .*allowed: 32"),
        (lambda: transformers.OPTConfig(**OPT, do_layer_norm_before=False), "do_layer_norm_before=False"),
        (lambda: transformers.OPTConfig(**OPT, enable_bias=False), "enable_bias=False"),
        (lambda: transformers.LlamaConfig(**SIZES, hidden_size=32, intermediate_size=80, num_hidden_layers=1, num_attention_heads=4), "model_type='llama'.*allowed: gpt2, opt"),
    ],
)  # fmt: skip
def test_what_our_model_has_not_is_named(tmp_path, config, words):
    saved(tmp_path, config())
    with pytest.raises(ValueError, match=words):
        read(tmp_path)
