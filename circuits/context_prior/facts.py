"""Conflicts out of facts: what packages say of countries and elements, and an answer of another subject that contradicts it.

1. A relation has a statement and a question (`SAID`), and facts with one right answer each, graded by fame. `sums` needs no package.
2. The contradicting answer is that of another subject of the same relation: of those that stood there least often so far, one drawn by a hash. So
   every answer contradicts about equally often, whoever it belongs to, and no answer is false more often than others.
3. A subject with several right answers, or whose name gives an answer away, makes no conflict. Whether two answers begin with the same tokens
   depends on the model: such a row is left out, and counted, where cases are made (`circuits.prior.cases`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np

from circuits.prior.conflicts import Conflict, WordingConfig
from circuits.prior.study import ExamineConfig
from sparsetrain.data.knowledge import RELATIONS, Fact, facts_of, versions
from sparsetrain.typed import Count, Index

BEST_KNOWN = 2 / 3
"""Share of a relation's conflicts that are of its best known subjects; the others are evenly spaced among the rest. ours"""
MAX_ADDEND = 9
N_FIT = 24
"""Fitting cases over all relations. ours"""
SUBJECT, ANSWER = "{subject}", "{answer}"


def sums() -> list[Fact]:
    """3 + 4: 7"""
    addends = range(1, MAX_ADDEND + 1)
    found = [(a, b) for a in addends for b in addends if a != b and a + b <= MAX_ADDEND]
    return [Fact(relation="sums", subject=f"{a} + {b}", answer=str(a + b), fame=-float(max(a, b))) for a, b in found]


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a relation is put.

    Args:
        statement: says that a subject has an answer.
        question: what an answer follows, behind a blank.
        fame: what its facts are graded by, in words.
        facts: all of them.
        plain: whether it needs no package.
    """

    statement: str
    question: str
    fame: str = ""
    facts: Callable[[], Sequence[Fact]]
    plain: bool = False


def _known(name: str, statement: str, question: str) -> Said:
    return Said(
        statement=statement, question=question, fame=RELATIONS[name].fame, facts=lambda: facts_of(name), plain=False
    )


SAID: dict[str, Said] = {
    "capital": _known("capital", "The capital of {subject} is {answer}.", "The capital of {subject} is"),
    "currency": _known("currency", "The currency of {subject} is the {answer}.", "The currency of {subject} is the"),
    "symbol": _known("symbol", "The chemical symbol of {subject} is {answer}.", "The chemical symbol of {subject} is"),
    "language": _known("language", "The main language of {subject} is {answer}.", "The main language of {subject} is"),
    "continent": _known("continent", "{subject} is a country on the continent of {answer}.", "{subject} is a country on the continent of"),
    "sums": Said(statement="{subject} = {answer}", question="{subject} =", fame="minus the larger number", facts=sums, plain=True),
}  # fmt: skip
"""Relations by name, in the order of the page."""


@dataclass(frozen=True, kw_only=True)
class ConflictsConfig:
    """Which conflicts are put to the model, how, and how arms are tuned. ours"""

    relations: tuple[str, ...] = ()
    """Names in `SAID`; none given: all, or with study.frozen.plain_only=true those that need no package."""
    n: Count = 80
    """Conflicts of each relation, as far as there are so many facts."""
    seed: Index = 0
    """Of the contradicting answers."""
    wording: WordingConfig = field(default_factory=WordingConfig)
    examine: ExamineConfig = field(default_factory=lambda: ExamineConfig(n_fit=N_FIT))

    def __post_init__(self) -> None:
        if unknown := [name for name in self.relations if name not in SAID]:
            raise ValueError(f"relations has {', '.join(unknown)}; there are {', '.join(SAID)}")
        if twice := [name for name, n in Counter(self.relations).items() if n > 1]:
            raise ValueError(f"relations has {', '.join(twice)} more than once; give each once")


def names_of(config: ConflictsConfig, plain_only: bool) -> tuple[str, ...]:
    """The relations that are meant.

    Raises:
        ValueError: one needs a package, and `plain_only` allows none.
    """
    plain = tuple(name for name, said in SAID.items() if said.plain)
    if not plain_only:
        return config.relations or tuple(SAID)
    if needy := [name for name in config.relations if name not in plain]:
        raise ValueError(
            f"study.conflicts.relations has {', '.join(needy)}, which needs packages; with study.frozen.plain_only=true there are "
            f"{', '.join(plain)}"
        )
    return config.relations or plain


def packages_of(relations: Sequence[str]) -> dict[str, str]:
    """Package -> version, of all that the relations rest on."""
    return versions([name for name in relations if not SAID[name].plain])


def conflicts(relations: Sequence[str], n: int, seed: int) -> list[Conflict]:
    """The rows of some relations, `n` of each as far as there are so many."""
    return [row for name in relations for row in rows_of(name, chosen(usable(SAID[name].facts()), n), seed)]


def usable(facts: Sequence[Fact]) -> list[Fact]:
    """Facts of subjects that have one right answer, best known first."""
    right: dict[str, set[str]] = {}
    for fact in facts:
        right.setdefault(fact.subject, set()).add(fact.answer)
    once = {fact.subject: fact for fact in facts if len(right[fact.subject]) == 1}
    return sorted(once.values(), key=lambda fact: (-fact.fame, fact.subject))


def chosen(facts: Sequence[Fact], n: int) -> list[Fact]:
    """`n` of the facts: `BEST_KNOWN` of them from the front, the others evenly spaced among the rest; all where there are no more."""
    if len(facts) <= n:
        return list(facts)
    front = round(n * BEST_KNOWN)
    at = front + np.linspace(0, len(facts) - front - 1, n - front).round().astype(int)
    return [*facts[:front], *(facts[int(i)] for i in at)]


def rows_of(relation: str, facts: Sequence[Fact], seed: int) -> list[Conflict]:
    """The conflicts of facts; a subject that no other answer contradicts has none."""
    said = SAID[relation]
    rows: list[Conflict] = []
    for fact, false in contradicted(facts, seed):
        question = said.question.replace(SUBJECT, fact.subject)
        context, agreeing = (
            said.statement.replace(SUBJECT, fact.subject).replace(ANSWER, answer) for answer in (false, fact.answer)
        )
        name = f"{relation}: {fact.subject}"
        rows.append(
            Conflict(
                place=name,
                context=context,
                question=question,
                prior=fact.answer,
                answer=false,
                agreeing=agreeing,
                fact=name,
                relation=relation,
                strength=fact.fame,
            )
        )
    return rows


def contradicted(facts: Sequence[Fact], seed: int) -> list[tuple[Fact, str]]:
    """Each fact with an answer that is false, in the order of the facts.

    Subjects are taken in an order drawn by a hash; of the answers that stood as false ones least often each gets the first in a hash of both.
    """

    def drawn(*words: str) -> bytes:
        return sha256("|".join((str(seed), *words)).encode()).digest()

    used: Counter[str] = Counter({fact.answer: 0 for fact in facts})
    found: dict[str, str] = {}
    for fact in sorted(facts, key=lambda fact: drawn(fact.relation, fact.subject)):
        others = [answer for answer in used if answer != fact.answer and not _given_away(answer, fact)]
        if not others:
            continue
        found[fact.subject] = min(others, key=lambda answer: (used[answer], drawn(fact.subject, answer)))
        used[found[fact.subject]] += 1
    return [(fact, found[fact.subject]) for fact in facts if fact.subject in found]


def _given_away(answer: str, fact: Fact) -> bool:
    """Whether a false answer stands in the subject's name or has the right one in it (or the other way round), so that text would not tell them apart."""
    a, b = answer.lower(), fact.answer.lower()
    words = set(fact.subject.lower().split())
    return len(a) > 1 and (a in words or (len(b) > 1 and (a in b or b in a)))
