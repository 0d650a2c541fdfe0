"""One measurement of a model on a user's texts: every example a window, every statement with an interval.

1. `survey` measures all splits once; an example is the unit, so resampling is over examples.
2. `measurement_section` makes of it the section `measurement` of report.json: per split and hook point each measure, the
   Gaussian reference of that width, sparsity against loss, and rank correlations with the level, plain and given loss,
   entropy, logit norm and length.
3. `write_examples` keeps every example's numbers, for statistics of one's own.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from sparsetrain.data.texts import TextSplit
from sparsetrain.hooks import NODE_KINDS, hook_points
from sparsetrain.report import number
from sparsetrain.representation.measures import HEADLINE, MEASURES
from sparsetrain.representation.record import default_points, references
from sparsetrain.representation.trends import Estimate, partial_spearman, spearman
from sparsetrain.representation.watch import LOGIT_MEASURES, LOGITS, Evaluation, WatchConfig, measure_splits

N_BINS = 8
"""Groups of examples of like loss."""
MIN_PER_BIN = 4
LOGIT_UNITS = {"loss": "nats/token", "entropy": "nats", "logit_norm": "L2 norm"}
POPULATION_UNITS = {"participation_ratio": "units"}


@dataclass(frozen=True, kw_only=True)
class SurveyConfig:
    """What is measured on each example, where, and how precisely. ours"""

    n_examples: int = 256
    """Of each split at most; drawn by the seed where there are more."""
    points: tuple[str, ...] = ()
    """Hook points by name; none named: all of these kinds."""
    kinds: tuple[str, ...] = ("resid", "norm", *NODE_KINDS)
    measures: tuple[str, ...] = tuple(MEASURES)
    lifetime_measures: tuple[str, ...] = ("treves_rolls", "kurtosis")
    positions: Literal["strided", "last"] = "strided"
    """`strided`: every position_stride-th of an example; `last`: the last one that has a next token."""
    position_stride: int = 8
    """1 reads all positions."""
    batch_size: int = 8
    n_groups: int = 8
    """Groups of examples for the jackknife of lifetime measures."""
    n_bootstrap: int = 400
    confidence: float = 0.95
    seed: int = 0
    """Of the draw of examples and of the resamples."""

    def __post_init__(self) -> None:
        if self.n_examples < 1:
            raise ValueError(f"measure.n_examples={self.n_examples} must be at least 1")
        if HEADLINE not in self.measures:
            raise ValueError(f"measure.measures={list(self.measures)} must contain {HEADLINE!r}, the headline")
        self.watch()

    def watch(self) -> WatchConfig:
        """As an evaluation: every example keeps its own slot."""
        return WatchConfig(
            kinds=() if self.points else self.kinds,
            points=self.points,
            measures=self.measures,
            lifetime_measures=self.lifetime_measures,
            n_windows=self.n_examples,
            batch_size=self.batch_size,
            positions=self.positions,
            position_stride=self.position_stride,
            n_slots=self.n_examples,
            n_groups=self.n_groups,
            n_bootstrap=self.n_bootstrap,
            confidence=self.confidence,
            bootstrap_seed=self.seed,
        )


def survey(
    model: nn.Module,
    splits: Sequence[TextSplit],
    config: SurveyConfig,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measures all examples of all splits.

    Args:
        model: tokens -> logits, with hook points.
        splits: of at most `config.n_examples` examples each (`TextSplit.draw`).
        config: what to measure.
        on_batch: called with the number of examples after each batch.

    Raises:
        KeyError: a hook point that does not exist (near names listed).
        ValueError: nothing to measure.
    """
    assert all(len(split.tokens) <= config.n_examples for split in splits)
    return measure_splits(model, splits, config.watch(), on_batch=on_batch)


def measurement_section(
    evaluation: Evaluation, splits: Sequence[TextSplit], config: SurveyConfig, model: nn.Module
) -> dict[str, Any]:
    """The section `measurement` of report.json, less the description of the model.

    Returns:
        Plain JSON; see `docs/report.md`.
    """
    names = list(dict.fromkeys(row.hook_point for row in evaluation.rows if row.hook_point != LOGITS))
    widths = {name: point.width for name, point in hook_points(model).items()}
    local = references(model)
    shown = default_points(names)
    numbers: dict[tuple[str, str], dict[str, Any]] = {}
    for row in evaluation.rows:
        unit = LOGIT_UNITS.get(row.measure, POPULATION_UNITS.get(row.measure, "fraction"))
        unit = "" if row.measure in ("kurtosis", "lifetime_kurtosis") else unit
        numbers.setdefault((row.split, row.hook_point), {})[row.measure] = number(
            row.value, unit, n=row.n, lo=_finite(row.lo), hi=_finite(row.hi)
        )
    return {
        "headline": HEADLINE,
        "interval": config.watch().describe_interval().replace("windows", "examples"),
        "positions": "the last one that has a next token"
        if config.positions == "last"
        else f"every {config.position_stride}th that has a next token, the last such one of a shorter example",
        "splits": [
            {
                "name": split.name,
                "level": split.level,
                "description": split.description,
                "n_examples": len(split.tokens),
                "n_tokens": int(split.lengths.sum()),
                "median_tokens": float(np.median(split.lengths)),
                "unknown_share": split.unknown_share,
                "n_cut": split.n_cut,
                "n_short": split.n_short,
                "n_unknown": split.n_unknown,
                **{measure: numbers[split.name, LOGITS][measure] for measure in LOGIT_MEASURES},
            }
            for split in splits
        ],
        "points": [
            {
                "hook_point": name,
                "width": widths[name],
                "shown": name in shown,
                "gaussian": {measure: local[name][measure] for measure in config.measures},
                "values": {split.name: numbers[split.name, name] for split in splits},
                "trends": trends(evaluation, splits, name, config),
            }
            for name in names
        ],
        "against_loss": [
            {"hook_point": name, "split": split.name, **against_loss(evaluation, split.name, name, config)}
            for name in shown
            for split in splits
        ],
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _of_examples(evaluation: Evaluation, split: str, point: str) -> dict[str, np.ndarray]:
    """Headline, loss, entropy and logit norm of every example, `[n_examples]` each."""
    columns = {HEADLINE: evaluation.per_window(split, point, HEADLINE)}
    return columns | {measure: evaluation.per_window(split, LOGITS, measure) for measure in LOGIT_MEASURES}


def trends(
    evaluation: Evaluation, splits: Sequence[TextSplit], point: str, config: SurveyConfig
) -> dict[str, dict[str, Any]]:
    """Rank correlations of the headline over the examples of all splits.

    Returns:
        `level`: with the split's level; `level_controlled`: the same given loss, entropy, logit norm and length; `loss`: with
        the example's loss given the level. Empty where there are too few examples; a level that is one and the same
        has no correlation.
    """
    columns = [_of_examples(evaluation, split.name, point) for split in splits]
    together = {key: np.concatenate([column[key] for column in columns]) for key in columns[0]}
    together["length"] = np.concatenate([split.lengths.astype(np.float64) for split in splits])
    together["level"] = np.repeat([float(split.level) for split in splits], [len(split.tokens) for split in splits])
    known = np.isfinite(np.stack(list(together.values()))).all(0)
    items = {key: values[known] for key, values in together.items()}
    covariates = [items[key] for key in (*LOGIT_MEASURES, "length")]
    if known.sum() < 3 + len(covariates):
        return {}
    settings: dict[str, Any] = {
        "n_bootstrap": config.n_bootstrap,
        "confidence": config.confidence,
        "seed": config.seed,
    }
    y = items[HEADLINE]
    estimates = {"loss": partial_spearman(items["loss"], y, [items["level"]], **settings)}
    if len(set(items["level"])) > 1:
        estimates["level"] = spearman(items["level"], y, **settings)
        estimates["level_controlled"] = partial_spearman(items["level"], y, covariates, **settings)
    return {name: _estimate(estimate, config.seed) for name, estimate in estimates.items()}


def _estimate(estimate: Estimate, seed: int) -> dict[str, Any]:
    return number(
        estimate.value, "correlation", n=estimate.n, lo=_finite(estimate.lo), hi=_finite(estimate.hi), seed=seed
    )


def against_loss(evaluation: Evaluation, split: str, point: str, config: SurveyConfig) -> dict[str, Any]:
    """The headline in groups of examples of like loss, from low to high.

    Returns:
        `loss` (mean of each group, nats/token), `value` (mean of the headline), `lo`, `hi` (bootstrap over the group's
        examples; None for a group of one) and `n` (examples per group).
    """
    columns = _of_examples(evaluation, split, point)
    known = np.isfinite(columns[HEADLINE]) & np.isfinite(columns["loss"])
    order = np.argsort(columns["loss"][known], kind="stable")
    n_bins = max(1, min(N_BINS, len(order) // MIN_PER_BIN))
    rng = np.random.default_rng(config.seed)
    result: dict[str, list[Any]] = {"loss": [], "value": [], "lo": [], "hi": [], "n": []}
    for group in np.array_split(order, n_bins):
        values = columns[HEADLINE][known][group]
        if not len(values):
            continue
        resampled = values[rng.integers(len(values), size=(config.n_bootstrap, len(values)))].mean(1)
        tail = (1 - config.confidence) / 2
        lo, hi = np.quantile(resampled, [tail, 1 - tail]) if len(values) > 1 else (None, None)
        for key, entry in zip(
            result, (columns["loss"][known][group].mean(), values.mean(), lo, hi, len(values)), strict=True
        ):
            result[key].append(None if entry is None else float(entry) if key != "n" else entry)
    return result


def write_examples(path: Path, evaluation: Evaluation, splits: Sequence[TextSplit], measures: Sequence[str]) -> None:
    """A csv row per example and hook point: where the example stands, its length, loss, entropy, logit norm, measures."""
    names = list(dict.fromkeys(name for name, _ in evaluation.series if name != LOGITS))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "level", "example", "n_tokens", *LOGIT_MEASURES, "hook_point", *measures])
        for split in splits:
            logits = np.stack([evaluation.per_window(split.name, LOGITS, name) for name in LOGIT_MEASURES], -1)
            values: Mapping[str, np.ndarray] = {
                name: np.stack([evaluation.per_window(split.name, name, measure) for measure in measures], -1)
                for name in names
            }
            for i, (place, length) in enumerate(zip(split.places, split.lengths, strict=True)):
                head = [split.name, split.level, place, int(length), *(f"{x:.7g}" for x in logits[i])]
                for name in names:
                    writer.writerow([*head, name, *(f"{x:.7g}" for x in values[name][i])])
