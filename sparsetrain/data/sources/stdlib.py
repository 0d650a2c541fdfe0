"""The standard library of the running interpreter, tests included: real Python on any machine, offline.

Modules are taken in the order of a hash of their path, so that `max_chars` gives a spread over packages and not the
first letters of the alphabet; the same interpreter always gives the same documents.
"""

import hashlib
import os
import platform
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetrain.data.reading import Document, LongDocument, Skip
from sparsetrain.data.sources.document import digest, read_document, up_to
from sparsetrain.store import sha256
from sparsetrain.typed import Count, Weight

NOT_STDLIB = ("site-packages", "dist-packages", "__pycache__")


@dataclass(frozen=True, kw_only=True)
class StdlibSource:
    """The interpreter's own `.py` files."""

    kind: Literal["stdlib"] = "stdlib"
    weight: Weight = 1.0  # share of the rows of a batch, relative to the other sources
    max_chars: Count | None = None  # stop before the document that would go beyond; null: everything (about 31 MB)
    synthetic: Literal[False] = False

    def read(self) -> Iterator[Document | LongDocument | Skip]:
        """Yields modules in the order of a hash of their path, until `max_chars` characters; line ends as Python reads them."""
        root = Path(sysconfig.get_paths()["stdlib"])
        return up_to((module(path, path.relative_to(root).as_posix()) for path in modules(root)), self.max_chars)

    def fingerprint(self) -> Any:
        root = Path(sysconfig.get_paths()["stdlib"])
        content = hashlib.sha256()
        for path in modules(root):
            content.update(f"{path.relative_to(root).as_posix()} {sha256(path)}\n".encode())
        return [self.kind, self.max_chars, platform.python_version(), content.hexdigest()]


def module(path: Path, name: str) -> Document | Skip:
    """A module's text, line ends as Python reads them."""
    item = read_document(path, name)
    if isinstance(item, Skip):
        return item
    return Document(item.name, item.text.replace("\r\n", "\n").replace("\r", "\n"))


def modules(root: Path) -> list[Path]:
    """Every `.py` file of the library, in the order of a hash of its path."""
    paths = []
    for folder, folders, files in os.walk(root):
        # Pruned in place: packages installed inside the library's folder can be a hundred times its size.
        folders[:] = [name for name in folders if name not in NOT_STDLIB]
        paths += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(paths, key=lambda path: digest(path.relative_to(root).as_posix()))
