"""Counting dead units leaves a training bit-exactly as it is; starting them anew resumes bit-exactly and keeps the budget at every step."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_training
import torch
from small_training import N_STEPS, RECIPE, Endless, left, train_small

from sparsetrain.model import Transformer
from sparsetrain.sparsity import ReinitConfig, SparsityConfig, build_sparsity, dead_units
from sparsetrain.sparsity.schedule import ScheduleConfig
from sparsetrain.training.callbacks import AtSteps, CallbacksConfig
from sparsetrain.training.checkpoints import CheckpointsConfig
from sparsetrain.training.dead import DeadWatch, reference_text, scalars_of
from sparsetrain.training.fit import Exporter, train_model
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.metrics import read_metrics
from sparsetrain.training.objectives import next_token_loss
from sparsetrain.training.section import dead_entry, training_curves

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")

SPARSE = SparsityConfig(
    density=1 / 32, floor=0, bias_density=0.5, schedule=ScheduleConfig(shape="exponential", end=0.8)
)
ANEW = replace(RECIPE, sparsity=replace(SPARSE, reinit_dead=ReinitConfig(every=4, share=0.3)))
TEXT = [torch.randint(64, (4, 8), generator=torch.Generator().manual_seed(0))]


class Stopped(Exception): ...


def weights(folder: Path, watched: bool) -> bytes:
    recipe = replace(RECIPE, sparsity=SPARSE)
    trained = train_model(
        recipe,
        Endless(),
        Exporter(recipe=recipe, folder=folder),
        objective=small_training.Noise(),
        watchers=[AtSteps("dead_units", range(0, N_STEPS + 1, 3), DeadWatch(TEXT))] if watched else [],
        callbacks=CallbacksConfig(log_every=1),
        checkpoints=CheckpointsConfig(every=100),
        guard=GuardConfig(),
    )
    return (trained.export() / "model.safetensors").read_bytes()


def test_counting_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    assert weights(tmp_path / "watched", True) == weights(tmp_path / "bare", False)
    metrics = read_metrics(tmp_path / "watched/metrics.csv")
    shares = {step: value for step, name, value in metrics if name == "dead_units/all"}
    assert list(shares) == [*range(0, N_STEPS + 1, 3)] and shares[0] < 0.05 < shares[N_STEPS] < 1
    curves = training_curves(tmp_path / "watched/metrics.csv")
    assert {name for name in curves if name.startswith("dead_units")} == {
        f"dead_units/{what}"
        for what in (
            "all", "without_incoming", "without_outgoing", "never_active", "constant",
            "attn_q", "attn_k", "attn_v", "mlp_neuron", "unwritten", "unread",
        )
    }  # fmt: skip


def reinitialised(folder: Path) -> dict[int, float]:
    return {step: n for step, name, n in read_metrics(folder / "metrics.csv") if name == "dead_units/reinitialised"}


@pytest.mark.parametrize("stop", [8, 11])
def test_an_interrupted_training_with_fresh_units_goes_on_bit_exactly(tmp_path: Path, stop: int) -> None:
    def interrupted(model: Transformer, batch: Mapping[str, Any]) -> torch.Tensor:
        if batch["k"] >= 2 * stop:  # two micro-batches a step
            raise Stopped
        return small_training.Noise()(model, batch)

    train_small(tmp_path / "straight", recipe=ANEW)
    with pytest.raises(Stopped):
        train_small(tmp_path / "stopped", recipe=ANEW, objective=interrupted)
    train_small(tmp_path / "stopped", recipe=ANEW)
    assert left(tmp_path / "stopped") == left(tmp_path / "straight")
    counts = reinitialised(tmp_path / "straight")
    assert list(counts) == [4, 8, 12, 16]  # annealing ends at step 19.2
    assert sum(counts.values()) > 0


def test_the_audit_holds_after_every_step_with_fresh_units(tmp_path: Path) -> None:
    trained = train_small(tmp_path, recipe=ANEW, guard=GuardConfig(audit_every=1))
    assert trained.sparsity is not None and all(row.exact and row.floor_kept for row in trained.sparsity.audit())
    assert sum(reinitialised(tmp_path).values()) > 0


def test_fresh_units_change_the_training_and_without_them_nothing_is_logged(tmp_path: Path) -> None:
    plain = train_small(tmp_path / "plain", recipe=replace(RECIPE, sparsity=SPARSE))
    anew = train_small(tmp_path / "anew", recipe=ANEW)
    assert not reinitialised(tmp_path / "plain")
    assert not torch.equal(plain.model.embed.weight, anew.model.embed.weight)
    assert dead_units(anew.model).total.dead < dead_units(plain.model).total.dead


def test_whole_tensors_are_needed() -> None:
    sharded = replace(ANEW, trainer=replace(ANEW.trainer, strategy="fsdp", devices=2))
    with pytest.raises(ValueError, match=r"reinit_dead\.every=4 needs whole tensors.*strategy=ddp") as error:
        sharded.check()
    assert "\n" not in str(error.value)


def test_the_text_is_the_first_batches_of_every_source() -> None:
    batches = {name: [torch.full((2, 5), 10 * i + k) for k in range(3)] for i, name in enumerate("ab")}
    assert [(t.shape, int(t[0, 0])) for t in reference_text(batches)] == [((2, 4), n) for n in (0, 1, 10, 11)]


@torch.no_grad()
def test_scalars_by_hand() -> None:
    model = Transformer(RECIPE.model)
    weights = dict(model.named_parameters())
    weights["blocks.0.attn.W_q.weight"][0] = 0
    weights["blocks.0.mlp.W_out.weight"][:, :4] = 0
    weights["blocks.0.mlp.W_in.weight"][0] = 0
    found = dead_units(model)
    scalars = scalars_of(found)  # 3 * 32 + 128 units, no text
    assert scalars["dead_units/all"] == 5 / 224 and scalars["dead_units/without_incoming"] == 2 / 224
    assert scalars["dead_units/mlp_neuron"] == 4 / 128 and scalars["dead_units/attn_q"] == 1 / 32
    assert "dead_units/never_active" not in scalars
    entry = dead_entry(found)
    assert (entry.share.value, entry.share.n) == (5 / 224, 224)


def test_a_dense_model_may_start_units_anew(tmp_path: Path) -> None:
    dense = SparsityConfig(density=1, reinit_dead=ReinitConfig(every=8))
    assert build_sparsity(dense, N_STEPS) is None
    train_small(tmp_path, recipe=replace(RECIPE, sparsity=dense), objective=next_token_loss)
    assert reinitialised(tmp_path).keys() == {8}
