"""In-context tasks for a pretrained model: examples of one relation each, graded by how well known their subjects are.

1. A task is a relation of `data/knowledge` in one wording, or a kind of sums that needs no package.
2. Its difficulty is known without asking the model: the less frequent a word, the fewer people in a country, the harder; forms that follow no
   rule are harder than those that do; sums by their digits.
3. Examples are drawn by a seed and dealt out: those that are asked, and the pool of demonstrations. Where there are too few for both, every
   example is in the pool of all others (leave one out).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from sparsetrain.curriculum.prompts import Example, WordingConfig
from sparsetrain.data.knowledge import RELATIONS, Fact, facts_of, versions

SUMS = "sums"
DIGITS = (1, 2, 3)
WORDS = 2000
"""Most frequent words of a relation of words: rarer ones are pieces to a tokenizer. ours"""
ENDINGS = {"past_tense": "ed", "plural": "s"}
"""Of regular forms."""
IRREGULAR = 10.0
"""More than any frequency: irregular forms are harder than all others. ours"""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Examples of one task."""

    name: str
    difficulty: str
    """What makes an example harder, in words."""
    wording: WordingConfig
    examples: Sequence[Example]
    sources: Mapping[str, str]
    """Package -> version."""


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """The examples that take part, and their parts: numbers into `examples`."""

    examples: tuple[Example, ...]
    asked: tuple[int, ...]
    pool: tuple[int, ...]

    @property
    def leaves_one_out(self) -> bool:
        """Whether the examples that are asked are in the pool of the others."""
        return not set(self.asked).isdisjoint(self.pool)


def is_regular(word: str, form: str, ending: str) -> bool:
    """Whether a form is its word (a last y aside: try, tried) with an ending behind it; not so leaf, leaves."""
    return form.startswith(word.removesuffix("y")) and form.endswith(ending)


def _relation(name: str) -> Task:
    relation, facts = RELATIONS[name], list(facts_of(name))[:WORDS]
    ending = ENDINGS.get(name)

    def difficulty(fact: Fact) -> float:
        irregular = ending is not None and not is_regular(fact.subject, fact.answer, ending)
        return IRREGULAR * irregular - fact.fame

    return Task(
        name=name,
        difficulty=f"{'irregular, then ' if ending else ''}less {relation.fame}",
        wording=WordingConfig(example=f"{relation.subject}: {{question}}\n{relation.answer}: {{answer}}\n\n"),
        examples=[
            Example(question=fact.subject, answer=fact.answer, difficulty=difficulty(fact), place=name)
            for fact in facts
        ],
        sources=versions([name]),
    )


def sums(n: int = 900) -> Task:
    """Sums of two numbers of as many digits, as many of each; of one digit there are fewer, half of all that there can be.

    The same numbers the other way round are the same sum: its answer could be copied from there.
    """
    rng = Random("sums")
    found: dict[tuple[int, int], Example] = {}
    for digits in DIGITS:
        least, most = 10 ** (digits - 1) if digits > 1 else 0, 10**digits
        n_found, n_possible = len(found), (most - least) * (most - least + 1) // 2
        while len(found) < n_found + min(n // len(DIGITS), n_possible // 2):
            a, b = (rng.randrange(least, most) for _ in range(2))
            if (b, a) not in found:
                found[a, b] = Example(question=f"{a} + {b}", answer=str(a + b), difficulty=float(digits), place=SUMS)
    return Task(
        name=SUMS,
        difficulty="more digits",
        wording=WordingConfig(example="Sum: {question}\nResult: {answer}\n\n"),
        examples=list(found.values()),
        sources={},
    )


TASKS: Mapping[str, Callable[[], Task]] = {SUMS: sums, **{name: partial(_relation, name) for name in RELATIONS}}
"""By name. Raises ValueError where a package is not installed."""


def deal(task: Task, usable: Callable[[Example], bool], *, n_asked: int, n_pool: int, seed: int) -> Dealt:
    """Examples drawn at random: `n_asked` questions and a pool of `n_pool`, or leave one out of all there are.

    Args:
        task: its examples, each question once.
        usable: whether a tokenizer can write an example.
        n_asked: questions of a task.
        n_pool: examples that may be shown.
        seed: of what is drawn.

    Raises:
        ValueError: fewer than three examples can be used.
    """
    rng = Random(f"{seed}:{task.name}")
    order = rng.sample(list(task.examples), len(task.examples))
    kept = [example for example in order if usable(example)][: n_asked + n_pool]
    if len(kept) < 3:
        raise ValueError(f"only {len(kept)} examples of {task.name} can be written with this tokenizer; leave it out")
    everything = tuple(range(len(kept)))
    if len(kept) < n_asked + n_pool:
        return Dealt(examples=tuple(kept), asked=everything[:n_asked], pool=everything)
    return Dealt(examples=tuple(kept), asked=everything[:n_asked], pool=everything[n_asked:])
