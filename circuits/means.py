"""What a deleted node emits: its mean activation over pretraining text.

Means are taken after AbsTopK (where hooks see an activation), over all positions of token windows that are used for
nothing else, and accumulated in float64. They remember where they come from.
Source: Gao et al. 2025, arXiv 2511.13653, section A.5.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import reduce
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from circuits.masks import NodeSpace
from sparsetrain.hooks import HookPoint, hooked
from sparsetrain.store import write_atomic
from sparsetrain.typed import one_line

MEANS = "means.safetensors"
"""In a run's `circuits/`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Means:
    """Statistics of every node.

    Args:
        space: the nodes.
        values: float32 `[n_nodes]`, mean activation.
        active: float32 `[n_nodes]`, fraction of positions where the node is not exactly zero.
        n_tokens: positions measured.
        source: what text it was, in words.
        weights_sha256: the model measured.
        n_windows: token windows that were asked for; None: not known.
    """

    space: NodeSpace
    values: Tensor
    active: Tensor
    n_tokens: int
    source: str
    weights_sha256: str
    n_windows: int | None = None

    @property
    def sha256(self) -> str:
        """Hash of the values."""
        return hashlib.sha256(self.values.cpu().contiguous().numpy().tobytes()).hexdigest()

    @property
    def alive(self) -> Tensor:
        """Nodes that were ever active on the text measured: bool `[n_nodes]`."""
        return self.active > 0

    def save(self, path: Path) -> None:
        """Writes one safetensors file."""
        meta = {"names": self.space.names, "widths": self.space.widths, "n_tokens": self.n_tokens}
        meta |= {"source": self.source, "weights_sha256": self.weights_sha256, "n_windows": self.n_windows}
        tensors = {"values": self.values.cpu().contiguous(), "active": self.active.cpu().contiguous()}
        write_atomic(path, save(tensors, metadata={"means": json.dumps(meta)}))

    @classmethod
    def load(cls, path: Path) -> "Means":
        """Reads what `save` wrote.

        Raises:
            ValueError: another kind of safetensors file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if "means" not in metadata or set(file.keys()) != {"values", "active"}:
                    raise ValueError("it holds no mean activations; scripts/find_circuits.py measures them")
                meta = json.loads(metadata["means"])
                space = NodeSpace(tuple(meta.pop("names")), tuple(meta.pop("widths")))
                return cls(space=space, values=file.get_tensor("values"), active=file.get_tensor("active"), **meta)
        except (SafetensorError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {one_line(error)}") from None


@torch.no_grad()
def measure_means(
    model: nn.Module,
    windows: Tensor,
    *,
    source: str,
    weights_sha256: str,
    last: Tensor | None = None,
    batch_size: int = 16,
) -> Means:
    """Mean activation of every node over token windows.

    mean_c = 1/n sum over windows and positions of a_c, accumulated in float64.

    Args:
        model: maps `[batch, pos]` to logits; it is run in eval mode.
        windows: int64 `[n_windows, pos]`, pretraining text that is used for nothing else.
        source: what text that is, in words; kept as provenance.
        weights_sha256: hash of the model's weights; kept as provenance.
        last: int64 `[n_windows]`, last position of each window; what lies behind is padding. None: there is none.
        batch_size: windows per pass.

    Raises:
        ValueError: no windows.
    """
    if windows.numel() == 0:
        raise ValueError(f"means need at least one token window; got shape {tuple(windows.shape)}")
    space = NodeSpace.of(model)
    device = next(model.parameters()).device
    totals = {name: torch.zeros(width, dtype=torch.float64, device=device) for name, width in _widths(space)}
    counts = {name: torch.zeros(width, dtype=torch.int64, device=device) for name, width in _widths(space)}

    inside = torch.ones_like(windows, dtype=torch.bool)
    if last is not None:
        inside = torch.arange(windows.shape[1]) <= last[:, None]
    shown = inside[:0]

    def add(x: Tensor, point: HookPoint) -> Tensor:
        x_shown = x[shown]  # [token, width]
        totals[point.name] += reduce(x_shown.double(), "token width -> width", "sum")
        counts[point.name] += reduce((x_shown != 0).long(), "token width -> width", "sum")
        return x

    with hooked(model, dict.fromkeys(space.names, add)):
        for batch, rows in zip(windows.split(batch_size), inside.split(batch_size), strict=True):
            shown = rows.to(device)
            model(batch.to(device), torch.zeros(len(batch), dtype=torch.int64, device=device))
    n_tokens = int(inside.sum())
    return Means(
        space=space,
        values=(space.join(totals) / n_tokens).float(),
        active=(space.join(counts) / n_tokens).float(),
        n_tokens=n_tokens,
        source=source,
        weights_sha256=weights_sha256,
    )


def _widths(space: NodeSpace) -> list[tuple[str, int]]:
    return list(zip(space.names, space.widths, strict=True))


def means_once(
    model: nn.Module, path: Path, windows: Callable[[], Tensor], *, source: str, weights_sha256: str, n: int
) -> Means:
    """The means of these weights from a file, or measured and written there; where the file has them over another number of windows that is said.

    Args:
        model: see `measure_means`, as the following.
        path: of the file.
        windows: gives the windows; called only if the file has no means of these weights.
        source: what text they are, in words.
        weights_sha256: hash of the model's weights.
        n: windows asked for.
    """
    means = Means.load(path) if path.is_file() else None
    if means is None or means.weights_sha256 != weights_sha256:
        means = replace(measure_means(model, windows(), source=source, weights_sha256=weights_sha256), n_windows=n)
        means.save(path)
    if means.n_windows not in (None, n):
        log.warning(
            "means are those of %s, over %s windows, since circuits rest on them, and not over n_means_windows=%d; remove the file to search all anew",
            path, means.n_windows, n,
        )  # fmt: skip
    return means
