"""Watches representation sparsity while a model trains.

1. Every n steps, at initialisation and at the end, every split is measured (`evaluate.py`); watching leaves the trained
   weights bit-identical: no random number is drawn, no gradient or mode is touched.
2. Each evaluation is appended whole to `ood_sparsity.csv`.
3. A run that starts or resumes at step s drops the rows of step s and later and, where s is due, measures s again.
4. A few curves go to the loggers: the headline per split and kind of hook point, averaged over layers; and the losses.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch import nn

from sparsetrain.representation.evaluate import LOGITS, Evaluation, WatchConfig, measure_splits, watched_points
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.representation.positions import WatchedSplit, check_splits
from sparsetrain.representation.table import append_rows, drop_from
from sparsetrain.typed import Count, Index


@dataclass(frozen=True, kw_only=True)
class TrackerConfig(WatchConfig):
    """When the splits are measured, and what of it is sent to the loggers. ours"""

    every_n_steps: Count = 150
    """Optimizer steps between two evaluations; the last step is always one."""
    at_start: bool = True
    """Also before the first step: the model at initialisation is a control."""
    at_steps: tuple[Index, ...] = ()
    """Further steps, for instance log-spaced ones."""
    logged_kinds: tuple[str, ...] = ("resid", "attn_out", "mlp_neuron", "mlp_out")
    logged_measures: tuple[str, ...] = (HEADLINE,)

    def is_due(self, step: int) -> bool:
        """Whether the weights after `step` optimizer steps are measured."""
        return step in self.at_steps or (step % self.every_n_steps == 0 and (step > 0 or self.at_start))


class SparsityTracker(L.Callback):
    """Appends an evaluation of `pl_module.model` on every split to a csv file every n steps.

    Args:
        config: when and what.
        splits: fixed windows of tokens, each a distance from the training distribution.
        path: the csv file, usually `<run>/ood_sparsity.csv`.

    `seconds` is the time spent in evaluations so far, `n_evaluations` their number.
    """

    def __init__(self, config: TrackerConfig, splits: Sequence[WatchedSplit], path: Path) -> None:
        check_splits(splits)
        self.config = config
        self.splits = list(splits)
        self.path = path
        self.seconds = 0.0
        self.n_evaluations = 0
        self.last: Evaluation | None = None
        """The most recent evaluation, with its values per window."""
        self._last_step: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuses hook points that do not exist before the first step."""
        watched_points(_model(pl_module), self.config)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step, self._last_step = trainer.global_step, None
        if trainer.is_global_zero:
            drop_from(self.path, step)
        if self.config.is_due(step):
            # Where a run resumes, the loggers have this step already.
            self._evaluate(trainer, pl_module, log=step == 0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # With accumulated gradients several batches share a step.
        step = trainer.global_step
        if step != self._last_step and (self.config.is_due(step) or step == trainer.max_steps):
            self._evaluate(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step != self._last_step:
            self._evaluate(trainer, pl_module)

    def _evaluate(self, trainer: L.Trainer, pl_module: L.LightningModule, log: bool = True) -> None:
        started = time.perf_counter()
        step = trainer.global_step
        model = _whole_model(pl_module)
        with applied(pl_module):
            evaluation = measure_splits(
                model, self.splits, self.config, rank=trainer.global_rank, world_size=trainer.world_size
            )
        if trainer.is_global_zero:
            append_rows(self.path, step, evaluation.rows)
        if log:
            scalars = headline_scalars(evaluation, model, self.config)
            scalars["ood/seconds"] = time.perf_counter() - started
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=step)
        self.last = evaluation
        self._last_step = step
        self.seconds += time.perf_counter() - started
        self.n_evaluations += 1


def headline_scalars(evaluation: Evaluation, model: nn.Module, config: TrackerConfig) -> dict[str, float]:
    """What goes to the loggers: `ood/<split>/loss`, and `ood/<split>/<measure>/<kind>` averaged over hook points.

    The callback adds `ood/seconds`, the time of the evaluation.
    """
    kinds = {name: point.kind for name, point in watched_points(model, config).items()}
    series: dict[str, list[float]] = {}
    for row in evaluation.rows:
        if row.hook_point == LOGITS and row.measure == "loss":
            series[f"ood/{row.split}/loss"] = [row.value]
        elif row.measure in config.logged_measures and kinds.get(row.hook_point) in config.logged_kinds:
            series.setdefault(f"ood/{row.split}/{row.measure}/{kinds[row.hook_point]}", []).append(row.value)
    return {name: fmean(values) for name, values in series.items()}


@runtime_checkable
class Applied(Protocol):
    """A training whose forward pass may use other weights than the stored ones; within `applied` its model has them."""

    def applied(self) -> AbstractContextManager[None]: ...


def applied(pl_module: L.LightningModule) -> AbstractContextManager[None]:
    """Within it the model in training has the weights that would be exported."""
    return pl_module.applied() if isinstance(pl_module, Applied) else nullcontext()


@runtime_checkable
class Shareable(Protocol):
    """A model whose tensors may be spread over ranks."""

    def whole(self) -> nn.Module: ...


def _model(pl_module: L.LightningModule) -> nn.Module:
    model = pl_module.model
    assert isinstance(model, nn.Module), "the tracked LightningModule must hold its model as `.model`"
    return model


def _whole_model(pl_module: L.LightningModule) -> nn.Module:
    model = _model(pl_module)
    return model.whole() if isinstance(model, Shareable) else model
