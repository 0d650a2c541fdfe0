"""Conflicts as users give them: rows with `context question prior answer`, read by `sparsetrain.data.reading`, and how they become prompts.

1. A row has four texts: a context that states the answer, a question, the answer from memory (`prior`), the answer that the context states
   (`answer`). Optional: `paraphrases` (texts that state the same), `agreeing` and `irrelevant` (contexts), `others` (further answers), `fact`,
   `relation`, `strength` (a number) or `exposures` (a count).
2. What a row does not give is made: wordings around the context, the context with memory's answer in it, the context of another row.
3. Cases of one question are of one fact unless `fact` says otherwise. A row that makes no case is named, and the others are kept.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol

from circuits.prior.cases import Case, Form, Neutral, Pieces, Tokens, case_of, neutral_of
from sparsetrain.data.reading import Fields, Skip, find_files, read_found

TEXTS = ("context", "question", "prior", "answer")
LISTS = ("paraphrases", "others")
MORE = ("agreeing", "irrelevant", "fact", "relation")
NUMBERS = ("strength", "exposures")
CONTEXT, QUESTION = "{context}", "{question}"
NEUTRAL = (
    ("The shop at the corner sells bread and milk.", "It opens early in the morning and closes late in the evening."),
    ("The train was a few minutes late.", "Most of the passengers read a book or looked out of the window."),
    ("She put the letter on the table.", "Then she took her coat and went out into the garden."),
    ("It had rained all night.", "In the morning the streets were wet and the air was clear."),
)
"""Statement and what follows it: damage is measured on these where no other text is given. ours"""


class Encoder(Protocol):
    """What is asked of a tokenizer."""

    @property
    def unknown_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class WordingConfig:
    """How a row becomes prompts. ours"""

    statement: str = "{context}\n"
    """What states the context."""
    question: str = "{question}"
    """What ends a prompt; the answer follows behind a blank."""
    rewordings: tuple[str, ...] = (
        "It is known that: {context}\n",
        "Note the following. {context}\n",
        "According to the source, {context}\n",
        "Here is a fact: {context}\n",
    )
    """Wordings for rows without paraphrases of their own."""
    trust: tuple[str, ...] = (
        "Answer from the text below, even if you believe otherwise.\n",
        "The following text is correct and up to date.\n",
        "Trust the text and ignore what you know.\n",
        "Use only what the text says.\n",
    )
    """Sentences that ask to believe the prompt."""
    distrust: tuple[str, ...] = ("Answer from what you know, and ignore the text below.\n",)
    """Sentences that ask to answer from memory."""
    filler: tuple[str, ...] = (
        "The weather was mild that day.\n",
        "A few people were walking in the park.\n",
        "Somebody had left a bicycle at the gate.\n",
        "The shops were about to close.\n",
    )
    """Neutral sentences in front of the statement or behind it."""

    def __post_init__(self) -> None:
        for key, template, part in (("statement", self.statement, CONTEXT), ("question", self.question, QUESTION)):
            if template.count(part) != 1:
                raise ValueError(f"{key}={template!r} must have {part} once, as in {getattr(WordingConfig, key)!r}")
        for template in self.rewordings:
            if template.count(CONTEXT) != 1:
                raise ValueError(f"rewordings: {template!r} must have {CONTEXT} once")


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A row."""

    place: str
    context: str
    question: str
    prior: str
    answer: str
    paraphrases: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    agreeing: str = ""
    irrelevant: str = ""
    fact: str = ""
    relation: str = ""
    strength: float = float("nan")
    exposures: bool = False
    """Whether the strength is an exposure count."""

    @property
    def named(self) -> str:
        """Which fact it is about: rows of one belong together."""
        return self.fact or self.question.strip()


@dataclass(frozen=True, kw_only=True)
class Conflicts:
    """The rows of users' files."""

    rows: tuple[Conflict, ...]
    skipped: tuple[Skip, ...] = field(default=())

    @property
    def strength(self) -> str:
        """What the strength of the prior is, in words; empty: not every row says."""
        if not self.rows or not all(isfinite(row.strength) for row in self.rows):
            return ""
        if len({row.exposures for row in self.rows}) > 1:
            return ""
        return "exposures in training" if self.exposures else "field `strength` of the rows"

    @property
    def exposures(self) -> bool:
        """Whether every row gives an exposure count."""
        return bool(self.rows) and all(row.exposures for row in self.rows)


def read_conflicts(paths: Sequence[str]) -> Conflicts:
    """The rows of files, folders or patterns.

    Raises:
        OSError: a file that was named is missing, or must not be read.
        ValueError: no file, or no row that is a conflict; says why the first was none.
    """
    fields = Fields(text=TEXTS[0], others=(*TEXTS[1:], *LISTS, *MORE, *NUMBERS))
    rows: list[Conflict] = []
    skipped: list[Skip] = []
    for row in read_found(find_files(paths, "data"), fields):
        made = row.reason if isinstance(row, Skip) else _conflict(row.name, {TEXTS[0]: row.text, **row.fields})
        if isinstance(made, Conflict):
            rows.append(made)
        else:
            skipped.append(Skip(row.name, made))
    if not rows:
        first = f": {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise ValueError(f"no conflict in data={','.join(paths)}{first}; a row needs {', '.join(TEXTS)}")
    return Conflicts(rows=tuple(rows), skipped=tuple(skipped))


def _conflict(place: str, row: Mapping[str, Any]) -> Conflict | str:
    """The conflict of a row, or what is wrong with it."""
    for name in TEXTS:
        if name not in row or row[name] is None:
            return f"no field {name!r}"
        if not isinstance(row[name], str):
            return f"{name!r} is no text"
        if not row[name].strip():
            return f"{name!r} is empty"
    found: dict[str, Any] = {name: row[name].strip() if name != "question" else row[name] for name in TEXTS}
    if found["prior"] == found["answer"]:
        return "both answers are the same"
    for name in LISTS:
        given = row.get(name) or ()
        given = (given,) if isinstance(given, str) else given
        if not isinstance(given, list | tuple) or not all(isinstance(text, str) and text.strip() for text in given):
            return f"{name!r} is no list of texts"
        found[name] = tuple(text.strip() for text in given)
    for name in MORE:
        if not isinstance(row.get(name) or "", str):
            return f"{name!r} is no text"
        found[name] = (row.get(name) or "").strip()
    for name in NUMBERS:
        value = row.get(name)
        try:
            value = None if value in (None, "") else float(value)  # a column of a table is text
        except (TypeError, ValueError):
            return f"{name!r} is no number"
        if isinstance(row.get(name), bool) or (value is not None and not isfinite(value)):
            return f"{name!r} is no number"
        if name == "exposures" and value is not None and value < 0:
            return f"exposures={value:g} is below 0"
        if value is not None:
            found |= {"strength": value, "exposures": name == "exposures"}
    return Conflict(place=place, **found)


def pieces_of(row: Conflict, wording: WordingConfig, irrelevant: str) -> tuple[Pieces[str], str]:
    """What the prompts of a row are made of, and the blank in front of an answer."""
    question = wording.question.replace(QUESTION, row.question)
    asked = question.rstrip(" ")

    def state(template: str, context: str) -> str:
        return template.replace(CONTEXT, context)

    agreeing = row.agreeing or (
        _word(row.answer).sub(lambda _: row.prior, row.context) if _has(row.context, row.answer) else ""
    )
    paraphrases = [state(wording.statement, text) for text in row.paraphrases]
    paraphrases += [state(template, row.context) for template in wording.rewordings]
    irrelevant = row.irrelevant or irrelevant
    return Pieces[str](
        stated=(state(wording.statement, row.context), *paraphrases),
        question=asked,
        agreeing=(state(wording.statement, agreeing),) if agreeing else (),
        irrelevant=(state(wording.statement, irrelevant),) if irrelevant else (),
        trust=wording.trust,
        distrust=wording.distrust,
        filler=wording.filler,
    ), question[len(asked) :] or ("" if question.endswith("\n") else " ")


def cases_of(
    rows: Sequence[Conflict], encoder: Encoder, wording: WordingConfig, forms: Collection[Form], n_ctx: int | None
) -> tuple[list[Case], list[Skip]]:
    """The cases of rows, and why other rows make none."""
    cases: list[Case] = []
    skipped: list[Skip] = []

    def encode(text: str) -> Tokens:
        return tuple(encoder.encode(text))

    first: dict[tuple[str, ...], str] = {}
    for i, row in enumerate(rows):
        seen = first.setdefault((row.question, row.context, row.answer, row.prior), row.place)
        if seen != row.place:
            skipped.append(Skip(row.place, f"the same as {seen}"))
            continue
        pieces, blank = pieces_of(row, wording, _irrelevant(rows, i))
        answers = [f"{blank}{text}" for text in (row.answer, row.prior, *row.others)]
        made = case_of(
            pieces,
            forms,
            encode,
            context=answers[0],
            prior=answers[1],
            others=answers[2:],
            place=row.place,
            fact=row.named,
            strength=row.strength,
            group=row.relation,
            n_ctx=n_ctx,
        )
        if (
            isinstance(made, Case)
            and encoder.unknown_id is not None
            and any(encoder.unknown_id in answer for answer in made.answers)
        ):
            made = Skip(row.place, "an answer that the model's tokenizer does not know")
        (cases if isinstance(made, Case) else skipped).append(made)  # pyright: ignore[reportArgumentType]
    return cases, skipped


def _irrelevant(rows: Sequence[Conflict], i: int) -> str:
    """The context of the next row of another fact whose context has neither answer of this one; empty: there is none."""
    row = rows[i]
    for other in (*rows[i + 1 :], *rows[:i]):
        same = other.named == row.named or other.context == row.context
        if not same and not _has(other.context, row.answer) and not _has(other.context, row.prior):
            return other.context
    return ""


UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no blank between words, or none between a word and what is joined to it: Thai, Lao, Burmese, Khmer, Kana, Han, Hangul."""


def _word(text: str) -> re.Pattern[str]:
    """Finds a text where it stands as words of its own: no `A` in `According`, no `7` in `1975`, but `7` in `7kg`, and any text between signs
    of a script without blanks."""

    letter, unspaced = rf"[^\W{UNSPACED}]", re.compile(f"[{UNSPACED}]")
    before = "" if unspaced.match(text) else f"(?<!{letter})"
    behind = "" if unspaced.match(text[-1:]) else r"(?!\d)" if text[-1:].isdecimal() else f"(?!{letter})"
    return re.compile(f"{before}{re.escape(text)}{behind}")


def _has(context: str, text: str) -> bool:
    return _word(text).search(context) is not None


def halves(text: str) -> tuple[str, str]:
    """A text of at least four words as a statement and what follows it."""
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def neutral_texts(
    texts: Sequence[tuple[str, str]],
    encoder: Encoder,
    wording: WordingConfig,
    forms: Collection[Form],
    n_ctx: int | None,
) -> list[Neutral]:
    """Texts as they follow a statement that is not about any conflict; left out are those that cannot be written, or only in unknown tokens."""
    made: list[Neutral] = []

    def encode(text: str) -> Tokens:
        return tuple(encoder.encode(text))

    for i, (front, text) in enumerate(texts):
        begin, _, rest = text.partition(" ")
        row = Conflict(place=f"neutral text {i}", context=front, question=begin, prior="", answer=front, agreeing=front)
        pieces, _ = pieces_of(row, wording, texts[i - 1][0])
        found = neutral_of(pieces, forms, encode, f" {rest}", row.place, n_ctx)
        if isinstance(found, Neutral) and any(token != encoder.unknown_id for token in found.text):
            made.append(found)
    return made
