"""What a report draws of a circuit: nodes with what they read and write, edges with their weights.

A node that reads the residual stream (attn_in, mlp_in) reads token embeddings, and writes of earlier kept nodes on its
channel; one that writes it (attn_out, mlp_out) moves logits through its unembedding column, and is read by later kept
nodes. The other kinds read and write along edges.
"""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from circuits.circuit import Circuit
from circuits.explain.words import READS, WRITES, feeds
from circuits.section import Drawing, DrawnEdge, DrawnNode, NodeKind, Wire
from sparsetrain.hooks import NodeId
from sparsetrain.model import Transformer


def drawing(
    model: nn.Module, circuit: Circuit, removal_loss: Tensor, token: Callable[[int], str], n_strongest: int = 6
) -> Drawing:
    """A circuit as its page draws it; of a model without edges the nodes alone.

    Args:
        removal_loss: float `[n_nodes of the space]`, rise of the validation loss when the node alone is removed.
        token: id -> readable text.
        n_strongest: tokens named per node and direction; twice as many tokens and nodes together.
    """
    space = circuit.space
    kept = [NodeId(name, channel) for name in space.names for channel in circuit.nodes.get(name, ())]

    def drawn(node: NodeId, reads: Sequence[Wire] = (), writes: Sequence[Wire] = ()) -> DrawnNode:
        number = space.number(node)
        return DrawnNode(
            id=str(node),
            layer=node.layer,
            kind=cast(NodeKind, node.kind),
            channel=node.channel,
            mean=float(circuit.means[number]),
            reads=tuple(reads),
            writes=tuple(writes),
            ablation_delta=float(removal_loss[number]),
        )

    if not isinstance(model, Transformer):
        return Drawing(nodes=tuple(map(drawn, kept)), edges=(), d_head=getattr(model, "d_head", None))
    embed = model.embed.weight.detach()
    unembed = model.unembed.weight.detach() * model.final_norm.gain.detach()

    def tokens(column: Tensor) -> list[Wire]:
        ids = column.abs().topk(min(n_strongest, len(column))).indices.tolist()
        return [Wire(what=token(i), weight=float(column[i])) for i in ids if column[i] != 0]

    def strongest(wires: list[Wire]) -> tuple[Wire, ...]:
        return tuple(sorted(wires, key=lambda wire: -abs(wire.weight or 0.0))[: 2 * n_strongest])

    nodes = []
    for node in kept:
        node_id, channel = str(node), node.channel
        reads = [Wire(what=edge.source, weight=edge.weight) for edge in circuit.edges if edge.target == node_id]
        writes = [Wire(what=edge.target, weight=edge.weight) for edge in circuit.edges if edge.source == node_id]
        if node.kind in READS:
            writers = [Wire(what=str(other), weight=1.0) for other in kept if feeds(other, node)]
            reads = tokens(embed[:, channel]) + writers
        if node.kind in WRITES:
            readers = [Wire(what=str(other), weight=1.0) for other in kept if feeds(node, other)]
            writes = tokens(unembed[:, channel]) + readers
        nodes.append(drawn(node, strongest(reads), strongest(writes)))
    edges = tuple(DrawnEdge(source=edge.source, target=edge.target, weight=edge.weight) for edge in circuit.edges)
    return Drawing(nodes=tuple(nodes), edges=edges, d_head=model.config.d_head)
