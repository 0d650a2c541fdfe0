"""Words and letters exchanged for others, at rising shares: what is exchanged at one share is exchanged at every higher one, for the same.

Frequencies are Zipf frequencies (log10 of occurrences in a billion words) of the package wordfreq.
"""

import math
import re
from collections.abc import Sequence
from functools import cache
from string import ascii_lowercase
from types import ModuleType

import numpy as np

from sparsetrain.data.knowledge import needed
from sparsetrain.data.sources.document import digest

N_NEAREST = 8
"""Equally frequent words of which one is drawn: the nearest in frequency. ours"""
LONGEST = 12
"""Letters from which on words are of one class of length. ours"""
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_FREE = re.compile(r"(?<![\w.@/'-])[A-Za-z]{2,}(?![\w@/'-]|\.\w)")
"""A word that is no part of a name, an address or a compound."""


def mean_frequency(text: str) -> float:
    """Mean Zipf frequency of the English words of a text, 0 for words that wordfreq does not know; NaN without words, or without wordfreq."""
    try:
        package = needed("wordfreq")
    except ValueError:
        return math.nan
    words = _WORD.findall(text)
    return float(np.mean([_zipf(package, word.lower()) for word in words])) if words else math.nan


def exchange_letters(text: str, shares: Sequence[float], generator: np.random.Generator) -> list[str]:
    """The text at each share of its letters exchanged for random other letters of the same case."""
    places = [i for i, char in enumerate(text) if char.isascii() and char.isalpha()]
    order, steps = generator.permutation(places), generator.integers(1, 26, size=len(places))
    found: list[str] = []
    for share in shares:
        chars = list(text)
        n = round(share * len(places))
        for i, step in zip(order[:n].tolist(), steps[:n].tolist(), strict=True):
            first = ord("a" if text[i].islower() else "A")
            chars[i] = chr((ord(text[i]) - first + step) % 26 + first)
        found.append("".join(chars))
    return found


def exchange_words(text: str, shares: Sequence[float], generator: np.random.Generator) -> list[str]:
    """The text at each share of its words exchanged for equally frequent ones of the same length and capitals.

    Of the words of at least two letters that wordfreq knows. The new word is drawn of the `N_NEAREST` in frequency.

    Raises:
        ValueError: wordfreq is not installed.
    """
    package = needed("wordfreq")
    places = [(match, equals) for match in _FREE.finditer(text) if (equals := _equals(package, match[0].lower()))]
    drawn = [equals[generator.integers(len(equals))] for _, equals in places]
    order = generator.permutation(len(places)).tolist()
    found: list[str] = []
    for share in shares:
        words = {places[i][0].start(): drawn[i] for i in order[: round(share * len(places))]}
        found.append(_FREE.sub(lambda match, words=words: _as(match[0], words.get(match.start(), match[0])), text))
    return found


def random_letters(text: str, generator: np.random.Generator) -> str:
    """Small letters drawn at random, in words as long as those of the text."""
    words = [generator.choice(list(ascii_lowercase), size=len(word)) for word in text.split()]
    return " ".join("".join(word) for word in words)


def _as(old: str, new: str) -> str:
    """A word with the capitals of another one."""
    if new == old:
        return new
    return new.upper() if old.isupper() else new.capitalize() if old[0].isupper() else new


@cache
def _frequencies(package: ModuleType) -> dict[str, float]:
    return {word: share for word, share in package.get_frequency_dict("en").items() if word.isascii()}


@cache
def _zipf(package: ModuleType, word: str) -> float:
    share = _frequencies(package).get(word, 0.0)
    return round(math.log10(share) + 9, 2) if share else 0.0


@cache
def _classes(package: ModuleType) -> dict[int, tuple[list[str], dict[str, int]]]:
    """Length class -> its words by frequency, in no order of their own where that is equal, and the place of each."""
    found: dict[int, list[str]] = {}
    for word in sorted(_frequencies(package), key=lambda word: (_zipf(package, word), digest(word))):
        if word.isalpha():
            found.setdefault(min(len(word), LONGEST), []).append(word)
    return {n: (words, {word: i for i, word in enumerate(words)}) for n, words in found.items()}


@cache
def _equals(package: ModuleType, word: str) -> tuple[str, ...]:
    """The nearest other words in frequency, of the same length class; none for a word that is not known."""
    words, places = _classes(package).get(min(len(word), LONGEST), ([], {}))
    if word not in places:
        return ()
    place, mine = places[word], _zipf(package, word)
    near = [*words[max(0, place - N_NEAREST) : place], *words[place + 1 : place + 1 + N_NEAREST]]
    return tuple(sorted(near, key=lambda other: (abs(_zipf(package, other) - mine), digest(other)))[:N_NEAREST])
