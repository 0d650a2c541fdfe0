"""A closed rule language: a few rules, each holding in several contexts that differ in surface, over inputs that can all be listed.

1. A rule maps two of P symbols to one: `y = f(a, b)`. Some look at one of the two alone; the other one is then a distractor.
2. A context is a surface: a token of its own in front, own words for all rules, and an own order of word and operands. The answers of a
   rule are the same in every context.
3. A row is `mark word a b ask y`, the middle three in the order of the context: one length, one last token, one answer.
4. Some pairs of operands are held out of training, for each rule its own, the same in all its contexts, so that no other context gives
   them away. Every operand is held out equally often at either place: a word, a symbol or a place says nothing of being held out.
5. Inputs are numbered by (rule, context, a, b); so the same question in another context, or with relabelled symbols, is another number.
6. `change_rule` puts another rule in the place of one, in some contexts alone: what a transfer is tried on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsetrain.typed import Count

Ints = NDArray[np.int64]
LENGTH = 6
"""Tokens of a row: mark, word and operands, ask, the answer."""
ORDERS = tuple(permutations(("word", "a", "b")))
"""Orders of the middle three; context c has the c-th."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule."""

    words: str
    table: Callable[[int, np.random.Generator], Ints]
    """(symbols, generator) -> answers, `[a, b]`."""


def _grid(p: int) -> tuple[Ints, Ints]:
    a, b = np.indices((p, p))
    return a, b


def _lookup(p: int, rng: np.random.Generator) -> Ints:
    # One-to-one, nowhere a copy or a neighbour and no shift, so that no other rule answers a part of it.
    while True:
        table = rng.permutation(p)
        moved = (table - np.arange(p)) % p
        if not np.isin(moved, (0, 1, p - 1)).any() and len(set(moved)) > 1:
            return table[_grid(p)[0]]


RULES: Mapping[str, Rule] = {
    "copy": Rule(words="y = a", table=lambda p, _: _grid(p)[0]),
    "other": Rule(words="y = b", table=lambda p, _: _grid(p)[1]),
    "successor": Rule(words="y = a + 1 modulo P", table=lambda p, _: (_grid(p)[0] + 1) % p),
    "predecessor": Rule(words="y = a - 1 modulo P", table=lambda p, _: (_grid(p)[0] - 1) % p),
    "larger": Rule(words="y = max(a, b)", table=lambda p, _: np.maximum(*_grid(p))),
    "smaller": Rule(words="y = min(a, b)", table=lambda p, _: np.minimum(*_grid(p))),
    "lookup": Rule(words="y = T[a], T a random one-to-one table", table=_lookup),
    "sum": Rule(words="y = a + b modulo P", table=lambda p, _: np.add(*_grid(p)) % p),
}


@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """Which rules, in how many contexts, over how many symbols. ours"""

    n_symbols: Count = 10
    n_contexts: Count = 3
    rules: tuple[str, ...] = ("copy", "successor", "larger", "lookup")
    n_held: Count = 2
    """Second operands that are held out for each first one (and first ones for each second one), of `n_symbols`."""

    def __post_init__(self) -> None:
        if self.n_symbols < 6:
            raise ValueError(
                f"n_symbols={self.n_symbols} is too few for a table that is nowhere another rule; give 6 or more"
            )
        if not 3 <= self.n_contexts <= len(ORDERS):
            raise ValueError(
                f"n_contexts={self.n_contexts} must be 3 to {len(ORDERS)}, the orders of a word and two operands"
            )
        if unknown := sorted(set(self.rules) - RULES.keys()):
            raise ValueError(f"rules has unknown names {unknown}; allowed: {', '.join(RULES)}")
        if len(self.rules) < 2 or len(set(self.rules)) < len(self.rules):
            raise ValueError(f"rules={list(self.rules)} must be at least two different ones of {', '.join(RULES)}")
        if self.n_held > self.n_symbols // 2:
            raise ValueError(
                f"n_held={self.n_held} holds out more than half of the operands of n_symbols={self.n_symbols}; "
                f"give at most {self.n_symbols // 2}"
            )

    @property
    def n_behaviours(self) -> int:
        """Rules times contexts."""
        return len(self.rules) * self.n_contexts

    @property
    def n_inputs(self) -> int:
        """All there are."""
        return self.n_behaviours * self.n_symbols**2

    @property
    def ask(self) -> int:
        """The token in front of every answer; symbols are 0 to n_symbols - 1."""
        return self.n_symbols

    def mark(self, context: ArrayLike) -> Ints:
        """The first token of every row of a context."""
        return self.n_symbols + 1 + np.asarray(context, dtype=np.int64)

    def word(self, rule: ArrayLike, context: ArrayLike) -> Ints:
        """What a context calls a rule."""
        return self.mark(self.n_contexts + np.asarray(context) * len(self.rules) + np.asarray(rule))

    @property
    def d_vocab(self) -> int:
        """Tokens: symbols, ask, marks, words."""
        return self.n_symbols + 1 + self.n_contexts + self.n_behaviours


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Rows with what they are made of; `[n]` each."""

    tokens: Ints
    """`[n, LENGTH]`, the last one the answer."""
    rule: Ints
    """Index in the config's rules."""
    context: Ints
    a: Ints
    b: Ints
    held: NDArray[np.bool_]
    """Whether it is held out of training."""
    behaviour: Ints
    """rule * n_contexts + context."""

    def take(self, rows: ArrayLike) -> "Inputs":
        """Some of them, by a mask or by numbers."""
        return Inputs(**{name: getattr(self, name)[np.asarray(rows)] for name in Inputs.__annotations__})


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleWorld:
    """The answers of every rule in every context, and what is held out."""

    config: RulesConfig
    answers: Ints
    """`[rule, context, a, b]`: symbol."""
    held: NDArray[np.bool_]
    """`[rule, a, b]`."""

    @property
    def behaviours(self) -> tuple[str, ...]:
        """`<rule> in <context>`, in the order of their numbers."""
        return tuple(f"{rule} in {c}" for rule in self.config.rules for c in range(self.config.n_contexts))

    def number(self, rule: ArrayLike, context: ArrayLike, a: ArrayLike, b: ArrayLike) -> Ints:
        """Place of an input in `inputs`."""
        shape = (len(self.config.rules), self.config.n_contexts, self.config.n_symbols, self.config.n_symbols)
        return np.asarray(np.ravel_multi_index(np.broadcast_arrays(rule, context, a, b), shape), dtype=np.int64)

    @cached_property
    def inputs(self) -> Inputs:
        """Every input once, in the order of its number."""
        config = self.config
        rule, context, a, b = (axis.ravel() for axis in np.indices(self.answers.shape))
        parts = {"word": config.word(rule, context), "a": a, "b": b}
        middle = np.empty((len(rule), 3), dtype=np.int64)
        for c in range(config.n_contexts):
            middle[context == c] = np.stack([parts[name] for name in ORDERS[c]], 1)[context == c]
        ask = np.full_like(a, config.ask)
        return Inputs(
            tokens=np.column_stack([config.mark(context), middle, ask, self.answers.ravel()]),
            rule=rule, context=context, a=a, b=b,
            held=self.held[rule, a, b],
            behaviour=rule * config.n_contexts + context,
        )  # fmt: skip

    @property
    def train(self) -> Inputs:
        """Inputs that are trained on."""
        return self.inputs.take(~self.inputs.held)

    @property
    def heldout(self) -> Inputs:
        """Inputs that are never trained on."""
        return self.inputs.take(self.inputs.held)


def draw_rules(config: RulesConfig, seed: int) -> RuleWorld:
    """Draws tables and what is held out; a function of config and seed."""
    rng = np.random.default_rng([seed, 5])
    p = config.n_symbols
    tables = np.stack([RULES[name].table(p, rng) for name in config.rules])
    held = np.stack([np.add.outer(rng.permutation(p), rng.permutation(p)) % p < config.n_held for _ in config.rules])
    answers = np.repeat(tables[:, None], config.n_contexts, 1)
    world = RuleWorld(config=config, answers=answers, held=held)
    check_rules(world)
    return world


def change_rule(world: RuleWorld, rule: str, to: str, contexts: Sequence[int], seed: int = 0) -> RuleWorld:
    """The world in which a rule is another one in some contexts; what is held out stays.

    Args:
        world: as it was.
        rule: one of its rules.
        to: any rule.
        contexts: numbers, from 0 on; at least one, and not all, so that there are contexts to transfer to.
        seed: of the table, where `to` draws one.

    Raises:
        ValueError: a rule or context that there is not, or a rule that answers nothing otherwise.
    """
    config = world.config
    if rule not in config.rules:
        raise ValueError(f"rule={rule!r} is none of this world; allowed: {', '.join(config.rules)}")
    if to not in RULES:
        raise ValueError(f"to={to!r} is no rule; allowed: {', '.join(RULES)}")
    chosen = sorted(set(contexts))
    if not 0 < len(chosen) < config.n_contexts or not set(chosen) <= set(range(config.n_contexts)):
        raise ValueError(
            f"contexts={list(contexts)} must be at least one and not all of 0 to {config.n_contexts - 1}: "
            f"the others are what is transferred to"
        )
    number = config.rules.index(rule)
    table = RULES[to].table(config.n_symbols, np.random.default_rng([seed, 6]))
    if (table == world.answers[number, chosen]).all():
        raise ValueError(f"to={to!r} answers as {rule!r} does already; name a rule that differs")
    answers = world.answers.copy()
    answers[number, chosen] = table
    return replace(world, answers=answers)


def training_rows(world: RuleWorld, n_rows: int, seed: int) -> Ints:
    """Rows of training, `[n_rows, LENGTH]`: all inputs that are not held out in random order, again and again in another one."""
    tokens, rng = world.train.tokens, np.random.default_rng([seed, 7])
    n_rounds = -(-n_rows // len(tokens))
    return tokens[np.concatenate([rng.permutation(len(tokens)) for _ in range(n_rounds)])[:n_rows]]


def check_rules(world: RuleWorld) -> None:
    """Looks at the rows themselves.

    Raises:
        ValueError: two inputs with one prompt, an answer that is no symbol, rules that are one, a rule that differs between contexts, or
            operands that are held out unequally often; says which.
    """
    config, inputs = world.config, world.inputs
    n_prompts = len(np.unique(inputs.tokens[:, :-1], axis=0))
    if n_prompts != config.n_inputs:
        raise ValueError(f"{config.n_inputs} inputs have {n_prompts} different prompts; each must have its own")
    if world.answers.min() < 0 or world.answers.max() >= config.n_symbols:
        raise ValueError(f"an answer lies outside the symbols 0 to {config.n_symbols - 1}")
    for i, name in enumerate(config.rules):
        if (world.answers[i] != world.answers[i, :1]).any():
            raise ValueError(f"rule {name!r} does not have the same answers in all contexts")
        for j in range(i):
            if (world.answers[i] == world.answers[j]).all():
                raise ValueError(f"rules {config.rules[j]!r} and {name!r} have the same answers")
        for axis, place in ((1, "first"), (0, "second")):
            if (world.held[i].sum(axis) != config.n_held).any():
                raise ValueError(f"a {place} operand of rule {name!r} is not held out {config.n_held} times")
