"""A profile of a few steps: which ones, what is counted, and that the training does not notice."""

import json
from pathlib import Path

import pytest
import torch

from sparsetrain.data.stream import RowsStream
from sparsetrain.model import ModelConfig
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.training import profiling
from sparsetrain.training.callbacks import CallbacksConfig
from sparsetrain.training.checkpoints import CheckpointsConfig
from sparsetrain.training.fit import Exporter, Recipe, TrainerConfig, train_model
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.objectives import answer_loss
from sparsetrain.training.profiling import PROFILE, StepProfile
from sparsetrain.typed import from_dict

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


def train(folder: Path, profile_steps: int, accumulate: int = 1, n_steps: int = 6) -> bytes:
    made = Recipe(
        seed=3,
        model=ModelConfig(d_vocab=16, n_layer=1, d_model=16, d_head=8, n_ctx=3),
        sparsity=SparsityConfig(density=0.5, floor=0),
        optim=OptimConfig(),
        trainer=TrainerConfig(n_steps=n_steps, batch_size=4, accumulate=accumulate, device="cpu", progress=False),
    )
    rows = torch.randint(16, (24, 4), generator=torch.Generator().manual_seed(0)).numpy()
    trained = train_model(
        made,
        RowsStream(rows, made.trainer.micro_batch),
        Exporter(recipe=made, folder=folder),
        objective=answer_loss,
        watchers=[],
        callbacks=CallbacksConfig(log_every=1, profile_steps=profile_steps),
        checkpoints=CheckpointsConfig(every=2),
        guard=GuardConfig(),
    )
    return (trained.export() / "model.safetensors").read_bytes()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_some_steps_are_profiled_and_none_changed(tmp_path, monkeypatch, accumulate):
    monkeypatch.setattr(profiling, "N_BEFORE", 2)
    bare = train(tmp_path / "bare", 0, accumulate)
    assert train(tmp_path / "profiled", 3, accumulate) == bare and not (tmp_path / "bare" / PROFILE).exists()
    found = from_dict(StepProfile, json.loads((tmp_path / "profiled" / PROFILE).read_text()))
    assert (found.device, found.first_step, found.n_steps, found.peak_memory_mb) == ("cpu", 2, 3, None)
    assert found.tokens_per_s * found.ms_per_step / 1000 == pytest.approx(4 * 3), "tokens of one step"
    calls = {cost.name: cost.per_step for cost in found.costs}
    assert sum(cost.ms_per_step for cost in found.costs) <= found.ms_per_step * 1.05
    assert any("mm" in name for name in calls) and all(
        per_step * 3 == int(per_step * 3 + 0.5) for per_step in calls.values()
    )
    # what the training reads off a tensor waits on every device
    assert set(found.waits) == {"aten::_local_scalar_dense"}


def test_a_training_that_ends_before_writes_none(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "N_BEFORE", 2)
    train(tmp_path, 30)
    assert not (tmp_path / PROFILE).exists() and (tmp_path / "export").is_dir()
