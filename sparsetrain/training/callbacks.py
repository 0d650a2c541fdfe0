"""What happens around the training steps: metrics.csv, progress, validation loss, resume, export.

Each callback only watches: switching one off leaves the trained weights bit-identical.
"""

import csv
import hashlib
import io
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sparsetrain.report.wandb_log import wandb_mode, wandb_settings
from sparsetrain.store import sha256, write_atomic
from sparsetrain.training.fit import LitTransformer, next_token_loss

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CallbacksConfig:
    """How often things happen, in optimizer steps. ours"""

    log_every: int = 10
    val_every: int = 100
    n_val_batches: int = 8
    """Fixed validation batches per source."""
    checkpoint_every: int = 250
    export_every: int | None = None
    """None: only the final step."""

    def __post_init__(self) -> None:
        for name in ("log_every", "val_every", "n_val_batches", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"callbacks.{name}={getattr(self, name)} must be at least 1")


class MetricsCSV(Logger):
    """Every scalar as a row `step,name,value` of `metrics.csv`; a resumed run first drops the rows it will write again."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them."""

    @rank_zero_only
    def start_at(self, step: int) -> None:
        """Keeps the rows of steps up to and including `step` (0: starts the file anew)."""
        rows = [row for row in read_metrics(self.path) if row[0] <= step] if step and self.path.is_file() else []
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["step", "name", "value"])
        writer.writerows([step, name, repr(value)] for step, name, value in rows)
        write_atomic(self.path, out.getvalue().encode())

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([step, name, repr(float(value))] for name, value in metrics.items() if name != "epoch")


def read_metrics(path: Path) -> list[tuple[int, str, float]]:
    """Rows `(step, name, value)` of a metrics.csv."""
    with path.open(newline="") as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


class ChecksummedIO(TorchCheckpointIO):
    """Checkpoints written in place by rename, each beside its SHA-256; a damaged one is refused.

    Lightning saves through the system's temporary folder, so that a kill can leave a torn file on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getvalue()
        path = Path(path)
        # The checksum goes first: a kill between the two leaves an old checkpoint whose checksum does not fit, which is
        # refused in words; so the previous checksum is kept beside it.
        digest = hashlib.sha256(data).hexdigest()
        sums = path.with_name(path.name + ".sha256")
        known = sums.read_text().split() if sums.is_file() else []
        write_atomic(sums, "\n".join([digest, *known[:1]]).encode() + b"\n")
        write_atomic(path, data)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        path = Path(path)
        sums = path.with_name(path.name + ".sha256")
        if not sums.is_file() or sha256(path) not in sums.read_text().split():
            raise ValueError(
                f"checkpoint {path} does not match its checksum {sums.name}; it is damaged, use another one"
            )
        return super().load_checkpoint(path, *args, **kwargs)


class RandomState(L.Callback):
    """Python's, numpy's and torch's random states ride in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        version, internal, gauss = random.getstate()
        name, keys, *rest = np.random.get_state(legacy=True)
        state = {
            "python": [version, list(internal), gauss],
            "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        version, internal, gauss = state_dict["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state_dict["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state_dict["torch"])
        if "cuda" in state_dict:
            torch.cuda.set_rng_state_all(state_dict["cuda"])


class Throughput(L.Callback):
    """Logs density, learning rate and tokens/s; tells the progress bar.

    tokens/s counts training steps alone: validation, tracking and saving between them are left out.
    """

    def __init__(self, log_every: int) -> None:
        self.log_every = log_every
        self.n_tokens = 0
        self.seconds = 0.0
        self.n_steps_run = 0
        self._window: list[tuple[int, float]] = []
        self._pending_tokens = 0
        self._started = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LitTransformer)
        elapsed = time.perf_counter() - self._started
        tokens = batch["tokens"]
        n_tokens = tokens.shape[0] * (tokens.shape[1] - 1) * trainer.world_size
        self.n_tokens += n_tokens
        self.seconds += elapsed
        self._window = [*self._window[-19:], (n_tokens, elapsed)]
        speed = sum(n for n, _ in self._window) / sum(s for _, s in self._window)
        step = trainer.global_step
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.n_steps_run += 1
        # The density of the weights as they are now: the schedule has just been applied for this step.
        density = pl_module.density(step)
        trainer.progress_bar_metrics.update(density=density, **{"tokens/s": float(round(speed))})
        if step % self.log_every == 0 or step == pl_module.n_steps:
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            log_scalars(trainer, {"density": density, "lr": lr, "tokens_per_s": speed}, step)


class Validation(L.Callback):
    """Loss on fixed validation batches, per source and mixed by the sources' weights, every `every` steps and at the end.

    Args:
        batches: source -> list of tokens `[batch, n_ctx + 1]`.
        weights: source -> share of the training mixture.
        every: optimizer steps between two evaluations.
    """

    def __init__(self, batches: Mapping[str, list[Tensor]], weights: Mapping[str, float], every: int) -> None:
        self.batches = batches
        self.weights = weights
        self.every = every
        self.last: dict[str, float] = {}

    def evaluate(self, model: torch.nn.Module, device: torch.device) -> dict[str, float]:
        """Loss in nats/token per source, and `mixed`."""
        was_training = model.training
        model.eval()
        with torch.no_grad():
            losses = {
                source: float(np.mean([next_token_loss(model, {"tokens": t.to(device)}).item() for t in batches]))  # pyright: ignore[reportArgumentType]
                for source, batches in self.batches.items()
            }
        model.train(was_training)
        total = sum(self.weights[source] for source in losses)
        mixed = sum(losses[source] * self.weights[source] / total for source in losses)
        return {"mixed": mixed, **losses}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        at_step_end = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        assert isinstance(pl_module, LitTransformer)
        if at_step_end and (step % self.every == 0 or step == pl_module.n_steps):
            self.last = self.evaluate(pl_module.model, pl_module.device)
            named = {"val_loss" if name == "mixed" else f"val_loss/{name}": value for name, value in self.last.items()}
            log_scalars(trainer, named, step)
            trainer.progress_bar_metrics["val_loss"] = self.last["mixed"]


class Export(L.Callback):
    """Calls `export(step)` every `every` steps and at the end of the schedule."""

    def __init__(self, export: Callable[[int], object], every: int | None) -> None:
        self.export = export
        self.every = every

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        at_step_end = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        assert isinstance(pl_module, LitTransformer)
        if (
            self.every
            and at_step_end
            and step % self.every == 0
            and step < pl_module.n_steps
            and trainer.is_global_zero
        ):
            self.export(step)


class AtSteps(L.Callback):
    """Calls `look(step)` at given optimizer steps: 0 is the model at initialisation."""

    def __init__(self, steps: Sequence[int], look: Callable[[int], object]) -> None:
        self.steps = frozenset(steps)
        self.look = look

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step in self.steps:
            self.look(trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 and trainer.global_step in self.steps:
            self.look(trainer.global_step)


class ResumeLogs(L.Callback):
    """Cuts metrics.csv back to the step that the run starts from."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.start_at(trainer.global_step)


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


def log_scalars(trainer: L.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Sends scalars to every logger of the run."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    """Where scalars and reports go beside metrics.csv. ours"""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto: online when logged in (WANDB_MODE, where set, decides), offline otherwise."""
    project: str = "sparsetrain"


def build_loggers(config: LoggerConfig, run_dir: Path, name: str) -> list[Logger]:
    """metrics.csv, and W&B unless it is disabled."""
    return [MetricsCSV(run_dir / "metrics.csv"), *wandb_loggers(config, run_dir, name)]


def wandb_loggers(config: LoggerConfig, run_dir: Path, name: str) -> list[Logger]:
    """A new W&B run whose files lie in `<run_dir>/wandb/`; none where it is disabled."""
    mode = wandb_mode() if config.wandb == "auto" else config.wandb
    if mode == "disabled":
        return []
    title = f"{name}/{run_dir.name}"
    return [WandbLogger(project=config.project, name=title, save_dir=run_dir, mode=mode, settings=wandb_settings())]
