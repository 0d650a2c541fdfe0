"""Prompts at equal form about what training has seen often, now and then, and seldom or never.

| set           | a subject           | how often it was seen, stood in for by              | level                  |
|---------------|---------------------|-----------------------------------------------------|------------------------|
| `countries`   | a country           | log10 of its population                             | third of all           |
| `elements`    | a chemical element  | Zipf frequency of its name                          | third of all           |
| `words`       | a noun              | its Zipf frequency                                  | third of as long ones  |
| `identifiers` | a name of two words | log10 of 1 + modules of the library that it is in   | third of as long ones  |

1. A subject stands in every template of its set; what is read is the token behind it, which is the same for all subjects of a template, and so
   is all that stands in front. Probes of a subject share their row. The answer is a fact, or a word that is the same for all.
2. Length is counted in tokens over all templates. Where subjects are many, as many of each length are taken at every level, spread
   evenly over their frequencies; countries and elements are taken as they are.
3. Identifiers are two words joined by an underscore. Those never seen are joined of words of those that are there, in a pair that stands
   nowhere in the library.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from platform import python_version
from random import Random

from sparsetrain.data.knowledge import facts_of, versions
from sparsetrain.data.probes import Builder, Probe, Probes, ProbesConfig, ProbeTokenizer
from sparsetrain.data.probes.prompts import Prompt, drawn, tokens_of
from sparsetrain.data.reading import Document
from sparsetrain.data.sources.stdlib import StdlibSource

LEVELS = ("often", "now and then", "seldom")
LEAST = 2
"""Subjects of each level below which no set is made: fewer have no interval."""
COMMON = 10
"""Names of the library that a word must be part of. ours"""
N_TRIED = 200
"""Pairs that are drawn for each name that is made up, at most. ours"""
ANY = "a"
"""Something in front of what stands behind a subject."""
CAPITALS = (
    "The capital of {} is",
    "The capital city of {} is",
    "As is well known, the capital of {} is",
)
SYMBOLS = (
    "The chemical symbol of {} is",
    "The symbol of the element {} is",
    "In chemistry, the symbol of {} is",
)
NOUNS = ("He wrote about the {} and", "She thought of the {} and", "They talked about the {} and")
NAMES = ("        return {} if", "    value = {} if", "        self.value = {} if")
_JOINED = re.compile(r"\b[a-z]{2,}(?:_[a-z]{2,})+\b")


@dataclass(frozen=True, kw_only=True)
class Familiar:
    """A subject, with how often training is likely to have shown it."""

    name: str
    frequency: float
    answer: str
    """With the blank in front of it."""


Written = tuple[tuple[tuple[int, ...], int], ...]
"""Of each template: tokens, and how many of them are the answer."""


@dataclass(frozen=True, kw_only=True)
class _Form:
    """Writes subjects into templates, and counts those that cannot be."""

    tokenizer: ProbeTokenizer
    templates: Sequence[str]
    rejected: Counter[str] = field(default_factory=Counter[str])

    def write(self, subject: Familiar) -> Written | None:
        """None: a token in front of the subject or behind it is not that of other subjects."""
        found: list[tuple[tuple[int, ...], int]] = []
        for template in self.templates:
            written = tokens_of(self.tokenizer, Prompt(before=template.format(subject.name), answer=subject.answer))
            if written is None:
                self.rejected["the answer does not begin with a token of its own"] += 1
                return None
            found.append(written)
            before, behind = self._around(template)
            asked = written[0][: len(written[0]) - written[1]]
            if asked[: len(before)] != before or asked[-len(behind) :] != behind:
                self.rejected["a token is part of the subject and of what stands around it"] += 1
                return None
        return tuple(found)

    def length(self, subject: Familiar) -> int:
        """Tokens in front of the answer, over all templates."""
        return sum(len(self.tokenizer.encode(template.format(subject.name))) for template in self.templates)

    def _around(self, template: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, _, behind = template.partition(" {}")
        n_any = len(self.tokenizer.encode(ANY))  # a text that begins with a blank may be split in another way
        return tuple(self.tokenizer.encode(before)), tuple(self.tokenizer.encode(ANY + behind)[n_any:])


def countries(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Capitals of countries of many people and of few."""
    return _of_facts("capital", CAPITALS, "thirds of countries, those of most people first", config, tokenizer)


def elements(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Symbols of elements that are often and seldom written about."""
    return _of_facts("symbol", SYMBOLS, "thirds of elements, the most frequent names first", config, tokenizer)


def _of_facts(
    relation: str, templates: Sequence[str], shift: str, config: ProbesConfig, tokenizer: ProbeTokenizer
) -> Probes:
    form = _Form(tokenizer=tokenizer, templates=templates)
    subjects = [Familiar(name=f.subject, frequency=f.fame, answer=f" {f.answer}") for f in facts_of(relation)]
    written = [(subject, tokens) for subject in subjects if (tokens := form.write(subject)) is not None]
    n = len(LEVELS) * min(config.n_prompts, len(written) // len(LEVELS))
    kept = [written[i * len(written) // n] for i in range(n)]
    levels = [[(s, t, i * len(LEVELS) // n) for i, (s, t) in enumerate(kept)]]
    return _probes(levels, shift, form, config, versions([relation]))


def words(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Nouns that are written often and seldom."""
    form = _Form(tokenizer=tokenizer, templates=NOUNS)
    nouns = [Familiar(name=f.subject, frequency=f.fame, answer=" the") for f in facts_of("plural")]
    by_length = _by_length(nouns, form)
    levels = [
        [(s, t, i * len(LEVELS) // n) for i, (s, t) in enumerate(_even(some, n))]
        for some, per_level in zip(by_length, _shares(by_length, config.n_prompts), strict=True)
        if (n := len(LEVELS) * per_level)
    ]
    shift = "nouns by frequency, thirds of those of equally many tokens"
    return _probes(levels, shift, form, config, versions(["plural"]))


def identifiers(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Names of two words that the standard library has often, seldom, and never."""
    form = _Form(tokenizer=tokenizer, templates=NAMES)
    n_modules, together = library_names()
    n_parts = Counter(part for name in n_modules for part in name.split("_"))
    known = [
        Familiar(name=name, frequency=math.log10(1 + n), answer=" not")
        for name, n in sorted(n_modules.items(), key=lambda item: (-item[1], item[0]))
        if min(n_parts[part] for part in name.split("_")) >= COMMON
    ]
    by_length = _by_length(known, form)
    levels: list[list[tuple[Familiar, Written, int]]] = []
    for some, per_level in zip(by_length, _shares(by_length, config.n_prompts), strict=True):
        real = _even(some, 2 * per_level)
        made_up = _made_up(real, per_level, together, form, drawn(config, "identifiers", len(levels)))
        n = len(made_up)  # as many of each level, also where too few can be made up
        if n:
            of_real = [real[i] for i in (*range(n), *range(2 * per_level - n, 2 * per_level))]
            levels.append([(s, t, i // n) for i, (s, t) in enumerate([*of_real, *made_up])])
    shift = "names of two words by the modules of the library that have them, the last in none; as many of each length in tokens"
    return _probes(levels, shift, form, config, {"python": python_version()}, ("often", "seldom", "never"))


@cache
def library_names() -> tuple[Mapping[str, int], frozenset[tuple[str, str]]]:
    """Names of two words -> modules of the standard library that they stand in; all pairs of words that are joined anywhere."""
    n_modules: Counter[str] = Counter()
    together: set[tuple[str, str]] = set()
    for document in StdlibSource().read():
        if isinstance(document, Document):
            for name in set(_JOINED.findall(document.text)):
                parts = name.split("_")
                together.update(pairwise(parts))
                if len(parts) == 2:
                    n_modules[name] += 1
    return n_modules, frozenset(together)


def _made_up(
    real: Sequence[tuple[Familiar, Written]], n: int, together: frozenset[tuple[str, str]], form: _Form, rng: Random
) -> list[tuple[Familiar, Written]]:
    """Names of words of the real ones, as long as those in tokens."""
    firsts, seconds = zip(*(subject.name.split("_") for subject, _ in real), strict=True) if real else ((), ())
    found: dict[str, tuple[Familiar, Written]] = {}
    for _ in range(N_TRIED * n if real else 0):
        if len(found) == n:
            break
        first, second = rng.choice(firsts), rng.choice(seconds)
        made = Familiar(name=f"{first}_{second}", frequency=0.0, answer=" not")
        is_new = first != second and (first, second) not in together and made.name not in found
        if is_new and form.length(made) == form.length(real[0][0]) and (written := form.write(made)) is not None:
            found[made.name] = (made, written)
    return list(found.values())


def _by_length(subjects: Sequence[Familiar], form: _Form) -> list[list[tuple[Familiar, Written]]]:
    """Subjects of each length in tokens that can be written, shortest first, in their order."""
    found: dict[int, list[tuple[Familiar, Written]]] = {}
    for subject in subjects:
        if (written := form.write(subject)) is not None:
            found.setdefault(form.length(subject), []).append((subject, written))
    return [found[length] for length in sorted(found)]


def _shares(by_length: Sequence[Sequence[object]], per_level: int) -> list[int]:
    """How many of each length are taken at a level: in proportion to what there is."""
    total = sum(map(len, by_length))
    return [min(len(some) // len(LEVELS), round(per_level * len(some) / total)) for some in by_length]


def _even(ordered: Sequence[tuple[Familiar, Written]], n: int) -> list[tuple[Familiar, Written]]:
    """So many at distances in frequency that are as even as they come, the most frequent first."""
    high, low = ordered[0][0].frequency, ordered[-1][0].frequency
    found: list[tuple[Familiar, Written]] = []
    start = 0
    for i in range(n):
        target = high + (low - high) * i / max(1, n - 1)
        last = len(ordered) - (n - i)  # enough must be left
        place = min(range(start, last + 1), key=lambda k: abs(ordered[k][0].frequency - target))
        found.append(ordered[place])
        start = place + 1
    return found


def _probes(
    levels: Sequence[Sequence[tuple[Familiar, Written, int]]],
    shift: str,
    form: _Form,
    config: ProbesConfig,
    sources: Mapping[str, str],
    names: tuple[str, ...] = LEVELS,
) -> Probes:
    """A set of subjects with their levels; those of one length after the other."""
    subjects = [subject for of_length in levels for subject in of_length]
    n_level = Counter(level for *_, level in subjects)
    if min(n_level[level] for level in range(len(names))) < LEAST:
        raise ValueError(
            f"n_prompts={config.n_prompts}: only {len(subjects)} subjects of {shift!r} can be written with this tokenizer "
            f"({dict(form.rejected) or 'no more material'}), and {LEAST} of each level are needed; raise n_prompts or leave the set out"
        )
    return Probes(
        shift=shift,
        levels=names,
        matched=False,
        probes=tuple(
            Probe(tokens=tokens, n_answer=n_answer, level=level, row=row, frequency=subject.frequency)
            for row, (subject, written, level) in enumerate(subjects)
            for tokens, n_answer in written
        ),
        rejected=dict(form.rejected),
        sources=sources,
    )


FAMILIAR: Mapping[str, Builder] = {
    "countries": countries,
    "elements": elements,
    "words": words,
    "identifiers": identifiers,
}
"""By name, in the order of the page."""
