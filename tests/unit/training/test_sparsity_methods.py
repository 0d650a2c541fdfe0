"""Every way to be sparse inside the one training: an interrupted one goes on bit-exactly, nobody sees weights that nobody would export."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_training import N_STEPS, RECIPE, Endless, left, train_small

from sparsetrain.export import load_model
from sparsetrain.optim import lr_factor
from sparsetrain.sparsity import METHODS, ScheduleConfig, SparsityConfig
from sparsetrain.sparsity.config import RigLConfig, SetConfig, TopKastConfig
from sparsetrain.training.callbacks import AtSteps, CallbacksConfig
from sparsetrain.training.checkpoints import CheckpointsConfig, newest
from sparsetrain.training.fit import Exporter, train_model
from sparsetrain.training.guard import GuardConfig

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


def recipe(method):
    return replace(
        RECIPE,
        sparsity=SparsityConfig(
            method=method,
            density=0.5 if method == "two_of_four" else 0.125,
            floor=0,
            schedule=ScheduleConfig(end=0.5),
            rigl=RigLConfig(update_every=3),
            set=SetConfig(update_every=3),
            top_kast=TopKastConfig(update_every=3),
        ),
    )


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_training_goes_on_bit_exactly(tmp_path: Path, method) -> None:
    """Before the mask is fixed, and after it; every step's budgets are counted on the way."""
    counted = GuardConfig(audit_every=1)
    whole = train_small(tmp_path / "whole", recipe=recipe(method), guard=counted)
    for step in (7, 23):
        train_small(tmp_path / f"{step}", recipe=recipe(method), stop_at_step=step)
        train_small(tmp_path / f"{step}", recipe=recipe(method), guard=counted)
        assert left(tmp_path / f"{step}") == left(tmp_path / "whole")
        one, other = ((tmp_path / name / "export" / f"step_{N_STEPS}" / "model.safetensors").read_bytes() for name in ("whole", f"{step}"))  # fmt: skip
        assert one == other
    assert all(row.exact for row in whole.sparsity.audit())


@pytest.mark.parametrize("method", METHODS)
def test_looks_and_exports_on_the_way_see_what_would_be_exported(tmp_path: Path, method) -> None:
    seen = {}
    export = Exporter(recipe=recipe(method), folder=tmp_path)

    def look(model, step):
        seen[step] = {name: p.detach().clone() for name, p in model.named_parameters()}

    train_model(
        recipe(method), Endless(), export, watchers=[AtSteps("look", (5, 20), look)],
        callbacks=CallbacksConfig(export_every=5), checkpoints=CheckpointsConfig(every=5), guard=GuardConfig(), stop_at_step=20,
    )  # fmt: skip
    for step, weights in seen.items():
        exported = load_model(tmp_path / "export" / f"step_{step}").state_dict()
        assert all(torch.equal(exported[name], value) for name, value in weights.items())
    stored = torch.load(newest(tmp_path), weights_only=True)["state_dict"]
    name = "blocks.0.mlp.W_in.weight"
    share = float((seen[20][name] != 0).float().mean())
    budget = 0.5 if method == "two_of_four" else 0.125
    assert share <= budget + 1e-6
    dense = method in ("straight_through", "top_kast", "two_of_four")  # not fixed before step 22
    assert bool((stored[f"model.{name}"] == 0).any()) != dense


def test_gates_have_a_rate_of_their_own(tmp_path: Path) -> None:
    train_small(tmp_path, recipe=recipe("l0"), stop_at_step=10)
    groups = torch.load(newest(tmp_path), weights_only=True)["optimizer_states"][0]["param_groups"]
    assert len(groups) == 3 and groups[2]["lr"] == groups[2]["initial_lr"] == 0.05 and groups[2]["eps"] == 1e-8
    settings = RECIPE.optim
    assert groups[0]["lr"] == pytest.approx(settings.lr_peak * lr_factor(10, N_STEPS, settings, density=1 - 0.875 * 10 / 12))  # fmt: skip


@pytest.mark.parametrize("setting", [{"devices": 2}, {"compile": True}])
def test_several_devices_and_compiled_models_are_for_topk(setting) -> None:
    changed = replace(recipe("rigl"), trainer=replace(RECIPE.trainer, **setting))
    with pytest.raises(ValueError, match=r"sparsity\.method=rigl is for one device without torch\.compile"):
        changed.check()
    replace(changed, sparsity=RECIPE.sparsity).check()


@pytest.mark.parametrize("allow", ["sparsity.method", "sparsity.rigl.fraction"])
def test_a_method_cannot_change_within_a_run(tmp_path: Path, allow) -> None:
    from sparsetrain.training.resume import ResumeConfig

    with pytest.raises(ValueError, match="cannot change within a run"):
        ResumeConfig(allow=(allow,))
    train_small(tmp_path, recipe=recipe("rigl"), stop_at_step=4)
    other = recipe("set") if allow == "sparsity.method" else replace(recipe("rigl"), sparsity=replace(recipe("rigl").sparsity, rigl=RigLConfig(update_every=3, fraction=0.5)))  # fmt: skip
    with pytest.raises(ValueError, match=rf"{allow}=.* there, .* here; resume with those of the checkpoint$"):
        train_small(tmp_path, recipe=other, allow=["sparsity"])
