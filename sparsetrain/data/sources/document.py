"""What a source is: it yields documents, and the names of what it had to skip.

A source is a frozen config dataclass with a `kind`, a `weight`, `synthetic`, and two methods:
`read()` yields `Document | LongDocument | Skip` in a fixed order; `fingerprint()` returns a JSON value that changes when
`read()` would yield something else, so that a prepared corpus can be reused without reading the source again.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from sparsetrain.data.reading import Document, LongDocument, Skip


class Source(Protocol):
    """The few things that the corpus asks of every source config."""

    @property
    def kind(self) -> str: ...
    @property
    def weight(self) -> float: ...
    @property
    def synthetic(self) -> bool: ...
    def read(self) -> Iterator[Document | LongDocument | Skip]: ...
    def fingerprint(self) -> Any: ...


def read_document(path: Path, name: str) -> Document | Skip:
    """The UTF-8 text of a file of this machine's software, or why it was skipped. Files of users are read by `data.reading`."""
    try:
        return Document(name, path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Skip(name, f"not UTF-8 (byte {error.start})")


def digest(text: str) -> str:
    """BLAKE2b of the text, 16 bytes in hex."""
    return hashlib.blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=16).hexdigest()


def up_to(
    documents: Iterable[Document | LongDocument | Skip], max_chars: int | None
) -> Iterator[Document | LongDocument | Skip]:
    """All documents before the one that would go beyond so many characters; None: all."""
    n_chars = 0
    for document in documents:
        if not isinstance(document, Skip):
            before, n_chars = n_chars, n_chars + document.n_chars
            if max_chars is not None and n_chars > max_chars:
                if not before:
                    yield Skip(document.name, f"{n_chars} characters, more than max_chars={max_chars}")
                return
        yield document
