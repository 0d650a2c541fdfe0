"""A profile of a few training steps: where their time goes, how often the host waits for the device, how much memory they take.

A step that the host never waits in keeps a GPU busy: the host is then ahead of the device, and its own work costs nothing. What
waits is counted by name: CUDA's synchronisations, copies to the host's memory, and values read off a tensor (`.item()`), which wait on any device.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.profiler import ProfilerActivity, profile

from sparsetrain.store import write_atomic
from sparsetrain.training.callbacks import is_step_end
from sparsetrain.typed import to_dict

PROFILE = "profile.json"
N_BEFORE = 20
"""Steps before the first profiled one: kernels are compiled, memory is at its height. ours"""
N_SHOWN = 15
_WAITS = ("Synchronize", "Memcpy DtoH", "_local_scalar_dense")
"""Parts of the names of what the host waits for."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An operation or kernel."""

    name: str
    per_step: float
    """Calls in one optimizer step."""
    ms_per_step: float
    """Its own time, on the device where it runs on one."""


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """What is written to profile.json."""

    device: str
    first_step: int
    n_steps: int
    ms_per_step: float
    """Wall time, the profiler's own work included."""
    tokens_per_s: float
    peak_memory_mb: float | None
    """Of torch's allocations on the device since the training began; None on a CPU."""
    waits: Mapping[str, float]
    """What the host waits for, times a step."""
    costs: tuple[Cost, ...]
    """The longest."""


class Profiling(L.Callback):
    """Profiles optimizer steps of a training that runs long enough, and writes `profile.json`.

    Args:
        n_steps: how many; the first is the one after `N_BEFORE`, counted from where the training begins or goes on.
        folder: of the run.
    """

    def __init__(self, n_steps: int, folder: Path) -> None:
        self.n_steps = n_steps
        self.folder = folder
        self._first: int | None = None
        self._profile: profile | None = None
        self._n_tokens = 0
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first = trainer.global_step + N_BEFORE

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        begins = batch_idx % trainer.accumulate_grad_batches == 0
        if self._profile is None and begins and trainer.global_step == self._first and trainer.is_global_zero:
            cuda = pl_module.device.type == "cuda"
            self._profile = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])
            self._wait(pl_module.device)
            self._profile.start()
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._profile is None or self._first is None:
            return
        tokens = batch["tokens"]
        self._n_tokens += tokens.shape[0] * (tokens.shape[1] - 1) * trainer.world_size
        if is_step_end(trainer, batch_idx) and trainer.global_step == self._first + self.n_steps:
            self._wait(pl_module.device)
            seconds = time.perf_counter() - self._started
            self._profile.stop()
            found = self._read(self._profile, pl_module.device, seconds)
            write_atomic(self.folder / PROFILE, json.dumps(to_dict(found), indent=1) + "\n")
            self._profile = self._first = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._profile is not None:  # the training ended within the profiled steps
            self._profile.stop()
            self._profile = None

    def _read(self, recorded: profile, device: torch.device, seconds: float) -> StepProfile:
        events = recorded.key_averages()

        def cost(event: Any) -> Cost:
            own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            return Cost(name=event.key, per_step=event.count / self.n_steps, ms_per_step=own / 1000 / self.n_steps)

        costs = [cost(event) for event in events]
        assert self._first is not None
        return StepProfile(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            first_step=self._first,
            n_steps=self.n_steps,
            ms_per_step=1000 * seconds / self.n_steps,
            tokens_per_s=self._n_tokens / seconds,
            peak_memory_mb=torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
            waits={found.name: found.per_step for found in costs if any(word in found.name for word in _WAITS)},
            costs=tuple(sorted(costs, key=lambda found: -found.ms_per_step)[:N_SHOWN]),
        )

    @staticmethod
    def _wait(device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
