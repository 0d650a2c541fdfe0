"""Which windows, and which of their positions, an evaluation reads.

1. The same windows and the same positions at every evaluation: nothing is drawn. Splits of one length are read at the same
   positions too; where lengths differ, `matched` reads those that every window of every split has.
2. Only positions that have a next token are read; at a last token nothing is being predicted.
3. Windows may differ in length: -1 fills up a row behind its last token and is never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from sparsetrain.typed import Count

PositionsMode = Literal["strided", "all", "last", "matched"]


class WatchedSplit(Protocol):
    """Windows of tokens at a distance from the training distribution."""

    @property
    def name(self) -> str: ...

    @property
    def level(self) -> int:
        """0 is the training distribution; farther is larger."""
        ...

    @property
    def tokens(self) -> Any:
        """`[n_windows, n_ctx]` integers, array or tensor; -1 behind the end of a shorter window."""
        ...

    @property
    def description(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class PositionsConfig:
    """Which positions of a window are read. ours"""

    positions: PositionsMode = "strided"
    """Of those that have a next token. `strided`: every position_stride-th; `all`; `last`; `matched`: every
    position_stride-th that each window of each split has, so that position is the same everywhere."""
    position_stride: Count = 8
    """Of `strided` and `matched`. Neighbouring tokens of a window tell little more than each other, and cost as much."""

    @property
    def stride(self) -> int:
        """Distance of two positions that are read."""
        return 1 if self.positions == "all" else self.position_stride

    def describe_positions(self) -> str:
        """Which positions are read, in words."""
        strided = f"every {self.position_stride}th that has a next token"
        return {
            "strided": f"{strided}, the last such one of a shorter window",
            "all": "all that have a next token",
            "last": "the last one that has a next token",
            "matched": f"{strided} in every window of every split",
        }[self.positions]

    def read_positions(self, n_ctx: int) -> slice:
        """Positions that are read of windows of n_ctx tokens: those that have a next token, or every so manyth of them."""
        n_predicting = n_ctx - 1
        if self.positions == "last" or n_predicting < self.stride:
            return slice(n_predicting - 1, n_predicting)
        return slice(self.stride - 1, n_predicting, self.stride)


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Which positions of a batch of windows are read."""

    where: slice | Tensor
    """The same for all windows, or `[n, m]` int64."""
    valid: Tensor | None = None
    """`[n, m]` bool, False where a row of `where` has no more positions; None: True everywhere."""

    def of(self, x: Tensor) -> Tensor:
        """`[n, pos, ...] -> [n, m, ...]`."""
        if isinstance(self.where, slice):
            return x[:, self.where]
        return x[torch.arange(len(x), device=x.device)[:, None], self.where]

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the positions read: `[n, m, ...] -> [n, ...]`."""
        if self.valid is None:
            return x.mean(1)
        valid = self.valid.reshape(*self.valid.shape, *[1] * (x.ndim - 2))
        return torch.where(valid, x, 0.0).sum(1) / valid.sum(1)


def positions_of(batch: Tensor, config: PositionsConfig, shortest: int) -> Positions:
    """The positions that `config` reads of windows, each of its own length.

    Args:
        batch: `[n, n_ctx]` int64, -1 behind the end of a shorter window.
        config: a window too short for the stride is read at its last position with a next token.
        shortest: tokens of the shortest window of all splits; `matched` positions lie within it.

    Raises:
        ValueError: a window of fewer than two tokens, or -1 in front of a token.
    """
    real = batch >= 0
    if config.positions == "matched" and shortest > 1 and bool(real[:, :shortest].all()):
        return Positions(where=config.read_positions(shortest))
    if real.all():
        return Positions(where=config.read_positions(batch.shape[1]))
    n_tokens = real.sum(1)
    if n_tokens.min() < 2 or bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise ValueError("a window needs at least two tokens, and -1 behind its last one only")
    last = n_tokens - 2  # the last position that has a next token
    if config.positions == "last":
        return Positions(where=last[:, None])
    strided = torch.arange(config.stride - 1, max(batch.shape[1] - 1, config.stride), config.stride)
    where = strided.to(batch.device).expand(len(batch), -1).clone()
    where[:, 0] = where[:, 0].minimum(last)
    return Positions(where=where.minimum(last[:, None]), valid=where <= last[:, None])


def split_tokens(split: WatchedSplit) -> Tensor:
    """Tokens of a split, `[n_windows, n_ctx]`, integers of whatever type they are kept in.

    Raises:
        ValueError: no windows, or windows of fewer than two tokens.
    """
    tokens = torch.as_tensor(split.tokens)
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ValueError(
            f"split {split.name!r} has tokens of shape {tuple(tokens.shape)}; it needs [windows, tokens] with at "
            f"least one window of two tokens. Give it more text, or leave it out"
        )
    return tokens


def window_lengths(split: WatchedSplit, n_windows: int) -> np.ndarray:
    """Tokens of each of the first `n_windows` windows, `[n]` int64; few rows at a time, since the tokens may lie on the disk."""
    tokens = split_tokens(split)[:n_windows]
    return np.concatenate([(rows >= 0).sum(1).numpy() for rows in tokens.split(256)])


def check_splits(splits: Sequence[WatchedSplit]) -> None:
    """Raises ValueError where there is no split, one that is empty, or two of one name."""
    if not splits:
        raise ValueError("no split to evaluate; give at least one")
    names = [split.name for split in splits]
    if len(set(names)) < len(names):
        raise ValueError(f"split names must differ, got {', '.join(names)}")
    for split in splits:
        split_tokens(split)
