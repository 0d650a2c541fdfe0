"""What a study reads of its items (prompts with one answer) at checkpoints, and what is shown of it.

1. `item_reader` reads all items of one model; a `Reader` keeps what was read at every checkpoint and writes `items.npz`.
2. `Readings` are those of one training, with names for groups of items.
3. Hypotheses, figures and tables that studies of items have in common.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sparsetrain.model import Transformer
from sparsetrain.report.blocks import Curve, Reference
from sparsetrain.representation.controls import CONTROLS, read_items
from sparsetrain.representation.measures import HEADLINE, gaussian_reference
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.intervals import Floats, over_seeds
from sparsetrain.stats.number import Number
from sparsetrain.studies.arm import Arrays, Reader
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.study import Hypothesis, Subject

FINAL = "final_norm.hook_norm"
"""What the unembedding reads, before its gain: the place that verdicts are about, fixed beforehand."""

MEASURED = (HEADLINE, "top5", "hoyer")
RHO_MARGIN = 0.1
"""Smallest rank correlation of interest. ours"""
SERIES = (
    ("correct", "fraction"),
    ("loss", "nats"),
    ("entropy", "nats"),
    ("logit_norm", "l2"),
    ("none", HEADLINE),
    ("gain", HEADLINE),
)
"""What a table shows of every group, and units."""

Group = slice | NDArray[np.bool_]


def item_reader(prompts: Tensor, n_layer: int, correct: Callable[[Tensor], Tensor]) -> Reader:
    """Reads all items at what each MLP and the unembedding read, and at the neurons.

    Args:
        prompts: `[n_items, length]` int64, the answer last.
        n_layer: of the model.
        correct: logits `[n_items, d_vocab]` -> whether each item is answered, `[n_items]`.
    """
    norms, neurons = ([f"blocks.{i}.mlp.{hook}" for i in range(n_layer)] for hook in ("norm.hook_norm", "hook_neuron"))

    def read(model: Transformer, step: int) -> Arrays:
        items = read_items(model, prompts, (*norms, FINAL, *neurons), measures=MEASURED)
        return {
            "loss": items.loss.numpy(),
            "entropy": items.entropy.numpy(),
            "logit_norm": items.logit_norm.numpy(),
            "correct": correct(items.logits).float().numpy(),
            **{"|".join(key): value.numpy() for key, value in items.measures.items()},
        }

    return Reader(read)


def load_arrays(path: Path) -> dict[str, Floats]:
    """All arrays of a file, as float64."""
    with np.load(path) as file:
        return {name: file[name].astype(np.float64) for name in file.files}


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What one training left: every array `[n_checkpoints, n_items]` float64."""

    steps: tuple[int, ...]
    loss: Floats
    entropy: Floats
    logit_norm: Floats
    correct: Floats
    values: Mapping[tuple[str, str, str], Floats]
    """(hook point, control, measure) -> values."""
    groups: Mapping[str, Group] = field(default_factory=dict)
    """Names of groups of items."""

    @classmethod
    def load(cls, path: Path, **more: Any) -> Self:
        """Reads `items.npz`; `more` are the groups and the fields of a subclass."""
        arrays = load_arrays(path)
        steps = tuple(int(step) for step in arrays.pop("steps"))
        values = {(p, c, m): arrays.pop(f"{p}|{c}|{m}") for p, c, m in (k.split("|") for k in [*arrays] if "|" in k)}
        return cls(steps=steps, values=values, **arrays, **more)

    def series(self, name: str) -> Floats:
        """`correct`, `loss`, `entropy`, `logit_norm`, or under a control the headline at the place that verdicts are about."""
        return self.values[FINAL, name, HEADLINE] if name in CONTROLS else getattr(self, name)

    def over_time(self, name: str, group: str) -> Floats:
        """Mean of a series over a group at each checkpoint."""
        return self.series(name)[:, self.groups[group]].mean(1)

    def mean(self, name: str, group: str, when: int = -1) -> float:
        """Mean of a series over a group at a checkpoint (the last one)."""
        return float(self.series(name)[when][self.groups[group]].mean())

    def gap(self, name: str, a: str, b: str, when: int = -1) -> float:
        """Mean of a series over one group minus that over another, at a checkpoint (the last one)."""
        return gap(self.series(name)[when], self.groups[a], self.groups[b])


def gap(values: Floats, a: Group, b: Group) -> float:
    """Mean of one group of items minus that of another."""
    return float(values[a].mean() - values[b].mean())


def rank_correlation(x: ArrayLike, y: ArrayLike, *given: ArrayLike) -> float:
    """Spearman, or partial Spearman given covariates."""
    return spearman(x, y, given=given, n_bootstrap=0, seed=0).value


Expected = Literal["positive", "negative", "none"]


def sparsity(key: str, expected: Expected, claim: str, effect: Callable[[Any], float]) -> Hypothesis:
    """A hypothesis about a difference of the headline."""
    return Hypothesis(key=key, claim=claim, expected=expected, effect=effect, unit=HEADLINE)


def both_gains(key: str, expected: Expected, claim: str, effect: Callable[[Any, str], float]) -> tuple[Hypothesis, ...]:
    """The same difference of the headline without the norm's gain and with it."""
    return (
        sparsity(key, expected, f"{claim} (without gain)", lambda r: effect(r, "none")),
        sparsity(f"{key}, gain", expected, f"{claim} (with gain)", lambda r: effect(r, "gain")),
    )


def correlation(key: str, expected: Expected, claim: str, effect: Callable[[Any], float]) -> Hypothesis:
    """A hypothesis about a rank correlation over items."""
    return Hypothesis(key=key, claim=claim, expected=expected, effect=effect, unit="rho", margin=RHO_MARGIN)


def seeds_number(values: Sequence[float], unit: str) -> Number:
    """The mean over seeds."""
    return over_seeds(values).number(unit)


def curve(name: str, x: Sequence[float], per_seed: Sequence[Floats]) -> Curve:
    """Mean and t interval over seeds at each x, of `[n_seeds][n_x]`."""
    estimates = [over_seeds(column) for column in np.array(per_seed).T]
    return Curve(
        name=name,
        x=tuple(x),
        y=tuple(e.value for e in estimates),
        lo=tuple(e.lo if math.isfinite(e.lo) else e.value for e in estimates),
        hi=tuple(e.hi if math.isfinite(e.hi) else e.value for e in estimates),
    )


def gaussian(width: int) -> tuple[Reference, ...]:
    """The headline of a Gaussian vector."""
    return (Reference(label="Gaussian", value=gaussian_reference(width)[HEADLINE]),)


def over_seeds_figure(
    key: str,
    title: str,
    x: Sequence[float],
    groups: Mapping[str, Sequence[Floats]],
    *,
    x_label: str,
    y_label: str,
    references: tuple[Reference, ...] = (),
    note: str = "",
) -> Figure:
    """A curve per group, of `[n_seeds][n_x]`."""
    n_seeds = len(next(iter(groups.values())))
    return Figure(
        key=key,
        title=title,
        x_label=x_label,
        y_label=y_label,
        curves=tuple(curve(name, x, per_seed) for name, per_seed in groups.items()),
        references=references,
        note=f"{note}mean over {n_seeds} seeds, band: 95% t interval over seeds",
    )


def over_training(
    key: str, title: str, y_label: str, series: str, groups: Sequence[str], runs: Sequence[Readings], width: int, note: str = ""
) -> Figure:  # fmt: skip
    """A series of several groups at every checkpoint; of the headline beside that of a Gaussian vector of `width`."""
    return over_seeds_figure(
        key,
        title,
        [math.log2(1 + step) for step in runs[0].steps],
        {name: [r.over_time(series, name) for r in runs] for name in groups},
        x_label="log2(1 + step)",
        y_label=y_label,
        references=gaussian(width) if series in CONTROLS else (),
        note=note,
    )


def groups_table(
    title: str, of: str, answered: str, groups: Sequence[str], read: Mapping[Subject, Sequence[Readings]], note: str
) -> ResultTable:
    """How every group is answered and how sparse it is, at the end."""

    def cell(seeds: Sequence[Readings], group: str, series: str, unit: str) -> Number:
        values = [r.series(series)[-1][r.groups[group]] for r in seeds]
        return seeds_number([float(v.mean()) for v in values if v.size], unit)

    return ResultTable(
        title=title,
        columns=("arm", of, answered, "loss", "entropy", "logit norm", f"{HEADLINE}, without gain", f"{HEADLINE}, with gain"),
        rows=tuple(
            (subject.arm, group, *(cell(seeds, group, series, unit) for series, unit in SERIES))
            for subject, seeds in read.items()
            for group in groups
        ),
        note=note,
    )  # fmt: skip


def points_table(title: str, a: str, b: str, read: Mapping[Subject, Sequence[Readings]], note: str) -> ResultTable:
    """One group minus another at the end, at every hook point, control and arm: what else could have been asked."""
    rows: list[tuple[TableCell, ...]] = [
        (subject.arm, *key, seeds_number([gap(r.values[key][-1], r.groups[a], r.groups[b]) for r in seeds], key[-1]))
        for subject, seeds in read.items()
        for key in seeds[0].values
    ]
    return ResultTable(
        title=f"{title} at the end, everywhere (exploratory: no verdict rests on it)",
        columns=("arm", "hook point", "control", "measure", "difference"),
        rows=tuple(rows),
        note=note,
    )
