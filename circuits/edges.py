"""Edges: the nonzero weights that join two kept nodes.

1. A `Join` is a weight matrix between two hook points: attn_in -> q, k, v; v -> attn_out; mlp_in -> neuron;
   neuron -> mlp_out. Between v and attn_out lies the attention pattern: v channel j of a head reaches attn_out through
   column j of W_o. Residual links (a write channel to a later read of it) are identities and no edges; neither are
   embedding, unembedding, bigram table, concatenated positions and biases.
2. Node circuit (Gao et al. 2025): deleted nodes emit their mean; weights stay. Edge circuit (ours): besides, a deleted
   edge carries weight x mean of its source, into deleted nodes too, so AbsTopK sees no other influence.
3. The edge circuit runs through the model's own forward pass: for its length W becomes W * M and the bias gets
   (W * (1 - M)) mean. The deleted edges out of v carry their mean through the attention pattern, as a deleted v node
   does: each head gets one more value channel that is 1 everywhere, and W_o a column for it. (Values are then wider
   than queries, which fused attention may refuse, so such a pass runs the reference attention: the same function.)
4. Reachability: a kept node does something only on a path from the tokens to the logits.

A dense model of other people has nodes and no edges: its nodes (neurons, heads' channels) read and write the whole residual
stream, so that between any two of them lies no one weight. It has no joins, and all that follows from them is empty.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from circuits.masks import NodeSpace
from sparsetrain.hooks import HookFn, HookPoint, NodeId
from sparsetrain.kernels import sink_attention_reference
from sparsetrain.model import Attention, Transformer


@dataclass(frozen=True)
class Edge:
    """One nonzero weight between two kept nodes, named by their ids."""

    source: str
    target: str
    weight: float


@dataclass(frozen=True)
class Join:
    """A weight matrix between two hook points.

    Args:
        source: hook point that is read.
        target: hook point that the product (plus bias, activation, AbsTopK) becomes.
        linear: path of the `nn.Linear` between them, `weight [target width, source width (+ d_pos)]`.
    """

    source: str
    target: str
    linear: str


NO_EDGES = "nodes of a dense model read and write the whole residual stream, so no single weight joins two of them"


def has_edges(model: nn.Module) -> bool:
    """Whether single weights join the nodes of a model."""
    return isinstance(model, Transformer)


def joins(model: nn.Module) -> list[Join]:
    """All weight matrices between node hook points, in forward order; none where the model `has_edges` not."""
    if not isinstance(model, Transformer):
        return []
    found = []
    for i in range(model.config.n_layer):
        attn, mlp = f"blocks.{i}.attn", f"blocks.{i}.mlp"
        found += [Join(f"{attn}.hook_in", f"{attn}.hook_{x}", f"{attn}.W_{x}") for x in "qkv"]
        found.append(Join(f"{attn}.hook_v", f"{attn}.hook_out", f"{attn}.W_o"))
        found.append(Join(f"{mlp}.hook_in", f"{mlp}.hook_neuron", f"{mlp}.W_in"))
        found.append(Join(f"{mlp}.hook_neuron", f"{mlp}.hook_out", f"{mlp}.W_out"))
    return found


def join_weight(model: nn.Module, space: NodeSpace, join: Join) -> Tensor:
    """The matrix of a join over node channels, `[target width, source width]`: columns of positions are left out."""
    return linear_of(model, join).weight.detach()[:, : space.widths[space.names.index(join.source)]]


def linear_of(model: nn.Module, join: Join) -> nn.Linear:
    """The layer of a join."""
    linear = model.get_submodule(join.linear)
    assert isinstance(linear, nn.Linear)
    return linear


def _attention(model: nn.Module, join: Join) -> Attention:
    attn = model.get_submodule(join.linear.rpartition(".")[0])
    assert isinstance(attn, Attention)
    return attn


def _kept_weights(model: nn.Module, space: NodeSpace, keep: Tensor) -> Iterator[tuple[Join, Tensor, Tensor, Tensor]]:
    """Per join the kept channels of its source and of its target, and the weights between them `[target, source]`."""
    kept = space.split(keep.to(next(model.parameters()).device))
    for join in joins(model):
        sources, targets = (kept[name].nonzero().flatten() for name in (join.source, join.target))
        yield join, sources, targets, join_weight(model, space, join)[targets][:, sources]


def find_edges(model: nn.Module, space: NodeSpace, keep: Tensor) -> list[Edge]:
    """The edges of a node circuit: every nonzero weight from a kept node to a kept node, sorted by join and channel.

    Args:
        keep: bool `[n_nodes]`.
    """
    return [
        Edge(str(NodeId(join.source, int(sources[s]))), str(NodeId(join.target, int(targets[t]))), float(weight[t, s]))
        for join, sources, targets, weight in _kept_weights(model, space, keep)
        for t, s in weight.nonzero().tolist()
    ]


def count_edges(model: nn.Module, space: NodeSpace, keep: Tensor) -> int:
    """Number of edges of a node circuit (`keep`: bool `[n_nodes]`)."""
    return sum(int(weight.count_nonzero()) for *_, weight in _kept_weights(model, space, keep))


def count_slots(model: nn.Module, space: NodeSpace, keep: Tensor) -> int:
    """Number of weights, zero or not, that join two kept nodes: the edges that a node circuit would have if none were zero.

    Edges of a dense model fill their slots, those of a sparse one a part of them: what is left of a ratio of edges in the ratio of
    slots is not owed to zeros between the kept nodes (`keep`: bool `[n_nodes]`).
    """
    return sum(weight.numel() for *_, weight in _kept_weights(model, space, keep))


def size_of(model: nn.Module, space: NodeSpace, keep: Tensor) -> int:
    """What a circuit's size is counted in: edges; nodes, where the model has no edges."""
    return count_edges(model, space, keep) if has_edges(model) else int(keep.sum())


def degrees(model: nn.Module, space: NodeSpace) -> Callable[[Tensor], Tensor]:
    """A function from masks to the number of edges that each node has, or would have, with the kept nodes.

    Returns:
        bool `[n_runs, n_nodes]` -> float32 of that shape, on the model's device.
    """
    there = [(join, (join_weight(model, space, join) != 0).float()) for join in joins(model)]

    def count(keep: Tensor) -> Tensor:
        kept = space.split(keep.float())
        found = {name: torch.zeros_like(part) for name, part in kept.items()}
        for join, weights in there:
            found[join.target] += kept[join.source] @ weights.T
            found[join.source] += kept[join.target] @ weights
        return space.join(found)

    return count


def count_biases(model: nn.Module, space: NodeSpace, keep: Tensor) -> int:
    """Nonzero biases of kept nodes; counted apart from edges."""
    kept = space.split(keep)
    biases = {join.target: linear_of(model, join).bias for join in joins(model)}
    return sum(int(bias.detach()[kept[name]].count_nonzero()) for name, bias in biases.items() if bias is not None)


def edge_masks(model: nn.Module, space: NodeSpace, edges: list[Edge]) -> dict[str, Tensor]:
    """Which entries of each join's matrix are edges: linear's path -> bool `[target width, source width]`.

    Raises:
        ValueError: an edge between hook points that no weight joins, or with another weight than the model's.
    """
    by_ends = {(join.source, join.target): join for join in joins(model)}
    chosen: dict[Join, list[tuple[int, int, Edge]]] = {join: [] for join in by_ends.values()}
    for edge in edges:
        source, target = NodeId.parse(edge.source), NodeId.parse(edge.target)
        join = by_ends.get((source.point, target.point))
        if join is None:
            raise ValueError(
                f"no weight joins {edge.source} to {edge.target}; an edge joins the hook points of one matrix"
            )
        for end in (source, target):
            space.number(end)  # refuses unknown channels
        chosen[join].append((target.channel, source.channel, edge))
    masks = {}
    for join, entries in chosen.items():
        weight = join_weight(model, space, join)
        rows, columns = torch.tensor([entry[:2] for entry in entries], dtype=torch.int64).reshape(-1, 2).unbind(1)
        for found, (_, _, edge) in zip(weight[rows, columns].tolist(), entries, strict=True):
            if found != edge.weight:
                raise ValueError(
                    f"edge {edge.source} -> {edge.target} has weight {edge.weight}, the model has {found}; is it "
                    f"another model?"
                )
        masks[join.linear] = torch.zeros_like(weight, dtype=torch.bool)
        masks[join.linear][rows, columns] = True
    return masks


@contextmanager
def edge_weights(
    model: nn.Module, space: NodeSpace, masks: Mapping[str, Tensor], means: Tensor
) -> Iterator[dict[str, HookFn]]:
    """For the length of the block, deleted edges carry weight x mean of their source; weights are always put back.

    Args:
        space: the model's nodes.
        masks: linear's path -> `[target width, source width]`, True for kept edges (see `edge_masks`); a float in (0, 1)
            keeps that share of an edge.
        means: float `[n_nodes]`.

    Yields:
        Hooks that must be attached after any node hooks for the passes inside the block.
    """
    values = space.split(means)
    hooks: dict[str, HookFn] = {}
    with ExitStack() as stack:
        for join in joins(model):
            linear, keep = linear_of(model, join), masks[join.linear]
            weight, bias = linear.weight.detach(), linear.bias
            part = weight[:, : keep.shape[1]]
            if bool(((keep == 1) | (part == 0)).all()):
                continue
            kept = part * keep
            deleted = part - kept
            if join.source.endswith("hook_v"):
                attn = _attention(model, join)
                _swap_attend(stack, attn, sink_attention_reference)
                kept = rearrange(kept, "out (head d) -> out head d", head=attn.n_head)
                deleted = rearrange(deleted.double(), "out (head d) -> out head d", head=attn.n_head)
                mean = rearrange(values[join.source].double(), "(head d) -> head d", head=attn.n_head)
                constant = einsum(deleted, mean, "out head d, head d -> out head").to(kept.dtype)
                kept = rearrange(torch.cat([kept, constant[..., None]], -1), "out head d -> out (head d)")
                hooks[join.source] = _append_ones(attn.n_head)
            else:
                shift = (deleted.double() @ values[join.source].double()).to(part.dtype)
                kept = torch.cat([kept, weight[:, keep.shape[1] :]], dim=1)
                bias = nn.Parameter(shift if bias is None else bias.detach() + shift, requires_grad=False)
            _swap_weight(stack, linear, kept, bias)
        yield hooks


def _swap_weight(stack: ExitStack, linear: nn.Linear, weight: Tensor, bias: nn.Parameter | None) -> None:
    """Gives a layer other parameters until the stack closes."""

    def put(weight: Tensor, bias: nn.Parameter | None) -> None:
        linear.weight = weight
        linear.register_parameter("bias", bias)

    stack.callback(put, linear.weight, linear.bias)
    put(nn.Parameter(weight, requires_grad=False), bias)


def _swap_attend(stack: ExitStack, attn: Attention, attend: Callable[..., Tensor]) -> None:
    """Gives a layer another attention function until the stack closes."""
    stack.callback(setattr, attn, "attend", attn.attend)
    attn.attend = attend


def _append_ones(n_head: int) -> HookFn:
    def append(x: Tensor, point: HookPoint) -> Tensor:
        x = rearrange(x, "row pos (head d) -> row pos head d", head=n_head)
        ones = torch.ones_like(x[..., :1])
        return rearrange(torch.cat([x, ones], -1), "row pos head d -> row pos (head d)")

    return append


@contextmanager
def narrowed(model: nn.Module, space: NodeSpace, used: Tensor, means: Tensor) -> Iterator[dict[str, Tensor]]:
    """For the length of the block, weights read only the channels that some circuit keeps: same function, less work.

    Deleted sources of W_q, W_k, W_v, W_in and W_out are constant, so their share moves into the bias; where no attn_out
    node is used, the attention that leads to it is not computed. The other weights and every AbsTopK stay whole.

    Args:
        used: bool `[n_nodes]`, nodes kept by any circuit that will be run inside.
        means: float `[n_nodes]`, what the others emit.

    Yields:
        Hook point name -> channels (int64) that the weights behind it now read; pass it to `ablation_hooks` or
        `NodeMasks.hooks`, whose hooks must be attached inside the block.
    """
    parts, values = space.split(used), space.split(means)
    channels: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for join in joins(model):
            linear, keep = linear_of(model, join), parts[join.source]
            if join.source.endswith("hook_v"):
                if not bool(parts[join.target].any()):
                    _swap_attend(stack, _attention(model, join), _no_attention)
                continue
            read = channels[join.source] = keep.nonzero().flatten()
            weight, bias = linear.weight.detach(), linear.bias
            node_weight, place_weight = weight.split([len(keep), weight.shape[1] - len(keep)], dim=1)
            shift = (node_weight * ~keep).double() @ values[join.source].double()
            shift = shift.to(weight.dtype) if bias is None else (bias.detach() + shift).to(weight.dtype)
            narrow = torch.cat([node_weight[:, read], place_weight], dim=1)
            _swap_weight(stack, linear, narrow, nn.Parameter(shift, requires_grad=False))
        yield channels


def _no_attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor | None) -> Tensor:
    """Stands where everything that reads the attention is deleted."""
    return v


def inputs(model: Transformer) -> tuple[Tensor, Tensor]:
    """Where paths begin: residual channels in which tokens (or added positions) differ, and concatenated positions that are not zero.

    Returns:
        bool `[d_model]`, bool `[d_pos]` (the columns behind those of nodes in the weights of reads; none without such positions).
    """
    embed, positions = model.embed.weight.detach(), model.positions
    stream = (embed != embed[:1]).any(0)
    there = (
        torch.zeros(0, dtype=torch.bool, device=stream.device)
        if positions is None
        else (positions.detach() != 0).any(0)
    )
    return (stream | there, there[:0]) if model.config.positions == "learned" else (stream, there)


def outputs(model: Transformer) -> Tensor:
    """Residual channels that the logits read, bool `[d_model]`: where paths end."""
    return (model.unembed.weight.detach() != 0).any(0) & (model.final_norm.gain.detach() != 0)


def on_path(model: nn.Module, space: NodeSpace, keep: Tensor) -> Tensor:
    """Kept nodes that lie on a path from the tokens to the logits.

    Paths run along nonzero weights between kept nodes, residual channels, and from q and k to the writes of their head.
    The scale of a norm and the competition in AbsTopK are influences too, but no paths: whoever drops the other nodes
    checks the loss. In a model without edges every node reads what the tokens write and writes what the logits read.

    Args:
        keep: bool `[n_nodes]`.

    Returns:
        bool `[n_nodes]`, a subset of `keep`.
    """
    if not isinstance(model, Transformer):
        return keep
    kept = space.split(keep.to(next(model.parameters()).device))
    weights = {join: join_weight(model, space, join) != 0 for join in joins(model)}
    into = {join.target: join for join in weights}

    def whole_heads(channels: Tensor) -> Tensor:
        """All channels of the heads that have any of these."""
        heads = rearrange(channels, "(head d) -> head d", head=model.config.heads).any(-1)
        return repeat(heads, "head -> (head d)", d=model.config.d_head)

    stream, placed = inputs(model)
    reached: dict[str, Tensor] = {}
    for name in space.names:
        hit = stream
        if join := into.get(name):
            source = reached[join.source]
            if join.source.endswith("hook_v"):
                query, key = (reached[join.source.removesuffix("v") + x] for x in "qk")
                source = source | whole_heads(query) | whole_heads(key)
            hit = (weights[join] & source).any(1)
            if join.source.endswith("hook_in") and len(placed):
                places = linear_of(model, join).weight.detach()[:, len(source) :]
                hit = hit | ((places != 0) & placed).any(1)
        reached[name] = hit & kept[name]
        if name.endswith("hook_out"):
            stream = stream | reached[name]

    useful: dict[str, Tensor] = {}
    read = outputs(model)
    writing: dict[str, Tensor] = {}  # channels from which a useful node can be reached, whether kept or not
    for name in reversed(space.names):
        if name.endswith("hook_out"):
            writing[name] = read
        elif name.endswith(("hook_q", "hook_k")):
            # A deleted v still emits its mean through the pattern, which the sink makes depend on q and k.
            writing[name] = whole_heads(writing[name[:-1] + "v"])
        else:
            ahead = [(weights[join] & useful[join.target][:, None]).any(0) for join in weights if join.source == name]
            writing[name] = torch.stack(ahead).any(0)
        useful[name] = writing[name] & kept[name]
        if name.endswith("hook_in"):
            read = read | useful[name]
    return (space.join(reached) & space.join(useful)).to(keep.device)
