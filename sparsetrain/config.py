"""From yaml to typed dataclasses, strictly: an unknown key, a wrong type or a value out of range is one clear line.

Dataclasses hold meaning and defaults; yaml holds choices. Hydra alone would accept a mistyped key inside an experiment
file in silence, therefore every composed config passes through `from_dict` before anything runs.
"""

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")


def _dataclasses_in(hint: Any) -> Iterator[type]:
    """All dataclasses that a type hint mentions, however deep."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield hint
        for nested in typing.get_type_hints(hint, include_extras=True).values():
            yield from _dataclasses_in(nested)
    for argument in typing.get_args(hint):
        yield from _dataclasses_in(argument)


@cache
def _adapter(schema: type) -> TypeAdapter[Any]:
    for cls in _dataclasses_in(schema):
        cls.__pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportAttributeAccessIssue]
    return TypeAdapter(schema)


def to_dict(instance: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON types."""
    return _adapter(type(instance)).dump_python(instance, mode="json")


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
    near = [f"{parent}.{key}" if parent else key for key in get_close_matches(leaf, siblings, n=3, cutoff=0.6)]
    # The right key may stand in another section.
    near = near or [k for k in known if k.rpartition(".")[2] == leaf]
    if near:
        return f"unknown config key {path!r}; did you mean {' or '.join(near)}?"
    where = f"under {parent!r}" if parent else "at the top"
    return f"unknown config key {path!r}; allowed {where}: {', '.join(siblings) or 'nothing'}"


def _one_line(error: Any, known: list[str]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "unexpected_keyword_argument":
        return unknown_key(path, known)
    if error["type"] == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        # Checks name their keys from the section on; a value nested deeper than its section gets its path in front.
        return message if path.split(".")[0] in message else f"{path}: {message}"
    return f"{path}={error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def from_dict(schema: type[T], tree: Mapping[str, Any]) -> T:
    """Builds a config dataclass from nested plain data.

    Raises:
        ValueError: unknown keys (with near names), wrong types, values out of range; one line, all problems in it.
    """
    try:
        return _adapter(schema).validate_python(tree)
    except ValidationError as error:
        defaults = [field for field in dataclasses.fields(schema) if field.default_factory is not dataclasses.MISSING]  # pyright: ignore[reportArgumentType]
        known = key_paths({f.name: None for f in dataclasses.fields(schema)})  # pyright: ignore[reportArgumentType]
        for field in defaults:
            value = field.default_factory()  # pyright: ignore[reportCallIssue]
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                known += key_paths(to_dict(value), f"{field.name}.")
        raise ValueError("; ".join(_one_line(e, known) for e in error.errors())) from None
