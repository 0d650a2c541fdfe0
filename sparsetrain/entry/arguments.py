"""The command line between a person and Hydra's grammar.

What a person types as `key=value` is read in three ways:
1. values of a command's `literal` keys (prompts, paths) are text as they stand;
2. a value that the grammar refuses (`~/x`, `my [draft]/x`, `lr=0.1`, any Cyrillic letter) is text where its key takes text;
3. everything else is Hydra's.
"""

import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

WHOLE_QUOTE = re.compile(r"""\s*(['"])(?:(?!\1)[^\\]|\\.)*\1\s*\Z""", re.DOTALL)


def in_quotes(text: str) -> str:
    """`text` as Hydra's grammar quotes it: a backslash only means something in front of a quote."""
    inner = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)\Z", r"\1\1", inner) + '"'


def without_interpolations(text: str) -> str:
    """`text` in which OmegaConf sees no interpolation: an even number of backslashes before `${` gets one more."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] + ("" if len(found[1]) % 2 else "\\") + "${", text)


def as_text(text: str) -> str:
    """The value that Hydra and OmegaConf turn into exactly this text."""
    return in_quotes(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def readable(argument: str) -> bool:
    """Whether Hydra's grammar reads an override."""
    try:
        OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return False
    return True


def takes_text(key: str, base: Mapping[str, Any]) -> bool:
    """Whether a key's default is text or nothing; Hydra's own keys are folders where they are long."""
    found: Any = base
    for part in key.lstrip("+").split("."):
        if not isinstance(found, Mapping) or part not in found:
            return key.startswith("hydra.")
        found = found[part]
    return found is None or isinstance(found, str)


def read_literally(arguments: Sequence[str], literal: Collection[str], lists: Collection[str], base: Mapping[str, Any]) -> Iterator[str]:  # fmt: skip
    """The command line for Hydra.

    Args:
        arguments: as typed.
        literal: keys whose values are text as they stand, `${x}` too. In a sweep (`-m`) they may be several, as Hydra reads them.
        lists: those of them that may also be a list `[a,b]`, where no such path exists.
        base: the command's keys with their defaults.
    """
    sweeps = not {"-m", "--multirun"}.isdisjoint(arguments)
    for argument in arguments:
        key, is_pair, value = argument.partition("=")
        if not is_pair or argument.startswith("-"):
            yield argument
        elif key in literal and not (sweeps and readable(argument)):
            if WHOLE_QUOTE.match(value):
                yield f"{key}={without_interpolations(value)}"
            else:
                is_list = key in lists and value.startswith("[") and value.endswith("]") and not os.path.exists(value)
                yield argument if is_list else f"{key}={as_text(value)}"
        elif takes_text(key, base) and not readable(argument):
            yield f"{key}={in_quotes(value)}"
        else:
            yield argument


def quoted_form(argument: str) -> str:
    """How to type an override that Hydra refuses so that its value is text."""
    key, _, value = argument.partition("=")
    return shlex.quote(f"{key}={in_quotes(value)}")


def replacing(arguments: Sequence[str], named: Sequence[str]) -> list[str]:
    """The command line for Hydra, which merges mappings: one given whole (`data.sources={...}`) takes the default's place."""
    found: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        found += [f"~{key}", f"+{argument}"] if key in named and value.lstrip().startswith("{") else [argument]
    return found


def drop_defaults_(cfg: DictConfig, base: DictConfig, named: Sequence[str], overrides: Sequence[str]) -> None:
    """Where a yaml file names entries of a mapping that are not its default ones, these go; entries added by `+` are no reason."""
    for key in named:
        entries, default = OmegaConf.select(cfg, key), set(OmegaConf.select(base, key))
        added = {re.split(r"[.=]", o.removeprefix(f"+{key}."))[0] for o in overrides if o.startswith(f"+{key}.")}
        if f"~{key}" not in overrides and set(entries) - default - added:
            OmegaConf.set_struct(entries, False)
            for name in default & set(entries):
                del entries[name]
