"""What a pretrained model may know: facts and words from packages of the registry, each with how well known it is.

1. A *relation* maps subjects to answers: countries to capitals, elements to symbols, verbs to past tenses. Its file says which package
   (extra `probes`) it rests on; versions go into a report with the facts, for another version says other things.
2. `fame` grades the strength of what a model has learned without asking it: log10 of a country's population, or the Zipf frequency of a
   word (log10 of its occurrences in a billion words, as `wordfreq` has it).
3. Facts are in an order of their own, by fame and then by name: nothing is drawn here.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A subject of a relation and its answer."""

    relation: str
    subject: str
    answer: str
    fame: float


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A relation by name.

    Args:
        name: as it is chosen by.
        subject: what its subjects are, for prompts: "Country".
        answer: what its answers are: "Capital".
        fame: what its facts are graded by, in words.
        packages: that it rests on.
        facts: all of them, best known first.
    """

    name: str
    subject: str
    answer: str
    fame: str
    packages: tuple[str, ...]
    facts: Callable[[], Sequence[Fact]]


RELATIONS: dict[str, Relation] = {}
"""Every relation, by name; filled by the files of this folder."""


def relation(
    subject: str, answer: str, fame: str, packages: Sequence[str]
) -> Callable[[Callable[[], list[Fact]]], Callable[[], list[Fact]]]:
    """Enters a function that lists facts into `RELATIONS` under its own name."""

    def enter(facts: Callable[[], list[Fact]]) -> Callable[[], list[Fact]]:
        def ordered() -> Sequence[Fact]:
            return sorted(facts(), key=lambda fact: (-fact.fame, fact.subject))

        name = facts.__name__
        RELATIONS[name] = Relation(
            name=name, subject=subject, answer=answer, fame=fame, packages=tuple(packages), facts=ordered
        )
        return facts

    return enter


def needed(package: str) -> ModuleType:
    """A package of the extra `probes`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(
            f"{package} is not installed, and what is asked for comes from it; pip install 'sparsetrain[probes]'"
        ) from None


def versions(relations: Sequence[str]) -> dict[str, str]:
    """Package -> version, of all that the relations rest on."""
    packages = sorted({package for name in relations for package in RELATIONS[name].packages})
    return {package: version(package) for package in packages}


def facts_of(name: str) -> Sequence[Fact]:
    """The facts of a relation, best known first.

    Raises:
        ValueError: no such relation, or its package is not installed.
    """
    if name not in RELATIONS:
        raise ValueError(f"no relation {name!r}; there are {', '.join(RELATIONS)}")
    return RELATIONS[name].facts()


def _enter_all() -> None:
    for file in ("geography", "elements", "words"):
        importlib.import_module(f"{__name__}.{file}")


_enter_all()
