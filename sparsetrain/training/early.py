"""Giving up a training that is far behind others: at given shares of its steps, its validation loss may not be above a bound.

Whoever compares trainings knows the bounds (a search over recipes, `sparsetrain/entry/tune.py`); they are part of the training's
settings, so that it stops at the same step wherever and whenever it runs. It leaves a checkpoint and can be finished by hand.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import lightning as L

from sparsetrain.training.callbacks import AtSteps, is_step_end
from sparsetrain.training.metrics import log_scalars
from sparsetrain.typed import Share

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EarlyStopConfig:
    """When a training is given up. ours"""

    rungs: tuple[Share, ...] = ()
    """Shares of the steps after which the validation loss is looked at, and logged as `rung/<share>`."""
    above: tuple[float | None, ...] = ()
    """For each: the training ends where the loss is higher; null: whatever it is, it goes on."""
    metric: str = "val_loss"
    """Which validation loss: a name of metrics.csv. Where vocabularies differ, one in bits per character."""

    def __post_init__(self) -> None:
        if len(self.rungs) != len(self.above):
            raise ValueError(
                f"early_stop.above={list(self.above)} must have an entry for each of rungs={list(self.rungs)}"
            )

    def bounds(self, n_steps: int) -> dict[int, tuple[float, float | None]]:
        """Optimizer step -> (rung, bound)."""
        return {ceil(share * n_steps): (share, bound) for share, bound in zip(self.rungs, self.above, strict=True)}


class EarlyStop(L.Callback):
    """Ends the training after a step whose validation loss is above its bound; stands behind `validation`.

    Args:
        validation: looks at the steps of all rungs.
        config: metric and bounds.
        n_steps: of the whole run.
    """

    def __init__(self, validation: AtSteps, config: EarlyStopConfig, n_steps: int) -> None:
        self.validation, self.metric, self.bounds = validation, config.metric, config.bounds(n_steps)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not is_step_end(trainer, batch_idx) or step not in self.bounds:
            return
        share, bound = self.bounds[step]
        loss = metric_of(self.validation.seen, self.metric)
        log_scalars(trainer, {f"rung/{share:g}": loss}, step)
        if bound is not None and not loss <= bound:
            log.warning("given up after step %d: %s=%.4g is above %.4g", step, self.metric, loss, bound)
            trainer.should_stop = True


def metric_of(seen: Mapping[str, float], name: str) -> float:
    """A scalar of the validation.

    Raises:
        ValueError: there is none of that name; lists them.
    """
    if name not in seen:
        raise ValueError(f"early_stop.metric={name!r} is no validation loss of this run; there are {', '.join(seen)}")
    return seen[name]
