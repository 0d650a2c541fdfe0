"""A circuit in the JSON of EAP-IG and the MIB benchmark's circuit track: heads and MLPs, joined through the residual stream.

That format's nodes are coarser than ours: `input`, `a<layer>.h<head>`, `m<layer>`, `logits`; its edges are wires of the
residual stream, into a head's q, k or v apart. How a circuit of channels maps:
- A head is in the graph if it has a kept q, k or v channel and reaches a kept channel of attn_out; an MLP if a channel of
  mlp_out is kept; `input` and `logits` always (the empty circuit has them). `neurons` lists, per residual channel, whether
  the node writes it in the circuit: there the finer circuit survives.
- An edge is in the graph if some residual channel is written by its parent and read by its child, with a weight to a
  kept channel behind it.
- `score` of an edge: mean over prompts of sum over positions and channels of (what the parent adds to the channel beyond
  its mean) x (derivative of logit(right) - logit(wrong) by the channel, through that child alone). First order, with
  norms frozen, attention patterns as they are in the circuit; a head adds what its kept v channels add. The input counts
  with its whole embedding, and the bigram table, which that format does not know, is left out. `score` of a node: the sum over
  its outgoing edges.
- Edges that are not listed are not in the graph and have score 0, which is what readers assume.

Source: public code of EAP-IG (Hanna et al. 2024) and of MIB (Mueller et al. 2025), the reader's format restated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from einops import einsum, rearrange
from pydantic import Field
from pydantic.config import JsonDict
from torch import Tensor

from circuits.circuit import Circuit
from circuits.edges import join_weight, joins
from circuits.explain.flow import frozen_norms
from circuits.exports.typed import Exported, Sha256
from circuits.tasks.loss import answer_logits
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookPoint, hooked
from sparsetrain.kernels import attention_pattern
from sparsetrain.model import Attention, RMSNorm, Transformer
from sparsetrain.typed import Count, Index


@dataclass(frozen=True, kw_only=True)
class MibConfig(Exported):
    """The model's shape."""

    n_layers: Count
    n_heads: Count
    parallel_attn_mlp: Literal[False] = False
    d_model: Count


@dataclass(frozen=True, kw_only=True)
class Inside(Exported):
    """A node in the graph, and which residual channels it writes."""

    in_graph: Literal[True] = True
    score: float
    neurons: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Outside(Exported):
    """A node that is not in the graph."""

    in_graph: Literal[False] = False
    score: float


@dataclass(frozen=True, kw_only=True)
class Logits(Exported):
    """The end of all edges."""

    in_graph: Literal[True] = True


@dataclass(frozen=True, kw_only=True)
class Wire(Exported):
    """An edge of the graph."""

    score: float
    in_graph: Literal[True] = True


@dataclass(frozen=True, kw_only=True)
class Origin(Exported):
    """Where the graph comes from; readers ignore it."""

    task: str
    weights_sha256: Sha256
    n_nodes: Index
    n_edges: Index
    n_pairs: Index
    ablation: Literal["mean"] = "mean"


NodeKey = Annotated[str, Field(pattern=r"^(input|a[0-9]+\.h[0-9]+|m[0-9]+|logits)$")]
WireKey = Annotated[str, Field(pattern=r"^(input|a[0-9]+\.h[0-9]+|m[0-9]+)->(logits|m[0-9]+|a[0-9]+\.h[0-9]+<[qkv]>)$")]
_CLOSED: JsonDict = {"additionalProperties": False}


@dataclass(frozen=True, kw_only=True)
class MibGraph(Exported):
    """What EAP-IG's `Graph.from_json` and the MIB circuit track read."""

    cfg: MibConfig
    nodes: Annotated[
        Mapping[NodeKey, Inside | Outside | Logits],
        Field(json_schema_extra={**_CLOSED, "required": ["input", "logits"]}),
    ]
    edges: Annotated[Mapping[WireKey, Wire], Field(json_schema_extra=_CLOSED)]
    sparsetrain: Origin


@dataclass(frozen=True, kw_only=True)
class _Parent:
    """What a node adds to the residual stream: `[row, pos, d_model]`, and the channels it writes (bool `[d_model]`)."""

    name: str
    adds: Tensor
    writes: Tensor


@dataclass(frozen=True, kw_only=True)
class _Child:
    """Derivative of m by the residual stream through one input, `[row, pos, d_model]`, and the channels it reads."""

    name: str
    slope: Tensor
    reads: Tensor


def mib_graph(model: Transformer, circuit: Circuit, pairs: PairSet) -> MibGraph:
    """The circuit as heads and MLPs.

    Args:
        pairs: pairs of the circuit's task, over which scores are averaged.
    """
    run = _Run(model, circuit, pairs)
    parents, edges = [run.input()], {}
    for layer in range(model.config.n_layer):
        for child in run.head_inputs(layer):
            edges |= _edges(parents, child, pairs)
        parents += run.heads(layer)
        edges |= _edges(parents, run.mlp_input(layer), pairs)
        parents.append(run.mlp(layer))
    edges |= _edges(parents, run.logits(), pairs)
    scores = {parent.name: 0.0 for parent in parents}
    for name, edge in edges.items():
        scores[name.split("->")[0]] += edge.score
    nodes: dict[str, Inside | Outside | Logits] = {}
    for parent in parents:
        inside, score = parent.name == "input" or bool(parent.writes.any()), scores[parent.name]
        nodes[parent.name] = (
            Inside(score=score, neurons=tuple(parent.writes.tolist())) if inside else Outside(score=score)
        )
    return MibGraph(
        cfg=MibConfig(n_layers=model.config.n_layer, n_heads=model.config.heads, d_model=model.config.d_model),
        nodes=nodes | {"logits": Logits()},
        edges=edges,
        sparsetrain=Origin(
            task=circuit.task,
            weights_sha256=circuit.provenance.weights_sha256,
            n_nodes=circuit.n_nodes,
            n_edges=circuit.n_edges,
            n_pairs=len(pairs),
        ),
    )


def _edges(parents: list[_Parent], child: _Child, pairs: PairSet) -> dict[str, Wire]:
    """The edges from earlier nodes into one input that lie in the graph."""
    found = {}
    for parent in parents:
        always = parent.name == "input" and child.name == "logits"
        if always or bool((parent.writes & child.reads).any()):
            score = float((parent.adds * child.slope).sum()) / (2 * len(pairs))
            found[f"{parent.name}->{child.name}"] = Wire(score=score)
    return found


class _Run:
    """One pass of the circuit over all prompts, with gradients of m by every hook point."""

    def __init__(self, model: Transformer, circuit: Circuit, pairs: PairSet) -> None:
        self.model, self.circuit = model, circuit
        device = next(model.parameters()).device
        self.kept = {name: part.to(device) for name, part in circuit.space.split(circuit.keep).items()}
        self.means = {name: part.to(device) for name, part in circuit.space.split(circuit.means).items()}
        self.weights = {join.linear: join_weight(model, circuit.space, join) for join in joins(model)}
        self.tokens, self.last = (x.to(device) for x in pairs.prompts())
        self.values, self.slopes, self.scales = self._run(pairs, device)

    def _run(
        self, pairs: PairSet, device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        seen: dict[str, Tensor] = {}

        def keep(x: Tensor, point: HookPoint) -> Tensor:
            seen[point.name] = x if x.requires_grad else x.detach().requires_grad_()
            return seen[point.name]

        names = [*self.circuit.space.names, "final_norm.hook_resid"]
        with (
            torch.enable_grad(),
            self.circuit.attached(self.model),
            hooked(self.model, dict.fromkeys(names, keep)),
            frozen_norms(self.model) as scales,
        ):
            logits = self.model(self.tokens, self.last).unflatten(0, (-1, 2))
            answers = answer_logits(logits, pairs.answers.to(device))
            margin = (answers[:, 0, 0] - answers[:, 0, 1] + answers[:, 1, 1] - answers[:, 1, 0]).sum()
            found = torch.autograd.grad(margin, [seen[name] for name in names], allow_unused=True)
        slopes = {n: torch.zeros_like(seen[n]) if g is None else g for n, g in zip(names, found, strict=True)}
        return {name: x.detach() for name, x in seen.items()}, slopes, scales

    def _normed(self, place: str) -> Tensor:
        """Derivative of what a layer reads by the residual stream: 0 where AbsTopK or the circuit deletes the channel."""
        norm = self.model.get_submodule(f"{place}.norm")
        assert isinstance(norm, RMSNorm)
        name = f"{place}.hook_in"
        passes = (self.values[name] != 0) & self.kept[name]
        return norm.gain.detach() * self.scales[f"{place}.norm.hook_scale"] * passes

    def input(self) -> _Parent:
        embedded = self.model.embed.weight.detach()[self.tokens]
        if self.model.positions is not None and self.model.config.positions == "learned":
            embedded = embedded + self.model.positions.detach()[: self.tokens.shape[1]]
        return _Parent(name="input", adds=embedded, writes=(self.model.embed.weight.detach() != 0).any(0))

    def heads(self, layer: int) -> list[_Parent]:
        """What every head adds: its kept v channels beyond their means, moved by the attention of the circuit."""
        place = f"blocks.{layer}.attn"
        attn = self.model.get_submodule(place)
        assert isinstance(attn, Attention)
        q, k, v = (
            rearrange(x, "row pos (head d) -> row head pos d", head=attn.n_head)
            for x in (
                self.values[f"{place}.hook_q"],
                self.values[f"{place}.hook_k"],
                (self.values[f"{place}.hook_v"] - self.means[f"{place}.hook_v"]) * self.kept[f"{place}.hook_v"],
            )
        )
        kept = {x: rearrange(self.kept[f"{place}.hook_{x}"], "(head d) -> head d", head=attn.n_head) for x in "qkv"}
        out = self.kept[f"{place}.hook_out"]
        passes = (self.values[f"{place}.hook_out"] != 0) & out
        weight = rearrange(self.weights[f"{place}.W_o"], "out (head d) -> head out d", head=attn.n_head)
        sink = None if attn.sink is None else attn.sink.detach()
        found = []
        for head in range(attn.n_head):
            moves = bool((kept["q"] | kept["k"])[head].any())
            reaches = (weight[head] != 0) & (kept["v"][head] | moves)
            pattern = attention_pattern(
                q[:, head : head + 1], k[:, head : head + 1], None if sink is None else sink[head : head + 1]
            )
            moved = einsum(pattern[:, 0, :, :-1], v[:, head], "row query key, row key d -> row query d")
            adds = einsum(weight[head], moved, "out d, row query d -> row query out") * passes
            found.append(_Parent(name=f"a{layer}.h{head}", adds=adds, writes=reaches.any(1) & out))
        return found

    def head_inputs(self, layer: int) -> list[_Child]:
        place, n_head = f"blocks.{layer}.attn", self.model.config.heads
        normed = self._normed(place)
        found = []
        for head in range(n_head):
            for x in "qkv":
                name = f"{place}.hook_{x}"
                own = torch.zeros_like(self.kept[name])
                own[head * self.model.config.d_head : (head + 1) * self.model.config.d_head] = True
                own = own & self.kept[name]
                weight = self.weights[f"{place}.W_{x}"][own]
                slope = (self.slopes[name] * (self.values[name] != 0))[..., own] @ weight * normed
                reads = (weight != 0).any(0) & self.kept[f"{place}.hook_in"]
                found.append(_Child(name=f"a{layer}.h{head}<{x}>", slope=slope, reads=reads))
        return found

    def mlp_input(self, layer: int) -> _Child:
        place = f"blocks.{layer}.mlp"
        reads = (self.weights[f"{place}.W_in"][self.kept[f"{place}.hook_neuron"]] != 0).any(0)
        slope = self.slopes[f"{place}.hook_in"] * self._normed(place)
        return _Child(name=f"m{layer}", slope=slope, reads=reads & self.kept[f"{place}.hook_in"])

    def mlp(self, layer: int) -> _Parent:
        name = f"blocks.{layer}.mlp.hook_out"
        return _Parent(
            name=f"m{layer}",
            adds=(self.values[name] - self.means[name]) * self.kept[name],
            writes=self.kept[name],
        )

    def logits(self) -> _Child:
        """The final norm sees the last position alone; its slope stands there."""
        slope = torch.zeros(*self.tokens.shape, self.model.config.d_model, device=self.tokens.device)
        rows = torch.arange(len(slope), device=slope.device)
        slope[rows, self.last] = self.slopes["final_norm.hook_resid"][:, 0].to(slope.dtype)
        reads = (self.model.unembed.weight.detach() != 0).any(0) & (self.model.final_norm.gain.detach() != 0)
        return _Child(name="logits", slope=slope, reads=reads)
