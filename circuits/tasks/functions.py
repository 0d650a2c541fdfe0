"""Tasks about function headers: keyword parameters, and a name after `lambda` against a name after `def`."""

from random import Random

from circuits.tasks.task import PairText, Side, nested, task
from sparsetrain.data.pools import Pool


def _final_kwarg_again(rng: Random, pool: Pool) -> PairText:
    """The header of a method."""
    first, second, last = rng.sample(pool.variables, 3)
    before = f"class {rng.choice(pool.nouns)}:\n    def {rng.choice(pool.functions)}(self, {first}, {second}"
    return PairText(
        positive=Side(prompt=f"{before}=None, {last}", answer="=None", continuation="):\n"),
        negative=Side(prompt=f"{before}, {last}", answer="):", continuation="\n"),
    )


@task(paraphrase=_final_kwarg_again)
def final_kwarg(rng: Random, pool: Pool) -> PairText:
    """after a parameter with a default the last one needs =None, otherwise ): closes the header"""
    function = rng.choice(pool.functions)
    *names, last = rng.sample(pool.variables, 4 if pool.shifted else 3)
    n_plain = rng.choice((1, 2)) if pool.shifted else 1
    positive = names[:n_plain] + [f"{name}=None" for name in names[n_plain:]]
    return PairText(
        positive=Side(prompt=f"def {function}({', '.join([*positive, last])}", answer="=None", continuation="):\n"),
        negative=Side(prompt=f"def {function}({', '.join([*names, last])}", answer="):", continuation="\n"),
    )


def _lambda_func_again(rng: Random, pool: Pool) -> PairText:
    """Both in the body of an if, the lambda returned."""
    name, test, target = rng.sample(pool.variables, 3)
    return PairText(
        positive=Side(prompt=f"if {test}:\n    return lambda {name}", answer=":", continuation=f" {name} + 1\n"),
        negative=Side(prompt=f"if {test}:\n    def {name}", answer="(", continuation=f"{target}):\n"),
    )


@task(paraphrase=_lambda_func_again)
def lambda_func(rng: Random, pool: Pool) -> PairText:
    """a name after lambda is followed by :, a name after def by ("""
    name, target, spare = rng.sample(pool.variables, 3)
    context = nested(rng, pool, spare)
    return PairText(
        positive=Side(prompt=f"{context}{target} = lambda {name}", answer=":", continuation=f" {name} + 1\n"),
        negative=Side(prompt=f"{context}def {name}", answer="(", continuation=f"{target}):\n"),
    )


TASKS = (final_kwarg, lambda_func)
