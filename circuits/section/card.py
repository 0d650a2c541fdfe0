"""The report card of a circuit: a row per criterion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sparsetrain.stats.number import Number
from sparsetrain.typed import Json

CardVerdict = Literal["pass", "fail", "not enough data"]


Sense = Literal["at least", "at most"]


Role = Literal["verdict", "further"]
"""Whether a criterion decides on the card or is a further measurement."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a measured value is compared with."""

    sense: Sense
    value: float


@dataclass(frozen=True, kw_only=True)
class CardEntry:
    """One criterion of a report card (`scripts/find_circuits.py card=quick`); the card passes where all of the role `verdict` do."""

    name: str
    group: str
    question: str
    role: Role
    value: Number
    threshold: Threshold
    verdict: CardVerdict
    detail: Mapping[str, Json]


def card_verdict(entries: Sequence[CardEntry]) -> CardVerdict:
    """The card as a whole: fail if any criterion that decides fails, else not enough data if any lacks it, else pass."""
    verdicts = {entry.verdict for entry in entries if entry.role == "verdict"}
    return "fail" if "fail" in verdicts else "not enough data" if "not enough data" in verdicts else "pass"
