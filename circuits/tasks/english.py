"""Tasks in English, for models that have read stories: pronouns, indirect objects, question marks."""

from random import Random

from circuits.tasks.task import PairText, Side, flip, task
from sparsetrain.data.pools import Pool


def _pronoun_again(rng: Random, pool: Pool) -> PairText:
    """The name comes first, the pronoun after because."""
    action, place = rng.choice(pool.actions), rng.choice(pool.places)

    def side(name: str, answer: str) -> Side:
        return Side(prompt=f"{name} {action} near the {place} because", answer=answer, continuation=" was")

    return PairText(positive=side(rng.choice(pool.boys), " he"), negative=side(rng.choice(pool.girls), " she"))


@task("english", paraphrase=_pronoun_again)
def pronoun(rng: Random, pool: Pool) -> PairText:
    """a boy is he, a girl is she"""
    action = rng.choice(pool.actions)
    tail = f"when {{}} {action}," if not pool.shifted else f"when {{}} and the {rng.choice(pool.nouns)} {action},"
    start = f"At the {rng.choice(pool.places)}, " if pool.shifted or rng.random() < 0.5 else ""
    return PairText(
        positive=Side(prompt=start + tail.format(rng.choice(pool.boys)), answer=" he", continuation=" was"),
        negative=Side(prompt=start + tail.format(rng.choice(pool.girls)), answer=" she", continuation=" was"),
    )


def _indirect_object_again(rng: Random, pool: Pool) -> PairText:
    """Two sentences, and another word for giving."""
    a, b = rng.sample(pool.boys + pool.girls, 2)
    first, second = flip(rng, a, b)
    place, thing = rng.choice(pool.places), rng.choice(pool.nouns)

    def side(giver: str, receiver: str) -> Side:
        return Side(
            prompt=f"{first} and {second} had a {thing} at the {place}. {giver} handed it to",
            answer=f" {receiver}",
            continuation=".",
        )

    return PairText(positive=side(b, a), negative=side(a, b))


@task("english", paraphrase=_indirect_object_again)
def indirect_object(rng: Random, pool: Pool) -> PairText:
    """the one of two people who does not give is the one who receives"""
    a, b = rng.sample(pool.boys + pool.girls, 2)
    first, second = flip(rng, a, b)
    place, thing = rng.choice(pool.places), rng.choice(pool.nouns)
    adverb = f" {rng.choice(pool.adjectives)}" if pool.shifted else ""

    def side(giver: str, receiver: str) -> Side:
        return Side(
            prompt=f"When {first} and {second} went to the{adverb} {place}, {giver} gave a {thing} to",
            answer=f" {receiver}",
            continuation=".",
        )

    return PairText(positive=side(b, a), negative=side(a, b))


def _question_mark_again(rng: Random, pool: Pool) -> PairText:
    """Something that was there."""
    adjective, noun, place = rng.choice(pool.adjectives), rng.choice(pool.nouns), rng.choice(pool.places)
    tail = f"a {adjective} {noun} at the {place}"
    return PairText(
        positive=Side(prompt=f"Was there {tail}", answer="?", continuation="\n"),
        negative=Side(prompt=f"There was {tail}", answer=".", continuation="\n"),
    )


@task("english", paraphrase=_question_mark_again)
def question_mark(rng: Random, pool: Pool) -> PairText:
    """a question ends in ?, a statement in ."""
    noun, adjective = rng.choice(pool.nouns), rng.choice(pool.adjectives)
    if pool.shifted:  # a longer subject
        noun = f"{noun} of {rng.choice(pool.boys)}"
    return PairText(
        positive=Side(prompt=f"Is the {noun} {adjective}", answer="?", continuation="\n"),
        negative=Side(prompt=f"The {noun} is {adjective}", answer=".", continuation="\n"),
    )


TASKS = (pronoun, indirect_object, question_mark)
