"""Shifts in degrees, each beside a control: what is claimed to matter grows with the level in one and not in the other.

1. A shift has levels, 0 as in training, and rows of one length that end in the answer. Row k of every level and of the control is made
   of the same names, so that rows are paired.
2. The control changes the row as the shift does (as many lines or triples of the same form, at the same places) without the thing that
   is claimed to matter.
3. `code.py` has the four shifts of Python, `triples.py` those of the knowledge graph.

| shift      | what grows with the level                            | what grows in the control                           |
|------------|------------------------------------------------------|-----------------------------------------------------|
| difficulty | distractors; derivation steps                        | brackets that are no quotes; trained triples         |
| choices    | open brackets; objects of the asked relation         | brackets, objects that are no candidates             |
| context    | tokens, triples of the own document in front         | the same in front, of another document               |
| conflict   | functions, triples that contradict what was learned  | functions, triples that agree with it                |

Source: the four kinds are those of Jin et al. 2026 (arXiv 2603.03415); tasks and controls are ours.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise, product
from random import Random
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sparsetrain.typed import Several

Name = Literal["difficulty", "choices", "context", "conflict"]
NAMES: tuple[Name, ...] = get_args(Name)
World = Literal["python", "graph"]
WORLDS: tuple[World, ...] = get_args(World)
SIDES = ("shift", "control")

BOUNDS: Mapping[tuple[World, Name], tuple[int, int]] = {("python", "choices"): (1, 3), ("graph", "difficulty"): (0, 2)}
"""Lowest and highest possible level where they are not 0 and, of the graph, the triples in front."""
MAX_REJECTED = 0.95
MIN_TRIES = 200


def python_levels() -> dict[Name, tuple[int, ...]]:
    """Quoted words; open brackets; tokens in front; contradicting functions."""
    return {"difficulty": (0, 1, 2, 4), "choices": (1, 2, 3), "context": (0, 16, 32, 64), "conflict": (0, 1, 2, 4)}


def graph_levels() -> dict[Name, tuple[int, ...]]:
    """0 trained, 1 medium, 2 hard; alternatives; triples in front; contradicting triples."""
    return {"difficulty": (0, 1, 2), "choices": (0, 2, 4, 7), "context": (0, 2, 4, 7), "conflict": (0, 1, 2, 4)}


@dataclass(frozen=True, kw_only=True)
class GradedConfig:
    """Which shifts are built and how far they go. ours"""

    world: World = "python"
    names: tuple[Name, ...] = NAMES
    n_items: Several = 128
    """Rows of each level; triples of the graph's difficulty are `study.knowledge_graph.n_eval`."""
    n_triples: Several = 8
    """Triples of a row of the graph, the last one asked for."""
    python: dict[Name, tuple[int, ...]] = field(default_factory=python_levels)
    graph: dict[Name, tuple[int, ...]] = field(default_factory=graph_levels)

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names={list(self.names)} must be different ones of {', '.join(NAMES)}")
        for world, name in product(WORLDS, self.names):
            self._check(world, name)

    def _check(self, world: World, name: Name) -> None:
        if name not in self.levels(world):
            raise ValueError(
                f"{world} has no levels of {name}; give {world}.{name}=[0,...] or leave {name} out of names"
            )
        levels = self.levels(world)[name]
        lowest, highest = BOUNDS.get((world, name), (0, None if world == "python" else self.n_triples - 1))
        rising = all(a < b for a, b in pairwise(levels))
        if len(levels) < 2 or not rising or levels[0] != lowest or (highest is not None and levels[-1] > highest):
            end = "" if highest is None else f" and end at {highest} at most"
            raise ValueError(f"{world}.{name}={list(levels)} must rise from {lowest}{end}, with two levels or more")

    def levels(self, world: World) -> dict[Name, tuple[int, ...]]:
        """Shift -> levels."""
        return self.python if world == "python" else self.graph


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One shift and its control."""

    name: str
    levels: tuple[int, ...]
    tokens: NDArray[np.int64]
    """`[2, n_levels, n, length]`: shift and control, the answer last."""
    choices: NDArray[np.int64]
    """`[2, n_levels, n, n_choices]` tokens the answer is compared with, the right one first; where there are fewer, one is repeated."""
    rejected: Mapping[str, int]
    """Reason -> rows thrown away on the way."""

    def __post_init__(self) -> None:
        assert self.tokens.shape[:2] == (2, len(self.levels)) and self.tokens.shape[:3] == self.choices.shape[:3]
        assert (self.tokens[..., -1] == self.choices[..., 0]).all()

    @property
    def rows(self) -> NDArray[np.int64]:
        """All rows one below the other, `[2 * n_levels * n, length]`."""
        return self.tokens.reshape(-1, self.tokens.shape[-1])


class Unsuited(Exception):
    """A row that cannot be made; the message is the reason."""


Row = Callable[[Random, int, int, bool], tuple[list[int], list[int]]]
"""(random numbers, which row, level, whether it is the control) -> tokens with the answer, and the tokens to choose from."""


def tries(seed: int, name: Name) -> Iterator[Random]:
    """Random numbers of one try after another to make a row: a function of the arguments."""
    return (Random(f"shifts/{seed}/{name}/{k}") for k in count())


def draw_graded(
    name: Name, levels: tuple[int, ...], n_items: int, seed: int, row: Row, *, key: str, unsuited: str, advice: str
) -> Graded:
    """Rows of all levels and of the control. A row that one of them cannot hold is left out of all and counted.

    Args:
        n_items: rows of each level.
        key: the config's name of the levels, for the message.
        unsuited: what the rows do not fit in.
        advice: what to change.

    Raises:
        ValueError: nearly all rows are rejected.
    """
    rejected: Counter[str] = Counter()
    tokens, choices = [], []
    for random in tries(seed, name):
        if len(tokens) == n_items:
            break
        state = random.getstate()
        try:
            made = []
            for control in (False, True):
                for level in levels:
                    random.setstate(state)  # the same names at every level and in the control
                    made.append(row(random, len(tokens), level, control))
        except Unsuited as reason:
            rejected[str(reason)] += 1
            n_rejected, n_tries = rejected.total(), rejected.total() + len(tokens)
            if n_rejected >= MIN_TRIES and n_rejected > MAX_REJECTED * n_tries:
                most = ", ".join(f"{why}: {n}" for why, n in rejected.most_common())
                raise ValueError(
                    f"{key}={list(levels)} does not suit this {unsuited}: {n_rejected} of {n_tries} rows were rejected ({most}); "
                    f"{advice}"
                ) from None
            continue
        tokens.append([found for found, _ in made])
        choices.append([asked for _, asked in made])

    def by_side(rows: Sequence[Sequence[list[int]]]) -> NDArray[np.int64]:
        stacked = np.array(rows, dtype=np.int64).swapaxes(0, 1)
        return stacked.reshape(len(SIDES), len(levels), *stacked.shape[1:])

    return Graded(name=name, levels=levels, tokens=by_side(tokens), choices=by_side(choices), rejected=dict(rejected))
