"""Tasks about opening files: the `as` of a with statement, and the mode that the file's name suggests."""

from random import Random

from circuits.tasks.task import PairText, Side, Task
from sparsetrain.data.pools import Pool


def with_as(rng: Random, pool: Pool) -> PairText:
    path, handle = rng.choice(pool.paths), rng.choice(pool.handles)
    name, spare = rng.sample(pool.variables, 2)
    argument, context = path, ""
    if pool.shifted:  # inside a function, with a longer argument
        argument, context = f"{path} + {name}", f"def {rng.choice(pool.functions)}({spare}):\n    "
    return PairText(
        positive=Side(prompt=f"{context}with open({argument}", hinge=")", answer=" as", continuation=f" {handle}:\n"),
        negative=Side(
            prompt=f"{context}{handle} = open({argument}", hinge=")", answer="\n", continuation=f"print({handle})\n"
        ),
    )


def with_open(rng: Random, pool: Pool) -> PairText:
    suffix = rng.choice(pool.suffixes)
    before, after = rng.choice(
        (("with ", f" as {rng.choice(pool.handles)}:"), (f"{rng.choice(pool.variables)} = ", ""))
    )
    folder = f"{rng.choice(pool.nouns)}/" if pool.shifted else ""

    def side(stem: str, mode: str) -> Side:
        return Side(prompt=f'{before}open("{folder}{stem}.{suffix}", "', answer=mode, continuation=f'"){after}\n')

    return PairText(positive=side("input", "r"), negative=side("output", "w"))


TASKS = (
    Task(
        name="with_as",
        description="an opened file is bound by as in a with statement, and not in an assignment",
        generate=with_as,
    ),
    Task(name="with_open", description="input is opened to read, output to write", generate=with_open),
)
