"""The report is data first: `report.json` is the truth, everything a person reads is rendered from it.

1. Stages of a run give sections of plain data; every measured or computed value is a `number(...)`.
2. `save_report` writes them as canonical JSON: the same data give the same bytes.
3. A view turns one section into blocks (`blocks.py`); `sections.py` holds the views for training, data, sparsity and
   representation, and the entry point hands in those of others.
4. `render.render` turns the blocks into markdown and one HTML file, `wandb_log.log_report` into W&B objects.

The schema stands in `schema.json` and, in words, in `docs/report.md`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetrain.stats import number as typed
from sparsetrain.stats.number import Number
from sparsetrain.store import write_atomic
from sparsetrain.typed import from_dict, plain

__all__ = ["Number", "Report", "SectionKind", "as_number", "load_report", "number", "save_report", "value_of"]

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("schema.json")

Report = dict[str, Any]


def number(*args: Any, **settings: Any) -> dict[str, Any]:
    """A `Number` as plain data; rooms that are typed use `sparsetrain.stats.number.number`."""
    return plain(typed.number(*args, **settings))


def as_number(entry: Any) -> Any:
    """A number in plain data as a `Number`; anything else as it is."""
    return Number(**entry) if isinstance(entry, dict) and {"value", "unit"} <= entry.keys() else entry


def value_of(entry: Any) -> Any:
    """The bare value of a `Number`; anything else, None included, is returned as it is."""
    entry = as_number(entry)
    return entry.value if isinstance(entry, Number) else entry


@dataclass(frozen=True, kw_only=True)
class SectionKind:
    """What a section is made of and how it is shown.

    Args:
        schema: a frozen dataclass; the section's shape in `report.json`.
        view: the section, typed, as blocks.
    """

    schema: Any
    view: Callable[[Any], list[Any]]

    def __call__(self, section: Any) -> list[Any]:
        """The blocks of a section, given typed or as plain data."""
        return self.view(from_dict(self.schema, section) if isinstance(section, dict) else section)


def dumps(report: Report) -> str:
    """The canonical text of a report: sorted keys, one entry a line, lists of scalars on one line, ASCII only."""
    return _encode(plain(report), "") + "\n"


def _encode(data: Any, indent: str) -> str:
    inner = indent + " "
    if isinstance(data, dict) and data:
        lines = [f"{inner}{json.dumps(key)}: {_encode(entry, inner)}" for key, entry in data.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(data, list) and any(isinstance(entry, dict | list) for entry in data):
        return "[\n" + ",\n".join(f"{inner}{_encode(entry, inner)}" for entry in data) + f"\n{indent}]"
    return json.dumps(data, allow_nan=False)


def save_report(report: Report, path: Path | str) -> Path:
    """Writes `report` as canonical JSON, atomically.

    Raises:
        ValueError: a value that cannot stand in a report; the message names its place.
    """
    return write_atomic(Path(path), dumps(report))


def load_report(path: Path | str) -> Report:
    """Reads a `report.json`.

    Raises:
        ValueError: not a report, or one of another schema version.
    """
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version={version!r}; this version reads {SCHEMA_VERSION}. Run the report again"
        )
    return report
