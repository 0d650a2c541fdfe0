"""What is refused before any process is started, and what a rank takes its place in a training from."""

import os

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from sparsetrain.entry import STAMP, stamp
from sparsetrain.job import RANKS, n_launched
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig, build_optimizer
from sparsetrain.training.devices import Sharded, apart, check_launch, companions, environment, strategy, together
from sparsetrain.training.fit import TrainerConfig

VARIABLES = (*RANKS, "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", STAMP)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def torchrun(monkeypatch, n_ranks, rank=0):
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": n_ranks, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))


def test_the_strategy_of_a_number_of_ranks():
    assert strategy("auto", 1) == "auto"
    assert type(strategy("auto", 2)) is type(strategy("ddp", 2)) is DDPStrategy
    assert type(strategy("fsdp", 2)) is Sharded


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "fsdp"}, "strategy=fsdp is for several devices; give devices=2 or more, or strategy=auto"),
        ({"strategy": "ddp"}, "strategy=ddp is for several devices"),
        ({"devices": 2, "nodes": 2, "batch_size": 6}, "batch_size=6 must be a multiple of accumulate .* = 4"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**settings)


def test_ranks_that_nobody_would_start_are_refused(monkeypatch):
    check_launch(1, 1, in_sweep=True)
    check_launch(2, 1)
    with pytest.raises(
        ValueError, match=r"devices=2 in a sweep, .* start the jobs one by one without -m, or let SLURM"
    ):
        check_launch(2, 1, in_sweep=True)
    with pytest.raises(ValueError, match=r"nodes=2 needs a launcher .*: torchrun, or srun"):
        check_launch(4, 2)
    torchrun(monkeypatch, 8)
    check_launch(4, 2, in_sweep=True)
    with pytest.raises(
        ValueError, match=r"8 processes were started together, but trainer.devices \* trainer.nodes = 1"
    ):
        check_launch(1, 1)


def test_who_has_started_the_processes(monkeypatch):
    assert n_launched() == 1 and len(environment()) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")  # of `companions`, or left over
    assert n_launched() == 1
    torchrun(monkeypatch, 2)
    assert n_launched() == 2 and environment() == []
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert n_launched() == 4


def test_a_started_rank_starts_none(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    before = dict(os.environ)
    with companions(2):
        assert dict(os.environ) == before


def test_ranks_share_the_name_of_their_folder(monkeypatch):
    monkeypatch.setenv(STAMP, "of an earlier command")
    made = stamp()
    assert made != stamp()  # a run each
    made = stamp()
    monkeypatch.setenv("LOCAL_RANK", "1")  # what `companions` starts inherits the name
    assert stamp() == made
    torchrun(monkeypatch, 2)
    with pytest.raises(ValueError, match=r"share one folder: give hydra.run.dir=<folder>"):
        stamp()


def test_a_state_of_whole_tensors_is_left_as_it_is():
    """The format is that of one device: nothing to put together, nothing to cut."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(d_vocab=16, n_layer=1, d_model=16, d_head=8, n_ctx=4))
    optimizer = build_optimizer(model, OptimConfig())
    model(torch.arange(4)[None]).square().mean().backward()
    optimizer.step()
    state = optimizer.state_dict()
    again = apart(together(state, keep=True), optimizer)
    assert again["param_groups"] == state["param_groups"]
    for i, of in state["state"].items():
        assert all(torch.equal(again["state"][i][key], value) for key, value in of.items())
    assert model.whole() is model


def test_a_run_of_devices_that_are_not_here_is_read_but_not_trained(monkeypatch):
    there = TrainerConfig(device="cuda", devices=4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"sees no CUDA device; use trainer\.device=cpu or auto"):
        there.check()
    assert TrainerConfig().torch_device == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"trainer\.devices=4, but torch sees 1 CUDA device"):
        there.check()
    assert TrainerConfig().torch_device == "cuda" and TrainerConfig(device="cpu").torch_device == "cpu"
    TrainerConfig(device="cpu", devices=4).check()
