"""Tasks about compound statements: what a keyword at the start of a line makes of the end of that line."""

from random import Random

from circuits.tasks.task import PairText, Side, nested, task
from sparsetrain.data.pools import Pool


def _for_while_again(rng: Random, pool: Pool) -> PairText:
    """The loop stands in a try block."""
    name = rng.choice((*pool.variables, *pool.nouns))
    return PairText(
        positive=Side(prompt=f"try:\n    for {name}", answer=" in", continuation=f" {rng.choice(pool.collections)}:\n"),
        negative=Side(prompt=f"try:\n    while {name}", answer=":", continuation="\n"),
    )


@task(paraphrase=_for_while_again)
def for_while(rng: Random, pool: Pool) -> PairText:
    """for <name> goes on with in, while <name> with :"""
    name, spare = rng.sample((*pool.variables, *pool.nouns), 2)
    context = nested(rng, pool, spare)
    return PairText(
        positive=Side(prompt=f"{context}for {name}", answer=" in", continuation=f" {rng.choice(pool.collections)}:\n"),
        negative=Side(prompt=f"{context}while {name}", answer=":", continuation="\n"),
    )


def _else_elif_again(rng: Random, pool: Pool) -> PairText:
    """The branch before returns."""
    a, b, value = rng.sample(pool.variables, 3)
    branch = f"if {a} > {rng.randrange(10)}:\n    return {value}\n"
    return PairText(
        positive=Side(prompt=f"{branch}else", answer=":", continuation="\n"),
        negative=Side(prompt=f"{branch}elif", answer=f" {b}", continuation=":\n"),
        rest=True,
    )


@task(paraphrase=_else_elif_again)
def else_elif(rng: Random, pool: Pool) -> PairText:
    """else is followed by :, elif by something else"""
    a, b, spare = rng.sample(pool.variables, 3)
    body = f"    {rng.choice(pool.functions)}({spare if pool.shifted else ''})\n"
    if pool.shifted:  # a longer body
        body += f"    {spare} = {rng.randrange(10)}\n"
    return PairText(
        positive=Side(prompt=f"if {a}:\n{body}else", answer=":", continuation="\n"),
        negative=Side(prompt=f"if {a}:\n{body}elif", answer=f" {b}", continuation=":\n"),
        rest=True,
    )


def _if_ternary_again(rng: Random, pool: Pool) -> PairText:
    """First in an endless loop; the value is returned."""
    condition = f"if {rng.choice(pool.variables)} {rng.choice(('>', '<'))} {rng.randrange(10)}"
    value, other = rng.sample("0123456789", 2)
    return PairText(
        positive=Side(prompt=f"while True:\n    {condition}", answer=":", continuation="\n"),
        negative=Side(
            prompt=f"while True:\n    return {value} {condition}", answer=" else", continuation=f" {other}\n"
        ),
    )


@task(paraphrase=_if_ternary_again)
def if_ternary(rng: Random, pool: Pool) -> PairText:
    """a condition after if at the start of a line ends in :, inside an expression in else"""
    name, target, spare = rng.sample(pool.variables, 3)
    condition = f"{name} {rng.choice(('>', '<'))} {rng.randrange(10)}"
    if pool.shifted:  # a longer condition
        condition = f"{spare} and {condition}"
    value, other = rng.sample("0123456789", 2)
    return PairText(
        positive=Side(prompt=f"if {condition}", answer=":", continuation="\n"),
        negative=Side(prompt=f"{target} = {value} if {condition}", answer=" else", continuation=f" {other}\n"),
    )


def _var_if_again(rng: Random, pool: Pool) -> PairText:
    """The comparison after while; the value is given to two names."""
    name, other = rng.sample(pool.variables, 2)
    value = rng.choice(("True", "False"))
    return PairText(
        positive=Side(prompt=f"while {name} == {value}", answer=":", continuation="\n"),
        negative=Side(prompt=f"{other} = {name} = {value}", answer="\n", continuation=f"print({name})\n"),
    )


@task(paraphrase=_var_if_again)
def var_if(rng: Random, pool: Pool) -> PairText:
    """a comparison after if ends in :, an assignment of the same value in a newline"""
    name, spare = rng.sample(pool.variables, 2)
    value = rng.choice(("True", "False"))
    context = nested(rng, pool, spare)
    return PairText(
        positive=Side(prompt=f"{context}if {name} == {value}", answer=":", continuation="\n"),
        negative=Side(
            prompt=f"{context}{name} = {value}", answer="\n", continuation=f"{context and '    '}print({name})\n"
        ),
    )


def _if_equals_again(rng: Random, pool: Pool) -> PairText:
    """The line stands in a finally block."""
    name, attribute = rng.sample(pool.variables, 2)
    before, value = f"try:\n    {rng.choice(pool.functions)}()\nfinally:\n    ", rng.randrange(10)
    return PairText(
        positive=Side(prompt=f"{before}if {name}.{attribute}", answer=" ==", continuation=f" {value}:\n"),
        negative=Side(prompt=f"{before}{name}.{attribute}", answer=" =", continuation=f" {value}\n"),
    )


@task(paraphrase=_if_equals_again)
def if_equals(rng: Random, pool: Pool) -> PairText:
    """a name after if is compared, a name alone is assigned"""
    # an attribute, so that both prompts end in the same token (a bare name has a space before it only after `if`)
    name, attribute, spare = rng.sample(pool.variables, 3)
    indent = "    "
    context = f"def {rng.choice(pool.functions)}({name}):\n"
    if pool.shifted:  # a line in between and one level deeper
        context += f"{indent}for {spare} in {name}:\n"
        indent, name = indent * 2, spare
    value = rng.randrange(10)
    return PairText(
        positive=Side(prompt=f"{context}{indent}if {name}.{attribute}", answer=" ==", continuation=f" {value}:\n"),
        negative=Side(prompt=f"{context}{indent}{name}.{attribute}", answer=" =", continuation=f" {value}\n"),
    )


TASKS = (for_while, else_elif, if_ternary, var_if, if_equals)
