"""Checkpoints: how they are written, checked and found again, and the random states that ride in them."""

import hashlib
import io
import logging
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from sparsetrain.store import sha256, write_atomic

log = logging.getLogger(__name__)


def last_checkpoint(folder: Path) -> Path:
    """Where the training in `folder` leaves its last checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def resume_path(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint to resume from; None: from the beginning.

    Args:
        ckpt_path: None, `last` (of this folder, or from the beginning where there is none), or a path.
        folder: of the training.

    Raises:
        FileNotFoundError: a path that does not exist.
    """
    if ckpt_path is None:
        return None
    last = last_checkpoint(folder)
    path = last if ckpt_path == "last" else Path(ckpt_path)
    if path.is_file():
        log.info("resuming from %s", path)
        return path
    if ckpt_path == "last":
        log.warning("ckpt_path=last, but %s does not exist: starting from the beginning", last)
        return None
    raise FileNotFoundError(2, "ckpt_path does not exist", str(path))


def checkpoint_saver(folder: Path, every: int) -> ModelCheckpoint:
    """The callback that keeps `last.ckpt`, every so many optimizer steps and when something is raised."""
    last = last_checkpoint(folder)
    return ModelCheckpoint(
        dirpath=last.parent,
        filename=last.stem,
        save_top_k=1,
        every_n_train_steps=every,
        save_on_exception=True,
        enable_version_counter=False,
    )


class ChecksummedIO(TorchCheckpointIO):
    """Checkpoints written in place by rename, each beside its SHA-256; a damaged one is refused.

    Lightning saves through the system's temporary folder, so that a kill can leave a torn file on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getvalue()
        path = Path(path)
        # The checksum goes first: a kill between the two leaves an old checkpoint whose checksum does not fit, which is
        # refused in words; so the previous checksum is kept beside it.
        sums = _sums(path)
        known = sums.read_text().split() if sums.is_file() else []
        write_atomic(sums, "\n".join([hashlib.sha256(data).hexdigest(), *known[:1]]) + "\n")
        write_atomic(path, data)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        path = Path(path)
        sums = _sums(path)
        if not sums.is_file() or sha256(path) not in sums.read_text().split():
            raise ValueError(
                f"checkpoint {path} does not match its checksum {sums.name}; it is damaged, use another one"
            )
        return super().load_checkpoint(path, *args, **kwargs)


def _sums(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


class RandomState(L.Callback):
    """Python's, numpy's and torch's random states ride in the checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        version, internal, gauss = random.getstate()
        name, keys, *rest = np.random.get_state(legacy=True)
        state = {
            "python": [version, list(internal), gauss],
            "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        version, internal, gauss = state_dict["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = state_dict["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state_dict["torch"])
        if "cuda" in state_dict:
            torch.cuda.set_rng_state_all(state_dict["cuda"])
