"""Level 6: tokens drawn independently and uniformly from the vocabulary, the separator excepted."""

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.shifts.split import Request, shift_generator


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    tokenizer = request.corpus.tokenizer
    ids = np.delete(np.arange(tokenizer.d_vocab), tokenizer.eot_id)
    tokens = shift_generator(request.seed, level).choice(ids, size=(request.n_windows, request.n_ctx))
    return tokens, "tokens drawn uniformly from the vocabulary"
