"""The shape of report.json in other words: a JSON Schema that a report follows, tables in which every key stands."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonschema
import pytest

from scripts import report_schema
from sparsetrain.report import Report, RunFacts, SectionKind, file_type
from sparsetrain.stats.number import Number, number
from sparsetrain.typed import json_schema


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where it begins and ends."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part."""

    name: str
    """What it is called, in words that
    fill two lines."""
    size: Number
    ends: Ends
    words: Mapping[str, tuple[int, ...]]
    kind: Literal["a", "b"] = "a"
    left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The section `whole`."""

    parts: tuple[Part, ...]


KINDS = {"whole": SectionKind(schema=Whole, view=lambda section: [])}
SCHEMA = json_schema(file_type(KINDS))


def test_a_report_follows_the_schema_made_of_its_types():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    part = Part(name="n", size=number(1, "g"), ends=Ends(low=0, high=1), words={"x": (1, 2)})
    facts = RunFacts.now(name="r", seed=0, command="", device="cpu")
    data = Report(run=facts, sections={"whole": Whole(parts=(part,))}).plain()
    jsonschema.validate(data, SCHEMA)
    data["whole"]["parts"][0]["size"]["status"] = "guessed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


def test_tables_say_every_key():
    text = report_schema.tables(SCHEMA)
    for line in (
        "| `whole`? | object | The section `whole` |",
        "| `parts` | list of object | One part |",
        "| `name` | text | What it is called, in words that fill two lines |",
        "| `size` | number |  |",
        "| `ends` | object | Where it begins and ends (`low high`) |",
        "| `words` | name -> list of int |  |",
        "| `kind`? | `a`, `b` |  |",
        "| `left`? | float |  |",
    ):
        assert line in text.splitlines(), line
    assert "`whole.parts[]`: One part." in text and "`whole.parts[].ends`" not in text


def test_tables_go_between_the_markers_of_a_page():
    page = f"before\n{report_schema.BEGIN}\nold\n{report_schema.END}\nafter\n"
    text = report_schema.page_with("new", page)
    assert "old" not in text and text.startswith("before\n") and text.endswith("\nafter\n")
    assert report_schema.page_with("new", text) == text
    with pytest.raises(ValueError, match="page= must hold the lines"):
        report_schema.page_with("new", "no markers")


def test_the_page_of_the_docs_is_current():
    page = (Path(report_schema.__file__).parents[1] / "docs/report.md").read_text(encoding="utf-8")
    assert report_schema.page_with(report_schema.tables(report_schema.report_schema()), page) == page, (
        "run python scripts/report_schema.py page=docs/report.md"
    )
