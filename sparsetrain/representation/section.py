"""The sections `representation` and `measurement` of report.json: one form for a training run, a study and a user's texts.

1. `evaluation_section`: splits, and per hook point every measure on every split beside its Gaussian reference.
2. `table_section`: that of the last evaluation of a training, and the same measures over its steps, from the table of `table.py`.
3. Where examples are at hand, `trends.py` adds what they say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from sparsetrain.hooks import NODE_KINDS, hook_points
from sparsetrain.representation.evaluate import LOGIT_MEASURES, LOGITS, SparsityRow, WatchConfig
from sparsetrain.representation.measures import HEADLINE, MEASURES, gaussian_reference
from sparsetrain.representation.positions import WatchedSplit, window_lengths
from sparsetrain.representation.table import read_rows
from sparsetrain.stats.number import Number, Status, number

MAX_NUMBERS = 400_000
"""Numbers of all curves together; with more, only a few hook points are drawn (`default_points`). ours"""
MAX_STEPS = 60
"""Evaluations that a curve shows, evenly chosen; the table has all. ours"""
Row = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class SplitEntry:
    """A split that was read."""

    name: str
    level: int
    """Distance from the training text; 0 is nearest."""
    description: str
    n_examples: int
    """Texts or windows of text."""
    n_tokens: int
    median_tokens: float
    loss: Number
    entropy: Number
    logit_norm: Number
    bits_per_char: Number | None = None
    """`loss` per character of the tokens predicted at the positions read; None where the tokenizer does not say which token stands for which
    characters, and in sections of a training's table alone."""
    unknown_share: float | None = None
    """Of a user's texts: share of the tokens that the tokenizer does not know."""
    n_cut: int | None = None
    """Examples longer than what is read."""
    n_short: int | None = None
    """Examples left out as too short."""
    n_unknown: int | None = None
    """Examples left out as without a known token."""


@dataclass(frozen=True, kw_only=True)
class PointEntry:
    """What was measured at a hook point."""

    hook_point: str
    width: int
    shown: bool
    """Drawn in detail."""
    gaussian: Mapping[str, float | None]
    """Measure -> its value on Gaussian vectors of this width and AbsTopK."""
    values: Mapping[str, Mapping[str, Number]]
    """Split -> measure -> number."""
    differences: Mapping[str, Number] | None = None
    """Split -> headline minus that of the first split."""
    controls: Mapping[str, Mapping[str, Number]] | None = None
    """Control -> split -> headline."""
    trends: Mapping[str, Number] | None = None
    """Rank correlations over examples: `level level_controlled level_means shuffled loss`, `level_<control>`."""


@dataclass(frozen=True, kw_only=True)
class TrainingCurve:
    """A measure at a hook point over training; `[split][step]`, five digits, None where it is not finite."""

    hook_point: str
    """`logits` stands for loss, entropy and logit norm."""
    measure: str
    gaussian: float | None
    value: tuple[Row, ...]
    lo: tuple[Row, ...]
    hi: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """Every measure at every hook point over training."""

    steps: tuple[int, ...]
    points: Literal["all", "few"]
    """`few`: all would be more than 400,000 numbers."""
    interval: str
    positions: str
    n: Mapping[str, int]
    """Split -> windows."""
    curves: tuple[TrainingCurve, ...]


@dataclass(frozen=True, kw_only=True)
class LossGroups:
    """The headline in groups of examples of like loss, from low to high."""

    hook_point: str
    split: str
    loss: tuple[float, ...]
    """Mean of each group, nats/token."""
    value: tuple[float, ...]
    """Mean of the headline."""
    lo: Row
    hi: Row
    """Bootstrap over the group's examples; None for a group of one."""
    n: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SeedTrend:
    """A correlation with the level in several models that differ in their seed."""

    over: Number
    """Mean over models, Student's t interval."""
    each: tuple[float, ...]
    """Per model."""
    n_positive: int
    n_negative: int
    p: Number
    """Two-sided sign test."""


@dataclass(frozen=True, kw_only=True)
class SeedPoint:
    """The correlations at one hook point over models."""

    hook_point: str
    level: SeedTrend | None = None
    level_controlled: SeedTrend | None = None


@dataclass(frozen=True, kw_only=True)
class SeedsEntry:
    """Several models beside each other that differ in their seed."""

    models: tuple[str, ...]
    interval: str
    points: tuple[SeedPoint, ...]


@dataclass(frozen=True, kw_only=True)
class FilesEntry:
    """Tables in the run's folder."""

    table: str | None = None
    """All hook points, measures and (of a training) steps."""
    examples: str | None = None
    """A row per example and hook point."""


@dataclass(frozen=True, kw_only=True)
class RepresentationSection:
    """How sparse activations are: the sparsity page of a training run."""

    headline: str
    """The main measure."""
    interval: str
    """How lo and hi were made."""
    positions: str
    """Which positions were read."""
    splits: tuple[SplitEntry, ...]
    points: tuple[PointEntry, ...]
    covariates: tuple[str, ...] | None = None
    """Those of `level_controlled`."""
    against_loss: tuple[LossGroups, ...] | None = None
    step: int | None = None
    """Of the weights, in a training run."""
    training: TrainingCurves | None = None
    seeds: SeedsEntry | None = None
    """Where several models were given."""
    files: FilesEntry | None = None


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """The model that a measurement is about."""

    name: str
    architecture: str
    n_params: int
    n_ctx: int | None
    """None: as many positions as memory allows."""
    left_out: Mapping[str, str]
    """Hook point -> why it is absent."""


@dataclass(frozen=True, kw_only=True)
class MeasurementSection(RepresentationSection):
    """The same of a user's texts, by `scripts/measure_sparsity.py`: the keys of `representation`, the `model`, and what was not read."""

    model: MeasuredModel
    n_skipped: int = 0
    """Rows and files that are no text."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """`<file>:<line or row>` -> why it was left out; the first thousand."""


def default_points(names: Sequence[str]) -> list[str]:
    """The few hook points drawn in the report: the residual stream and the neurons of the first, middle and last block, the
    residual stream at the end, and what the last norm makes of it.

    Args:
        names: all watched hook points, in forward order.
    """
    chosen = []
    for ending in ("mlp.norm.hook_resid", "mlp.hook_neuron"):
        same = [name for name in names if name.endswith(ending)]
        chosen += [same[i] for i in sorted({0, len(same) // 2, len(same) - 1}) if same]
    chosen += [name for name in names if name in ("final_norm.hook_resid", "final_norm.hook_norm")]
    return [name for name in names if name in chosen] or list(names[:4])


def references(model: nn.Module) -> dict[str, Mapping[str, float]]:
    """Hook point -> what each measure reads there on Gaussian vectors of its width, after the AbsTopK of its kind."""
    config = getattr(model, "config", None)
    found = {}
    for name, point in hook_points(model).items():
        if point.width > 1:
            k = point.width
            if config is not None and point.kind in NODE_KINDS:  # positions that compete take their share of the places
                k = config.k(point.kind) * point.width // config.competing(point.kind)
            found[name] = gaussian_reference(point.width, None if k == point.width else k)
    return found


UNITS = {
    **dict(zip(LOGIT_MEASURES, ("nats/token", "nats", "L2 norm"), strict=True)),
    **{name: measure.unit for name, measure in MEASURES.items()},
    **{f"lifetime_{name}": measure.unit for name, measure in MEASURES.items()},
}
"""Units of measures that are no fraction."""


def row_number(row: SparsityRow, status: Status = "recomputable") -> Number:
    """A row as a report shows it."""
    lo, hi = finite(row.lo), finite(row.hi)
    return number(row.value, UNITS.get(row.measure, "fraction"), status, n=row.n, lo=lo, hi=hi)


def evaluation_section(
    rows: Iterable[SparsityRow],
    splits: Sequence[WatchedSplit],
    config: WatchConfig,
    model: nn.Module,
    *,
    status: Status = "recomputable",
) -> RepresentationSection:
    """One evaluation: what was read, and every number of it.

    Args:
        rows: of one evaluation.
        splits: the splits that were measured.
        config: how.
        model: gives widths, and each hook point its own Gaussian reference (width and AbsTopK).
        status: of the numbers.
    """
    numbers: dict[tuple[str, str], dict[str, Number]] = {}
    for row in rows:
        numbers.setdefault((row.split, row.hook_point), {})[row.measure] = row_number(row, status)
    names = list(dict.fromkeys(point for _, point in numbers if point != LOGITS))
    widths = {name: point.width for name, point in hook_points(model).items()}
    local, shown = references(model), default_points(names)
    entries = []
    for split in splits:
        lengths, of_logits = window_lengths(split, config.n_windows), numbers[split.name, LOGITS]
        entries.append(
            SplitEntry(
                name=split.name,
                level=split.level,
                description=split.description,
                n_examples=len(lengths),
                n_tokens=int(lengths.sum()),
                median_tokens=float(np.median(lengths)),
                loss=of_logits["loss"],
                entropy=of_logits["entropy"],
                logit_norm=of_logits["logit_norm"],
            )
        )
    return RepresentationSection(
        headline=HEADLINE,
        interval=config.describe_interval(),
        positions=config.describe_positions(),
        splits=tuple(entries),
        points=tuple(
            PointEntry(
                hook_point=name,
                width=widths[name],
                shown=name in shown,
                gaussian={m: local[name][m] for m in numbers[splits[0].name, name] if m in local[name]},
                values={split.name: numbers[split.name, name] for split in splits},
            )
            for name in names
        ),
    )


def training_curves(
    table: Sequence[tuple[int, SparsityRow]], splits: Sequence[WatchedSplit], config: WatchConfig, model: nn.Module
) -> TrainingCurves:
    """Every measure at every hook point over training, with its interval.

    Args:
        table: `(step, row)` of all evaluations.
        splits: the splits that were watched.
        config: how they were watched.
        model: gives each curve its own Gaussian reference.
    """
    steps = sorted({step for step, _ in table})
    if len(steps) > MAX_STEPS:
        picks = np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int)
        steps = [steps[i] for i in picks]
    values = {(row.hook_point, row.measure, row.split, step): row for step, row in table}
    pairs = list(dict.fromkeys((row.hook_point, row.measure) for _, row in table))
    too_many = 3 * len(pairs) * len(splits) * len(steps) > MAX_NUMBERS
    if too_many:
        few = default_points(list(dict.fromkeys(point for point, _ in pairs if point != LOGITS)))
        pairs = [pair for pair in pairs if pair[0] in (*few, LOGITS)]
    local = references(model)

    def curve(pair: tuple[str, str], key: Literal["value", "lo", "hi"]) -> tuple[Row, ...]:
        rows = [[values.get((*pair, split.name, step)) for step in steps] for split in splits]
        return tuple(tuple(None if row is None else _five_digits(getattr(row, key)) for row in of) for of in rows)

    return TrainingCurves(
        steps=tuple(steps),
        points="few" if too_many else "all",
        interval=config.describe_interval(),
        positions=config.describe_positions(),
        n={split.name: len(window_lengths(split, config.n_windows)) for split in splits},
        curves=tuple(
            TrainingCurve(
                hook_point=pair[0],
                measure=pair[1],
                gaussian=local.get(pair[0], {}).get(pair[1]),
                value=curve(pair, "value"),
                lo=curve(pair, "lo"),
                hi=curve(pair, "hi"),
            )
            for pair in pairs
        ),
    )


def table_section(
    path: Path, splits: Sequence[WatchedSplit], config: WatchConfig, *, model: nn.Module
) -> RepresentationSection:
    """The section `representation` as far as a table of evaluations goes: the last one, and the curves.

    Args:
        path: an `ood_sparsity.csv`.
        splits: the splits that were watched.
        config: how they were watched.
        model: with the hook points that were watched.
    """
    table = list(read_rows(path))
    last = max(step for step, _ in table)
    section = evaluation_section((row for step, row in table if step == last), splits, config, model, status="measured")
    return replace(section, step=last, training=training_curves(table, splits, config, model))


def finite(value: float) -> float | None:
    """A number that is not finite as None."""
    return float(value) if isfinite(value) else None


def _five_digits(value: float) -> float | None:
    return float(f"{value:.5g}") if isfinite(value) else None
