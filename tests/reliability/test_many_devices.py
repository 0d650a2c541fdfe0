"""Two ranks train what one device trains: ddp and fsdp on the CPU with gloo, in float64 to the last bits, with exact budgets in whole
tensors after every step; a run goes on under another number of ranks with the same rows."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import in_ranks
from small_training import RECIPE, Endless
from torch import Tensor

from sparsetrain.export import load_model
from sparsetrain.model import Transformer
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.sparsity.schedule import ScheduleConfig
from sparsetrain.training.callbacks import AtSteps, CallbacksConfig
from sparsetrain.training.checkpoints import CheckpointsConfig, newest
from sparsetrain.training.fit import Exporter, Recipe, Trained, train_model
from sparsetrain.training.guard import GuardConfig
from sparsetrain.training.objectives import next_token_loss

pytestmark = pytest.mark.slow  # two processes; what is small of it: test_sharded_projection.py
N_STEPS = 20
SPARSE = SparsityConfig(density=0.25, floor=2, schedule=ScheduleConfig(end=0.8))
ONE = replace(RECIPE, sparsity=SPARSE, trainer=replace(RECIPE.trainer, n_steps=N_STEPS))
LOOKS = ("losses", "kept")


def under(strategy: str) -> Recipe:
    """The same recipe on two devices."""
    return replace(ONE, trainer=replace(ONE.trainer, strategy=strategy, devices=2))


def double(model: Transformer) -> None:
    model.double()


class Recorded:
    """The loss, and which rows it was of: `<folder>/rows_<rank>.jsonl` gets the number of each micro-batch and a sum of its tokens."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"rows_{dist.get_rank() if dist.is_initialized() else 0}.jsonl"

    def __call__(self, model: Transformer, batch: Mapping[str, Any]) -> Tensor:
        with self.path.open("a") as file:
            file.write(json.dumps([batch["k"], batch["tokens"].tolist()]) + "\n")
        return next_token_loss(model, batch)


class Watched:
    """After every step, of the whole model: the loss of fixed rows, and whether every budget and floor is kept exactly."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "watched.jsonl"

    def __call__(self, model: Transformer, step: int) -> None:
        sparsity = ONE.build_sparsity(model)
        assert sparsity is not None
        for tensor in sparsity.tensors:
            k = tensor.k(sparsity.density_of(tensor, step))
            if step:  # the first is dense
                assert int(tensor.param.count_nonzero()) == k, (step, tensor.name)
            if tensor.floor:
                lines = tensor.param.count_nonzero(1 if tensor.floor_axis == "rows" else 0)
                assert int(lines.min()) >= tensor.floor, (step, tensor.name)
        with torch.no_grad():
            loss = next_token_loss(model, {"tokens": torch.from_numpy(Endless().rows(10**6, 0, 1))})
        with self.path.open("a") as file:
            file.write(json.dumps([step, loss.item()]) + "\n")


def train(folder: Path, recipe: Recipe, start: Any = double, stop: int | None = None) -> Trained | None:
    """Trains on from what the folder holds; None on the second rank."""
    folder.mkdir(exist_ok=True)
    try:
        return train_model(
            recipe,
            Endless(),
            Exporter(recipe=recipe, folder=folder),
            objective=Recorded(folder),
            start=start,
            watchers=[AtSteps("watched", range(N_STEPS + 1), Watched(folder))],
            callbacks=CallbacksConfig(log_every=1),
            checkpoints=CheckpointsConfig(every=5),
            guard=GuardConfig(audit_every=1),
            resume=newest(folder),
            stop_at_step=stop,
        )
    except SystemExit as ended:
        assert ended.code == 0 and dist.get_rank() == 1
        return None


def both(rank: int, folder: Path) -> None:
    """Whole trainings under each strategy, and two parts of one that one device has begun."""
    for strategy in ("ddp", "fsdp"):
        trained = train(folder / strategy, under(strategy))
        assert (trained is None) == (rank == 1)
        if trained is not None:
            assert type(trained.model) is Transformer and trained.sparsity is not None
            assert all(tensor.exact for tensor in trained.sparsity.audit())
            trained.export()
    train(folder / "mixed", under("fsdp"), stop=10)
    train(folder / "mixed", under("ddp"), stop=15)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    whole = train(folder / "one", ONE)
    assert whole is not None
    whole.export()
    train(folder / "mixed", ONE, stop=5)
    in_ranks(both, tmp_path_factory.mktemp("meeting"), 2, folder)
    train(folder / "mixed", ONE)
    return folder


def watched(folder: Path) -> list[tuple[int, float]]:
    return [tuple(json.loads(line)) for line in (folder / "watched.jsonl").read_text().splitlines()]


def rows(folder: Path) -> dict[int, list[list[int]]]:
    """Number of a micro-batch -> its rows, those of the first rank first."""
    found: dict[int, list[list[int]]] = {}
    for path in sorted(folder.glob("rows_*.jsonl")):
        seen = [json.loads(line) for line in path.read_text().splitlines()]
        for k, tokens in seen:
            found[k] = found.get(k, []) + tokens
    return found


def state(folder: Path) -> dict[str, Tensor]:
    content = torch.load(folder / "checkpoints" / f"step_{N_STEPS}.ckpt", weights_only=True)
    moments = content["optimizer_states"][0]["state"]
    return content["state_dict"] | {f"{i}/{key}": value for i, of in moments.items() for key, value in of.items()}


@pytest.mark.parametrize("name", ["ddp", "fsdp", "mixed"])
def test_two_ranks_are_one_device(runs, name):
    """Loss at every step within 1e-9, and in the end weights, moments and metrics."""
    ours, one = watched(runs / name), watched(runs / "one")
    assert [step for step, _ in ours] == [step for step, _ in one] == list(range(N_STEPS + 1))
    np.testing.assert_allclose([loss for _, loss in ours], [loss for _, loss in one], rtol=0, atol=1e-9)
    got, want = state(runs / name), state(runs / "one")
    assert got.keys() == want.keys()
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-9, atol=1e-9)
    rows_of = lambda folder: [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()[1:]]  # noqa: E731
    scalars = [[(s, n, float(v)) for s, n, v in rows_of(runs / of) if n != "tokens_per_s"] for of in (name, "one")]
    assert [row[:2] for row in scalars[0]] == [row[:2] for row in scalars[1]]
    np.testing.assert_allclose([row[2] for row in scalars[0]], [row[2] for row in scalars[1]], rtol=1e-6)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "mixed"])
def test_the_same_rows_in_the_same_order(runs, name):
    n_batches = N_STEPS * ONE.trainer.accumulate
    assert rows(runs / name) == rows(runs / "one")
    assert list(rows(runs / name)) == list(range(n_batches))


def test_exports_hold_whole_tensors(runs):
    one, ddp, fsdp = (load_model(runs / name / "export" / f"step_{N_STEPS}") for name in ("one", "ddp", "fsdp"))
    for (name, a), b, c in zip(one.named_parameters(), ddp.parameters(), fsdp.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9, msg=name)
        torch.testing.assert_close(c, a, rtol=1e-9, atol=1e-9, msg=name)
