"""Shifts of text: rows of exactly `n_tokens` tokens without an answer.

| builder     | levels                                                       | control                                          |
|-------------|--------------------------------------------------------------|--------------------------------------------------|
| `splits`    | code, prose, its words shuffled, random letters              | the tokens of each row in random order           |
| `noise`     | shares of letters exchanged for others                       | the same                                         |
| `order`     | words in random order within pieces of so many               | text without any order, permuted in such pieces  |
| `languages` | the same messages in one language after the other            | the tokens of each row in random order           |
| `code`      | languages of programs                                        | the same                                         |
| `natural`   | kinds of natural text, to draw texts of equal loss from      | none                                             |
| `licences`  | licences at shares of words exchanged for as frequent ones   | package descriptions, exchanged likewise         |

1. Every random number is a function of the seed, the builder, what is drawn and the row.
2. A row's first token, with whatever the model expects in front of it, stays in its place wherever tokens are put in random order, and so does the first word where words are.
3. Rows of code of two languages, and of code and prose, have nothing in common but their number and length.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from sparsetrain.data.probes import Builder, Probe, Probes, ProbesConfig, ProbeTokenizer, Side
from sparsetrain.data.probes.exchange import exchange_letters, exchange_words, mean_frequency, random_letters
from sparsetrain.data.probes.messages import deal, messages
from sparsetrain.data.probes.texts import generator, pieces_of, version_of

Tokens = tuple[int, ...]
PERMUTED = "the same tokens in random order, the first in its place"


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One material: its tokens at one or several levels, all of one length."""

    packages: tuple[str, ...]
    levels: tuple[Tokens, ...]


def splits(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Code, prose, the prose with its words shuffled, random letters."""
    rows = _Rows("splits", replace(config, n_tokens=config.n_split_tokens), tokenizer)

    def of_prose(text: str, drawn: np.random.Generator) -> list[Tokens]:
        prose = rows.crop(text)
        return [prose, rows.in_pieces(prose, 0, drawn), rows.crop(random_letters(text, drawn))]

    code = rows.of_kind("python")
    prose = rows.of_kind("prose", of_prose)
    material = rows.beside(code, prose)
    return rows.probes(
        material,
        rows.permuted(material),
        shift="code, prose, shuffled words, random letters",
        control=PERMUTED,
        levels=("code", "prose", "shuffled words", "random letters"),
    )


def noise(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Prose with letters exchanged for others."""
    rows = _Rows("noise", config, tokenizer)
    material = rows.of_kind(
        "prose", lambda text, drawn: [rows.crop(noisy) for noisy in exchange_letters(text, config.noise, drawn)]
    )
    return rows.probes(
        material,
        rows.permuted(material),
        shift="share of letters exchanged for random others",
        control=PERMUTED,
        levels=tuple(f"{share:g}" for share in config.noise),
    )


def order(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Prose with words in random order within pieces."""
    rows = _Rows("order", config, tokenizer)
    material = rows.of_kind(
        "prose", lambda text, drawn: [rows.in_pieces(rows.crop(text), n, drawn) for n in config.order]
    )
    controls: list[_Row] = []
    for number, row in enumerate(material):
        drawn = rows.generator("control", number)
        without = rows.in_pieces(row.levels[0], 0, drawn)
        again = tuple(rows.in_pieces(without, n, drawn) for n in config.order)
        controls.append(_Row(packages=row.packages, levels=again))
    return rows.probes(
        material,
        controls,
        shift="words in random order within pieces of so many",
        control="the text with all its words in random order, put in random order again within such pieces",
        levels=tuple(str(n) if n else "all" for n in config.order),
    )


def languages(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """The same messages in several languages."""
    rows = _Rows("languages", config, tokenizer)
    material = rows.of_messages()
    return rows.probes(
        material,
        rows.permuted(material),
        shift="language of the same messages",
        control=PERMUTED,
        levels=config.languages,
        english=(0,),
    )


def code(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Code in several languages."""
    rows = _Rows("code", config, tokenizer)
    material = rows.beside(*map(rows.of_kind, config.code))
    return rows.probes(
        material, rows.permuted(material), shift="language of code", control=PERMUTED, levels=config.code
    )


def natural(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Every kind of natural text."""
    rows = _Rows("natural", config, tokenizer)
    kinds = (*config.code, "prose")
    material = rows.beside(*map(rows.of_kind, kinds), rows.of_messages())
    return rows.probes(
        material,
        None,
        shift="kind of natural text",
        levels=(*kinds, *config.languages),
        english=range(len(kinds) + 1),
    )


def licences(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Licences, and package descriptions, with words exchanged for equally frequent ones."""
    rows = _Rows("licences", config, tokenizer)

    def exchanged(text: str, drawn: np.random.Generator) -> list[Tokens]:
        return [rows.crop(changed) for changed in exchange_words(text, config.exchanged, drawn)]

    return rows.probes(
        rows.of_kind("licences", exchanged),
        rows.of_kind("prose", exchanged),
        shift="share of the words of a licence exchanged for equally frequent ones",
        control="the same in package descriptions",
        levels=tuple(f"{share:g}" for share in config.exchanged),
        packages=("wordfreq",),
    )


TEXTS: dict[str, Builder] = {
    "splits": splits,
    "noise": noise,
    "order": order,
    "languages": languages,
    "code": code,
    "natural": natural,
    "licences": licences,
}
"""Every shift of text, by name."""


class _Rows:
    """Makes the rows of one builder, and counts those that are left out."""

    def __init__(self, name: str, config: ProbesConfig, tokenizer: ProbeTokenizer) -> None:
        self.name, self.config, self.tokenizer = name, config, tokenizer
        self.rejected: Counter[str] = Counter()

    def generator(self, what: str, row: int) -> np.random.Generator:
        return generator(self.config.seed, self.name, what, row)

    def crop(self, text: str) -> Tokens:
        """The first tokens of a text, at most as many as a row has."""
        return tuple(self.tokenizer.encode(text)[: self.config.n_tokens])

    def of_kind(
        self, kind: str, make: Callable[[str, np.random.Generator], Sequence[Tokens]] | None = None
    ) -> list[_Row]:
        """Rows of the pieces of a kind; `make` gives the levels of each, without it there is one."""

        def candidates() -> Iterator[_Row]:
            pieces = pieces_of(kind, self.config.seed, self.config.n_tokens)
            for number, piece in enumerate(pieces):
                levels = make(piece.text, self.generator(kind, number)) if make else [self.crop(piece.text)]
                yield _Row(packages=(piece.package,), levels=tuple(levels))

        return self._accepted(candidates(), kind)

    def of_messages(self) -> list[_Row]:
        """Rows of messages, the same in every language; every message is in about as many."""
        texts = messages(self.config.languages)

        def levels(hand: Sequence[int]) -> list[Tokens]:
            return [self.crop("\n".join(texts[i][language] for i in hand)) for language in self.config.languages]

        def is_enough(hand: Sequence[int]) -> bool:
            return bool(hand) and min(map(len, levels(hand))) == self.config.n_tokens

        hands = deal(len(texts), is_enough, self.config.seed)
        return self._accepted((_Row(packages=("django",), levels=tuple(levels(hand))) for hand in hands), "messages")

    def _accepted(self, candidates: Iterable[_Row], kind: str) -> list[_Row]:
        accepted = list(islice((row for row in candidates if self._accepts(row)), self.config.n_texts))
        if len(accepted) < self.config.n_texts:
            raise ValueError(
                f"n_texts={self.config.n_texts}, but there are only {len(accepted)} rows of {kind} for {self.name}; "
                f"lower n_texts or the {self.config.n_tokens} tokens of a row (n_tokens, of splits n_split_tokens), or install more packages"
            )
        return accepted

    def _accepts(self, row: _Row) -> bool:
        special = self.tokenizer.special_ids
        if min(map(len, row.levels)) < self.config.n_tokens:
            self.rejected[f"fewer than {self.config.n_tokens} tokens"] += 1
        elif any(token in special for tokens in row.levels for token in tokens[self._n_front(tokens) :]):
            self.rejected["tokens that stand for no text"] += 1
        else:
            return True
        return False

    def _n_front(self, tokens: Tokens) -> int:
        """How many tokens are in front of the text."""
        special = self.tokenizer.special_ids
        return next((i for i, token in enumerate(tokens) if token not in special), len(tokens))

    def in_pieces(self, tokens: Tokens, n_words: int, drawn: np.random.Generator) -> Tokens:
        """The words behind the first in random order within pieces of so many (0: of all), each with its tokens and the blank in front of it."""
        words = self._words(tokens)
        size = n_words or len(words)
        found = words[:1]
        for start in range(1, len(words), size):
            piece = words[start : start + size]
            found += [piece[i] for i in drawn.permutation(len(piece))]
        return tuple(token for word in found for token in word)

    def _words(self, tokens: Tokens) -> list[Tokens]:
        """Tokens by words; what is in front belongs to the first."""
        front = self._n_front(tokens)
        starts = [0]
        before = len(self.tokenizer.decode(tokens[front : front + 1]))
        for i in range(front + 1, len(tokens)):
            text = self.tokenizer.decode(tokens[front : i + 1])
            if text[before : before + 1].isspace():
                starts.append(i)
            before = len(text)
        return [tokens[start:end] for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True)]

    def permuted(self, material: Sequence[_Row]) -> list[_Row]:
        """The tokens of each row in random order, in the same one at every level."""
        found: list[_Row] = []
        for number, row in enumerate(material):
            stays = max(1, self._n_front(row.levels[0]))
            places = stays + self.generator("control", number).permutation(self.config.n_tokens - stays)
            levels = tuple((*tokens[:stays], *(tokens[i] for i in places)) for tokens in row.levels)
            found.append(_Row(packages=row.packages, levels=levels))
        return found

    @staticmethod
    def beside(*materials: Sequence[_Row]) -> list[_Row]:
        """Rows of several materials side by side, the levels of one behind those of the other."""
        return [
            _Row(
                packages=tuple(package for row in rows for package in row.packages),
                levels=tuple(tokens for row in rows for tokens in row.levels),
            )
            for rows in zip(*materials, strict=True)
        ]

    def probes(
        self,
        material: Sequence[_Row],
        controls: Sequence[_Row] | None,
        *,
        shift: str,
        control: str = "",
        levels: tuple[str, ...],
        english: Iterable[int] | None = None,
        packages: Iterable[str] = (),
    ) -> Probes:
        """Puts rows in order.

        Args:
            material: rows of all levels.
            controls: rows of all levels.
            shift: as they are called in `Probes`.
            control: as they are called in `Probes`.
            levels: as they are called in `Probes`.
            english: levels whose words are counted by their English frequency; None: all.
            packages: that changed the texts.
        """
        counted = range(len(levels)) if english is None else english
        sides: list[tuple[Side, Sequence[_Row]]] = [("shift", material)]
        if controls is not None:
            sides.append(("control", controls))
        used = sorted({package for _, rows in sides for row in rows for package in row.packages} | {*packages})
        return Probes(
            shift=shift,
            control=control,
            levels=levels,
            probes=tuple(
                Probe(
                    tokens=row.levels[level],
                    level=level,
                    side=side,
                    row=number,
                    frequency=self._frequency(row.levels[level]) if level in counted else float("nan"),
                )
                for side, rows in sides
                for level in range(len(levels))
                for number, row in enumerate(rows)
            ),
            rejected=dict(self.rejected),
            sources={package: version_of(package) for package in used},
        )

    def _frequency(self, tokens: Tokens) -> float:
        return mean_frequency(self.tokenizer.decode(tokens[self._n_front(tokens) :]))
