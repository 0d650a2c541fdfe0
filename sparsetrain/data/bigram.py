"""The smoothed bigram table: the baseline that a model has to beat, and a possible start of its own bigram table.

    p(b | a) = (c(a, b) + alpha p(b)) / (c(a) + alpha),    p(b) = (c(b) + 1/2) / (n + V/2)

c are counts over exactly the tokens that a model is given (or any others), alpha the strength of the unigram, chosen
among `ALPHAS` by the loss on validation tokens. Pairs are counted within rows only, as a model predicts them: in a row
of n_ctx + 1 tokens there are n_ctx pairs.

Memory grows with the pairs that occur, not with the square of the vocabulary: probabilities are worked out where somebody asks for them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Strengths tried; on corpora of millions of tokens the best lies well inside."""

_CHUNK = 2**22  # pairs counted at a time


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """How often each token follows each, for the pairs that occur.

    Attributes:
        d_vocab: number of tokens.
        pairs: `[n]` int64, current * d_vocab + next, rising.
        times: `[n]` int64, above 0.
    """

    d_vocab: int
    pairs: NDArray[np.int64]
    times: NDArray[np.int64]

    @property
    def tokens(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Current and next token of each of `pairs`."""
        current, following = np.divmod(self.pairs, self.d_vocab)
        return current, following

    def of(self, current: NDArray[np.integer], following: NDArray[np.integer]) -> NDArray[np.int64]:
        """The counts of these pairs, in the shape of the arguments."""
        asked = current.astype(np.int64) * self.d_vocab + following
        if not len(self.pairs):
            return np.zeros_like(asked)
        at = np.minimum(np.searchsorted(self.pairs, asked), len(self.pairs) - 1)
        return np.where(self.pairs[at] == asked, self.times[at], 0)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """All counts of the current tokens from `start` to before `stop`: `[stop - start, d_vocab]`."""
        first, last = np.searchsorted(self.pairs, (start * self.d_vocab, stop * self.d_vocab))
        found = np.zeros((stop - start) * self.d_vocab, np.int64)
        found[self.pairs[first:last] - start * self.d_vocab] = self.times[first:last]
        return found.reshape(stop - start, self.d_vocab)


@dataclass(frozen=True, kw_only=True)
class BigramTable:
    """A smoothed bigram model.

    Attributes:
        counts: what it is made of.
        context: `[d_vocab]` int64, how often each token is the current one.
        unigram: `[d_vocab]` float64, p(next).
        alpha: strength of the unigram.
    """

    counts: PairCounts
    context: NDArray[np.int64]
    unigram: NDArray[np.floating]
    alpha: float

    @property
    def n_pairs(self) -> int:
        """Number of pairs counted."""
        return int(self.counts.times.sum())

    @property
    def description(self) -> str:
        """How the table was smoothed, in words, for reports."""
        return (
            f"interpolated with the add-1/2 unigram, alpha = {self.alpha:g} chosen on validation tokens; "
            f"fitted on {self.n_pairs} pairs"
        )

    def log_probs(self, current: NDArray[np.integer], following: NDArray[np.integer]) -> NDArray[np.float32]:
        """log p(next | current) of these pairs, nats, float32, in the shape of the arguments."""
        times = self.counts.of(current, following)
        return np.log(smoothed(times, self.context[current], self.unigram[following], self.alpha)).astype(np.float32)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """The rows of the current tokens from `start` to before `stop`: `[stop - start, d_vocab]` float32, nats; each sums to 1."""
        times = self.counts.rows(start, stop)
        return np.log(smoothed(times, self.context[start:stop, None], self.unigram, self.alpha)).astype(np.float32)

    def loss(self, tokens: ArrayLike) -> float:
        """Mean negative log-probability of each token given the one before, in nats/token.

        Args:
            tokens: `[..., n_ctx + 1]` integers; predictions are made within rows.
        """
        tokens = np.asarray(tokens)
        losses = self.log_probs(tokens[..., :-1], tokens[..., 1:])
        return -float(losses.mean(dtype=np.float64))


def smoothed(
    times: NDArray[np.int64], context: NDArray[np.int64], unigram: NDArray[np.floating], alpha: float
) -> NDArray[np.floating]:
    """p(b | a) of pairs, from c(a, b), c(a) and p(b)."""
    return (times + alpha * unigram) / (context + alpha)


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
    checked = [n for n in (count_bigrams(tokens, d_vocab) for tokens in val.values()) if len(n.pairs)]
    n_pairs = int(counts.times.sum())
    if n_pairs == 0 or not checked:
        raise ValueError(f"nothing to fit a bigram table on: {n_pairs} training pairs, {len(checked)} sources to check")
    context, follows = (np.bincount(token, counts.times, d_vocab).astype(np.int64) for token in counts.tokens)
    unigram = (follows + 0.5) / (n_pairs + 0.5 * d_vocab)

    def val_loss(alpha: float) -> float:
        total = 0.0
        for n in checked:
            current, following = n.tokens
            probs = smoothed(counts.of(current, following), context[current], unigram[following], alpha)
            total -= np.average(np.log(probs), weights=n.times)
        return total

    alpha = float(min(alphas, key=val_loss))
    return BigramTable(counts=counts, context=context, unigram=unigram, alpha=alpha)


def count_bigrams(batches: Iterable[ArrayLike], d_vocab: int) -> PairCounts:
    """How often each token follows each."""
    pairs, times = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for chunk in _chunks(batches, d_vocab):
        if d_vocab**2 <= len(chunk):
            dense = np.bincount(chunk)
            new = np.flatnonzero(dense)
            found = dense[new]
        else:
            new, found = np.unique(chunk, return_counts=True)
        pairs, times = np.concatenate([pairs, new]), np.concatenate([times, found])
        order = np.argsort(pairs, kind="stable")  # of two rising parts: merges them
        pairs, times = pairs[order], times[order]
        first = np.flatnonzero(np.diff(pairs, prepend=-1))
        pairs, times = pairs[first], np.add.reduceat(times, first)
    return PairCounts(d_vocab=d_vocab, pairs=pairs, times=times)


def _chunks(batches: Iterable[ArrayLike], d_vocab: int) -> Iterator[NDArray[np.int64]]:
    """The pairs of all batches, about `_CHUNK` at a time, none empty."""
    pending: list[NDArray[np.int64]] = []
    n_pending = 0
    for batch in batches:
        tokens = np.asarray(batch, np.int64)
        pending.append((tokens[..., :-1] * d_vocab + tokens[..., 1:]).ravel())
        n_pending += len(pending[-1])
        if n_pending >= _CHUNK:
            yield np.concatenate(pending)
            pending, n_pending = [], 0
    if n_pending:
        yield np.concatenate(pending)
