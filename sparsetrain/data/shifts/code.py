"""The four graded shifts of Python, for any tokenizer: tasks that are answered by the next token.

1. Names come from a split of `pools.py` that no circuit is fitted on, as many tokens each, so that lines of one form have one length.
2. difficulty: `x = []`, lines, `for i in items:`, `x` -> `.append` (or `x = 0` -> ` +=`). Level: lines between that give another name
   the other start; control: lines that compare instead (`y == 0`).
3. choices: `def __init__(self, a, b, c):`, `self.b =` -> ` b`. Level: parameters; control: as many names in a call before.
4. context: the task of 2 without lines between; level: tokens of code in front in the same document; control: a separator
   between that code and the task. In front of either stands another document, so that all rows have one length.
5. conflict: `x = open("output.txt", "` -> `w`. Level: lines that open the same file for reading; control: for writing. The right answer is
   that of the lines.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Protocol

from sparsetrain.data.pools import pool
from sparsetrain.data.shifts.graded import Graded, GradedConfig, Name, Unsuited, draw_graded, tries
from sparsetrain.data.sources.idioms import INPUTS, OUTPUTS, write_module

STARTS = (("[]", ".append", '""', " +="), ("[]", ".append", "0", " +="), ("set()", ".add", "list()", ".append"))
"""Pairs of a start and what the loop does with it; the first pair that the tokenizer gives equal lengths is used."""
NEUTRAL = ("True", "False", "None", "()", "{}")
FILLERS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "True", "False", "None", '""', "[]", "()")
SLACK = 8  # tokens that code in front may be short of its level: it ends with a statement
SPARE = 8  # tokens of the other document that stand even before the longest code
N_CODES = 50  # modules looked at for code of a length


class Encoder(Protocol):
    """What is asked of a tokenizer."""

    @property
    def eot_id(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One row as text."""

    documents: tuple[str, ...]
    """Each behind a separator; the last one is the prompt."""
    answer: str
    others: tuple[str, ...]
    continuation: str


Draw = Callable[[Random, int, bool], Draft]
"""(random numbers of the row, level, whether it is the control) -> row."""


class Words:
    """Names of equal length in the tokens of one tokenizer."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        shifted = pool("shifted")
        self.all = (*shifted.variables, *shifted.functions, *shifted.collections, *shifted.nouns)
        groups: dict[tuple[int, int], list[str]] = {}
        for name in self.all:
            groups.setdefault((self.n_tokens(name), self.n_tokens(f" {name}")), []).append(name)
        (_, self.n_spaced), self.names = max(groups.items(), key=lambda item: len(item[1]))

    def inside(self, text: str) -> list[int]:
        """Tokens of a text in the middle of a line; a name without a blank stands behind a sign."""
        return self.encoder.encode(f"x({text}")[len(self.encoder.encode("x(")) :]

    def n_tokens(self, text: str) -> int:
        """Number of tokens in the middle of a line."""
        return len(self.inside(text))

    def draw(self, rng: Random, n: int, what: str) -> list[str]:
        """Different names.

        Raises:
            ValueError: there are not so many.
        """
        if n > len(self.names):
            raise ValueError(
                f"study.shifts.python.{what} needs {n} names of equal length, this tokenizer gives {len(self.names)}; lower its "
                f"highest level or raise data.d_vocab"
            )
        return rng.sample(self.names, n)

    def draw_distinct(self, rng: Random, n: int, what: str) -> list[str]:
        """Names whose first tokens differ behind a blank, so that each can be an answer."""
        by_token = {self.inside(f" {name}")[0]: name for name in rng.sample(self.names, len(self.names))}
        if n > len(by_token):
            raise ValueError(
                f"study.shifts.python.{what} needs {n} names with different first tokens, this tokenizer gives {len(by_token)}; "
                f"lower its highest level or raise data.d_vocab"
            )
        return rng.sample(list(by_token.values()), n)

    def of_length(self, n: int, texts: Sequence[str]) -> list[str]:
        """Those of the texts that have n tokens behind a blank."""
        return [text for text in texts if self.n_tokens(f" {text}") == n]


def build_python(config: GradedConfig, encoder: Encoder, n_ctx: int, seed: int) -> list[Graded]:
    """The shifts of Python: a function of its arguments.

    Args:
        config: names, levels and number of rows.
        encoder: the model's tokenizer.
        n_ctx: tokens that the model reads.
        seed: of all choices.

    Raises:
        ValueError: levels that the tokenizer or n_ctx cannot hold.
    """
    words = Words(encoder)
    return [_build(name, config, words, n_ctx, seed) for name in config.names]


def _build(name: Name, config: GradedConfig, words: Words, n_ctx: int, seed: int) -> Graded:
    levels = config.python[name]
    draw = _DRAWS[name](words, levels)
    length = _length(name, draw, levels, words, seed)
    if length > n_ctx:
        raise ValueError(
            f"study.shifts.python.{name}={list(levels)} needs rows of {length} tokens, model.n_ctx={n_ctx}; lower the levels or "
            f"raise model.n_ctx"
        )
    n_choices = levels[-1] if name == "choices" else 2

    def row(rng: Random, _item: int, level: int, control: bool) -> tuple[list[int], list[int]]:
        return _row(words.encoder, draw(rng, level, control), length, name, n_choices)

    return draw_graded(
        name,
        levels,
        config.n_items,
        seed,
        row,
        key=f"study.shifts.python.{name}",
        unsuited="tokenizer",
        advice=f"change the levels or data.d_vocab, or leave {name} out of study.shifts.names",
    )


def _length(name: Name, draw: Draw, levels: Sequence[int], words: Words, seed: int) -> int:
    """Tokens of a prompt with its separator: the most frequent number among a few rows."""
    found: Counter[int] = Counter()
    for rng in islice(tries(seed, name), 32):
        state = rng.getstate()
        for level in levels:
            rng.setstate(state)
            try:
                prompt = draw(rng, 0 if name == "context" else level, False).documents[-1]
            except Unsuited:
                continue
            found[1 + len(words.encoder.encode(prompt))] += 1
    if not found:
        raise ValueError(f"study.shifts.python.{name}={list(levels)}: no row could be made; change the levels")
    length = found.most_common(1)[0][0]
    return length + levels[-1] + 1 + SPARE if name == "context" else length


def _row(encoder: Encoder, draft: Draft, length: int, name: str, n_choices: int) -> tuple[list[int], list[int]]:
    """Tokens of a row with its answer, and the tokens to choose from."""
    prompt = encoder.encode(draft.documents[-1])
    after = []
    for text in (draft.answer, *draft.others):
        full = encoder.encode(draft.documents[-1] + text + draft.continuation)
        if full[: len(prompt)] != prompt or len(full) == len(prompt):
            raise Unsuited("prompt_not_a_prefix")
        after.append(full[len(prompt)])
    if len(set(after)) < len(after):
        raise Unsuited("same_answer_token")
    row = [i for document in draft.documents for i in (encoder.eot_id, *encoder.encode(document))]
    if len(row) < length or (name != "context" and len(row) != length):
        raise Unsuited("length")
    after += after[-1:] * (n_choices - len(after))
    return [*row[-length:], after[0]], after


def _difficulty(words: Words, levels: Sequence[int]) -> Draw:
    starts = _starts(words)
    n_tokens = words.n_tokens(f" {starts[0]}")
    neutral = words.of_length(n_tokens, NEUTRAL)
    if not neutral:
        raise ValueError(
            f"study.shifts.python.difficulty: no literal of {', '.join(NEUTRAL)} has the {n_tokens} token(s) of {starts[0]}; raise data.d_vocab or leave "
            f"difficulty out of study.shifts.names"
        )

    def draw(rng: Random, level: int, control: bool) -> Draft:
        name, one, many, *others = words.draw(rng, 3 + levels[-1], "difficulty")
        (start, answer), (other_start, other) = _flipped(rng, starts)
        literals = [rng.choice(neutral) for _ in others]
        special = sorted(rng.sample(range(levels[-1]), levels[-1])[:level])
        sign = "==" if control else "="
        lines = [
            f"{other_name} {sign if i in special else '='} {other_start if i in special else literals[i]}\n"
            for i, other_name in enumerate(others)
        ]
        prompt = f"{name} = {start}\n{''.join(lines)}for {one} in {many}:\n    {name}"
        return Draft(documents=(prompt,), answer=answer, others=(other,), continuation=f" {one}\n")

    return draw


def _starts(words: Words) -> tuple[str, str, str, str]:
    for starts in STARTS:
        if words.n_tokens(f" {starts[0]}") == words.n_tokens(f" {starts[2]}"):
            return starts
    raise ValueError(
        f"study.shifts.names has difficulty or context, but no two of {', '.join(f'{a} and {b}' for a, _, b, _ in STARTS)} have as "
        f"many tokens; raise data.d_vocab or leave both out"
    )


def _flipped(rng: Random, starts: tuple[str, str, str, str]) -> tuple[tuple[str, str], tuple[str, str]]:
    first, second = starts[:2], starts[2:]
    return (first, second) if rng.random() < 0.5 else (second, first)


def _choices(words: Words, levels: Sequence[int]) -> Draw:
    fillers = words.of_length(words.n_spaced, FILLERS) or [" ".join("1" * words.n_spaced)]
    most, lowest = levels[-1], levels[0]

    def draw(rng: Random, level: int, control: bool) -> Draft:
        names = words.draw_distinct(rng, most, "choices")
        asked = rng.randrange(lowest)
        rest = [rng.choice(fillers) for _ in range(most - lowest)]
        extra, rest = names[lowest:level], rest[level - lowest :]
        own = names[:lowest] if control else [*names[:lowest], *extra]
        called = [*extra, *rest] if control else rest
        gold = own[asked]
        mixer = Random(rng.random())
        mixer.shuffle(own)
        mixer.shuffle(called)
        prompt = f"print({', '.join(['0', *called])})\ndef __init__({', '.join(['self', *own])}):\n    self.{gold} ="
        others = tuple(f" {name}" for name in own if name != gold)
        return Draft(documents=(prompt,), answer=f" {gold}", others=others, continuation="\n")

    return draw


def _context(words: Words, levels: Sequence[int]) -> Draw:
    starts = _starts(words)

    def draw(rng: Random, level: int, control: bool) -> Draft:
        name, one, many = words.draw(rng, 3, "context")
        (start, answer), (_, other) = _flipped(rng, starts)
        task = f"{name} = {start}\nfor {one} in {many}:\n    {name}"
        before = _other_document(rng, words, levels[-1] + 2 * SPARE, {name, one, many})
        code = _code_of_length(rng, words, level, {name, one, many}) if level else ""
        documents = (before, code, task) if control and code else (before, code + task)
        return Draft(documents=documents, answer=answer, others=(other,), continuation=f" {one}\n")

    return draw


def _other_document(rng: Random, words: Words, n_tokens: int, taken: set[str]) -> str:
    text = ""
    while len(words.encoder.encode(text)) < n_tokens:
        more = write_module(rng)
        text += "" if _holds(more, taken) else more
    return text


def _code_of_length(rng: Random, words: Words, n_tokens: int, taken: set[str]) -> str:
    """Whole statements of one module that hold no taken name, `n_tokens` less at most `SLACK` of them."""
    for _ in range(N_CODES):
        lines = write_module(rng).splitlines(keepends=True)
        for end in range(1, len(lines)):
            if lines[end][0] in " \n)]}" or lines[end].startswith(("else", "elif", "except", "finally")):
                continue
            code = "".join(lines[:end])
            n = len(words.encoder.encode(code))
            if n > n_tokens:
                break
            if n >= n_tokens - SLACK and not _holds(code, taken):
                return code
    raise Unsuited("no_code_of_length")


def _holds(text: str, names: set[str]) -> bool:
    return not names.isdisjoint("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


def _conflict(words: Words, levels: Sequence[int]) -> Draw:
    # The pair of names that the idioms open most often.
    pairs = [
        (INPUTS.count(read) * OUTPUTS.count(write), read, write)
        for read in sorted(set(INPUTS))
        for write in sorted(set(OUTPUTS))
        if words.n_tokens(read) == words.n_tokens(write)
        and sum(words.n_tokens(name) == words.n_tokens(read) for name in words.all) > 1
    ]
    if not pairs:
        raise ValueError(
            "study.shifts.names has conflict, but no name of a file to read has as many tokens as one to write; raise data.d_vocab or "
            "leave conflict out"
        )
    _, *stems = max(pairs)
    neutral = [name for name in words.all if words.n_tokens(name) == words.n_tokens(stems[0])]

    def draw(rng: Random, level: int, control: bool) -> Draft:
        asked, *others = words.draw(rng, 1 + levels[-1], "conflict")
        writes = rng.random() < 0.5
        usual, unusual = "wr" if writes else "rw"
        mode = unusual if level and not control else usual
        special = set(rng.sample(range(levels[-1]), levels[-1])[:level])
        lines = []
        for i, other in enumerate(others):
            stem, drawn = rng.choice(neutral), rng.choice("rw")
            stem, drawn = (stems[writes], mode) if i in special else (stem, drawn)
            lines.append(f'{other} = open("{stem}.txt", "{drawn}")\n')
        prompt = f'{"".join(lines)}{asked} = open("{stems[writes]}.txt", "'
        return Draft(documents=(prompt,), answer=mode, others=("r" if mode == "w" else "w",), continuation='")\n')

    return draw


_DRAWS: dict[Name, Callable[[Words, Sequence[int]], Draw]] = {
    "difficulty": _difficulty,
    "choices": _choices,
    "context": _context,
    "conflict": _conflict,
}
