"""A training's time as a number of steps: what counts, what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_training import RECIPE, Endless

from sparsetrain.model import Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import ComputeConfig, build_sparsity
from sparsetrain.sparsity.compute import CROSSOVER
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.sparsity.projection import TopKProjection
from sparsetrain.sparsity.schedule import InitialDensity, ScheduleConfig
from sparsetrain.training import budget
from sparsetrain.training.budget import (
    N_EACH,
    N_PARTS,
    N_TIMED,
    N_TURNS,
    N_WARMUP,
    StepBudget,
    TimedStep,
    in_turns,
    planned,
    steps_within,
    timed_steps,
)
from sparsetrain.training.fit import LitTransformer, Recipe, TrainerConfig
from sparsetrain.training.start import Start


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    monkeypatch.setattr(budget, "timed_steps", lambda recipe, stream: [TimedStep(seconds=one) for one in seconds])


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
    assert len(list(timed_steps(RECIPE, Endless()))) == N_TIMED
    rows = [int(Endless().rows(k, 0, 1).sum()) for k in range(RECIPE.trainer.accumulate * (N_WARMUP + N_TIMED))]
    assert [total for _, total in seen] == rows and len(modules) == N_WARMUP + N_TIMED
    sparsity = modules[0].sparsity
    assert sparsity is not None and all(row.nonzeros == row.budget for row in sparsity.audit())


@pytest.mark.parametrize("every", [1, 2, 20])
@pytest.mark.parametrize("exact_end", [0.0, 0.05, 1.0])
def test_steps_by_the_nonzeros_stand_for_the_whole_schedule(every: int, exact_end: float) -> None:
    recipe = by_nonzeros(refresh_every=every, refresh_falling=every, exact_end=exact_end)
    counted = {one.kind: one.share for one in planned(recipe) if one.counts}
    assert sum(counted.values()) == pytest.approx(1)
    dense = sum(share for kind, share in counted.items() if kind.endswith("dense gradient"))
    assert dense == pytest.approx(exact_end + (1 - exact_end) / every)


@pytest.mark.parametrize(("end", "last"), [(0.8, 0.0), (0.5, 0.05), (0.37, 0.7), (1.0, 0.2), (0.5, 1.0)])
def test_there_are_as_many_dense_gradients_as_in_a_training_of_that_schedule(end: float, last: float) -> None:
    recipe = by_nonzeros(refresh_every=20, refresh_falling=4, exact_end=last)
    recipe = replace(recipe, sparsity=replace(recipe.sparsity, schedule=ScheduleConfig(end=end)))
    shares, n = dense_and_all(recipe), 100_000
    method = build_sparsity(recipe.sparsity, n)
    assert isinstance(method, TopKProjection) and method.compute is not None
    taken = sum(method.compute.is_refresh(step) for step in range(n)) / n
    assert shares == (pytest.approx(taken, abs=1e-3), pytest.approx(1))


def test_weights_that_are_as_sparse_as_they_will_be_are_computed_as_when_settled() -> None:
    recipe = by_nonzeros(refresh_every=20, exact_end=0.0)
    method = build_sparsity(recipe.sparsity, 10)
    assert method is not None
    method.prepare(Transformer(recipe.model))
    densities = InitialDensity(
        matrices=recipe.sparsity.density, tensors={tensor.name: tensor.target for tensor in method.tensors}
    )
    start = Start(init_from="a run", export="its folder", ancestors=(), density=densities)
    assert dense_and_all(replace(recipe, start=start)) == (pytest.approx(1 / 20), pytest.approx(1))


def dense_and_all(recipe: Recipe) -> tuple[float, float]:
    """Share of the planned steps that have a dense gradient, and of all of them."""
    shares = {one.kind: one.share for one in planned(recipe) if one.counts}
    return sum(share for kind, share in shares.items() if kind.endswith("dense gradient")), sum(shares.values())


def test_steps_by_the_nonzeros_are_timed_at_the_density_of_their_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds at each point, and the copy is compressed where the schedule has come down."""
    recipe = by_nonzeros(refresh_every=4, refresh_falling=4, exact_end=0.1, exact_above=1)
    seen: list[tuple[float, bool]] = []

    def step(module: LitTransformer, optimizer: Any, *batches: Any) -> None:
        step_before(module, optimizer, *batches)
        sparsity = module.sparsity
        assert sparsity is not None
        seen.append((sparsity.density(optimizer.param_groups[0][STEP_KEY]), bool(sparsity.partial_gradients())))

    step_before = budget.take_step
    monkeypatch.setattr(budget, "take_step", step)
    steps = list(timed_steps(recipe, Endless()))
    plan = list(planned(recipe))
    assert len(steps) == sum(one.counts for one in plan) > N_PARTS * N_EACH and len(seen) == len(plan)
    of_points = seen[N_WARMUP:]
    densities = [density for density, _ in of_points]
    assert densities == sorted(densities, reverse=True) and densities[0] > 0.3 > densities[-1]
    assert not any(partial for density, partial in of_points if density > CROSSOVER)
    between = [partial for one, (_, partial) in zip(plan, seen, strict=True) if one.kind.endswith("by nonzeros")]
    assert between[-3:] == 3 * [True] and not any(
        partial for one, (_, partial) in zip(plan, seen, strict=True) if not one.kind.endswith("by nonzeros")
    )


def by_nonzeros(**computing: Any) -> Recipe:
    sparsity = replace(RECIPE.sparsity, compute="sparse", computing=ComputeConfig(**computing))
    return replace(RECIPE, sparsity=sparsity)


def test_kinds_of_steps_count_by_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rare = [TimedStep(seconds=1.0, kind="dense", share=0.1)]
    often = [TimedStep(seconds=0.1, kind="sparse", share=0.9)] * 3
    monkeypatch.setattr(budget, "timed_steps", lambda recipe, stream: [*rare, *often])
    assert steps_within(1.0, RECIPE, Endless()).n_steps == int(60 / 0.19)


def test_trainings_that_are_compared_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gets slower between two turns slows all of them; one that gets slower within one turn counts little."""
    seconds, order = iter([0.1, 0.2, 0.3, 0.6, 0.2, 0.9]), list[Recipe]()

    def within(minutes: float, recipe: Recipe, stream: Any) -> StepBudget:
        order.append(recipe)
        one = next(seconds)
        return StepBudget(minutes=minutes, n_steps=round(60 * minutes / one), seconds_per_step=one, median=one)

    monkeypatch.setattr(budget, "steps_within", within)
    other = replace(RECIPE, seed=99)
    found = in_turns(1.0, {"a": (RECIPE, Endless()), "b": (other, Endless())})
    assert order == [RECIPE, other] * N_TURNS
    assert {name: one.n_steps for name, one in found.items()} == {"a": 300, "b": 150}
    assert found["a"].n_timed == N_TURNS * N_TIMED


def test_a_slower_step_gets_fewer_of_them() -> None:
    wide = replace(RECIPE, model=replace(RECIPE.model, d_model=256, n_layer=4), optim=OptimConfig())

    def fastest(steps: Iterator[TimedStep]) -> float:
        return min(one.seconds for one in steps)

    assert fastest(timed_steps(wide, Endless())) > 2 * fastest(timed_steps(RECIPE, Endless()))


def test_several_devices_count_steps() -> None:
    with pytest.raises(ValueError, match=r"minutes=1\.0 is for one device.*give n_steps"):
        TrainerConfig(minutes=1.0, devices=2, device="cpu")


def test_threads_are_those_of_the_training() -> None:
    before = torch.get_num_threads()
    try:
        list(timed_steps(RECIPE, Endless()))
        assert torch.get_num_threads() == RECIPE.trainer.n_threads
    finally:
        torch.set_num_threads(before)
