"""Two sides of one question, familiar and shifted input, each answered sometimes: what the causal test of adaptation is made on.

| set          | familiar                                    | shifted                                              | prompt           |
|--------------|---------------------------------------------|------------------------------------------------------|------------------|
| `capitals`   | countries of the more populous half         | of the two fifths behind them                        | `Country: France Capital:` |
| `arithmetic` | sums of two numbers of one digit            | of a number of two digits and one of one             | `12 + 5 =`       |
| `rules`      | the 1,000 most frequent words in capitals   | words of rank 3,000 to 8,000                         | `house ->`       |

1. In front of every question of a set stand the same demonstrations, as many of either side.
2. Of capitals and words both sides have as many answers of each length in tokens; sums of one digit are shorter than others, and cannot.
3. Forms and bounds were chosen by accuracy alone, on SmolLM2-135M: both sides have to be answered sometimes and not always.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product, zip_longest
from random import Random

from sparsetrain.data.knowledge import facts_of, versions
from sparsetrain.data.probes import Builder, Probe, Probes, ProbesConfig, ProbeTokenizer
from sparsetrain.data.probes.prompts import MIN_ROWS, Prompt, tokens_of

LEVELS = ("familiar", "shifted")
FAMOUS, OBSCURE = (0.0, 0.5), (0.5, 0.9)
"""Shares of the countries, the most populous first. Of the last tenth a small model hardly knows a capital. ours"""
FREQUENT, RARE = (0, 1000), (3000, 8000)
"""Ranks of words. ours"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question in words, and how well known it is."""

    question: str
    answer: str
    fame: float = float("nan")


def two_sided(
    config: ProbesConfig,
    tokenizer: ProbeTokenizer,
    sides: Sequence[Sequence[Question]],
    *,
    name: str,
    form: str,
    shift: str,
    same_lengths: bool,
    sources: Mapping[str, str] | None = None,
) -> Probes:
    """Up to `n_prompts` questions of each side, drawn in random order, behind the same demonstrations.

    Args:
        config: of the builder.
        tokenizer: of the builder.
        sides: familiar and shifted questions.
        name: of the set.
        form: of a question, with {}; its answer follows behind a blank.
        shift: what makes the second side farther.
        same_lengths: whether both sides get as many answers of each length in tokens.
        sources: package -> version.

    Raises:
        ValueError: fewer than `MIN_ROWS` of a side are left.
    """
    rng = Random(f"{config.seed}:{name}")
    drawn = [rng.sample(questions, len(questions)) for questions in sides]
    # The first of either side by turns.
    in_turn = [q for q in chain.from_iterable(zip_longest(*drawn)) if q is not None]
    shown = in_turn[: config.n_demonstrations]
    front = "".join(f"{form.format(q.question)} {q.answer}\n" for q in shown)
    rejected: Counter[str] = Counter()
    written: list[list[tuple[Question, tuple[int, ...], int]]] = [[] for _ in LEVELS]
    for level, questions in enumerate(drawn):
        for q in questions:
            if q in shown:
                continue
            prompt = Prompt(before=front + form.format(q.question), answer=f" {q.answer}")
            if (tokens := tokens_of(tokenizer, prompt)) is None:
                rejected["the answer does not begin with a token of its own"] += 1
            else:
                written[level].append((q, *tokens))
    if same_lengths:
        written = _same_lengths(written, config.n_prompts)
    kept = [questions[: config.n_prompts] for questions in written]
    for level, questions in zip(LEVELS, kept, strict=True):
        if len(questions) < MIN_ROWS:
            raise ValueError(
                f"only {len(questions)} {level} questions of {name} can be made with this tokenizer ({dict(rejected) or 'no more material'}); "
                f"{MIN_ROWS} are needed, leave the set out or raise study.frozen.probes.n_prompts={config.n_prompts}"
            )
    return Probes(
        shift=shift,
        levels=LEVELS,
        matched=False,
        probes=tuple(
            Probe(tokens=tokens, n_answer=n_answer, level=level, row=row, frequency=q.fame)
            for level, questions in enumerate(kept)
            for row, (q, tokens, n_answer) in enumerate(questions)
        ),
        rejected=dict(rejected),
        sources=sources or {},
    )


def _same_lengths(
    written: Sequence[Sequence[tuple[Question, tuple[int, ...], int]]], n_most: int
) -> list[list[tuple[Question, tuple[int, ...], int]]]:
    """The first pairs, one question of each side, whose answers have as many tokens."""
    waiting: dict[int, list[list[tuple[Question, tuple[int, ...], int]]]] = defaultdict(lambda: [[] for _ in LEVELS])
    pairs: list[tuple[tuple[Question, tuple[int, ...], int], ...]] = []
    for turn in zip_longest(*written):
        for level, one in enumerate(turn):
            if one is None:
                continue
            queues = waiting[one[2]]
            queues[level].append(one)
            if all(queues):
                pairs.append(tuple(queue.pop(0) for queue in queues))
    return [list(side) for side in zip(*pairs[:n_most], strict=True)] or [[] for _ in LEVELS]


def capitals(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Capitals of populous countries and of less populous ones."""
    known = [Question(question=f.subject, answer=f.answer, fame=f.fame) for f in facts_of("capital")]
    sides = [known[round(a * len(known)) : round(b * len(known))] for a, b in (FAMOUS, OBSCURE)]
    return two_sided(
        config,
        tokenizer,
        sides,
        name="capitals",
        form="Country: {} Capital:",
        shift="the country has fewer people: the two fifths of countries behind the more populous half",
        same_lengths=True,
        sources=versions(["capital"]),
    )


def arithmetic(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Sums of small numbers and of larger ones."""
    sides = [
        [Question(question=f"{a} + {b}", answer=str(a + b)) for a, b in product(first, range(10))]
        for first in (range(10), range(10, 100))
    ]
    return two_sided(
        config,
        tokenizer,
        sides,
        name="arithmetic",
        form="{} =",
        shift="the first of the two numbers that are added has two digits instead of one",
        same_lengths=False,
    )


def rules(config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Frequent and rare words in capitals."""
    words = [Question(question=f.subject, answer=f.answer, fame=f.fame) for f in facts_of("upper_case")]
    return two_sided(
        config,
        tokenizer,
        [words[a:b] for a, b in (FREQUENT, RARE)],
        name="rules",
        form="{} ->",
        shift=f"the word that is put in capitals is rarer: rank {RARE[0]:,} to {RARE[1]:,} instead of 1 to {FREQUENT[1]:,}",
        same_lengths=True,
        sources=versions(["upper_case"]),
    )


ADAPTIVE: Mapping[str, Builder] = {"capitals": capitals, "arithmetic": arithmetic, "rules": rules}
"""By name, in the order of the page."""
