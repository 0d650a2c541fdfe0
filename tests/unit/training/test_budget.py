"""A training's time as a number of steps: what counts, what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_training import RECIPE, Endless

from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.training import budget
from sparsetrain.training.budget import N_TIMED, N_WARMUP, step_times, steps_within
from sparsetrain.training.fit import LitTransformer, TrainerConfig


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    monkeypatch.setattr(budget, "step_times", lambda recipe, stream: iter(seconds))


def test_steps_that_others_slowed_do_not_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed(monkeypatch, 0.1, 0.1, 0.1, 0.1)
    quiet = steps_within(1.0, RECIPE, Endless())
    assert quiet.n_steps == 600 and quiet.seconds_per_step == quiet.median == 0.1 and "busy" not in caplog.text
    timed(monkeypatch, 0.1, 9.0, 0.1, 0.3)
    busy = steps_within(1.0, RECIPE, Endless())
    assert busy.n_steps == 600 and busy.median == pytest.approx(0.2) and "the machine is busy" in caplog.text


def test_a_time_too_short_for_a_step_is_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 10.0, 10.0)
    assert steps_within(0.01, RECIPE, Endless()).n_steps == 1


def test_what_is_timed_is_the_step_that_is_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """All micro-batches of the run's own first steps, weights cut along a short schedule, the first steps left out."""
    seen: list[tuple[int, int]] = []
    modules: list[LitTransformer] = []

    def step(module: LitTransformer, optimizer: Any, *batches: Any) -> None:
        modules.append(module)
        seen.extend((len(modules), int(batch["tokens"].sum())) for batch in batches)
        step_before(module, optimizer, *batches)
        assert optimizer.param_groups[0][STEP_KEY] == len(modules)

    step_before = budget.take_step
    monkeypatch.setattr(budget, "take_step", step)
    assert len(list(step_times(RECIPE, Endless()))) == N_TIMED
    rows = [int(Endless().rows(k, 0, 1).sum()) for k in range(RECIPE.trainer.accumulate * (N_WARMUP + N_TIMED))]
    assert [total for _, total in seen] == rows and len(modules) == N_WARMUP + N_TIMED
    sparsity = modules[0].sparsity
    assert sparsity is not None and all(row.nonzeros == row.budget for row in sparsity.audit())


def test_a_slower_step_gets_fewer_of_them() -> None:
    wide = replace(RECIPE, model=replace(RECIPE.model, d_model=256, n_layer=4), optim=OptimConfig())

    def fastest(times: Iterator[float]) -> float:
        return min(times)

    assert fastest(step_times(wide, Endless())) > 2 * fastest(step_times(RECIPE, Endless()))


def test_several_devices_count_steps() -> None:
    with pytest.raises(ValueError, match=r"minutes=1\.0 is for one device.*give n_steps"):
        TrainerConfig(minutes=1.0, devices=2, device="cpu")


def test_threads_are_those_of_the_training() -> None:
    before = torch.get_num_threads()
    try:
        list(step_times(RECIPE, Endless()))
        assert torch.get_num_threads() == RECIPE.trainer.n_threads
    finally:
        torch.set_num_threads(before)
