"""One evaluation: how sparse are the activations of a model on each of several fixed splits?

1. The same windows and the same positions at every evaluation: nothing is drawn. Splits of one length are read at the same
   positions too; where lengths differ, `positions=matched` reads those that every window of every split has.
2. Only positions that have a next token are read; at a last token nothing is being predicted.
3. Measures are taken per token, then averaged over a window's positions, then over windows (`accumulate.py`), batch by
   batch: beside the tokens themselves, memory does not depend on the number of windows.
4. Loss, entropy and logit norm at the same positions stand beside them as covariates (hook point `logits`).
5. Windows may differ in length: -1 fills up a row behind its last token and is never read.
6. A `View` looks at hook points in other ways (another basis, fewer channels): the controls of `controls.py`.
7. Nothing is touched: no gradient, no random number, and every module's train/eval mode is put back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sparsetrain.hooks import NODE_KINDS, WATCH_KINDS, HookPoint, hook_points, hooked, select_points
from sparsetrain.representation.accumulate import UnitSums, WindowMeans
from sparsetrain.representation.measures import MEASURES, Magnitudes, jaccard

PositionsMode = Literal["strided", "all", "last", "matched"]

LOGITS = "logits"
"""Hook point name of the rows about the model's output."""

MAX_PENDING = 2**20
"""Activations (entries) of one width that may wait to be measured together."""

LOGIT_MEASURES = ("loss", "entropy", "logit_norm")
"""nats/token, nats, and the L2 norm of the logits minus their mean (which softmax does not see)."""


class Split(Protocol):
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
class WatchConfig:
    """What is measured, where and how precisely. ours"""

    kinds: tuple[str, ...] = ("resid", "norm", *NODE_KINDS)
    """All hook points of these kinds are watched."""
    points: tuple[str, ...] = ()
    """Hook points watched besides, by name."""
    measures: tuple[str, ...] = tuple(MEASURES)
    lifetime_measures: tuple[str, ...] = ("treves_rolls", "kurtosis")
    """Measures per unit over tokens; those that power sums suffice for."""
    n_windows: int = 16
    """Windows per split (all it has, where it has fewer)."""
    batch_size: int = 16
    """Windows per forward pass; even, because windows 2i and 2i + 1 are compared for the overlap of active sets."""
    positions: PositionsMode = "strided"
    """Of those that have a next token. `strided`: every position_stride-th; `all`; `last`; `matched`: every
    position_stride-th that each window of each split has, so that position is the same everywhere."""
    position_stride: int = 8
    """Of `strided` and `matched`. Neighbouring tokens of a window tell little more than each other, and cost as much."""
    n_slots: int = 256
    """Windows beyond this number share slots; see `accumulate.py`."""
    n_groups: int = 8
    """Groups of windows for the jackknife of lifetime measures."""
    n_bootstrap: int = 400
    confidence: float = 0.95
    bootstrap_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_windows", "batch_size", "position_stride", "n_slots", "n_groups", "n_bootstrap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batch_size % 2:
            raise ValueError(f"batch_size={self.batch_size} must be even: windows are compared in pairs")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence={self.confidence} must lie between 0 and 1")
        allowed_kinds = [kind for kind in WATCH_KINDS + NODE_KINDS if kind != "norm_scale"]
        from_sums = [name for name, measure in MEASURES.items() if measure.from_sums]
        for name, chosen, allowed in (
            ("positions", (self.positions,), list(get_args(PositionsMode))),
            ("kinds", self.kinds, allowed_kinds),
            ("measures", self.measures, list(MEASURES)),
            ("lifetime_measures", self.lifetime_measures, from_sums),
        ):
            unknown = [choice for choice in chosen if choice not in allowed]
            if unknown:
                raise ValueError(f"{name} has unknown entries {unknown}; allowed: {', '.join(allowed)}")

    def describe_interval(self) -> str:
        """How lo and hi of the population measures were made."""
        return (
            f"{self.confidence:.0%} percentile bootstrap over windows ({self.n_bootstrap} resamples, seed "
            f"{self.bootstrap_seed}); lifetime measures, dead and always_on: {self.confidence:.0%} jackknife over "
            f"{self.n_groups} groups of windows"
        )

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


class Row(NamedTuple):
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

    rows: list[Row]
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


def watched_points(model: nn.Module, config: WatchConfig) -> dict[str, HookPoint]:
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
class View:
    """Other ways to look at the activations of some hook points; the model itself sees them as they are."""

    looks: Mapping[str, Mapping[str, Callable[[Tensor], Tensor]]]
    """Hook point -> label -> `[n, m, width] -> [n, m, width of the label]`. The label, different for each, stands in the rows in
    place of the hook point. Points that are not named are not measured."""
    widths: Mapping[str, int]
    """Label -> width."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Which positions of a batch of windows are read."""

    where: slice | Tensor
    """The same for all windows, or `[n, m]` int64."""
    valid: Tensor | None
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


def positions_of(batch: Tensor, config: WatchConfig, shortest: int) -> Positions:
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
        return Positions(where=config.read_positions(shortest), valid=None)
    if real.all():
        return Positions(where=config.read_positions(batch.shape[1]), valid=None)
    n_tokens = real.sum(1)
    if n_tokens.min() < 2 or bool((real[:, 1:] & ~real[:, :-1]).any()):
        raise ValueError("a window needs at least two tokens, and -1 behind its last one only")
    last = n_tokens - 2  # the last position that has a next token
    if config.positions == "last":
        return Positions(where=last[:, None], valid=None)
    strided = torch.arange(config.stride - 1, max(batch.shape[1] - 1, config.stride), config.stride)
    where = strided.to(batch.device).expand(len(batch), -1).clone()
    where[:, 0] = where[:, 0].minimum(last)
    valid = where <= last[:, None]
    return Positions(where=where.minimum(last[:, None]), valid=valid)


def split_tokens(split: Split) -> Tensor:
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


def shortest_window(splits: Sequence[Split], config: WatchConfig) -> int:
    """Tokens of the shortest window that is read, over all splits."""
    lengths = []
    for split in splits:
        tokens = split_tokens(split)[: config.n_windows]
        lengths += [int((batch >= 0).sum(1).min()) for batch in tokens.split(config.batch_size)]
    return min(lengths)


def check_splits(splits: Sequence[Split]) -> None:
    """Raises ValueError where there is no split, one that is empty, or two of one name."""
    if not splits:
        raise ValueError("no split to evaluate; give at least one")
    names = [split.name for split in splits]
    if len(set(names)) < len(names):
        raise ValueError(f"split names must differ, got {', '.join(names)}")
    for split in splits:
        split_tokens(split)


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
            losses.append(_measure_logits(logits[:, at], batch[:, 1:][:, at])[..., 0].mean(1))
    return torch.cat(losses)


def measure_splits(
    model: nn.Module,
    splits: Sequence[Split],
    config: WatchConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    on_batch: Callable[[int], None] | None = None,
    view: View | None = None,
) -> Evaluation:
    """Measures every watched hook point of a model on every split.

    Args:
        model: tokens `[batch, pos]` int64 -> logits `[batch, pos, d_vocab]`, with hook points.
        splits: each with at least one window.
        config: what to measure.
        rank, world_size: with several ranks each takes its share of the windows; all must call, all get all results.
        on_batch: called with the number of windows after each batch of this rank.
        view: measure its looks at hook points (None: all that are watched, as they are).

    Returns:
        The same numbers on every rank.

    Raises:
        ValueError: an empty split, or nothing to watch.
        KeyError: a hook point that does not exist.
    """
    check_splits(splits)
    points = watched_points(model, config)
    if view is None:
        widths = {name: point.width for name, point in points.items()}
        hooks = tuple(points)
    else:
        hooks = tuple(name for name in points if name in view.looks)
        widths = {label: view.widths[label] for name in hooks for label in view.looks[name]}
    layout = _layout(hooks, widths)
    # Lengths are looked at only where they decide: all tokens would have to be read.
    shortest = shortest_window(splits, config) if config.positions == "matched" else 0
    per_point = [(name, measure) for name in layout.points for measure in (*config.measures, "jaccard")]
    series = {key: i for i, key in enumerate([*per_point, *((LOGITS, measure) for measure in LOGIT_MEASURES)])}
    rows: list[Row] = []
    windows: dict[str, np.ndarray] = {}
    energy = {name: np.zeros(width) for name, width in zip(layout.units, layout.widths, strict=True)}
    with evaluating(model):
        for split in splits:
            share = (rank, world_size)
            means, units = _measure_split(model, split_tokens(split), layout, config, share, shortest, on_batch, view)
            population = means.summary(config.n_bootstrap, config.confidence, config.bootstrap_seed)
            lifetime = units.summary(config.lifetime_measures, config.confidence)
            for name, of_split in zip(layout.units, units.energy(), strict=True):
                energy[name] += of_split
            slots = means.slot_means()
            windows[split.name] = slots[: min(len(slots), int(population.n.max()))]
            numbers = {
                key: (population.value[i], population.lo[i], population.hi[i], population.n[i])
                for key, i in series.items()
            }
            n_windows = population.n[series[LOGITS, "loss"]]
            for point, i in layout.units.items():
                numbers |= {(point, measure): (*reading, n_windows) for measure, reading in lifetime[i].items()}
            rows += [
                Row(
                    split=split.name,
                    shift_level=split.level,
                    hook_point=point,
                    measure=measure,
                    value=float(value),
                    lo=float(lo),
                    hi=float(hi),
                    n=int(n),
                )
                for (point, measure), (value, lo, hi, n) in numbers.items()
            ]
    return Evaluation(rows=rows, series=series, windows=windows, energy=energy)


class _Readings:
    """What is read of one batch of windows: per point and window, all measures; flushed into the accumulators.

    Activations of points of one width are measured together (the same numbers, far fewer calls), at most `MAX_PENDING`
    entries at a time.
    """

    def __init__(
        self,
        config: WatchConfig,
        layout: "_Layout",
        windows: Tensor,
        positions: Positions,
        units: UnitSums,
        view: View | None,
    ) -> None:
        self.config = config
        self.view = view
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
        if self.view is None:
            self.add(point.name, read)
        else:
            for label, change in self.view.looks[point.name].items():
                self.add(label, change(read))
        return x

    def add(self, name: str, read: Tensor) -> None:
        """Activations `[n, m, width]` that wait under a name of the layout."""
        width = read.shape[-1]
        waiting = self.pending.setdefault(width, [])
        waiting.append((name, read))
        if len(waiting) * read.numel() >= MAX_PENDING:
            self.flush(width)

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
        n_pairs = h.active.shape[1] // 2
        first = torch.arange(0, 2 * n_pairs, 2, device=h.active.device)
        overlap = jaccard(h.active[:, first], h.active[:, first + 1])  # [point, pair, pos]
        if valid is not None:
            overlap = torch.where(valid[first] & valid[first + 1], overlap, torch.nan)
        where = torch.tensor([self.layout.points[name] for name in names], device=h.active.device)
        self.values[:, where, :-1] = rearrange(
            torch.where(known, readings, 0.0).sum(2) / known.sum(2), "p n m -> n p m"
        )
        self.defined[:, where, :-1] = rearrange(known.any(2), "p n m -> n p m")
        self.values[first[:, None], where, -1] = rearrange(overlap.nanmean(2), "p pair -> pair p")
        self.defined[first[:, None], where, -1] = rearrange(~overlap.isnan().all(2), "p pair -> pair p")
        self.units.update(h, self.layout.units[names[0]], self.windows, valid)

    def finish(self) -> None:
        """Measures whatever still waits."""
        for width in list(self.pending):
            self.flush(width)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where each hook point's numbers stand in the accumulators."""

    hooks: tuple[str, ...]
    """Hook points that are read."""
    points: dict[str, int]
    """Hook point (or label of a look at one) -> its number, in forward order."""
    units: dict[str, int]
    """Hook point -> its number in `UnitSums`, where points of one width stand together, in forward order."""
    widths: list[int]
    """Width of each point in the order of `units`."""


def _layout(hooks: tuple[str, ...], widths: Mapping[str, int]) -> _Layout:
    by_width = sorted(widths, key=lambda name: widths[name])
    return _Layout(
        hooks=hooks,
        points={name: i for i, name in enumerate(widths)},
        units={name: i for i, name in enumerate(by_width)},
        widths=[widths[name] for name in by_width],
    )


def _measure_split(
    model: nn.Module,
    tokens: Tensor,
    layout: _Layout,
    config: WatchConfig,
    share: tuple[int, int],
    shortest: int,
    on_batch: Callable[[int], None] | None,
    view: View | None,
) -> tuple[WindowMeans, UnitSums]:
    """Runs one split through the model with accumulators in the hooks; `model` is in eval mode already.

    Args:
        share: rank and number of ranks.
        shortest: tokens of the shortest window of all splits.
    """
    device = next(model.parameters()).device
    n_windows = min(config.n_windows, len(tokens))
    n_series = len(layout.points) * (len(config.measures) + 1) + len(LOGIT_MEASURES)
    means = WindowMeans(n_series, min(config.n_slots, n_windows)).to(device)
    units = UnitSums(layout.widths, min(config.n_groups, n_windows)).to(device)
    rank, world_size = share
    for first in range(rank * config.batch_size, n_windows, world_size * config.batch_size):
        batch = tokens[first : min(first + config.batch_size, n_windows)].long().to(device)
        batch = batch[:, : max(2, int((batch >= 0).sum(1).max()))]
        positions = positions_of(batch, config, shortest)
        windows = torch.arange(first, first + len(batch), device=device)
        readings = _Readings(config, layout, windows, positions, units, view)
        with hooked(model, dict.fromkeys(layout.hooks, readings.watch)):
            logits = positions.of(model(batch[:, :-1].clamp_min(0)))
        readings.finish()
        of_logits = positions.mean(_measure_logits(logits.float(), positions.of(batch[:, 1:])))
        means.update(
            torch.cat([readings.values.flatten(1), of_logits], 1),
            torch.cat([readings.defined.flatten(1), torch.ones_like(of_logits, dtype=torch.bool)], 1),
            windows,
        )
        if on_batch is not None:
            on_batch(len(batch))
    return means, units


def _measure_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """`LOGIT_MEASURES` per position: `[n, pos, d_vocab]`, `[n, pos]` -> `[n, pos, 3]`."""
    log_p = F.log_softmax(logits, dim=-1)
    loss = -log_p.gather(-1, targets[..., None])[..., 0]
    entropy = -torch.linalg.vecdot(log_p.exp(), log_p)
    norm = (logits - logits.mean(-1, keepdim=True)).norm(dim=-1)
    return torch.stack([loss, entropy, norm], -1)
