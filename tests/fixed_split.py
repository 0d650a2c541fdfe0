"""A split of given tokens, for what measures splits."""

from dataclasses import dataclass
from typing import Any


@dataclass
class FixedSplit:
    """`tokens` is int64 `[n, length]`; level 0 is the training distribution."""

    name: str
    level: int
    tokens: Any
    description: str = ""
