"""The number of active channels: measured on an untouched model, and set by hand through hooks.

1. Measured: `n_active`, the smallest number of channels that carry a share of the energy (a number that AbsTopK can be given), and the
   participation ratio (a number that a temperature can be given).
2. Set: `keep_largest` is AbsTopK, `keep_random` its control, `set_participation` a temperature on |h|, chosen per vector. AbsTopK only
   ever takes channels away; the temperature also makes a vector denser than it is.
3. Everything happens where the tokens of an answer are predicted: `Prompts` runs the model with such functions attached. What stands in
   front of these places is never touched, so that a model that can go on from what it has read reads it once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sparsetrain.hooks import HookFn, HookPoint, hooked, record
from sparsetrain.kernels import abs_topk
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.representation.items import Item
from sparsetrain.stats.exact import exact

Setting = Callable[[Tensor], Tensor]
"""`[n, width] -> [n, width]`: activations with another number of active channels."""

LOG2_EXPONENTS = (-12.0, 12.0, 32.0)
"""Exponents of a temperature lie within 2^-12 and 2^12, or up to 2^32 where the largest entries are almost equal: enough to tell
neighbouring float32 numbers apart."""


def n_active(h: Tensor, energy: float) -> Tensor:
    """The smallest number of channels whose squares sum to at least `energy` of the whole.

    Args:
        h: `[..., width]`.
        energy: share in (0, 1].

    Returns:
        `[...]` int64, 1 to width; 1 for a zero vector.
    """
    squares = exact(h).square().sort(-1, descending=True).values.cumsum(-1)
    enough = energy * squares[..., -1:] * (1 - 1e-12)
    return 1 + (squares < enough).sum(-1).to(h.device)


def keep_largest(k: int) -> Setting:
    """AbsTopK: the k largest magnitudes of each vector stay."""
    return lambda h: abs_topk(h, min(k, h.shape[-1]))


def keep_random(k: int, order: Tensor) -> Setting:
    """k channels of each vector stay: those that stand before place k in `order`, as `drawn_order` makes it; those kept for k are among those kept for k + 1."""
    return lambda h: torch.where((order < k).to(h.device), h, 0)


def drawn_order(n: int, width: int, seed: int) -> Tensor:
    """The place of every channel in an order drawn for each vector. `[n, width]` int64"""
    return torch.rand(n, width, generator=torch.Generator().manual_seed(seed)).argsort(-1).argsort(-1)


def set_participation(target: float) -> Setting:
    """A temperature: sign(h) |h|^g at the norm of h, with g such that the participation ratio is `target`.

    The ratio falls with g, so that g is found by bisection, for each vector its own. Zeros stay zero, and equal entries equal: a
    vector's ratio lies between the number of its entries that are as large as its largest and that of those that are not zero,
    and a target out of this range becomes the nearer end.

    Args:
        target: (sum h^2)^2 / sum h^4, in [1, width].
    """

    def change(h: Tensor) -> Tensor:
        signed = exact(h)
        magnitudes = signed.abs()
        logs = magnitudes.log()

        def shares(log2_exponent: Tensor) -> Tensor:
            return (2 * torch.exp2(log2_exponent) * logs).softmax(-1)

        def too_dense(log2_exponent: Tensor) -> Tensor:
            return 1 / shares(log2_exponent).square().sum(-1, keepdim=True) > target

        least, most, at_most = (torch.full_like(logs[..., :1], exponent) for exponent in LOG2_EXPONENTS)
        farther = too_dense(most)
        lo, hi = torch.where(farther, most, least), torch.where(farther, at_most, most)
        for _ in range(50):
            middle = (lo + hi) / 2
            dense = too_dense(middle)
            lo, hi = torch.where(dense, middle, lo), torch.where(dense, hi, middle)
        changed = signed.sign() * shares((lo + hi) / 2).sqrt() * magnitudes.norm(dim=-1, keepdim=True)
        return torch.where((magnitudes > 0).any(-1, keepdim=True), changed, 0.0).to(h)

    return change


def at_places(setting: Setting, places: Tensor) -> HookFn:
    """A hook function that sets some positions and leaves the others.

    Args:
        setting: is given the vectors of all these positions, row by row.
        places: `[batch, pos]` bool.
    """

    def fn(x: Tensor, point: HookPoint) -> Tensor:
        changed = x.clone()
        changed[places] = setting(x[places]).to(x)
        return changed

    return fn


@runtime_checkable
class GoesOn(Protocol):
    """A model that can go on from what it has read."""

    def begin(self, tokens: Tensor) -> Any:
        """What it keeps of tokens `[batch, pos]`, for `forward(past=)`; None: nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answered:
    """How items were answered. Each `[n_items]` float64, on the CPU."""

    correct: Tensor
    """1 where every token of the answer is the likeliest one, else 0: whether the greedy answer is this one."""
    loss: Tensor
    """Mean over the answer's tokens, nats/token."""


class Prompts:
    """Items with answers, put to a model as often as one likes, each time with another number of active channels where the answers are predicted.

    A *place* is a position that predicts a token of an answer; places are in the items' order, those of one item one behind the other.
    Rows are filled up on the right, which a causal model does not see.

    Args:
        model: tokens `[batch, pos]` -> logits `[batch, pos, d_vocab]`; its hook points are used, its weights are not touched. One that
            `GoesOn` reads once what all items have in front of their places.
        items: of any lengths, each with an answer.
    """

    def __init__(self, model: nn.Module, items: Sequence[Item]) -> None:
        assert all(item.n_answer for item in items), "every item needs an answer"
        self.model = model
        device = next(model.parameters()).device
        longest = max(len(item.tokens) for item in items)
        tokens = torch.zeros(len(items), longest, dtype=torch.int64)
        places = torch.zeros(len(items), longest - 1, dtype=torch.bool)
        for row, place, item in zip(tokens, places, items, strict=True):
            row[: len(item.tokens)] = torch.tensor(item.tokens)
            place[item.last : item.last + item.n_answer] = True
        self.answers = tokens[:, 1:][places]
        """`[n_places]` int64, on the CPU."""
        self.n_answer = torch.tensor([item.n_answer for item in items])
        """`[n_items]` int64."""
        first = min(item.last for item in items)
        self._past: Any = None
        if first and isinstance(model, GoesOn):
            with evaluating(model):
                self._past = model.begin(tokens[:, :first].to(device))
        skipped = 0 if self._past is None else first
        self._tokens = tokens[:, skipped:-1].to(device)
        self._places = places[:, skipped:].to(device)

    def logits(self, settings: Mapping[str, Setting]) -> Tensor:
        """Logits at all places with something done there at some hook points: `[n_places, d_vocab]` float32, on the CPU.

        Args:
            settings: hook point -> what is done with the vectors `[n_places, width]`.

        Raises:
            KeyError: a hook point that does not exist.
        """
        hooks = {name: at_places(setting, self._places) for name, setting in settings.items()}
        with evaluating(self.model), hooked(self.model, hooks):
            return self._run()[self._places].float().cpu()

    def answer(self, settings: Mapping[str, Setting]) -> Answered:
        """How every item is answered then."""
        logits = self.logits(settings)
        right = (logits.argmax(-1) == self.answers).double()
        loss = -logits.log_softmax(-1).gather(-1, self.answers[:, None])[:, 0]
        return Answered(correct=self.per_item(right).floor(), loss=self.per_item(loss))

    def seen(self, points: Sequence[str]) -> dict[str, Tensor]:
        """What passes hook points untouched: name -> `[n_places, width]` float32, on the CPU."""
        with evaluating(self.model):
            _, seen = record(self.model, self._tokens, points, *self._more)
        return {name: x[self._places].float().cpu() for name, x in seen.items()}

    def per_item(self, values: Tensor) -> Tensor:
        """Mean over each item's places, `[n_places] -> [n_items]` float64."""
        return torch.stack([one.double().mean() for one in values.split(self.n_answer.tolist())])

    @property
    def _more(self) -> tuple[Any, ...]:
        return () if self._past is None else (None, self._past)

    def _run(self) -> Tensor:
        return self.model(self._tokens, *self._more)
