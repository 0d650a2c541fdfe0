# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""What a question's measurement returns. The types that torch and scipy leave open end in this file."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scipy.stats import binomtest
from torch import Tensor

from circuits.section import CardVerdict
from sparsetrain.typed import Json

NO_WINDOWS = "no pretraining text was given"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured value with what is needed to judge it.

    Args:
        value: the number that is compared with a threshold; None where there is none.
        unit: its unit.
        n: sample size.
        lo: lower end of the 95% interval, where there is one.
        hi: upper end.
        note: what a reader must know beside the value.
        detail: plain JSON data behind the value.
        verdict: set where the verdict does not follow from comparing the value with the threshold.
    """

    value: float | None
    unit: str
    n: int
    lo: float | None = None
    hi: float | None = None
    note: str = ""
    detail: Mapping[str, Json] = field(default_factory=dict[str, Json])
    verdict: CardVerdict | None = None


def floats(values: Tensor) -> list[float]:
    """The numbers in a one-dimensional tensor."""
    return values.tolist()


def missing(
    unit: str,
    note: str,
    n: int = 0,
    *,
    detail: Mapping[str, Json] | None = None,
    verdict: CardVerdict = "not enough data",
) -> Measurement:
    """A measurement without a value, and why there is none."""
    return Measurement(value=None, unit=unit, n=n, note=note, detail=detail or {}, verdict=verdict)


def share(n_hits: int, n: int, *, note: str = "", detail: Mapping[str, Json] | None = None) -> Measurement:
    """A fraction of `n` with its Wilson interval."""
    if n == 0:
        return missing("fraction", note, detail=detail)
    low, high = binomtest(n_hits, n).proportion_ci(method="wilson")
    return Measurement(
        value=n_hits / n, unit="fraction", n=n, lo=float(low), hi=float(high), note=note, detail=detail or {}
    )
