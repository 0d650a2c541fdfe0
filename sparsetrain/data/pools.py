"""The names that prompts are made of, dealt to four disjoint splits.

Every list of `pools.txt` is ordered roughly by how often the name occurs in Python code or in children's stories, and dealt like cards
(first name to train, second to val, ...), so that the splits are equally familiar to a model. A circuit that works on
heldout pairs has therefore never been fitted on any of their identifiers. Names that are part of a task's definition
(`self`, `range`, `input`, `current`) are not drawn from here.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from sparsetrain.data.sources.grammar import Grammar

Split = Literal["train", "val", "heldout", "shifted"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The names of one split. No name occurs in two splits or in two lists."""

    split: Split
    variables: tuple[str, ...]
    functions: tuple[str, ...]
    collections: tuple[str, ...]
    counters: tuple[str, ...]
    paths: tuple[str, ...]
    handles: tuple[str, ...]
    suffixes: tuple[str, ...]
    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    boys: tuple[str, ...]
    girls: tuple[str, ...]
    places: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of the split."""
        return tuple(name for field in fields(self) if field.name != "split" for name in getattr(self, field.name))

    @property
    def shifted(self) -> bool:
        """Whether prompts also vary their surface form: more distractors, longer or nested context."""
        return self.split == "shifted"


_DECKS = Grammar(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"), ()).words


def pool(split: Split) -> Pool:
    """The names of one split.

    Raises:
        ValueError: on an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    deal = SPLITS.index(split)
    cards = {name: tuple(word.replace("_", " ") for word in deck) for name, deck in _DECKS.items()}
    return Pool(split=split, **{name: deck[deal :: len(SPLITS)] for name, deck in cards.items()})
