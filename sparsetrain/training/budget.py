"""How many steps fit into a time (`trainer.minutes`), known before the first one because the schedules need their length.

1. A throwaway copy of the model takes a few steps on the run's first batches, its weights cut along a short schedule of the same shape.
2. The first ones (compilation, caches) are left out. A step costs the lower quartile of the others: what else the machine does at
   the time makes steps slower and none faster. The median stands beside it, so that a busy machine is seen.
3. What was chosen stands in `<run>/budget.json`, and the number of steps in every checkpoint: a resumed run keeps it.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch

from sparsetrain.data.stream import Stream
from sparsetrain.training.fit import LitTransformer, Recipe, set_arithmetic, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss

log = logging.getLogger(__name__)

N_WARMUP, N_TIMED = 4, 24  # ours: a tenth of a second on a small model, some seconds on one that trains for minutes
BUSY = 1.25  # ours: median over quartile from which on the machine is called busy
BUDGET = "budget.json"


@dataclass(frozen=True, kw_only=True)
class StepBudget:
    """The steps that fit into a time."""

    minutes: float
    n_steps: int
    seconds_per_step: float
    """Lower quartile of the timed steps."""
    median: float
    """Theirs, s: how busy the machine was."""
    n_timed: int = N_TIMED


def steps_within(minutes: float, recipe: Recipe, stream: Stream) -> StepBudget:
    """Times a throwaway copy of the recipe's model on this machine. Random generators move; a training seeds them anew.

    Args:
        minutes: of optimizer steps; validation, looks at the model and saving come on top.
        recipe: what is to be trained; its number of steps decides nothing.
        stream: of its batches.
    """
    seconds = np.array(list(step_times(recipe, stream)))
    quartile, median = (float(np.quantile(seconds, share)) for share in (0.25, 0.5))
    n_steps = max(1, int(60 * minutes / quartile))
    log.info("a step takes %.1f ms (median %.1f): %d of them in %g minutes", 1e3 * quartile, 1e3 * median, n_steps, minutes)  # fmt: skip
    if median > BUSY * quartile:
        log.warning("the machine is busy: steps will take longer than the %.1f ms that the budget counts with", 1e3 * quartile)  # fmt: skip
    return StepBudget(minutes=minutes, n_steps=n_steps, seconds_per_step=quartile, median=median)


def step_times(recipe: Recipe, stream: Stream) -> Iterator[float]:
    """Seconds of single optimizer steps of a model like the recipe's, after those that warm it up."""
    trainer = replace(recipe.trainer, n_steps=N_WARMUP + N_TIMED)
    short = replace(recipe, trainer=trainer)
    on_gpu = trainer.device == "cuda" or (trainer.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    set_arithmetic(trainer)
    model = short.draw().to(device)
    if trainer.compile:
        model.compile()
    sparsity = short.build_sparsity(model)
    module = LitTransformer(model, next_token_loss, recipe.optim, sparsity, short.n_steps, Guard(GuardConfig()))
    optimizer = module.configure_optimizers()["optimizer"]
    for step in range(short.n_steps):
        numbers = range(step * trainer.accumulate, (step + 1) * trainer.accumulate)
        batches = [{"tokens": torch.from_numpy(stream.rows(k, 0, 1)).to(device)} for k in numbers]
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if trainer.precision == "bf16" else nullcontext():
            take_step(module, optimizer, *batches)
        if on_gpu:
            torch.cuda.synchronize()
        if step >= N_WARMUP:
            yield time.perf_counter() - started
