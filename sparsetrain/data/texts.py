"""A user's own text files as splits: jsonl with a text per line, or plain text.

1. A jsonl line is an example; a plain text file is cut into consecutive pieces, each an example.
2. Which split: the line's label; else its level (`level_<n>`); else the file's name. How far: its level, else the order of
   first appearance.
3. Examples are cut to their first n_ctx tokens; those below min_tokens are left out, and so are those without a single
   known token; both are counted. min_tokens = n_ctx is the control in which every example has the same length.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DEFAULT_N_CTX = 256
PADDING = -1
"""Behind the end of a shorter example."""


@dataclass(frozen=True, kw_only=True)
class TextsConfig:
    """How files become examples."""

    text_field: str = "text"
    """Key of the text in a jsonl line."""
    label_field: str = "label"
    """Key of the split's name, where a line has one."""
    level_field: str = "level"
    """Key of the whole-number distance from the training distribution, where a line has one."""
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


@dataclass(frozen=True, kw_only=True)
class TextSplit:
    """Examples of one split as tokens; a `WatchedSplit`."""

    name: str
    level: int
    tokens: NDArray[np.int64]
    """`[n_examples, n_ctx]`, `PADDING` behind the end."""
    description: str
    places: tuple[str, ...]
    """`<file>:<line>` of each example; of a plain text `<file>:<piece>`."""
    unknown_share: float
    """Share of the tokens that stand for what the tokenizer does not know."""
    n_cut: int
    """Examples that are longer than n_ctx."""
    n_short: int
    """Examples left out as shorter than min_tokens."""
    n_unknown: int
    """Examples left out as without a known token."""

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
        return replace(self, tokens=self.tokens[rows], places=tuple(self.places[row] for row in rows))


@dataclass(frozen=True, kw_only=True)
class _Example:
    split: str
    level: int | None
    place: str
    ids: list[int]


def read_texts(paths: Sequence[str], encoder: Encoder, config: TextsConfig) -> list[TextSplit]:
    """Splits from files, by level.

    Args:
        paths: `.jsonl` files; any other file is read as plain text.
        encoder: of the model.
        config: fields and lengths.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no file; a file that is not UTF-8; a line that is no JSON object or has no text; a level that is no whole number,
            or two of them in one split; a split without an example, or without a single known token.
    """
    config = config.fit(None)
    if not paths:
        raise ValueError("no text file; give data=<file.jsonl>, or several as data='[a.jsonl,b.txt]'")
    known_levels: dict[str, int | None] = {}
    examples: dict[str, list[_Example]] = {}
    for path in map(Path, paths):
        for example in _examples(path, encoder, config):
            if known_levels.setdefault(example.split, example.level) != example.level:
                raise ValueError(
                    f"{example.place}: split {example.split!r} has {config.level_field} {known_levels[example.split]} "
                    f"and {example.level}; give every line of a {config.label_field} the same"
                )
            examples.setdefault(example.split, []).append(example)
    splits = [
        _split(name, i if (level := known_levels[name]) is None else level, found, encoder, config)
        for i, (name, found) in enumerate(examples.items())
    ]
    return sorted(splits, key=lambda split: split.level)


def _examples(path: Path, encoder: Encoder, config: TextsConfig) -> Iterator[_Example]:
    if not path.is_file():
        raise FileNotFoundError(2, "no such text file", str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from None
    if path.suffix != ".jsonl":
        ids = encoder.encode(text) if text.strip() else []
        if not ids:
            raise ValueError(f"split {path.stem!r} is empty: {path} has no text")
        # A piece shorter than min_tokens is the file's end, and counted as left out.
        n_ctx = _n_ctx(config)
        for i, start in enumerate(range(0, len(ids), n_ctx)):
            yield _Example(split=path.stem, level=None, place=f"{path}:{i + 1}", ids=ids[start : start + n_ctx])
        return
    n_found = 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        record = _record(line, place, config)
        level, label = record.get(config.level_field), record.get(config.label_field)
        if level is not None and (isinstance(level, bool) or not isinstance(level, int)):
            raise ValueError(
                f"{place}: {config.level_field}={level!r} must be a whole number, 0 nearest to the training text"
            )
        name = str(label) if label is not None else path.stem if level is None else f"level_{level}"
        words = record[config.text_field]
        yield _Example(split=name, level=level, place=place, ids=encoder.encode(words) if words else [])
        n_found += 1
    if not n_found:
        raise ValueError(f"split {path.stem!r} is empty: {path} has no line")


def _n_ctx(config: TextsConfig) -> int:
    assert config.n_ctx is not None, "fit the config to a model first"
    return config.n_ctx


def _record(line: str, place: str, config: TextsConfig) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{place} is no JSON ({error.msg}, column {error.colno}); a jsonl file has one object a line"
        ) from None
    if not isinstance(record, dict):
        raise ValueError(f"{place} is a JSON {type(record).__name__}; a jsonl file has one object a line")
    if not isinstance(record.get(config.text_field), str):
        raise ValueError(
            f"{place} has no text under {config.text_field!r}; its keys: {', '.join(record) or 'none'}. Choose one with "
            f"texts.text_field=<key>"
        )
    return record


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
    for row, example in zip(tokens, kept, strict=True):
        ids = example.ids[:n_ctx]
        row[: len(ids)] = ids
    n_unknown = 0 if encoder.unknown_id is None else int((tokens == encoder.unknown_id).sum())
    files = list(dict.fromkeys(example.place.rpartition(":")[0] for example in kept))
    return TextSplit(
        name=name,
        level=level,
        tokens=tokens,
        description=", ".join(Path(file).name for file in files),
        places=tuple(example.place for example in kept),
        unknown_share=n_unknown / int((tokens != PADDING).sum()),
        n_cut=sum(len(example.ids) > n_ctx for example in kept),
        n_short=len(with_words) - len(kept),
        n_unknown=len(found) - len(with_words),
    )
