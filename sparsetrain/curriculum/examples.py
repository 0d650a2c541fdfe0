"""A user's own questions and answers, from files of rows; what cannot be used is left out, each with its place and the reason.

1. Rows are read by `data.reading`: a question and an answer, and if there is one a difficulty that is known from elsewhere.
2. The same question with the same answer counts once; with another answer it is another example.
3. What the tokenizer cannot write, or what is longer than the budget on its own, is no example either.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain.adapters import TextTokenizer
from sparsetrain.curriculum.prompts import Example, WordingConfig, Written, write
from sparsetrain.curriculum.ranking import levels_of, ranks
from sparsetrain.curriculum.scoring import Scores
from sparsetrain.data.reading import Fields, Skip, find_files, read_found
from sparsetrain.representation.items import Item
from sparsetrain.store import write_atomic

UNKNOWN = "the answer has a token that the tokenizer does not know"
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")


@dataclass(frozen=True, kw_only=True)
class FieldsConfig:
    """Names of a row's fields; `content.text` is the field text of the field content."""

    question: str = "question"
    answer: str = "answer"
    difficulty: str = "difficulty"
    """A number, higher is harder; rows may have none."""

    def __post_init__(self) -> None:
        names = (self.question, self.answer, self.difficulty)
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(
                f"question, answer and difficulty must be three different fields of a row, and are {', '.join(map(repr, names))}"
            )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples that a model can be given, and what was left out."""

    examples: tuple[Example, ...]
    items: tuple[Item, ...] = field(repr=False)
    """Each as a prompt without demonstrations."""
    skipped: tuple[Skip, ...]

    def __len__(self) -> int:
        return len(self.examples)


def read_examples(
    paths: Sequence[str], key: str, fields: FieldsConfig, tokenizer: TextTokenizer, wording: WordingConfig, n_tokens: int | None
) -> Examples:  # fmt: skip
    """The examples of some files, in their order.

    Args:
        paths: files, folders or patterns; of the kinds that `data.reading` knows.
        key: what the user calls these paths, for messages.
        fields: names of a row's fields.
        tokenizer: of the model.
        wording: of all prompts.
        n_tokens: budget of a prompt with its answer; None: none.

    Raises:
        OSError: a file is missing, or must not be read.
        ValueError: no file; a file that is no text; not a single example.
    """
    skipped: list[Skip] = []
    known: dict[tuple[str, str], str] = {}
    examples: list[Example] = []
    items: list[Item] = []
    for row in read_found(
        find_files(paths, key), Fields(text=fields.question, others=(fields.answer, fields.difficulty))
    ):
        made = row if isinstance(row, Skip) else _example(row.name, row.text, row.fields, fields)
        if isinstance(made, Skip):
            skipped.append(made)
            continue
        same = (made.question.strip(), made.answer.strip())
        if (first := known.setdefault(same, made.place)) != made.place:
            skipped.append(Skip(made.place, f"the same question and answer as {first}"))
            continue
        written = item_of(tokenizer, wording, made, n_tokens)
        if isinstance(written, str):
            skipped.append(Skip(made.place, written))
            continue
        examples.append(made)
        items.append(written)
    if not examples:
        why = f"all {len(skipped)} rows are left out, the first {skipped[0].name}: {skipped[0].reason}" if skipped else "it has no row"  # fmt: skip
        raise ValueError(
            f"no example in {key}={','.join(paths)}: {why}; a row has {fields.question!r} and {fields.answer!r} (fields.question=<name> chooses another)"
        )
    return Examples(examples=tuple(examples), items=tuple(items), skipped=tuple(skipped))


def item_of(tokenizer: TextTokenizer, wording: WordingConfig, example: Example, n_tokens: int | None) -> Item | str:
    """An example as a prompt without demonstrations, or why there is none."""
    written = write(tokenizer, wording, (), example, n_tokens)
    if not isinstance(written, Written):
        return written
    answer = written.item.tokens[-written.item.n_answer :]
    return UNKNOWN if tokenizer.unknown_id is not None and tokenizer.unknown_id in answer else written.item


def _example(place: str, question: str, row: Any, fields: FieldsConfig) -> Example | Skip:
    answer = row.get(fields.answer)
    if not isinstance(answer, str):
        what = "there is none" if answer is None else f"it is {answer!r:.40}; put it into quotes"
        return Skip(place, f"no text in field {fields.answer!r} ({what})")
    for name, text in ((fields.question, question), (fields.answer, answer)):
        if not text.strip():
            return Skip(place, f"nothing in field {name!r}")
    difficulty = _difficulty(row.get(fields.difficulty))
    if isinstance(difficulty, str):
        return Skip(place, f"{fields.difficulty}={difficulty:.40} is no number")
    return Example(question=question, answer=answer, difficulty=difficulty, place=place)


def _difficulty(value: Any) -> float | str | None:
    """A number; None: not known; text: what stands there instead."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):  # in files that know text alone
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return repr(value)
    try:
        number = float(value)
    except OverflowError:
        return repr(value)[:20]
    return number if math.isfinite(number) else repr(value)


def rows_left_out(skipped: Sequence[Skip], n_named: int = 5) -> Iterator[str]:
    """The first of them in words, and how many more there are."""
    for skip in skipped[:n_named]:
        yield f"left out: {skip.name}: {skip.reason}"
    if len(skipped) > n_named:
        yield f"... and {len(skipped) - n_named:,} more"


def write_rows(path: Path, examples: Sequence[Example], scores: Scores, n_levels: int, fields: FieldsConfig) -> None:
    """A pool from the densest example, taken for the easiest, to the sparsest, as JSON lines that can be read as a pool again.

    Args:
        path: of the file.
        examples: of the pool.
        scores: of the pool.
        n_levels: of difficulty, by rank.
        fields: names of what the user's rows have; `rank level sparsity loss` stand beside them.
    """
    place, levels = ranks(scores.sparsity), levels_of(scores.sparsity, n_levels)
    lines: list[str] = []
    for i in np.argsort(place):
        example = examples[i]
        known = {} if example.difficulty is None else {fields.difficulty: example.difficulty}
        scored = {"rank": int(place[i]), "level": int(levels[i]), "sparsity": float(scores.measured[i]), "loss": float(scores.loss[i])}  # fmt: skip
        row = {**scored, fields.question: example.question, fields.answer: example.answer, **known}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_atomic(path, "\n".join(lines) + "\n")
