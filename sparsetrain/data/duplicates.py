"""Groups of documents that are the same or nearly so, found with one-permutation MinHash.

1. A document is the set of its shingles: 64-bit hashes of 8 consecutive words or punctuation signs.
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
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SHINGLE = 8  # words in a shingle  # ours
N_BINS = 64  # ours
N_BANDS = 16  # ours
THRESHOLD = 0.6  # estimated Jaccard similarity from which two documents count as near-duplicates  # ours
MAX_LAG = 8  # candidates of one bucket are compared with so many of their neighbours in it  # ours

_WORD = re.compile(r"\w+|[^\w\s]")
_EMPTY = np.uint64(2**64 - 1)
_BASE = np.uint64(0x9E3779B97F4A7C15)


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
    crc_of: dict[str, int] = {}
    sketches = np.stack([_sketch(text, crc_of) for text in texts]) if texts else np.empty((0, N_BINS), np.uint64)
    left, right = _candidates(sketches)
    agree = (sketches[left] == sketches[right]).mean(axis=1) >= THRESHOLD
    rows = np.concatenate([np.arange(len(texts)), left[agree]])
    columns = np.concatenate([copy_of, right[agree]])
    links = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(texts), len(texts)))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _sketch(text: str, crc_of: dict[str, int]) -> NDArray[np.uint64]:
    # [N_BINS]: the smallest permuted shingle hash of each bin.
    words = _WORD.findall(text)
    crcs = np.empty(max(len(words), 1), np.uint64)
    crcs[:] = [crc if (crc := crc_of.get(word)) is not None else _crc(word, crc_of) for word in words] or 0
    width = min(SHINGLE, len(crcs))
    hashes = np.zeros(len(crcs) - width + 1, np.uint64)
    for offset in range(width):
        hashes = hashes * _BASE + crcs[offset : offset + len(hashes)]
    hashes = _mix(hashes)
    bins = (hashes >> np.uint64(58)).astype(np.int64)
    sketch = np.full(N_BINS, _EMPTY)
    np.minimum.at(sketch, bins, hashes)
    return _densify(sketch)


def _crc(word: str, crc_of: dict[str, int]) -> int:
    crc_of[word] = crc = zlib.crc32(word.encode("utf-8", errors="surrogatepass"))
    return crc


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # The finaliser of splitmix64: a fixed bijection of 64-bit integers, standing for the random permutation.
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _densify(sketch: NDArray[np.uint64]) -> NDArray[np.uint64]:
    full = np.flatnonzero(sketch != _EMPTY)
    if len(full) == N_BINS:
        return sketch
    source = full[np.searchsorted(full, np.arange(N_BINS)) % len(full)]
    distance = ((source - np.arange(N_BINS)) % N_BINS).astype(np.uint64)
    # The distance is added so that two different empty bins do not agree merely by borrowing from the same full one.
    return sketch[source] + distance


def _candidates(sketches: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lefts, rights = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for band in np.split(sketches, N_BANDS, axis=1):
        key = np.zeros(len(band), np.uint64)
        for column in band.T:
            key = _mix(key * _BASE + column)
        order = np.argsort(key, kind="stable")
        for lag in range(1, min(MAX_LAG, len(order) - 1) + 1):
            same = key[order[lag:]] == key[order[:-lag]]
            lefts.append(order[:-lag][same])
            rights.append(order[lag:][same])
    return np.concatenate(lefts), np.concatenate(rights)
