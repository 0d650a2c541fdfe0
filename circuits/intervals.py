"""Intervals of statistics of pairs (or nodes, windows, tasks): `sparsetrain.stats`'s bootstrap for rows that are tensors."""

from collections.abc import Callable
from math import isnan

import numpy as np
import torch
from torch import Tensor

from sparsetrain.stats.intervals import Floats, Ints, bootstrap


def mean_row(rows: Tensor) -> Tensor:
    """The statistic that is a plain mean, `[..., n]` -> `[...]`."""
    return rows.mean(-1)


def n_distinct(groups: Tensor) -> int:
    """How many different numbers these are, int64 `[n]`."""
    return int((torch.bincount(groups - groups.min()) > 0).sum())


def interval(
    rows: Tensor,
    seed: int,
    n_boot: int,
    statistic: Callable[[Tensor], Tensor] = mean_row,
    groups: Tensor | None = None,
) -> tuple[float | None, float | None]:
    """95% percentile interval of a statistic of rows, resampled with replacement; torch draws, so that seeds keep their numbers.

    Args:
        rows: `[n, ...]`.
        statistic: float64 `[n_boot, n, ...]` -> `[n_boot]`; resamples in which it is not finite are left out.
        groups: int64 `[n]`, rows of one group are copies of one thing: groups are resampled, and one row of each is drawn, so
            that copies make no interval narrower. None: every row stands for itself.

    Returns:
        Lower and upper end; None where fewer than half of the resamples have a finite value.
    """
    draws = torch.Generator().manual_seed(seed)
    groups = torch.arange(len(rows)) if groups is None else groups.cpu()
    members, counts = groups.argsort(stable=True), torch.bincount(groups - groups.min())
    sizes = counts[counts > 0]
    starts = sizes.cumsum(0) - sizes

    def draw(_: np.random.Generator, places: Ints, b: int) -> Ints:
        index = torch.randint(len(places), (b, len(places)), generator=draws)
        if len(sizes) < len(members):
            index = starts[index] + (torch.rand(index.shape, generator=draws) * sizes[index]).long()
        return members[index].numpy()

    def resampled(index: Ints) -> Floats:
        return statistic(rows.double()[torch.from_numpy(index)]).numpy()  # pyright: ignore[reportUnknownMemberType]

    low, high = bootstrap(resampled, len(sizes), n_bootstrap=n_boot, seed=seed, draw=draw)
    return (None, None) if isnan(low) else (low, high)
