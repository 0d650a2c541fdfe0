"""The dense config against Hugging Face's GPT-2 of the same size.

GPT-2 centres activations (LayerNorm) where this model does not (RMSNorm); the two agree where the residual stream has mean
zero, so every vector that is written into it is centred, and the gains are equal.
"""

import pytest
import torch

from sparsetrain.model import ModelConfig, Transformer

transformers = pytest.importorskip("transformers", reason="parity with GPT-2 needs transformers (extra: test)")


def test_dense_model_equals_gpt2():
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4, activation_function="gelu",
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, tie_word_embeddings=False,
        )
    ).eval()  # fmt: skip
    ours = Transformer(
        ModelConfig(d_vocab=50, n_layer=2, d_model=32, d_head=8, n_ctx=16, positions="learned", abs_topk={}, sink=False, bigram=False)
    )  # fmt: skip
    state = theirs.state_dict()
    centre = lambda t, axis: t - t.mean(axis, keepdim=True)  # noqa: E731
    with torch.no_grad():
        wte, wpe = centre(state["transformer.wte.weight"], -1), centre(state["transformer.wpe.weight"], -1)
        theirs.transformer.wte.weight.copy_(wte), theirs.transformer.wpe.weight.copy_(wpe)
        ours.embed.weight.copy_(wte), ours.positions.copy_(wpe)
        ours.unembed.weight.copy_(state["lm_head.weight"])
        for i, block in enumerate(ours.blocks):
            h = theirs.transformer.h[i]
            for part, linear in zip("qkv", (block.attn.W_q, block.attn.W_k, block.attn.W_v), strict=True):
                at = "qkv".index(part) * 32
                torch.nn.init.normal_(h.attn.c_attn.bias)
                linear.weight.copy_(h.attn.c_attn.weight[:, at : at + 32].T)
            for part, linear in zip("qkv", (block.attn.W_q, block.attn.W_k, block.attn.W_v), strict=True):
                at = "qkv".index(part) * 32
                linear.bias.copy_(h.attn.c_attn.bias[at : at + 32])
            for source, linear in ((h.attn.c_proj, block.attn.W_o), (h.mlp.c_proj, block.mlp.W_out)):
                source.weight.copy_(centre(source.weight, 1))
                linear.weight.copy_(source.weight.T)
            block.mlp.W_in.weight.copy_(h.mlp.c_fc.weight.T)
    tokens = torch.randint(50, (3, 16))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
