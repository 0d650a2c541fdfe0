"""What reading yields: documents, and the names of what had to be left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """One text with a name that a person can find it by."""

    name: str
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of its row, where some were asked for."""


@dataclass(frozen=True)
class Skip:
    """Something that looked like a document and was left out, and why."""

    name: str
    reason: str
