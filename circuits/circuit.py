"""A circuit is a thing you can run: nodes, edges, the means of what was deleted, and how its logits are calibrated.

1. `Circuit` names nodes (channels of hook points) and edges (nonzero weights between them); it carries the mean of
   every node, so that it runs on the model alone, and its provenance.
2. `attached(model)` makes the model's own forward pass the circuit's: deleted nodes emit their mean (node circuit), or
   deleted edges carry weight x mean as well (edge circuit, see `circuits.edges`).
3. `evaluate` gives the calibrated task loss. It is a function of saved files: the same number, to the last bit, in a
   fresh process with the same batch size and number of threads.

On disk a circuit is `circuit.json` (names, numbers, provenance) and `circuit.safetensors` (means). Loading is strict.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from circuits.answers import pair_answers
from circuits.compact import CompactCircuit, compile_circuit, compiles
from circuits.edges import Edge, edge_masks, edge_weights
from circuits.masks import NodeSpace, ablation_hooks
from circuits.tasks.loss import Calibration, task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, NodeId, hooked
from sparsetrain.store import write_atomic
from sparsetrain.typed import Json, from_json

FORMAT_VERSION = 1
Kind = Literal["node", "edge"]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a circuit comes from.

    Args:
        weights_sha256: hash of the model's weights file.
        seed: seed of the masks.
        config: the search's settings, plain JSON.
        loss_convention: what "task loss" means, in words.
        means_source: what text the means were taken from.
        means_n_tokens: over how many positions.
    """

    weights_sha256: str
    seed: int
    config: Mapping[str, Json]
    loss_convention: str
    means_source: str
    means_n_tokens: int


@dataclass(frozen=True, kw_only=True)
class SavedCalibration:
    """Of the answers' logits."""

    scale: float
    shift: float


@dataclass(frozen=True, kw_only=True)
class SavedCircuit:
    """What `circuit.json` holds."""

    format_version: int
    task: str
    n_nodes: int
    n_edges: int
    nodes: Mapping[str, tuple[int, ...]]
    edges: tuple[tuple[str, str, float], ...]
    space: Mapping[str, int]
    calibration: SavedCalibration
    provenance: Provenance
    means_sha256: str


@dataclass(frozen=True, kw_only=True)
class Circuit:
    """A subset of a model's nodes and edges that is meant to do a task.

    Args:
        task: the task's name.
        nodes: hook point name -> sorted channels; hook points without nodes are left out.
        edges: nonzero weights between those nodes.
        space: all nodes of the model.
        means: float32 `[n_nodes of the space]`, what deleted nodes emit.
        calibration: scale and shift of the answers' logits (float64 scalars).
        provenance: the model, seed, settings and data behind it.
    """

    task: str
    nodes: dict[str, tuple[int, ...]]
    edges: tuple[Edge, ...]
    space: NodeSpace
    means: Tensor
    calibration: Calibration
    provenance: Provenance

    @property
    def keep(self) -> Tensor:
        """The node mask, bool `[n_nodes of the space]`."""
        return self.space.mask(self.nodes)

    @property
    def node_ids(self) -> list[str]:
        """Ids of the nodes in forward order."""
        return [str(NodeId(name, channel)) for name, channels in self.nodes.items() for channel in channels]

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return sum(map(len, self.nodes.values()))

    @property
    def n_edges(self) -> int:
        """Number of edges, the size of the circuit."""
        return len(self.edges)

    @property
    def uncalibrated(self) -> "Circuit":
        """The same circuit with its logits as they are."""
        one, none = (torch.tensor(x, dtype=torch.float64) for x in (1.0, 0.0))
        return replace(self, calibration=Calibration(scale=one, shift=none))

    def hooks(self, model: nn.Module) -> dict[str, HookFn]:
        """Hooks of the node circuit: every deleted node emits its mean.

        Raises:
            ValueError: a model with other hook points or widths than the circuit's.
        """
        self._check_model(model)
        device = next(model.parameters()).device
        return ablation_hooks(self.space, self.keep.to(device), self.means.to(device))

    def compile(self, model: nn.Module) -> CompactCircuit:
        """The node circuit as a small model of the channels that move (`circuits.compact`).

        Raises:
            ValueError: a model with other hook points or widths than the circuit's, or not in float32.
        """
        self._check_model(model)
        return compile_circuit(model, self.keep, self.means)

    def _check_model(self, model: nn.Module) -> None:
        space = NodeSpace.of(model)
        if space != self.space:
            raise ValueError(
                f"the circuit of {self.task!r} belongs to a model with {self.space.n_nodes} nodes at "
                f"{len(self.space.names)} hook points; this one has {space.n_nodes} at {len(space.names)}: load the "
                f"model it was found in "
                f"(weights {self.provenance.weights_sha256[:16]}...)"
            )

    @contextmanager
    def attached(self, model: nn.Module, kind: Kind = "node") -> Iterator[None]:
        """Inside the block the model's forward pass is the circuit's; afterwards the model is as it was."""
        node_hooks = self.hooks(model)
        if kind == "node":
            with hooked(model, node_hooks):
                yield
            return
        masks = edge_masks(model, self.space, list(self.edges))
        means = self.means.to(next(model.parameters()).device)
        with (
            edge_weights(model, self.space, masks, means) as edge_hooks,
            hooked(model, node_hooks),
            hooked(model, edge_hooks),
        ):
            yield

    def answers(self, model: nn.Module, pairs: PairSet, kind: Kind = "node", batch_size: int = 64) -> Tensor:
        """Calibrated answer logits, `[n, side, answer]` float32.

        A node circuit runs in its compact form, which sees no hooks attached to the model; use `attached` to add some.

        Args:
            kind: "node" (the headline) or "edge".
            batch_size: pairs per pass.
        """
        if kind == "node" and compiles(
            model
        ):  # the compact form equals the masked pass (circuits.compact), in a fraction of its time
            return self.calibration.apply(self.compile(model).answers(pairs, batch_size))
        with self.attached(model, kind):
            return self.calibration.apply(pair_answers(model, pairs, batch_size))

    def evaluate(self, model: nn.Module, pairs: PairSet, kind: Kind = "node", batch_size: int = 64) -> float:
        """Calibrated task loss on `pairs`, nats, mean over both sides."""
        return float(task_loss(self.answers(model, pairs, kind, batch_size)))

    @property
    def means_file(self) -> bytes:
        """What circuit.safetensors holds."""
        return save_tensors({"means": self.means.cpu().contiguous()})

    @property
    def content(self) -> dict[str, Any]:
        """What circuit.json holds, plain."""
        return {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "n_nodes": self.n_nodes,
            "n_edges": self.n_edges,
            "nodes": self.nodes,
            "edges": [[edge.source, edge.target, edge.weight] for edge in self.edges],
            "space": dict(zip(self.space.names, self.space.widths, strict=True)),
            "calibration": {"scale": float(self.calibration.scale), "shift": float(self.calibration.shift)},
            "provenance": asdict(self.provenance),
            "means_sha256": hashlib.sha256(self.means_file).hexdigest(),
        }

    def save(self, folder: Path) -> Path:
        """Writes circuit.json and circuit.safetensors; returns the path of the former."""
        write_atomic(folder / "circuit.safetensors", self.means_file)
        write_atomic(folder / "circuit.json", (json.dumps(self.content, indent=1) + "\n").encode())
        return folder / "circuit.json"

    @classmethod
    def load(cls, path: str | Path) -> "Circuit":
        """Reads a circuit's folder (or its circuit.json).

        Raises:
            FileNotFoundError: no circuit there.
            ValueError: another format, missing or unknown keys, counts or means that do not fit.
        """
        path = Path(path)
        path = path / "circuit.json" if path.is_dir() else path
        means_path = path.with_name("circuit.safetensors")
        for file in (path, means_path):
            if not file.is_file():
                raise FileNotFoundError(f"no circuit at {path.parent}: {file.name} is missing")
        content = from_json(dict[str, Any], path)
        expected = {"format_version", "task", "n_nodes", "n_edges", "nodes", "edges", "space", "calibration"}
        _check_keys(path, content, expected | {"provenance", "means_sha256"})
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format_version {content['format_version']}; this version reads {FORMAT_VERSION}"
            )
        saved = from_json(SavedCircuit, path)
        data = means_path.read_bytes()
        if hashlib.sha256(data).hexdigest() != saved.means_sha256:
            raise ValueError(f"{means_path} is not the file that {path} was written with (sha256 differs)")
        space = NodeSpace(tuple(saved.space), tuple(saved.space.values()))
        scale, shift = (
            torch.tensor(x, dtype=torch.float64) for x in (saved.calibration.scale, saved.calibration.shift)
        )
        if any(not channels or max(channels) >= saved.space.get(name, 0) for name, channels in saved.nodes.items()):
            raise ValueError(f"{path} has nodes that its model does not have")
        circuit = cls(
            task=saved.task,
            nodes=dict(saved.nodes),
            edges=tuple(Edge(*edge) for edge in saved.edges),
            space=space,
            means=load_tensors(data)["means"],
            calibration=Calibration(scale=scale, shift=shift),
            provenance=saved.provenance,
        )
        kept = set(circuit.node_ids)
        loose = sorted({end for edge in circuit.edges for end in (edge.source, edge.target)} - kept)
        if loose:
            raise ValueError(f"{path} has edges at nodes that it does not hold: {', '.join(loose[:5])}")
        counts = (int(circuit.keep.sum()), circuit.n_edges, len(circuit.means))
        if counts != (saved.n_nodes, saved.n_edges, space.n_nodes):
            raise ValueError(f"{path} does not hold the nodes, edges or means that it counts")
        return circuit


def _check_keys(path: Path, content: Collection[str], expected: set[str]) -> None:
    unknown, missing = sorted(set(content) - expected), sorted(expected - set(content))
    if unknown or missing:
        raise ValueError(f"{path} has unknown keys {unknown}, lacks keys {missing}")
