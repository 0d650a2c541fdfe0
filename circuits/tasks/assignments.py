"""Tasks about variables: the type a variable was given, swapping two of them, and a constructor's parameters."""

from random import Random

from circuits.tasks.task import PairText, Side, flip, task
from sparsetrain.data.pools import Pool


def _grown(rng: Random, pool: Pool, fixed_name: str = "") -> PairText:
    name, item, spare = rng.sample(pool.variables, 3)
    name = fixed_name or name
    loop = f"for {item} in {rng.choice(pool.collections)}:\n    {name}"
    if pool.shifted:  # a second variable of either type, the same on both sides
        start = rng.choice(("set()", '""'))
        loop = f"{spare} = {start}\n{loop}"
    return PairText(
        positive=Side(prompt=f"{name} = set()\n{loop}", answer=".add", continuation=f"({item})\n"),
        negative=Side(prompt=f'{name} = ""\n{loop}', answer=" +=", continuation=f" {item}\n"),
    )


def _popped(rng: Random, pool: Pool, fixed_name: str = "") -> PairText:
    name, item = rng.sample(pool.variables, 2)
    items, name = rng.choice(pool.collections), fixed_name or name
    loop = f"while {items}:\n    {item} = {items}.pop()\n    {name}"
    return PairText(
        positive=Side(prompt=f"{name} = set()\n{loop}", answer=".add", continuation=f"({item})\n"),
        negative=Side(prompt=f'{name} = ""\n{loop}', answer=" +=", continuation=f" {item}\n"),
    )


def _set_or_string_again(rng: Random, pool: Pool) -> PairText:
    """A while loop that takes from the collection."""
    return _popped(rng, pool)


@task(paraphrase=_set_or_string_again)
def set_or_string(rng: Random, pool: Pool) -> PairText:
    """a variable that started as set() grows with .add, one that started as a string with +="""
    return _grown(rng, pool)


def _set_or_string_fixedvarname_again(rng: Random, pool: Pool) -> PairText:
    """The same loop with the name current."""
    return _popped(rng, pool, "current")


@task(paraphrase=_set_or_string_fixedvarname_again)
def set_or_string_fixedvarname(rng: Random, pool: Pool) -> PairText:
    """set_or_string with a variable that is always called current"""
    return _grown(rng, pool, "current")


def _var_swap_again(rng: Random, pool: Pool) -> PairText:
    """In the body of an if that compares the two."""
    a, b = rng.sample(pool.variables, 2)
    first, second = flip(rng, a, b)
    test = f"if {first} > {second}:\n    "
    return PairText(
        positive=Side(prompt=f"{test}{a}, {b} = {b},", answer=f" {a}", continuation="\n"),
        negative=Side(prompt=f"{test}{b}, {a} = {a},", answer=f" {b}", continuation="\n"),
    )


@task(paraphrase=_var_swap_again)
def var_swap(rng: Random, pool: Pool) -> PairText:
    """x, y = y, goes on with x"""
    a, b = rng.sample(pool.variables, 2)
    context = ""
    if pool.shifted:  # both names are defined before, in either order
        first, second = flip(rng, a, b)
        context = f"{first} = {rng.randrange(10)}\n{second} = {rng.randrange(10)}\n"
    return PairText(
        positive=Side(prompt=f"{context}{a}, {b} = {b},", answer=f" {a}", continuation="\n"),
        negative=Side(prompt=f"{context}{b}, {a} = {a},", answer=f" {b}", continuation="\n"),
    )


def _class_init_again(rng: Random, pool: Pool) -> PairText:
    """A method that sets both."""
    a, b = rng.sample(pool.variables, 2)
    first, second = flip(rng, a, b)
    header = f"def {rng.choice(pool.functions)}(self, {first}, {second}):\n    "
    return PairText(
        positive=Side(prompt=f"{header}self.{a} =", answer=f" {a}", continuation="\n"),
        negative=Side(prompt=f"{header}self.{b} =", answer=f" {b}", continuation="\n"),
    )


@task(paraphrase=_class_init_again)
def class_init(rng: Random, pool: Pool) -> PairText:
    """self.<name> = is followed by the parameter of that name"""
    a, b, spare = rng.sample(pool.variables, 3)
    names = [a, b]
    body = ""
    if pool.shifted:  # a third parameter, already stored
        names.append(spare)
        body = f"self.{spare} = {spare}\n    "
    rng.shuffle(names)
    header = f"def __init__(self, {', '.join(names)}):\n    {body}"
    return PairText(
        positive=Side(prompt=f"{header}self.{a} =", answer=f" {a}", continuation="\n"),
        negative=Side(prompt=f"{header}self.{b} =", answer=f" {b}", continuation="\n"),
    )


TASKS = (set_or_string, set_or_string_fixedvarname, var_swap, class_init)
