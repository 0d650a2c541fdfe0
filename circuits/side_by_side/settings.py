"""In which settings two runs differ: the configs as they were written, compared key by key."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from circuits.side_by_side.section import LackedDefault, SettingEntry, SettingsEntry, Side
from sparsetrain.typed import Json

ELSEWHERE = ("name", "cache_dir", "ckpt_path", "overwrite", "logger")
"""Keys that say under which name and where a run is written or goes on, not what it does."""
ABSENT = object()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The config of a run."""

    written: Mapping[str, Any]
    """As it stands in config.yaml."""
    read: Mapping[str, Any]
    """As this version reads it: interpolations resolved, today's defaults where `written` has no key."""


def compare_settings(a: Settings | None, b: Settings | None) -> SettingsEntry:
    """The keys whose values differ.

    A section is followed into its keys where both have it; a list, and a section that one of them lacks, is one value. A value that
    was written alike is alike, so that `model.d_vocab: ${data.d_vocab}` does not follow a differing `data.d_vocab`.
    """
    if a is None or b is None:
        missing = " and ".join(side for side, settings in (("a", a), ("b", b)) if settings is None)
        note = f"No config of {missing}, so that nobody can say which settings differ."
        return SettingsEntry(n_equal=0, differing=(), elsewhere=(), lacked=(), notes=(note,))
    differing: list[SettingEntry] = []
    elsewhere: list[SettingEntry] = []
    lacked: list[LackedDefault] = []
    n_equal = 0
    for found in _walk((a.written, b.written), (a.read, b.read), ""):
        if isinstance(found, LackedDefault):
            lacked.append(found)
        elif isinstance(found, SettingEntry):
            (elsewhere if found.key.split(".")[0] in ELSEWHERE else differing).append(found)
        else:
            n_equal += found
    return SettingsEntry(
        n_equal=n_equal, differing=tuple(differing), elsewhere=tuple(elsewhere), lacked=tuple(lacked), notes=()
    )


def _walk(written: tuple[Any, Any], read: tuple[Any, Any], prefix: str) -> Iterator[SettingEntry | LackedDefault | int]:
    """The differences below a section, and how many values are equal."""
    for name in dict.fromkeys([*read[0], *read[1]]):
        key = f"{prefix}{name}"
        raw_a, raw_b = (side.get(name, ABSENT) if isinstance(side, Mapping) else ABSENT for side in written)
        a, b = (side.get(name, ABSENT) for side in read)
        same = a == b or raw_a == raw_b is not ABSENT
        older: Side | None = None if (raw_a is ABSENT) == (raw_b is ABSENT) else "a" if raw_a is ABSENT else "b"
        if all(isinstance(value, Mapping) and value for value in (a, b)) and not (same and older):
            yield from _walk((raw_a, raw_b), (a, b), f"{key}.")
            continue
        default = a if older == "a" else b
        if older and default is not ABSENT:
            yield LackedDefault(key=key, run=older, value=setting_text(default))
        if not same:
            a, b = (None if value is ABSENT else setting_text(value) for value in (a, b))
            yield SettingEntry(key=key, a=a, b=b)
        elif not older:
            yield 1


def setting_text(value: Json) -> str:
    """A value as a user would type it: text as it is unless it would read as something else."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value or '""'
    return json.dumps(value, ensure_ascii=False)
