"""Prompts with one answer, harder by degrees: sums, in-context rules, options, context, contradiction. Each beside a control of the same form.

| set                  | what grows with the level                        | control                                                         |
|----------------------|--------------------------------------------------|-----------------------------------------------------------------|
| `digits`             | digits of both numbers of a sum                  | the same sum among the demonstrations: its answer can be copied |
| `steps`              | numbers of one digit that are added              | the same                                                        |
| `rules`              | the rule, as hard as it was judged beforehand    | the same question among the demonstrations                      |
| `choices`            | lines that are options                           | as many lines with the same names, two of them options          |
| `context_irrelevant` | tokens of prose in front of the question         | the question first, then the prose                              |
| `context_relevant`   | tokens of other facts of the relation            | the question first, then the facts                              |
| `conflict`           | times a false statement stands in front          | as often the true one                                           |

Prompts of a row end in the same tokens on both sides, and have the same length but for the names that they exchange.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from sparsetrain.data.knowledge import Fact, facts_of, versions
from sparsetrain.data.probes import SIDES, Builder, Probe, Probes, ProbesConfig, ProbeTokenizer, Side
from sparsetrain.data.probes.texts import N_CHARS, pieces_of, version_of

MIN_ROWS = 8
"""Below that no set is made."""
N_KNOWN = 4
"""Facts that are tried for each row of `conflict`, since only known ones count."""
POOL = 1500
"""Best known words of a rule from which questions are drawn. ours"""
SENTENCES: Mapping[str, tuple[str, str]] = {
    "capital": ("What is the capital of {}?", "The capital of {} is"),
    "currency": ("What is the currency of {}?", "The currency of {} is the"),
    "symbol": ("What is the chemical symbol of {}?", "The chemical symbol of {} is"),
}
"""Relation -> question, and the statement that its answer ends."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as text; tokens of a context are put between its parts."""

    before: str
    after: str = ""
    answer: str
    context: tuple[int, ...] = ()


Rows = Iterator[Mapping[tuple[Side, int], Prompt] | str]
"""Row by row: (side, level) -> prompt; or why the row is left out."""


def tokens_of(tokenizer: ProbeTokenizer, prompt: Prompt) -> tuple[tuple[int, ...], int] | None:
    """Tokens and how many of them are the answer; None: the answer does not begin with a token of its own."""
    n_front = len(tokenizer.encode(""))
    asked = tokenizer.encode(prompt.after)[n_front:] if prompt.after else tokenizer.encode(prompt.before)
    whole = (
        tokenizer.encode(prompt.after + prompt.answer)[n_front:]
        if prompt.after
        else tokenizer.encode(prompt.before + prompt.answer)
    )
    if whole[: len(asked)] != asked or len(whole) == len(asked):
        return None
    front = [*tokenizer.encode(prompt.before), *prompt.context] if prompt.after else []
    return (*front, *whole), len(whole) - len(asked)


def matched(
    rows: Rows,
    tokenizer: ProbeTokenizer,
    *,
    n_rows: int,
    levels: Sequence[str],
    shift: str,
    control: str,
    frequencies: Mapping[int, float] | None = None,
    sources: Mapping[str, str] | None = None,
) -> Probes:
    """A matched set of the first `n_rows` rows whose prompts can all be written.

    Raises:
        ValueError: fewer than `MIN_ROWS` are left.
    """
    rejected: Counter[str] = Counter()
    kept: list[dict[tuple[Side, int], tuple[tuple[int, ...], int]]] = []
    for row in rows:
        if len(kept) == n_rows:
            break
        if isinstance(row, str):
            rejected[row] += 1
            continue
        written = {place: tokens_of(tokenizer, prompt) for place, prompt in row.items()}
        if any(tokens is None for tokens in written.values()):
            rejected["the answer does not begin with a token of its own"] += 1
            continue
        kept.append({place: tokens for place, tokens in written.items() if tokens is not None})
    if len(kept) < MIN_ROWS:
        raise ValueError(
            f"only {len(kept)} rows of {shift!r} can be made with this tokenizer ({dict(rejected) or 'no more material'}); {MIN_ROWS} are needed, "
            f"leave the set out"
        )
    return Probes(
        shift=shift,
        control=control,
        levels=tuple(levels),
        probes=tuple(
            Probe(
                tokens=kept[row][side, level][0],
                n_answer=kept[row][side, level][1],
                level=level,
                side=side,
                row=row,
                frequency=(frequencies or {}).get(row, float("nan")),
            )
            for side in SIDES
            for level in range(len(levels))
            for row in range(len(kept))
        ),
        rejected=dict(rejected),
        sources=sources or {},
    )


def drawn(config: ProbesConfig, name: str, row: int) -> Random:
    """The generator of a row."""
    return Random(f"{config.seed}:{name}:{row}")


def demonstrated(rng: Random, shown: Sequence[str], asked: str, answer: str, form: str) -> dict[Side, Prompt]:
    """A question behind demonstrations; in the control it takes the place of one of them, so that its answer can be copied.

    Args:
        rng: says which one.
        shown: demonstrations, already in `form`.
        asked: of the question.
        answer: of the question.
        form: demonstration with {} for question and answer.
    """
    head, _, tail = form.partition("{answer}")
    question = head.format(question=asked).rstrip(" ")
    answer = f" {answer}" if head.endswith(" ") else answer
    copied = [*shown]
    copied[rng.randrange(len(copied))] = f"{question}{answer}{tail}"
    return {
        side: Prompt(before="".join(front) + question, answer=answer)
        for side, front in zip(SIDES, (shown, copied), strict=True)
    }


SUM = "{question}={answer}\n"


def _sums(config: ProbesConfig, name: str, numbers: Sequence[Callable[[Random], list[int]]]) -> Rows:
    """Rows of sums: of each level a function that draws what is added."""
    for row in range(50 * config.n_prompts):
        rng = drawn(config, name, row)
        prompts: dict[tuple[Side, int], Prompt] = {}
        for level, draw in enumerate(numbers):
            sums: list[list[int]] = []
            while len(sums) <= config.n_demonstrations:
                if (candidate := draw(rng)) not in sums:
                    sums.append(candidate)
            shown = [SUM.format(question="+".join(map(str, added)), answer=sum(added)) for added in sums[1:]]
            asked = demonstrated(rng, shown, "+".join(map(str, sums[0])), str(sum(sums[0])), SUM)
            prompts |= {(side, level): prompt for side, prompt in asked.items()}
        yield prompts


COPIED = "the same question stands among the demonstrations, its answer can be copied"


def _of_sums(
    config: ProbesConfig,
    tokenizer: ProbeTokenizer,
    name: str,
    levels: Mapping[str, Callable[[Random], list[int]]],
    shift: str,
) -> Probes:
    """A set of sums: name of each level -> what draws the numbers that are added."""
    return matched(
        _sums(config, name, list(levels.values())),
        tokenizer,
        n_rows=config.n_prompts,
        levels=list(levels),
        shift=shift,
        control=COPIED,
    )


def digits(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Sums of two numbers, of more digits each."""

    def of(n: int) -> Callable[[Random], list[int]]:
        return lambda rng: [rng.randrange(10 ** (n - 1) if n > 1 else 1, 10**n) for _ in range(2)]

    levels = {f"{n} digit{'s' if n > 1 else ''}": of(n) for n in config.digits}
    return _of_sums(config, tokenizer, "digits", levels, "digits of both numbers of a sum")


def steps(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Sums of ever more numbers of one digit."""

    def of(n: int) -> Callable[[Random], list[int]]:
        return lambda rng: [rng.randrange(1, 10) for _ in range(n)]

    levels = {f"{n} numbers": of(n) for n in config.steps}
    return _of_sums(config, tokenizer, "steps", levels, "numbers of one digit that are added")


RULE = "{question} -> {answer}\n"


def rules(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """In-context tasks on words, ever harder by a judgement made beforehand."""
    facts = [list(facts_of(rule))[:POOL] for rule in config.rules]

    def rows() -> Rows:
        for row in range(min(map(len, facts))):
            rng = drawn(config, "rules", row)
            prompts: dict[tuple[Side, int], Prompt] = {}
            for level, known in enumerate(facts):
                asked, *shown = rng.sample(known, 1 + config.n_demonstrations)
                lines = [RULE.format(question=fact.subject, answer=fact.answer) for fact in shown]
                both = demonstrated(rng, lines, asked.subject, asked.answer, RULE)
                prompts |= {(side, level): prompt for side, prompt in both.items()}
            yield prompts

    return matched(
        rows(),
        tokenizer,
        n_rows=config.n_prompts,
        levels=config.rules,
        shift="the rule that demonstrations follow, judged harder beforehand",
        control=COPIED,
        sources=versions(config.rules),
    )


def known_first(relation: str, n: int) -> list[Fact]:
    """The best known facts of a relation, those of one answer each once."""
    seen: set[str] = set()
    found = [fact for fact in facts_of(relation) if not (fact.answer in seen or seen.add(fact.answer))]
    return found[:n]


def choices(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """A question with more options; in the control the same names stand in lines that are no options."""
    facts = known_first("capital", 2 * config.n_prompts)
    most = max(config.choices)

    def rows() -> Rows:
        for row, fact in enumerate(facts):
            rng = drawn(config, "choices", row)
            others = [other.answer for other in rng.sample([f for f in facts if f != fact], most - 1)]
            prompts: dict[tuple[Side, int], Prompt] = {}
            for level, n in enumerate(config.choices):
                names = [fact.answer, *others[: n - 1]]
                places = Random(f"{config.seed}:{row}:{n}").sample(range(n), n)
                for side in SIDES:
                    lines = [
                        f"{'Option' if side == 'shift' or i < 2 else 'Note'}: {names[i]}" for i in places
                    ]  # the answer and one more are options on both sides
                    question = SENTENCES["capital"][0].format(fact.subject)
                    before = "\n".join(
                        [f"Question: {question}", *lines, f"Answer: {SENTENCES['capital'][1].format(fact.subject)}"]
                    )
                    prompts[side, level] = Prompt(before=before, answer=f" {fact.answer}")
            yield prompts

    return matched(
        rows(),
        tokenizer,
        n_rows=config.n_prompts,
        levels=[f"{n} options" for n in config.choices],
        shift="lines that are options of a question",
        control="as many lines with the same names, two of them options",
        sources=versions(["capital"]),
    )


def _context(
    config: ProbesConfig,
    tokenizer: ProbeTokenizer,
    text_of: Callable[[Random, Fact], str],
    *,
    shift: str,
    sources: Mapping[str, str],
) -> Probes:
    facts = known_first("capital", 2 * config.n_prompts)
    n_front, most = len(tokenizer.encode("")), max(config.context)

    def rows() -> Rows:
        for row, fact in enumerate(facts):
            ids = tokenizer.encode(text_of(drawn(config, shift, row), fact))[n_front:][:most]
            if len(ids) < most:
                yield f"its text has fewer than {most} tokens"
                continue
            question, statement = (sentence.format(fact.subject) for sentence in SENTENCES["capital"])
            end = f"Answer: {statement}"
            prompts: dict[tuple[Side, int], Prompt] = {}
            for level, n in enumerate(config.context):
                answer, ids_n = f" {fact.answer}", tuple(ids[:n])
                if not n:
                    plain = Prompt(before=f"Question: {question}\n{end}", answer=answer)
                    prompts |= {(side, level): plain for side in SIDES}
                    continue
                prompts["shift", level] = Prompt(
                    before="", context=ids_n, after=f"\nQuestion: {question}\n{end}", answer=answer
                )
                prompts["control", level] = Prompt(
                    before=f"Question: {question}\n", context=ids_n, after=f"\n{end}", answer=answer
                )
            yield prompts

    return matched(
        rows(),
        tokenizer,
        n_rows=config.n_prompts,
        levels=[f"{n} tokens" for n in config.context],
        shift=shift,
        control="the question first, then as many tokens of the same text",
        sources={**sources, **versions(["capital"])},
    )


def context_irrelevant(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """A question behind prose that has nothing to do with it."""
    prose = list(pieces_of("prose", config.seed, config.n_tokens))
    most = max(config.context)

    def text(rng: Random, asked: Fact) -> str:
        pieces = iter(rng.sample(prose, len(prose)))
        joined = ""
        while len(joined) < N_CHARS * most and (piece := next(pieces, None)) is not None:
            joined += f"{piece.text.strip()}\n\n"
        return joined

    return _context(
        config,
        tokenizer,
        text,
        shift="tokens of prose in front of the question",
        sources={name: version_of(name) for name in {piece.package for piece in prose}},
    )


def context_relevant(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """A question behind other facts of its relation."""
    facts = known_first("capital", 1000)

    def text(rng: Random, asked: Fact) -> str:
        others = [fact for fact in facts if fact != asked]
        return " ".join(
            f"{SENTENCES['capital'][1].format(f.subject)} {f.answer}." for f in rng.sample(others, len(others))
        )

    return _context(
        config, tokenizer, text, shift="tokens of other facts of the same relation in front of the question", sources={}
    )


def conflict(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """False statements about facts, in front of a question about them; which facts a model knows is seen at level 0."""
    relations = ("capital", "symbol")

    def rows() -> Rows:
        for relation in relations:
            facts = known_first(relation, N_KNOWN * config.n_prompts // len(relations))
            question, statement = SENTENCES[relation]
            for row, fact in enumerate(facts):
                rng = drawn(config, f"conflict {relation}", row)
                near = [f for f in facts[max(0, row - 20) : row + 21] if f != fact]  # as well known as itself
                false = rng.choice(near)
                prompts: dict[tuple[Side, int], Prompt] = {}
                for level, n in enumerate(config.conflict):
                    for side, said in zip(SIDES, (false, fact), strict=True):
                        told = f"{statement.format(fact.subject)} {said.answer}.\n" * n
                        before = (
                            f"{told}Question: {question.format(fact.subject)}\nAnswer: {statement.format(fact.subject)}"
                        )
                        prompts[side, level] = Prompt(before=before, answer=f" {fact.answer}")
                yield prompts

    return matched(
        rows(),
        tokenizer,
        n_rows=N_KNOWN * config.n_prompts,
        levels=[f"{n} times" for n in config.conflict],
        shift="times that a false statement stands in front of the question",
        control="as often the true statement",
        sources=versions(relations),
    )


PROMPTS: Mapping[str, Builder] = {
    "digits": digits,
    "steps": steps,
    "rules": rules,
    "choices": choices,
    "context_irrelevant": context_irrelevant,
    "context_relevant": context_relevant,
    "conflict": conflict,
}
"""By name, in the order of the page."""
