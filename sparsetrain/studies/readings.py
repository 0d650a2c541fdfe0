"""What a study reads of its items (prompts with one answer) at every checkpoint, kept in `items.npz`, and curves of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain.report import number
from sparsetrain.representation.controls import CONTROLS, read_items
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.stats.intervals import Estimate, over_seeds

FINAL = "final_norm.hook_norm"
"""What the unembedding reads, before its gain: the place that verdicts are about, fixed beforehand."""

MEASURED = (HEADLINE, "top5", "hoyer")
RHO_MARGIN = 0.1
"""Smallest rank correlation of interest. ours"""


def read_points(n_layer: int) -> tuple[str, ...]:
    """The hook points that a study reads: what each MLP and the unembedding read, and the neurons."""
    return (
        *(f"blocks.{i}.mlp.norm.hook_norm" for i in range(n_layer)),
        FINAL,
        *(f"blocks.{i}.mlp.hook_neuron" for i in range(n_layer)),
    )


class Recorder:
    """Called at every checkpoint of a training; keeps what `read_items` gives.

    Args:
        prompts: `[n_items, length]` int64, the answer last.
        points: hook points.
        correct: logits `[n_items, d_vocab]` -> whether each item is answered, `[n_items]`.
    """

    def __init__(self, prompts: Tensor, points: Sequence[str], correct: Callable[[Tensor], Tensor]) -> None:
        self.prompts = prompts
        self.points = points
        self.correct = correct
        self.read: dict[int, dict[str, np.ndarray]] = {}

    def __call__(self, model: nn.Module, step: int) -> None:
        items = read_items(model, self.prompts, self.points, measures=MEASURED)
        self.read[step] = {
            "loss": items.loss.numpy(),
            "entropy": items.entropy.numpy(),
            "logit_norm": items.logit_norm.numpy(),
            "correct": self.correct(items.logits).float().numpy(),
            **{"|".join(key): value.numpy() for key, value in items.measures.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "read": {step: {k: torch.from_numpy(v) for k, v in arrays.items()} for step, arrays in self.read.items()}
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.read = {step: {k: v.numpy() for k, v in arrays.items()} for step, arrays in state_dict["read"].items()}

    def save(self, path: Path) -> None:
        """Writes every array as `[n_checkpoints, n_items]`, and `steps`."""
        steps = sorted(self.read)
        arrays = {name: np.stack([self.read[step][name] for step in steps]) for name in self.read[steps[0]]}
        np.savez(path, steps=np.array(steps), **arrays)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What one stage left: every array `[n_checkpoints, n_items]` float64."""

    steps: tuple[int, ...]
    loss: np.ndarray
    entropy: np.ndarray
    logit_norm: np.ndarray
    correct: np.ndarray
    values: Mapping[tuple[str, str, str], np.ndarray]
    """(hook point, control, measure) -> values."""

    @classmethod
    def load(cls, path: Path, **more: Any) -> Self:
        """Reads `items.npz`; `more` are the fields of a subclass."""
        with np.load(path) as file:
            arrays = {name: file[name].astype(np.float64) for name in file.files}
        values = {}
        for name in [name for name in arrays if "|" in name]:
            point, control, measure = name.split("|")
            values[point, control, measure] = arrays[name]
        return cls(
            steps=tuple(int(step) for step in arrays["steps"]),
            loss=arrays["loss"],
            entropy=arrays["entropy"],
            logit_norm=arrays["logit_norm"],
            correct=arrays["correct"],
            values=values,
            **more,
        )

    def of(self, control: str) -> np.ndarray:
        """The headline at the place that verdicts are about."""
        return self.values[FINAL, control, HEADLINE]

    def series(self, name: str) -> np.ndarray:
        """`correct`, `loss`, `entropy`, `logit_norm`, or the headline under a control."""
        return self.of(name) if name in CONTROLS else getattr(self, name)


def curve(name: str, x: Sequence[float], per_seed: np.ndarray) -> dict[str, Any]:
    """A curve of a figure: mean and t interval over seeds at each x, of `[n_seeds, n_x]`."""
    estimates = [over_seeds(column) for column in per_seed.T]
    return {
        "name": name,
        "x": list(x),
        "y": [e.value for e in estimates],
        "lo": [e.lo if math.isfinite(e.lo) else e.value for e in estimates],
        "hi": [e.hi if math.isfinite(e.hi) else e.value for e in estimates],
    }


def seeds_number(values: Sequence[float] | Estimate, unit: str) -> dict[str, Any]:
    """A `number(...)` of an estimate, or of the mean over seeds."""
    e = values if isinstance(values, Estimate) else over_seeds(values)
    finite = math.isfinite(e.lo) and math.isfinite(e.hi)
    return number(e.value, unit, lo=e.lo if finite else None, hi=e.hi if finite else None, n=e.n)
