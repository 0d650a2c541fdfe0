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


def interval(
    rows: Tensor, seed: int, n_boot: int, statistic: Callable[[Tensor], Tensor] = mean_row
) -> tuple[float | None, float | None]:
    """95% percentile interval of a statistic of rows, resampled with replacement; torch draws, so that seeds keep their numbers.

    Args:
        rows: `[n, ...]`.
        statistic: float64 `[n_boot, n, ...]` -> `[n_boot]`; resamples in which it is not finite are left out.

    Returns:
        Lower and upper end; None where fewer than half of the resamples have a finite value.
    """
    draws = torch.Generator().manual_seed(seed)

    def draw(_: np.random.Generator, sizes: Ints, b: int) -> Ints:
        return torch.randint(len(sizes), (b, len(sizes)), generator=draws).numpy()

    def resampled(index: Ints) -> Floats:
        return statistic(rows.double()[torch.from_numpy(index)]).numpy()  # pyright: ignore[reportUnknownMemberType]

    low, high = bootstrap(resampled, len(rows), n_bootstrap=n_boot, seed=seed, draw=draw)
    return (None, None) if isnan(low) else (low, high)
