"""One training of a study: the run's model and optimizer, with the arm's differences, on given rows of tokens.

By default the rows end in an answer, and the loss is that of the answer alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsetrain.data.stream import RowsStream
from sparsetrain.export import read_meta
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.representation.tracker import SparsityTracker
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.studies.engine import Arm
from sparsetrain.training.callbacks import AtSteps
from sparsetrain.training.fit import Exporter, Recipe, train_model
from sparsetrain.training.objectives import Objective, answer_loss
from sparsetrain.training.resume import last_checkpoint

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
        return replace(self.config.sparsity, density=self.arm.density)

    @property
    def recipe(self) -> Recipe:
        """Everything besides the rows that decides the trained weights."""
        return Recipe(
            seed=self.seed,
            model=self.model_config,
            sparsity=self.sparsity_config,
            optim=replace(self.config.optim, decay=self.arm.decay),
            trainer=replace(self.config.trainer, n_steps=self.n_steps),
        )

    def inputs(self) -> dict[str, Any]:
        """The recipe as the key of a stage."""
        return self.recipe.key()

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
        recipe, last = self.recipe, last_checkpoint(folder)
        # What a look without a state had read before an interruption is lost: such an arm starts from its beginning.
        resume = last if last.is_file() and hasattr(look, "load_state_dict") else None
        trained = train_model(
            recipe,
            RowsStream(rows.numpy(), recipe.trainer.micro_batch),
            Exporter(recipe=recipe, folder=folder, tokenizer=tokenizer),
            objective=self.objective,
            start=start,
            watchers=[AtSteps("look", steps, look), *watchers],
            callbacks=self.config.callbacks,
            resume=resume,
        )
        trained.model.cpu()
        return trained.model, read_meta(trained.export())


def as_rows(rows: Any) -> Tensor:
    """Token rows as an int64 tensor."""
    return torch.as_tensor(rows).long()
