"""The circuit that recalls, found by extraction, is edited: its nodes are set to their mean, or past it."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from circuits.masks import NodeSpace
from circuits.means import Means
from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject
from circuits.prior.cases import STATED
from sparsetrain.hooks import HookFn, HookPoint, NodeId
from sparsetrain.store import fingerprint


class RecallNodes(Arm):
    """mean + f (x - mean) at the nodes of a recall circuit, at all positions: f = 0 deletes them as a circuit's other nodes are deleted.

    Opposite: 2 - f, the deviation made larger by as much. Control: as many nodes drawn by lot from the same hook points, the circuit's left out where
    there are enough others.

    Args:
        space: the model's nodes.
        nodes: of the recall circuit; ids as `circuits` reports them.
        means: what deleted nodes emit; None: zero.
        factors: f of each setting.

    Raises:
        ValueError: no nodes, or one that the model does not have.

    Source: Gao et al. 2025, arXiv 2511.13653, section A.5 (mean ablation of nodes). Ours: factors past the mean.
    """

    name = "recall circuit"
    kind: ClassVar = "intervention"
    source: ClassVar[str] = "Gao et al. 2025 (mean ablation)"

    def __init__(
        self,
        space: NodeSpace,
        nodes: Sequence[NodeId | str],
        means: Means | None = None,
        factors: tuple[float, ...] = (0.5, 0.0, -0.5, -1.0),
    ) -> None:
        if not nodes:
            raise ValueError("no nodes of a recall circuit; name some, e.g. blocks.0.mlp.hook_neuron:17")
        chosen = torch.zeros(space.n_nodes, dtype=torch.bool)
        for node in nodes:
            chosen[space.number(node)] = True
        self.space, self.chosen = space, chosen
        self.values = torch.zeros(space.n_nodes) if means is None else means.values.cpu()
        self.settings = tuple({"factor": factor} for factor in factors)

    @property
    def identity(self) -> str:
        return fingerprint([self.chosen.nonzero().flatten().tolist(), self.values[self.chosen].tolist()])

    def edited(self, random: int | None) -> Tensor:
        """Which nodes are edited, bool `[n_nodes]`."""
        if random is None:
            return self.chosen
        generator, drawn = torch.Generator().manual_seed(random), torch.zeros_like(self.chosen)
        for name, own in self.space.split(self.chosen).items():
            if n := int(own.sum()):
                others = (~own).nonzero().flatten()
                pool = others if len(others) >= n else torch.arange(len(own))
                drawn[self.space.slice(name).start + pool[torch.randperm(len(pool), generator=generator)[:n]]] = True
        return drawn

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        factor = float(setting["factor"] or 0)
        factor = 2 - factor if intent == "prior" else factor
        masks, values = self.space.split(self.edited(random)), self.space.split(self.values)
        hooks = {name: _scale(mask, values[name], factor) for name, mask in masks.items() if mask.any()}
        return subject.logits(asks.rows(STATED), hooks)


def _scale(mask: Tensor, mean: Tensor, factor: float) -> HookFn:
    def scale(x: Tensor, point: HookPoint) -> Tensor:
        value = mean.to(x)
        return torch.where(mask.to(x.device), value + factor * (x - value), x)

    return scale
