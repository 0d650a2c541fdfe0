"""Dead units while a model trains: counted, which leaves the training as it is, and started anew, which does not."""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch import Tensor

from sparsetrain.data.stream import Stream
from sparsetrain.model import Transformer
from sparsetrain.sparsity import DeadUnits, SparsityConfig, SparsityMethod, dead_units
from sparsetrain.sparsity.reinit import ReinitConfig, reinit_dead_
from sparsetrain.training.callbacks import is_step_end
from sparsetrain.training.metrics import log_scalars

SCALARS = "dead_units"
"""What the names of these scalars begin with."""

REFERENCE_BATCHES = 2
"""Validation batches of each source that activity is judged on: some thousand tokens, at a fifth of what a validation takes."""


def reference_text(batches: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
    """The tokens that activity is judged on, `[batch, n_ctx]` each: of validation batches by source, the first ones of each."""
    return [tokens[:, :-1] for of_source in batches.values() for tokens in islice(of_source, REFERENCE_BATCHES)]


class DeadWatch:
    """A look (`AtSteps`) that counts dead units on a text.

    Args:
        text: tokens `[batch, pos]`.
    """

    def __init__(self, text: Sequence[Tensor]) -> None:
        self.text = text

    def __call__(self, model: Transformer, step: int) -> dict[str, float]:
        return scalars_of(dead_units(model, self.text))


def scalars_of(found: DeadUnits) -> dict[str, float]:
    """What goes to the loggers, as fractions: `dead_units/all`; `dead_units/<reason>`, of all units; `dead_units/<kind>`, of the units of a kind;
    `dead_units/unwritten` and `dead_units/unread`, of the channels of the residual stream."""
    total, residual = found.total, found.residual
    reasons = {
        "without_incoming": total.without_incoming,
        "without_outgoing": total.without_outgoing,
        "never_active": total.never_active,
        "constant": total.constant,
    }
    shares = {"all": total.dead_share}
    shares |= {reason: n / total.n_units for reason, n in reasons.items() if n is not None}
    shares |= {kind: counts.dead_share for kind, counts in found.by_kind().items()}
    shares |= {
        "unwritten": residual.unwritten / residual.n_channels,
        "unread": residual.unread / residual.n_channels,
    }
    return {f"{SCALARS}/{name}": share for name, share in shares.items()}


class ReinitDead(L.Callback):
    """Starts dead units anew after given optimizer steps; logs how many as `dead_units/reinitialised`.

    Args:
        steps: optimizer steps.
        text: gives the tokens `[batch, pos]` that activity is judged on; the same ones on every rank.
        seed: of the training.
        config: how much moves at a time.
        sparsity: the method, which knows the floors; None: a dense model.
    """

    def __init__(
        self,
        steps: Collection[int],
        text: Callable[[], Sequence[Tensor]],
        seed: int,
        config: ReinitConfig,
        sparsity: SparsityMethod | None,
    ) -> None:
        self.steps = frozenset(steps)
        self.text = text
        self.seed = seed
        self.config = config
        self.sparsity = sparsity

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, model = trainer.global_step, pl_module.model
        if step not in self.steps or not is_step_end(trainer, batch_idx):
            return
        assert isinstance(model, Transformer)
        n = reinit_dead_(
            model,
            self.text(),
            trainer.optimizers[0],
            seed=self.seed,
            step=step,
            floors={} if self.sparsity is None else {tensor.name: tensor.floor for tensor in self.sparsity.audit(step)},
            share=self.config.share,
        )
        log_scalars(trainer, {f"{SCALARS}/reinitialised": n}, step)


def reinitialisation(
    config: SparsityConfig, n_steps: int, seed: int, stream: Stream, sparsity: SparsityMethod | None
) -> list[ReinitDead]:
    """The callback that a config asks for, with the text of the first batches of a stream; none where it never happens.

    It stands before whatever looks at a step."""
    settings = config.reinit_dead
    steps = settings.steps(n_steps, config.schedule.end)

    def text() -> list[Tensor]:
        n = settings.n_batches if stream.n_batches is None else min(settings.n_batches, stream.n_batches)
        return [torch.from_numpy(stream.rows(k, rank=0, n_ranks=1)[:, :-1]) for k in range(n)]

    return [ReinitDead(steps, text, seed, settings, sparsity)] if steps else []


def check_reinitialisation(config: SparsityConfig, *, sharded: bool) -> None:
    """Refuses to start units anew whose weights are spread over ranks.

    Raises:
        ValueError: it is asked for.
    """
    every = config.reinit_dead.every
    if every is not None and sharded:
        raise ValueError(
            f"sparsity.reinit_dead.every={every} needs whole tensors, and trainer.strategy=fsdp spreads them over ranks; "
            f"use trainer.strategy=ddp, or sparsity.reinit_dead.every=null"
        )
