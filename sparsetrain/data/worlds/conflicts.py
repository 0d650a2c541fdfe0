"""Facts of known exposure counts, and documents that state what they ask for: where memory and context can be set against each other.

1. Facts are drawn by `worlds/facts.py`: of every subject one fact for each exposure count in `levels`, and besides `n_given` bindings that only documents
   give. Every subject, relation and object is shown equally often, so exposure belongs to the binding.
2. A document is a first token and triples `relation subject object`. In a *recall* document every object has to be remembered. In a *given* document a
   triple states a binding whose object is drawn anew, or asks for the object of one that was stated before: reading the context is learned on bindings
   that memory cannot know. No document states two things of one subject.
3. A share `conflict` of all statements contradicts memory, and the document is right. Only subjects of the first third of the groups are concerned; the others,
   the clean ones, are never contradicted, and it is they that are asked about later: their exposure counts are exact.
4. A relation has several tokens, of which a share of all triples has another than the usual one. A share of the given documents begins with one of the tokens of
   trust, the same share of the recall documents with the one of distrust, all others with `PLAIN`.
5. Both kinds of documents are spread evenly over the training, as the exposures of every fact are.

Sources: exposures and Latin squares as in `facts.py`; repetition inside documents, a little inconsistency and uneven frequencies as knobs after Kim 2025,
arXiv 2510.02370. The world is ours.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.worlds.facts import ASK, Facts, Role, draw_facts
from sparsetrain.store import write_atomic
from sparsetrain.typed import Count

Ints = NDArray[np.int64]
Triple = tuple[int, int, int]
PLAIN = ASK
"""The first token of a document that says nothing about trust."""
LENGTH = 3
"""Tokens of a triple."""
KINDS = ("recall", "given")
TRAINING = 1
"""The draw of documents that is trained on."""
STATES = 0.5
"""Chance that a further triple of a given document states something. ours"""
LEFT_OUT = 0.05
"""Share of the statements that may find no document at the end. ours"""


@dataclass(frozen=True, kw_only=True)
class ConflictWorldConfig:
    """How many facts, how often each is shown, and what documents are like. Optimizer steps follow from it. ours"""

    n_groups: Count = 12
    """Subjects (and objects) in multiples of the number of relations. The first third of them is contradicted where `conflict` is above 0."""
    levels: tuple[int, ...] = (0, 1, 4, 16, 64, 256, 1024)
    """Exposure counts of facts; 0 is one of them. How uneven they are is the skew of what is known."""
    n_given: Count = 5
    """Bindings of each subject that documents alone give."""
    n_given_exposures: Count = 280
    """Statements of each of them."""
    n_triples: Count = 10
    """Of a document."""
    conflict: float = 0.0
    """Share of statements that contradict memory, 0 to 1/3; with a skew at most as many as there are about contradicted subjects."""
    repetition: float = 0.0
    """Share of the further statements of a document that say again what it has said, 0 to below 1."""
    skew: float = 0.0
    """Zipf's exponent of how often subjects occur in given documents; 0: equally often, and nothing else is balanced."""
    trusted: float = 0.1
    """Share of documents that begin with a token of trust, or distrust."""
    n_trust: Count = 4
    n_wordings: Count = 5
    """Tokens of a relation; the first is the usual one."""
    paraphrased: float = 0.1
    """Share of triples that are worded with another one."""

    def __post_init__(self) -> None:
        levels = list(self.levels)
        if len(levels) < 3 or levels != sorted(set(levels)) or levels[0] != 0:
            raise ValueError(f"levels={levels} must rise from 0, at least three of them")
        if not 0 <= self.conflict <= 1 / 3:
            raise ValueError(f"conflict={self.conflict} must lie in [0, 1/3]: a third of the subjects is contradicted")
        if self.conflict and self.n_groups < 3:
            raise ValueError(
                f"conflict={self.conflict} with n_groups={self.n_groups}: give 3 groups or more, a third of them is contradicted"
            )
        if not 0 <= self.repetition < 1:
            raise ValueError(f"repetition={self.repetition} must lie in [0, 1)")
        for key in ("trusted", "paraphrased"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)} must lie in [0, 1]")
        if self.skew < 0:
            raise ValueError(f"skew={self.skew} must be 0 or more")
        if self.n_triples < 2:
            raise ValueError(f"n_triples={self.n_triples} must be at least 2: a statement and a question")

    @property
    def roles(self) -> tuple[Role, ...]:
        """One per relation: facts by exposures, then given bindings."""
        return (
            *(Role(name=f"shown {n}", kind="shown", n=n) for n in self.levels),
            *(Role(name=f"given {i}", kind="unlearnable", n=self.n_given_exposures) for i in range(self.n_given)),
        )

    @property
    def n_new_subjects(self) -> int:
        """None: every subject is in documents."""
        return 0

    @property
    def n_relations(self) -> int:
        return len(self.levels) + self.n_given

    @property
    def n_subjects(self) -> int:
        """As many objects."""
        return self.n_groups * self.n_relations

    @property
    def n_contradicted(self) -> int:
        """Subjects that may be contradicted: the first ones."""
        return self.n_groups // 3 * self.n_relations

    @property
    def trust(self) -> tuple[int, ...]:
        """Tokens that ask to believe the document."""
        first = 1 + 2 * self.n_subjects + self.n_relations * self.n_wordings
        return tuple(range(first, first + self.n_trust))

    @property
    def distrust(self) -> int:
        """The token of recall documents."""
        return self.trust[-1] + 1

    @property
    def d_vocab(self) -> int:
        """Tokens: plain, subjects, objects, relations in every wording, trust, distrust."""
        return self.distrust + 1

    @property
    def n_tokens(self) -> int:
        """Of a document."""
        return 1 + LENGTH * self.n_triples

    def relation(self, relation: int, wording: int = 0) -> int:
        """The token of a relation in a wording."""
        return 1 + 2 * self.n_subjects + wording * self.n_relations + relation

    def subject(self, subject: int) -> int:
        return 1 + subject

    def object(self, number: int) -> int:
        return 1 + self.n_subjects + number


@dataclass(frozen=True, kw_only=True)
class ConflictWorld:
    """Facts, and the documents that a model is trained on in their order."""

    config: ConflictWorldConfig
    facts: Facts
    tokens: Ints
    """`[n_documents, 1 + 3 n_triples]`."""
    asked: NDArray[np.bool_]
    """Triples whose object has to be known: remembered, or read. `[n_documents, n_triples]`"""
    contradicts: NDArray[np.bool_]
    """Triples about a fact in which the document says something else than memory, stated or asked, `[n_documents, n_triples]`."""
    kind: Ints
    """Index in `KINDS`, `[n_documents]`."""

    @cached_property
    def rows(self) -> Ints:
        """What is trained on: tokens, behind them 1 for every triple that is asked, `[n_documents, 1 + 4 n_triples]`."""
        return np.concatenate([self.tokens, self.asked.astype(np.int64)], 1)

    @property
    def triples(self) -> Ints:
        """`[n_documents, n_triples, 3]` tokens."""
        return self.tokens[:, 1:].reshape(len(self.tokens), -1, LENGTH)

    def clean(self, n: int) -> Ints:
        """Facts shown `n` times whose subjects are never contradicted."""
        return np.flatnonzero(self.facts.of_kind("shown", n) & (self.facts.subject >= self.config.n_contradicted))

    def counts(self) -> dict[str, int]:
        """How many documents, exposures and statements there are, by kind."""
        given = self.kind == KINDS.index("given")
        return {
            "recall documents": int((~given).sum()),
            "given documents": int(given.sum()),
            "recalled objects": int(self.asked[~given].sum()),
            "statements": int((~self.asked).sum()),
            "statements that contradict memory": int((self.contradicts & ~self.asked).sum()),
            "questions": int(self.asked[given].sum()),
        }


def draw_world(config: ConflictWorldConfig, seed: int, draw: int = TRAINING) -> ConflictWorld:
    """Facts and documents; a function of config and seed, checked by `check_exposures`.

    Args:
        draw: of the documents. Another one has the same facts and exposure counts, in another order, and documents give other objects.
    """
    facts, rng = draw_facts(config, seed), np.random.default_rng([seed, draw])
    if draw != TRAINING:
        facts = _shown_anew(facts, rng)
    is_given = facts.of_kind("unlearnable")[facts.order]
    bindings = facts.rows[:, [1, 0, 3]] - [
        config.relation(0),
        config.subject(0),
        config.object(0),
    ]  # [exposure, 3] from 0
    statements = _Statements(config, facts, bindings[is_given], rng)
    recalled: list[list[Triple]] = [
        [(int(r), int(s), int(o)) for r, s, o in part]
        for part in np.array_split(
            bindings[~is_given], range(config.n_triples, int((~is_given).sum()), config.n_triples)
        )
    ]
    short = config.n_triples - len(recalled[-1])
    asked = [np.ones(config.n_triples, dtype=bool) for _ in recalled]
    if short:  # no fact is shown less often than it should be because a document would not be full
        recalled[-1] += statements.agreeing(short, [triple[1] for triple in recalled[-1]])
        asked[-1][config.n_triples - short :] = False
    documents = [
        (triples, of, np.zeros(config.n_triples, dtype=bool), 0) for triples, of in zip(recalled, asked, strict=True)
    ]
    given = [(*one, 1) for one in statements.documents()]
    turn = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in (documents, given)])
    every = [*documents, *given]
    every = [every[i] for i in np.argsort(turn, kind="stable")]
    world = ConflictWorld(
        config=config,
        facts=facts,
        tokens=_tokens(
            config,
            [triples for triples, *_ in every],
            np.array([kind for *_, kind in every]),
            np.stack([of for _, of, *_ in every]),
            rng,
        ),
        asked=np.stack([of for _, of, *_ in every]),
        contradicts=np.stack([of for _, _, of, _ in every]),
        kind=np.array([kind for *_, kind in every]),
    )
    check_exposures(world)
    return world


def _shown_anew(facts: Facts, rng: np.random.Generator) -> Facts:
    """The same bindings in another order, objects of given bindings dealt out anew among all of them."""
    order = rng.permutation(len(facts.order))
    rows, order = facts.rows[order], facts.order[order]
    given = facts.of_kind("unlearnable")[order]
    rows[given, 3] = rng.permutation(rows[given, 3])
    return replace(facts, order=order, rows=rows)


class _Statements:
    """Statements in the order in which they are to be made, and documents of them."""

    def __init__(self, config: ConflictWorldConfig, facts: Facts, given: Ints, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        first = config.relation(0)
        memory = {
            (int(s), int(p[1]) - first): int(p[3]) - config.object(0)
            for s, p, n in zip(facts.subject, facts.prompts, facts.n, strict=True)
            if n
        }
        given_roles = {
            (int(s), int(p[1]) - first)
            for s, p in zip(
                facts.subject[facts.of_kind("unlearnable")], facts.prompts[facts.of_kind("unlearnable")], strict=True
            )
        }
        self.known = {key: o for key, o in memory.items() if key not in given_roles}
        self.made = [(int(r), int(s), int(o)) for r, s, o in given]
        if config.skew:
            self.made = self._skewed(sorted(given_roles))
            self._check_room()
        self.waiting: list[tuple[Triple, bool]] = [*self._contradicted()][::-1]

    def _skewed(self, bindings: Sequence[tuple[int, int]]) -> list[Triple]:
        weights = (1.0 + self.rng.permutation(self.config.n_subjects)) ** -self.config.skew
        subjects = self.rng.choice(len(weights), size=len(self.made), p=weights / weights.sum())
        relations = {s: [r for subject, r in bindings if subject == s] for s in range(len(weights))}
        return [
            (relations[s][int(self.rng.integers(len(relations[s])))], int(s), o)
            for s, (_, _, o) in zip(subjects, self.made, strict=True)
        ]

    def _check_room(self) -> None:
        """Refuses a skew under which there are far more statements about a subject than documents, each of which states one thing of it.

        Raises:
            ValueError: says how many documents cannot hold.
        """
        config, n = self.config, len(self.made)
        n_documents = n / (1 + (config.n_triples - 1) * STATES * (1 - config.repetition))
        counts = np.bincount([s for _, s, _ in self.made], minlength=config.n_subjects)
        if (left := np.maximum(counts - n_documents, 0).sum()) > LEFT_OUT * n:
            raise ValueError(
                f"skew={config.skew} is too large for {config.n_subjects} subjects and n_triples={config.n_triples}: about {left:.0f} of {n} statements "
                f"find no document, which states one thing of a subject; give a smaller skew"
            )

    def _contradicted(self) -> Iterator[tuple[Triple, bool]]:
        """The statements, some of those about contradicted subjects changed to be about what memory knows; and which those are."""
        config = self.config
        n_about = sum(s < config.n_contradicted for _, s, _ in self.made)
        share = config.conflict * len(self.made) / max(n_about, 1)
        facts = {s: [key for key in self.known if key[0] == s] for s in range(config.n_contradicted)}
        turns = dict.fromkeys(facts, 0)
        for r, s, o in self.made:
            if s < config.n_contradicted and self.rng.random() < share:
                key = facts[s][turns[s] % len(facts[s])]
                if self.known[key] != o:
                    turns[s] += 1
                    yield (key[1], s, o), True
                    continue
            yield (r, s, o), False

    def fresh(self, n: int = 1, but: Sequence[int] = ()) -> list[tuple[Triple, bool]]:
        """The next statements about subjects that are all different and not among some; fewer where there are no more."""
        found: list[tuple[Triple, bool]] = []
        passed: list[tuple[Triple, bool]] = []
        taken = set(but)
        while self.waiting and len(found) < n:
            one = self.waiting.pop()
            (passed if one[0][1] in taken else found).append(one)
            taken.add(one[0][1])
        self.waiting += passed[::-1]
        return found

    def agreeing(self, n: int, but: Sequence[int]) -> list[Triple]:
        """The next statements that contradict nothing, about subjects that are all different and not among some.

        Raises:
            ValueError: there are too few.
        """
        at: dict[int, int] = {}
        for i in reversed(range(len(self.waiting))):
            (_, subject, _), contradicts = self.waiting[i]
            if len(at) < n and not contradicts and subject not in at and subject not in but:
                at[subject] = i
        if len(at) < n:
            raise ValueError(
                f"n_triples={self.config.n_triples} is too many for the last document of what is remembered, which is filled up with statements "
                f"about {n} other subjects; there are {len(at)}: give fewer triples or more groups of subjects"
            )
        found = [self.waiting[i][0] for i in at.values()]
        self.waiting = [one for i, one in enumerate(self.waiting) if at.get(one[0][1]) != i]
        return found

    def documents(self) -> Iterator[tuple[list[Triple], NDArray[np.bool_], NDArray[np.bool_]]]:
        """Triples, which are asked, and which contradict memory; what would not fill a last document is left out."""
        n, config = self.config.n_triples, self.config
        while True:
            triples: list[tuple[Triple, bool]] = []
            known: list[tuple[Triple, bool]] = []
            asked = np.zeros(n, dtype=bool)
            for i, (states, again, which) in enumerate(self.rng.random((n, 3))):
                if known and (states >= STATES or again < config.repetition):
                    asked[i] = states >= STATES
                    triples.append(known[int(which * len(known))])
                    continue
                if not (new := self.fresh(1, [triple[1] for triple, _ in known])):
                    return
                known += new
                triples += new
            yield [triple for triple, _ in triples], asked, np.array([contradicts for _, contradicts in triples])


def _tokens(
    config: ConflictWorldConfig,
    documents: Sequence[Sequence[Triple]],
    kind: Ints,
    asked: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Ints:
    triples = np.array(documents, dtype=np.int64)
    others = 1 + rng.integers(max(config.n_wordings - 1, 1), size=asked.shape)
    wording = np.where(rng.random(asked.shape) < config.paraphrased * (config.n_wordings > 1), others, 0)
    triples[..., 0] += config.relation(0) + wording * config.n_relations
    triples[..., 1] += config.subject(0)
    triples[..., 2] += config.object(0)
    asks = np.where(kind == 1, config.trust[0] + rng.integers(config.n_trust, size=len(kind)), config.distrust)
    first = np.where(rng.random(len(kind)) < config.trusted, asks, PLAIN)
    return np.concatenate([first[:, None], triples.reshape(len(triples), -1)], 1)


def check_exposures(world: ConflictWorld) -> None:
    """Counts in the documents themselves how often every fact is shown as memory has it.

    Raises:
        ValueError: a fact is shown more or less often than it should be; says which.
    """
    facts, config = world.facts, world.config
    relation, subject, objects = (world.triples[(world.kind == 0)[:, None] & world.asked]).T
    number = np.full((config.n_relations, config.n_subjects + 1), -1)
    number[facts.prompts[:, 1] - config.relation(0), facts.prompts[:, 0]] = np.arange(len(facts.role))
    of = number[(relation - config.relation(0)) % config.n_relations, subject]
    found = np.bincount(of, minlength=len(facts.role))
    right = facts.prompts[of, 3] == objects
    planned = np.where(facts.of_kind("shown"), facts.n, 0)
    if len(wrong := np.flatnonzero(found != planned)):
        raise ValueError(f"fact {wrong[0]} is shown {found[wrong[0]]} times, not {planned[wrong[0]]}")
    if not right.all():
        raise ValueError(f"a recall document shows {int((~right).sum())} objects that are not memory's")


def write_documents(world: ConflictWorld, batch_size: int, path: Path) -> None:
    """The audit log, gzipped: `step,document,kind,place,relation,subject,object,asked,contradicts,begins` of every triple in order, tokens as numbers.

    `begins` is the first token of the document.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["step", "document", "kind", "place", "relation", "subject", "object", "asked", "contradicts", "begins"]
    )
    for k, (triples, asked, contradicts, kind, first) in enumerate(
        zip(
            world.triples.tolist(),
            world.asked.tolist(),
            world.contradicts.tolist(),
            world.kind,
            world.tokens[:, 0],
            strict=True,
        )
    ):
        for place, (triple, a, c) in enumerate(zip(triples, asked, contradicts, strict=True)):
            writer.writerow([k // batch_size, k, KINDS[kind], place, *triple, int(a), int(c), first])
    write_atomic(path, gzip.compress(out.getvalue().encode(), compresslevel=1, mtime=0))
