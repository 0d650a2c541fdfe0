"""What a W&B sweep agent puts on a command line, as Hydra's overrides.

An agent passes its parameters as the sweep's `command` says (docs/sweeps.md):

1. `${args}`: `--key=value`, `${args_no_equals}`: `--key value`; values are Python's text (`True`, `None`, `['a', 'b']`, `{'a': 1}`);
2. `${args_no_boolean_flags}`: the same, where a true flag is `--key` alone and a false one is left out;
3. `${args_no_hyphens}`, `${args_append_hydra}`, `${args_override_hydra}`: `key=value`, `+key=value`, `++key=value`, with the same values;
4. `${args_json}`: one argument that is a JSON object, `${args_json_file}`: the path of a file with one.

Nested parameters come as a mapping, which becomes one override a leaf. Hydra's own options pass as they are.
"""

import ast
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsetrain.entry.arguments import in_quotes

FLAGS = {"--help", "--hydra-help", "--version", "--resolve", "--run", "--multirun", "--shell-completion", "--info"}
VALUES = {"--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--experimental-rerun", "--info"}
"""Hydra's own long options: those that may stand alone, and those that may have a value."""
OVERRIDE = re.compile(r"[+~]*[\w.@/]+=")
PLAIN = re.compile(r"[A-Za-z_./][\w./:@%+-]*")
WHOLE = re.compile(r"""\s*(?:\[.*\]|\{.*\}|\w+\(.*\)|'.*'|".*"|\$\{.*\})\s*""", re.DOTALL)
"""A value in Hydra's own brackets or quotes."""
WORDS = {"true", "false", "null", "none", "inf", "nan", "yes", "no", "on", "off"}


def translated(arguments: Sequence[str], named: Collection[str], *, by_agent: bool) -> list[str]:
    """The command line with an agent's arguments as overrides; what no agent passes stays as it is.

    Args:
        arguments: without the program.
        named: mappings that are given whole, not leaf by leaf.
        by_agent: whether an agent has started this process: then values of `key=value` are Python's text too.
    """
    is_sweep = not {"-m", "--multirun"}.isdisjoint(arguments)
    found: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        option, has_value, value = argument.partition("=")
        if option in VALUES or (argument in FLAGS and not has_value):
            found.append(argument)
            if option in VALUES - FLAGS and not has_value and rest:
                found.append(rest.pop(0))
        elif argument.startswith("--") and len(argument) > 2:
            if not has_value:
                follows = bool(rest) and not rest[0].startswith("--") and not OVERRIDE.match(rest[0])
                value = rest.pop(0) if follows else "True"
            found += overrides(option[2:], from_text(value, is_sweep), named)
        elif argument.startswith("{"):
            found += from_json(argument, "the JSON object on the command line", named)
        elif argument.endswith(".json") and not argument.startswith("-") and os.path.isfile(argument):
            found += from_json(Path(argument).read_text(encoding="utf-8"), argument, named)
        elif by_agent and OVERRIDE.match(argument) and not argument.startswith("~"):
            found += overrides(option, from_text(value, is_sweep), named)
        else:
            found.append(argument)
    return found


class Typed(str):
    """Text that stays as it was typed, for Hydra to read."""


def from_text(text: str, is_sweep: bool) -> Any:
    """A value from what Python prints of it; what is no mapping, list, boolean or None stays text.

    Args:
        text: as it stands on the command line.
        is_sweep: whether Hydra launches a sweep, so that `a,b` are two values.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return Typed(text) if is_sweep or not re.search(r"[\s,]", text) or WHOLE.fullmatch(text) else text
    return value if value is None or isinstance(value, dict | list | bool) else Typed(text)


def from_json(text: str, place: str, named: Collection[str]) -> Iterator[str]:
    """The overrides of a JSON object.

    Raises:
        ValueError: it is none; names its place.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{place} holds a {type(values).__name__}; an agent's parameters are an object")
    for key, value in values.items():
        yield from overrides(key, value, named)


def overrides(key: str, value: Any, named: Collection[str]) -> Iterator[str]:
    """A parameter as overrides: one, or one for each leaf of a mapping."""
    if isinstance(value, dict) and value and key not in named:
        for name, inner in value.items():
            yield from overrides(f"{key}.{name}", inner, named)
    else:
        yield f"{key}={written(value)}"


def written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Typed):
        return str(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value.lower() not in WORDS else in_quotes(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(inner)}" for key, inner in value.items()) + "}"
    return repr(value)
