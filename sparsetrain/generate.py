"""Continues a prompt, token by token, with any exported model."""

from dataclasses import dataclass

import torch

from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.model import Transformer
from sparsetrain.typed import Count, NotNegative


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How a prompt is continued. ours"""

    n_tokens: Count = 64
    temperature: NotNegative = 0.0
    """0: always the most likely token."""
    top_k: Count | None = None
    """Draw among the k most likely tokens only."""
    seed: int = 0


@torch.no_grad()
def generate(model: Transformer, tokenizer: Tokenizer, prompt: str, config: GenerateConfig) -> str:
    """The continuation of `prompt` (without it), up to `n_tokens` tokens or the end of the document.

    Args:
        model: in eval mode; it sees at most the last n_ctx tokens.
        tokenizer: the model's own.
        prompt: any text; it is read as the beginning of a document.
        config: length and sampling.
    """
    generator = torch.Generator().manual_seed(config.seed)
    ids = [tokenizer.eot_id, *tokenizer.encode(prompt)]
    start = len(ids)
    for _ in range(config.n_tokens):
        window = torch.tensor([ids[-model.config.n_ctx :]])
        logits = model(window, at=torch.tensor([window.shape[1] - 1]))[0, : tokenizer.d_vocab]
        if config.temperature == 0:
            token = int(logits.argmax())
        else:
            if config.top_k is not None:
                logits[logits < logits.topk(min(config.top_k, len(logits))).values[-1]] = -torch.inf
            token = int(torch.multinomial((logits / config.temperature).softmax(-1), 1, generator=generator))
        if token == tokenizer.eot_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:])
