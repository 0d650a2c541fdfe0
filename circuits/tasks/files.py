"""Tasks about opening files: the `as` of a with statement, and the mode that the file's name suggests."""

from random import Random

from circuits.tasks.task import PairText, Side, nested, task
from sparsetrain.data.pools import Pool


def _with_as_again(rng: Random, pool: Pool) -> PairText:
    """The path is an attribute."""
    path, handle = f"{rng.choice(pool.variables)}.{rng.choice(pool.paths)}", rng.choice(pool.handles)
    return PairText(
        positive=Side(prompt=f"with open({path}", hinge=")", answer=" as", continuation=f" {handle}:\n"),
        negative=Side(prompt=f"{handle} = open({path}", hinge=")", answer="\n", continuation=f"print({handle})\n"),
    )


@task(paraphrase=_with_as_again)
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


def _with_open_again(rng: Random, pool: Pool) -> PairText:
    """The arguments are named."""
    suffix, name = rng.choice(pool.suffixes), rng.choice(pool.variables)

    def side(stem: str, mode: str) -> Side:
        return Side(prompt=f'{name} = open(file="{stem}.{suffix}", mode="', answer=mode, continuation='")\n')

    return PairText(positive=side("input", "r"), negative=side("output", "w"))


@task(paraphrase=_with_open_again)
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
