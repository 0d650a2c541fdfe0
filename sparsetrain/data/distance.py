"""How far rows lie from what a model was trained on, without asking the model.

Three distances of a row: its loss under the smoothed bigram table of the training tokens, the share of its tokens that training
never showed, and the share of its pairs of neighbours that training never showed. The model's own loss is the fourth
(`sparsetrain/representation/evaluate.py: row_losses`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsetrain.data.bigram import BigramTable, fit_bigram

UNITS = {"bigram_loss": "nats/token", "unseen_tokens": "fraction", "unseen_pairs": "fraction"}


@dataclass(frozen=True, kw_only=True)
class TrainingTokens:
    """What was counted in the tokens that a model was trained on."""

    table: BigramTable
    tokens: NDArray[np.bool_]
    """Whether each token occurs, `[d_vocab]`."""

    @classmethod
    def count(cls, batches: Sequence[ArrayLike], d_vocab: int, val: Sequence[ArrayLike]) -> Self:
        """Counts.

        Args:
            batches: arrays `[..., n_ctx + 1]`, all that the model is given.
            d_vocab: number of tokens.
            val: batches that choose the smoothing of the table.
        """
        tokens = np.zeros(d_vocab, dtype=np.bool_)
        for batch in batches:
            tokens[np.unique(np.asarray(batch))] = True
        return cls(table=fit_bigram(batches, d_vocab, {"val": val}), tokens=tokens)

    def distances(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """The distances of `UNITS` of each row: `[n, length] -> [n]` each."""
        here, following = rows[:, :-1], rows[:, 1:]
        return {
            "bigram_loss": -self.table.log_probs(here, following).mean(1, dtype=np.float64),
            "unseen_tokens": 1 - self.tokens[rows].mean(1),
            "unseen_pairs": 1 - (self.table.counts.of(here, following) > 0).mean(1),
        }
