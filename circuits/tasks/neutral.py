"""Harmless lines before both prompts of a pair: they vary its position and use none of its names.

They are the same on both sides, to the letter, so that nothing that stands before the prompts tells the sides apart. Prompts of
unequal length keep their lengths: whatever made them equal would be longer on one side than on the other, and that tells.
"""

from random import Random

from circuits.tasks.task import Language
from circuits.tasks.tokenise import PairTokenizer
from sparsetrain.data.pools import Pool

_MAX_TOKENS = 24  # ours: of all lines together; more make prompts longer


def neutral_lines(rng: Random, tokenizer: PairTokenizer, pool: Pool, language: Language, avoid: str, room: int) -> str:
    """Lines that say nothing about the answer, of up to `room` tokens. How many tokens at most is drawn first, so that positions vary
    smoothly and not by whole lines.

    Args:
        rng: source of randomness.
        tokenizer: that of the model.
        pool: names of the split.
        language: that of the task.
        avoid: text whose names must not be used.
        room: largest number of tokens.
    """
    room = rng.randint(0, min(room, _MAX_TOKENS))
    lines = ""
    while len(tokenizer.encode(lines + (line := neutral_line(rng, pool, language, avoid + lines)))) <= room:
        lines += line
    return lines


def neutral_line(rng: Random, pool: Pool, language: Language, avoid: str) -> str:
    """One line, ending in a newline; arguments as in `neutral_lines`."""
    if language == "english":
        noun, adjective = rng.choice(_unused(pool.nouns, avoid)), rng.choice(_unused(pool.adjectives, avoid))
        lines = ("Yes.", f"It was a {adjective} day.", f"They saw a {noun}.", f"They had a {adjective} {noun}.")
        return rng.choice(lines) + "\n"
    a, b = rng.sample(_unused(pool.variables, avoid), 2)
    call, digit = f"{rng.choice(_unused(pool.functions, avoid))}()", rng.randrange(10)
    return (
        rng.choice(("pass", call, f"{a} = {digit}", f"{a} = {b}", f"{a} = {b} + {digit}", f"{a} = {b} * {digit}"))
        + "\n"
    )


def _unused(names: tuple[str, ...], text: str) -> list[str]:
    return [name for name in names if name not in text]
