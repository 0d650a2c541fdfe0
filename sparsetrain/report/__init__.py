"""The report is data first: `report.json` is the truth, everything a person reads is rendered from it.

1. Stages of a run give sections of plain data; every measured or computed value is a `number(...)`.
2. `save_report` writes them as canonical JSON: the same data give the same bytes.
3. A view turns one section into blocks (`blocks.py`); `sections.py` holds the views for training, data, sparsity and
   representation, and the entry point hands in those of others.
4. `render.render` turns the blocks into markdown and one HTML file, `wandb_log.log_report` into W&B objects.

The schema stands in `schema.json` and, in words, in `docs/report.md`. This module imports nothing but the standard
library, so that whoever computes a number may import it.
"""

import json
import math
import os
from pathlib import Path
from typing import Any, Literal

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("schema.json")

Status = Literal["recomputable", "measured"]
Report = dict[str, Any]


def number(
    value: Any,
    unit: str,
    status: Status = "recomputable",
    *,
    n: int | None = None,
    lo: Any = None,
    hi: Any = None,
    seed: int | None = None,
    note: str | None = None,
) -> dict[str, Any]:
    """A value as it stands in `report.json`.

    Args:
        value: int, float, or anything with `.item()` (a tensor or array of one element); None for "not available".
            A value that is not finite becomes None, and the note says what it was.
        unit: "nats/token", "tokens", "s", "fraction" (0 to 1), "nodes" ...
        status: "recomputable" if it is a function of saved weights and data, "measured" if it is not (times, curves).
        n: sample size.
        lo: lower end of the interval, in the same unit.
        hi: upper end.
        seed: seed of the sample or of the search.
        note: what a reader must know beside the value.

    Returns:
        A dict with "value", "unit", "status" and those of the others that are given.

    Raises:
        ValueError: an unknown status, or a value that is not a number.
    """
    if status not in ("recomputable", "measured"):
        raise ValueError(f"status={status!r} of a number; allowed: 'recomputable', 'measured'")
    plain = _scalar(value)
    if plain is not None and (isinstance(plain, str) or not math.isfinite(plain)):
        if isinstance(plain, str):
            raise ValueError(f"number(value={plain!r}): expected an int, a float or None; put words into the note")
        note = f"not finite ({plain})" if note is None else f"{note}; not finite ({plain})"
        plain = None
    result: dict[str, Any] = {"value": plain, "unit": unit, "status": status}
    optional = {"n": n, "lo": _scalar(lo), "hi": _scalar(hi), "seed": seed, "note": note}
    result.update({key: entry for key, entry in optional.items() if entry is not None})
    return result


def value_of(entry: Any) -> Any:
    """The bare value of a `number(...)`; anything else, None included, is returned as it is."""
    return entry["value"] if isinstance(entry, dict) and "value" in entry else entry


def _scalar(value: Any) -> int | float | str | None:
    """`value` as a plain Python number (or string); numpy and torch scalars are unpacked."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, int | float | str):
        return value
    raise ValueError(f"{type(value).__name__} {value!r} is not a number; give an int, a float or a one-element tensor")


def canonical(data: Any, place: str = "report") -> Any:
    """`data` as plain JSON values: keys sorted, tuples as lists, numpy and torch scalars unpacked, not finite -> None.

    Lone surrogates in strings are replaced, since no UTF-8 file can hold them.

    Args:
        data: dicts with string keys, lists, tuples, arrays (anything with `.tolist()`), scalars.
        place: where `data` stands, for the error message.

    Raises:
        ValueError: a value of another type; the message names its place.
    """
    if isinstance(data, dict):
        for key in data:
            if not isinstance(key, str):
                raise ValueError(f"{place}: key {key!r} is a {type(key).__name__}; keys are strings")
        return {_text(key): canonical(data[key], f"{place}.{key}") for key in sorted(data)}
    if isinstance(data, list | tuple):
        return [canonical(entry, f"{place}[{index}]") for index, entry in enumerate(data)]
    if isinstance(data, str):
        return _text(data)
    if data is None or isinstance(data, bool | int):
        return data
    if isinstance(data, float):
        return float(data) if math.isfinite(data) else None
    if hasattr(data, "tolist"):
        return canonical(data.tolist(), place)
    raise ValueError(
        f"{place}: {type(data).__name__} {data!r} cannot stand in a report; use str, int, float, list, dict"
    )


def _text(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def dumps(report: Report) -> str:
    """The canonical text of a report: sorted keys, one entry a line, lists of scalars on one line, ASCII only."""
    return _encode(canonical(report), "") + "\n"


def _encode(data: Any, indent: str) -> str:
    inner = indent + " "
    if isinstance(data, dict) and data:
        lines = [f"{inner}{json.dumps(key)}: {_encode(entry, inner)}" for key, entry in data.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(data, list) and any(isinstance(entry, dict | list) for entry in data):
        return "[\n" + ",\n".join(f"{inner}{_encode(entry, inner)}" for entry in data) + f"\n{indent}]"
    return json.dumps(data, allow_nan=False)


def write_text(path: Path, text: str) -> Path:
    """Writes `text` as UTF-8 so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_report(report: Report, path: Path | str) -> Path:
    """Writes `report` as canonical JSON, atomically.

    Raises:
        ValueError: a value that cannot stand in a report; the message names its place.
    """
    return write_text(Path(path), dumps(report))


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
