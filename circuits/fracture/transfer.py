"""The transfer test: a rule is changed in some contexts by training on those alone; does the change carry over, and what does it damage?

1. `change_rule` puts another rule in the place of one, in the changed contexts. Only training inputs of that rule there are trained on, or, by
   `other_share`, rows of other rules beside them; never the rule in the other contexts.
2. The training is `sparsetrain.studies.arm.train_arm`, started from the model's weights. Weights that were cut stay at their final density from
   the first step on: the projection cuts every tensor to its target after each step. The learning rate is constant behind the warm-up, the
   same in words for all densities.
3. At log-spaced steps three accuracies are read: the new rule in the changed contexts, the new rule in the others (carry-over), all other rules
   (damage). The first two count only inputs that the new rule answers otherwise than the old one, so that a model that has changed nothing has 0.
4. A few learning rates are tried, the same for each model. Models learn at different speeds, and whatever learns faster keeps more and carries more over: so models are compared at equal success after an
   equal number of steps. Each rate gives a point, where the accuracy in the changed contexts comes to `success`: how many steps it took, what has been carried over by then, what other rules have lost. Between
   the two points on either side of `equal_steps` the numbers are read from the straight line (steps on a log scale). Where a model has no such points they are NaN, and whoever compares must say of how many.
   The points of every rate, and the area under the curve of the carry-over, stand beside.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import log2
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.fracture.engine import unchanged_logits
from circuits.fracture.measures import Floats
from sparsetrain.data.worlds.rules import Ints, RuleWorld, change_rule
from sparsetrain.model import Transformer
from sparsetrain.run import RunConfig
from sparsetrain.sparsity.schedule import ScheduleConfig
from sparsetrain.studies.arm import Reader, train_arm
from sparsetrain.studies.engine import log_spaced_steps
from sparsetrain.typed import Above0, Count, OpenShare, Seed

AT_ONCE = ScheduleConfig(start=0.0, end=1e-9)
"""The final density from the first step on."""
BATCH_SIZE = 1024
"""Inputs of a forward pass. ours"""


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """What is changed, and how it is trained. ours"""

    rule: str = "copy"
    """One of the world's."""
    to: str = "predecessor"
    """Any rule that answers otherwise."""
    contexts: tuple[int, ...] = (0, 1)
    """Changed ones; the others are what is transferred to."""
    rates: tuple[float, ...] = (1e-4, 2e-4, 4e-4, 8e-4)
    """Learning rates that are tried. At 3e-3 every model forgets nearly all other rules before it has learned the new one, and there is nothing to tell apart."""
    n_steps: Count = 128
    equal_steps: Above0 = 64
    """To success, at which models are compared: with these rates dense students need 27 to more than 110, sparse ones 44 to more than 120."""
    batch_size: Count = 64
    other_share: float = 0.0
    """Share of rows of other rules, in [0, 1)."""
    n_readings: Count = 16
    """Log-spaced steps at which is read, besides step 0."""
    success: OpenShare = 0.95
    seed: Seed = 0
    """Of the order of rows."""

    def __post_init__(self) -> None:
        if not 0 <= self.other_share < 1:
            raise ValueError(f"other_share={self.other_share} must lie in [0, 1): rows of the changed rule are needed")
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            raise ValueError(f"rates={list(self.rates)} must be different numbers above 0, at least one")
        if self.equal_steps > self.n_steps:
            raise ValueError(
                f"equal_steps={self.equal_steps:g} must be at most n_steps={self.n_steps}, the length of the training"
            )


SHOWN = ("changed", "changed_heldout", "carried", "kept", "others")
"""Curves that are shown."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """What was read in one training; `[n_readings]` each."""

    steps: Ints
    changed: Floats
    """Accuracy of the new rule in the changed contexts, training inputs that tell it from the old one."""
    changed_heldout: Floats
    """The same on inputs that nothing was trained on."""
    carried: Floats
    """Accuracy of the new rule in the other contexts, all inputs that tell it from the old one."""
    kept: Floats
    """Accuracy of the old rule there: `carried` may be low because it stays, or because nothing does."""
    others: Floats
    """Accuracy of the other rules, all contexts and inputs."""

    @property
    def _time(self) -> Floats:
        return np.log2(1 + self.steps.astype(np.float64))

    def success_at(self, success: float) -> float | None:
        """Where the changed contexts are first answered so well, as log2(1 + step), on the straight line between two readings; None: nowhere."""
        found = np.flatnonzero(self.changed >= success)
        if not len(found):
            return None
        i = int(found[0])
        if i == 0:
            return float(self._time[0])
        low, high = self.changed[i - 1], self.changed[i]
        return float(self._time[i - 1] + (success - low) / (high - low) * (self._time[i] - self._time[i - 1]))

    def value(self, curve: Floats, at: float) -> float:
        """Of a curve there, between two readings on the straight line."""
        return float(np.interp(at, self._time, curve))

    def area(self, curve: Floats) -> float:
        """Mean height of a curve over log2(1 + step), by trapezoids: in [0, 1] for accuracies, whatever the number of steps."""
        x = self._time
        return float(((curve[1:] + curve[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


@dataclass(frozen=True, kw_only=True)
class Success:
    """Where one learning rate came to success."""

    at: float
    """log2(1 + step)."""
    carried: float
    """Accuracy of the new rule in the other contexts."""
    damage: float
    """Accuracy that the other rules have lost since step 0."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """One model's transfer."""

    tried: Mapping[float, Curves]
    """By learning rate."""
    success: float
    equal_steps: float

    @property
    def _at(self) -> float:
        return log2(1 + self.equal_steps)

    def point(self, rate: float) -> Success | None:
        """Where a learning rate came to success; None: it did not."""
        curves = self.tried[rate]
        at = curves.success_at(self.success)
        if at is None:
            return None
        damage = float(curves.others[0] - curves.value(curves.others, at))
        return Success(at=at, carried=curves.value(curves.carried, at), damage=damage)

    @property
    def nearest(self) -> float:
        """The learning rate whose success is nearest to the equal number of steps; where none has any, the one that learned most."""
        points = {rate: point for rate in self.tried if (point := self.point(rate)) is not None}
        if points:
            return min(points, key=lambda rate: (abs(points[rate].at - self._at), rate))
        return max(self.tried, key=lambda rate: (self.tried[rate].area(self.tried[rate].changed), -rate))

    def at_equal_steps(self) -> tuple[float, float]:
        """Carried over, and damage, at success after the equal number of steps; NaN where it does not lie between two rates."""
        points = sorted((p for rate in self.tried if (p := self.point(rate)) is not None), key=lambda p: p.at)
        if not points or not points[0].at <= self._at <= points[-1].at:
            return float("nan"), float("nan")
        at = [p.at for p in points]
        carried, damage = (
            np.interp(self._at, at, y) for y in ([p.carried for p in points], [p.damage for p in points])
        )
        return float(carried), float(damage)

    def numbers(self) -> dict[str, float]:
        """Those that decide, by key of `pairs.MEASURES`, and those of every learning rate beside them."""
        carried, damage = self.at_equal_steps()
        found = {"transfer": carried, "damage": damage}
        for rate, curves in self.tried.items():
            point, of = self.point(rate), f", rate {rate:g}"
            found |= {
                f"steps to success{of}": float("nan") if point is None else 2**point.at - 1,
                f"transfer{of}": float("nan") if point is None else point.carried,
                f"damage{of}": float("nan") if point is None else point.damage,
                f"transfer over steps{of}": curves.area(curves.carried),
            }
        return found


def transfer(model: Transformer, run: RunConfig, world: RuleWorld, config: TransferConfig, folder: Path) -> Transfer:
    """Changes a rule in a copy of the model, once with each learning rate.

    Args:
        model: trained in the world; left as it is.
        run: how it was trained, its arm's differences included.
        world: as it was.
        config: what is changed.
        folder: gets a training's folder for each learning rate.

    Raises:
        ValueError: a run of another model; a change that is none (see `change_rule`).
    """
    if model.config != run.model:
        raise ValueError(
            f"run.model={run.model} is not the model's own config {model.config}; give the run that trained it"
        )
    changed = change_rule(world, config.rule, config.to, config.contexts)
    rows, read = transfer_rows(world, changed, config), partial(_read, groups=_groups(world, changed, config))
    tried: dict[float, Curves] = {}
    for rate in config.rates:
        reader = Reader(lambda one, step: read(one))
        steps = log_spaced_steps(config.n_steps, config.n_readings)
        train_arm(
            transfer_run(run, config, rate), rows, folder / f"rate_{rate:g}", steps, {"transfer": reader},
            start=lambda drawn: drawn.load_state_dict(model.state_dict()),
        )  # fmt: skip
        found = {
            name: np.stack([reader.found[step][name] for step in sorted(reader.found)]) for name in reader.found[0]
        }
        tried[rate] = Curves(steps=np.array(sorted(reader.found)), **found)
    return Transfer(tried=tried, success=config.success, equal_steps=config.equal_steps)


def transfer_run(run: RunConfig, config: TransferConfig, rate: float) -> RunConfig:
    """The run of a transfer: the model's own, at its final density throughout, with a constant learning rate."""
    return replace(
        run,
        seed=config.seed,
        sparsity=replace(run.sparsity, schedule=AT_ONCE),
        optim=replace(run.optim, lr_peak=rate, decay="constant", density_factor="off"),
        trainer=replace(run.trainer, n_steps=config.n_steps, minutes=None, batch_size=config.batch_size, accumulate=1),
        callbacks=replace(run.callbacks, export_every=None),
        checkpoints=replace(run.checkpoints, every=config.n_steps, keep_last=1, keep_every=None),
    )


def transfer_rows(world: RuleWorld, changed: RuleWorld, config: TransferConfig) -> Ints:
    """Rows of the training, `[n_steps * batch_size, length]`: those of the changed contexts again and again, each time in another order."""
    rng = np.random.default_rng([config.seed, 9])
    n_rows = config.n_steps * config.batch_size
    is_rule, new = _of_rule(changed, config), np.isin(changed.inputs.context, config.contexts)
    rows = _rounds(changed.inputs.tokens[is_rule & new & ~changed.inputs.held], n_rows, rng)
    if config.other_share:
        others = _rounds(world.inputs.tokens[~is_rule & ~world.inputs.held], n_rows, rng)
        rows = np.where((rng.random(n_rows) < config.other_share)[:, None], others, rows)
    return rows


def _rounds(tokens: Ints, n_rows: int, rng: np.random.Generator) -> Ints:
    n_rounds = -(-n_rows // len(tokens))
    return tokens[np.concatenate([rng.permutation(len(tokens)) for _ in range(n_rounds)])[:n_rows]]


def _of_rule(world: RuleWorld, config: TransferConfig) -> NDArray[np.bool_]:
    return world.inputs.rule == world.config.rules.index(config.rule)


def _groups(world: RuleWorld, changed: RuleWorld, config: TransferConfig) -> Mapping[str, Tensor]:
    number, old = world.config.rules.index(config.rule), world.inputs
    everywhere = old.tokens.copy()
    is_rule, new = _of_rule(world, config), np.isin(old.context, config.contexts)
    table = changed.answers[number, config.contexts[0]]
    everywhere[is_rule, -1] = table[old.a[is_rule], old.b[is_rule]]
    telling = is_rule & (everywhere[:, -1] != old.tokens[:, -1])

    def group(tokens: Ints, which: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(tokens[which])

    return {
        "changed": group(everywhere, telling & new & ~old.held),
        "changed_heldout": group(everywhere, telling & new & old.held),
        "carried": group(everywhere, telling & ~new),
        "kept": group(old.tokens, telling & ~new),
        "others": group(old.tokens, ~is_rule),
    }


def _read(model: Transformer, groups: Mapping[str, Tensor]) -> Mapping[str, Floats]:
    found: dict[str, Floats] = {}
    for name, tokens in groups.items():
        right = torch.cat([unchanged_logits(model, batch[:, :-1].to(next(model.parameters()).device)).argmax(-1).cpu() == batch[:, -1] for batch in tokens.split(BATCH_SIZE)]).numpy()  # fmt: skip
        found[name] = np.array(right.mean() if len(right) else np.nan)
    return found
