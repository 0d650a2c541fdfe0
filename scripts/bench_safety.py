"""What safety costs: steps per second with guard and checkpoints at their default intervals, against a training without either.

    python scripts/bench_safety.py [--threads 2] [--runs 5]

The quickstart's model and batch on random tokens, trained by the one training loop. A turn trains both and times the same `checkpoints.every`
steps of each, in the middle of which the one writes a checkpoint. The other ends, outside the clock, with one as every training does.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from sparsetrain.entry import quieten
from sparsetrain.kernels.bench import Bench, BenchCase, parse_arguments
from sparsetrain.model import ModelConfig
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.training.callbacks import CallbacksConfig
from sparsetrain.training.checkpoints import CheckpointsConfig
from sparsetrain.training.fit import Exporter, Recipe, TrainerConfig, train_model
from sparsetrain.training.guard import GuardConfig

BATCH, EVERY = 16, CheckpointsConfig().every
MODEL = ModelConfig(d_vocab=1024, n_layer=4, d_model=128, n_ctx=128)


class RandomRows:
    """Random tokens as a function of the batch's number."""

    n_batches = None

    def rows(self, k: int, rank: int, n_ranks: int) -> NDArray[np.int64]:
        return np.random.default_rng(k).integers(0, MODEL.d_vocab, (BATCH, MODEL.n_ctx + 1))

    def identity(self) -> dict[str, Any]:
        return {"made": "random"}


class Clock(L.Callback):
    """Seconds of the steps in the middle: half an interval before the first checkpoint to half an interval behind it."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == EVERY // 2:
            self.started = time.perf_counter()
        elif trainer.global_step == EVERY // 2 + EVERY:
            self.seconds = time.perf_counter() - self.started


def timed(folder: Path, device: str, *, safe: bool) -> float:
    """Seconds of `EVERY` steps."""
    clock = Clock()
    trainer = TrainerConfig(
        n_steps=10 * EVERY, batch_size=BATCH, device="cuda" if "cuda" in device else "cpu", progress=False
    )
    sparsity = SparsityConfig(density=0.125)
    recipe = Recipe(seed=0, model=MODEL, sparsity=sparsity, optim=OptimConfig(), trainer=trainer)
    train_model(
        recipe,
        RandomRows(),
        Exporter(recipe=recipe, folder=folder),
        watchers=[clock],
        callbacks=CallbacksConfig(),
        checkpoints=CheckpointsConfig(every=EVERY if safe else recipe.n_steps),
        guard=GuardConfig(policy="raise" if safe else "off"),
        stop_at_step=EVERY // 2 + EVERY + 1,
    )
    return clock.seconds


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "", runs=5)
    quieten()
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(arguments.runs):
            order = (True, False) if i % 2 else (False, True)  # whoever goes first, each as often
            turn = {safe: timed(Path(folder) / f"{i}-{safe}", arguments.device, safe=safe) for safe in order}
            turns.append((turn[True], turn[False]))
    case = BenchCase(
        name=f"safety:{MODEL.n_layer}x{MODEL.d_model}:step",
        ms=1e3 * median(safe for safe, _ in turns) / EVERY,
        ms_min=1e3 * min(safe for safe, _ in turns) / EVERY,
        versus="a step without guard and checkpoints",
        speedup=median(bare / safe for safe, bare in turns),
    )
    Bench(name="safety", device=arguments.device, runs=arguments.runs, cases=[case]).report()


if __name__ == "__main__":
    main()
