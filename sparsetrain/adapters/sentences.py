"""Sentence encoders of `transformers`: a text to one vector, the mean over its tokens of the last hidden states."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sparsetrain.adapters import hub_files

SENTENCE_PREFIX = "hf:"
SIZE = 32


def sentence_vectors(name: str, texts: Sequence[str]) -> NDArray[np.float64]:
    """Embeddings of texts, `[n_texts, width]`.

    Args:
        name: folder or hub name of an encoder, for instance one of those made for similarity (all-MiniLM-L6-v2).
        texts: cut to what the encoder reads.

    Raises:
        ValueError: `transformers` is not installed, or there is no such encoder.

    Source: Reimers and Gurevych 2019, Sentence-BERT, section 3 (mean pooling).
    """
    encoder, tokenize = hub_files.load_encoder(name)
    rows: list[torch.Tensor] = []
    for start in range(0, len(texts), SIZE):
        inputs = tokenize(texts[start : start + SIZE])
        with torch.no_grad():
            hidden = encoder(**inputs).last_hidden_state.double()
        mask = inputs["attention_mask"][..., None].double()
        rows.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(rows).numpy()
