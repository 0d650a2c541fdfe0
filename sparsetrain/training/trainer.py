"""How long, how wide and on what a training runs."""

from dataclasses import dataclass
from typing import Literal

import torch

from sparsetrain.training.devices import Kind
from sparsetrain.typed import Above0, Count


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, how wide and on what a run trains. ours"""

    n_steps: Count = 2000
    """Optimizer steps of the whole run: the length of every schedule."""
    minutes: Above0 | None = None
    """Minutes of optimizer steps, in the place of `n_steps`: so many as fit, by timing the first ones of a throwaway copy. A run that is
    resumed keeps their number."""
    batch_size: Count = 16
    """Sequences of n_ctx tokens in one optimizer step, over all devices and accumulated micro-batches."""
    accumulate: Count = 1
    """Micro-batches of one optimizer step."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a CUDA device where there is one, else the CPU (of an Apple machine too: the native kernels are for it)."""
    devices: Count = 1
    """Processes of one machine, each with a device of its own (on the CPU: its share of the threads)."""
    nodes: Count = 1
    """Machines; several need torchrun or SLURM to start the processes."""
    strategy: Kind = "auto"
    """ddp: every device holds the whole model; fsdp: a share of every tensor and of the optimizer's state; auto: ddp where there are
    several devices."""
    precision: Literal["32", "bf16"] = "32"
    """bf16: mixed precision. fp16 is not offered: its gradient scaler skips steps that the sparsity method would count."""
    n_threads: Count | None = None
    """CPU threads of torch; None: torch's own choice. Results are bit-exact at an equal number only."""
    compile: bool = False
    """torch.compile of the inner module, in place; hooked passes stay eager."""
    progress: bool = True

    def __post_init__(self) -> None:
        if self.batch_size % (self.accumulate * self.n_ranks):
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of accumulate * devices * nodes = "
                f"{self.accumulate * self.n_ranks}"
            )
        if self.minutes is not None and self.n_ranks > 1:
            raise ValueError(
                f"minutes={self.minutes} is for one device, of {self.n_ranks} each would count other steps; give n_steps"
            )
        if self.strategy != "auto" and self.n_ranks == 1:
            raise ValueError(
                f"strategy={self.strategy} is for several devices; give devices=2 or more, or strategy=auto"
            )

    def check(self) -> None:
        """Refuses a training that this machine has not the devices for; a run that was trained elsewhere can be read all the same.

        Raises:
            ValueError: no CUDA device, or too few.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("trainer.device=cuda, but torch sees no CUDA device; use trainer.device=cpu or auto")
        if self.on_gpu and self.devices > torch.cuda.device_count():
            raise ValueError(
                f"trainer.devices={self.devices}, but torch sees {torch.cuda.device_count()} CUDA device(s); lower it, or use trainer.device=cpu"
            )

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on CUDA devices."""
        return self.torch_device == "cuda"

    @property
    def torch_device(self) -> Literal["cpu", "cuda"]:
        """What `device` comes to on this machine."""
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return found if self.device == "auto" else self.device

    @property
    def obstacle(self) -> str:
        """What keeps a training from products by nonzeros (`sparsity.compute`), in words; empty: nothing."""
        if self.n_ranks > 1:
            return f"{self.n_ranks} devices"
        return (
            f"trainer.precision={self.precision}"
            if self.precision != "32"
            else "trainer.compile=true"
            if self.compile
            else ""
        )

    @property
    def n_ranks(self) -> int:
        """Processes of the training."""
        return self.devices * self.nodes

    @property
    def micro_batch(self) -> int:
        """Sequences of one micro-batch, over all devices."""
        return self.batch_size // self.accumulate
