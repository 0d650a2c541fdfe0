"""Checkpoints: files that carry their own checksum, when they are written, which are kept, and how the newest whole one is found.

1. `<folder>/checkpoints/step_<n>.ckpt` is what `torch.save` writes (streamed to the disk, never a second copy in memory), and behind it the
   SHA-256 of all that. It appears under its name by one rename, after it has been flushed to the disk.
2. It is written at the end of an optimizer step only: every n steps, at the last one, and when a signal asks to stop. A model with
   values that are not finite, or exploded, is never written.
3. The last `keep_last` stay, and those of every `keep_every`-th step. Older ones go after a newer one stands. Where a training goes on from
   an earlier one, those of later steps are another branch: they are moved to `checkpoints/abandoned/<n>/`, each branch to a folder of its own.
4. `newest` takes the newest whose checksum fits and says which ones it left out.

Loading is `weights_only`: nothing in a file is executed.
"""

import copy
import hashlib
import io
import logging
import random
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.optim import Optimizer

from sparsetrain.interrupt import Interrupted, Pending
from sparsetrain.kernels import is_sharded, local_part
from sparsetrain.store import SEAL, is_whole, remove_temporary, replacing
from sparsetrain.training.callbacks import is_step_end
from sparsetrain.typed import Count

log = logging.getLogger(__name__)

EXPLODED = 1e6
"""No weight and no first moment of an optimizer that still trains is as large, and no second one as its square. ours"""
ABANDONED = "abandoned"


@dataclass(frozen=True, kw_only=True)
class CheckpointsConfig:
    """When checkpoints are written and which are kept. ours"""

    every: Count = 250
    """Optimizer steps; the last step is always one."""
    keep_last: Count = 2
    """How many of the newest stay. 1 leaves nothing to fall back on if the newest one is damaged."""
    keep_every: Count | None = None
    """Those of every n-th step stay as well. None: none of them."""
    background: bool = False
    """Write while the training goes on, from a copy in memory."""


def folder_of(folder: Path) -> Path:
    """Where the training in `folder` keeps its checkpoints."""
    return folder / "checkpoints"


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of a step."""
    return folder_of(folder) / f"step_{step}.ckpt"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of the training in `folder`, oldest first, whole or not."""
    found = {path: re.fullmatch(r"step_(\d+)\.ckpt", path.name) for path in folder_of(folder).glob("step_*.ckpt")}
    return sorted((path for path, name in found.items() if name), key=_step)


def _is_whole(path: Path) -> bool:
    try:
        return is_whole(path)
    except OSError as error:
        log.warning("checkpoint %s cannot be read: %s", path, error.strerror)
        return False


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of the training in `folder`; None where there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints, and none of them is whole.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        if _is_whole(path):
            return path
        log.warning("checkpoint %s does not match its checksum; trying the one before it", path)
    if found:
        raise ValueError(
            f"none of the {len(found)} checkpoint(s) in {folder_of(folder)} matches its checksum; all are damaged. "
            f"Start again with overwrite=true, or give ckpt_path=<a whole one>"
        )
    return None


def resume_path(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint to resume from; None: from the beginning.

    Args:
        ckpt_path: None, `last` (the newest whole one of this folder, or from the beginning where there is none), or a path.
        folder: of the training.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a file that is damaged, or no checkpoint.
    """
    if ckpt_path is None:
        return None
    if ckpt_path == "last":
        last = newest(folder)
        if last is None:
            log.warning("ckpt_path=last, but %s holds no checkpoint: starting from the beginning", folder_of(folder))
        else:
            log.info("resuming from %s", last)
        return last
    path = Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(2, "ckpt_path does not exist", str(path))
    if not is_whole(path):
        raise ValueError(f"checkpoint {path} does not match its checksum; it is damaged, or was made by something else")
    return path


class _Hashed(io.RawIOBase):
    """Passes on what is written and hashes it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.content = hashlib.sha256()
        self.failed: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.content.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failed = error
            raise


class VerifiedIO(TorchCheckpointIO):
    """Lightning's checkpoints as files that carry their checksum; a damaged one is refused."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as file:
            hashed = _Hashed(file)
            try:
                torch.save(checkpoint, hashed)  # pyright: ignore[reportArgumentType]
            except RuntimeError as error:
                raise (hashed.failed or error) from None  # torch hides what the disk said behind an error of its own
            file.write(SEAL + hashed.content.digest())

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not is_whole(Path(path)):
            raise ValueError(f"checkpoint {path} does not match its checksum; it is damaged, use another one")
        return super().load_checkpoint(path, *args, **kwargs)


def unhealthy(named: Mapping[str, Tensor], optimizer: Optimizer | None = None) -> str | None:
    """Which tensor holds values that are not finite or exploded, and how large they are; None: all is well.

    Args:
        named: parameters by name.
        optimizer: its state is looked at too.
    """
    tensors = {name: tensor.detach() for name, tensor in named.items()}
    if optimizer is not None:
        names = {id(tensor): name for name, tensor in named.items()}
        for parameter, state in optimizer.state.items():
            own = names.get(id(parameter), "a parameter")
            tensors |= {f"{key} of {own}": v for key, v in state.items() if isinstance(v, Tensor) and v.ndim}
    parts = {name: local_part(tensor) for name, tensor in tensors.items()}
    largest = torch.stack(
        [part.abs().max().float() if part.numel() else part.new_zeros(()).float() for part in parts.values()]
    )
    if any(map(is_sharded, tensors.values())):  # all ranks have to say the same; NaN cannot be compared
        torch.distributed.all_reduce(largest := largest.nan_to_num(nan=torch.inf), torch.distributed.ReduceOp.MAX)
    for name, value in zip(parts, largest.tolist(), strict=True):
        if not value <= (EXPLODED**2 if name.startswith("exp_avg_sq of ") else EXPLODED):  # NaN too
            return f"{name} has values up to {value:.3g}"
    return None


class Checkpoints(L.Callback):
    """Writes the checkpoints of a training at the ends of its steps, and stops it there where a signal asks for it.

    Args:
        folder: of the training.
        config: when, and which are kept.
        pending: the signals held back.
        on_unhealthy: called with (step, what is wrong) instead of writing an unhealthy model.
        at_start: also the model before the first step.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointsConfig,
        pending: Pending,
        on_unhealthy: Callable[[int, str], None],
        at_start: bool = False,
    ) -> None:
        self.folder = folder
        self.config = config
        self.pending = pending
        self.on_unhealthy = on_unhealthy
        self.at_start = at_start
        self._pool = ThreadPoolExecutor(1) if config.background else None
        self._writing: Future[None] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.pending.install()  # Lightning has put handlers of its own in their place, which stop between micro-batches
        if trainer.is_global_zero:
            remove_temporary(folder_of(self.folder))
            _abandon(self.folder, trainer.global_step)
        if self.at_start and not checkpoint_path(self.folder, trainer.global_step).is_file():
            self.save(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not is_step_end(trainer, batch_idx):
            return
        step, signum = trainer.global_step, self._asked(trainer)
        if step % self.config.every == 0 or step >= trainer.max_steps or signum is not None or trainer.should_stop:
            self.save(trainer, pl_module)
        if signum is not None:
            self.wait()
            raise Interrupted(signum, f"step {step} is saved")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        try:
            self.wait()  # whoever catches it may go on from what is being written
        except OSError as error:
            log.warning("the checkpoint that was being written is lost: %s", error)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.wait()

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the checkpoint of the step just taken, unless its values are unhealthy, and removes those no longer kept."""
        step = trainer.global_step
        wrong = unhealthy(dict(pl_module.named_parameters()), trainer.optimizers[0])
        if wrong is not None:
            return self.on_unhealthy(step, wrong)
        self.wait()
        path = checkpoint_path(self.folder, step)
        if self._pool is None:
            trainer.save_checkpoint(path)
            self._tidy(trainer)
            return
        content = trainer._checkpoint_connector.dump_checkpoint(False)
        if trainer.is_global_zero:
            content = copy.deepcopy(content)  # the training goes on and changes its tensors in place

            def write() -> None:
                VerifiedIO().save_checkpoint(content, path)
                self._tidy(trainer)

            self._writing = self._pool.submit(write)

    def wait(self) -> None:
        """Until what is being written in the background stands; raises what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _asked(self, trainer: L.Trainer) -> int | None:
        """The signal that any rank was given."""
        signum = self.pending.signum
        if trainer.world_size == 1:
            return signum
        asked = torch.tensor(signum or 0, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(asked, reduce_op="max")) or None

    def _tidy(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        *older, _ = found = checkpoints(self.folder)
        for path in older:
            lasting = self.config.keep_every is not None and _step(path) % self.config.keep_every == 0
            if path not in found[-self.config.keep_last :] and not lasting:
                path.unlink(missing_ok=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _abandon(folder: Path, step: int) -> None:
    """Puts checkpoints of later steps aside: what goes on from an earlier one is another branch."""
    later = [path for path in checkpoints(folder) if _step(path) > step]
    if not later:
        return
    branches = folder_of(folder) / ABANDONED
    taken = [int(path.name) for path in branches.glob("*") if path.name.isdecimal()]
    aside = branches / str(max(taken, default=0) + 1)
    aside.mkdir(parents=True)
    for path in later:
        path.replace(aside / path.name)
    log.warning(
        "going on from step %d: checkpoints of later steps (%s) are in %s now",
        step,
        ", ".join(p.name for p in later),
        aside,
    )


class RandomState(L.Callback):
    """Python's, numpy's and torch's random states of every rank ride in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        own = _random_state()
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [own]}
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = state_dict["ranks"]
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        _set_random_state(ranks[rank % len(ranks)])  # with more ranks than there were, some share a state


def _random_state() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
