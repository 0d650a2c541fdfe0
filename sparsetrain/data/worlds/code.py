"""The four graded shifts of Python, for any tokenizer: tasks that are answered by the next token.

Where forms must be equally long, the first ones are taken that are so in the tokenizer at hand.

1. Names come from a split of `pools.py` that no circuit is fitted on, as many tokens each, so that lines of one form have one length.
2. difficulty: `print('...` -> `'`. Level: words inside the string that stand in quotes of the other kind; control: words that stand
   in brackets instead.
3. choices: `x = 123 + (45 + {6, 7, 8` -> `}`. Level: brackets that are open, each of another kind; control: as many that are closed again.
4. context: the task of 2 without quoted words; level: tokens of code in front in the same document; control: a separator
   between that code and the task.
5. conflict: `def f(x):` -> indentation by four blanks. Level: functions in front that are indented by two; control: by four. The right
   answer is that of the functions.

In 4 and 5 another document stands in front of all that, so that all rows have one length.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, product
from random import Random
from typing import Protocol

from sparsetrain.data.pools import pool
from sparsetrain.data.sources.idioms import write_module
from sparsetrain.data.worlds.graded import Graded, GradedConfig, Name, Unsuited, draw_graded, tries

QUOTES = ("'", '"')
BEFORE_STRING = ("print(", "return ", "assert ")
AROUND = ("()", "[]", "{}", "<>", "**")  # ours: what may stand around a word instead of quotes
CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
INDENTS = {"usual": "    ", "unusual": "  "}
DIGITS = "123456789"
OPEN = ("{o}{d}{e} + ", "{o}{d} + ", "{o}-{d} + ")  # ours, as the next two
CLOSED = ("{o}{d}{c} + ", "{o}{c} + ", "{o}{d}{e}{c} + ")
SLOTS = ("{d}{e}{f} + ", "{d}{e} + ", "{d} + {e} + ", "{d} + ", "-{d} + ")
PADDED = ("context", "conflict")
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
        self.names = max(groups.values(), key=len)

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
                f"python.{what} needs {n} names of equal length, this tokenizer gives {len(self.names)}; lower its "
                f"highest level or raise data.d_vocab"
            )
        return rng.sample(self.names, n)


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
    if name == "context" and levels[-1] >= n_ctx:
        raise ValueError(
            f"python.context={list(levels)} needs rows of more than {levels[-1]} tokens, model.n_ctx={n_ctx}; lower the "
            f"levels or raise model.n_ctx"
        )
    length = _length(name, draw, levels, words, seed)
    if length > n_ctx:
        raise ValueError(
            f"python.{name}={list(levels)} needs rows of {length} tokens, model.n_ctx={n_ctx}; lower the levels or "
            f"raise model.n_ctx"
        )

    def row(rng: Random, _item: int, level: int, control: bool) -> tuple[list[int], list[int]]:
        return _row(words.encoder, draw(rng, level, control), length, name)

    return draw_graded(
        name,
        levels,
        config.n_items,
        seed,
        row,
        key=f"python.{name}",
        unsuited="tokenizer",
        advice=f"change the levels or data.d_vocab, or leave {name} out of names",
    )


def _length(name: Name, draw: Draw, levels: Sequence[int], words: Words, seed: int) -> int:
    """Tokens of a prompt with its separator at the highest level: the most frequent number among a few rows."""
    level, code = (0, levels[-1]) if name == "context" else (levels[-1], 0)
    found = Counter(
        1 + len(words.encoder.encode(draw(rng, level, False).documents[-1])) for rng in islice(tries(seed, name), 32)
    )
    return found.most_common(1)[0][0] + code + (1 + SPARE if name in PADDED else 0)


def _row(encoder: Encoder, draft: Draft, length: int, name: Name) -> tuple[list[int], list[int]]:
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
    if len(row) < length or len(prompt) >= length or (name not in PADDED and len(row) != length):
        raise Unsuited("length")
    return [*row[-length:], after[0]], after


def _quotes(rng: Random) -> tuple[str, str]:
    """The quote that a string is opened with, and the other one."""
    first, second = QUOTES
    return (first, second) if rng.random() < 0.5 else (second, first)


def _strings(words: Words) -> tuple[str, str, str]:
    """What stands before a string, and around words in it that are not quoted: twice."""

    def length(before: str, around: str) -> int:
        return len(words.encoder.encode(f"{before}x {around[0]}y{around[1]} z"))

    for before in BEFORE_STRING:
        quoted = {length(before + quote, other * 2) for quote, other in (QUOTES, QUOTES[::-1])}
        equal = [around for around in AROUND if {length(before + quote, around) for quote in QUOTES} == quoted]
        if len(quoted) == 1 and len(equal) > 1:
            return before, equal[0], equal[1]
    raise ValueError(
        f"names has difficulty or context, but no two of {' '.join(AROUND)} are as long as quotes in this tokenizer; "
        f"change data.d_vocab or leave both out"
    )


def _difficulty(words: Words, levels: Sequence[int]) -> Draw:
    before, neutral, alike = _strings(words)

    def draw(rng: Random, level: int, control: bool) -> Draft:
        first, *inside, last = words.draw(rng, 2 + levels[-1], "difficulty")
        quote, other = _quotes(rng)
        special = set(rng.sample(range(levels[-1]), levels[-1])[:level])
        around = [(alike if control else other * 2) if i in special else neutral for i in range(levels[-1])]
        said = [f"{start}{word}{end}" for word, (start, end) in zip(inside, around, strict=True)]
        prompt = f"{before}{quote}{' '.join([first, *said, last])}"
        return Draft(documents=(prompt,), answer=quote, others=(other,), continuation=_end(before))

    return draw


def _end(before: str) -> str:
    """What stands behind a string."""
    return ")\n" if before.endswith("(") else "\n"


def _choices(words: Words, levels: Sequence[int]) -> Draw:
    def filled(form: str, kind: str, digits: Sequence[str]) -> str:
        return form.format(o=kind, c=CLOSED_BY[kind], **dict(zip("def", digits, strict=True)))

    def n_tokens(form: str) -> int:
        return words.n_tokens(f" {filled(form, '[', '123')}")

    equal = [forms for forms in product(OPEN, CLOSED, SLOTS) if len({n_tokens(form) for form in forms}) == 1]
    if not equal:
        raise ValueError(
            "names has choices, but no terms with an open bracket, a closed one and none have as many tokens; change "
            "data.d_vocab or leave choices out"
        )
    opened, closed, slot = equal[0]

    def draw(rng: Random, level: int, control: bool) -> Draft:
        (name,) = words.draw(rng, 1, "choices")
        asked, *kinds = rng.sample(list(CLOSED_BY), len(CLOSED_BY))
        special = set(rng.sample(range(levels[-1] - 1), levels[-1] - 1)[: level - 1])
        terms = [
            filled(slot if i not in special else closed if control else opened, kinds[i], rng.sample(DIGITS, 3))
            for i in range(levels[-1] - 1)
        ]
        prompt = f"{name} = {''.join(terms)}{asked}{', '.join(rng.sample(DIGITS, 3))}"
        others = tuple(CLOSED_BY[kind] for kind in kinds)
        return Draft(documents=(prompt,), answer=CLOSED_BY[asked], others=others, continuation="\n")

    return draw


def _context(words: Words, levels: Sequence[int]) -> Draw:
    start, _, _ = _strings(words)

    def draw(rng: Random, level: int, control: bool) -> Draft:
        said = words.draw(rng, 2, "context")
        quote, other = _quotes(rng)
        task = f"{start}{quote}{' '.join(said)}"
        before = _other_document(rng, words, levels[-1] + 2 * SPARE, set(said))
        code = _code_of_length(rng, words, level, set(said)) if level else ""
        documents = (before, code, task) if control and code else (before, code + task)
        return Draft(documents=documents, answer=quote, others=(other,), continuation=_end(start))

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
            inside = lines[end][0] in " \n)]}" or lines[end].startswith(("else", "elif", "except", "finally"))
            if inside or lines[end - 1].startswith("@"):
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
    def draw(rng: Random, level: int, control: bool) -> Draft:
        asked, given, *names = words.draw(rng, 2 * (1 + levels[-1]), "conflict")
        told = "unusual" if level and not control else "usual"

        def functions(indent: str, n: int) -> str:
            pairs = zip(names[::2], names[1::2], strict=True)
            return "".join(f"def {name}({x}):\n{indent}return {x}\n\n\n" for name, x in islice(pairs, n))

        longest = len(words.encoder.encode(functions(INDENTS["usual"], levels[-1])))
        before = _other_document(rng, words, longest + 3 * SPARE, {asked, given, *names})
        task = f"{functions(INDENTS[told], level)}def {asked}({given}):\n"
        (other,) = (indent for key, indent in INDENTS.items() if key != told)
        return Draft(documents=(before, task), answer=INDENTS[told], others=(other,), continuation=f"return {given}\n")

    return draw


_DRAWS: dict[Name, Callable[[Words, Sequence[int]], Draw]] = {
    "difficulty": _difficulty,
    "choices": _choices,
    "context": _context,
    "conflict": _conflict,
}
