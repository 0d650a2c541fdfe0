"""The shape of report.json, from the types of its sections: as JSON Schema, and in words in docs/report.md.

python scripts/report_schema.py                          # prints the JSON Schema
python scripts/report_schema.py page=docs/report.md      # writes the tables between the markers of that page
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuits.run import KINDS
from sparsetrain.entry import entry
from sparsetrain.report import file_type
from sparsetrain.report.markdown import replaced_between
from sparsetrain.store import write_atomic
from sparsetrain.typed import json_schema

BEGIN, END = "<!-- made by scripts/report_schema.py -->", "<!-- end of what it made -->"
NUMBER = "#/$defs/Number"


def report_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a whole report with the sections of every stage."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(file_type(KINDS))}


def tables(schema: Mapping[str, Any]) -> str:
    """The schema as markdown: a table of sections, then one per type that a section is made of, where it is met first."""
    lines = ["A **number** is an object, so that no value is read without its unit and its standing:", ""]
    lines += _table(schema["$defs"]["Number"], schema["$defs"])
    lines += ["", "A report holds the following. A key with `?` is absent where it does not apply.", ""]
    lines += _table(schema, schema["$defs"])
    seen = {NUMBER}
    for name, section in schema["properties"].items():
        for place, kind in _kinds(section, name, schema["$defs"], seen):
            words = kind.get("description", "")
            heading = f"### {name}\n\n{words}" if place == name else f"`{place}`: {words}"
            lines += ["", heading, "", *_table(kind, schema["$defs"])]
    return "\n".join(lines)


def page_with(tables: str, page: str) -> str:
    """The page with `tables` between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    return replaced_between(BEGIN, END, tables, page)


def _kinds(
    part: Mapping[str, Any], place: str, kinds: Mapping[str, Any], seen: set[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and shape of every type below `part` that has not been met, from above; those of one line are left to their parent."""
    if "$ref" in part:
        if part["$ref"] in seen:
            return
        seen.add(part["$ref"])
        kind = kinds[part["$ref"].rpartition("/")[2]]
        if "properties" not in kind:
            return
        if "." not in place or not _in_a_line(kind):
            yield place, kind
        for key, inner in kind["properties"].items():
            yield from _kinds(inner, f"{place}.{key}", kinds, seen)
    for inner in part.get("anyOf", ()):
        yield from _kinds(inner, place, kinds, seen)
    if isinstance(items := part.get("items"), dict):
        yield from _kinds(items, f"{place}[]", kinds, seen)
    if isinstance(entries := part.get("additionalProperties"), dict):
        yield from _kinds(entries, f"{place}.<name>", kinds, seen)


def _in_a_line(kind: Mapping[str, Any]) -> bool:
    """Whether a type is said by the names of its keys: few, none of which needs words."""
    parts = kind["properties"].values()
    plain = all("description" not in part and ("$ref" not in part or part["$ref"] == NUMBER) for part in parts)
    return plain and len(parts) <= 6 and all("items" not in part and "anyOf" not in part for part in parts)


def _table(kind: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    rows = ["| key | is | meaning |", "|---|---|---|"]
    for key, part in kind["properties"].items():
        optional = "" if key in kind.get("required", ()) else "?"
        meaning = part.get("description") or _meaning(part, kinds)
        rows.append(f"| `{key}`{optional} | {_type(part, kinds)} | {' '.join(meaning.removesuffix('.').split())} |")
    return rows


def _meaning(part: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    """What the type behind a key says of itself, with its keys where it has no table."""
    for inner in (part, *part.get("anyOf", ()), part.get("items"), part.get("additionalProperties")):
        if isinstance(inner, dict) and inner.get("$ref", NUMBER) != NUMBER:
            kind = kinds[inner["$ref"].rpartition("/")[2]]
            keys = f" (`{' '.join(kind['properties'])}`)" if "properties" in kind and _in_a_line(kind) else ""
            return kind.get("description", "").split("\n\n")[0].removesuffix(".") + keys
    return ""


def _type(part: Mapping[str, Any], kinds: Mapping[str, Any]) -> str:
    if part.get("$ref") == NUMBER:
        return "number"
    if "$ref" in part:
        kind = kinds[part["$ref"].rpartition("/")[2]]
        return "object" if "properties" in kind else "anything"
    if "anyOf" in part:
        known = [inner for inner in part["anyOf"] if inner.get("type") != "null" or "default" not in part]
        return " or ".join(dict.fromkeys(_type(inner, kinds) for inner in known))
    if "enum" in part or "const" in part:
        return ", ".join(f"`{word}`" for word in part.get("enum", [part.get("const")]))
    if part.get("type") == "array":
        inner = part["items"] if isinstance(part.get("items"), dict) else {"anyOf": part.get("prefixItems", [{}])}
        return f"list of {_type(inner, kinds)}"
    if part.get("type") == "object":
        return f"name -> {_type(part.get('additionalProperties', {}), kinds)}"
    words = {"string": "text", "integer": "int", "number": "float", "boolean": "true or false", "null": "null"}
    return words.get(part.get("type", ""), "anything")


@dataclass(frozen=True, kw_only=True)
class ReportSchemaRun:
    """Where it goes."""

    page: str = ""
    """A page of the docs whose tables are written anew."""
    out: str = ""
    """File for the JSON Schema; empty and no page: it is printed."""


@entry(ReportSchemaRun, "report_schema", literal=("page", "out"))
def main(config: ReportSchemaRun, run_dir: Path) -> None:
    """Prints or writes."""
    schema = report_schema()
    text = json.dumps(schema, indent=1) + "\n"
    if config.page:
        page = Path(config.page)
        write_atomic(page, page_with(tables(schema), page.read_text(encoding="utf-8")))
    if config.out:
        write_atomic(Path(config.out), text)
    elif not config.page:
        print(text, end="")


if __name__ == "__main__":
    main()
