"""What reading yields: documents, and the names of what had to be left out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """One text with a name that a person can find it by."""

    name: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of its row, where some were asked for."""

    @property
    def n_chars(self) -> int:
        return len(self.text)

    def blocks(self) -> Iterator[str]:
        """The text in parts."""
        yield self.text


@dataclass(frozen=True)
class LongDocument:
    """A text that is not held in memory: whoever wants it reads it anew, block by block."""

    name: str
    n_chars: int
    blocks: Callable[[], Iterator[str]]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole text at once."""
        return "".join(self.blocks())


@dataclass(frozen=True)
class Skip:
    """Something that looked like a document and was left out, and why."""

    name: str
    reason: str
