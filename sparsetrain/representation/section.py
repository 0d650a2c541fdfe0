"""What report.json says of evaluations: one form for a training run, a study and a user's texts.

1. `page_section`: splits, and per hook point every measure on every split beside its Gaussian reference.
2. `training_curves`: the same measures over the steps of a training, from the table of `record.py`.
3. `curves_for_report`: both from that table alone. Where examples are at hand, `survey.py` says more.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from sparsetrain.hooks import NODE_KINDS, hook_points
from sparsetrain.report import number
from sparsetrain.representation.measures import HEADLINE, gaussian_reference
from sparsetrain.representation.record import read_rows
from sparsetrain.representation.watch import LOGIT_MEASURES, LOGITS, Row, Split, WatchConfig, split_tokens

MAX_NUMBERS = 400_000
"""Numbers of all curves together; with more, only a few hook points are drawn (`default_points`). ours"""
MAX_STEPS = 60
"""Evaluations that a curve shows, evenly chosen; the table has all. ours"""
UNITS = {
    **dict(zip(LOGIT_MEASURES, ("nats/token", "nats", "L2 norm"), strict=True)),
    "participation_ratio": "units",
    **dict.fromkeys(("gini", "gini_active", "hoyer", "pq_1_2", "pq_half_2", "kurtosis", "lifetime_kurtosis"), ""),
}
"""Units of measures that are no fraction."""


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
            k = config.k(point.kind) if config is not None and point.kind in NODE_KINDS else point.width
            found[name] = gaussian_reference(point.width, None if k == point.width else k)
    return found


def window_lengths(split: Split, config: WatchConfig) -> np.ndarray:
    """Tokens of each window that is read, `[n]` int64."""
    tokens = split_tokens(split)[: config.n_windows]
    return np.concatenate([(batch >= 0).sum(1).numpy() for batch in tokens.split(config.batch_size)])


def page_section(
    rows: Iterable[Row],
    splits: Sequence[Split],
    config: WatchConfig,
    model: nn.Module,
    *,
    status: Literal["recomputable", "measured"] = "recomputable",
) -> dict[str, Any]:
    """One evaluation: what was read, and every number of it.

    Args:
        rows: of one evaluation.
        splits: the splits that were measured.
        config: how.
        model: gives widths, and each hook point its own Gaussian reference (width and AbsTopK).
        status: of the numbers.

    Returns:
        `headline interval positions splits points`; see `docs/report.md`.
    """
    numbers: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        unit = UNITS.get(row.measure, "fraction")
        numbers.setdefault((row.split, row.hook_point), {})[row.measure] = number(
            row.value, unit, status, n=row.n, lo=finite(row.lo), hi=finite(row.hi)
        )
    names = list(dict.fromkeys(point for _, point in numbers if point != LOGITS))
    widths = {name: point.width for name, point in hook_points(model).items()}
    local, shown = references(model), default_points(names)
    lengths = {split.name: window_lengths(split, config) for split in splits}
    return {
        "headline": HEADLINE,
        "interval": config.describe_interval(),
        "positions": config.describe_positions(),
        "splits": [
            {
                "name": split.name,
                "level": split.level,
                "description": split.description,
                "n_examples": len(lengths[split.name]),
                "n_tokens": int(lengths[split.name].sum()),
                "median_tokens": float(np.median(lengths[split.name])),
                **{measure: numbers[split.name, LOGITS][measure] for measure in LOGIT_MEASURES},
            }
            for split in splits
        ],
        "points": [
            {
                "hook_point": name,
                "width": widths[name],
                "shown": name in shown,
                "gaussian": {m: local[name][m] for m in numbers[splits[0].name, name] if m in local[name]},
                "values": {split.name: numbers[split.name, name] for split in splits},
            }
            for name in names
        ],
    }


def training_curves(
    table: Sequence[tuple[int, Row]], splits: Sequence[Split], config: WatchConfig, model: nn.Module
) -> dict[str, Any]:
    """Every measure at every hook point over training, with its interval.

    Args:
        table: `(step, row)` of all evaluations.
        splits: the splits that were watched.
        config: how they were watched.
        model: gives each curve its own Gaussian reference.

    Returns:
        Plain JSON, numbers with five digits; those that are not finite are None. `points` says whether all hook points
        are there or, where that were too many numbers, a few.
    """
    steps = sorted({step for step, _ in table})
    if len(steps) > MAX_STEPS:
        picks = np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int)
        steps = [steps[i] for i in picks]
    values = {(row.hook_point, row.measure, row.split, step): row for step, row in table}
    pairs = list(dict.fromkeys((row.hook_point, row.measure) for _, row in table))
    drawn = "all"
    if 3 * len(pairs) * len(splits) * len(steps) > MAX_NUMBERS:
        few = default_points(list(dict.fromkeys(point for point, _ in pairs if point != LOGITS)))
        pairs, drawn = [pair for pair in pairs if pair[0] in (*few, LOGITS)], "few"
    local = references(model)

    def curve(pair: tuple[str, str], key: Literal["value", "lo", "hi"]) -> list[list[float | None]]:
        rows = [[values.get((*pair, split.name, step)) for step in steps] for split in splits]
        return [[None if row is None else _five_digits(getattr(row, key)) for row in of] for of in rows]

    return {
        "steps": steps,
        "points": drawn,
        "interval": config.describe_interval(),
        "positions": config.describe_positions(),
        "n": {split.name: len(window_lengths(split, config)) for split in splits},
        "curves": [
            {
                "hook_point": point,
                "measure": measure,
                "gaussian": local.get(point, {}).get(measure),
                **{key: curve((point, measure), key) for key in ("value", "lo", "hi")},
            }
            for point, measure in pairs
        ],
    }


def curves_for_report(path: Path, splits: Sequence[Split], config: WatchConfig, *, model: nn.Module) -> dict[str, Any]:
    """The section `representation` of report.json as far as a table of evaluations goes: the last one, and the curves.

    Args:
        path: an `ood_sparsity.csv`.
        splits: the splits that were watched.
        config: how they were watched.
        model: with the hook points that were watched.
    """
    table = list(read_rows(path))
    last = max(step for step, _ in table)
    section = page_section((row for step, row in table if step == last), splits, config, model, status="measured")
    return {**section, "step": last, "training": training_curves(table, splits, config, model)}


def finite(value: float) -> float | None:
    """A number that is not finite as None."""
    return float(value) if isfinite(value) else None


def _five_digits(value: float) -> float | None:
    return float(f"{value:.5g}") if isfinite(value) else None
