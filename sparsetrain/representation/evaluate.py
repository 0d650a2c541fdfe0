"""One evaluation: how sparse are the activations of a model on each of several fixed splits?

1. Measures are taken per token at the positions of `positions.py`, then averaged over a window's positions, then over windows
   (`accumulate.py`), batch by batch: beside the tokens themselves, memory does not depend on the number of windows.
2. Loss, entropy and logit norm at the same positions stand beside them as covariates (hook point `logits`).
3. A `Projection` looks at a hook point in another way (another basis, fewer channels): the controls of `controls.py`.
4. Nothing is touched: no gradient, no random number, and every module's train/eval mode is put back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sparsetrain.hooks import NODE_KINDS, WATCH_KINDS, HookPoint, hook_points, hooked, select_points
from sparsetrain.representation.accumulate import UnitSums, WindowMeans
from sparsetrain.representation.measures import MEASURES, Magnitudes, active_jaccard
from sparsetrain.representation.positions import (
    Positions,
    PositionsConfig,
    WatchedSplit,
    check_splits,
    positions_of,
    split_tokens,
    window_lengths,
)
from sparsetrain.stats.exact import exact_device
from sparsetrain.typed import Count, OpenShare

LOGITS = "logits"
"""Hook point name of the rows about the model's output."""
LOGIT_MEASURES = ("loss", "entropy", "logit_norm")
"""nats/token, nats, and the L2 norm of the logits minus their mean (which softmax does not see)."""
MAX_PENDING_LOGITS = 2**23
"""Logits that are measured at once."""
MAX_PENDING = 2**20
"""Activations (entries) of one width that may wait to be measured together."""


@dataclass(frozen=True, kw_only=True)
class MeasuringConfig(PositionsConfig):
    """What is measured, where and how precisely. ours"""

    kinds: tuple[str, ...] = ("resid", "norm", *NODE_KINDS)
    """All hook points of these kinds are measured."""
    points: tuple[str, ...] = ()
    """Hook points by name."""
    measures: tuple[str, ...] = tuple(MEASURES)
    lifetime_measures: tuple[str, ...] = ("treves_rolls", "kurtosis")
    """Measures per unit over tokens; those that power sums suffice for."""
    batch_size: Count = 16
    """Windows per forward pass; even, because windows 2i and 2i + 1 are compared for the overlap of active sets."""
    n_groups: Count = 8
    """Groups of windows for the jackknife of lifetime measures."""
    n_bootstrap: Count = 400
    """Resamples of windows."""
    confidence: OpenShare = 0.95

    def __post_init__(self) -> None:
        if self.batch_size % 2:
            raise ValueError(f"batch_size={self.batch_size} must be even: windows are compared in pairs")
        for name, allowed in (
            ("kinds", [kind for kind in WATCH_KINDS + NODE_KINDS if kind != "norm_scale"]),
            ("measures", list(MEASURES)),
            ("lifetime_measures", [name for name, measure in MEASURES.items() if measure.from_sums]),
        ):
            unknown = [choice for choice in getattr(self, name) if choice not in allowed]
            if unknown:
                raise ValueError(f"{name} has unknown entries {unknown}; allowed: {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class WatchConfig(MeasuringConfig):
    """One evaluation; `points` are watched beside those of `kinds`. ours"""

    n_windows: Count = 16
    """Windows per split (all it has, where it has fewer)."""
    n_slots: Count = 256
    """Windows beyond this number share slots; see `accumulate.py`."""
    bootstrap_seed: int = 0

    def describe_interval(self) -> str:
        """How lo and hi of the population measures were made."""
        return (
            f"{self.confidence:.0%} percentile bootstrap over windows ({self.n_bootstrap} resamples, seed "
            f"{self.bootstrap_seed}); lifetime measures, dead and always_on: {self.confidence:.0%} jackknife over "
            f"{self.n_groups} groups of windows"
        )


class SparsityRow(NamedTuple):
    """One number of an evaluation."""

    split: str
    shift_level: int
    hook_point: str
    measure: str
    value: float
    lo: float
    hi: float
    n: int
    """Windows behind the value (pairs of windows for `jaccard`)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Rows, and beside them the values per window for statistics over items."""

    rows: list[SparsityRow]
    series: dict[tuple[str, str], int]
    """(hook point, measure) -> column of `windows`."""
    windows: dict[str, np.ndarray] = field(repr=False)
    """Split -> `[n_slots, n_series]` float64: the mean over positions of each window (see `accumulate.py`)."""
    energy: dict[str, np.ndarray] = field(repr=False)
    """Hook point -> `[width]` float64: sum of h^2 of each channel over all splits."""

    def per_window(self, split: str, hook_point: str, measure: str) -> np.ndarray:
        """Values per window, `[n_windows]` float64."""
        return self.windows[split][:, self.series[hook_point, measure]]

    def value(self, split: str, hook_point: str, measure: str) -> float:
        """Mean over windows."""
        wanted = (split, hook_point, measure)
        return next(row.value for row in self.rows if (row.split, row.hook_point, row.measure) == wanted)


def watched_points(model: nn.Module, config: MeasuringConfig) -> dict[str, HookPoint]:
    """The hook points that `config` selects, in forward order.

    Raises:
        KeyError: a name in `points` that does not exist (near names listed).
        ValueError: nothing selected, or a point of width 1.
    """
    named = select_points(model, config.points)
    points = {name: p for name, p in hook_points(model).items() if p.kind in config.kinds or name in named}
    if not points:
        raise ValueError(
            f"no hook point of kinds {', '.join(config.kinds)} in this model; choose other kinds or name points"
        )
    narrow = [name for name, point in points.items() if point.width < 2]
    if narrow:
        raise ValueError(f"hook points {', '.join(narrow)} have one channel, which has no sparsity; leave them out")
    return points


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A way to look at the activations of a hook point; the model itself sees them as they are."""

    label: str
    """Stands in the rows in place of the hook point; different for each."""
    width: int
    """Of what is looked at."""
    apply: Callable[[Tensor], Tensor] = field(default=lambda h: h)
    """`[n, m, width of the hook point] -> [n, m, width]`."""


Projections = Mapping[str, Sequence[Projection]]
"""Hook point -> ways to look at it; those that are not named are not measured."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def row_losses(model: nn.Module, tokens: Tensor, batch_size: int = 64, at: slice = slice(None)) -> Tensor:
    """Mean loss of the next token of each row: `[n, length]` int64 -> `[n]` float32, nats/token, on the CPU.

    Args:
        at: positions that are counted; all by default.
    """
    device = next(model.parameters()).device
    losses = []
    with evaluating(model):
        for batch in tokens.split(batch_size):
            logits = model(batch[:, :-1].to(device)).float().cpu()
            losses.append(measure_logits(logits[:, at], batch[:, 1:][:, at])[..., 0].mean(1))
    return torch.cat(losses)


def measure_splits(
    model: nn.Module,
    splits: Sequence[WatchedSplit],
    config: WatchConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_batch: Callable[[int], None] | None = None,
    projections: Projections | None = None,
) -> Evaluation:
    """Measures every watched hook point of a model on every split.

    Args:
        model: tokens `[batch, pos]` int64 -> logits `[batch, pos, d_vocab]`, with hook points.
        splits: each with at least one window.
        config: what to measure.
        rank: with several ranks each takes its share of the windows; all must call, all get all results.
        world_size: ranks in all.
        on_batch: called with the number of windows after each batch of this rank.
        projections: of hook points that are watched; None: all of them as they are.

    Returns:
        The same numbers on every rank.

    Raises:
        ValueError: an empty split, or nothing to watch.
        KeyError: a hook point that does not exist.
    """
    check_splits(splits)
    points = watched_points(model, config)
    if projections is None:
        projections = {name: (Projection(label=name, width=point.width),) for name, point in points.items()}
    layout = _Layout.of({name: projections[name] for name in points if name in projections})
    # Lengths are looked at only where they decide: all tokens would have to be read.
    matched = config.positions == "matched"
    shortest = min(int(window_lengths(split, config.n_windows).min()) for split in splits) if matched else 0
    per_point = [(name, measure) for name in layout.points for measure in (*config.measures, "jaccard")]
    series = {key: i for i, key in enumerate([*per_point, *((LOGITS, measure) for measure in LOGIT_MEASURES)])}
    rows: list[SparsityRow] = []
    windows: dict[str, np.ndarray] = {}
    energy = {name: np.zeros(width) for name, width in layout.widths.items()}
    with evaluating(model):
        for split in splits:
            tokens = split_tokens(split)[: config.n_windows]
            means, units = _measure_split(model, tokens, layout, config, (rank, world_size), shortest, on_batch)
            population = means.summary(config.n_bootstrap, config.confidence, config.bootstrap_seed)
            for name, of_split in zip(layout.widths, units.energy(), strict=True):
                energy[name] += of_split
            slots = means.slot_means()
            windows[split.name] = slots[: min(len(slots), int(population.n.max()))]
            columns = (population.value, population.lo, population.hi, population.n)
            numbers = dict(zip(series, zip(*(column.tolist() for column in columns), strict=True), strict=True))
            n_windows = numbers[LOGITS, "loss"][-1]
            of_units = units.summary(config.lifetime_measures, config.confidence)
            for point, lifetime in zip(layout.widths, of_units, strict=True):
                numbers |= {(point, measure): (*reading, n_windows) for measure, reading in lifetime.items()}
            rows += [SparsityRow(split.name, split.level, *key, *reading) for key, reading in numbers.items()]
    return Evaluation(rows=rows, series=series, windows=windows, energy=energy)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the numbers of each projection stand in the accumulators."""

    projections: Projections
    points: dict[str, int]
    """Label -> its number, in forward order."""
    widths: dict[str, int]
    """Label -> width, in the order of `UnitSums`: those of one width stand together, in forward order."""
    units: dict[str, int]
    """Label -> its number in `widths`."""

    @classmethod
    def of(cls, projections: Projections) -> "_Layout":
        flat = [projection for of_point in projections.values() for projection in of_point]
        by_width = sorted(flat, key=lambda projection: projection.width)
        return cls(
            projections=projections,
            points={projection.label: i for i, projection in enumerate(flat)},
            widths={projection.label: projection.width for projection in by_width},
            units={projection.label: i for i, projection in enumerate(by_width)},
        )


class _Readings:
    """What is read of one batch of windows: per point and window, all measures; flushed into the accumulators.

    Activations of points of one width are measured together (the same numbers, far fewer calls), at most `MAX_PENDING`
    entries at a time.
    """

    def __init__(
        self, config: WatchConfig, layout: _Layout, windows: Tensor, positions: Positions, units: UnitSums
    ) -> None:
        self.config = config
        self.layout = layout
        self.windows = windows
        self.positions = positions
        self.units = units
        shape = (len(windows), len(layout.points), len(config.measures) + 1)
        self.values = torch.zeros(shape, device=windows.device)
        self.defined = torch.zeros(shape, dtype=torch.bool, device=windows.device)
        self.pending: dict[int, list[tuple[str, Tensor]]] = {}

    def watch(self, x: Tensor, point: HookPoint) -> Tensor:
        """The function at every watched hook point: `x` `[n, pos, width]` passes unchanged."""
        read = self.positions.of(x)
        for projection in self.layout.projections[point.name]:
            waiting = self.pending.setdefault(projection.width, [])
            waiting.append((projection.label, projection.apply(read)))
            if sum(h.numel() for _, h in waiting) >= MAX_PENDING:
                self.flush(projection.width)
        return x

    def flush(self, width: int) -> None:
        """Measures what waits at points of this width."""
        names, activations = zip(*self.pending.pop(width), strict=True)
        h = Magnitudes(torch.stack(activations))
        readings = torch.stack([MEASURES[name].fn(h) for name in self.config.measures], -1)  # [point, n, pos, measure]
        # A zero vector has no distribution and is left out; a NaN from elsewhere must stay visible.
        known = ~(readings.isnan() & (h.peak == 0)[..., None])
        valid = self.positions.valid
        if valid is not None:
            known &= valid[None, :, :, None]
        first = torch.arange(0, len(self.windows) // 2 * 2, 2, device=self.windows.device)
        overlap = active_jaccard(h.active[:, first], h.active[:, first + 1])  # [point, pair, pos]
        if valid is not None:
            overlap = torch.where(valid[first] & valid[first + 1], overlap, torch.nan)
        where = torch.tensor([self.layout.points[name] for name in names], device=self.windows.device)
        self.values[:, where, :-1] = rearrange(
            torch.where(known, readings, 0.0).sum(2) / known.sum(2), "p n m -> n p m"
        )
        self.defined[:, where, :-1] = rearrange(known.any(2), "p n m -> n p m")
        self.values[first[:, None], where, -1] = rearrange(overlap.nanmean(2), "p pair -> pair p")
        self.defined[first[:, None], where, -1] = rearrange(~overlap.isnan().all(2), "p pair -> pair p")
        self.units.update(h, self.layout.units[names[0]], self.windows, valid)


def _measure_split(
    model: nn.Module,
    tokens: Tensor,
    layout: _Layout,
    config: WatchConfig,
    share: tuple[int, int],
    shortest: int,
    on_batch: Callable[[int], None] | None,
) -> tuple[WindowMeans, UnitSums]:
    """Runs one split through the model with accumulators in the hooks; `model` is in eval mode already.

    Args:
        tokens: `[n_windows, n_ctx]`.
        share: rank and number of ranks.
        shortest: tokens of the shortest window of all splits.
    """
    device = next(model.parameters()).device
    n_windows = len(tokens)
    n_series = len(layout.points) * (len(config.measures) + 1) + len(LOGIT_MEASURES)
    means = WindowMeans(n_series, min(config.n_slots, n_windows)).to(exact_device(device))
    units = UnitSums(list(layout.widths.values()), min(config.n_groups, n_windows)).to(exact_device(device))
    rank, world_size = share
    for first in range(rank * config.batch_size, n_windows, world_size * config.batch_size):
        batch = tokens[first : first + config.batch_size].long().to(device)
        batch = batch[:, : max(2, int((batch >= 0).sum(1).max()))]
        positions = positions_of(batch, config, shortest)
        windows = torch.arange(first, first + len(batch), device=device)
        readings = _Readings(config, layout, windows, positions, units)
        with hooked(model, dict.fromkeys(layout.projections, readings.watch)):
            logits = positions.of(model(batch[:, :-1].clamp_min(0)))
        for width in list(readings.pending):
            readings.flush(width)
        of_logits = positions.mean(measure_logits(logits.float(), positions.of(batch[:, 1:])))
        means.update(
            torch.cat([readings.values.flatten(1), of_logits], 1),
            torch.cat([readings.defined.flatten(1), torch.ones_like(of_logits, dtype=torch.bool)], 1),
            windows,
        )
        if on_batch is not None:
            on_batch(len(batch))
    return means, units


def measure_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """`LOGIT_MEASURES` per position: `[n, pos, d_vocab]`, `[n, pos]` -> `[n, pos, 3]`. Needs little memory beside the logits."""
    n_rows = max(1, MAX_PENDING_LOGITS // logits.shape[-1])
    parts = zip(logits.flatten(0, -2).split(n_rows), targets.flatten().split(n_rows), strict=True)
    return torch.cat([_measure_logits(*part) for part in parts]).view(*targets.shape, len(LOGIT_MEASURES))


def _measure_logits(logits: Tensor, targets: Tensor) -> Tensor:
    log_p = F.log_softmax(logits, dim=-1)
    loss = -log_p.gather(-1, targets[..., None])[..., 0]
    entropy = -torch.linalg.vecdot(log_p.exp(), log_p)
    norm = torch.linalg.vector_norm(logits - logits.mean(-1, keepdim=True), dim=-1)
    return torch.stack([loss, entropy, norm], -1)
