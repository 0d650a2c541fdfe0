"""The documents of a corpus on the disk, while it is prepared: read once from their sources, held nowhere.

1. A source's texts stand one behind another in a file, each behind its name. What is known of them, and where they stand, is a table
   of 64 bytes a document.
2. A source that was read to its end is not read again: its last file is written when the others are whole on the disk.
"""

import codecs
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from sparsetrain.data.duplicates import is_short, normalised
from sparsetrain.data.reading import Document, LongDocument, Skip
from sparsetrain.data.sources import Source
from sparsetrain.store import once, replacing

MAX_NAMED = 1000  # skips of a source that are named; all are counted
BLOCK = 2**20  # bytes of a text that are held at a time
RECORD = np.dtype(
    [
        ("source", np.uint16),  # number
        ("short", bool),  # too short for a shingle
        ("returns", bool),  # has carriage returns
        ("piece", np.uint32),  # number of a piece from 1 on, of a whole document 0
        ("name", np.int64),  # where the name begins
        ("n_name", np.uint32),  # its bytes
        ("text", np.int64),  # where the text begins
        ("n_text", np.int64),  # its bytes
        ("n_chars", np.int64),
        ("hash", np.uint64, (2,)),  # of the normal form
    ]
)
Table = NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """What a source had to leave out."""

    n: int
    named: tuple[Skip, ...]
    """The first thousand."""


class Facts:
    """What is found out about a text while its blocks pass by."""

    def __init__(self) -> None:
        self.n_bytes = self.n_chars = 0
        self.returns = self.short = False
        self.is_blank = True
        self._content = hashlib.blake2b(digest_size=16)

    def see(self, blocks: Iterable[str]) -> Iterator[bytes]:
        """Looks at all blocks and hands on their bytes."""
        passed: list[bytes] = []
        for part in normalised(self._each(blocks, passed)):
            self._content.update(part.encode("utf-8", errors="surrogatepass"))
            self.short = self.is_blank and is_short(part)
            self.is_blank = False
            yield from passed
            passed.clear()
        yield from passed

    def _each(self, blocks: Iterable[str], passed: list[bytes]) -> Iterator[str]:
        for block in blocks:
            data = block.encode("utf-8", errors="surrogatepass")
            self.n_bytes, self.n_chars = self.n_bytes + len(data), self.n_chars + len(block)
            self.returns = self.returns or "\r" in block
            passed.append(data)
            yield block

    def row(self, **place: int) -> bytes:
        """A row of the table, of a text of which everything was seen and that stands there."""
        row = np.zeros((), RECORD)
        for name, value in place.items():
            row[name] = value
        row["short"], row["returns"] = self.short, self.returns
        row["n_text"], row["n_chars"] = self.n_bytes, self.n_chars
        row["hash"] = np.frombuffer(self._content.digest(), ">u8")
        return row.tobytes()


class Spool:
    """The texts of all sources in a folder; as a block they can be read, once all sources are.

    Args:
        folder: what a preparation that was stopped has left in it is gone on with.
        names: of the sources, in order.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder = folder
        self.names = tuple(names)
        self._files: list[BinaryIO] = []

    def __enter__(self) -> "Spool":
        self._files = [self._path(name).open("rb") for name in self.names]
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            self._files.pop().close()

    def read(self, source: Source, name: str, bar: Progress) -> Skipped:
        """Reads a source, unless that is done.

        Raises:
            ValueError: it has no document.
        """
        return once(self.folder / f"{name}.json", {}, lambda: self._read(source, name, bar), Skipped)

    def table(self, name: str) -> Table:
        """The documents of a source that was read."""
        return np.load(self.folder / f"{name}.table.npy")

    def blocks(self, row: np.void) -> Iterator[str]:
        """The text of a document."""
        decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
        start, left = int(row["text"]), int(row["n_text"])
        while left:
            data = self._bytes(row, start, min(left, BLOCK))
            start, left = start + len(data), left - len(data)
            yield decoder.decode(data, final=not left)

    def name(self, row: np.void) -> str:
        """The name of a document."""
        name = self._bytes(row, int(row["name"]), int(row["n_name"])).decode("utf-8", "surrogatepass")
        return f"{name} (piece {row['piece']})" if row["piece"] else name

    def _bytes(self, row: np.void, start: int, size: int) -> bytes:
        file = self._files[row["source"]]
        file.seek(start)
        data = file.read(size)
        assert len(data) == size, f"{file.name} is shorter than its table says"
        return data

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.text"

    def _read(self, source: Source, name: str, bar: Progress) -> Skipped:
        task = bar.add_task(f"reading {name}", total=None)
        number = self.names.index(name)
        rows = bytearray()
        skips: list[Skip] = []
        n_skips = n_items = 0
        with self._path(name).open("wb") as file:
            for item in source.read():
                n_items += 1
                bar.advance(task)
                if not isinstance(item, Skip):
                    row = _written(item, number, file)
                    rows += row
                    if row:
                        continue
                    item = Skip(item.name, "empty")
                n_skips += 1
                if len(skips) < MAX_NAMED:
                    skips.append(item)
            file.flush()
            os.fsync(file.fileno())
        bar.update(task, total=n_items)
        if not rows:
            first = f", the first: {skips[0].name} ({skips[0].reason})" if skips else ""
            raise ValueError(f"source {name!r} is empty: no document, {n_skips} skipped{first}")
        with replacing(self.folder / f"{name}.table.npy") as out:
            np.save(out, np.frombuffer(rows, RECORD))
        return Skipped(n=n_skips, named=tuple(skips))


def _written(item: Document | LongDocument, source: int, file: BinaryIO) -> bytes:
    """The row of a document whose text was written; none of one that is blank, which is taken back."""
    name = item.name.encode("utf-8", errors="surrogatepass")
    start = file.tell()
    file.write(name)
    facts = Facts()
    for data in facts.see(item.blocks()):
        file.write(data)
    if facts.is_blank:
        file.seek(start)
        file.truncate()
        return b""
    return facts.row(source=source, name=start, n_name=len(name), text=start + len(name))
