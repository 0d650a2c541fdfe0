"""One thorough measurement of a model: every example a window, controls beside it.

1. `survey` measures all splits once; once more under all controls that look at the same activations in another way: with the
   gains, in a random basis, without the strongest channels (`controls.py`); and once in the same model at initialisation.
   An example is the unit, so resampling is over examples.
2. `write_examples` keeps every example's numbers, for statistics of one's own; `trends.py` makes ours of them.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from torch import nn

from sparsetrain.representation.controls import LOOKS, Look, projections_of
from sparsetrain.representation.evaluate import (
    LOGIT_MEASURES,
    LOGITS,
    Evaluation,
    MeasuringConfig,
    WatchConfig,
    measure_splits,
)
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.representation.positions import WatchedSplit, window_lengths
from sparsetrain.typed import Count

Control = Literal[Look, "initialisation", "shuffled", "level_means"]
CONTROLS: tuple[Control, ...] = (*LOOKS, "initialisation", "shuffled", "level_means")
Covariate = Literal["loss", "entropy", "logit_norm", "length"]


@dataclass(frozen=True, kw_only=True)
class SurveyConfig(MeasuringConfig):
    """What is measured on each example, where, how precisely, and under which controls; with `points`, at those alone. ours"""

    n_examples: Count = 256
    """Of each split at most."""
    batch_size: Count = 8
    controls: tuple[Control, ...] = CONTROLS
    """`gain`: norms with their gain; `rotated`: a random basis; `trimmed`: without the strongest 1% of channels;
    `initialisation`: the same model before training; `shuffled`: levels shuffled over examples, n_bootstrap times;
    `level_means`: the correlation over the splits' means instead of over examples, which overstates."""
    covariates: tuple[Covariate, ...] = get_args(Covariate)
    """Given in the controlled correlation with the level; none: there is no such correlation."""
    seed: int = 0
    """Of the draw of examples, the resamples, the shuffles and the random basis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if HEADLINE not in self.measures:
            raise ValueError(f"measures={list(self.measures)} must contain {HEADLINE!r}, the headline")

    def watch(self) -> WatchConfig:
        """As an evaluation: every example keeps its own slot."""
        same = {field.name: getattr(self, field.name) for field in fields(MeasuringConfig)}
        same["kinds"] = () if self.points else self.kinds
        return WatchConfig(**same, n_windows=self.n_examples, n_slots=self.n_examples, bootstrap_seed=self.seed)

    @property
    def n_passes(self) -> int:
        """How often all examples are read."""
        return 1 + any(look in self.controls for look in LOOKS) + ("initialisation" in self.controls)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was measured, and on what."""

    config: SurveyConfig
    splits: tuple[WatchedSplit, ...]
    plain: Evaluation
    controls: Mapping[Control, Evaluation]
    """Control -> the headline under it, at the hook points where it is defined."""

    def lengths(self, split: WatchedSplit) -> np.ndarray:
        """Tokens of each example, `[n]`."""
        return window_lengths(split, self.config.n_examples)

    def of_examples(self, split: str, point: str) -> dict[str, np.ndarray]:
        """Headline, loss, entropy and logit norm of every example, `[n_examples]` each."""
        columns = {HEADLINE: self.plain.per_window(split, point, HEADLINE)}
        return columns | {measure: self.plain.per_window(split, LOGITS, measure) for measure in LOGIT_MEASURES}


def survey(
    model: nn.Module,
    splits: Sequence[WatchedSplit],
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
        ValueError: nothing to measure; `initialisation` is asked for and nobody can give it; outputs or activations that are not finite.
    """
    if "initialisation" in config.controls and initial is None:
        raise ValueError("controls have 'initialisation', but there is no model at initialisation; leave it out")
    plain = measure_splits(model, splits, config.watch(), on_batch=on_batch)
    _check_finite(plain, splits)
    again = replace(config.watch(), measures=(HEADLINE,), lifetime_measures=())
    looks: list[Look] = [look for look in LOOKS if look in config.controls]
    controls: dict[Control, Evaluation] = {}
    if looks:
        projections, labels = projections_of(model, looks, plain.energy, config.seed)
        together = measure_splits(model, splits, again, projections=projections, on_batch=on_batch)
        controls = {look: _under(together, labels[look]) for look in looks if look in labels}
    if "initialisation" in config.controls and initial is not None:
        controls["initialisation"] = measure_splits(initial(), splits, again, on_batch=on_batch)
    return Survey(config=config, splits=tuple(splits), plain=plain, controls=controls)


def _check_finite(plain: Evaluation, splits: Sequence[WatchedSplit]) -> None:
    """Refuses an evaluation of a model that computes NaN or infinity, before anything is made of its numbers."""
    for split in splits:
        for measure in LOGIT_MEASURES:
            broken = np.flatnonzero(~np.isfinite(plain.per_window(split.name, LOGITS, measure)))
            if len(broken):
                raise ValueError(
                    f"outputs of the model are not finite: {measure} is NaN or infinite in {len(broken)} of "
                    f"{len(plain.windows[split.name])} examples of split {split.name!r}, the first of them number {broken[0] + 1}"
                )
    for point, energy in plain.energy.items():
        if n := int((~np.isfinite(energy)).sum()):
            raise ValueError(
                f"activations of the model are not finite: {n} of {len(energy)} channels of {point} are NaN or infinite"
            )


def _under(together: Evaluation, points: Mapping[str, str]) -> Evaluation:
    """One control of an evaluation of several: label -> hook point."""
    return Evaluation(
        rows=[row._replace(hook_point=points[row.hook_point]) for row in together.rows if row.hook_point in points],
        series={(points[p], measure): i for (p, measure), i in together.series.items() if p in points},
        windows=together.windows,
        energy={point: together.energy[label] for label, point in points.items()},
    )


def write_examples(path: Path, measured: Survey, places: Mapping[str, Sequence[str]]) -> None:
    """A csv row per example and hook point: where it stands, length, loss, entropy, logit norm, measures, controls.

    Args:
        path: the file, written anew.
        measured: gives the numbers.
        places: split -> where each of its examples comes from.
    """
    names = list(dict.fromkeys(name for name, _ in measured.plain.series if name != LOGITS))
    measures = measured.config.measures
    columns = [(measured.plain, measure) for measure in measures]
    columns += [(evaluation, HEADLINE) for evaluation in measured.controls.values()]
    labels = [*measures, *(f"{HEADLINE}_{control}" for control in measured.controls)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["split", "level", "example", "n_tokens", *LOGIT_MEASURES, "hook_point", *labels])
        for split in measured.splits:
            logits = np.stack([measured.plain.per_window(split.name, LOGITS, name) for name in LOGIT_MEASURES], -1)
            values = {
                name: [
                    evaluation.per_window(split.name, name, measure) if (name, measure) in evaluation.series else None
                    for evaluation, measure in columns
                ]
                for name in names
            }
            for i, length in enumerate(measured.lengths(split)):
                head = [split.name, split.level, places[split.name][i], length, *(f"{x:.7g}" for x in logits[i])]
                for name in names:
                    row = ("" if of is None else f"{of[i]:.7g}" for of in values[name])
                    writer.writerow([*head, name, *row])
