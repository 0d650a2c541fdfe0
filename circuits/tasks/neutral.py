"""Harmless lines before a prompt: they vary its position and make the two sides of a pair equally long.

Shared lines are the same on both sides. Padding lines differ between the sides, in Python in length alone
(`size = 3` against `size = 358`). Neither uses a name of the pair.
"""

from random import Random

from circuits.tasks.task import Language
from sparsetrain.data.pools import Pool

_N_DIGITS, _N_TERMS = 5, 6  # ours: longest number and longest sum of a padding line
_N_ENGLISH_PADDING = 24  # ours


def shared_line(rng: Random, pool: Pool, language: Language, avoid: str) -> str:
    """One line, ending in a newline, that says nothing about the answer.

    Args:
        rng: source of randomness.
        pool: names of the split.
        language: that of the task.
        avoid: text whose names must not be used.
    """
    if language == "english":
        noun, adjective = rng.choice(_unused(pool.nouns, avoid)), rng.choice(_unused(pool.adjectives, avoid))
        return rng.choice(
            (f"It was a {adjective} day.\n", f"They saw a {noun}.\n", f"They had a {adjective} {noun}.\n")
        )
    a, b = rng.sample(_unused(pool.variables, avoid), 2)
    digit = rng.randrange(10)
    return rng.choice((f"{a} = {digit}\n", f"{a} = {b}\n", f"{a} = {b} + {digit}\n", f"{a} = {b} * {digit}\n"))


def padding_lines(rng: Random, pool: Pool, language: Language, avoid: str) -> list[str]:
    """Lines of many lengths that say nothing about the answer; arguments as in `shared_line`.

    In Python they assign numbers to one name, so that they differ in length alone; in English, where words have no
    fixed number of tokens, they are shared lines.
    """
    if language == "english":
        return [shared_line(rng, pool, language, avoid) for _ in range(_N_ENGLISH_PADDING)]
    name = rng.choice(_unused(pool.variables, avoid))
    digits = "".join(rng.choice("123456789") for _ in range(max(_N_DIGITS, _N_TERMS)))
    numbers = [f"{name} = {digits[: n + 1]}\n" for n in range(_N_DIGITS)]
    sums = [f"{name} = {' + '.join(digits[: n + 1])}\n" for n in range(1, _N_TERMS)]  # also if digits are joined
    return numbers + sums


def _unused(names: tuple[str, ...], text: str) -> list[str]:
    return [name for name in names if name not in text]
