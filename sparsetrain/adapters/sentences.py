"""Sentence encoders of `transformers`: a text to one vector, the mean over its tokens of the last hidden states."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparsetrain.adapters import hub_files

SENTENCE_PREFIX = "hf:"


@dataclass(frozen=True, kw_only=True)
class SentenceEncoder:
    """An encoder, for instance one of those made for similarity (all-MiniLM-L6-v2).

    Source: Reimers and Gurevych 2019, Sentence-BERT, section 3 (mean pooling).
    """

    module: nn.Module = field(repr=False)
    tokenize: Callable[[Sequence[str]], Any] = field(repr=False)
    """Texts, cut to what the encoder reads -> its inputs, filled up, with an attention mask."""
    weights_sha256: str

    @classmethod
    def load(cls, name: str, *, trust_remote_code: bool = False) -> "SentenceEncoder":
        """By folder or hub name.

        Raises:
            ValueError: `transformers` is not installed, or there is no such encoder.
        """
        module, tokenize = hub_files.load_encoder(name, trust_remote_code=trust_remote_code)
        return cls(module=module, tokenize=tokenize, weights_sha256=hub_files.weights_sha256(module))

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Embeddings of texts, read together, `[n_texts, width]`."""
        inputs = self.tokenize(texts)
        with torch.no_grad():
            hidden = self.module(**inputs).last_hidden_state.double()
        mask = inputs["attention_mask"][..., None].double()
        return ((hidden * mask).sum(1) / mask.sum(1)).numpy()
