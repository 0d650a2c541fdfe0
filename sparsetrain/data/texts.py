"""A user's own text files as splits, read by `data.reading`: rows, or plain text.

1. A row is an example; a plain text is cut into consecutive pieces, each an example. A row without text is left out and named.
2. Which split: the row's label; else its level (`level_<n>`); else the file's name. How far: its level, else the order of
   first appearance.
3. Examples are cut to their first n_ctx tokens; those below min_tokens are left out, and so are those without a single
   known token; both are counted. min_tokens = n_ctx is the control in which every example has the same length.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.reading import FORMATS, Fields, Skip, Unreadable, distinct_names, ending, find_files, read_rows

DEFAULT_N_CTX = 256
MAX_LEVEL = 10**9
PADDING = -1
"""Behind the end of a shorter example."""


@dataclass(frozen=True, kw_only=True)
class TextsConfig:
    """How files become examples."""

    text_field: str = "text"
    """Field of a row that holds the text; content.text is text inside of content."""
    label_field: str = "label"
    """Field of the split's name, where a row has one."""
    level_field: str = "level"
    """Field of the whole-number distance from the training distribution, where a row has one."""
    n_ctx: int | None = None
    """Tokens of an example at most; what lies behind is cut off. None: 256, or what the model reads where that is less."""
    min_tokens: int = 2
    """Shorter examples are left out. Equal to n_ctx: all examples have one length."""

    def __post_init__(self) -> None:
        if self.n_ctx is None:
            if self.min_tokens < 2:
                raise ValueError(f"texts.min_tokens={self.min_tokens} must be at least 2: a token and the next one")
            return
        if self.n_ctx < 2:
            raise ValueError(f"texts.n_ctx={self.n_ctx} must be at least 2: a token and the next one")
        if not 2 <= self.min_tokens <= self.n_ctx:
            raise ValueError(f"texts.min_tokens={self.min_tokens} must lie in [2, texts.n_ctx={self.n_ctx}]")

    def fit(self, n_ctx: int | None) -> "TextsConfig":
        """The same for a model that reads `n_ctx` positions at most (None: any number), with `n_ctx` chosen.

        Raises:
            ValueError: more tokens are asked for than the model reads.
        """
        limit = DEFAULT_N_CTX if n_ctx is None else min(DEFAULT_N_CTX, n_ctx)
        if self.n_ctx is not None and n_ctx is not None and self.n_ctx > n_ctx:
            raise ValueError(
                f"texts.n_ctx={self.n_ctx}, but the model reads {n_ctx} positions; give texts.n_ctx={n_ctx}"
            )
        return replace(self, n_ctx=limit if self.n_ctx is None else self.n_ctx)


class Encoder(Protocol):
    """What is asked of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def unknown_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]: ...

    def characters(self, text: str) -> list[int] | None: ...


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """Examples of one split as tokens; a `WatchedSplit`."""

    name: str
    level: int
    tokens: NDArray[np.int64]
    """`[n_examples, n_ctx]`, `PADDING` behind the end."""
    description: str
    places: tuple[str, ...]
    """`<file>:<line or row>` of each example; of a plain text `<file>:<piece>`."""
    unknown_share: float
    """Share of the tokens that stand for what the tokenizer does not know."""
    n_cut: int
    """Examples that are longer than n_ctx."""
    n_short: int
    """Examples left out as shorter than min_tokens."""
    n_unknown: int
    """Examples left out as without a known token."""
    characters: NDArray[np.int64] | None = field(default=None, repr=False)
    """Of each token, `[n_examples, n_ctx]`, 0 behind the end; None where the tokenizer does not say."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, `[n_examples]`."""
        return (self.tokens != PADDING).sum(1)

    def counts(self) -> dict[str, float | int]:
        """What was cut, left out and not known, for the report."""
        return {
            "unknown_share": self.unknown_share,
            "n_cut": self.n_cut,
            "n_short": self.n_short,
            "n_unknown": self.n_unknown,
        }

    def draw(self, n_examples: int, seed: int) -> "TextSplit":
        """At most so many examples, drawn without replacement and kept in order."""
        if len(self.tokens) <= n_examples:
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self.tokens), n_examples, replace=False))
        characters = None if self.characters is None else self.characters[rows]
        places = tuple(self.places[row] for row in rows)
        return replace(self, tokens=self.tokens[rows], characters=characters, places=places)


class Texts(list[TextSplit]):
    """The splits, by level.

    Attributes:
        skipped: rows and files that were left out, and why.
    """

    def __init__(self, splits: Iterable[TextSplit], skipped: Sequence[Skip]) -> None:
        super().__init__(splits)
        self.skipped = tuple(skipped)


@dataclass(frozen=True, kw_only=True)
class _Example:
    split: str
    level: int | None
    place: str
    ids: list[int]
    characters: list[int] | None


def read_texts(paths: Sequence[str], encoder: Encoder, config: TextsConfig) -> Texts:
    """Splits from files, by level.

    Args:
        paths: files, folders or patterns; of the kinds that `data.reading` knows.
        encoder: of the model.
        config: fields and lengths.

    Raises:
        OSError: a file is missing, or must not be read.
        ValueError: no file; a file that is no text; a level that is no whole number, or two of them in one split; a split without
            an example, or without a single known token.
    """
    config = config.fit(None)
    if not paths:
        raise ValueError("no text file; give data=<file.jsonl>, or several as data='[a.jsonl,b.txt]'")
    known_levels: dict[str, int | None] = {}
    examples: dict[str, list[_Example]] = {}
    found = find_files(paths, "data")
    skipped = list(found.notes)
    for path, name in zip(found.files, distinct_names(found.files), strict=True):
        try:
            for example in _examples(path, name, encoder, config, skipped):
                if known_levels.setdefault(example.split, example.level) != example.level:
                    raise ValueError(
                        f"{example.place}: split {example.split!r} has {config.level_field} {known_levels[example.split]} "
                        f"and {example.level}; give every row of a {config.label_field} the same"
                    )
                examples.setdefault(example.split, []).append(example)
        except (OSError, Unreadable) as error:
            skipped.append(found.without(path, error))
    if not examples:
        raise ValueError(
            f"no text in data={','.join(paths)}; of {len(skipped)} files, {skipped[0].name}: {skipped[0].reason}"
        )
    splits = [
        _split(name, i if (level := known_levels[name]) is None else level, of_split, encoder, config)
        for i, (name, of_split) in enumerate(examples.items())
    ]
    return Texts(sorted(splits, key=lambda split: split.level), skipped)


def _examples(path: Path, name: str, encoder: Encoder, config: TextsConfig, skipped: list[Skip]) -> Iterator[_Example]:
    """The examples of a file; what is left out is added to `skipped`."""
    n_found, n_skipped, n_ctx = 0, len(skipped), _n_ctx(config)
    for item in read_rows(path, Fields(text=config.text_field, others=(config.label_field, config.level_field))):
        if isinstance(item, Skip):
            skipped.append(item)
            continue
        ids, lengths = (encoder.encode(item.text), encoder.characters(item.text)) if item.text else ([], None)
        if ending(path) in FORMATS:
            level, label = (
                _level(item.fields.get(config.level_field), item.name, config),
                item.fields.get(config.label_field),
            )
            split = name if level is None else f"level_{level}"
            split = split if label in (None, "") else str(label)
            yield _Example(split=split, level=level, place=item.name, ids=ids, characters=lengths)
            n_found += 1
        elif item.text.strip():
            # A piece shorter than min_tokens is the file's end, and counted as left out.
            for n_found, start in enumerate(range(0, len(ids), n_ctx), start=1):
                piece = slice(start, start + n_ctx)
                known = None if lengths is None else lengths[piece]
                yield _Example(split=name, level=None, place=f"{path}:{n_found}", ids=ids[piece], characters=known)
    if not n_found and len(skipped) > n_skipped:
        first = skipped[n_skipped]
        raise Unreadable(
            f"split {name!r} is empty: all {len(skipped) - n_skipped} rows of {path} are skipped, the first {first.name}: {first.reason}; "
            f"texts.text_field=<name> chooses the field of the text"
        )
    if not n_found:
        raise Unreadable(f"split {name!r} is empty: {path} has no text")


def _level(value: Any, place: str, config: TextsConfig) -> int | None:
    if value in (None, ""):
        return None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,10}", value):  # in files that know text alone
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_LEVEL:
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}..."
        raise ValueError(
            f"{place}: {config.level_field}={shown} must be a whole number (1, not 1.0) up to {MAX_LEVEL:,}, 0 nearest to the training text"
        )
    return value


def _n_ctx(config: TextsConfig) -> int:
    assert config.n_ctx is not None, "fit the config to a model first"
    return config.n_ctx


def _split(name: str, level: int, found: Sequence[_Example], encoder: Encoder, config: TextsConfig) -> TextSplit:
    known = [[i for i in example.ids if i not in encoder.special_ids] for example in found]
    with_words = [example for example, ids in zip(found, known, strict=True) if ids]
    if not with_words:
        if not any(example.ids for example in found):
            raise ValueError(f"split {name!r} is empty: none of its {len(found)} examples has any text")
        raise ValueError(
            f"split {name!r} has no single known token in {len(found)} examples ({found[0].place} ...); is it text in the "
            f"language and script of the model's tokenizer?"
        )
    kept = [example for example in with_words if len(example.ids) >= config.min_tokens]
    if not kept:
        longest = max(len(example.ids) for example in with_words)
        raise ValueError(
            f"split {name!r} is empty: its longest example has {longest} tokens, texts.min_tokens={config.min_tokens}; "
            f"lower it or give longer texts"
        )
    n_ctx = _n_ctx(config)
    tokens = np.full((len(kept), min(n_ctx, max(len(example.ids) for example in kept))), PADDING, dtype=np.int64)
    characters = np.zeros_like(tokens)
    for row, lengths, example in zip(tokens, characters, kept, strict=True):
        ids = example.ids[:n_ctx]
        row[: len(ids)] = ids
        lengths[: len(ids)] = (example.characters or [0] * len(ids))[:n_ctx]
    n_unknown = 0 if encoder.unknown_id is None else int((tokens == encoder.unknown_id).sum())
    files = list(dict.fromkeys(example.place.rpartition(":")[0] for example in kept))
    return TextSplit(
        name=name,
        level=level,
        tokens=tokens,
        characters=None if any(example.characters is None for example in kept) else characters,
        description=", ".join(Path(file).name for file in files),
        places=tuple(example.place for example in kept),
        unknown_share=n_unknown / int((tokens != PADDING).sum()),
        n_cut=sum(len(example.ids) > n_ctx for example in kept),
        n_short=len(with_words) - len(kept),
        n_unknown=len(found) - len(with_words),
    )
