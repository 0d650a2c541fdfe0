"""A training that is behind is given up at a rung, leaves a checkpoint and can be finished by hand."""

from pathlib import Path
from typing import Any

import pytest
from small_training import RECIPE, Endless

from sparsetrain.training.callbacks import AtSteps, CallbacksConfig
from sparsetrain.training.checkpoints import CheckpointsConfig, newest
from sparsetrain.training.early import EarlyStop, EarlyStopConfig
from sparsetrain.training.fit import Exporter, Trained, train_model
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
N = RECIPE.n_steps


def train(
    folder: Path, above: tuple[float | None, ...] = (None, None), metric: str = "val_loss", **settings: Any
) -> Trained:
    config = EarlyStopConfig(rungs=(0.3, 0.5), above=above, metric=metric)
    validation = AtSteps("validation", config.bounds(N).keys(), lambda model, step: {"val_loss": 10.0 - step})
    trained = train_model(
        RECIPE,
        Endless(),
        Exporter(recipe=RECIPE, folder=folder),
        watchers=[validation, EarlyStop(validation, config, N)],
        callbacks=CallbacksConfig(log_every=1),
        checkpoints=CheckpointsConfig(every=100),
        guard=GuardConfig(),
        resume=newest(folder),
        **settings,
    )
    trained.export()
    return trained


def rungs(folder: Path) -> dict[str, float]:
    return {name: value for _, name, value in read_metrics(folder / "metrics.csv") if name.startswith("rung/")}


def test_it_stops_at_the_first_rung_that_it_misses_and_goes_on_by_hand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(tmp_path / "whole", (2.0, -2.0))
    assert whole.complete and rungs(tmp_path / "whole") == {"rung/0.3": 2.0, "rung/0.5": -2.0}, (
        "at the bound is not above it"
    )
    stopped = train(tmp_path / "behind", (1.9, None))
    assert (stopped.step, stopped.complete) == (8, False) and newest(tmp_path / "behind") is not None
    assert "given up after step 8: val_loss=2 is above 1.9" in caplog.text and list(rungs(tmp_path / "behind")) == [
        "rung/0.3"
    ]
    finished = train(tmp_path / "behind", (1.9, None))
    assert finished.complete

    def weights(name: str) -> bytes:
        return (tmp_path / name / "export" / f"step_{N}" / "model.safetensors").read_bytes()

    assert (
        weights("behind") == weights("whole") == (train(tmp_path / "free").export() / "model.safetensors").read_bytes()
    )


def test_a_loss_that_is_no_number_is_above_any_bound(tmp_path: Path) -> None:
    config = EarlyStopConfig(rungs=(0.3,), above=(5.0,))
    validation = AtSteps("validation", {8}, lambda model, step: {"val_loss": float("nan")})
    trained = train_model(
        RECIPE, Endless(), Exporter(recipe=RECIPE, folder=tmp_path), watchers=[validation, EarlyStop(validation, config, N)],
        callbacks=CallbacksConfig(log_every=1), checkpoints=CheckpointsConfig(every=100), guard=GuardConfig(),
    )  # fmt: skip
    assert trained.step == 8


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"early_stop.metric='loss' is no validation loss of this run; there are val_loss"
    ):
        train(tmp_path, metric="loss")
    with pytest.raises(ValueError, match=r"early_stop.above=\[1.0\] must have an entry for each of rungs"):
        EarlyStopConfig(rungs=(0.3, 0.5), above=(1.0,))
