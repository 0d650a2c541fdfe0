"""The documents of all sources together: near-duplicates grouped, long ones cut where they are few, every group in one split.

1. Near-duplicates are grouped over all sources (`duplicates.py`), or only exact copies.
2. A source of fewer groups than splits is cut inside of its documents, so that a corpus of one file can be trained on.
3. A group's place on [0, 1) is a hash of its content and the seed, and its place is its split.
4. What a reader of the numbers should know of all this is a note.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.duplicates import group_near_duplicates, within_budget
from sparsetrain.data.pieces import cut
from sparsetrain.data.sources.document import digest
from sparsetrain.data.spool import RECORD, Facts, Spool, Table

SPLITS = ("train", "val", "heldout", "means")
"""train: gradients and the tokenizer; val: validation loss and choices; heldout: shift splits, never chosen on;
means: the mean activations of deleted nodes, and nothing else."""
PIECES = 200  # aimed at where documents are cut: enough that a split of 2% gets a few  # ours
MIN_PIECE, MAX_PIECE = 200, 20_000  # characters  # ours
DOMINANT = 0.5  # share of a source's characters in one document, above which its documents are cut  # ours
MANY_REPEATED = 0.2  # share of a source's documents from which repetition is said aloud  # ours
FEW_TOKENS = 1000  # of a split, below which that is said aloud  # ours
NearDuplicates = Literal["group", "keep"]
_LINE_END = r"(?:\r\n|\r(?!\n)|\n)"
ENDS = tuple(map(re.compile, (rf"{_LINE_END}\s*{_LINE_END}", _LINE_END, r"\s+")))
"""Where a piece may end, the best first: at a blank line, a line end, a blank."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Documents one after another, with what decides about their splits."""

    sources: Sequence[str]
    """Their names; `documents["source"]` counts in this order."""
    documents: Table
    groups: NDArray[np.int64]
    """Of each document; equal numbers go to one split."""
    notes: Mapping[str, tuple[str, ...]]
    """Source -> how its documents were cut, where they were, and what was not looked for."""

    @classmethod
    def of(cls, spool: Spool, near_duplicates: NearDuplicates) -> "Mix":
        """Groups all documents, and cuts those of sources that have too few, or one with most of the text.

        Args:
            spool: open; its folder also takes what is compared.
            near_duplicates: what is grouped: near-duplicates, or exact copies only.
        """
        tables = {name: spool.table(name) for name in spool.names}
        mix = cls._grouped(spool, tables, near_duplicates, {})
        notes: dict[str, tuple[str, ...]] = {}
        for i, (name, table) in enumerate(tables.items()):
            share = float(table["n_chars"].max() / max(1, table["n_chars"].sum()))
            few = mix.n_groups(i) < len(SPLITS)
            if not few and share <= DOMINANT:
                continue
            size = min(max(int(table["n_chars"].sum()) // PIECES, MIN_PIECE), MAX_PIECE)
            pieces = np.frombuffer(b"".join(_pieces(spool, document, size) for document in table), RECORD)
            if len(pieces) > len(table):
                tables[name] = pieces
                why = (
                    f"{_count(len(table))} {'is' if len(table) == 1 else 'are'} too few for {len(SPLITS)} splits"
                    if few
                    else f"one of {_count(len(table))} has {share:.0%} of the text, and whole it would go to one split"
                )
                notes[name] = (
                    f"{why}, so cut into "
                    f"{len(pieces):,} of {size:,} to {2 * size:,} characters, at blank lines or line ends where there are any; neighbours lie "
                    f"in different splits",
                )
        return cls._grouped(spool, tables, near_duplicates, notes) if notes else mix

    @classmethod
    def _grouped(
        cls,
        spool: Spool,
        tables: Mapping[str, Table],
        near_duplicates: NearDuplicates,
        notes: Mapping[str, tuple[str, ...]],
    ) -> "Mix":
        documents = np.concatenate(list(tables.values()))
        groups = np.unique(documents["hash"], axis=0, return_inverse=True)[1].reshape(-1)
        if near_duplicates == "group" and within_budget(len(documents)):
            texts = (spool.blocks(document) for document in documents)
            groups = group_near_duplicates(texts, groups, int(documents["short"].sum()), spool.folder)
        elif near_duplicates == "group":
            many = f"{len(documents):,} documents are too many to look for near-duplicates: exact copies alone go to one split together"
            notes = {name: (*notes.get(name, ()), many) for name in tables}
        return cls(sources=tuple(tables), documents=documents, groups=groups, notes=notes)

    def n_groups(self, source: int) -> int:
        """Number of groups that have a document of a source."""
        return len(np.unique(self.groups[self.documents["source"] == source]))

    def repeated(self) -> Counter[str]:
        """Source -> documents that share a group with an earlier one."""
        again = np.ones(len(self.groups), bool)
        again[np.unique(self.groups, return_index=True)[1]] = False
        times = np.bincount(self.documents["source"][again], minlength=len(self.sources))
        return Counter(dict(zip(self.sources, times.tolist(), strict=True)))

    def order(self, spool: Spool) -> NDArray[np.int64]:
        """Numbers of the documents in the order of their content, of equal ones in that of their names."""
        rows: Any = self.documents
        hashes = rows["hash"]
        order = np.lexsort((hashes[:, 1], hashes[:, 0]))
        edges = np.flatnonzero((np.diff(hashes[order], axis=0) != 0).any(axis=1)) + 1
        starts, stops = np.append(0, edges), np.append(edges, len(order))
        for start, stop in zip(*(edge[stops - starts > 1].tolist() for edge in (starts, stops)), strict=True):
            order[start:stop] = sorted(order[start:stop], key=lambda i: spool.name(rows[i]))
        return order

    def splits(self, fractions: Mapping[str, float], seed: int) -> NDArray[np.uint8]:
        """The split of each document, as its number in `SPLITS`.

        Args:
            fractions: split -> share of the groups; the rest is `train`.
            seed: of the assignment.

        Raises:
            ValueError: a source has fewer groups than there are splits.
        """
        hashes = self.documents["hash"]
        ordered = np.lexsort((hashes[:, 1], hashes[:, 0], self.groups))
        groups, first = np.unique(self.groups[ordered], return_index=True)
        smallest = hashes[ordered[first]]
        place = np.fromiter((_place(seed, *pair) for pair in smallest.tolist()), np.float64, len(groups))
        numbers = np.array([SPLITS.index(split) for split in (*fractions, "train")], np.uint8)
        split_of = numbers[np.searchsorted(list(accumulate(fractions.values())), place, side="right")]
        group_of = np.searchsorted(groups, self.groups)
        # A source of few documents may leave a split empty: it takes a group from the fullest split, the next on the line.
        for i, name in enumerate(self.sources):
            own = np.unique(group_of[self.documents["source"] == i])
            own = own[np.argsort(place[own], kind="stable")]
            if len(own) < len(SPLITS):
                raise ValueError(
                    f"source {name!r} has {len(own)} distinct document(s) once near-duplicates are grouped, and too little text to be "
                    f"cut into more; it needs at least {len(SPLITS)}, one for each of {', '.join(SPLITS)}"
                )
            for split, named in enumerate(SPLITS):
                n_groups = np.bincount(split_of[own], minlength=len(SPLITS))
                if not n_groups[split]:
                    fullest = own[split_of[own] == n_groups.argmax()]
                    split_of[fullest[-1 if named == "train" else 0]] = split
        return split_of[group_of]

    def remarks(self, source: str, n_docs: Mapping[str, int], n_tokens: Mapping[str, int]) -> tuple[str, ...]:
        """What should be known of a source before its numbers are believed.

        Args:
            source: its name.
            n_docs: by split.
            n_tokens: by split.
        """
        own = self.documents[self.documents["source"] == self.sources.index(source)]
        n_repeated, n_returns = self.repeated()[source], int(own["returns"].sum())
        found = [*self.notes.get(source, ())]
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


def _place(seed: int, *halves: int) -> float:
    """A place in [0, 1) by a hash of seed and content."""
    content = "".join(f"{half:016x}" for half in halves)
    return int(digest(f"{seed}:{content}")[:13], 16) / 16**13


def _pieces(spool: Spool, document: np.void, size: int) -> bytes:
    """Rows of the pieces of a document, which stand where it stands."""
    rows = bytearray()
    start, number = int(document["text"]), 1
    for piece in cut(spool.blocks(document), size, ENDS):
        facts = Facts()
        for _ in facts.see([piece]):
            pass
        if not facts.is_blank:
            place = {name: int(document[name]) for name in ("source", "name", "n_name")}
            rows += facts.row(**place, text=start, piece=number)
            number += 1
        start += facts.n_bytes
    return bytes(rows)
