"""One training: looks at whole steps and changes nothing, an interrupted one goes on with the state of its looks."""

from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sparsetrain.data.stream import RowsStream
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.training.callbacks import AtSteps, CallbacksConfig, Validation, every
from sparsetrain.training.checkpoints import CheckpointsConfig, newest
from sparsetrain.training.fit import Exporter, Recipe, TrainerConfig, train_model
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.metrics import read_metrics
from sparsetrain.training.objectives import answer_loss
from sparsetrain.typed import from_dict

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


def recipe(n_steps: int = 6, accumulate: int = 1) -> Recipe:
    return Recipe(
        seed=3,
        model=ModelConfig(d_vocab=16, n_layer=1, d_model=16, d_head=8, n_ctx=3),
        sparsity=SparsityConfig(density=0.5, floor=0),
        optim=OptimConfig(),
        trainer=TrainerConfig(n_steps=n_steps, batch_size=4, accumulate=accumulate, device="cpu", progress=False),
    )


def test_validation_per_character_by_hand() -> None:
    chars = {"code": 3.0, "words": 5.0}
    validation = Validation(batches={}, weights={"code": 3.0, "words": 1.0}, chars_per_token=chars)
    losses = validation.mixed({"code": 3 * log(2), "words": 2 * log(2)})
    bits = validation.bits_per_char(losses)
    # a token of the mixture has 3/4 * 3 + 1/4 * 2 bits and 3/4 * 3 + 1/4 * 5 characters
    assert bits == {"mixed": pytest.approx(2.75 / 3.5), "code": pytest.approx(1), "words": pytest.approx(2 / 5)}


class Seen:
    """A look with a state: the mean weight at each step. It draws a random number, which the training must not notice."""

    def __init__(self) -> None:
        self.means: dict[int, float] = {}

    def __call__(self, model: Transformer, step: int) -> dict[str, float]:
        torch.randn(3)
        self.means[step] = model.embed.weight.mean().item()
        return {"seen/mean": self.means[step]}

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.means = state_dict["means"]


def train(folder: Path, look: Any = None, accumulate: int = 1, **settings: Any) -> bytes:
    made = recipe(accumulate=accumulate)
    rows = torch.randint(16, (24, 4), generator=torch.Generator().manual_seed(0)).numpy()
    trained = train_model(
        made,
        RowsStream(rows, made.trainer.micro_batch),
        Exporter(recipe=made, folder=folder),
        objective=answer_loss,
        watchers=[] if look is None else [AtSteps("seen", {0, 1, 3, 6}, look)],
        callbacks=CallbacksConfig(log_every=1),
        checkpoints=CheckpointsConfig(every=2),
        guard=GuardConfig(),
        **settings,
    )
    return (trained.export() / "model.safetensors").read_bytes()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_looking_changes_nothing_and_happens_once_a_step(tmp_path: Path, accumulate: int) -> None:
    look = Seen()
    bare = train(tmp_path / "bare", accumulate=accumulate)
    assert train(tmp_path / "watched", look, accumulate=accumulate) == bare
    assert list(look.means) == [0, 1, 3, 6]
    logged = [(step, value) for step, name, value in read_metrics(tmp_path / "watched/metrics.csv") if "seen" in name]
    assert logged == [*look.means.items()]


class Stopped(Exception): ...


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_training_goes_on_with_what_its_looks_had_seen(tmp_path: Path, stop: int) -> None:
    look, first, then = Seen(), Seen(), Seen()
    straight = train(tmp_path / "straight", look)

    def interrupted(model: Transformer, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > stop:
            raise Stopped
        return answer_loss(model, batch)

    calls: list[int] = []
    made = recipe()
    rows = torch.randint(16, (24, 4), generator=torch.Generator().manual_seed(0)).numpy()
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        train_model(
            made, RowsStream(rows, 4), Exporter(recipe=made, folder=folder), objective=interrupted,
            watchers=[AtSteps("seen", {0, 1, 3, 6}, first)], callbacks=CallbacksConfig(log_every=1), checkpoints=CheckpointsConfig(every=2), guard=GuardConfig(),
        )  # fmt: skip
    assert train(folder, then, resume=newest(folder)) == straight
    assert then.means == look.means
    metrics = [
        [row for row in read_metrics(f / "metrics.csv") if row[1] != "tokens_per_s"]
        for f in (folder, tmp_path / "straight")
    ]
    assert metrics[0] == metrics[1]


def test_a_training_longer_than_its_rows_is_refused(tmp_path: Path) -> None:
    made = recipe(n_steps=7)
    rows = torch.zeros(24, 4, dtype=torch.int64).numpy()
    with pytest.raises(ValueError, match="the rows are 6 batches"):
        train_model(
            made, RowsStream(rows, 4), Exporter(recipe=made, folder=tmp_path), callbacks=CallbacksConfig(), checkpoints=CheckpointsConfig(), guard=GuardConfig(),
        )  # fmt: skip


def test_the_look_sees_whole_steps_and_logs_what_it_returns() -> None:
    seen, logged = [], []

    def look(model: object, step: int) -> dict[str, float]:
        seen.append(step)
        return {"circuits/a/n_edges": 4.0, "val_loss": 1.0}

    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics)))
    callback, shown = AtSteps("circuits", [1, 3], look), {}
    model = SimpleNamespace(model=Transformer(recipe().model))
    for batch in range(8):  # two batches a step
        trainer: Any = SimpleNamespace(
            global_step=(batch + 1) // 2, accumulate_grad_batches=2, is_global_zero=batch < 5, loggers=[logger],
            progress_bar_metrics=shown,
        )  # fmt: skip
        callback.on_train_batch_end(trainer, model, None, None, batch)  # pyright: ignore[reportArgumentType]
    assert seen == [1], "step 3 ended on another rank"
    assert logged == [(1, {"circuits/a/n_edges": 4.0, "val_loss": 1.0})] and shown == {"val_loss": 1.0}


def test_every_n_steps_and_the_last() -> None:
    assert every(3, 8) == {3, 6, 8}
    assert every(10, 4) == {4}


def test_config_out_of_range_is_one_line() -> None:
    with pytest.raises(ValueError, match="n_steps=0"):
        from_dict(TrainerConfig, {"n_steps": 0})
    with pytest.raises(ValueError, match="batch_size=6 must be a multiple"):
        TrainerConfig(batch_size=6, accumulate=4)
    with pytest.raises(ValueError, match="val_every=0"):
        from_dict(CallbacksConfig, {"val_every": 0})
