"""What a report draws of a circuit: nodes with what they read and write, edges with their weights.

A node that reads the residual stream (attn_in, mlp_in) reads token embeddings, and writes of earlier kept nodes on its
channel; one that writes it (attn_out, mlp_out) moves logits through its unembedding column, and is read by later kept
nodes. The other kinds read and write along edges.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from circuits.circuit import Circuit
from sparsetrain.hooks import node_points
from sparsetrain.model import Transformer

READS, WRITES = ("attn_in", "mlp_in"), ("attn_out", "mlp_out")


def graph_content(
    model: Transformer, circuit: Circuit, removal_loss: Tensor, token: Callable[[int], str], n_strongest: int = 6
) -> dict[str, Any]:
    """Plain data of a circuit's drawing.

    Args:
        removal_loss: float `[n_nodes of the space]`, rise of the validation loss when the node alone is removed.
        token: id -> readable text.
        n_strongest: tokens (or nodes) named per node and direction.

    Returns:
        `{"nodes": [...], "edges": [...], "d_head": int}`, see `docs/report.md`.
    """
    space = circuit.space
    kinds = {name: point.kind for name, point in node_points(model).items()}
    embed = model.embed.weight.detach()
    unembed = model.unembed.weight.detach() * model.final_norm.gain.detach()
    kept = [(name, channel) for name in space.names for channel in circuit.nodes.get(name, ())]
    order = {name: i for i, name in enumerate(space.names)}
    nodes = []
    for name, channel in kept:
        node_id, kind = f"{name}:{channel}", kinds[name]
        reads = [{"what": edge.source, "weight": edge.weight} for edge in circuit.edges if edge.target == node_id]
        writes = [{"what": edge.target, "weight": edge.weight} for edge in circuit.edges if edge.source == node_id]
        same = [(other, order[other]) for other, c in kept if c == channel]
        if kind in READS:
            reads = _strongest_tokens(embed[:, channel], token, n_strongest)
            writers = [n for n, at in same if kinds[n] in WRITES and at < order[name]]
            reads += [{"what": f"{n}:{channel}", "weight": 1.0} for n in writers]
        if kind in WRITES:
            writes = _strongest_tokens(unembed[:, channel], token, n_strongest)
            readers = [n for n, at in same if kinds[n] in READS and at > order[name]]
            writes += [{"what": f"{n}:{channel}", "weight": 1.0} for n in readers]
        number = space.number(node_id)
        nodes.append(
            {
                "id": node_id,
                "layer": int(name.split(".")[1]),
                "kind": kind,
                "channel": channel,
                "mean": float(circuit.means[number]),
                "reads": _strongest(reads, n_strongest),
                "writes": _strongest(writes, n_strongest),
                "ablation_delta": float(removal_loss[number]),
            }
        )
    edges = [{"source": edge.source, "target": edge.target, "weight": edge.weight} for edge in circuit.edges]
    return {"nodes": nodes, "edges": edges, "d_head": model.config.d_head}


def _strongest(entries: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: -abs(entry["weight"]))[: 2 * n]


def _strongest_tokens(column: Tensor, token: Callable[[int], str], n: int) -> list[dict[str, Any]]:
    ids = column.abs().topk(min(n, len(column))).indices.tolist()
    return [{"what": token(i), "weight": float(column[i])} for i in ids if column[i] != 0]
