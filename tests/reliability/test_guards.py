"""Steps that go wrong: the policy is obeyed, weights are never anything but finite, and the last healthy checkpoint stays."""

import csv
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import ACCUMULATE, N_STEPS, RECIPE, Noise, left, train_small
from torch import Tensor

from sparsetrain.model import Transformer
from sparsetrain.store import is_whole
from sparsetrain.training.checkpoints import CheckpointsConfig, checkpoint_path, checkpoints, newest
from sparsetrain.training.fit import LitTransformer
from sparsetrain.training.guard import Guard, GuardConfig, WrongStep

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
SHORT = 4
"""Steps of the window in which losses are compared."""


class Faulty(Noise):
    """The loss, but for one micro-batch."""

    def __init__(self, batch: int, fault: str) -> None:
        self.batch = batch
        self.fault = fault
        self.seen: list[int] = []

    def __call__(self, model: Transformer, batch: Mapping[str, Any]) -> Tensor:
        self.seen.append(batch["k"])
        loss = super().__call__(model, batch)
        if batch["k"] != self.batch:
            return loss
        match self.fault:
            case "nan":
                return loss * math.nan
            case "inf":
                return loss * math.inf
            case "spike":
                return loss + 100
            case "gradient":
                return loss + (loss - loss.detach()).abs().sqrt()  # finite, with a gradient that is not
        raise AssertionError(self.fault)


def faults(n: int, seed: int) -> list[tuple[int, str]]:
    rng = random.Random(seed)
    return [
        (rng.randrange(2 * SHORT, N_STEPS * ACCUMULATE), rng.choice(["nan", "inf", "spike", "gradient"]))
        for _ in range(n)
    ]


def check_finite(folder: Path) -> None:
    for path in checkpoints(folder):
        content = torch.load(path, weights_only=True)
        states = [*content["state_dict"].values()]
        states += [v for state in content["optimizer_states"][0]["state"].values() for v in state.values()]
        assert all(torch.isfinite(v).all() for v in states), path


def config(policy: Any, **settings: Any) -> GuardConfig:
    return GuardConfig(policy=policy, window=SHORT, **settings)


TWENTY = pytest.mark.parametrize(("batch", "fault"), faults(20, seed=0), ids=lambda value: str(value))


@TWENTY
def test_raise_ends_the_run_and_the_checkpoint_before_stays(tmp_path: Path, batch: int, fault: str) -> None:
    step = batch // ACCUMULATE
    with pytest.raises(FloatingPointError, match=f"at step {step} .*{batch}.*resume.allow") as error:
        train_small(tmp_path, objective=Faulty(batch, fault), guard=config("raise"))
    assert ("nats above" in str(error.value)) == (fault == "spike")
    assert newest(tmp_path) == checkpoint_path(tmp_path, step // 2 * 2)
    check_finite(tmp_path)


@TWENTY
def test_skip_takes_the_step_without_a_gradient(
    tmp_path: Path, batch: int, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    trained = train_small(tmp_path, objective=Faulty(batch, fault), guard=config("skip"), every=1000)
    assert trained.step == N_STEPS and f"at step {batch // ACCUMULATE} " in caplog.text
    check_finite(tmp_path)


@TWENTY
def test_rollback_leaves_the_batches_of_the_step_out(tmp_path: Path, batch: int, fault: str) -> None:
    objective, first = Faulty(batch, fault), batch // ACCUMULATE * ACCUMULATE
    trained = train_small(tmp_path, objective=objective, guard=config("rollback"))
    assert trained.step == N_STEPS
    check_finite(tmp_path)
    left_out = list(range(first, first + ACCUMULATE))
    assert torch.load(newest(tmp_path), weights_only=True)["TokenDataModule"]["left_out"] == left_out
    assert objective.seen[-1] == N_STEPS * ACCUMULATE + ACCUMULATE - 1, "others took their place"
    with (tmp_path / "metrics.csv").open() as file:
        rows = [(int(row["step"]), float(row["value"])) for row in csv.DictReader(file) if row["name"] == "train_loss"]
    assert [step for step, _ in rows] == list(range(1, N_STEPS + 1)) and max(loss for _, loss in rows) < 50


def test_a_run_rolled_back_and_killed_resumes_exactly(tmp_path: Path) -> None:
    train_small(tmp_path / "a", objective=Faulty(13, "nan"), guard=config("rollback"))
    train_small(tmp_path / "b", objective=Faulty(13, "nan"), guard=config("rollback"), stop_at_step=9)
    train_small(tmp_path / "b", objective=Faulty(13, "nan"), guard=config("rollback"))
    assert left(tmp_path / "a") == left(tmp_path / "b")


def test_a_training_that_cannot_be_helped_ends(tmp_path: Path) -> None:
    class Diverged(Noise):
        def __call__(self, model: Transformer, batch: Mapping[str, Any]) -> Tensor:
            return super().__call__(model, batch) * (math.nan if batch["k"] > 10 else 1)

    for policy in ("skip", "rollback"):
        with pytest.raises(FloatingPointError, match=r"3 steps were left out before \(guard.limit\)") as ended:
            train_small(tmp_path / policy, objective=Diverged(), guard=config(policy, limit=3))
        check_finite(tmp_path / policy)
        # Steps of ACCUMULATE batches: the first wrong one is that of batch 11, and three more are tried.
        first = 11 // ACCUMULATE * ACCUMULATE + 3 * ACCUMULATE
        assert f"(batches {first}, {first + 1})" in str(ended.value), policy


def test_what_was_left_out_before_a_stop_counts(tmp_path: Path) -> None:
    """Two rollbacks before a stop and one after it are three, whatever the newest checkpoint knew."""

    class Twice(Noise):
        def __call__(self, model: Transformer, batch: Mapping[str, Any]) -> Tensor:
            return super().__call__(model, batch) * (math.nan if batch["k"] in (4, 8, 40) else 1)

    train_small(tmp_path, objective=Twice(), guard=config("rollback", limit=2), stop_at_step=12)
    with pytest.raises(FloatingPointError, match="2 steps were left out before"):
        train_small(tmp_path, objective=Twice(), guard=config("rollback", limit=2))


def test_rollback_has_somewhere_to_go_at_once(tmp_path: Path) -> None:
    """From another run's checkpoint, and while the first one is still being written in the background."""
    train_small(tmp_path / "before", stop_at_step=4)
    trained = train_small(
        tmp_path / "other",
        objective=Faulty(9, "nan"),
        guard=config("rollback"),
        every=1000,
        resume=newest(tmp_path / "before"),
    )
    assert trained.step == N_STEPS and checkpoint_path(tmp_path / "other", 4).is_file()
    slow = CheckpointsConfig(every=1000, background=True)
    trained = train_small(tmp_path / "slow", checkpoints=slow, objective=Faulty(1, "nan"), guard=config("rollback"))
    assert trained.step == N_STEPS


def test_exploded_weights_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = LitTransformer.on_before_optimizer_step

    def exploding(self: LitTransformer, optimizer: Any) -> None:
        before(self, optimizer)
        if self.global_step == 9:
            with torch.no_grad():
                self.model.blocks[0].mlp.W_in.weight[0, 0] = 1e29

    monkeypatch.setattr(LitTransformer, "on_before_optimizer_step", exploding)
    with pytest.raises(
        FloatingPointError, match=r"after step 10 model.blocks.0.mlp.W_in.weight has values up to (1e\+29|9.99e\+28)"
    ):
        train_small(tmp_path)
    assert newest(tmp_path) == checkpoint_path(tmp_path, 8) and is_whole(checkpoint_path(tmp_path, 8))


def test_a_healthy_training_is_the_same_under_every_policy(tmp_path: Path) -> None:
    for policy in ("raise", "skip", "rollback", "off"):
        train_small(tmp_path / policy, guard=config(policy))
    assert left(tmp_path / "raise") == left(tmp_path / "skip") == left(tmp_path / "rollback")
    assert left(tmp_path / "off")["metrics"] == left(tmp_path / "raise")["metrics"]


def test_off_trains_on_but_saves_nothing_unhealthy(tmp_path: Path) -> None:
    dense = replace(RECIPE, model=replace(RECIPE.model, abs_topk={}))  # AbsTopK refuses NaN by itself
    with pytest.raises(FloatingPointError, match="not finite or exploded, so this state is not saved"):
        train_small(tmp_path, recipe=dense, objective=Faulty(13, "nan"), guard=config("off"))
    check_finite(tmp_path)
    assert newest(tmp_path) == checkpoint_path(tmp_path, 6)


def test_the_judge() -> None:
    guard = Guard(GuardConfig(policy="rollback", window=3, spike=2.0))
    assert all(guard.judge(step, [step], loss, 1.0) for step, loss in enumerate([9.0, 5.0, 4.0, 3.0]))
    assert guard.judge(4, [4], 6.9, 1.0), "less than 2 above the largest of the last three"
    with pytest.raises(WrongStep, match=r"loss 9.500 is 2.6 nats above .* at step 5 \(batches 5, 6\)"):
        guard.judge(5, [5, 6], 9.5, 1.0)
    again = Guard(GuardConfig(policy="skip", window=3, spike=2.0))
    again.load_state_dict(guard.state_dict())
    assert not again.judge(5, [5], 9.5, 1.0) and again.n_wrong == 2, "it remembers"
