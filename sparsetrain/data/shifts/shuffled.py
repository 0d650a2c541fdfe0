"""Level 5: the windows of split 0, each with its tokens in random order: the same unigrams, no syntax."""

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.shifts.split import Request, shift_generator


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    tokens = shift_generator(request.seed, level).permuted(request.base, axis=1)
    return tokens, "windows of split heldout with their tokens shuffled within the window"
