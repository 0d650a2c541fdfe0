"""Many devices: the processes of one training (ranks), and Lightning's strategies with one form of state for all of them.

1. `python train.py trainer=ddp` is the first rank; `companions` starts the others as copies of the same command. torchrun and SLURM start
   all of them themselves.
2. ddp: every rank holds the whole model, gradients are averaged. fsdp (FSDP2): every rank holds some rows of every tensor, of its gradient
   and of its optimizer state; those of a block are put together only while it computes.
3. A checkpoint is what one device would have written, whatever the strategy: the first rank puts tensors together one at a time, in its
   main memory, and cuts them again when it is loaded.
4. Only the first rank has anything to do after a training; the others end there. Whatever ends one rank ends all, and as a failure.
"""

import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.utils import _sync_module_states
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

import __main__
from sparsetrain.job import is_main_process, n_launched
from sparsetrain.kernels import whole_tensor
from sparsetrain.model import Transformer

PATIENCE = timedelta(hours=12)
"""How long ranks wait for the first one, which may search circuits or write between two steps; a rank that ends is noticed at once."""
GRACE_S = 30.0
"""Seconds that ranks are given to end by themselves."""

Kind = Literal["auto", "ddp", "fsdp"]
T = TypeVar("T")


def strategy(kind: Kind, n_ranks: int) -> Strategy | Literal["auto"]:
    """Lightning's strategy; auto is ddp where there are several ranks."""
    if n_ranks == 1:
        return "auto"
    return (Sharded if kind == "fsdp" else DDPStrategy)(timeout=PATIENCE)


def environment() -> list[ClusterEnvironment]:
    """For Lightning's plugins: a training starts its ranks itself, unless a launcher has started them.

    SLURM_NTASKS and its like are set in every shell of an allocation; Lightning takes each for one task of several.
    """
    if n_launched() > 1:
        return []
    own = LightningEnvironment()
    if is_main_process():
        own.set_global_rank(0)  # Lightning has read SLURM_PROCID as it was imported
    return [own]


@contextmanager
def first_rank_first() -> Iterator[None]:
    """Under a launcher, which starts all ranks at once: the others run the block when the first one is done with it."""
    if n_launched() == 1:
        yield
        return
    cluster = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
    is_first = cluster.global_rank() == 0
    # Beside the port where the ranks meet later.
    store = torch.distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        cluster.main_address, cluster.main_port + 1, is_master=is_first, timeout=PATIENCE, wait_for_workers=False
    )
    if not is_first:
        store.wait(["done"], PATIENCE)
        store.add("others", 1)
    yield
    if is_first:
        store.set("done", "")
        while store.add("others", 0) < cluster.world_size() - 1:  # the store ends with this block
            time.sleep(0.05)


class Sharded(DDPStrategy):
    """FSDP2 over all ranks: the blocks of the transformer, then what is left of it."""

    def _setup_model(self, model: nn.Module) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        # As under ddp, everyone starts from the first rank's weights.
        _sync_module_states(model, torch.distributed.group.WORLD, 1 << 28, src=0, params_and_buffers_to_ignore=set())  # pyright: ignore[reportArgumentType]
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        transformer = model.model
        assert isinstance(transformer, Transformer)
        for block in transformer.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(transformer, mesh=mesh)
        return model

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return together(super().lightning_module_state_dict(), keep=self.is_global_zero)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return together(super().optimizer_state(optimizer), keep=self.is_global_zero)

    def teardown(self) -> None:
        """After a training that was not broken off every rank is left with the whole model."""
        module = self.lightning_module
        if module is not None and module.trainer.state.status != TrainerStatus.INTERRUPTED:
            model = module.model
            assert isinstance(model, Transformer)
            module.model = model.whole()
        super().teardown()

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        states = [
            apart(state, optimizer)
            for state, optimizer in zip(checkpoint["optimizer_states"], self.optimizers, strict=True)
        ]
        super().load_optimizer_state_dict({"optimizer_states": states})


def together(state: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """A state dict with whole tensors in main memory where `keep` is set, and without them elsewhere; every rank must call."""

    def whole(part: DTensor) -> Tensor | None:
        full = whole_tensor(part)
        return full.cpu() if keep else None

    return tree_map_only(DTensor, whole, state)


def apart(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer with each tensor cut like the parameter that it belongs to; every rank must call."""
    params = [param for group in optimizer.param_groups for param in group["params"]]

    def cut(value: Any, param: Tensor) -> Any:
        if not isinstance(param, DTensor) or not isinstance(value, Tensor) or value.shape != param.shape:
            return value
        return distribute_tensor(value.to(param.device), param.device_mesh, param.placements)

    entries = {i: {key: cut(value, params[i]) for key, value in of.items()} for i, of in state["state"].items()}
    return {**state, "state": entries}


def check_launch(n_devices: int, n_nodes: int, *, in_sweep: bool = False) -> None:
    """Refuses a training whose ranks nobody would start, or that several processes would do each for itself.

    Args:
        n_devices: ranks of this machine.
        n_nodes: machines.
        in_sweep: whether it is a job of a sweep, whose command is the whole sweep's.

    Raises:
        ValueError: several ranks in a sweep, or several machines, without a launcher; a launcher that has started another number.
    """
    n_ranks, n_started = n_devices * n_nodes, n_launched()
    if n_started not in (1, n_ranks):
        raise ValueError(
            f"{n_started} processes were started together, but trainer.devices * trainer.nodes = {n_ranks}; give trainer=ddp or "
            f"trainer=fsdp with trainer.devices=<processes of a machine> trainer.nodes=<machines>"
        )
    if n_ranks == 1 or n_started > 1:
        return
    if n_nodes > 1:
        raise ValueError(
            f"trainer.nodes={n_nodes} needs a launcher that starts the processes of each machine: torchrun, or srun under SLURM"
        )
    if in_sweep:
        raise ValueError(
            f"trainer.devices={n_devices} in a sweep, whose jobs cannot start processes of their own; start the jobs one by one without "
            f"-m, or let SLURM start all processes: hydra/launcher=slurm hydra.launcher.tasks_per_node={n_devices} "
            f"hydra.launcher.gpus_per_node={n_devices}"
        )


def free_port() -> int:
    """A port of this machine where ranks can meet.

    It lies below those that systems give to whoever connects to something, as one of those may be given away again before the first rank
    listens on it: the others would then wait for ever.

    Raises:
        RuntimeError: a hundred ports were tried and all are in use.
    """
    for port in random.Random().sample(range(20_000, 32_000), 100):  # not the run's own stream of numbers
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port between 20000 and 32000, where the ranks of a machine meet")


@contextmanager
def companions(n_devices: int, n_nodes: int = 1) -> Iterator[None]:
    """Starts the other ranks of this machine as copies of the command, each up to the training it is to share, and sees to their end.

    Does nothing for one rank, in a rank that was started, and under a launcher. What the others print is kept from the terminal, as it
    would be said once for each; what made one of them fail is the error here.

    Args:
        n_devices: ranks of this machine, this process included.
        n_nodes: machines.

    Raises:
        ValueError: ranks that nobody would start.
        RuntimeError: another rank has failed, or does not end.
    """
    check_launch(n_devices, n_nodes)
    if n_devices == 1 or n_launched() > 1 or "LOCAL_RANK" in os.environ:
        yield
        return
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    meeting |= {"NODE_RANK": "0", "WORLD_SIZE": str(n_devices)}
    with tempfile.TemporaryDirectory(prefix="sparsetrain-ranks-") as folder:
        others = [Other.start(rank, Path(folder), meeting) for rank in range(1, n_devices)]
        os.environ.update(meeting, LOCAL_RANK="0")
        ended = threading.Event()
        threading.Thread(target=end_all_if_one_fails, args=(others, ended), daemon=True).start()
        try:
            yield
            if not all_end(others, 4 * GRACE_S):
                raise RuntimeError(f"other ranks are still at work {4 * GRACE_S:.0f} s after the training")
            if (failed := first_failure(others)) is not None:
                raise failed
        except RuntimeError as error:  # what torch.distributed raises where another rank has gone
            all_end(
                others, GRACE_S / 6
            )  # those who wait for this process do not, so whoever has failed failed by itself
            if (failed := first_failure(others)) is not None and failed is not error:
                raise failed from error
            raise
        finally:
            ended.set()
            all_end(others, GRACE_S / 6)
            for other in others:
                other.process.kill()
                other.process.wait()
            for name in (*meeting, "LOCAL_RANK"):
                os.environ.pop(name, None)


@contextmanager
def group_of_ranks() -> Iterator[None]:
    """The group that a training in the block makes ends with it: what comes after belongs to one rank."""
    if torch.distributed.is_initialized():  # of whoever calls
        yield
        return
    yield
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # whoever leaves first would break the others' connections
        torch.distributed.destroy_process_group()


def of_first(value: T) -> T:
    """The first rank's value, on every rank."""
    if not torch.distributed.is_initialized():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


@dataclass(frozen=True)
class Other:
    """A rank that this process has started."""

    rank: int
    process: subprocess.Popen[bytes]
    stderr: Path

    @classmethod
    def start(cls, rank: int, folder: Path, meeting: Mapping[str, str]) -> Self:
        """Runs this process's command as another rank."""
        spec = __main__.__spec__
        program = [os.path.abspath(sys.argv[0])] if spec is None else ["-m", spec.name]
        stderr = folder / f"{rank}.stderr"
        with stderr.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *program, *sys.argv[1:]],
                env={**os.environ, **meeting, "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        return cls(rank, process, stderr)

    def failure(self) -> RuntimeError | None:
        """What made it end, if it has ended as a failure."""
        code = self.process.poll()
        if code in (None, 0):
            return None
        said = self.stderr.read_text(errors="replace").strip()
        error = RuntimeError(
            f"rank {self.rank} ended with exit code {code}: {said.splitlines()[-1] if said else 'it said nothing'}"
        )
        error.add_note(said)
        return error


def first_failure(others: Sequence[Other]) -> RuntimeError | None:
    """Why the first of those that have failed did so."""
    return next((failed for other in others if (failed := other.failure()) is not None), None)


def all_end(others: Sequence[Other], seconds: float) -> bool:
    """Whether all end within so many seconds; returns at once where one has failed."""
    until = time.monotonic() + seconds
    while any(other.process.poll() is None for other in others):
        if time.monotonic() > until:
            return False
        if first_failure(others) is not None:
            break
        time.sleep(0.05)
    return True


def end_all_if_one_fails(others: Sequence[Other], ended: threading.Event) -> None:
    """Ends this process as well where another rank has failed and this one waits for it in vain, as it may inside NCCL."""
    while not ended.wait(0.5):
        failed = first_failure(others)
        if failed is not None and not ended.wait(GRACE_S):
            print(f"error: {failed}", file=sys.stderr, flush=True)
            for other in others:
                other.process.kill()
            os._exit(1)
