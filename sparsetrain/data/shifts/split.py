"""What a shift split is, and how text becomes one: windows of equal length, cut at random and never overlapping."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.corpus import Corpus

SPARE = 4  # text kinds gather so many times the tokens they need, so that windows are drawn and not just taken


@dataclass(frozen=True, kw_only=True)
class ShiftedSplit:
    """Windows of tokens at a distance from the training distribution.

    Attributes:
        name: of the kind of shift.
        level: 0 is the training distribution; farther is larger.
        tokens: `[n_windows, n_ctx]` int64.
        description: what the text is and where it came from, in a line.
    """

    name: str
    level: int
    tokens: NDArray[np.int64]
    description: str


class Unavailable(Exception):
    """This machine or corpus cannot give the split; the message says why. `build_shifts` records it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every kind of shift is asked for.

    Attributes:
        corpus: gives the tokenizer and the held-out text.
        n_windows: shape of the split.
        n_ctx: shape of the split.
        seed: of all choices.
        documents: held-out documents of the real sources, in seeded order; the text of split 0.
        origin: where `documents` are from, in words.
        base: windows of split 0, `[n_windows, n_ctx]`.
    """

    corpus: Corpus
    n_windows: int
    n_ctx: int
    seed: int
    documents: tuple[str, ...]
    origin: str
    base: NDArray[np.int64]

    @property
    def n_tokens(self) -> int:
        """Tokens that a text kind should gather."""
        return SPARE * self.n_windows * self.n_ctx

    def windows(self, texts: Iterable[str], level: int) -> NDArray[np.int64]:
        """Encodes documents until there are enough tokens, and cuts windows from them.

        Raises:
            Unavailable: too few tokens for the windows.
        """
        ids = encode_documents(self.corpus, texts, self.n_tokens)
        return cut_windows(ids, self.n_windows, self.n_ctx, shift_generator(self.seed, level))


def shift_generator(seed: int, level: int) -> np.random.Generator:
    """Random numbers of one split: a function of the seed and the level alone."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, level], dtype=np.uint64)))


def encode_documents(corpus: Corpus, texts: Iterable[str], n_tokens: int) -> NDArray[np.int64]:
    """Ids of the documents, each behind its separator, until there are at least `n_tokens` or no more documents."""
    parts: list[list[int]] = []
    total = 0
    for text in texts:
        parts.append([corpus.tokenizer.eot_id, *corpus.tokenizer.encode(text)])
        total += len(parts[-1])
        if total >= n_tokens:
            break
    return np.array([token for part in parts for token in part], dtype=np.int64)


def cut_windows(
    ids: NDArray[np.int64], n_windows: int, n_ctx: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Draws `[n_windows, n_ctx]` without overlap from one long row of ids.

    Raises:
        Unavailable: the row is too short.
    """
    n_places = len(ids) // n_ctx
    if n_places < n_windows:
        raise Unavailable(f"{n_windows} windows of {n_ctx} tokens asked, its text gives {n_places} ({len(ids)} tokens)")
    places = np.sort(generator.choice(n_places, size=n_windows, replace=False))
    return ids[: n_places * n_ctx].reshape(n_places, n_ctx)[places]
