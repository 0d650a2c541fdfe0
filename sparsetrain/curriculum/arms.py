"""Arms: rules that choose the demonstrations of a prompt and their order. The last one stands next to the question.

1. An arm sees scores alone: of every example of the pool its sparsity, loss, length and (where known) difficulty, and of the question its
   sparsity and its similarity to every example. It never sees an answer to the question.
2. *Orders* show the `n_shown` most similar examples and differ in nothing but their order; their control is a random order.
3. *Choices* take their demonstrations out of the `n_retrieved` most similar ones; their control takes as many of these without knowing how
   sparse they are. A rule that prefers similar ones besides has a control that does so too.

Source: Jin et al. 2026 (arXiv 2603.03415) for `published`; docs/curriculum.md says where ours differs from the released code.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sparsetrain.curriculum.ranking import check_levels, level_in, levels_of, rank_in, ranks
from sparsetrain.typed import Count, Several

Floats = NDArray[np.float64]
Branch = Literal["easy", "medium", "hard"]
BRANCHES: tuple[Branch, ...] = get_args(Branch)
ZERO_SHOT, RANDOM_ORDER, DRAWN, DEALT = "zero_shot", "random_order", "drawn", "dealt"


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """How demonstrations are chosen. ours, but for n_retrieved and n_levels"""

    n_shown: Count = 4
    """Demonstrations of a prompt."""
    n_retrieved: Count = 20
    """The most similar examples, out of which arms that choose take theirs. Jin et al. 2026: 20"""
    n_levels: Several = 5
    """Levels of difficulty, of equal size. Jin et al. 2026: 5"""
    n_draws: Several = 10
    """Prompts of each item in arms that draw at random."""
    seed: int = 0
    """Of these draws."""

    def __post_init__(self) -> None:
        if self.n_shown > self.n_retrieved:
            raise ValueError(
                f"n_shown={self.n_shown} demonstrations cannot be taken from n_retrieved={self.n_retrieved} examples; lower n_shown or raise n_retrieved"
            )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What is known of every example of a pool; each `[n]`."""

    sparsity: Floats
    """Higher is sparser, and so taken for harder."""
    loss: Floats
    """Of its answer, nats/token."""
    length: Floats
    """Tokens."""
    difficulty: Floats | None = None
    """Known from elsewhere; higher is harder. None: not known."""

    def __len__(self) -> int:
        return len(self.sparsity)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is known of the question."""

    sparsity: float
    similarity: Floats
    """To every example of the pool, `[n]`."""
    allowed: NDArray[np.bool_]
    """Examples that may be shown: all but the question itself, `[n]`."""


Rule = Callable[[Pool, Asked, ChoiceConfig, np.random.Generator], Sequence[int]]
"""Numbers of examples of the pool, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A rule, and what it is compared with."""

    name: str
    words: str
    rule: Rule
    control: str = ""
    """The arm that differs from it in the claimed respect alone; empty: it is none that is claimed to help."""
    is_random: bool = False
    needs_difficulty: bool = False


ARMS: dict[str, Arm] = {}
"""Every arm by name, in the order of the page."""


def arm(
    words: str, *, control: str = "", is_random: bool = False, needs_difficulty: bool = False
) -> Callable[[Rule], Rule]:
    """Enters a rule into `ARMS` under its own name."""

    def enter(rule: Rule) -> Rule:
        ARMS[rule.__name__] = Arm(
            name=rule.__name__,
            words=words,
            rule=rule,
            control=control,
            is_random=is_random,
            needs_difficulty=needs_difficulty,
        )
        return rule

    return enter


def retrieved(asked: Asked, n: int) -> list[int]:
    """The most similar examples that may be shown, the most similar first; equal ones in the order of the pool."""
    order = np.argsort(-asked.similarity, kind="stable")
    return order[asked.allowed[order]][:n].tolist()


def shown(asked: Asked, choice: ChoiceConfig) -> list[int]:
    """What arms that order show: the most similar examples, the most similar first."""
    return retrieved(asked, choice.n_shown)


def _sorted(asked: Asked, choice: ChoiceConfig, key: Floats) -> list[int]:
    return sorted(shown(asked, choice), key=lambda i: key[i])


@arm("no demonstrations")
def zero_shot(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    return ()


@arm("the most similar examples in random order", is_random=True)
def random_order(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    return rng.permutation(shown(asked, choice)).tolist()


@arm("the most similar last", control=RANDOM_ORDER)
def similarity(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    return shown(asked, choice)[::-1]


@arm("the longest last", control=RANDOM_ORDER)
def length(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    return _sorted(asked, choice, pool.length)


@arm("the highest loss last", control=RANDOM_ORDER)
def loss(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    return _sorted(asked, choice, pool.loss)


@arm("by known difficulty, the hardest last", control=RANDOM_ORDER, needs_difficulty=True)
def easy_to_hard(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    assert pool.difficulty is not None
    return _sorted(asked, choice, pool.difficulty)


@arm("by known difficulty, the easiest last", control=RANDOM_ORDER, needs_difficulty=True)
def hard_to_easy(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    assert pool.difficulty is not None
    return _sorted(asked, choice, -pool.difficulty)


@arm("the sparsest last", control=RANDOM_ORDER)
def sparsity(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    return _sorted(asked, choice, pool.sparsity)


@arm("drawn at random from those retrieved", is_random=True)
def drawn(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    found = retrieved(asked, choice.n_retrieved)
    return rng.permutation(found)[: choice.n_shown].tolist()


@arm("sparsity-guided, as published: own level, and one harder or one easier", control=DEALT)
def published(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    """An easy question is shown examples of its own level, then harder ones; a hard one easier ones, then its own; others their own alone.

    Of two demonstrations that is the source's rule; of more, half of them, the odd one going to the question's own level. Where a level
    has not enough of those retrieved, the nearest level gives the rest. Levels are of the whole pool.
    """
    levels = levels_of(pool.sparsity, choice.n_levels)
    level = level_in(asked.sparsity, pool.sparsity, choice.n_levels)
    left = retrieved(asked, choice.n_retrieved)
    n = min(choice.n_shown, len(left))

    def take(wanted: int, count: int) -> list[int]:
        nearest = sorted(left, key=lambda i: abs(int(levels[i]) - wanted))[:count]
        left[:] = [i for i in left if i not in nearest]
        return nearest

    n_own = n - n // 2
    match branch_of(level, choice.n_levels):
        case "easy":
            return [*take(level, n_own), *take(level + 1, n - n_own)]
        case "hard":
            own = take(level, n_own)
            return [*take(level - 1, n - n_own), *own]
        case "medium":
            return take(level, n)


@arm("as published, with the sparsity of the pool dealt out among its examples at random", is_random=True)
def dealt(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    """Of a level the published rule takes the most similar ones, and so does this control: it is told apart from it by sparsity alone."""
    return published(replace(pool, sparsity=rng.permutation(pool.sparsity)), asked, choice, rng)


@arm("sparsity-guided, ours: those as sparse as the question, the sparsest last", control=DRAWN)
def matched(pool: Pool, asked: Asked, choice: ChoiceConfig, rng: np.random.Generator) -> Sequence[int]:
    """Of those retrieved the ones whose rank of sparsity is nearest to the question's; equally near ones by similarity."""
    place, own = ranks(pool.sparsity), rank_in(asked.sparsity, pool.sparsity)
    # A rank lies between two places of the pool, which are equally near.
    near = sorted(retrieved(asked, choice.n_retrieved), key=lambda i: abs(int(place[i]) + 0.5 - own))
    return sorted(near[: choice.n_shown], key=lambda i: place[i])


def branch_of(level: int, n_levels: int) -> Branch:
    """The third of the levels in which the middle of a level lies: with 5 levels two are easy, one is medium, two are hard.

    The released code's condition for its easy branch cannot hold with 5 levels; this one reaches all three from 2 (no medium) or 3 levels on.
    """
    return BRANCHES[min(2, int(3 * (level + 0.5) / n_levels))]


def check_pool(choice: ChoiceConfig, n: int, n_allowed: int) -> None:
    """Whether a pool of n examples is large enough, n_allowed of which may be shown.

    Raises:
        ValueError: fewer examples may be shown than are asked for; fewer examples than levels.
    """
    if n_allowed < choice.n_shown:
        raise ValueError(
            f"n_shown={choice.n_shown} demonstrations, but only {n_allowed} examples of the pool may be shown; lower it or give a larger pool"
        )
    check_levels(n, choice.n_levels)


def chosen(pool: Pool, asked: Asked, choice: ChoiceConfig, name: str, item: int) -> list[tuple[int, ...]]:
    """The prompts of one question in an arm: one, or as many as are drawn.

    Args:
        pool: scores.
        asked: scores.
        choice: budgets.
        name: of the arm.
        item: number of the question; draws are a function of the seed, the arm's name and it.

    Raises:
        ValueError: as `check_pool`.
    """
    check_pool(choice, len(pool), int(asked.allowed.sum()))
    entry = ARMS[name]
    draws = range(choice.n_draws if entry.is_random else 1)
    generators = (np.random.default_rng((choice.seed, item, draw, *name.encode())) for draw in draws)
    return [tuple(entry.rule(pool, asked, choice, generator)) for generator in generators]


def arms_of(pool: Pool) -> Mapping[str, Arm]:
    """The arms that a pool allows."""
    return {name: arm for name, arm in ARMS.items() if pool.difficulty is not None or not arm.needs_difficulty}
