"""Settings that change at a resume: named with both values and refused, or allowed and then really applied."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import N_STEPS, RECIPE, Endless, left, train_small

from sparsetrain.sparsity.projection import TopKProjection
from sparsetrain.training.checkpoints import CheckpointsConfig, newest
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.resume import ResumeConfig, check_settings, differences

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


def changed(**optim: Any):
    return replace(RECIPE, optim=replace(RECIPE.optim, **optim))


LONGER = replace(RECIPE, trainer=replace(RECIPE.trainer, n_steps=N_STEPS + 6))
SPARSER = replace(RECIPE, sparsity=replace(RECIPE.sparsity, density=0.125))


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        (changed(lr_peak=0.001), r"optim\.lr_peak=0\.01 there, 0\.001 here.*resume\.allow=\[optim\.lr_peak\]"),
        (changed(weight_decay=0.3), r"optim\.weight_decay=0\.1 there, 0\.3 here"),
        (changed(eps=1e-8), r"optim\.eps=0\.1 there, 1e-08 here"),
        (SPARSER, r"sparsity\.density=0\.25 there, 0\.125 here"),
        (LONGER, r"trainer\.n_steps=24 there, 30 here"),
        (replace(RECIPE, seed=4), r"seed=3 there, 4 here; resume with those of the checkpoint$"),
        (
            changed(lr_peak=0.001, eps=1.0),
            r"optim\.lr_peak=.*, optim\.eps=.*resume\.allow=\[optim\.lr_peak,optim\.eps\]",
        ),
    ],
)
def test_a_changed_setting_is_refused_with_both_values(tmp_path: Path, recipe: Any, named: str) -> None:
    train_small(tmp_path, stop_at_step=4)
    before = newest(tmp_path).read_bytes()
    with pytest.raises(ValueError, match=named):
        train_small(tmp_path, recipe=recipe)
    assert newest(tmp_path).read_bytes() == before


@pytest.mark.parametrize(
    ("method", "change", "named"),
    [
        ("rigl", {"density": 0.125}, "sparsity.density=0.25 there, 0.125 here"),
        ("set", {"floor": 1}, "sparsity.floor=0 there, 1 here"),
        ("one_shot", {}, "trainer.n_steps=24 there, 30 here"),
    ],
)
def test_a_mask_that_was_chosen_keeps_its_size(method: str, change: dict[str, Any], named: str) -> None:
    then, now = ({"sparsity": {"method": method, "density": 0.25, "floor": 0} | more, "trainer": {"n_steps": n}} for more, n in (({}, 24), (change, 24 if change else 30)))  # fmt: skip
    with pytest.raises(ValueError, match=f"{named}; resume with those of the checkpoint$"):
        check_settings(then, now, ["sparsity.density", "sparsity.floor", "trainer.n_steps"])


@pytest.mark.parametrize(
    ("recipe", "allow"),
    [
        (changed(lr_peak=0.001), ["optim.lr_peak"]),
        (changed(weight_decay=0.3, eps=1.0, betas=(0.5, 0.6)), ["optim"]),
        (SPARSER, ["sparsity.density"]),
        (LONGER, ["trainer.n_steps"]),
    ],
)
def test_an_allowed_one_is_applied_from_there_on(tmp_path: Path, recipe: Any, allow: list[str]) -> None:
    train_small(tmp_path / "a", stop_at_step=4)
    train_small(tmp_path / "b", stop_at_step=4)
    train_small(tmp_path / "a", recipe=recipe, allow=allow)
    train_small(tmp_path / "b")
    content = torch.load(newest(tmp_path / "a"), weights_only=True)
    assert content["global_step"] == recipe.n_steps
    for group in content["optimizer_states"][0]["param_groups"]:
        assert (group["eps"], tuple(group["betas"])) == (recipe.optim.eps, recipe.optim.betas)
        assert group["initial_lr"] == recipe.optim.lr_peak and group["weight_decay"] in (recipe.optim.weight_decay, 0.0)
    other = torch.load(newest(tmp_path / "b"), weights_only=True)
    assert any(not torch.equal(v, other["state_dict"][k]) for k, v in content["state_dict"].items())
    rates = [
        {
            int(r.split(",")[0]): float(r.split(",")[2])
            for r in (tmp_path / run / "metrics.csv").read_text().splitlines()
            if ",lr," in r
        }
        for run in "ab"
    ]
    assert rates[0][4] == rates[1][4]
    if allow == ["optim.lr_peak"]:
        assert all(rates[0][step] == pytest.approx(rates[1][step] / 10) for step in range(6, N_STEPS))


def test_where_and_how_fast_may_differ(tmp_path: Path) -> None:
    train_small(tmp_path / "a")
    train_small(tmp_path / "b", stop_at_step=5)
    train_small(tmp_path / "b", recipe=replace(RECIPE, trainer=replace(RECIPE.trainer, progress=True, device="auto")))
    assert left(tmp_path / "a") == left(tmp_path / "b")


def test_what_cannot_change_is_refused_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"resume\.allow='model\.d_model' cannot change within a run; allowed: optim, sparsity"
    ):
        ResumeConfig(allow=("optim.lr_peak", "model.d_model"))


def test_differences_of_nested_settings() -> None:
    assert differences({"a": {"b": 1, "c": {}}, "d": [1]}, {"a": {"b": 2, "c": {}}, "d": [1]}) == {"a.b": (1, 2)}
    assert differences({"a": 1}, {"a": 1, "b": {"c": None, "d": 0}}) == {"b.d": (None, 0)}


@pytest.mark.parametrize("torn", ["7,train_lo", "7,train_loss,3.1", "7,train_loss", "x"])
def test_a_torn_last_line_of_the_metrics_is_cut_back(tmp_path: Path, torn: str) -> None:
    train_small(tmp_path / "a")
    train_small(tmp_path / "b", stop_at_step=7)
    with (tmp_path / "b" / "metrics.csv").open("a") as file:
        file.write(f"8,train_loss,9.0\n{torn}")
    train_small(tmp_path / "b")
    assert left(tmp_path / "a") == left(tmp_path / "b")


def test_every_count_is_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(tmp_path / "a", guard=GuardConfig(audit_every=1))
    before = TopKProjection.after_step

    def forgetful(self: TopKProjection) -> None:
        before(self)
        with torch.no_grad():
            self.tensors[0].param.add_(1.0)

    monkeypatch.setattr(TopKProjection, "after_step", forgetful)
    with pytest.raises(AssertionError, match=r"nonzeros after step 3, \d+ allowed"):
        train_small(tmp_path / "b", guard=GuardConfig(audit_every=3))


@pytest.mark.slow
def test_no_budget_and_no_floor_is_ever_broken(tmp_path: Path) -> None:
    """1000 steps with a falling density and floors, stopped and resumed three times, every tensor counted after every step."""
    recipe = replace(
        RECIPE,
        sparsity=replace(RECIPE.sparsity, floor=2),
        trainer=replace(RECIPE.trainer, n_steps=1000, accumulate=1),
    )
    for stop in (300, 301, 700, None):
        train_small(
            tmp_path, recipe=recipe, checkpoints=CheckpointsConfig(), guard=GuardConfig(audit_every=1), stop_at_step=stop
        )  # fmt: skip
    assert newest(tmp_path).name == "step_1000.ckpt"


def test_a_stream_of_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(tmp_path, stop_at_step=4)
    monkeypatch.setattr(Endless, "identity", lambda self: {"made": "of something else"})
    with pytest.raises(ValueError, match="trained on other batches: made='endless' there, 'of something else' here"):
        train_small(tmp_path)
