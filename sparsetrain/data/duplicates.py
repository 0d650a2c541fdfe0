"""Groups of documents that are the same or nearly so, found with one-permutation MinHash.

1. A document is the set of its shingles: 64-bit hashes of 8 consecutive words or punctuation signs. A shorter one is the set of its
   words; but where short ones are the rule, one shingle of all its words: sums like `3 + 5 = 8` have most words in common, few
   hashes estimate that badly, and links from one to the next would make one group of them all.
2. One random permutation of the hashes is cut into 64 bins; the sketch keeps the smallest hash of each bin. Empty bins
   of short documents borrow from the next full one (densification).
3. Documents that agree on all 4 bins of one of 16 bands are candidates; they are linked if at least `THRESHOLD` of the
   64 bins agree, which estimates the Jaccard similarity of the two sets.
4. Groups are the connected components of the links.

At Jaccard 0.8 a pair becomes a candidate with probability 0.9998, at 0.7 with 0.99. Exact copies, up to blanks at
line ends and blank lines, are always together.

Source: Broder 1997 (MinHash); Shrivastava & Li 2014, arXiv 1406.4784 (one permutation, densification).
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SHINGLE = 8  # words in a shingle  # ours
N_BINS = 64  # ours
N_BANDS = 16  # ours
THRESHOLD = 0.6  # estimated Jaccard similarity from which two documents count as near-duplicates  # ours
MANY_SHORT, SHORT_SHARE = (
    100,
    0.1,
)  # documents too short for a shingle are the rule if they are more, or a larger share  # ours
MAX_LAG = 8  # candidates of one bucket are compared with so many of their neighbours in it  # ours
CHUNK = 2**22  # characters hashed at a time, to bound memory

_EMPTY = np.uint64(2**64 - 1)
_BASE = 0x9E3779B97F4A7C15

_PIECE = re.compile(r"\w+|[^\w\s]")
_BLANK, _WORD, _SIGN = 0, 1, 2
_CLASS = np.full(256, _SIGN, np.uint8)  # of each byte
_CLASS[[*range(33), 127]] = _BLANK
_CLASS[[*range(128, 256), *b"_0123456789", *range(65, 91), *range(97, 123)]] = _WORD


def normalise(text: str) -> str:
    """The text without blank lines and without blanks at the ends of lines: what exact duplicates have in common."""
    return "\n".join(stripped for line in text.splitlines() if (stripped := line.rstrip()))


def group_near_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """Numbers the groups of near-duplicates.

    Args:
        texts: n documents, normalised.

    Returns:
        `[n]` int64, the group of each document; equal numbers mean near-duplicates. Deterministic.
    """
    first_of: dict[str, int] = {}
    copy_of = np.array([first_of.setdefault(text, i) for i, text in enumerate(texts)], dtype=np.int64)
    rows = are_rows(texts)
    sketches = np.concatenate([np.empty((0, N_BINS), np.uint64), *(_sketches(chunk, rows) for chunk in _chunks(texts))])
    left, right = _candidates(sketches)
    agree = (sketches[left] == sketches[right]).mean(axis=1) >= THRESHOLD
    rows = np.concatenate([np.arange(len(texts)), left[agree]])
    columns = np.concatenate([copy_of, right[agree]])
    links = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(texts), len(texts)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def are_rows(texts: Sequence[str]) -> bool:
    """Whether documents that are too short for one shingle are the rule."""
    n_short = sum(len(text) <= 64 * SHINGLE and len(_PIECE.findall(text)) < SHINGLE for text in texts)
    return n_short > min(MANY_SHORT, SHORT_SHARE * len(texts))


def _chunks(texts: Sequence[str]) -> Iterator[list[bytes]]:
    # Texts are encoded a chunk at a time; where one is cut does not matter.
    places = accumulate(map(len, texts))
    for _, chunk in groupby(zip(texts, places, strict=True), key=lambda each: each[1] // CHUNK):
        yield [text.encode("utf-8", errors="surrogatepass") for text, _ in chunk]


def _sketches(documents: list[bytes], rows: bool) -> NDArray[np.uint64]:
    # [n, N_BINS]: the smallest permuted shingle hash of each bin of each document.
    words, document = _words(documents)
    n_words = np.bincount(document, minlength=len(documents))
    hashes = np.zeros(max(len(words) - SHINGLE + 1, 0), np.uint64)
    for offset in range(SHINGLE):
        hashes = hashes * np.uint64(_BASE) + words[offset : offset + len(hashes)]
    inside = document[: len(hashes)] == document[SHINGLE - 1 :][: len(hashes)]
    short = n_words < SHINGLE
    if rows:  # one hash of all words in their order
        short = np.flatnonzero(short & (n_words > 0))
        first = (np.cumsum(n_words) - n_words)[short]
        rest = np.zeros(len(short), np.uint64)
        for offset in range(SHINGLE - 1):
            more = offset < n_words[short]
            rest[more] = rest[more] * np.uint64(_BASE) + words[first[more] + offset]
    else:
        short, rest = document[short[document]], words[short[document]]
    hashes = _mix(np.concatenate([hashes[inside], rest]))
    document = np.concatenate([document[: len(inside)][inside], short])
    sketches = np.full(len(documents) * N_BINS, _EMPTY)
    np.minimum.at(sketches, document * N_BINS + (hashes >> np.uint64(58)).astype(np.int64), hashes)
    return _densify(sketches.reshape(len(documents), N_BINS))


def _words(documents: list[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    # Hashes of the words and signs of all documents, and the document that each belongs to. A word's hash is the
    # polynomial sum of byte * base^(place in the word), from prefix sums: (prefix[end] - prefix[start]) / base^start.
    data = np.frombuffer(b"\n".join([*documents, b""]), np.uint8)
    kind = _CLASS[data]
    word, sign = kind == _WORD, kind == _SIGN
    starts = np.flatnonzero(sign | (word & ~np.append(False, word[:-1])))
    ends = np.flatnonzero(sign | (word & ~np.append(word[1:], False))) + 1
    powers = np.cumprod(np.append(np.uint64(1), np.full(len(data), _BASE, np.uint64)))
    inverse = np.cumprod(np.append(np.uint64(1), np.full(len(data), pow(_BASE, -1, 2**64), np.uint64)))
    prefix = np.append(np.uint64(0), np.cumsum((data + np.uint64(1)) * powers[:-1]))
    bounds = np.cumsum([len(document) + 1 for document in documents])
    return (prefix[ends] - prefix[starts]) * inverse[starts], np.searchsorted(bounds, starts, side="right")


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finaliser of splitmix64: a fixed bijection of 64-bit integers, standing for the random permutation.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _densify(sketches: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The distance is added so that two empty bins do not agree merely by borrowing from the same full one.
    dense = sketches.copy()
    for distance in range(1, N_BINS):
        empty = dense == _EMPTY
        if not empty.any():
            break
        borrowed = np.roll(sketches, -distance, axis=1)
        dense = np.where(empty & (borrowed != _EMPTY), borrowed + np.uint64(distance), dense)
    return dense


def _candidates(sketches: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for band in np.split(sketches, N_BANDS, axis=1):
        key = np.zeros(len(band), np.uint64)
        for column in band.T:
            key = _mix(key * np.uint64(_BASE) + column)
        order = np.argsort(key, kind="stable")
        for lag in range(1, min(MAX_LAG, len(order) - 1) + 1):
            same = key[order[lag:]] == key[order[:-lag]]
            lefts.append(order[:-lag][same])
            rights.append(order[lag:][same])
    return np.concatenate(lefts), np.concatenate(rights)
