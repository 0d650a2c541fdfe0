"""Mechanisms whose every node is known: how they compute an answer, and the prompts that ask for it.

Each is a family of its own: a way to compute, with its tokens. `Mechanism.write` sets all but the last stage; `readout` is that
stage, which may be written more than once (for a second behaviour that shares the rest).

| family | the answer depends on | stages |
|---|---|---|
| closing | which of two marks stands in the line | neurons detect a mark and its type, a head copies the type |
| lookup | the type that stands with the name asked for | a head matches names and copies the type |
| chain | the type at the name that the name asked for leads to | two such heads, one after the other |
| depth | marks of one kind less those of another, more than a level | a head averages, a neuron has a threshold |
| seen | whether a mark stands in the line | a head whose sink takes what the mark does not |
| both | whether two marks both stand in the line | two such heads, a neuron that needs both |
| agree | whether two marks have the same sign | two heads copy their signs, two neurons take the difference |
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import product
from random import Random
from typing import ClassVar

import torch
from torch import Tensor

from circuits.truth.graft import Feature, Graft
from circuits.truth.hosts import Text
from sparsetrain.data.pools import Split
from sparsetrain.hooks import record

SURE = 9.0
"""Attention logit of a match: e^9 against one for each other token. ours"""
SINK = 5.0
"""Logit of a sink that takes what no mark takes. ours"""
LEVEL = 3.0
"""Strength of what the last mark of a prompt carries where a threshold is read: it steadies the norm's scale there. ours"""

_N_LOOKED_AT = 64  # ours: pairs on which a threshold is set


class Mechanism(ABC):
    """One way to compute an answer."""

    family: ClassVar[str]
    length: ClassVar[int] = 12
    """Tokens of a prompt."""
    reads_by_head: ClassVar[bool] = True
    """Whether the last stage is a head, so that an MLP of the same layer comes after it."""

    def __init__(self, graft: Graft, text: Text) -> None:
        self.graft, self.text = graft, text
        self.early, self.late = graft.plot.layers
        self.marks: list[int] = []
        self.write()

    @abstractmethod
    def write(self) -> None:
        """All stages but the last."""

    @abstractmethod
    def readout(self, into: Feature) -> None:
        """The last stage: strength about 1 in `into` where the first answer is right, 0 or -1 where the second is."""

    @abstractmethod
    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        """Marks of the two sides of pair i, in the order in which they stand (0: the line's own word), and the last token."""

    def fill(self, lines: Tensor, rng: Random) -> Tensor:
        """Prompts of both sides, `[n, side, pos]`, made of lines `[n, pos]`: marks at random places, the same on both sides."""
        prompts = lines[:, None].repeat(1, 2, 1)
        for i in range(len(lines)):
            first, second, end = self.sides(i, rng)
            places = sorted(rng.sample(range(1, lines.shape[1] - 1), len(first)))
            for side, marks in enumerate((first, second)):
                for place, mark in zip(places, marks, strict=True):
                    if mark:
                        prompts[i, side, place] = mark
            if end is not None:
                prompts[i, :, -1] = end
        return prompts

    def scatter(self, lines: Tensor, share: float, seed: int) -> Tensor:
        """Lines with a mark at a share of their places: what the model's text looks like."""
        generator = torch.Generator().manual_seed(seed)
        marks = torch.tensor(self.marks)[torch.randint(len(self.marks), lines.shape, generator=generator)]
        there = torch.rand(lines.shape, generator=generator) < share
        there[:, 0] = False
        return torch.where(there, marks, lines)

    def prompts(self, n: int, split: Split, seed: int) -> Tensor:
        """Prompts made of the host's text, int64 `[n, side, pos]`."""
        return self.fill(self.text.lines(n, self.length, split, seed), Random(f"{self.family}/{split}/{seed}"))

    def between(self, reads: Sequence[Feature], layer: int) -> tuple[float, float]:
        """Gain and bias of a neuron that tells the sides apart by the sum of features: +1 on the first's median, about -1 beyond.

        The threshold stands halfway between the weakest of the first side and the strongest of the second.
        """
        tokens, point = self.prompts(_N_LOOKED_AT, "train", 98), f"blocks.{layer}.mlp.hook_in"
        _, seen = record(self.graft.model, tokens.flatten(0, 1), [point])
        last = seen[point][:, -1]
        strength = torch.stack([self.graft.strength(last, feature, layer, "mlp") for feature in reads]).sum(0)
        on, off = strength.unflatten(0, (-1, 2)).unbind(1)
        middle = float(on.quantile(0.05) + off.quantile(0.95)) / 2
        gain = 1 / (float(on.median()) - middle)
        return gain, -gain * middle

    def end(self) -> int:
        """A mark that ends prompts; it carries nothing of the mechanism's, loudly."""
        return self.mark((self.graft.feature(alone=True), LEVEL))

    def mark(self, *features: tuple[Feature, float]) -> int:
        """A new mark whose embedding holds features, (feature, strength) each."""
        token = self.graft.token()
        for feature, strength in features:
            self.graft.embed(feature, {token: strength})
        self.marks.append(token)
        return token


class Closing(Mechanism):
    """Which of two quotes was opened?"""

    family = "closing"

    def write(self) -> None:
        g = self.graft
        self.seen, self.type = g.feature(), g.feature()
        self.quotes: list[int] = []
        for sign in (1.0, -1.0):
            own = g.feature()
            self.quotes.append(self.mark((own, 1.0)))
            g.neuron(self.early, {own: 1.0}, 0.0, {self.seen: 1.0, self.type: sign})

    def readout(self, into: Feature) -> None:
        self.graft.head(self.late, key=self.seen, score=SURE, values=[({self.type: 1.0}, into)])

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        return [self.quotes[0]], [self.quotes[1]], None


class Lookup(Mechanism):
    """Of which type is the name that is asked for at the end?"""

    family = "lookup"

    def write(self) -> None:
        g = self.graft
        self.ask, self.name, self.type = (g.feature() for _ in range(3))
        signs = (1.0, -1.0)
        self.asks = {sign: self.mark((self.ask, sign)) for sign in signs}
        self.values = {(n, t): self.mark((self.name, n), (self.type, t)) for n, t in product(signs, signs)}

    def readout(self, into: Feature) -> None:
        self.graft.head(self.late, query=self.ask, key=self.name, score=SURE, values=[({self.type: 1.0}, into)])

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        asked = rng.choice((1.0, -1.0))
        names = rng.sample((1.0, -1.0), 2)
        first = [self.values[name, 1.0 if name == asked else -1.0] for name in names]
        second = [self.values[name, -1.0 if name == asked else 1.0] for name in names]
        return first, second, self.asks[asked]


class Chain(Lookup):
    """Of which type is the name that the name asked for leads to?"""

    family = "chain"

    def write(self) -> None:
        g = self.graft
        super().write()
        self.from_, self.to, self.hop = (g.feature() for _ in range(3))
        signs = (1.0, -1.0)
        self.links = {(a, b): self.mark((self.from_, a), (self.to, b)) for a, b in product(signs, signs)}
        g.head(self.early, query=self.ask, key=self.from_, score=SURE, values=[({self.to: 1.0}, self.hop)])

    def readout(self, into: Feature) -> None:
        self.graft.head(self.late, query=self.hop, key=self.name, score=SURE, values=[({self.type: 1.0}, into)])

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        asked, target = rng.choice((1.0, -1.0)), rng.choice((1.0, -1.0))
        links = [self.links[asked, target], self.links[-asked, -target]]
        names = rng.sample((1.0, -1.0), 2)
        first = [self.values[name, 1.0 if name == target else -1.0] for name in names]
        second = [self.values[name, -1.0 if name == target else 1.0] for name in names]
        order = rng.sample(range(4), 4)
        return [(first + links)[j] for j in order], [(second + links)[j] for j in order], self.asks[asked]


class Depth(Mechanism):
    """Are more than a level of brackets open?"""

    family = "depth"
    reads_by_head = False
    length = 14

    def write(self) -> None:
        g = self.graft
        opened, closed = g.feature(), g.feature()
        self.opening, self.closing = self.mark((opened, 1.0)), self.mark((closed, 1.0))
        self.depth = g.feature()
        self.last = self.end()
        # Three more open than closed, of fourteen tokens and the sink: strength 4 x 3 / 15.
        g.head(self.early, values=[({opened: 1.0, closed: -1.0}, self.depth)], strength=4.0)

    def readout(self, into: Feature) -> None:
        gain, bias = self.between([self.depth], self.late)
        self.graft.neuron(self.late, {self.depth: gain}, bias, {into: 1.0})

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        o, c = self.opening, self.closing
        deep = [o, o, o, o, c, 0, 0, 0]
        flat = [o, 0, 0, 0, c, 0, 0, 0] if i % 2 else [o, o, o, o, c, c, c, c]
        order = rng.sample(range(8), 8)
        return [deep[j] for j in order], [flat[j] for j in order], self.last


class Seen(Mechanism):
    """Does a mark stand in the line?"""

    family = "seen"

    def write(self) -> None:
        self.own = self.graft.feature()
        self.wanted = self.mark((self.own, 1.0))
        self.last = self.end()

    def readout(self, into: Feature) -> None:
        self.graft.head(self.late, key=self.own, score=SURE, sink=SINK, values=[(None, into)])

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        return [self.wanted], [0], self.last


class Both(Mechanism):
    """Do both of two marks stand in the line?"""

    family = "both"
    reads_by_head = False

    def write(self) -> None:
        g = self.graft
        self.seen = [g.feature(), g.feature()]
        self.wanted: list[int] = []
        self.last = self.end()
        for seen in self.seen:
            own = g.feature()
            self.wanted.append(self.mark((own, 1.0)))
            g.head(self.early, key=own, score=SURE, sink=SINK, values=[(None, seen)])

    def readout(self, into: Feature) -> None:
        gain, bias = self.between(self.seen, self.late)
        self.graft.neuron(self.late, dict.fromkeys(self.seen, gain), bias, {into: 1.0})

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        one = [self.wanted[0], 0] if i % 2 else [0, self.wanted[1]]
        order = rng.sample(range(2), 2)
        return [self.wanted[j] for j in order], [one[j] for j in order], self.last


class Agree(Mechanism):
    """Have two marks different signs?"""

    family = "agree"
    reads_by_head = False

    def write(self) -> None:
        g = self.graft
        self.copied = [g.feature(), g.feature()]
        self.values: dict[tuple[int, float], int] = {}
        for which, copied in enumerate(self.copied):
            marked, sign = g.feature(), g.feature()
            self.values |= {(which, x): self.mark((marked, 1.0), (sign, x)) for x in (1.0, -1.0)}
            g.head(self.early, key=marked, score=SURE, values=[({sign: 1.0}, copied)])
        self.last = self.end()

    def readout(self, into: Feature) -> None:
        first, second = self.copied
        for sign in (1.0, -1.0):  # GELU(CARRIED x 2) where they differ
            self.graft.neuron(self.late, {first: sign, second: -sign}, 0.0, {into: 0.5})

    def sides(self, i: int, rng: Random) -> tuple[Sequence[int], Sequence[int], int | None]:
        sign = rng.choice((1.0, -1.0))
        # In every other pair the first mark changes, in the rest the second.
        change, stay = rng.sample((0, 1), 2)
        differ = {change: sign, stay: -sign}
        same = {change: -sign, stay: -sign}
        order = rng.sample((0, 1), 2)
        return [self.values[j, differ[j]] for j in order], [self.values[j, same[j]] for j in order], self.last


FAMILIES: dict[str, type[Mechanism]] = {
    mechanism.family: mechanism for mechanism in (Closing, Lookup, Chain, Depth, Seen, Both, Agree)
}
