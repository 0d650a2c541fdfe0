"""Between typed dataclasses and plain data, strictly: an unknown key, a wrong type or a value out of range is one clear line.

Configs and the sections of a report are frozen dataclasses; this module alone turns them into plain data and back.
1. `from_dict`: plain data (composed yaml, JSON) -> dataclass. Hydra alone would accept a mistyped key inside an experiment file in
   silence, therefore every composed config passes through here before anything runs.
2. `to_dict`: a config as plain data, every key in it.
3. `plain`: anything that may stand in `report.json` as canonical JSON values; what is absent there stays absent.
"""

import dataclasses
import json
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypeAliasType

T = TypeVar("T")
MAX_PROBLEMS = 5
MAX_NEAR = 3  # keys that are meant, perhaps
"""That one message names; it counts the others."""
Json = TypeAliasType("Json", bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None)
"""Plain data whose shape nothing depends on."""

Count = Annotated[int, Ge(1)]
"""A whole number from 1 on. Ranges written as types are checked by `from_dict`, with the whole path of the key in the message."""
Several = Annotated[int, Ge(2)]
"""A whole number from 2 on."""
Index = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""What every generator of random numbers takes."""
NotNegative = Annotated[float, Ge(0)]
Above0 = Annotated[float, Gt(0)]
Weight = Annotated[float, Gt(0), Lt(math.inf)]
"""Of one thing beside others: any finite number above 0, since only their ratios count."""
Share = Annotated[float, Gt(0), Le(1)]
"""A number in (0, 1]."""
OpenShare = Annotated[float, Gt(0), Lt(1)]
"""A number in (0, 1) without its ends."""
Below1 = Annotated[float, Ge(0), Lt(1)]
"""A number in [0, 1)."""


def _dataclasses_in(hint: Any) -> Iterator[type]:
    """All dataclasses that a type hint mentions, however deep."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
        for nested in typing.get_type_hints(hint, include_extras=True).values():
            yield from _dataclasses_in(nested)
    for argument in typing.get_args(hint):
        yield from _dataclasses_in(argument)


@cache
def adapter(schema: Any, docs: bool = False) -> TypeAdapter[Any]:
    """The validator of a dataclass or of any type made of them; unknown keys are forbidden all the way down.

    Args:
        schema: the type.
        docs: read the docstrings of fields too, which takes longer.
    """
    for cls in _dataclasses_in(schema):
        config = ConfigDict(extra="forbid", use_attribute_docstrings=docs)
        cls.__pydantic_config__ = config  # pyright: ignore[reportAttributeAccessIssue]
    return TypeAdapter(schema)


def json_schema(schema: Any) -> dict[str, Any]:
    """JSON Schema of a dataclass; the docstrings of classes and fields are its descriptions."""
    return adapter(schema, docs=True).json_schema()


def to_dict(instance: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON types, every key in it."""
    return adapter(type(instance)).dump_python(instance, mode="json")


def plain(data: Any, place: str = "report") -> Any:
    """`data` as plain JSON values: keys sorted, tuples as lists, numpy and torch scalars unpacked, not finite -> None.

    A field of a dataclass that is None by default and by value is left out. Lone surrogates in strings are replaced, since no UTF-8
    file can hold them.

    Args:
        data: dataclasses, mappings with string keys, lists, tuples, arrays (anything with `.tolist()`), scalars.
        place: where `data` stands, for the error message.

    Raises:
        ValueError: a value of another type; the message names its place.
    """
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        entries = ((f, getattr(data, f.name)) for f in dataclasses.fields(data))
        data = {f.name: value for f, value in entries if value is not None or f.default is not None}
    if isinstance(data, Mapping):
        for key in data:
            if not isinstance(key, str):
                raise ValueError(f"{place}: key {key!r} is a {type(key).__name__}; keys are strings")
        return {_text(key): plain(data[key], f"{place}.{key}") for key in sorted(data)}
    if isinstance(data, list | tuple):
        return [plain(entry, f"{place}[{index}]") for index, entry in enumerate(data)]
    if isinstance(data, str):
        return _text(data)
    if data is None or isinstance(data, bool | int):
        return data
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if hasattr(data, "tolist"):
        return plain(data.tolist(), place)  # pyright: ignore[reportAttributeAccessIssue]
    raise ValueError(
        f"{place}: {type(data).__name__} {data!r} cannot stand in a report; use str, int, float, list, dict, dataclass"
    )


def _text(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def key_paths(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths of all keys of a nested mapping."""
    paths = []
    for key, value in tree.items():
        paths.append(prefix + key)
        if isinstance(value, Mapping):
            paths += key_paths(value, f"{prefix}{key}.")
    return paths


def unknown_key(path: str, known: list[str]) -> str:
    """One line that names an unknown key and what was probably meant, or else what its section allows."""
    parent, _, leaf = path.rpartition(".")
    siblings = [k.rpartition(".")[2] for k in known if k.rpartition(".")[0] == parent]
    near = [f"{parent}.{key}" if parent else key for key in get_close_matches(leaf, siblings, n=MAX_NEAR, cutoff=0.6)]
    if not get_close_matches(leaf, siblings, cutoff=0.7):
        # The right key may stand in another section, likelier in one near the top.
        shallow = sorted(known, key=lambda key: key.count("."))
        leaves = {k.rpartition(".")[2]: k for k in reversed(shallow)}
        alike = [leaves[name] for name in get_close_matches(leaf, leaves, n=MAX_NEAR, cutoff=0.75)]
        near = [k for k in shallow if k.rpartition(".")[2] == leaf][:MAX_NEAR] or near or alike
    if near:
        return f"unknown config key {path!r}; did you mean {' or '.join(near)}?"
    where = f"under {parent!r}" if parent else "at the top"
    return f"unknown config key {path!r}; allowed {where}: {', '.join(siblings) or 'nothing'}"


def one_line(error: BaseException) -> str:
    """An exception's message as one line; its type where it has none."""
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(kept) or type(error).__name__


def _one_line(error: Any, known: list[str]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return unknown_key(path, known)
    if error["type"] == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        if not path or path.split(".")[0] in message:
            return message
        # A check in `__post_init__` begins with the field's own name: the path to its section is put in front of it.
        first = re.match(r"\w*", message)
        own = first is not None and f"{path}.{first[0]}" in known
        return f"{path}.{message}" if own or re.match(r"[\w.]+(\[.*?\])?=", message) else f"{path}: {message}"
    if error["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{path} is missing"
    if error["type"] == "union_tag_invalid":
        kind, given, allowed = (str(error["ctx"][key]).strip("'") for key in ("discriminator", "tag", "expected_tags"))
        return f"{path}.{kind}={given}: allowed: '{allowed}'"
    if error["type"] == "union_tag_not_found":
        return f"{path}.{str(error['ctx']['discriminator']).strip(chr(39))} is missing"
    hint = ""
    parts = re.fullmatch(r"\s*(\d+)\s*/\s*([1-9]\d*)\s*", str(error["input"]))
    if error["type"] == "float_parsing" and parts:
        hint = f"; write {int(parts[1]) / int(parts[2])!r}"
    return f"{path}{'=' if path else ''}{error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"


def _not_finite(tree: Any, path: str) -> Iterator[tuple[str, float]]:
    """Place and value of every number below `tree` that is not finite: none of ours is ever meant so."""
    if isinstance(tree, float) and not math.isfinite(tree):
        yield path, tree
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in entries:
        yield from _not_finite(value, f"{path}.{key}" if path else str(key))


def from_dict(schema: type[T], tree: Any) -> T:
    """Builds a dataclass (or a container of dataclasses) from nested plain data.

    Raises:
        ValueError: unknown keys (with near names), wrong types, values out of range; one line, the first few problems in it.
    """
    if endless := list(_not_finite(tree, "")):
        raise ValueError("; ".join(f"{path}={value} is no finite number" for path, value in endless[:MAX_PROBLEMS]))
    try:
        return adapter(schema).validate_python(tree)
    except ValidationError as error:
        known: list[str] = []
        for field in dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ():
            known.append(field.name)
            value = None if field.default_factory is dataclasses.MISSING else field.default_factory()
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                known += key_paths(to_dict(value), f"{field.name}.")
        problems = [_one_line(e, known) for e in error.errors()]
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise ValueError("; ".join([*problems[:MAX_PROBLEMS], *more])) from None


def from_json(schema: type[T], path: Path) -> T:
    """A JSON file as a dataclass (or a container of dataclasses or plain data).

    Raises:
        ValueError: no JSON, or of another shape; one line that names the file.
        OSError: it cannot be read.
    """
    try:
        return from_dict(schema, json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or of another version: {one_line(error)}") from None


def with_defaults(schema: type, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The plain tree of a config, perhaps of an earlier version, with the schema's defaults for the keys that it lacks.

    A section that the schema cannot read stays as it is, and so do keys that it does not know.
    """
    found = dict(tree)
    hints = typing.get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        if field.name in tree:
            try:
                read = adapter(hints[field.name]).validate_python(tree[field.name])
            except ValidationError:
                continue
        elif field.default_factory is not dataclasses.MISSING:
            read = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            read = field.default
        else:
            continue
        found[field.name] = adapter(hints[field.name]).dump_python(read, mode="json")
    return found


def entry_at(tree: Any, place: str) -> Any:
    """What stands in nested mappings at a dotted place.

    Raises:
        ValueError: nothing; names the part that is missing and what there is instead.
    """
    found = tree
    for part in place.split("."):
        if not isinstance(found, Mapping) or part not in found:
            there = f"; there are {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
            raise ValueError(f"there is no {place}: {part!r} is missing{there}")
        found = found[part]
    return found
