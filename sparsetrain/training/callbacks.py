"""What happens around the training steps: looks at given steps, validation loss, speed, progress.

Each callback only watches: switching one off leaves the trained weights bit-identical.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor

from sparsetrain.model import Transformer
from sparsetrain.representation.tracker import applied
from sparsetrain.stats.bits import bits_per_char
from sparsetrain.training.metrics import log_scalars
from sparsetrain.training.objectives import next_token_loss
from sparsetrain.typed import Count, Index

Look = Callable[[Transformer, int], object]
"""Gets the model after so many optimizer steps, which it must leave as it is; a mapping that it returns are scalars to log."""


@dataclass(frozen=True, kw_only=True)
class CallbacksConfig:
    """How often things happen, in optimizer steps. ours"""

    log_every: Count = 10
    val_every: Count = 100
    n_val_batches: Count = 8
    """Fixed validation batches per source, of 16 rows each whatever the training's batches: losses of runs can be compared."""
    export_every: Count | None = None
    """None: only the final step."""
    export_packed: bool = False
    """Store exports small: nonzero values and their places, and the bigram table rounded to 256 levels a row. What is read after the training
    (losses, representations, circuits) is then read of the rounded model."""
    dead_every: Count | None = 500
    """Steps between two counts of dead units, on the first validation batches of every source; the last step is always one. None: never
    while training (the report counts those of the finished model all the same)."""
    profile_steps: Index = 0
    """Optimizer steps to profile, from the 21st on, into profile.json; they are slower meanwhile."""


def every(n: int, n_steps: int) -> set[int]:
    """Each n-th optimizer step, and the last one."""
    return {*range(n, n_steps + 1, n), n_steps}


def is_step_end(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether this micro-batch completed an optimizer step."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


@runtime_checkable
class Stateful(Protocol):
    """A look that remembers: plain data and tensors that ride in the checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class AtSteps(L.Callback):
    """Looks at the model after given optimizer steps and logs what the look returns.

    A resumed training looks again only where the look had not been finished; the state of a `Stateful` look is that of the
    checkpoint. Scalars whose name has no `/` stand in the progress bar too.

    Args:
        name: of the look, unique within a training.
        steps: optimizer steps; 0 is the model at initialisation.
        look: what is called.
        all_ranks: whether every process looks, for looks that share the work.
    """

    def __init__(self, name: str, steps: Collection[int], look: Look, *, all_ranks: bool = False) -> None:
        self.name = name
        self.steps = frozenset(steps)
        self.look = look
        self.all_ranks = all_ranks
        self.seen: Mapping[str, float] = {}
        """Scalars of the last look of this process."""
        self._last: int | None = None

    @property
    def state_key(self) -> str:
        return f"AtSteps/{self.name}"

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last, "look": self.look.state_dict() if isinstance(self.look, Stateful) else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last = state_dict["last"]
        if isinstance(self.look, Stateful):
            self.look.load_state_dict(state_dict["look"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_step_end(trainer, batch_idx):
            self._look(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A training that was interrupted after its last step has no start when it is resumed.
        self._look(trainer, pl_module)

    def _look(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step, model = trainer.global_step, pl_module.model
        if step not in self.steps or step == self._last:
            return
        assert isinstance(model, Transformer)
        model = model.whole()
        seen = None
        if self.all_ranks or trainer.is_global_zero:
            state = torch.get_rng_state()
            with applied(pl_module):
                seen = self.look(model, step)
            torch.set_rng_state(state)
        self._last = step
        if isinstance(seen, Mapping):
            self.seen = seen
            log_scalars(trainer, seen, step)
            trainer.progress_bar_metrics.update({name: value for name, value in seen.items() if "/" not in name})


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Loss on fixed validation batches, per source and mixed by the sources' weights."""

    batches: Mapping[str, list[Tensor]]
    """Source -> tokens `[batch, n_ctx + 1]`."""
    weights: Mapping[str, float]
    """Source -> share of the training mixture."""
    chars_per_token: Mapping[str, float]
    """Source -> characters per predicted token of its batches."""

    def mixed(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Means over tokens per source, and their weighted mean, `mixed`, before them."""
        total = sum(self.weights[source] for source in losses)
        return {"mixed": sum(losses[source] * self.weights[source] / total for source in losses), **losses}

    def evaluate(self, model: Transformer) -> dict[str, float]:
        """Loss in nats/token: `mixed`, and per source."""
        device, was_training = next(model.parameters()).device, model.training
        model.eval()
        with torch.no_grad():
            losses = {
                source: float(np.mean([next_token_loss(model, {"tokens": t.to(device)}).item() for t in batches]))
                for source, batches in self.batches.items()
            }
        model.train(was_training)
        return self.mixed(losses)

    def bits_per_char(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Losses of `mixed` and sources in nats/token as bits/char."""
        lengths = self.mixed(self.chars_per_token)
        return {name: bits_per_char(loss, lengths[name]) for name, loss in losses.items()}

    def __call__(self, model: Transformer, step: int) -> dict[str, float]:
        losses = self.evaluate(model)
        series = {"val_loss": losses, "val_bits_per_char": self.bits_per_char(losses)}
        return {
            name if source == "mixed" else f"{name}/{source}": value
            for name, values in series.items()
            for source, value in values.items()
        }


class StepScalars(L.Callback):
    """Logs loss, RMS of the gradient, density, learning rate and tokens/s; tells the progress bar.

    A row stands at the step that was just completed. tokens/s counts training steps alone: validation, tracking and saving between
    them are left out.

    Args:
        density: density of the weights after a step.
        steps: those that are logged.
    """

    def __init__(self, density: Callable[[int], float], steps: Collection[int]) -> None:
        self.density = density
        self.steps = steps
        self.n_tokens = 0
        self.seconds = 0.0
        self.n_steps_run = 0
        self._window: list[tuple[int, float]] = []
        self._started = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        elapsed = time.perf_counter() - self._started
        tokens = batch["tokens"]
        n_tokens = tokens.shape[0] * (tokens.shape[1] - 1) * trainer.world_size
        self.n_tokens += n_tokens
        self.seconds += elapsed
        self._window = [*self._window[-19:], (n_tokens, elapsed)]
        speed = sum(n for n, _ in self._window) / sum(s for _, s in self._window)
        step = trainer.global_step
        if not is_step_end(trainer, batch_idx):
            return
        self.n_steps_run += 1
        # The density of the weights as they are now: the schedule has just been applied for this step.
        density = self.density(step)
        trainer.progress_bar_metrics.update({"density": density, "tokens/s": float(round(speed))})
        if step in self.steps:
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            of_step: Mapping[str, Tensor] = pl_module.scalars  # pyright: ignore[reportAssignmentType]
            scalars = {name: float(value) for name, value in of_step.items()}
            log_scalars(trainer, {**scalars, "density": density, "lr": lr, "tokens_per_s": speed}, step)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, over optimizer steps, with loss, density and tokens/s."""

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.set_description("training")
        return bar

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
