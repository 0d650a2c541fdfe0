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

Texts are read once and not kept. Sketches lie on the disk, 640 bytes a document; in memory there are about `BYTES` a document while one
band is compared, and never more than `BUDGET`: beyond so many documents exact copies alone are grouped.

Source: Broder 1997 (MinHash); Shrivastava & Li 2014, arXiv 1406.4784 (one permutation, densification).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsetrain.data.pieces import cut

SHINGLE = 8  # words in a shingle  # ours
N_BINS = 64  # ours
N_BANDS = 16  # ours
THRESHOLD = 0.6  # estimated Jaccard similarity from which two documents count as near-duplicates  # ours
MANY_SHORT, SHORT_SHARE = (
    100,
    0.1,
)  # documents too short for a shingle are the rule if they are more, or a larger share  # ours
MAX_LAG = 8  # candidates of one bucket are compared with so many of their neighbours in it  # ours
CHUNK = 2**20  # characters hashed at a time, to bound memory
OVERLAP = 1024  # characters of one part of a long text that are hashed with the next one: enough for a shingle
PAIRS = 2**12  # candidates that are looked at at a time
BYTES, BUDGET = 64, 2**30  # in memory, of a document and of all: 16 million documents  # ours

_EMPTY = np.uint64(2**64 - 1)
_BASE = 0x9E3779B97F4A7C15

_PIECE = re.compile(r"\w+|[^\w\s]")
_BLANKS = re.compile(r"\s")
_BLANK, _WORD, _SIGN = 0, 1, 2
_CLASS = np.full(256, _SIGN, np.uint8)  # of each byte
_CLASS[[*range(33), 127]] = _BLANK
_CLASS[[*range(128, 256), *b"_0123456789", *range(65, 91), *range(97, 123)]] = _WORD


def normalise(text: str) -> str:
    """The text without blank lines and without blanks at the ends of lines: what exact duplicates have in common."""
    return "\n".join(stripped for line in text.splitlines() if (stripped := line.rstrip()))


def normalised(blocks: Iterable[str]) -> Iterator[str]:
    """The same of a text that comes in blocks."""
    held, begun = "", False
    for block in blocks:
        text = held + block
        whole = text.rstrip()
        held = text[len(whole) :]
        if whole:
            # Behind a sign that stands for the open line, blanks and line breaks mean what they mean in the whole text.
            yield normalise(f"-{whole}")[1:] if begun else normalise(whole)
            begun = True


def is_short(normal: str) -> bool:
    """Whether a normalised text is too short for one shingle."""
    return len(normal) <= 64 * SHINGLE and len(_PIECE.findall(normal)) < SHINGLE


def within_budget(n_documents: int) -> bool:
    """Whether near-duplicates among so many documents are looked for."""
    return n_documents * BYTES <= BUDGET


def group_near_duplicates(
    documents: Iterable[Iterable[str]], copies: NDArray[np.int64], n_short: int, scratch: Path
) -> NDArray[np.int64]:
    """Numbers the groups of near-duplicates.

    Args:
        documents: n texts, each as its blocks.
        copies: `[n]`, equal where the normal form is.
        n_short: how many of them are short.
        scratch: folder for the sketches.

    Returns:
        `[n]` int64, the group of each document in order of appearance; equal numbers mean near-duplicates. Deterministic.
    """
    rows = n_short > min(MANY_SHORT, SHORT_SHARE * len(copies))
    sketches, bands = scratch / "sketches", [scratch / f"band_{i}" for i in range(N_BANDS)]
    with ExitStack() as files:
        out, *outs = [files.enter_context(path.open("wb")) for path in (sketches, *bands)]
        for found in _sketched(documents, rows):
            found.tofile(out)
            for band, file in zip(np.split(found, N_BANDS, axis=1), outs, strict=True):
                _band_key(band).tofile(file)
    groups = copies
    for path in bands:
        groups = _linked(groups, np.fromfile(path, np.uint64), sketches)
    _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


def _sketched(documents: Iterable[Iterable[str]], rows: bool) -> Iterator[NDArray[np.uint64]]:
    # Sketches of all documents in order, a chunk at a time; a long one may have parts in several chunks.
    open_number, open_sketch = -1, np.empty((0, N_BINS), np.uint64)
    for numbers, parts in _chunks(documents):
        sketches = _sketches(parts, numbers - numbers[0], rows)
        if numbers[0] == open_number:
            sketches[0] = np.minimum(sketches[0], open_sketch[0])
        else:
            yield _densify(open_sketch)
        yield _densify(sketches[:-1])
        open_number, open_sketch = numbers[-1], sketches[-1:]
    yield _densify(open_sketch)


def _chunks(documents: Iterable[Iterable[str]]) -> Iterator[tuple[NDArray[np.int64], list[bytes]]]:
    # Parts of normalised documents, and the number of each one's document. Where a chunk ends does not matter.
    numbers: list[int] = []
    parts: list[bytes] = []
    n_chars = 0
    for number, blocks in enumerate(documents):
        before = ""
        for part in cut(normalised(blocks), CHUNK // 2, (_BLANKS,)):
            numbers.append(number)
            parts.append((before + part).encode("utf-8", errors="surrogatepass"))
            before = part[-OVERLAP:].partition(" ")[2]
            n_chars += len(part)
            if n_chars >= CHUNK:
                yield np.array(numbers), parts
                numbers, parts, n_chars = [], [], 0
    if parts:
        yield np.array(numbers), parts


def _sketches(parts: list[bytes], owner: NDArray[np.int64], rows: bool) -> NDArray[np.uint64]:
    # [n, N_BINS]: the smallest permuted shingle hash of each bin over the parts of each of n documents.
    words, document = _words(parts)
    n_words = np.bincount(document, minlength=len(parts))
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
    document = owner[np.concatenate([document[: len(inside)][inside], short])]
    sketches = np.full((owner[-1] + 1) * N_BINS, _EMPTY)
    np.minimum.at(sketches, document * N_BINS + (hashes >> np.uint64(58)).astype(np.int64), hashes)
    return sketches.reshape(-1, N_BINS)


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


def _band_key(band: NDArray[np.uint64]) -> NDArray[np.uint64]:
    key = np.zeros(len(band), np.uint64)
    for column in band.T:
        key = _mix(key * np.uint64(_BASE) + column)
    return key


def _linked(groups: NDArray[np.int64], key: NDArray[np.uint64], sketches: Path) -> NDArray[np.int64]:
    # The groups, joined where documents of the same key agree.
    order = np.argsort(key, kind="stable")
    for lag in range(1, min(MAX_LAG, len(order) - 1) + 1):
        same = np.flatnonzero(key[order[lag:]] == key[order[:-lag]])
        left, right = order[same], order[same + lag]
        new = groups[left] != groups[right]
        left, right = left[new], right[new]
        agree = np.zeros(len(left), bool)
        for start in range(0, len(left), PAIRS):
            # Opened anew, as what has been looked at of a mapped file stays in memory.
            kept = np.memmap(sketches, np.uint64, "r").reshape(-1, N_BINS)
            pairs = slice(start, start + PAIRS)
            agree[pairs] = (kept[left[pairs]] == kept[right[pairs]]).mean(axis=1) >= THRESHOLD
        if agree.any():
            ends = groups[left[agree]], groups[right[agree]]
            size = int(groups.max()) + 1
            links = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(size, size))
            groups = connected_components(links, directed=False)[1].astype(np.int64)[groups]
    return groups
