"""Tasks about loops and blocks: what is looped over, and how far the next line is indented."""

from random import Random

from circuits.tasks.task import PairText, Side, nested, task
from sparsetrain.data.pools import Pool


def _enumerate_range_again(rng: Random, pool: Pool) -> PairText:
    """The loop of a comprehension."""
    counter, item, items = rng.choice(pool.counters), rng.choice(pool.variables), rng.choice(pool.collections)
    function = rng.choice(pool.functions)
    return PairText(
        positive=Side(
            prompt=f"return {{{item}: {counter} for {counter}, {item} in",
            answer=" enumerate",
            continuation=f"({items})}}\n",
        ),
        negative=Side(
            prompt=f"return {{{function}({counter}): {counter} for {counter} in",
            answer=" range",
            continuation=f"(len({items}))}}\n",
        ),
    )


@task(paraphrase=_enumerate_range_again)
def enumerate_range(rng: Random, pool: Pool) -> PairText:
    """a loop over two names uses enumerate, over one counter range"""
    counter = rng.choice(pool.counters)
    item, spare = rng.sample(pool.variables, 2)
    items = rng.choice(pool.collections)
    context = nested(rng, pool, spare)
    return PairText(
        positive=Side(prompt=f"{context}for {counter}, {item} in", answer=" enumerate", continuation=f"({items}):\n"),
        negative=Side(prompt=f"{context}for {counter} in", answer=" range", continuation=f"(len({items})):\n"),
    )


def _indent_for_again(rng: Random, pool: Pool) -> PairText:
    """A method, and what it loops over is an attribute."""
    name, item = rng.sample(pool.variables, 2)
    header = f"def {rng.choice(pool.functions)}(self):\n"
    return PairText(
        positive=Side(
            prompt=f"{header}    for {item} in self.{name}:",
            hinge="\n",
            answer=" " * 8,
            continuation=f"print({item})\n",
        ),
        negative=Side(
            prompt=f"{header}    {item} = self.{name}", hinge="\n", answer=" " * 4, continuation=f"print({item})\n"
        ),
    )


@task(paraphrase=_indent_for_again)
def indent_for(rng: Random, pool: Pool) -> PairText:
    """the line after a for header is one level deeper, the line after an assignment is not"""
    name, item, spare = rng.sample(pool.variables, 3)
    header = f"def {rng.choice(pool.functions)}({name}):\n"
    if pool.shifted:  # a finished line in the body before
        header += f"    {spare} = {rng.randrange(10)}\n"
    return PairText(
        positive=Side(
            prompt=f"{header}    for {item} in {name}:", hinge="\n", answer=" " * 8, continuation=f"print({item})\n"
        ),
        negative=Side(
            prompt=f"{header}    {item} = {name}", hinge="\n", answer=" " * 4, continuation=f"print({item})\n"
        ),
    )


def _while_return_true_again(rng: Random, pool: Pool) -> PairText:
    """In the body of an if."""
    function, name = rng.choice(pool.functions), rng.choice(pool.variables)
    return PairText(
        positive=Side(
            prompt=f"if {name}:\n    while True:", hinge="\n", answer=" " * 8, continuation=f"{function}()\n"
        ),
        negative=Side(prompt=f"if {name}:\n    return True", hinge="\n", answer="\n", continuation=f"{function}()\n"),
        rest=True,
    )


@task(paraphrase=_while_return_true_again)
def while_return_true(rng: Random, pool: Pool) -> PairText:
    """the line after while True: is one level deeper, the line after return True is not"""
    function, other = rng.sample(pool.functions, 2)
    name, spare = rng.sample(pool.variables, 2)
    header = f"def {function}({name if rng.random() < 0.5 or pool.shifted else ''}):\n"
    if pool.shifted:  # a finished line in the body before
        header += f"    {spare} = {name}\n"
    return PairText(
        positive=Side(prompt=f"{header}    while True:", hinge="\n", answer=" " * 8, continuation=f"{other}()\n"),
        negative=Side(prompt=f"{header}    return True", hinge="\n", answer="\n", continuation=f"def {other}():\n"),
        rest=True,
    )


TASKS = (enumerate_range, indent_for, while_return_true)
