"""The order of the data is a function: batch k is computed from (seed, k) over the token files.

1. A counter-based generator (Philox) is keyed by the seed and k: no state to save, no order to replay.
2. Each row draws a source by weight, then the start of a window uniformly among all windows of that source.
3. Ranks take slices of the same batch, so that the global order does not depend on how many of them there are.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sparsetrain.data.corpus import Corpus

VAL_SEED, VAL_ROWS = (
    0,
    16,
)  # one set of validation windows for all runs, whatever their batches, so that their losses can be compared


class Stream(Protocol):
    """Batches of tokens as a function of their number."""

    @property
    def n_batches(self) -> int | None:
        """None: endless."""
        ...

    def rows(self, k: int, rank: int, n_ranks: int) -> NDArray[np.int64]:
        """One rank's rows of batch `k`, a contiguous slice of the batch."""
        ...

    def identity(self) -> dict[str, Any]:
        """Plain data that decide what every batch holds."""
        ...


class TokenStream:
    """Windows of one split of a corpus, mixed over its sources.

    Args:
        corpus: a prepared corpus.
        split: "train", "val" or "heldout".
        n_ctx: predicted tokens per row; a row holds one more.
        batch_size: rows of the global batch.
        seed: of the order, 0 or more.
        weights: share of each source, at least one above zero; the corpus's own if absent.
        first: batch 0 here is that of this number otherwise: the stream of a training that goes on behind another one's.

    Raises:
        ValueError: a source has fewer than `n_ctx + 1` tokens in this split; unknown source or split; bad sizes.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        n_ctx: int,
        batch_size: int,
        seed: int,
        weights: Mapping[str, float] | None = None,
        first: int = 0,
    ) -> None:
        if n_ctx < 1 or batch_size < 1 or seed < 0:
            raise ValueError(f"n_ctx={n_ctx} and batch_size={batch_size} must be at least 1, seed={seed} at least 0")
        weights = corpus.weights if weights is None else weights
        shares = np.array(list(weights.values()), dtype=np.float64)
        if not (len(shares) and (shares >= 0).all() and shares.sum() > 0):
            raise ValueError(f"weights={dict(weights)} must be 0 or more, with one above 0")
        self.n_ctx = n_ctx
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.n_batches = None
        self._content_hash = corpus.content_hash
        self._weights = {name: float(weight) for name, weight in weights.items()}
        self._tokens = [corpus.tokens(name, split) for name in weights]
        for name, tokens in zip(weights, self._tokens, strict=True):
            if len(tokens) <= n_ctx:
                raise ValueError(
                    f"split {split!r} of source {name!r} has {len(tokens)} tokens, a row needs {n_ctx + 1}; "
                    f"enlarge the source or its {split} fraction, or lower n_ctx"
                )
        self._edges = np.cumsum(shares / shares.sum())
        self._n_windows = np.array([len(tokens) - n_ctx for tokens in self._tokens])

    def batch(self, k: int) -> NDArray[np.int64]:
        """Batch number `k`, `[batch_size, n_ctx + 1]` int64."""
        return self.rows(k, rank=0, n_ranks=1)

    def rows(self, k: int, rank: int, n_ranks: int) -> NDArray[np.int64]:
        """One rank's rows of batch `k`: `[batch_size / n_ranks, n_ctx + 1]` int64, a contiguous slice of the batch.

        Raises:
            ValueError: the batch cannot be divided among the ranks.
        """
        mine = _share(self.batch_size, rank, n_ranks)
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, self.first + k], dtype=np.uint64)))
        # The last edge can fall a rounding error short of 1.
        sources = np.minimum(
            np.searchsorted(self._edges, generator.random(self.batch_size), side="right"), len(self._edges) - 1
        )
        starts = generator.integers(0, self._n_windows[sources])
        rows = np.empty((len(mine), self.n_ctx + 1), dtype=np.int64)
        for row, i in enumerate(mine):
            rows[row] = self._tokens[sources[i]][starts[i] : starts[i] + self.n_ctx + 1]
        return rows

    def identity(self) -> dict[str, Any]:
        order = {"seed": self.seed, "n_ctx": self.n_ctx, "batch_size": self.batch_size}
        later = {"first": self.first} if self.first else {}
        return {"corpus": self._content_hash, **order, **later, "weights": self._weights}


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """An order of rows, for instance by a score, named by its content.

    Args:
        rows: every number from 0 once, in the order of training, `[n_rows]` int64.
    """

    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.rows.ndim != 1 or not np.array_equal(np.sort(self.rows), np.arange(len(self.rows))):
            raise ValueError(
                f"an order of {self.rows.size} rows must hold every number from 0 to {self.rows.size - 1} once"
            )

    @property
    def sha256(self) -> str:
        """Of the numbers."""
        return hashlib.sha256(np.ascontiguousarray(self.rows, dtype="<i8").tobytes()).hexdigest()

    @classmethod
    def by(cls, scores: ArrayLike) -> "Order":
        """From the lowest score to the highest; equal ones in their order.

        Raises:
            ValueError: a score that is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} rows have no score; rows are ordered by finite scores"
            )
        return cls(rows=values.argsort(kind="stable"))


class RowsStream:
    """Given rows, each once: batch k is rows k * batch_size and on (the last one may be short) of an order.

    Args:
        tokens: `[n_rows, length]` int64.
        batch_size: rows of a batch.
        order: of the rows; None: as they are given. Its hash is part of the stream's identity, so that no training is resumed in another one.

    Raises:
        ValueError: an order of another number of rows.
    """

    def __init__(self, tokens: NDArray[np.int64], batch_size: int, order: Order | None = None) -> None:
        if order is not None and len(order.rows) != len(tokens):
            raise ValueError(f"an order of {len(order.rows)} rows is given for {len(tokens)} rows; score these rows")
        self.tokens = tokens
        self.batch_size = batch_size
        self.order = order
        self.n_batches = -(-len(tokens) // batch_size)

    def rows(self, k: int, rank: int, n_ranks: int) -> NDArray[np.int64]:
        here = slice(k * self.batch_size, (k + 1) * self.batch_size)
        batch = self.tokens[here] if self.order is None else self.tokens[self.order.rows[here]]
        mine = _share(len(batch), rank, n_ranks)
        return batch[mine.start : mine.stop]

    def identity(self) -> dict[str, Any]:
        content = hashlib.sha256(np.ascontiguousarray(self.tokens).tobytes()).hexdigest()
        order = {} if self.order is None else {"order": self.order.sha256}
        return {"rows": content, "batch_size": self.batch_size, **order}


def _share(n_rows: int, rank: int, n_ranks: int) -> range:
    """The rows of a batch that are a rank's.

    Raises:
        ValueError: the batch cannot be divided among the ranks.
    """
    if n_rows % n_ranks:
        raise ValueError(f"batch_size={n_rows} cannot be divided among {n_ranks} ranks")
    assert 0 <= rank < n_ranks, (rank, n_ranks)
    return range(rank * n_rows // n_ranks, (rank + 1) * n_rows // n_ranks)


def chars_per_token(batches: Iterable[Tensor], n_chars: NDArray[np.int64]) -> float:
    """Characters per predicted token of batches `[batch, n_ctx + 1]`: the first token of a row is given, not predicted.

    Args:
        n_chars: characters of every token, `[d_vocab]`.
    """
    predicted = np.concatenate([batch[:, 1:].numpy().ravel() for batch in batches])
    return float(n_chars[predicted].mean())


def val_batches(corpus: Corpus, n_ctx: int, n: int) -> dict[str, list[Tensor]]:
    """The first n validation batches of each source, `[VAL_ROWS, n_ctx + 1]` int64: the same in every run."""
    streams = {name: TokenStream(corpus, "val", n_ctx, VAL_ROWS, VAL_SEED, {name: 1.0}) for name in corpus.sources}
    return {source: [torch.from_numpy(s.batch(k)) for k in range(n)] for source, s in streams.items()}
