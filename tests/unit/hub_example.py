"""Tiny Hugging Face models and a tokenizer, built on the spot and saved to folders; nothing is downloaded."""

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers
from torch import nn

WORDS = ["[UNK]", *(f"w{i}" for i in range(60))]
D_VOCAB = len(WORDS)
SIZES: dict[str, Any] = {"vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = {**LLAMA, "num_key_value_heads": 2, "head_dim": 8}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}


def configs() -> dict[str, Any]:
    """Name -> config of every architecture that is tried."""
    return {
        "gpt2": transformers.GPT2Config(**SIZES, **GPT2),
        "llama": transformers.LlamaConfig(**SIZES, **GROUPED),
        "neox": transformers.GPTNeoXConfig(**SIZES, **LLAMA),
        "opt": transformers.OPTConfig(
            **SIZES, hidden_size=32, ffn_dim=80, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32
        ),
        "gptj": transformers.GPTJConfig(**SIZES, **GPT2, rotary_dim=4),
        "gemma": transformers.GemmaConfig(**SIZES, **GROUPED),
        "gemma2": transformers.Gemma2Config(**SIZES, **GROUPED),
        "mixtral": transformers.MixtralConfig(**SIZES, **GROUPED),
    }


def hub_model(name: str, seed: int = 0) -> Any:
    """A seeded model with nothing left at zero, so that every part of it matters."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(configs()[name])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


class Shrinking(nn.Module):
    """A block that hands on a narrower stream."""

    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block, self.down = block, nn.Linear(32, width)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.down(self.block(hidden_states, *args, **kwargs))


def shrinking_model() -> Any:
    """A Llama whose second layer is half as wide as the first."""
    hub = hub_model("llama")
    half = transformers.LlamaConfig(**SIZES, **{**GROUPED, "hidden_size": 16, "head_dim": 8})
    other = transformers.LlamaForCausalLM(half).eval()
    hub.model.layers[0] = Shrinking(hub.model.layers[0], 16)
    hub.model.layers[1], hub.model.norm, hub.lm_head = other.model.layers[1], other.model.norm, other.lm_head
    return hub


def save_hub_model(folder: Path, name: str = "gpt2") -> Path:
    """Model and word-level tokenizer as `from_pretrained` reads them."""
    hub_model(name).save_pretrained(folder)
    save_tokenizer(folder, WORDS)
    return folder


def save_tokenizer(folder: Path, words: list[str]) -> None:
    """A word is a token; any other is unknown."""
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(folder)
