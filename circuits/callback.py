"""Calls for circuits at chosen steps of a training; it only watches: weights are the same with it and without."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import lightning as L
import torch

from sparsetrain.training.callbacks import log_scalars


def log_spaced_steps(n_steps: int, n_looks: int) -> list[int]:
    """Steps before the last one: n_steps / 2, / 4, ... rounded, each once, in rising order.

    Args:
        n_steps: length of the training.
        n_looks: how many steps at most.
    """
    return sorted({max(1, round(n_steps / 2 ** (i + 1))) for i in range(n_looks)} - {n_steps})


class CircuitFormation(L.Callback):
    """Calls `look(step)` after the chosen optimizer steps and logs the scalars that it returns.

    Args:
        look: extracts and saves circuits of the weights as they are; works on an export, never on the model in training.
        steps: optimizer steps.
    """

    def __init__(self, look: Callable[[int], Mapping[str, float]], steps: Collection[int]) -> None:
        self.look = look
        self.steps = frozenset(steps)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        at_step_end = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not (at_step_end and step in self.steps and trainer.is_global_zero):
            return
        state = torch.get_rng_state()
        scalars = self.look(step)
        torch.set_rng_state(state)
        log_scalars(trainer, scalars, step)
