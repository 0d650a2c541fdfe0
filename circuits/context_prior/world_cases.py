"""Conflicts of a made world as cases: facts of known exposure counts, contradicted by a statement in front of the question.

1. Asked about are facts of clean subjects, which no document of the training contradicts. The other answer is the object of another such fact of the same exposure
   count, each once: how often a token was an object, and at which exposures, cannot tell the two answers apart.
2. Pieces are rows of tokens: the statement in every wording of its relation, the same with memory's object, a statement about another subject, tokens of trust,
   and as filler statements about other subjects, all of bindings that memory does not know.
3. Neutral text is the question for a fact of a contradicted subject, memory's object behind it, after a statement about something else: an intervention that turns
   an answer and leaves what was not contradicted alone does nothing to it.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from circuits.prior.cases import Case, Form, Neutral, Pieces, Tokens, case_of, neutral_of
from sparsetrain.data.reading import Skip
from sparsetrain.data.worlds.conflicts import PLAIN, ConflictWorld, ConflictWorldConfig

Ints = NDArray[np.int64]
N_FILLER = 8
"""Different statements of filler: as many as a prompt can have. ours"""
N_NEUTRAL = 64
"""Questions on which damage is measured. ours"""
RECALLED = 64
"""Exposures from which on a fact has to be known: by the gate, and to be a neutral question. Where no level is so high, the highest. ours"""


def recalled_from(config: ConflictWorldConfig) -> int:
    """Exposures from which on facts have to be known."""
    return min(RECALLED, config.levels[-1])


def encode(config: ConflictWorldConfig, tokens: Tokens) -> Tokens:
    """A prompt as the model reads it: with a plain first token where none asks for trust."""
    return tokens if tokens[0] in (*config.trust, config.distrust) else (PLAIN, *tokens)


def conflict_cases(world: ConflictWorld, forms: Collection[Form], seed: int) -> list[Case]:
    """Every clean fact, contradicted.

    Args:
        world: of the model that is asked.
        forms: of prompts that are wanted; longer ones than a document of training are left out.
        seed: of the other answers and of what is stated besides.
    """
    config, rng = world.config, np.random.default_rng([seed, 2])
    cases: list[Case] = []
    for n in config.levels:
        facts = world.clean(n)
        objects = world.facts.prompts[facts, 3]
        for fact, own, other in zip(facts, objects, moved_on(objects, rng), strict=True):
            subject, relation = int(world.facts.subject[fact]), int(world.facts.prompts[fact, 1]) - config.relation(0)
            made = case_of(  # pyright: ignore[reportArgumentType]  # no others: an empty tuple of whichever
                _pieces(world, subject, relation, int(own), int(other), rng),
                forms,
                lambda tokens: encode(config, tokens),
                prior=(int(own),),
                context=(int(other),),
                place=f"fact {fact}",
                fact=str(fact),
                strength=n,
                n_ctx=config.n_tokens,
            )
            assert isinstance(made, Case), made
            cases.append(made)
    return cases


def neutral_questions(world: ConflictWorld, forms: Collection[Form], seed: int) -> list[Neutral]:
    """Questions for what memory knows and nothing has contradicted, behind statements about something else."""
    config, rng = world.config, np.random.default_rng([seed, 3])
    known = np.flatnonzero(
        world.facts.of_kind("shown")
        & (world.facts.n >= recalled_from(config))
        & (world.facts.subject < config.n_contradicted)
    )
    if not len(known):  # nobody is set apart: facts of clean subjects, whose own cases never stand in their prompt
        known = np.flatnonzero(world.facts.of_kind("shown") & (world.facts.n >= recalled_from(config)))
    found: list[Neutral] = []
    for fact in rng.permutation(known)[:N_NEUTRAL]:
        subject, relation = int(world.facts.subject[fact]), int(world.facts.prompts[fact, 1]) - config.relation(0)
        about = int(rng.choice([s for s in range(config.n_subjects) if s != subject]))
        own, other = (int(o) for o in config.object(0) + rng.choice(config.n_subjects, size=2, replace=False))
        pieces = _pieces(world, about, _given(world, about, rng), own, other, rng, but=subject)
        question = (config.relation(relation), config.subject(subject))
        made = neutral_of(
            Pieces[Tokens](**{**vars(pieces), "question": question}),
            forms,
            lambda tokens: encode(config, tokens),
            (int(world.facts.prompts[fact, 3]),),
            place=f"fact {fact}",
            n_ctx=config.n_tokens,
        )
        if not isinstance(made, Skip):
            found.append(made)
    return found


def moved_on(objects: Ints, rng: np.random.Generator) -> Ints:
    """The objects in another order, none where it was: each is the other answer of one fact. One object alone has no other."""
    order = rng.permutation(len(objects))
    found = np.empty_like(objects)
    found[order] = objects[np.roll(order, 1)]
    return found


def _given(world: ConflictWorld, subject: int, rng: np.random.Generator) -> int:
    """A relation of a subject that memory does not know."""
    of_subject = world.facts.of_kind("unlearnable") & (world.facts.subject == subject)
    return int(rng.choice(world.facts.prompts[of_subject, 1])) - world.config.relation(0)


def _pieces(
    world: ConflictWorld, subject: int, relation: int, own: int, other: int, rng: np.random.Generator, but: int = -1
) -> Pieces[Tokens]:
    config = world.config
    others = [s for s in range(config.n_subjects) if s not in (subject, but)]
    about = rng.choice(others, size=min(N_FILLER + 1, len(others)), replace=False)
    free = [o for o in range(config.object(0), config.object(config.n_subjects)) if o not in (own, other)]
    objects = rng.choice(free, size=len(about), replace=False)

    def state(r: int, s: int, o: int) -> tuple[Tokens, ...]:
        return tuple((config.relation(r, wording), config.subject(s), int(o)) for wording in range(config.n_wordings))

    besides = [state(_given(world, int(s), rng), int(s), int(o)) for s, o in zip(about, objects, strict=True)]
    return Pieces[Tokens](
        stated=state(relation, subject, other),
        question=(config.relation(relation), config.subject(subject)),
        agreeing=state(relation, subject, own),
        irrelevant=besides[0],
        trust=tuple((token,) for token in config.trust),
        distrust=((config.distrust,),),
        filler=_first_wordings(besides[1:]),
    )


def _first_wordings(statements: Sequence[tuple[Tokens, ...]]) -> tuple[Tokens, ...]:
    return tuple(wordings[0] for wordings in statements)
