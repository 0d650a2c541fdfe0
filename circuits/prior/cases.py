"""A conflict as a model reads it: what memory says against what the prompt says.

1. `Pieces` hold what prompts are made of: texts, or rows of tokens of a made world. Both are joined by the same `prompt`.
2. A `Form` is one way to put it to the model: how often the statement stands there, in which wording, how far from the question, behind which
   sentence about trust; and as controls a statement that agrees with memory, one about something else, or none.
3. A `Case` has a prompt of tokens for every form, and the tokens of both answers. Cases of one *fact* go together: to fitting or to evaluation.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from hashlib import sha256
from operator import add
from typing import Generic, Literal, TypeVar

from sparsetrain.data.reading import Skip
from sparsetrain.store import fingerprint
from sparsetrain.typed import Index

Tokens = tuple[int, ...]
T = TypeVar("T", str, Tokens)
States = Literal["context", "prior", "other", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to put a conflict to a model."""

    states: States = "context"
    """What the prompt says: the answer that contradicts memory, memory's own, something about another subject, nothing."""
    n: Index = 1
    """How often it says so."""
    wording: Index = 0
    """Which wording; 0: the statement as it was given, others are paraphrases."""
    trust: Index | None = None
    """Which sentence that asks to believe the prompt stands in front."""
    distrust: Index | None = None
    """Which sentence that asks to answer from memory stands in front."""
    before: Index = 0
    """Sentences of filler in front of the statement: the prompt is as long, the statement stays near."""
    behind: Index = 0
    """Sentences of filler between statement and question: the statement is far."""


NOTHING = Form(states="nothing", n=0)
STATED = Form()
AGREEING = Form(states="prior")
IRRELEVANT = Form(states="other")


@dataclass(frozen=True, kw_only=True)
class Pieces(Generic[T]):
    """What the prompts of a conflict are made of, each piece with whatever separates it from the next.

    Args:
        stated: the statement, in one wording or several.
        question: ends every prompt.
        agreeing: the statement with memory's answer, in the same wordings.
        irrelevant: statements about something else.
        trust: sentences that ask to believe the prompt.
        distrust: sentences that ask to answer from memory.
        filler: neutral sentences, taken in order and again from the first.
    """

    stated: tuple[T, ...]
    question: T
    agreeing: tuple[T, ...] = ()
    irrelevant: tuple[T, ...] = ()
    trust: tuple[T, ...] = ()
    distrust: tuple[T, ...] = ()
    filler: tuple[T, ...] = ()

    def prompt(self, form: Form) -> T | None:
        """The prompt of a form; None: a piece of it is not there."""
        wordings = {"context": self.stated, "prior": self.agreeing, "other": self.irrelevant, "nothing": ()}
        says = wordings[form.states]
        wanted = ((says, form.wording if form.n else None), (self.trust, form.trust), (self.distrust, form.distrust))
        n_filler = form.before + form.behind
        if any(at is not None and at >= len(pieces) for pieces, at in wanted) or (n_filler and not self.filler):
            return None
        filler = [self.filler[i % len(self.filler)] for i in range(n_filler)]
        parts = [
            *(pieces[at] for pieces, at in wanted[1:] if at is not None),
            *filler[: form.before],
            *([says[form.wording]] * form.n if form.n else []),
            *filler[form.before :],
            self.question,
        ]
        return reduce(add, parts)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A conflict with its prompts.

    Args:
        place: where it comes from, for people.
        fact: what it is about: cases of one fact are fitted on or evaluated together.
        prompts: form -> tokens, with whatever the model expects in front; forms that cannot be written are absent.
        prior: memory's answer, at least one token.
        context: the answer that the prompt states.
        others: further answers over which persuasion is measured.
        strength: of the prior: exposures, fame; NaN: not known.
        group: relation or kind, for counts.
    """

    place: str
    fact: str
    prompts: Mapping[Form, Tokens] = field(repr=False)
    prior: Tokens
    context: Tokens
    others: tuple[Tokens, ...] = ()
    strength: float = float("nan")
    group: str = ""

    def __post_init__(self) -> None:
        if reason := clash(self.prior, self.context, *self.others):
            raise ValueError(f"{self.place}: {reason}")

    @property
    def answers(self) -> tuple[Tokens, ...]:
        """The answer that the prompt states, memory's, the others."""
        return (self.context, self.prior, *self.others)


@dataclass(frozen=True, kw_only=True)
class Neutral:
    """Text that has nothing to do with any conflict, as it follows a prompt in each form: what must not change."""

    place: str
    prompts: Mapping[Form, Tokens] = field(repr=False)
    text: Tokens

    @property
    def answers(self) -> tuple[Tokens, ...]:
        return (self.text,)


def clash(*answers: Tokens) -> str | None:
    """Why answers cannot stand against each other; None: they can."""
    if not all(answers):
        return "an answer without a token"
    for i, one in enumerate(answers):
        for other in answers[:i]:
            if one[: len(other)] == other or other[: len(one)] == one:
                return "the answers are the same, or one is the beginning of another, to this tokenizer"
    return None


Encode = Callable[[T], Tokens]
"""A whole prompt as the model reads it, with whatever it expects in front."""


def written(
    pieces: Pieces[T], forms: Collection[Form], encode: Encode[T], answers: Sequence[T], n_ctx: int | None
) -> tuple[dict[Form, Tokens], tuple[Tokens, ...]] | str:
    """Prompts of all forms that can be written, and the answers' tokens behind them; or why there are none.

    Args:
        pieces: of the conflict.
        forms: that are wanted; `NOTHING` and `STATED` always are.
        encode: a prompt, or one with an answer, to tokens.
        answers: as they follow the question, with the blank in front.
        n_ctx: most tokens that the model reads; a form that is longer with its longest answer is left out.
    """
    prompts: dict[Form, Tokens] = {}
    found: tuple[Tokens, ...] | None = None
    for form in dict.fromkeys([NOTHING, STATED, *forms]):
        prompt = pieces.prompt(form)
        if prompt is None:
            continue
        tokens = tuple(encode(prompt))
        whole = [tuple(encode(prompt + answer)) for answer in answers]
        if any(row[: len(tokens)] != tokens or len(row) == len(tokens) for row in whole):
            return "this tokenizer joins the end of the question with the answer"
        behind = tuple(row[len(tokens) :] for row in whole)
        if found not in (None, behind):
            return "this tokenizer writes the answer differently in different prompts"
        if n_ctx is None or max(map(len, whole)) <= n_ctx:
            prompts[form], found = tokens, behind
    if not pieces.stated:
        return "nothing is stated"
    if not {NOTHING, STATED} <= set(prompts):
        return f"longer than the {n_ctx} tokens that the model reads"
    assert found is not None
    return clash(*found) or (prompts, found)


def case_of(
    pieces: Pieces[T],
    forms: Collection[Form],
    encode: Encode[T],
    *,
    prior: T,
    context: T,
    others: Sequence[T] = (),
    place: str,
    fact: str,
    strength: float = float("nan"),
    group: str = "",
    n_ctx: int | None = None,
) -> Case | Skip:
    """A case of texts or of tokens, or why there is none; arguments as in `written` and `Case`."""
    made = written(pieces, forms, encode, (context, prior, *others), n_ctx)
    if isinstance(made, str):
        return Skip(place, made)
    prompts, (stated, known, *rest) = made
    return Case(
        place=place,
        fact=fact,
        prompts=prompts,
        prior=known,
        context=stated,
        others=tuple(rest),
        strength=strength,
        group=group,
    )


def neutral_of(pieces: Pieces[T], forms: Collection[Form], encode: Encode[T], text: T, place: str, n_ctx: int | None = None) -> Neutral | Skip:  # fmt: skip
    """Neutral text behind the statement and question of `pieces`, which have nothing to do with it either."""
    made = written(pieces, forms, encode, (text,), n_ctx)
    return Skip(place, made) if isinstance(made, str) else Neutral(place=place, prompts=made[0], text=made[1][0])


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """Cases for fitting and cases for evaluation, of different facts."""

    fit: tuple[Case, ...]
    evaluated: tuple[Case, ...]

    def __post_init__(self) -> None:
        check_disjoint(self.fit, self.evaluated)

    @property
    def sha256(self) -> str:
        """Of all cases and of which part each is in."""
        return fingerprint([[_plain(case) for case in part] for part in (self.fit, self.evaluated)])


def check_disjoint(fit: Sequence[Case], evaluated: Sequence[Case]) -> None:
    """Refuses facts that are fitted on and reported.

    Raises:
        ValueError: one is; names it.
    """
    if both := sorted({case.fact for case in fit} & {case.fact for case in evaluated}):
        raise ValueError(f"fact {both[0]!r} is both fitted on and evaluated ({len(both)} such facts); give each to one")


def deal(cases: Sequence[Case], n_fit: int, seed: int = 0) -> Dealt:
    """`n_fit` cases for fitting at most, of facts drawn by a hash of their names; cases of all other facts are evaluated.

    Facts are taken in turn from the groups and, within them, the strengths in the order of the hash, so that both parts are alike.

    Raises:
        ValueError: too few facts for two parts.
    """
    by_fact: dict[str, list[Case]] = {}
    for case in cases:
        by_fact.setdefault(case.fact, []).append(case)
    kinds: dict[tuple[str, float | None], list[str]] = {}
    known = len({(case.group, case.strength) for case in cases}) <= len(by_fact) // 2
    for fact in sorted(by_fact, key=lambda fact: sha256(f"{seed}:{fact}".encode()).digest()):
        first = by_fact[fact][0]
        kinds.setdefault((first.group, first.strength if known else None), []).append(fact)
    turns = [fact for i in range(len(by_fact)) for facts in kinds.values() for fact in facts[i : i + 1]]
    chosen, n_chosen = set[str](), 0
    for fact in turns:
        if n_chosen + len(by_fact[fact]) <= n_fit:
            chosen.add(fact)
            n_chosen += len(by_fact[fact])
    if not chosen or len(chosen) == len(by_fact):
        raise ValueError(
            f"{len(cases)} cases of {len(by_fact)} facts with examine.n_fit={n_fit}: some facts are needed for fitting and others for "
            f"evaluation; give more conflicts or another n_fit"
        )
    return Dealt(
        fit=tuple(case for case in cases if case.fact in chosen),
        evaluated=tuple(case for case in cases if case.fact not in chosen),
    )


def _plain(case: Case) -> object:
    forms = sorted((repr(form), list(tokens)) for form, tokens in case.prompts.items())
    return [case.fact, forms, [list(answer) for answer in case.answers]]


def complete(cases: Sequence[Case], forms: Collection[Form]) -> tuple[list[Case], list[Skip]]:
    """Cases that have every form that most of them have, and why others are left out: so that one long row costs itself and not an arm."""
    wanted = [form for form in forms if 2 * sum(form in case.prompts for case in cases) > len(cases)]
    kept: list[Case] = []
    skipped: list[Skip] = []
    for case in cases:
        if lacking := [form for form in wanted if form not in case.prompts]:
            skipped.append(
                Skip(
                    case.place,
                    f"too long, or a piece of it is missing, for {len(lacking)} of the {len(wanted)} forms of prompt",
                )
            )
        else:
            kept.append(case)
    return kept, skipped
