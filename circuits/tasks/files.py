"""Tasks about opening files: the `as` of a with statement, and the mode that the file's name suggests."""

from random import Random

from circuits.tasks.task import PairText, Side, nested, task
from sparsetrain.data.pools import Pool


@task()
def with_as(rng: Random, pool: Pool) -> PairText:
    """an opened file is bound by as in a with statement, and not in an assignment"""
    name, parameter = rng.sample(pool.variables, 2)
    path, handle = rng.choice((rng.choice(pool.paths), parameter)), rng.choice(pool.handles)
    argument = f"{path} + {name}" if pool.shifted else path
    context = nested(rng, pool, parameter)
    return PairText(
        positive=Side(prompt=f"{context}with open({argument}", hinge=")", answer=" as", continuation=f" {handle}:\n"),
        negative=Side(
            prompt=f"{context}{handle} = open({argument}", hinge=")", answer="\n", continuation=f"print({handle})\n"
        ),
    )


@task()
def with_open(rng: Random, pool: Pool) -> PairText:
    """input is opened to read, output to write"""
    suffix = rng.choice(pool.suffixes)
    before, after = rng.choice(
        (("with ", f" as {rng.choice(pool.handles)}:"), (f"{rng.choice(pool.variables)} = ", ""))
    )
    folder = f"{rng.choice(pool.nouns)}/" if pool.shifted else ""

    def side(stem: str, mode: str) -> Side:
        return Side(prompt=f'{before}open("{folder}{stem}.{suffix}", "', answer=mode, continuation=f'"){after}\n')

    return PairText(positive=side("input", "r"), negative=side("output", "w"))


TASKS = (with_as, with_open)
