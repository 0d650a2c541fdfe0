"""The documents of all sources together: near-duplicates grouped, long ones cut where they are few, every group in one split.

1. Near-duplicates are grouped over all sources (`duplicates.py`), or only exact copies.
2. A source of fewer groups than splits is cut inside of its documents, so that a corpus of one file can be trained on.
3. A group's place on [0, 1) is a hash of its content and the seed, and its place is its split.
4. What a reader of the numbers should know of all this is a note.
"""

import re
from bisect import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.duplicates import group_near_duplicates, normalise
from sparsetrain.data.reading import Document
from sparsetrain.data.sources.document import digest

SPLITS = ("train", "val", "heldout", "means")
"""train: gradients and the tokenizer; val: validation loss and choices; heldout: shift splits, never chosen on;
means: the mean activations of deleted nodes, and nothing else."""
PIECES = 200  # aimed at where documents are cut: enough that a split of 2% gets a few  # ours
MIN_PIECE, MAX_PIECE = 200, 20_000  # characters  # ours
MANY_REPEATED = 0.2  # share of a source's documents from which repetition is said aloud  # ours
FEW_TOKENS = 1000  # of a split, below which that is said aloud  # ours
NearDuplicates = Literal["group", "keep"]
_LINE_END = r"(?:\r\n|\r(?!\n)|\n)"
_ENDS = tuple(map(re.compile, (rf"{_LINE_END}\s*{_LINE_END}", _LINE_END, r"\s+")))
"""Where a piece may end, the best first: at a blank line, a line end, a blank."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Documents one after another, with what decides about their splits."""

    origin: Sequence[str]
    """The source of each."""
    documents: Sequence[Document]
    hashes: Sequence[str]
    """Of the content, as near-duplicates see it."""
    groups: NDArray[np.int64]
    """Equal numbers go to one split."""
    notes: Mapping[str, str]
    """Source -> how its documents were cut, where they were."""

    @classmethod
    def of(cls, read: Mapping[str, Sequence[Document]], near_duplicates: NearDuplicates) -> "Mix":
        """Groups all documents, and cuts those of sources that have too few.

        Args:
            read: source -> its documents.
            near_duplicates: what is grouped: near-duplicates, or exact copies only.
        """
        mix = cls._grouped(read, near_duplicates, {})
        sources, notes = dict(read), {}
        for name, documents in read.items():
            if len(mix.groups_of(name)) >= len(SPLITS):
                continue
            size = min(max(sum(len(document.text) for document in documents) // PIECES, MIN_PIECE), MAX_PIECE)
            pieces = [piece for document in documents for piece in _pieces(document, size)]
            if len(pieces) > len(documents):
                sources[name] = pieces
                notes[name] = (
                    f"{_count(len(documents))} {'is' if len(documents) == 1 else 'are'} too few for {len(SPLITS)} splits, so cut into "
                    f"{len(pieces):,} of {size:,} to {2 * size:,} characters, at blank lines or line ends where there are any; neighbours lie "
                    f"in different splits"
                )
        return cls._grouped(sources, near_duplicates, notes) if notes else mix

    @classmethod
    def _grouped(
        cls, sources: Mapping[str, Sequence[Document]], near_duplicates: NearDuplicates, notes: Mapping[str, str]
    ) -> "Mix":
        documents = [document for of_source in sources.values() for document in of_source]
        normal = [normalise(document.text) for document in documents]
        hashes = [digest(text) for text in normal]
        groups = (
            group_near_duplicates(normal) if near_duplicates == "group" else np.unique(hashes, return_inverse=True)[1]
        )
        origin = [name for name, of_source in sources.items() for _ in of_source]
        return cls(origin=origin, documents=documents, hashes=hashes, groups=groups, notes=notes)

    def groups_of(self, source: str) -> set[int]:
        """The groups that have a document of a source."""
        return {group for name, group in zip(self.origin, self.groups.tolist(), strict=True) if name == source}

    def repeated(self) -> Counter[str]:
        """Source -> documents that share a group with an earlier one."""
        _, first = np.unique(self.groups, return_index=True)
        again = np.ones(len(self.groups), bool)
        again[first] = False
        return Counter(self.origin[i] for i in np.flatnonzero(again).tolist())

    def splits(self, fractions: Mapping[str, float], seed: int) -> list[str]:
        """The split of each document.

        Args:
            fractions: split -> share of the groups; the rest is `train`.
            seed: of the assignment.

        Raises:
            ValueError: a source has fewer groups than there are splits.
        """
        smallest: dict[int, str] = {}
        for content, group in zip(self.hashes, self.groups.tolist(), strict=True):
            smallest[group] = min(content, smallest.get(group, content))
        place = {group: int(digest(f"{seed}:{content}")[:13], 16) / 16**13 for group, content in smallest.items()}
        ends = list(accumulate(fractions.values()))
        order = [*fractions, "train"]
        split_of = {group: order[bisect(ends, u)] for group, u in place.items()}
        # A source of few documents may leave a split empty: it takes a group from the fullest split, the next on the line.
        for name in dict.fromkeys(self.origin):
            ordered = sorted(self.groups_of(name), key=place.__getitem__)
            if len(ordered) < len(SPLITS):
                raise ValueError(
                    f"source {name!r} has {len(ordered)} distinct document(s) once near-duplicates are grouped, and too little text to be "
                    f"cut into more; it needs at least {len(SPLITS)}, one for each of {', '.join(SPLITS)}"
                )
            for split in SPLITS:
                members = {split: [group for group in ordered if split_of[group] == split] for split in SPLITS}
                if not members[split]:
                    fullest = max(members.values(), key=len)
                    split_of[fullest[-1] if split == "train" else fullest[0]] = split
        return [split_of[group] for group in self.groups.tolist()]

    def remarks(self, source: str, n_docs: Mapping[str, int], n_tokens: Mapping[str, int]) -> tuple[str, ...]:
        """What should be known of a source before its numbers are believed.

        Args:
            source: its name.
            n_docs, n_tokens: by split.
        """
        own = [document for name, document in zip(self.origin, self.documents, strict=True) if name == source]
        n_repeated, n_returns = self.repeated()[source], sum("\r" in document.text for document in own)
        found = [self.notes[source]] if source in self.notes else []
        if n_repeated > MANY_REPEATED * len(own):
            found.append(
                f"{n_repeated:,} of {len(own):,} documents ({n_repeated / len(own):.0%}) share a group of near-duplicates with an earlier one and "
                f"go where it goes; data.near_duplicates=keep splits all but exact copies"
            )
        if n_returns:
            found.append(
                f"{n_returns:,} of {len(own):,} documents ({n_returns / len(own):.0%}) have carriage returns, which are kept; prompts of tasks "
                f"end their lines with a line feed alone"
            )
        few = [
            f"{split} {_count(n_docs[split])}, {n_tokens[split]:,} tokens"
            for split in SPLITS
            if n_tokens[split] < FEW_TOKENS
        ]
        if few:
            found.append(
                f"few tokens, what is measured on them is uncertain: {'; '.join(few)}; give more text or raise data.<split>_fraction"
            )
        return tuple(found)


def _count(n_docs: int) -> str:
    return "1 document" if n_docs == 1 else f"{n_docs:,} documents"


def _pieces(document: Document, size: int) -> list[Document]:
    pieces = [piece for piece in cut(document.text, size) if piece.strip()]
    return [Document(f"{document.name} (piece {i})", piece) for i, piece in enumerate(pieces, start=1)]


def cut(text: str, size: int) -> list[str]:
    """Pieces of `size` to `2 size` characters that together are the text; only the last one may be shorter.

    Each ends behind the first blank line in its second half, else behind the first line end there, else behind the first blank, else
    where it has `2 size` characters.
    """
    pieces = []
    start = 0
    while len(text) - start > 2 * size:
        half, whole = start + size, start + 2 * size
        found = (end.search(text, half, whole) for end in _ENDS)
        stop = next((match.end() for match in found if match), whole)
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]
