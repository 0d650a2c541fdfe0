"""A number as it is reported: value, unit, sample size, interval and standing in one piece."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["recomputable", "measured"]


@dataclass(frozen=True, kw_only=True)
class Number:
    """A value that is not read without its unit and its standing."""

    value: int | float | None
    """None: not available, `note` says why."""
    unit: str
    """`nats/token`, `bits/char`, `nats`, `tokens`, `tokens/s`, `s`, `fraction` (0 to 1), `nodes`, `edges`, ..."""
    status: Status = "recomputable"
    """`recomputable`: a function of saved weights and data, checked in a fresh process; `measured`: times, curves of the training."""
    n: int | None = None
    """Sample size."""
    lo: int | float | None = None
    """Lower end of the interval, in the same unit."""
    hi: int | float | None = None
    """Upper end."""
    seed: int | None = None
    """Of the sample or of the search."""
    note: str | None = None
    """What a reader must know beside the value."""


@dataclass(frozen=True, kw_only=True)
class StepCurve:
    """Values over optimizer steps."""

    step: tuple[int, ...]
    value: tuple[float | None, ...]


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
) -> Number:
    """A `Number` of whatever holds one value: int, float, or anything with `.item()` (a tensor or array of one element).

    A value that is not finite becomes None, and the note says what it was.

    Raises:
        ValueError: an unknown status, or a value that is not a number.
    """
    if status not in ("recomputable", "measured"):
        raise ValueError(f"status={status!r} of a number; allowed: 'recomputable', 'measured'")
    bare = _scalar(value)
    if bare is not None and not math.isfinite(bare):
        note = f"not finite ({bare})" if note is None else f"{note}; not finite ({bare})"
        bare = None
    return Number(value=bare, unit=unit, status=status, n=n, lo=_scalar(lo), hi=_scalar(hi), seed=seed, note=note)


def _scalar(value: Any) -> int | float | None:
    """`value` as a plain Python number; numpy and torch scalars are unpacked."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, int | float):
        return value
    raise ValueError(
        f"{type(value).__name__} {value!r} is not a number; give an int, a float or a one-element tensor; words go into the note"
    )


def over_range(values: Sequence[float], unit: str) -> Number:
    """Mean over seeds, with their range."""
    low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    mean, words = sum(values) / len(values), "lo and hi: range over seeds"
    return number(mean, unit, "measured", n=len(values), lo=low, hi=high, note=words)
