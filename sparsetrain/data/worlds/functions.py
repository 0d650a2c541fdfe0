"""Functions of two symbols from families of rising complexity, shown as demonstrations in a row: what in-context learning is tried on.

1. A function maps two of P symbols to one: `y = f(a, b)`. Some look at one of the two alone.
2. Families are ordered by the operations that the answer takes (read a symbol, compare, look up, add, multiply), counted here, before any
   training. In `conditional` the items of one function differ in them: b says whether a is moved on or the answer is always the same.
3. A row is one function: pairs `a b ask y`. Every pair has one length, one place on the grid and one last
   token in front of its answer, so that length, position and identity of that token cannot tell items apart.
4. Functions are split into seen, validation and unseen ones; no two functions of a world have the same table of answers, so that an
   unseen one is never trained on under another name. Two whole families are unseen. Settings are chosen on validation functions alone.
5. Shuffled labels: the answers of all training rows are permuted among the rows, place by place. What symbols occur as answers, and how
   often, stays; that the answers of a row belong to its inputs, or to each other, does not. (Permuting within a row would leave a constant
   function intact.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sparsetrain.typed import Count

Ints = NDArray[np.int64]
LENGTH = 4
"""Tokens of a pair: two symbols, ask, the answer."""
PARTS = ("seen", "val", "unseen")


@dataclass(frozen=True, kw_only=True)
class FunctionsConfig:
    """How many symbols, demonstrations and functions. ours"""

    n_symbols: Count = 7
    n_alphabet: Count = 2
    """Fewest different symbols of a row of training."""
    n_shots: Count = 12
    """Most demonstrations; a row of training has one pair more, and each of its answers is trained on."""
    n_seen: Count = 1000
    """Seen functions of a family that has so many."""
    n_held: Count = 10
    """Unseen functions of a family, and as many validation ones; of a small family a quarter and an eighth."""

    def __post_init__(self) -> None:
        if self.n_symbols < 5:
            raise ValueError(f"n_symbols={self.n_symbols} is too few for shifts, tables and halves; give 5 or more")
        if self.n_alphabet > self.n_symbols:
            raise ValueError(f"n_alphabet={self.n_alphabet} must be at most n_symbols={self.n_symbols}")
        if self.n_shots >= self.n_symbols**2:
            raise ValueError(
                f"n_shots={self.n_shots} and a query are more than the {self.n_symbols**2} inputs of {self.n_symbols} symbols; "
                f"lower n_shots or raise n_symbols"
            )

    @property
    def ask(self) -> int:
        """The token in front of every answer; symbols are 0 to n_symbols - 1."""
        return self.n_symbols

    @property
    def d_vocab(self) -> int:
        return self.n_symbols + 1

    @property
    def n_pairs(self) -> int:
        """Pairs of a row of training."""
        return self.n_shots + 1

    @property
    def n_tokens(self) -> int:
        """Of a row of training."""
        return LENGTH * self.n_pairs


@dataclass(frozen=True, kw_only=True)
class Function:
    """One function by its table."""

    family: str
    name: str
    part: str
    """seen, val or unseen."""
    answers: Ints
    """`[a, b]`: symbol."""
    operations: Ints
    """`[a, b]`: operations that the answer takes; the difficulty of an item."""


Tables = tuple[str, Ints, Ints]
"""Name in the family, answers and operations, `[a, b]` each."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Functions of one form."""

    words: str
    tables: Callable[[int, np.random.Generator], Iterator[Tables]]
    """(symbols, generator) -> its functions in random order: all of them, or without end where there are too many."""
    seen: bool = True
    """Whether functions of it are trained on."""


def _grid(p: int) -> tuple[Ints, Ints]:
    a, b = np.indices((p, p))
    return a, b


def _all_of(
    name: Callable[..., str], make: Callable[..., tuple[Ints, Ints | int]], *choices: Callable[[int], Sequence[int]]
) -> Callable[[int, np.random.Generator], Iterator[Tables]]:
    """Every combination of parameters once, in random order."""

    def tables(p: int, rng: np.random.Generator) -> Iterator[Tables]:
        combinations = list(product(*(values(p) for values in choices)))
        for i in rng.permutation(len(combinations)):
            answers, operations = make(p, *combinations[i])
            yield name(*combinations[i]), answers % p, np.broadcast_to(operations, (p, p)).astype(np.int64)

    return tables


def _tables(
    name: str, make: Callable[[int, Ints], tuple[Ints, int]]
) -> Callable[[int, np.random.Generator], Iterator[Tables]]:
    """Functions of random one-to-one tables, without end: no answer is more frequent than others, so that counting answers tells nothing."""

    def tables(p: int, rng: np.random.Generator) -> Iterator[Tables]:
        while True:
            table = rng.permutation(p)
            answers, operations = make(p, table)
            yield f"{name} {' '.join(map(str, table))}", answers % p, np.full((p, p), operations)

    return tables


def _first_half(p: int) -> NDArray[np.bool_]:
    """Whether b is of the first half."""
    return _grid(p)[1] < (p + 1) // 2


def _symbols(p: int) -> Sequence[int]:
    return range(p)


def _moves(p: int) -> Sequence[int]:
    return range(1, p)


def _a(p: int) -> Ints:
    return _grid(p)[0]


def _b(p: int) -> Ints:
    return _grid(p)[1]


FAMILIES: Mapping[str, Family] = {
    "constant": Family(
        words="y = c",
        tables=_all_of(lambda c: f"{c}", lambda p, c: (np.full((p, p), c), 0), _symbols),
    ),
    "copy": Family(
        words="y = a, or y = b",
        tables=_all_of(lambda i: "ab"[i], lambda p, i: (_grid(p)[i], 1), lambda p: (0, 1)),
    ),
    "shift": Family(
        words="y = a + k",
        tables=_all_of(lambda k: f"a + {k}", lambda p, k: (_a(p) + k, 2), _moves),
    ),
    "lookup": Family(
        words="y = T[a], T a random one-to-one table",
        tables=_tables("table", lambda p, table: (table[_a(p)], 2)),
    ),
    "switch": Family(
        words="y = c if b is of the first half, else d",
        tables=_all_of(
            lambda c, k: f"{c} or {c} + {k}",
            lambda p, c, k: (np.where(_first_half(p), c, c + k), 2),
            _symbols, _moves,
        ),
        seen=False,
    ),
    "affine": Family(
        words="y = m a + c, m not 0 or 1",
        tables=_all_of(lambda m, c: f"{m} a + {c}", lambda p, m, c: (m * _a(p) + c, 3), lambda p: range(2, p), _symbols),
        seen=False,
    ),
    "conditional": Family(
        words="y = a + k if b is of the first half, else c",
        tables=_all_of(
            lambda k, c: f"a + {k} or {c}",
            lambda p, k, c: (np.where(_first_half(p), _a(p) + k, c), np.where(_first_half(p), 4, 2)),
            _moves, _symbols,
        ),
    ),
    "composition": Family(
        words="y = T[a] + b, T a random one-to-one table",
        tables=_tables("table plus b", lambda p, table: (table[_a(p)] + _b(p), 4)),
    ),
}  # fmt: skip
"""By rising operations; sums are modulo the number of symbols."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Functions of all families, in parts."""

    config: FunctionsConfig
    functions: tuple[Function, ...]

    def of(self, part: str, *families: str) -> tuple[Function, ...]:
        """Functions of a part, of some families (none given: of all)."""
        return tuple(f for f in self.functions if f.part == part and (not families or f.family in families))

    def families(self, part: str) -> tuple[str, ...]:
        """Families that have functions of a part, in their order."""
        return tuple(name for name in FAMILIES if self.of(part, name))


def draw_world(config: FunctionsConfig, seed: int) -> World:
    """Draws functions and their parts; a function of config and seed.

    Small families come first, so that a random table that happens to be one of theirs is drawn again, whatever its part would be.
    """
    rng = np.random.default_rng([seed, 1])
    known: set[bytes] = set()
    found: dict[str, list[Function]] = {}
    n_most = config.n_seen + 2 * config.n_held
    small = {name: list(FAMILIES[name].tables(config.n_symbols, rng)) for name in FAMILIES if name not in _LARGE}
    for tables in small.values():
        known |= {answers.tobytes() for _, answers, _ in tables}
    for name, family in FAMILIES.items():
        drawn: list[Tables] = small.get(name, [])[:n_most]
        if name in _LARGE:
            for tables in family.tables(config.n_symbols, rng):
                if tables[1].tobytes() not in known:
                    known.add(tables[1].tobytes())
                    drawn.append(tables)
                if len(drawn) == n_most:
                    break
        n_unseen, n_val = min(config.n_held, len(drawn) // 4), min(config.n_held, len(drawn) // 8)
        parts = ["unseen"] * n_unseen + ["val"] * n_val
        parts += ["seen" if family.seen else ""] * (len(drawn) - len(parts))
        found[name] = [
            Function(family=name, name=of, part=part, answers=answers, operations=operations)
            for (of, answers, operations), part in zip(drawn, parts, strict=True)
            if part
        ]
    functions = tuple(function for of_family in found.values() for function in of_family)
    check_disjoint(functions)
    return World(config=config, functions=functions)


_LARGE = ("lookup", "composition")


def check_disjoint(functions: Sequence[Function]) -> None:
    """Compares the tables themselves.

    Raises:
        ValueError: two functions give the same answers everywhere; names both.
    """
    first: dict[bytes, Function] = {}
    for function in functions:
        other = first.setdefault(function.answers.tobytes(), function)
        if other is not function:
            raise ValueError(
                f"{function.part} function {function.family} {function.name!r} has the same answers as the {other.part} "
                f"{other.family} {other.name!r}; what is unseen must be unseen under any name"
            )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of pairs of one function each."""

    tokens: Ints
    """`[n_rows, 4 n_pairs]`."""
    function: Ints
    """Index in the functions that the rows are drawn of, `[n_rows]`."""
    operations: Ints
    """`[n_rows, n_pairs]`."""


def draw_rows(config: FunctionsConfig, functions: Sequence[Function], n_rows: int, rng: np.random.Generator) -> Rows:
    """Rows of training: of a family, then a function of it, each drawn alike.

    The inputs of a row are drawn, with repetition, from an alphabet of its own: `n_alphabet` to all symbols. In a small one symbols come
    again soon, which is what matching a query with a demonstration is learned from.
    """
    p, n_pairs = config.n_symbols, config.n_pairs
    names = [f.family for f in functions]
    members = [np.flatnonzero([f == name for f in names]) for name in dict.fromkeys(names)]
    sizes = np.array([len(of) for of in members])
    family = rng.integers(len(members), size=n_rows)
    first = sizes.cumsum() - sizes
    chosen = np.concatenate(members)[first[family] + rng.integers(sizes[family])]
    alphabets = rng.permuted(np.tile(np.arange(p), (n_rows, 1)), axis=1)
    size = rng.integers(config.n_alphabet, p + 1, size=n_rows)
    drawn = rng.integers(np.broadcast_to(size[:, None], (n_rows, 2 * n_pairs)))
    inputs = np.take_along_axis(alphabets, drawn, 1)
    return _rows(config, functions, chosen, inputs[:, :n_pairs], inputs[:, n_pairs:])


def even_rows(config: FunctionsConfig, functions: Sequence[Function], n_rows: int, rng: np.random.Generator) -> Rows:
    """Rows of evaluation: `n_rows` of every function, one after the other, the inputs of a row all different, of all symbols."""
    p = config.n_symbols
    chosen = np.repeat(np.arange(len(functions)), n_rows)
    inputs = rng.permuted(np.tile(np.arange(p * p), (len(chosen), 1)), axis=1)[:, : config.n_pairs]
    return _rows(config, functions, chosen, *np.divmod(inputs, p))


def _rows(config: FunctionsConfig, functions: Sequence[Function], chosen: Ints, a: Ints, b: Ints) -> Rows:
    answers, operations = (np.stack([getattr(f, name) for f in functions]) for name in ("answers", "operations"))
    of = chosen[:, None]
    tokens = np.stack([a, b, np.full_like(a, config.ask), answers[of, a, b]], axis=2)
    return Rows(tokens=tokens.reshape(len(chosen), -1), function=chosen, operations=operations[of, a, b])


def shuffle_answers(tokens: Ints, rng: np.random.Generator) -> Ints:
    """The rows with the answers of each place permuted among all rows."""
    shuffled = tokens.copy()
    answers = shuffled[:, LENGTH - 1 :: LENGTH]
    shuffled[:, LENGTH - 1 :: LENGTH] = rng.permuted(answers, axis=0)
    return shuffled


def prompt(config: FunctionsConfig, demonstrations: Sequence[tuple[int, int, int]], query: tuple[int, int]) -> Ints:
    """Tokens of demonstrations `(a, b, y)` and a query `(a, b)`, to the last `ask`."""
    pairs = [(a, b, config.ask, y) for a, b, y in demonstrations]
    return np.array([token for pair in pairs for token in pair] + [*query, config.ask], dtype=np.int64)
