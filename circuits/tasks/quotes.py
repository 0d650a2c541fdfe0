"""Tasks about string literals: which quote closes one, and whether a brace may open a replacement field."""

from random import Random

from circuits.tasks.task import PairText, Side, flip, task
from sparsetrain.data.pools import Pool


def _single_double_quote_again(rng: Random, pool: Pool) -> PairText:
    """The second argument of a call that is yielded."""
    function, name = rng.choice(pool.functions), rng.choice(pool.variables)
    words = " ".join((rng.choice(pool.adjectives), rng.choice(pool.nouns)))

    def side(quote: str) -> Side:
        return Side(prompt=f"yield {function}({name}, {quote}{words}", answer=f"{quote})", continuation="\n")

    return PairText(positive=side("'"), negative=side('"'))


@task(paraphrase=_single_double_quote_again)
def single_double_quote(rng: Random, pool: Pool) -> PairText:
    '''a string that was opened with ' is closed with ', one opened with " with "'''
    call = rng.choice(("print", rng.choice(pool.functions)))
    words = " ".join((rng.choice(pool.adjectives), rng.choice(pool.nouns)))
    context = ""
    if pool.shifted:  # strings of both kinds stand before the open one
        words = f"{rng.choice(pool.adjectives)} {words}"
        first, second = flip(rng, "'", '"')
        a, b = rng.sample(pool.variables, 2)
        noun, other = rng.sample(pool.nouns, 2)
        context = f"{a} = {first}{noun}{first}\n{b} = {second}{other}{second}\n"

    def side(quote: str) -> Side:
        return Side(prompt=f"{context}{call}({quote}{words}", answer=f"{quote})", continuation="\n")

    return PairText(positive=side("'"), negative=side('"'))


def _fstring_brace_again(rng: Random, pool: Pool) -> PairText:
    """A string that is yielded."""
    words = f"{rng.choice(pool.adjectives)} {rng.choice(pool.nouns)}"
    return PairText(
        positive=Side(prompt=f'yield f"{words}', answer=" {", continuation=f'{rng.choice(pool.variables)}}}"\n'),
        negative=Side(prompt=f'yield "{words}', answer=f" {rng.choice(pool.adjectives)}", continuation='"\n'),
        rest=True,
    )


@task(paraphrase=_fstring_brace_again)
def fstring_brace(rng: Random, pool: Pool) -> PairText:
    """{ may follow inside an f-string, not inside a plain string"""
    names = rng.sample(pool.variables, 2 if pool.shifted else 1)
    lines = "".join(f"{name} = {rng.choice(pool.functions)}()\n" for name in names)
    words = rng.choice(pool.nouns) if not pool.shifted else f"{rng.choice(pool.adjectives)} {rng.choice(pool.nouns)}"
    return PairText(
        positive=Side(prompt=f'{lines}print(f"{words}', answer=" {", continuation=f'{rng.choice(names)}}}")\n'),
        negative=Side(prompt=f'{lines}print("{words}', answer=f" {rng.choice(pool.adjectives)}", continuation='")\n'),
        rest=True,
    )


TASKS = (single_double_quote, fstring_brace)
