"""Probes: texts and prompts for a model that is trained already, graded in one respect, each beside a control that differs in that respect alone.

1. A *probe* is a row of tokens, with an answer at its end or without. A *builder* makes all probes of one shift, from packages that
   are installed and whose versions are named, with the tokenizer of the model that will read them; the same config gives the same probes.
2. Probes have a level (0: as familiar or easy as it gets), a side (shift or control) and a row. In a *matched* set row k is the same
   material at every level and on both sides, so that levels and sides are compared row by row.
3. `frequency` says how often training is likely to have shown a probe, by a count made elsewhere: the fame of a fact, the mean Zipf frequency
   of the words of a text. It is NaN where nothing is known.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from sparsetrain.typed import Count

Side = Literal["shift", "control"]
SIDES: tuple[Side, ...] = ("shift", "control")
CodeKind = Literal["python", "javascript", "c", "css"]


class ProbeTokenizer(Protocol):
    """What is asked of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins here, with whatever the model expects in front of it."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One row of tokens.

    Args:
        tokens: at least two, with whatever the model expects in front.
        n_answer: how many of the last are the answer; 0: the text goes on by itself.
        level: place in `Probes.levels`.
        side: shift or control.
        row: what it is made of; probes of a matched set that share it belong together.
        frequency: see the module; NaN: not known.
    """

    tokens: tuple[int, ...]
    n_answer: int = 0
    level: int
    side: Side = "shift"
    row: int
    frequency: float = float("nan")


@dataclass(frozen=True, kw_only=True)
class Probes:
    """All probes of one shift.

    Args:
        shift: what a level counts, in words.
        control: what the control does instead; empty: there is none.
        levels: their names, from level 0 to the farthest.
        matched: whether every row is there at every level and on both sides (on the shift side alone without a control).
        probes: in a matched set ordered by side, level and row, so that a value per probe is `[n_sides, n_levels, n_rows]`, flat.
        rejected: why rows were left out -> how many.
        sources: package -> version, of all that the texts come from.
    """

    shift: str
    control: str = ""
    levels: tuple[str, ...]
    matched: bool = True
    probes: tuple[Probe, ...] = field(repr=False)
    rejected: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.matched:
            sides = SIDES if self.control else SIDES[:1]
            rows = sorted({probe.row for probe in self.probes})
            expected = [(side, level, row) for side in sides for level in range(len(self.levels)) for row in rows]
            assert [(probe.side, probe.level, probe.row) for probe in self.probes] == expected

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sides, levels and rows of a matched set."""
        assert self.matched
        n_sides = 2 if self.control else 1
        return n_sides, len(self.levels), len(self.probes) // (n_sides * len(self.levels))

    @property
    def n_tokens(self) -> int:
        return sum(len(probe.tokens) for probe in self.probes)

    @property
    def sha256(self) -> str:
        """Of all tokens and answers."""
        digest = sha256()
        for probe in self.probes:
            head = np.array([probe.n_answer, probe.level, probe.side == "shift", probe.row, len(probe.tokens)])
            digest.update(head.astype("<i8").tobytes() + np.array(probe.tokens).astype("<i8").tobytes())
        return digest.hexdigest()

    def frequencies(self) -> NDArray[np.float64]:
        """`[n_probes]`."""
        return np.array([probe.frequency for probe in self.probes])


@dataclass(frozen=True, kw_only=True)
class ProbesConfig:
    """How many probes are made, and how long. ours"""

    n_texts: Count = 100
    """Rows of each level of text."""
    n_prompts: Count = 64
    """Rows of each level of prompts, where there are as many."""
    n_tokens: Count = 64
    """Of each row of text."""
    n_split_tokens: Count = 128
    """The same of the four splits."""
    n_demonstrations: Count = 4
    """In front of a question."""
    noise: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
    """Shares of the letters that are exchanged for other letters."""
    order: tuple[int, ...] = (1, 2, 4, 16, 0)
    """Words are put in random order within pieces of so many; 0: of the whole text."""
    languages: tuple[str, ...] = ("en", "es", "de", "hu", "ru", "ja")
    """As Django names them, English first."""
    code: tuple[CodeKind, ...] = ("python", "javascript", "c", "css")
    """Python first."""
    digits: tuple[int, ...] = (1, 2, 3, 4)
    """Of both numbers of a sum."""
    steps: tuple[int, ...] = (2, 3, 4, 6)
    """Numbers of one digit that are added."""
    rules: tuple[str, ...] = ("upper_case", "first_letter", "plural", "past_tense")
    """Of in-context tasks, names of relations, as easy as they were judged beforehand."""
    choices: tuple[int, ...] = (2, 3, 4, 6, 8, 10)
    """Options of a question."""
    context: tuple[int, ...] = (0, 64, 256, 1024)
    """Tokens of text beside a question."""
    conflict: tuple[int, ...] = (0, 1, 2, 4)
    """Times that a statement stands in front of a question."""
    exchanged: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5)
    """Shares of the words that are exchanged for equally frequent ones."""
    seed: int = 0
    """Of all that is drawn."""

    def __post_init__(self) -> None:
        for key, shares in (("noise", self.noise), ("exchanged", self.exchanged)):
            if not shares or shares[0] != 0 or shares[-1] > 1 or any(a >= b for a, b in pairwise(shares)):
                raise ValueError(
                    f"{key}={list(shares)} must rise from 0, the text as it is, to at most 1; try [0, 0.1, 0.5]"
                )
        if not self.order or self.order[0] != 1 or min(self.order) < 0 or len(set(self.order)) < len(self.order):
            raise ValueError(
                f"order={list(self.order)} must be different numbers of words, 1 (the text as it is) first, 0 (the whole text) at most once; try [1, 4, 0]"
            )
        for key, names, first in (("languages", self.languages, "en"), ("code", self.code, "python")):
            if not names or names[0] != first or len(set(names)) < len(names):
                raise ValueError(f"{key}={list(names)} must be different ones, {first!r} first")
        if unknown := sorted(set(self.code) - set(get_args(CodeKind))):
            raise ValueError(
                f"code={list(self.code)}: no kind {unknown[0]!r}; choose of {', '.join(get_args(CodeKind))}"
            )


Builder = Callable[[ProbesConfig, ProbeTokenizer], Probes]
"""Raises ValueError where a package is not installed (naming the extra), or too few rows can be made."""
