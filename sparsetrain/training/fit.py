"""The Lightning side of training: a model, an objective, an optimizer with the sparsity method on it.

The objective turns a batch into a loss and is supplied by the entry point (next token here; distillation elsewhere),
so one LightningModule serves every kind of training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import torch
import torch.nn.functional as F
from einops import rearrange
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sparsetrain.model import Transformer
from sparsetrain.optim import OptimConfig, build_optimizer, lr_factor, scale_gradients_
from sparsetrain.sparsity import SparsityMethod, require_attached


class Objective(Protocol):
    """Maps a batch to a scalar loss in nats/token."""

    def __call__(self, model: Transformer, batch: Mapping[str, Tensor]) -> Tensor: ...


def next_token_loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of each next token, nats/token; `batch["tokens"]` is `[batch, n_ctx + 1]` int64."""
    tokens = batch["tokens"]
    logits = model(tokens[:, :-1])
    return F.cross_entropy(rearrange(logits, "b p v -> (b p) v"), rearrange(tokens[:, 1:], "b p -> (b p)"))


def answer_loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the last token of each row alone, nats; `batch["tokens"]` is `[batch, length]` int64."""
    tokens = batch["tokens"]
    at = torch.full((len(tokens),), tokens.shape[1] - 2, device=tokens.device)
    return F.cross_entropy(model(tokens[:, :-1], at=at), tokens[:, -1])


class LitTransformer(L.LightningModule):
    """Trains `model` under `sparsity` (None: dense).

    Args:
        model: the transformer; compiled in place if it is compiled at all.
        objective: batch -> loss.
        optim: optimiser settings.
        sparsity: the method, already prepared on this model; attached to the optimizer here.
        n_steps: optimizer steps of the whole run (the schedules' length).
    """

    def __init__(
        self,
        model: Transformer,
        objective: Objective,
        optim: OptimConfig,
        sparsity: SparsityMethod | None,
        n_steps: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.optim = optim
        self.sparsity = sparsity
        self.n_steps = n_steps

    def density(self, step: int) -> float:
        """Density of the weight matrices after `step` optimizer steps."""
        return 1.0 if self.sparsity is None else self.sparsity.density(step)

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        optimizer = build_optimizer(self.model, self.optim)
        if self.sparsity is not None:
            self.sparsity.attach(optimizer)
            require_attached(optimizer)
        target = self.density(self.n_steps)

        def factor(step: int) -> float:
            return lr_factor(step, self.n_steps, self.optim, self.density(step), target)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.objective(self.model, batch)
        self.log("train_loss", loss.detach())
        penalty = None if self.sparsity is None else self.sparsity.penalty()
        return loss if penalty is None else loss + penalty

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        rms = scale_gradients_(self.model.parameters(), self.optim)
        if not torch.isfinite(rms):
            raise FloatingPointError(
                f"gradient is not finite at step {self.global_step}; the weights are those before this step. "
                f"Lower optim.lr_peak, or resume from the last checkpoint with ckpt_path=last"
            )
        self.log("grad_rms", rms)

    def on_train_end(self) -> None:
        if self.sparsity is not None and self.global_step >= self.n_steps:
            self.sparsity.finalize()


def take_step(module: LitTransformer, optimizer: Optimizer, batch: Mapping[str, Tensor]) -> Tensor:
    """One optimizer step as Lightning takes it with this module, without Lightning (for benchmarks); returns the loss."""
    optimizer.zero_grad()
    loss = module.objective(module.model, batch)
    loss.backward()
    scale_gradients_(module.model.parameters(), module.optim)
    optimizer.step()
    return loss.detach()


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, how wide and on what a run trains. ours"""

    n_steps: int = 2000
    """Optimizer steps of the whole run: the length of every schedule."""
    batch_size: int = 16
    """Sequences of n_ctx tokens in one optimizer step, over all devices and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches of one optimizer step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    strategy: Literal["auto", "ddp", "ddp_fork", "ddp_spawn"] = "auto"
    precision: Literal["32", "bf16"] = "32"
    """bf16: mixed precision. fp16 is not offered: its gradient scaler skips steps that the sparsity method would count."""
    n_threads: int | None = None
    """CPU threads of torch; None: torch's own choice. Results are bit-exact at an equal number only."""
    compile: bool = False
    """torch.compile of the inner module, in place; hooked passes stay eager."""
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("n_steps", "batch_size", "accumulate", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name}={getattr(self, name)} must be at least 1")
        if self.batch_size % (self.accumulate * self.devices):
            raise ValueError(
                f"trainer.batch_size={self.batch_size} must be a multiple of accumulate * devices = "
                f"{self.accumulate * self.devices}"
            )
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("trainer.device=cuda, but torch sees no CUDA device; use trainer.device=cpu or auto")


def fit(
    module: LitTransformer,
    data: L.LightningDataModule,
    config: TrainerConfig,
    *,
    checkpoint_io: CheckpointIO,
    callbacks: list[L.Callback],
    loggers: list[Logger],
    checkpoints: Path,
    checkpoint_every: int,
    resume: Path | None,
    stop_at_step: int | None,
    log_every: int,
) -> L.Trainer:
    """Trains until the schedule ends (or `stop_at_step`, as an interruption would) and leaves `last.ckpt`.

    Args:
        module: what is trained.
        data: endless batches.
        config: length, device, precision.
        checkpoint_io: how `.ckpt` files are written and read.
        callbacks: watchers.
        loggers: where scalars go.
        checkpoints: folder of `last.ckpt`.
        checkpoint_every: optimizer steps between checkpoints.
        resume: checkpoint to continue from, bit-exactly.
        stop_at_step: stops early; schedules keep their length.
        log_every: steps between logged losses.
    """
    # Denormals slow CPU arithmetic by up to half late in training; every rank needs this, and it changes the last bits.
    torch.set_flush_denormal(True)
    if config.n_threads is not None:
        torch.set_num_threads(config.n_threads)
    if config.compile:
        module.model.compile()
    saver = ModelCheckpoint(
        dirpath=checkpoints,
        filename="last",
        save_top_k=1,
        every_n_train_steps=checkpoint_every,
        save_on_exception=True,
        enable_version_counter=False,
    )
    trainer = L.Trainer(
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[config.device],
        devices=config.devices,
        strategy=config.strategy,
        precision={"32": "32-true", "bf16": "bf16-mixed"}[config.precision],  # pyright: ignore[reportArgumentType]
        max_steps=config.n_steps if stop_at_step is None else min(stop_at_step, config.n_steps),
        accumulate_grad_batches=config.accumulate,
        callbacks=[*callbacks, saver],
        plugins=[checkpoint_io],
        logger=loggers,
        log_every_n_steps=log_every,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_model_summary=False,
        enable_progress_bar=config.progress,
        use_distributed_sampler=False,
        default_root_dir=checkpoints.parent,
    )
    trainer.fit(module, data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    trainer.save_checkpoint(checkpoints / "last.ckpt", weights_only=False)
    return trainer
