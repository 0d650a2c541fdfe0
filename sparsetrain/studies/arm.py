"""One training of a study: the run's model and optimizer, with the arm's differences, on given rows of tokens.

By default the rows end in an answer, and the loss is that of the answer alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsetrain
from sparsetrain.data.datamodule import RowsDataModule
from sparsetrain.export import export_model, read_meta
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.representation.tracker import SparsityTracker
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig, build_sparsity
from sparsetrain.studies.engine import Arm
from sparsetrain.training.callbacks import AtSteps, ChecksummedIO, MetricsCSV, ProgressBar, ResumeLogs, Throughput
from sparsetrain.training.fit import LitTransformer, Objective, answer_loss, fit

N_PROMPT = 3
"""Tokens before the answer."""


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """One arm and seed of a study."""

    config: RunConfig
    arm: Arm
    seed: int
    d_vocab: int
    n_steps: int
    objective: Objective = answer_loss
    n_prompt: int = N_PROMPT
    """Tokens that the model must be able to read."""

    @property
    def model_config(self) -> ModelConfig:
        """The run's model with the study's vocabulary.

        Raises:
            ValueError: n_ctx is too short for a prompt.
        """
        if self.config.model.n_ctx < self.n_prompt:
            raise ValueError(
                f"model.n_ctx={self.config.model.n_ctx} is shorter than a prompt; give {self.n_prompt} or more"
            )
        return replace(self.config.model, d_vocab=self.d_vocab)

    @property
    def sparsity_config(self) -> SparsityConfig:
        """The run's sparsity at the arm's density."""
        if self.arm.density == 1:
            return replace(self.config.sparsity, method="none")
        return replace(self.config.sparsity, method="topk", density=self.arm.density)

    def inputs(self) -> dict[str, Any]:
        """Everything besides the rows that decides the trained weights."""
        trainer = self.config.trainer
        return {
            "version": sparsetrain.__version__,
            "seed": self.seed,
            "n_steps": self.n_steps,
            "model": asdict(self.model_config),
            "sparsity": asdict(self.sparsity_config),
            "optim": asdict(replace(self.config.optim, decay=self.arm.decay)),
            "trainer": {
                "batch_size": trainer.batch_size,
                "accumulate": trainer.accumulate,
                "precision": trainer.precision,
            },
        }

    def train(
        self,
        rows: Tensor,
        folder: Path,
        steps: Sequence[int],
        look: Callable[[Transformer, int], object],
        *,
        watchers: Sequence[SparsityTracker] = (),
        start: Callable[[Transformer], object] | None = None,
        tokenizer: str | None = None,
    ) -> tuple[Transformer, Mapping[str, Any]]:
        """Trains and exports.

        Args:
            rows: `[n_rows, length]` int64 in the order of training; `n_steps` batches.
            folder: gets metrics.csv, checkpoints/ and export/.
            steps: optimizer steps at which `look` is called, 0 being initialisation.
            look: gets the model and the step; must not touch it.
            watchers: trackers of more splits.
            start: sets weights before the first step, after they are drawn.
            tokenizer: text of a tokenizer.json for the export.

        Returns:
            The model, and its meta data with the hash of its weights.
        """
        trainer = replace(self.config.trainer, n_steps=self.n_steps)
        torch.manual_seed(self.seed)
        model = Transformer(self.model_config)
        if start is not None:
            start(model)
        sparsity = build_sparsity(self.sparsity_config, self.n_steps)
        if sparsity is not None:
            sparsity.prepare(model)
        optim = replace(self.config.optim, decay=self.arm.decay)
        module = LitTransformer(model, self.objective, optim, sparsity, self.n_steps)
        callbacks = self.config.callbacks
        fit(
            module,
            RowsDataModule(rows, trainer.batch_size // trainer.accumulate),
            trainer,
            checkpoint_io=ChecksummedIO(),
            callbacks=[
                ResumeLogs(),
                Throughput(callbacks.log_every),
                AtSteps(steps, lambda step: look(model, step)),
                *watchers,
                *([ProgressBar()] if trainer.progress else []),
            ],
            loggers=[MetricsCSV(folder / "metrics.csv")],
            checkpoints=folder / "checkpoints",
            checkpoint_every=self.n_steps,
            resume=None,
            stop_at_step=None,
            log_every=min(callbacks.log_every, self.n_steps),
        )
        meta = {
            "step": self.n_steps,
            "seed": self.seed,
            "version": sparsetrain.__version__,
            "density": module.density(self.n_steps),
        }
        model.cpu()
        export = export_model(model, folder / "export" / f"step_{self.n_steps}", tokenizer, meta)
        return model, read_meta(export)


def as_rows(rows: Any) -> Tensor:
    """Token rows as an int64 tensor."""
    return torch.as_tensor(rows).long()
