"""One training of a study: the run's config with the arm's differences, on given rows of tokens.

By default the rows end in an answer, and the loss is that of the answer alone. What is read at given steps rides in the checkpoint,
so that an interrupted training goes on with it. `WorldStudy` has one such training per arm and seed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sparsetrain.data.stream import Order, RowsStream
from sparsetrain.export import read_meta
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import Transformer
from sparsetrain.representation.tracker import SparsityTracker
from sparsetrain.run import RunConfig
from sparsetrain.studies.engine import Arm
from sparsetrain.studies.study import R, TrainedStudy
from sparsetrain.training.callbacks import AtSteps
from sparsetrain.training.checkpoints import newest
from sparsetrain.training.fit import Exporter, train_model
from sparsetrain.training.objectives import Objective, answer_loss

C = TypeVar("C", bound=RunConfig)
Arrays = Mapping[str, NDArray[Any]]
ARMS = {
    "constant": Arm(decay="constant", density=1),
    "cosine": Arm(decay="cosine", density=1),
    "weight_sparse": Arm(decay="constant", density=0.25),
}  # ours
N_PROMPT = 3
"""Tokens before the answer in made worlds."""


def of_arm(config: C, arm: Arm, seed: int, *, name: str | None = None) -> C:
    """The run of one arm and seed."""
    model, sparsity, optim = config.model, config.sparsity, config.optim
    if arm.d_model is not None:
        model = replace(model, d_model=arm.d_model)
    if arm.abs_topk is not None:
        model = replace(model, abs_topk={} if arm.abs_topk == 1 else dict.fromkeys(NODE_KINDS, arm.abs_topk))
    given = {key: getattr(arm, key) for key in ("method", "density", "embed_density", "floor", "compute")}
    sparsity = replace(sparsity, **{key: value for key, value in given.items() if value is not None})
    if arm.anneal_end is not None:
        sparsity = replace(sparsity, schedule=replace(sparsity.schedule, end=arm.anneal_end))
    given = {
        key: value
        for key in ("refresh_every", "refresh_falling", "exact_above", "moments")
        if (value := getattr(arm, key)) is not None
    }
    sparsity = replace(sparsity, computing=replace(sparsity.computing, **given))
    if arm.density == 1:
        sparsity = replace(sparsity, embed_density=None, bias_density=None)
    given = {key: getattr(arm, key) for key in ("lr_peak", "eps", "decay")}
    optim = replace(optim, **{key: value for key, value in given.items() if value is not None})
    return replace(config, seed=seed, name=name or config.name, model=model, sparsity=sparsity, optim=optim)


class Reader:
    """A look at the model at given steps that keeps the arrays it reads, in the checkpoint too.

    Args:
        read: model and step -> arrays; must not touch the model.
    """

    def __init__(self, read: Callable[[Transformer, int], Arrays]) -> None:
        self.read = read
        self.found: dict[int, Arrays] = {}

    def __call__(self, model: Transformer, step: int) -> None:
        self.found[step] = self.read(model, step)

    def state_dict(self) -> dict[str, Any]:
        return {"found": {step: {k: torch.from_numpy(v) for k, v in arrays.items()} for step, arrays in self.found.items()}}  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        found = state_dict["found"]
        self.found = {step: {k: v.numpy() for k, v in arrays.items()} for step, arrays in found.items()}

    def save(self, path: Path) -> None:
        """Writes every array as `[n_checkpoints, ...]`, and `steps`."""
        steps = sorted(self.found)
        arrays = {name: np.stack([self.found[step][name] for step in steps]) for name in self.found[steps[0]]}
        np.savez(path, steps=np.array(steps), **arrays)  # pyright: ignore[reportArgumentType]


def train_arm(
    config: RunConfig,
    rows: NDArray[np.int64],
    folder: Path,
    steps: Collection[int],
    readers: Mapping[str, Reader],
    *,
    order: Order | None = None,
    objective: Objective = answer_loss,
    watchers: Sequence[SparsityTracker] = (),
    start: Callable[[Transformer], object] | None = None,
    tokenizer: str | None = None,
) -> tuple[Transformer, str]:
    """Trains and exports; goes on from the folder's last checkpoint where there is one.

    Args:
        config: of the arm.
        rows: `[n_rows, length]`; `n_steps` batches.
        folder: gets metrics.csv, checkpoints/ and export/.
        steps: optimizer steps at which is read, 0 being initialisation.
        readers: by name.
        order: of training; None: as the rows are given.
        objective: batch -> loss.
        watchers: trackers of more splits.
        start: sets weights before the first step, after they are drawn.
        tokenizer: text of a tokenizer.json for the export.

    Returns:
        The model, and the hash of its weights.
    """
    trained = train_model(
        config.recipe,
        RowsStream(rows, config.trainer.micro_batch, order),
        Exporter(recipe=config.recipe, folder=folder, tokenizer=tokenizer),
        objective=objective,
        start=start,
        watchers=[*watchers, *(AtSteps(name, steps, reader) for name, reader in readers.items())],
        callbacks=config.callbacks,
        checkpoints=config.checkpoints,
        guard=config.guard,
        resume=newest(folder),
    )
    trained.model.cpu()
    return trained.model, read_meta(trained.export())["weights_sha256"]


@dataclass(frozen=True, kw_only=True)
class WorldStudy(TrainedStudy[R]):
    """A study of prompts of a made world."""

    @property
    def given(self) -> Mapping[str, Arm]:
        """The arms as given, or else dense weights under two learning rates and sparse weights."""
        return self.rules.arms or ARMS

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.given)

    def sized(self, arm: str, seed: int, *, d_vocab: int, n_steps: int | None = None) -> RunConfig:
        """The config of an arm on prompts of a made world.

        Args:
            d_vocab: tokens of the world.
            n_steps: optimizer steps, where they follow from the rows.

        Raises:
            ValueError: n_ctx is too short for a prompt.
        """
        config = of_arm(self.config, self.given[arm], seed)
        if config.model.n_ctx < N_PROMPT:
            raise ValueError(f"model.n_ctx={config.model.n_ctx} is shorter than a prompt; give {N_PROMPT} or more")
        trainer = replace(config.trainer, n_steps=config.trainer.n_steps if n_steps is None else n_steps)
        return replace(config, model=replace(config.model, d_vocab=d_vocab), trainer=trainer)
