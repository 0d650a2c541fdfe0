"""One row of a user's file: which of its fields is the text, and what makes a row no document."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsetrain.data.reading.document import Document, Skip

MISSING = object()
MAX_NAMED = 12  # fields that a reason lists
_KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What is wanted of a row, by name; `content.text` is the field `text` of the field `content`."""

    text: str = "text"
    others: tuple[str, ...] = ()

    def row(self, place: str, value: Any) -> Document | Skip:
        """The document that stands in a row.

        Args:
            place: file and line, or row.
            value: a mapping from names to values, or the text itself.
        """
        if isinstance(value, str):
            text, others = value, {}
        elif isinstance(value, Mapping):
            text = lookup(value, self.text)
            if not isinstance(text, str):
                return Skip(place, f"no text in field {self.text!r} ({_instead(text, value)})")
            found = {name: lookup(value, name) for name in self.others}
            others = {name: other for name, other in found.items() if other is not MISSING}
        else:
            return Skip(place, f"no text in field {self.text!r} (the row is {_kind(value)})")
        for name, words in {self.text: text, **others}.items():
            if isinstance(words, str) and (reason := flaw(words)):
                return Skip(place, f"{reason} in field {name!r}")
        return Document(place, text, others)


def lookup(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field, or `MISSING`. A key that is spelled like the whole name wins over the way through its dots."""
    if name in row:
        return row[name]
    for i, char in enumerate(name):
        inner = row.get(name[:i]) if char == "." else None
        if isinstance(inner, Mapping) and (found := lookup(inner, name[i + 1 :])) is not MISSING:
            return found
    return MISSING


def flaw(text: str) -> str | None:
    """Why a string is no text that a tokenizer takes; None: it is."""
    if "\0" in text:
        return f"a NUL at character {text.index(chr(0))}"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}"
    return None


def _instead(value: Any, row: Mapping[str, Any]) -> str:
    if value is not MISSING:
        return f"it is {_kind(value)}"
    names = [str(name) for name in row]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"its fields: {', '.join(names[:MAX_NAMED]) or 'none'}{more}"


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), f"of type {type(value).__name__}")
