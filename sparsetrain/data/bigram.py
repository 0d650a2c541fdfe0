"""The smoothed bigram table: the baseline that a model has to beat, and a possible start of its own bigram table.

    p(b | a) = (c(a, b) + alpha p(b)) / (c(a) + alpha),    p(b) = (c(b) + 1/2) / (n + V/2)

c are counts over exactly the tokens that a model is given (or any others), alpha the strength of the unigram, chosen
among `ALPHAS` by the loss on validation tokens. Pairs are counted within rows only, as a model predicts them: in a row
of n_ctx + 1 tokens there are n_ctx pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Strengths tried; on corpora of millions of tokens the best lies well inside."""

_CHUNK = 2**22  # pairs counted at a time: a table is summed per chunk, so chunks must not be small


@dataclass(frozen=True, kw_only=True)
class BigramTable:
    """A smoothed bigram model.

    Attributes:
        log_probs: `[d_vocab, d_vocab]` float32, nats; row = current token, column = next token; rows sum to 1.
        alpha: strength of the unigram.
        n_pairs: number of pairs counted.
    """

    log_probs: NDArray[np.float32]
    alpha: float
    n_pairs: int

    @property
    def description(self) -> str:
        """How the table was smoothed, in words, for reports."""
        return (
            f"interpolated with the add-1/2 unigram, alpha = {self.alpha:g} chosen on validation tokens; "
            f"fitted on {self.n_pairs} pairs"
        )

    def loss(self, tokens: ArrayLike) -> float:
        """Mean negative log-probability of each token given the one before, in nats/token.

        Args:
            tokens: `[..., n_ctx + 1]` integers; predictions are made within rows.
        """
        tokens = np.asarray(tokens)
        losses = self.log_probs[tokens[..., :-1], tokens[..., 1:]]
        return -float(losses.mean(dtype=np.float64))


def fit_bigram(
    batches: Iterable[ArrayLike],
    d_vocab: int,
    val: Mapping[str, Sequence[ArrayLike]],
    alphas: Sequence[float] = ALPHAS,
) -> BigramTable:
    """Counts the pairs of all batches and smooths them with the strength that does best on validation batches.

    Args:
        batches: arrays `[..., n_ctx + 1]` of ids; `(stream.batch(k) for k in range(n))` for what a run was trained on,
            `[corpus.tokens(source, "train")]` for a whole split.
        d_vocab: number of tokens.
        val: source -> batches `[..., n_ctx + 1]`, of equal weight in the choice of alpha and used for nothing else.
        alphas: strengths to try, each above 0.

    Raises:
        ValueError: nothing to count, or an alpha that is not above 0.
    """
    if not alphas or min(alphas) <= 0:
        raise ValueError(f"alphas={list(alphas)} must all be above 0, with at least one of them")
    counts = count_bigrams(batches, d_vocab)
    val_counts = [count_bigrams(tokens, d_vocab) for tokens in val.values()]
    val_pairs = [(np.nonzero(n), n[n > 0]) for n in val_counts if n.any()]
    n_pairs = int(counts.sum())
    if n_pairs == 0 or not val_pairs:
        raise ValueError(
            f"nothing to fit a bigram table on: {n_pairs} training pairs, {len(val_pairs)} sources to check"
        )
    context = counts.sum(axis=1)
    unigram = (counts.sum(axis=0) + 0.5) / (n_pairs + 0.5 * d_vocab)

    def val_loss(alpha: float) -> float:
        total = 0.0
        for (current, following), times in val_pairs:
            probs = (counts[current, following] + alpha * unigram[following]) / (context[current] + alpha)
            total -= np.average(np.log(probs), weights=times)
        return total

    alpha = float(min(alphas, key=val_loss))
    probs = (counts + alpha * unigram) / (context + alpha)[:, None]
    return BigramTable(log_probs=np.log(probs).astype(np.float32), alpha=alpha, n_pairs=n_pairs)


def count_bigrams(batches: Iterable[ArrayLike], d_vocab: int) -> NDArray[np.int64]:
    """How often each token follows each: `[d_vocab, d_vocab]` int64, row = current, column = next."""
    counts = np.zeros(d_vocab * d_vocab, np.int64)
    pending: list[NDArray[np.int64]] = []
    n_pending = 0
    for batch in batches:
        tokens = np.asarray(batch, np.int64)
        pairs = (tokens[..., :-1] * d_vocab + tokens[..., 1:]).ravel()
        pending.append(pairs)
        n_pending += len(pairs)
        if n_pending >= _CHUNK:
            counts += np.bincount(np.concatenate(pending), minlength=len(counts))
            pending, n_pending = [], 0
    if pending:
        counts += np.bincount(np.concatenate(pending), minlength=len(counts))
    return counts.reshape(d_vocab, d_vocab)
