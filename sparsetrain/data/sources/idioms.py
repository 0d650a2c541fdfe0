"""Simple, repetitive Python of the kind that language models write, from a seed.

1. A family is one idiom: a template of a few lines (a loop that collects into a set, a class whose `__init__` copies its
   arguments, a file opened for reading, ...) with names, literals, quotes and nesting drawn at random. Families and words
   stand in `idioms.txt`, in the language of `grammar.py`.
2. A document is a short module: optional imports, then a few families; function families fill their bodies with
   statement families. Each document has its own small pool of names, so that names recur within it.
3. Document i depends on (seed, i) alone. Every document parses.

Both kinds of quotes are equally likely for every single string, brackets nest one to three deep on one line and over
several, and a name never tells what type it holds: whoever predicts the next token has to look at the context.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

from sparsetrain.data.reading import Document, Skip
from sparsetrain.data.sources.grammar import Grammar, RuleWriter
from sparsetrain.typed import Count, Weight

NAMES = ("var", "many", "objects", "nouns")
"""Words of a document: names of anything, of what can be looped over, of what has attributes, and the nouns of them all."""


@dataclass(frozen=True, kw_only=True)
class IdiomsSource:
    """Generated Python idioms."""

    kind: Literal["idioms"] = "idioms"
    weight: Weight = 1.0  # share of the rows of a batch, relative to the other sources
    n_chars: Count = 8_000_000  # how much to generate; the last document may go beyond
    seed: int = 0  # another seed, other documents
    synthetic: Literal[True] = True  # reported with every number that depends on it

    def read(self) -> Iterator[Document | Skip]:
        """Yields modules until there are `n_chars` characters."""
        n_chars = 0
        for i in count():
            if n_chars >= self.n_chars:
                return
            text = write_module(random.Random(f"{self.seed}/{i}"))
            n_chars += len(text)
            yield Document(f"idiom_{self.seed}_{i}.py", text)

    def fingerprint(self) -> Any:
        return [self.kind, self.n_chars, self.seed]


def write_module(rng: random.Random) -> str:
    """One short module of valid Python."""
    g = Writer(rng)
    lines: list[str] = []
    if g.chance(0.12):
        lines.append(g.write("docstring"))
    if g.chance(0.25):
        lines += [g.write("imports"), ""]
    for _ in range(g.integer(2, 6)):
        if g.chance(0.5):
            if lines and lines[-1]:
                lines += ["", ""]
            lines += [g.write(g.pick(_DEFINITIONS)), "", ""]
        else:
            lines.append(g.statement())
            if g.chance(0.3):
                lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


class Writer(RuleWriter):
    """Draws names, phrases and statements; each document has its own."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(GRAMMAR, rng)
        nouns = rng.sample(GRAMMAR.words["NOUNS"], 14)
        self.singular = {_plural(noun): noun for noun in nouns[:5]}
        names = [self.pick(self.words["LETTERS"]), self.pick(self.words["HOLDERS"])]
        names.append(f"{self.pick(self.words['ADJECTIVES'])}_{nouns[10]}")
        words = (nouns[5:10] + names, list(self.singular), nouns[10:], nouns)
        self.words.update(zip(NAMES, words, strict=True))

    def one_of(self, many: str) -> str:
        """The singular of a name of many."""
        return self.singular[many]

    def one(self, many: str, taken: str = "") -> str:
        """A loop variable for the elements of `many`, other than one that is taken."""
        if self.chance(0.5):
            one = self.singular[many]
        else:
            one = self.pick(self.words["LETTERS" if self.chance(0.4) else "NOUNS"])
        return self.pick(self.words["NOUNS"]) if one == taken else one

    def two(self, options: Sequence[str]) -> list[str]:
        """Two different names."""
        return [*self.some(options, 2), "other"][:2]

    def pair(self) -> tuple[str, str]:
        """Two different nouns."""
        first, second = self.pick(self.words["NOUNS"]), self.pick(self.words["NOUNS"])
        return first, second if first != second else f"other_{second}"

    def class_name(self) -> str:
        name = self.pick(self.words["nouns"]).title().replace("_", "")
        return self.pick(self.words["ADJECTIVES"]).title() + name if self.chance(0.35) else name

    def phrase(self, low: int, high: int) -> str:
        """A few lower-case words."""
        n = self.integer(low, high)
        words = [self.pick(self.words["ADJECTIVES" if self.chance(0.4) else "NOUNS"]) for _ in range(n)]
        if len(words) > 2 and self.chance(0.3):
            words[0] = self.pick(self.words["VERBS"])
            words[1] = self.pick(("the", "all", "a", "each", "this", "no"))
        return " ".join(words).replace("_", " ")

    def statement(self) -> str:
        """One statement family, sometimes behind a comment."""
        text = self.write(self.pick(_STATEMENTS))
        return f"{self.write('comment')}\n{text}" if self.chance(0.06) else text

    def arguments(self, low: int, high: int) -> list[str]:
        pool = "nouns" if self.chance(0.5) else "NOUNS" if self.chance(0.8) else "LETTERS"
        return self.some(self.words[pool], low, high)

    def with_none(self, arguments: Sequence[str]) -> list[str]:
        """All arguments but the first with None as their default."""
        return [*arguments[:1], *(f"{name}=None" for name in arguments[1:])]

    def defaults(self, arguments: Sequence[str]) -> list[str]:
        """Most functions have no defaults; where one argument has one, so have all behind it."""
        if self.chance(0.6) or len(arguments) < 2:
            return list(arguments)
        first = 1 if self.chance(0.75) else self.integer(0, len(arguments) - 1)
        none = self.chance(0.7)
        values = ["None" if none or self.chance(0.4) else self.write("literal") for _ in arguments[first:]]
        return [*arguments[:first], *map("=".join, zip(arguments[first:], values, strict=True))]

    def result(self, arguments: Sequence[str] = ()) -> str:
        """A return statement, mostly of the arguments."""
        name = self.pick(arguments or self.words["var"])
        u = self.random()
        if u < 0.35:
            return f"return {name}"
        if u < 0.6 and len(arguments) > 1:
            return f"return {arguments[0]} {self.pick(self.words['SIGNS'])} {arguments[1]}"
        if u < 0.75:
            return f"return {self.pick(('True', 'False', 'None'))}"
        return f"return {self.pick(self.words['var'])}" if u < 0.9 else f"return {self.write('function')}({name})"

    def init(self, arguments: Sequence[str]) -> str:
        """Mostly each argument under its own name, sometimes in another order, with a leading _ or with extra fields."""
        head = f"def __init__(self, {', '.join(self.defaults(arguments))}):"
        order = arguments if self.chance(0.6) else sorted(arguments, key=lambda _: self.random())
        mark = "_" if self.chance(0.07) else ""
        lines = [f"    self.{mark}{name} = {name}" for name in order]
        if self.chance(0.3):
            lines.insert(self.integer(0, len(lines)), f"    {self.write('extra_field')}")
        return "\n".join([head, *lines])


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeou" else f"{noun}s"


GRAMMAR = Grammar(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"), [*dir(Writer), *NAMES])

STATEMENTS = GRAMMAR.weights["statements"]
"""Families that may stand anywhere, with their relative frequency."""

DEFINITIONS = GRAMMAR.weights["definitions"]
"""Families of functions and classes, which stand at the top level, with their relative frequency."""

_STATEMENTS = [family for family, times in STATEMENTS.items() for _ in range(times)]
_DEFINITIONS = [family for family, times in DEFINITIONS.items() for _ in range(times)]
