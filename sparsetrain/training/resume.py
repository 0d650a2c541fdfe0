"""Whether a checkpoint is of the run that goes on: its settings are compared with those of now, and both values are named.

What only says where and how fast a run is computed may differ. `allow` names settings that may differ and are then applied:
Lightning alone would restore the optimizer with the old ones, in silence.
"""

import logging
import pickle
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.optim.lr_scheduler import LambdaLR

from sparsetrain.optim import OptimConfig, build_optimizer

log = logging.getLogger(__name__)

ELSEWHERE = tuple(
    f"trainer.{key}" for key in ("device", "devices", "nodes", "strategy", "n_threads", "compile", "progress")
)
"""Settings that may differ: where and how fast a run is computed."""
APPLICABLE = ("optim", "sparsity", "trainer.n_steps", "trainer.minutes", "trainer.precision")
"""Settings that `resume.allow` may name, whole or a key of them; the others decide shapes, or the order of the data."""
METHOD = tuple(
    f"sparsity.{key}"
    for key in ("method", "l0", "rigl", "set", "top_kast", "straight_through", "one_shot", "two_of_four")
)
"""Of `sparsity` these cannot change all the same: what a method remembers is its own."""
OF_MASKS = tuple(f"sparsity.{key}" for key in ("density", "embed_density", "bias_density", "floor", "schedule"))
"""Nor these where the method is not topk: a mask that has been chosen has its size."""


@dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """What may differ between a checkpoint and the run that goes on from it. ours"""

    allow: tuple[str, ...] = ()
    """Settings such as `optim.lr_peak`, `optim`, `sparsity.density` or `trainer.n_steps`; they are applied from the checkpoint on."""

    def __post_init__(self) -> None:
        for key in self.allow:
            if any(covers(one, key) for one in METHOD) or not any(covers(one, key) for one in APPLICABLE):
                raise ValueError(
                    f"resume.allow={key!r} cannot change within a run; allowed: {', '.join(APPLICABLE)} and their keys. To start "
                    f"another run from the weights, use init_from=<run or export folder>"
                )


def covers(one: str, key: str) -> bool:
    """Whether a setting's name is another one's, or that of a group it stands in."""
    return key == one or key.startswith(f"{one}.")


def flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings as (dotted key, value)."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings whose values differ: dotted key -> (then, now); a key that one of them lacks counts as None there."""
    a, b = dict(flat(then)), dict(flat(now))
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if a.get(key) != b.get(key)}


def check_settings(
    then: Mapping[str, Any], now: Mapping[str, Any], allow: Collection[str]
) -> dict[str, tuple[Any, Any]]:
    """The settings that differ and may: dotted key -> (of the checkpoint, of now).

    Raises:
        ValueError: others differ; both values are named.
    """
    found = {key: values for key, values in differences(then, now).items() if key not in ELSEWHERE}
    computed = [one.get("sparsity", {}).get("compute", "dense") for one in (then, now)]
    if computed == ["dense", "dense"]:  # how products by nonzeros would have been computed
        found = {key: values for key, values in found.items() if not covers("sparsity.computing", key)}
    method = now.get("sparsity", {}).get("method", "topk")
    own = METHOD if method == "topk" else (*METHOD, *OF_MASKS, *(("trainer.n_steps",) if method == "one_shot" else ()))
    kept = {key for key in found if any(covers(one, key) for one in own)}
    refused = {
        key: values for key, values in found.items() if key in kept or not any(covers(one, key) for one in allow)
    }
    if refused:
        named = ", ".join(f"{key}={a} there, {b} here" for key, (a, b) in refused.items())
        able = [key for key in refused if key not in kept and any(covers(one, key) for one in APPLICABLE)]
        way = f", or change them from here on with resume.allow=[{','.join([*allow, *able])}]" if able else ""
        raise ValueError(
            f"the checkpoint was trained with other settings: {named}; resume with those of the checkpoint{way}"
        )
    return found


def settings_of(path: Path) -> Mapping[str, Any]:
    """The recipe that a checkpoint was trained with; its tensors are not read.

    Raises:
        ValueError: no checkpoint of this project.
    """
    return record_of(path)["recipe"]


def record_of(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """What a checkpoint says of itself: the `recipe`, and `facts` such as the hash of the corpus.

    Raises:
        ValueError: no checkpoint of this project.
    """
    try:
        content = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
    ) as error:  # another file; or one that would run something
        raise ValueError(f"{path} is no checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or "sparsetrain" not in content:
        raise ValueError(f"{path} is no checkpoint of sparsetrain")
    return content["sparsetrain"]


class SameRun(L.Callback):
    """Puts the recipe into checkpoints; refuses one of another recipe; applies the differences that are allowed.

    Args:
        recipe: settings of the run that goes on, as plain data.
        optim: those of the optimizer.
        allow: settings that may differ.
        facts: more to keep in checkpoints, for instance the corpus's hash.
    """

    def __init__(
        self, recipe: Mapping[str, Any], optim: OptimConfig, allow: Collection[str], facts: Mapping[str, Any]
    ) -> None:
        self.recipe = recipe
        self.optim = optim
        self.allow = allow
        self.facts = facts
        self._changed = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["sparsetrain"] = {"recipe": dict(self.recipe), "facts": dict(self.facts)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        found = check_settings(checkpoint["sparsetrain"]["recipe"], self.recipe, self.allow)
        for key, (then, now) in found.items():
            log.warning("from the checkpoint on %s=%s; it was %s", key, now, then)
        self._changed = bool(found)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._changed:
            return
        (optimizer,), scheduler = trainer.optimizers, trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        fresh = build_optimizer(pl_module.model, self.optim)  # pyright: ignore[reportArgumentType]
        # Groups behind the model's (of an objective, of a sparsity method) have settings of their own.
        of_model = optimizer.param_groups[: len(fresh.param_groups)]
        for group, wanted in zip(of_model, fresh.param_groups, strict=True):
            group |= {key: wanted[key] for key in ("betas", "eps", "weight_decay")} | {"initial_lr": wanted["lr"]}
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)
