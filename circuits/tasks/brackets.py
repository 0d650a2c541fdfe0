"""Tasks about brackets: dictionary against list, and how deep the nesting is."""

from random import Random

from circuits.tasks.task import PairText, Side, task
from sparsetrain.data.pools import Pool


def _bracket_brace_again(rng: Random, pool: Pool) -> PairText:
    """The literal is the last argument of a call that is returned."""
    key, other = rng.sample(pool.nouns, 2)
    before = f"return {rng.choice(pool.functions)}({rng.choice(pool.variables)}, "
    return PairText(
        positive=Side(prompt=f'{before}{{"{key}', hinge='"', answer=":", continuation=f" {rng.randrange(10)}}})\n"),
        negative=Side(prompt=f'{before}["{key}', hinge='"', answer=",", continuation=f' "{other}"])\n'),
    )


@task(paraphrase=_bracket_brace_again)
def bracket_brace(rng: Random, pool: Pool) -> PairText:
    """after its first string a dict goes on with :, a list with ,"""
    key, other = rng.sample(pool.nouns, 2)
    name, spare = rng.sample(pool.variables, 2)
    before, after = f"{name} = ", ""
    if pool.shifted:  # a finished literal of either kind before, and the open one inside a call
        spare_literal = rng.choice((f'{{"{other}": {rng.randrange(10)}}}', f'["{other}"]'))
        before, after = f"{spare} = {spare_literal}\n{name} = {rng.choice(pool.functions)}(", ")"
    return PairText(
        positive=Side(
            prompt=f'{before}{{"{key}', hinge='"', answer=":", continuation=f" {rng.randrange(10)}}}{after}\n"
        ),
        negative=Side(prompt=f'{before}["{key}', hinge='"', answer=",", continuation=f' "{other}"]{after}\n'),
    )


def _bracket_counting_again(rng: Random, pool: Pool) -> PairText:
    """The list is added to a variable."""
    rows = [[str(rng.randrange(10)) for _ in range(rng.choice((1, 2)))] for _ in range(rng.choice((1, 2, 2)))]
    name = rng.choice(pool.variables)
    nested, flat = ("], [".join(", ".join(row) for row in rows), ", ".join(digit for row in rows for digit in row))
    return PairText(
        positive=Side(prompt=f"{name} += [[{nested}", hinge="]", answer="]", continuation="\n"),
        negative=Side(prompt=f"{name} += [{flat}", hinge="]", answer="\n", continuation=f"print({name})\n"),
    )


@task(paraphrase=_bracket_counting_again)
def bracket_counting(rng: Random, pool: Pool) -> PairText:
    """a list of lists closes with ]], a flat list with ]"""
    n_inner = 3 if pool.shifted else rng.choice((1, 2, 2))
    rows = [[str(rng.randrange(10)) for _ in range(rng.choice((1, 2)))] for _ in range(n_inner)]
    name, spare = rng.sample(pool.variables, 2)
    # a finished list before the open one: brackets that must not be counted
    context = f"{spare} = [{rng.randrange(10)}]\n" if pool.shifted else ""
    nested = "], [".join(", ".join(row) for row in rows)
    flat = ", ".join(digit for row in rows for digit in row)
    return PairText(
        positive=Side(prompt=f"{context}{name} = [[{nested}", hinge="]", answer="]", continuation="\n"),
        negative=Side(prompt=f"{context}{name} = [{flat}", hinge="]", answer="\n", continuation=f"print({name})\n"),
    )


TASKS = (bracket_brace, bracket_counting)
