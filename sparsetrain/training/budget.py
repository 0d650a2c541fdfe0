"""How many steps fit into a time (`trainer.minutes`), known before the first one because the schedules need their length.

1. A throwaway copy of the model takes a few steps on the run's first batches, its weights cut along a short schedule of the same shape.
2. The first ones (compilation, caches) are left out. A step costs the lower quartile of the others: what else the machine does at
   the time makes steps slower and none faster. The median stands beside it, so that a busy machine is seen.
3. Where zeros are left out (`sparsity.compute`) a step gets cheaper as the density falls, and some have a dense gradient. Steps of both
   kinds are timed at points of the whole schedule, and count by their share of it.
4. What was chosen stands in `<run>/budget.json`, and the number of steps in every checkpoint: a resumed run keeps it.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

import numpy as np
import torch

from sparsetrain.data.stream import Stream
from sparsetrain.model import Transformer
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.sparsity.projection import TopKProjection
from sparsetrain.training.fit import LitTransformer, Recipe, set_arithmetic, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss

log = logging.getLogger(__name__)

N_WARMUP, N_TIMED = 4, 24  # ours: a tenth of a second on a small model, some seconds on one that trains for minutes
N_TURNS = 3
"""Of trainings that are compared. ours"""
N_PARTS, N_EACH = 6, 4
"""Where zeros are left out: parts of the schedule, cut once more where the density has fallen and where the last stretch begins, and steps of
each kind that are timed in the middle of each. ours"""
BUSY = 1.25  # ours: median over quartile from which on the machine is called busy
BUDGET = "budget.json"


@dataclass(frozen=True, kw_only=True)
class StepBudget:
    """The steps that fit into a time."""

    minutes: float
    n_steps: int
    seconds_per_step: float
    """Lower quartile of the timed steps; of several kinds of steps, the mean of theirs."""
    median: float
    """Likewise, s: how busy the machine was."""
    n_timed: int = N_TIMED


@dataclass(frozen=True, kw_only=True)
class TimedStep:
    """One optimizer step."""

    seconds: float
    kind: str = ""
    """Steps of one kind cost the same."""
    share: float = 1.0
    """Of the training's steps that are of this kind."""


def steps_within(minutes: float, recipe: Recipe, stream: Stream) -> StepBudget:
    """Times a throwaway copy of the recipe's model on this machine. Random generators move; a training seeds them anew.

    Args:
        minutes: of optimizer steps; validation, looks at the model and saving come on top.
        recipe: what is to be trained; its number of steps decides nothing.
        stream: of its batches.
    """
    kinds: dict[str, list[TimedStep]] = {}
    for step in timed_steps(recipe, stream):
        kinds.setdefault(step.kind, []).append(step)
    quartile, middle = (
        sum(of[0].share * float(np.quantile([one.seconds for one in of], share)) for of in kinds.values())
        for share in (0.25, 0.5)
    )
    n_steps = max(1, int(60 * minutes / quartile))
    log.info("a step takes %.1f ms (median %.1f): %d of them in %g minutes", 1e3 * quartile, 1e3 * middle, n_steps, minutes)  # fmt: skip
    if middle > BUSY * quartile:
        log.warning("the machine is busy: steps will take longer than the %.1f ms that the budget counts with", 1e3 * quartile)  # fmt: skip
    n_timed = sum(map(len, kinds.values()))
    return StepBudget(minutes=minutes, n_steps=n_steps, seconds_per_step=quartile, median=middle, n_timed=n_timed)


def in_turns(minutes: float, recipes: Mapping[str, tuple[Recipe, Stream]]) -> dict[str, StepBudget]:
    """The steps of several trainings that are compared at equal time. Machines are faster at one time than at another: what counts is the median over
    turns of a step's time over that of the first training in the same turn.

    Args:
        minutes: of optimizer steps, each.
        recipes: name -> what is to be trained, on which batches.
    """
    turns = [
        {name: steps_within(minutes, recipe, stream) for name, (recipe, stream) in recipes.items()}
        for _ in range(N_TURNS)
    ]
    first, *_ = recipes
    seconds = median(turn[first].seconds_per_step for turn in turns)
    found: dict[str, StepBudget] = {}
    for name in recipes:
        ratio = median(turn[name].seconds_per_step / turn[first].seconds_per_step for turn in turns)
        step = seconds * ratio
        found[name] = StepBudget(
            minutes=minutes,
            n_steps=max(1, int(60 * minutes / step)),
            seconds_per_step=step,
            median=median(turn[name].median for turn in turns),
            n_timed=sum(turn[name].n_timed for turn in turns),
        )
    steps = ", ".join(
        f"{name} {budget.n_steps} of {1e3 * budget.seconds_per_step:.1f} ms" for name, budget in found.items()
    )
    log.info("steps in %g minutes, timed in %d turns: %s", minutes, N_TURNS, steps)
    return found


def timed_steps(recipe: Recipe, stream: Stream) -> Iterator[TimedStep]:
    """Optimizer steps of a model like the recipe's, after those that warm it up."""
    plan = list(planned(recipe))
    trainer = replace(recipe.trainer, n_steps=plan[-1].of)
    short = replace(recipe, trainer=trainer)
    device = torch.device(trainer.torch_device)
    set_arithmetic(trainer)
    model = short.draw().to(device)
    if trainer.compile:
        model.compile()
    sparsity = short.build_sparsity(model)
    module = LitTransformer(model, next_token_loss, recipe.optim, sparsity, short.n_steps, Guard(GuardConfig()))
    module.to(device)  # what the method keeps of its own too
    optimizer = module.configure_optimizers()["optimizer"]
    for taken, one in enumerate(plan):
        if sparsity is not None:
            optimizer.param_groups[0][STEP_KEY] = one.step
        numbers = range(taken * trainer.accumulate, (taken + 1) * trainer.accumulate)
        batches = [{"tokens": torch.from_numpy(stream.rows(k, 0, 1)).to(device)} for k in numbers]
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if trainer.precision == "bf16" else nullcontext():
            take_step(module, optimizer, *batches)
        if trainer.on_gpu:
            torch.cuda.synchronize()
        if one.counts:
            yield TimedStep(seconds=time.perf_counter() - started, kind=one.kind, share=one.share)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step that is taken as the one after `step` others."""

    step: int
    of: int
    """Length of the schedule."""
    kind: str = ""
    share: float = 1.0
    counts: bool = True


def falls(recipe: Recipe) -> bool:
    """Whether the density of anything falls at all, by the method's own account."""
    with torch.device("meta"):
        method = recipe.build_sparsity(Transformer(recipe.model))
    return isinstance(method, TopKProjection) and method.compute is not None and method.compute.falls


def planned(recipe: Recipe) -> Iterator[Planned]:
    """The steps that are taken, first those that warm up.

    Densely a short schedule is run through; its quarters count alike, since a method may settle in the last. By the nonzeros each part of the schedule has
    steps of both kinds in its middle, in the shares that they have there.
    """
    config = recipe.computed
    if config.compute == "dense":
        n = N_WARMUP + N_TIMED
        yield from (
            Planned(step=step, of=n, kind=f"quarter {4 * step // n}", share=0.25, counts=step >= N_WARMUP)
            for step in range(n)
        )
        return
    computing, last = config.computing, config.computing.exact_end
    both = math.lcm(computing.refresh_every, computing.refresh_falling)
    n = 100 * N_PARTS * both
    end, stretch = config.schedule.end if falls(recipe) else 0.0, 1 - last
    cuts = sorted({*(i / N_PARTS for i in range(N_PARTS + 1)), end, stretch})
    yield from (Planned(step=0, of=n, counts=False) for _ in range(N_WARMUP))
    for i, (a, b) in enumerate(pairwise(cuts)):
        point = both * round(n * (a + b) / 2 / both)
        every = 1 if a >= stretch else computing.every(falling=b <= end)
        dense, between = (b - a) / every, (b - a) * (1 - 1 / every)
        yield Planned(step=point, of=n, counts=False)  # comes down from the point before, as no step of a training does
        yield from (
            Planned(step=point + k * every, of=n, kind=f"{i}: dense gradient", share=dense)
            for k in range(1, N_EACH + 1)
        )
        before = point + N_EACH * every
        yield from (
            Planned(step=before + k, of=n, kind=f"{i}: by nonzeros", share=between)
            for k in range(1, min(N_EACH + 1, every))
        )
