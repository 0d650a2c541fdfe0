"""One thorough measurement of a model: every example a window, every statement with an interval, controls beside it.

1. `survey` measures all splits once; once more under all controls that look at the same activations in another way: with the
   gains, in a random basis, without the strongest channels (`controls.py`); and once in the same model at initialisation.
   An example is the unit, so resampling is over examples.
2. `survey_section` makes of it what report.json says: per split and hook point each measure, the Gaussian reference of that
   width, the difference from the nearest split, sparsity against loss, and rank correlations with the level: plain, given
   covariates, with labels shuffled, over level means, under each control.
3. `over_seeds_section` puts several models beside each other that differ in their seed.
4. `write_examples` keeps every example's numbers, for statistics of one's own.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from sparsetrain.hooks import NODE_KINDS
from sparsetrain.report import number, value_of
from sparsetrain.representation.controls import LOOKS, Look, view_of
from sparsetrain.representation.measures import HEADLINE, MEASURES
from sparsetrain.representation.section import UNITS, finite, page_section, window_lengths
from sparsetrain.representation.watch import (
    LOGIT_MEASURES,
    LOGITS,
    Evaluation,
    PositionsMode,
    Split,
    WatchConfig,
    measure_splits,
)
from sparsetrain.stats.correlation import permutation_p, spearman
from sparsetrain.stats.decisions import sign_test
from sparsetrain.stats.intervals import Estimate, bootstrap, difference, over_seeds

UNIT = UNITS[HEADLINE]
N_BINS = 8
"""Groups of examples of like loss."""
MIN_PER_BIN = 4

Control = Literal[Look, "initialisation", "shuffled", "level_means"]
CONTROLS: tuple[Control, ...] = (*LOOKS, "initialisation", "shuffled", "level_means")
Covariate = Literal["loss", "entropy", "logit_norm", "length"]


@dataclass(frozen=True, kw_only=True)
class SurveyConfig:
    """What is measured on each example, where, how precisely, and under which controls. ours"""

    n_examples: int = 256
    """Of each split at most."""
    points: tuple[str, ...] = ()
    """Hook points by name; none named: all of these kinds."""
    kinds: tuple[str, ...] = ("resid", "norm", *NODE_KINDS)
    measures: tuple[str, ...] = tuple(MEASURES)
    lifetime_measures: tuple[str, ...] = ("treves_rolls", "kurtosis")
    positions: PositionsMode = "strided"
    """Of those that have a next token. `strided`: every position_stride-th; `all`; `last`; `matched`: every
    position_stride-th that each example of each split has."""
    position_stride: int = 8
    """Of `strided` and `matched`."""
    controls: tuple[Control, ...] = CONTROLS
    """`gain`: norms with their gain; `rotated`: a random basis; `trimmed`: without the strongest 1% of channels;
    `initialisation`: the same model before training; `shuffled`: levels shuffled over examples; `level_means`: the
    correlation over the splits' means instead of over examples, which overstates."""
    covariates: tuple[Covariate, ...] = get_args(Covariate)
    """Given in the controlled correlation with the level; none: there is no such correlation."""
    batch_size: int = 8
    n_groups: int = 8
    """Groups of examples for the jackknife of lifetime measures."""
    n_bootstrap: int = 400
    """Resamples, and shuffles of the levels."""
    confidence: float = 0.95
    seed: int = 0
    """Of the draw of examples, the resamples, the shuffles and the random basis."""

    def __post_init__(self) -> None:
        if self.n_examples < 1:
            raise ValueError(f"n_examples={self.n_examples} must be at least 1")
        if HEADLINE not in self.measures:
            raise ValueError(f"measures={list(self.measures)} must contain {HEADLINE!r}, the headline")
        for name, allowed in (("controls", CONTROLS), ("covariates", get_args(Covariate))):
            unknown = [choice for choice in getattr(self, name) if choice not in allowed]
            if unknown:
                raise ValueError(f"{name} has unknown entries {unknown}; allowed: {', '.join(allowed)}")
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

    @property
    def n_passes(self) -> int:
        """How often all examples are read."""
        return 1 + any(look in self.controls for look in LOOKS) + ("initialisation" in self.controls)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was measured."""

    plain: Evaluation
    controls: Mapping[str, Evaluation]
    """Control -> the headline under it, at the hook points where it is defined."""


def survey(
    model: nn.Module,
    splits: Sequence[Split],
    config: SurveyConfig,
    *,
    initial: Callable[[], nn.Module] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Survey:
    """Measures the first `config.n_examples` examples of all splits.

    Args:
        model: tokens -> logits, with hook points.
        splits: each with at least one example.
        config: what to measure.
        initial: gives the same model before training; called where the controls have `initialisation`.
        on_batch: called with the number of examples after each batch.

    Raises:
        KeyError: a hook point that does not exist (near names listed).
        ValueError: nothing to measure; `initialisation` is asked for and nobody can give it.
    """
    if "initialisation" in config.controls and initial is None:
        raise ValueError("controls have 'initialisation', but there is no model at initialisation; leave it out")
    plain = measure_splits(model, splits, config.watch(), on_batch=on_batch)
    again = replace(config.watch(), measures=(HEADLINE,), lifetime_measures=())
    looks: list[Look] = [look for look in LOOKS if look in config.controls]
    controls: dict[str, Evaluation] = {}
    if looks:
        view, labels = view_of(model, looks, plain.energy, config.seed)
        together = measure_splits(model, splits, again, view=view, on_batch=on_batch)
        controls = {look: _under(together, labels[look]) for look in looks if look in labels}
    if "initialisation" in config.controls and initial is not None:
        controls["initialisation"] = measure_splits(initial(), splits, again, on_batch=on_batch)
    return Survey(plain=plain, controls=controls)


def _under(together: Evaluation, points: Mapping[str, str]) -> Evaluation:
    """One control of an evaluation of several: label -> hook point."""
    return Evaluation(
        rows=[row._replace(hook_point=points[row.hook_point]) for row in together.rows if row.hook_point in points],
        series={(points[p], measure): i for (p, measure), i in together.series.items() if p in points},
        windows=together.windows,
        energy={point: together.energy[label] for label, point in points.items()},
    )


def survey_section(measured: Survey, splits: Sequence[Split], config: SurveyConfig, model: nn.Module) -> dict[str, Any]:
    """What report.json says of a survey.

    Returns:
        Plain JSON; see `docs/report.md`.
    """
    evaluation = measured.plain
    section = page_section(evaluation.rows, splits, config.watch(), model)
    section["interval"] = section["interval"].replace("windows", "examples")
    section["positions"] = section["positions"].replace("window", "example")
    under: dict[tuple[str, str], dict[str, Any]] = {}
    for control, of_control in measured.controls.items():
        for row in of_control.rows:
            if row.measure == HEADLINE:
                entry = number(row.value, UNIT, n=row.n, lo=finite(row.lo), hi=finite(row.hi))
                under.setdefault((row.hook_point, control), {})[row.split] = entry
    for point in section["points"]:
        name = point["hook_point"]
        point["differences"] = differences(evaluation, splits, name, config)
        point["controls"] = {c: under[name, c] for c in measured.controls if (name, c) in under}
        point["trends"] = trends(evaluation, splits, name, config, measured.controls)
    section["covariates"] = list(config.covariates)
    section["against_loss"] = [
        {"hook_point": point["hook_point"], "split": split.name}
        | against_loss(evaluation, split.name, point["hook_point"], config)
        for point in section["points"]
        if point["shown"]
        for split in splits
    ]
    return section


def differences(
    evaluation: Evaluation, splits: Sequence[Split], point: str, config: SurveyConfig
) -> dict[str, dict[str, Any]]:
    """The headline on each split minus that on the first one, over examples; absent where a side has none."""
    columns = {split.name: evaluation.per_window(split.name, point, HEADLINE) for split in splits}
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    first, *others = known
    settings = _settings(config)
    return {
        name: _estimate(difference(known[name], known[first], **settings), UNIT, config.seed)
        for name in others
        if min(len(known[name]), len(known[first])) > 1
    }


def _settings(config: SurveyConfig) -> dict[str, Any]:
    return {"n_bootstrap": config.n_bootstrap, "confidence": config.confidence, "seed": config.seed}


def _of_examples(evaluation: Evaluation, split: str, point: str) -> dict[str, np.ndarray]:
    """Headline, loss, entropy and logit norm of every example, `[n_examples]` each."""
    columns = {HEADLINE: evaluation.per_window(split, point, HEADLINE)}
    return columns | {measure: evaluation.per_window(split, LOGITS, measure) for measure in LOGIT_MEASURES}


def trends(
    evaluation: Evaluation,
    splits: Sequence[Split],
    point: str,
    config: SurveyConfig,
    controls: Mapping[str, Evaluation] | None = None,
) -> dict[str, dict[str, Any]]:
    """Rank correlations of the headline over the examples of all splits.

    Args:
        evaluation: of the model as it is.
        splits: at several levels.
        point: hook point.
        config: covariates, which of the controls, resamples.
        controls: control -> evaluation under it.

    Returns:
        `level`: with the split's level; `level_controlled`: the same given the covariates; `level_means`: the same over the
        splits' means; `shuffled`: the share of shuffles of the levels with a correlation as far from 0 (p-value);
        `level_<control>`: with the level under that control; `loss`: with the example's loss given the level. Empty
        where there are too few examples; a level that is one and the same has no correlation.
    """
    columns = [_of_examples(evaluation, split.name, point) for split in splits]
    together = {key: np.concatenate([column[key] for column in columns]) for key in columns[0]}
    lengths = [window_lengths(split, config.watch()) for split in splits]
    together["length"] = np.concatenate(lengths).astype(np.float64)
    together["level"] = np.repeat([float(split.level) for split in splits], [len(n) for n in lengths])
    known = np.isfinite(np.stack(list(together.values()))).all(0)
    items = {key: values[known] for key, values in together.items()}
    if known.sum() < 3 + len(get_args(Covariate)):
        return {}
    settings, y, level = _settings(config), items[HEADLINE], items["level"]
    found = {"loss": _estimate(spearman(items["loss"], y, given=[level], **settings), "correlation", config.seed)}
    if len(set(level)) < 2:
        return found
    found["level"] = _estimate(spearman(level, y, **settings), "correlation", config.seed)
    if config.covariates:
        covariates = [items[key] for key in config.covariates]
        found["level_controlled"] = _estimate(
            spearman(level, y, given=covariates, **settings), "correlation", config.seed
        )
    if "shuffled" in config.controls:
        p = permutation_p(level, y, n_permutations=config.n_bootstrap, seed=config.seed)
        found["shuffled"] = number(p, "p-value", n=len(y), seed=config.seed)
    if "level_means" in config.controls and len(set(level)) > 2:
        names = np.repeat(np.arange(len(splits)), [len(n) for n in lengths])[known]
        means = [(level[names == i][0], y[names == i].mean()) for i in sorted(set(names))]
        over_means = spearman(*zip(*means, strict=True), n_bootstrap=0, seed=config.seed)
        found["level_means"] = number(over_means.value, "correlation", n=len(means))
    for control, of_control in (controls or {}).items():
        if (point, HEADLINE) not in of_control.series:
            continue
        values = np.concatenate([of_control.per_window(split.name, point, HEADLINE) for split in splits])
        finite_ones = np.isfinite(values)
        if finite_ones.sum() > 2:
            estimate = spearman(together["level"][finite_ones], values[finite_ones], **settings)
            found[f"level_{control}"] = _estimate(estimate, "correlation", config.seed)
    return found


def _estimate(estimate: Estimate, unit: str, seed: int) -> dict[str, Any]:
    return number(estimate.value, unit, n=estimate.n, lo=finite(estimate.lo), hi=finite(estimate.hi), seed=seed)


SEED_TRENDS = ("level", "level_controlled")


def over_seeds_section(
    names: Sequence[str], sections: Sequence[Mapping[str, Any]], confidence: float
) -> dict[str, Any]:
    """What several models say together that differ in the seed of their training.

    Args:
        names: what the models are called.
        sections: `survey_section` of each, on the same splits.
        confidence: of the intervals over models.

    Returns:
        `models`, and per hook point the correlations with the level: mean over models with Student's t interval (`over`),
        the single ones (`each`), and in how many each sign is (`n_positive n_negative p`).

    Raises:
        ValueError: a model without one of the hook points of the first.
    """
    by_model = [{point["hook_point"]: point for point in section["points"]} for section in sections]
    for name, points in zip(names[1:], by_model[1:], strict=True):
        missing = [point for point in by_model[0] if point not in points]
        if missing:
            raise ValueError(f"seeds: {name} has no hook point {missing[0]}; give models that differ in the seed alone")
    rows = []
    for point in by_model[0]:
        row: dict[str, Any] = {"hook_point": point}
        for trend in SEED_TRENDS:
            each = [value_of(points[point]["trends"].get(trend)) for points in by_model]
            if any(value is None for value in each):
                continue
            estimate, signs = over_seeds(each, confidence=confidence), sign_test(each)
            row[trend] = {
                "over": number(
                    estimate.value, "correlation", n=estimate.n, lo=finite(estimate.lo), hi=finite(estimate.hi)
                ),
                "each": each,
                "n_positive": signs.n_positive,
                "n_negative": signs.n_negative,
                "p": number(signs.p, "p-value", n=signs.n),
            }
        rows.append(row)
    return {
        "models": list(names),
        "interval": f"{confidence:.0%} Student's t over {len(names)} models",
        "points": rows,
    }


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
        lo, hi = None, None
        if len(values) > 1:
            settings = {"n_bootstrap": config.n_bootstrap, "tail": (1 - config.confidence) / 2, "seed": rng}
            lo, hi = bootstrap(lambda i, of=values: of[i].mean(-1), len(values), **settings)
        for key, entry in zip(
            result, (columns["loss"][known][group].mean(), values.mean(), lo, hi, len(values)), strict=True
        ):
            result[key].append(None if entry is None else float(entry) if key != "n" else entry)
    return result


def write_examples(
    path: Path,
    measured: Survey,
    splits: Sequence[Split],
    config: SurveyConfig,
    places: Mapping[str, Sequence[str]],
) -> None:
    """A csv row per example and hook point: where it stands, length, loss, entropy, logit norm, measures, controls.

    Args:
        path: the file, written anew.
        measured: gives the numbers.
        splits: the splits that were measured.
        config: how.
        places: split -> where each of its examples comes from.
    """
    names = list(dict.fromkeys(name for name, _ in measured.plain.series if name != LOGITS))
    columns = [(measured.plain, measure) for measure in config.measures]
    columns += [(evaluation, HEADLINE) for evaluation in measured.controls.values()]
    labels = [*config.measures, *(f"{HEADLINE}_{control}" for control in measured.controls)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "level", "example", "n_tokens", *LOGIT_MEASURES, "hook_point", *labels])
        for split in splits:
            lengths = window_lengths(split, config.watch())
            logits = np.stack([measured.plain.per_window(split.name, LOGITS, name) for name in LOGIT_MEASURES], -1)
            values = {
                name: [
                    evaluation.per_window(split.name, name, measure) if (name, measure) in evaluation.series else None
                    for evaluation, measure in columns
                ]
                for name in names
            }
            for i, length in enumerate(lengths):
                head = [split.name, split.level, places[split.name][i], length, *(f"{x:.7g}" for x in logits[i])]
                for name in names:
                    row = ("" if of is None else f"{of[i]:.7g}" for of in values[name])
                    writer.writerow([*head, name, *row])
