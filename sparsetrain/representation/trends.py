"""What a survey says: does sparsity go with distance, with loss, and does that stand the controls?

1. `survey_section`: per split and hook point each measure, the Gaussian reference of that width, the difference from the
   nearest split, sparsity against loss, and rank correlations with the level: plain, given covariates, with labels shuffled,
   over level means, under each control.
2. `compare_seeds` puts several models beside each other that differ in their seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypedDict, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sparsetrain.representation.evaluate import LOGITS
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.representation.positions import WatchedSplit, positions_of, split_tokens
from sparsetrain.representation.section import (
    UNITS,
    LossGroups,
    RepresentationSection,
    SeedPoint,
    SeedsEntry,
    SeedTrend,
    evaluation_section,
    finite,
    row_number,
)
from sparsetrain.representation.survey import Covariate, Survey, SurveyConfig
from sparsetrain.stats.bits import UNIT, bits_per_char
from sparsetrain.stats.correlation import permutation_p, spearman
from sparsetrain.stats.decisions import sign_test
from sparsetrain.stats.intervals import bootstrap, difference, over_seeds
from sparsetrain.stats.number import Number, number

N_BINS = 8
"""Groups of examples of like loss."""
MIN_PER_BIN = 4


class _Interval(TypedDict):
    n_bootstrap: int
    confidence: float
    seed: int


def _interval(config: SurveyConfig) -> _Interval:
    return {"n_bootstrap": config.n_bootstrap, "confidence": config.confidence, "seed": config.seed}


def survey_section(
    measured: Survey, model: nn.Module, characters: Mapping[str, ArrayLike] = MappingProxyType({})
) -> RepresentationSection:
    """What report.json says of a survey.

    Args:
        measured: the survey.
        model: that was measured.
        characters: split -> characters of each token, integers `[n_examples or more, n_ctx]`, of the splits where they are known.
    """
    section = evaluation_section(measured.plain.rows, measured.splits, measured.config.watch(), model)
    under: dict[tuple[str, str], dict[str, Number]] = {}
    for control, evaluation in measured.controls.items():
        for row in evaluation.rows:
            if row.measure == HEADLINE:
                under.setdefault((row.hook_point, control), {})[row.split] = row_number(row)
    points = tuple(
        replace(
            point,
            differences=differences(measured, point.hook_point),
            controls={c: under[point.hook_point, c] for c in measured.controls if (point.hook_point, c) in under},
            trends=trends(measured, point.hook_point),
        )
        for point in section.points
    )
    return replace(
        section,
        interval=section.interval.replace("windows", "examples"),
        positions=section.positions.replace("window", "example"),
        splits=tuple(
            replace(entry, bits_per_char=split_bits(measured, split, characters[split.name]))
            if split.name in characters
            else entry
            for entry, split in zip(section.splits, measured.splits, strict=True)
        ),
        points=points,
        covariates=measured.config.covariates,
        against_loss=tuple(
            against_loss(measured, split.name, point.hook_point)
            for point in points
            if point.shown
            for split in measured.splits
        ),
    )


def split_bits(measured: Survey, split: WatchedSplit, characters: ArrayLike) -> Number:
    """Loss on a split in bits/char: mean loss over mean characters of the tokens that are predicted, over examples.

    Args:
        characters: of each token of the split, integers `[n_examples or more, n_ctx]`.
    """
    config = measured.config
    loss = measured.plain.per_window(split.name, LOGITS, "loss")
    shortest = min(int(measured.lengths(other).min()) for other in measured.splits)
    positions = positions_of(split_tokens(split)[: len(loss)], config, shortest)
    predicted = torch.as_tensor(np.asarray(characters)[: len(loss), 1:]).double()
    n_chars = positions.mean(positions.of(predicted)).numpy()

    def bits(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        means = zip(loss[rows].mean(1), n_chars[rows].mean(1), strict=True)
        return np.array([bits_per_char(nats, chars) for nats, chars in means])

    n, tail = len(loss), (1 - config.confidence) / 2
    n_bootstrap = config.n_bootstrap if n > 1 else 0
    lo, hi = bootstrap(bits, n, n_bootstrap=n_bootstrap, tail=tail, seed=config.seed)
    note = f"{n_chars.mean():.3f} characters per predicted token"
    return number(bits(np.arange(n)[None])[0], UNIT, n=n, lo=finite(lo), hi=finite(hi), note=note)


def differences(measured: Survey, point: str) -> dict[str, Number]:
    """The headline on each split minus that on the first one, over examples; absent where a side has none."""
    columns = {split.name: measured.plain.per_window(split.name, point, HEADLINE) for split in measured.splits}
    known = {name: values[np.isfinite(values)] for name, values in columns.items()}
    first, *others = known
    settings = _interval(measured.config)
    return {
        name: difference(known[name], known[first], **settings).number(UNITS[HEADLINE], seed=settings["seed"])
        for name in others
        if min(len(known[name]), len(known[first])) > 1
    }


def trends(measured: Survey, point: str) -> dict[str, Number]:
    """Rank correlations of the headline over the examples of all splits.

    Returns:
        `level`: with the split's level; `level_controlled`: the same given the covariates; `level_means`: the same over the
        splits' means; `shuffled`: the share of shuffles of the levels with a correlation as far from 0 (p-value);
        `level_<control>`: with the level under that control; `loss`: with the example's loss given the level. Empty
        where there are too few examples; a level that is one and the same has no correlation.
    """
    config, splits = measured.config, measured.splits
    columns = [measured.of_examples(split.name, point) for split in splits]
    together = {key: np.concatenate([column[key] for column in columns]) for key in columns[0]}
    lengths = [measured.lengths(split) for split in splits]
    together["length"] = np.concatenate(lengths).astype(np.float64)
    together["level"] = np.repeat([float(split.level) for split in splits], [len(n) for n in lengths])
    known = np.isfinite(np.stack(list(together.values()))).all(0)
    items = {key: values[known] for key, values in together.items()}
    if known.sum() < 3 + len(get_args(Covariate)):
        return {}
    y, level = items[HEADLINE], items["level"]

    def correlation(a: np.ndarray, b: np.ndarray, given: Sequence[np.ndarray] = ()) -> Number:
        return spearman(a, b, given=given, **_interval(config)).number("correlation", seed=config.seed)

    found = {"loss": correlation(items["loss"], y, [level])}
    if len(set(level)) < 2:
        return found
    found["level"] = correlation(level, y)
    if config.covariates:
        found["level_controlled"] = correlation(level, y, [items[key] for key in config.covariates])
    if "shuffled" in config.controls:
        p = permutation_p(level, y, n_permutations=config.n_bootstrap, seed=config.seed)
        found["shuffled"] = number(p, "p-value", n=len(y), seed=config.seed)
    if "level_means" in config.controls and len(set(level)) > 2:
        names = np.repeat(np.arange(len(splits)), [len(n) for n in lengths])[known]
        means = [(level[names == i][0], y[names == i].mean()) for i in sorted(set(names))]
        over_means = spearman(*zip(*means, strict=True), n_bootstrap=0, seed=config.seed)
        found["level_means"] = number(over_means.value, "correlation", n=len(means))
    for control, evaluation in measured.controls.items():
        if (point, HEADLINE) not in evaluation.series:
            continue
        values = np.concatenate([evaluation.per_window(split.name, point, HEADLINE) for split in splits])
        there = np.isfinite(values)
        if there.sum() > 2:
            found[f"level_{control}"] = correlation(together["level"][there], values[there])
    return found


def against_loss(measured: Survey, split: str, point: str) -> LossGroups:
    """The headline on a split in groups of examples of like loss."""
    config, columns = measured.config, measured.of_examples(split, point)
    known = np.isfinite(columns[HEADLINE]) & np.isfinite(columns["loss"])
    loss, headline = columns["loss"][known], columns[HEADLINE][known]
    order = np.argsort(loss, kind="stable")
    n_bins = max(1, min(N_BINS, len(order) // MIN_PER_BIN))
    groups = [group for group in np.array_split(order, n_bins) if len(group)]
    generator = np.random.default_rng(config.seed)
    ends = []
    for group in groups:
        values = headline[group]
        n_bootstrap = config.n_bootstrap if len(group) > 1 else 0
        tail = (1 - config.confidence) / 2
        ends.append(
            bootstrap(
                lambda i, of=values: of[i].mean(1), len(group), n_bootstrap=n_bootstrap, tail=tail, seed=generator
            )
        )
    return LossGroups(
        hook_point=point,
        split=split,
        loss=tuple(float(loss[group].mean()) for group in groups),
        value=tuple(float(headline[group].mean()) for group in groups),
        lo=tuple(finite(lo) for lo, _ in ends),
        hi=tuple(finite(hi) for _, hi in ends),
        n=tuple(len(group) for group in groups),
    )


def compare_seeds(names: Sequence[str], sections: Sequence[RepresentationSection], confidence: float) -> SeedsEntry:
    """What several models say together that differ in the seed of their training.

    Args:
        names: what the models are called.
        sections: `survey_section` of each, on the same splits.
        confidence: of the intervals over models.

    Raises:
        ValueError: a model without one of the hook points of the first.
    """
    by_model = [{point.hook_point: point.trends or {} for point in section.points} for section in sections]
    for name, points in zip(names[1:], by_model[1:], strict=True):
        missing = [point for point in by_model[0] if point not in points]
        if missing:
            raise ValueError(f"seeds: {name} has no hook point {missing[0]}; give models that differ in the seed alone")

    def trend(point: str, name: str) -> SeedTrend | None:
        each = [points[point][name].value for points in by_model if name in points[point]]
        known = tuple(value for value in each if value is not None)
        if len(known) < len(by_model):
            return None
        signs = sign_test(known)
        return SeedTrend(
            over=over_seeds(known, confidence=confidence).number("correlation"),
            each=known,
            n_positive=signs.n_positive,
            n_negative=signs.n_negative,
            p=number(signs.p, "p-value", n=signs.n),
        )

    return SeedsEntry(
        models=tuple(names),
        interval=f"{confidence:.0%} Student's t over {len(names)} models",
        points=tuple(
            SeedPoint(hook_point=point, level=trend(point, "level"), level_controlled=trend(point, "level_controlled"))
            for point in by_model[0]
        ),
    )
