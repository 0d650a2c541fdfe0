"""A circuit in words: names of its nodes, and a small circuit as a short program.

Each layer of the program lists what it reads (and who wrote that), what it computes, and what it adds to the residual
stream; the end says how written channels move the answer. Biases, and deleted nodes held at their means, add constants that are left
out; AbsTopK keeps only the strongest channels.
"""

import re
from typing import get_args

from circuits.section import Drawing, DrawnNode, NodeKind, Wire
from sparsetrain.hooks import NodeId

KINDS = get_args(NodeKind)
READS, WRITES = ("attn_in", "mlp_in"), ("attn_out", "mlp_out")
HEAD = ("attn_q", "attn_k", "attn_v")
STAGE = {
    "attn_in": 0, "attn_q": 1, "attn_k": 1, "attn_v": 1, "attn_z": 1, "attn_out": 2, "mlp_in": 3, "mlp_neuron": 4, "mlp_out": 5,
}  # fmt: skip
"""Place of a kind in its layer's forward pass; q, k and v share one."""
MAX_EDGES = 40  # ours: beyond this a program is no longer something to read
N_TOKENS = 3
MAX_CODE = 72  # characters; notes stand behind this column

_PREAMBLE = "# biases and deleted nodes (held at their means) add constants; AbsTopK, where a model has it, keeps the strongest channels"
_NODE_ID = re.compile(r"blocks\.\d+\.(attn|mlp)\.hook_\w+:\d+")
_WORDS = {
    "attn_in": "attention reads residual channel",
    "attn_q": "query channel",
    "attn_k": "key channel",
    "attn_v": "value channel",
    "attn_z": "head's channel",
    "attn_out": "attention writes residual channel",
    "mlp_in": "MLP reads residual channel",
    "mlp_neuron": "MLP neuron",
    "mlp_out": "MLP writes residual channel",
}
_VARIABLE = {"in": "read", "out": "write", "neuron": "neuron"}


def depth(node: DrawnNode | NodeId) -> tuple[int, int]:
    """(layer, stage) of a node in the forward pass."""
    return node.layer, STAGE[node.kind]


def feeds(source: DrawnNode | NodeId, target: DrawnNode | NodeId) -> bool:
    """Whether `target` reads the residual channel that `source` wrote earlier."""
    written = source.kind in WRITES and target.kind in READS and source.channel == target.channel
    return written and depth(source) < depth(target)


def in_order(drawing: Drawing) -> list[DrawnNode]:
    """Nodes in forward order."""
    return sorted(drawing.nodes, key=lambda node: (*depth(node), KINDS.index(node.kind), node.channel))


def head_of(kind: str, channel: int, d_head: int | None) -> int | None:
    """The head of a channel inside a head; None for other kinds or where `d_head` is not known."""
    return channel // d_head if d_head and kind in (*HEAD, "attn_z") else None


def describe(layer: int, kind: str, channel: int, d_head: int | None = None) -> str:
    """A node in words: `layer 1: key channel 33 (head 2)`."""
    head = head_of(kind, channel, d_head)
    return f"layer {layer}: {_WORDS[kind]} {channel}" + ("" if head is None else f" (head {head})")


def is_node_id(text: str) -> bool:
    """Whether `text` names a node (`blocks.0.mlp.hook_neuron:17`) rather than a token."""
    return _NODE_ID.fullmatch(text) is not None


def visible(token: str) -> str:
    """`token` on one line, its whitespace and control characters made visible."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in shown)


def signed(weight: float | None) -> str:
    """A weight with its sign and three digits: `+0.812`, `−1.3e-05`."""
    if weight is None:
        return "?"
    return ("−" if weight < 0 else "+") + f"{abs(weight):.3g}"


def program(drawing: Drawing) -> str | None:
    """The circuit as a program, or None if it has more than `MAX_EDGES` edges or no node."""
    nodes = in_order(drawing)
    if not nodes or len(drawing.edges) > MAX_EDGES:
        return None
    names = {node.id: _name(node) for node in nodes}
    terms: dict[str, list[str]] = {node.id: [] for node in nodes}
    for edge in sorted(drawing.edges, key=lambda edge: -abs(edge.weight)):
        terms[edge.target].append(f"{signed(edge.weight)} {names[edge.source]}")
    lines, notes, place = [_PREAMBLE], {}, None
    for node in nodes:
        part = "MLP" if node.kind.startswith("mlp") else "attention"
        if place != (node.layer, part):
            place = (node.layer, part)
            lines += ["", f"layer {node.layer}, {part}"]
        notes[len(lines)] = _note(node)
        lines.append(_line(node, nodes, terms[node.id], drawing.d_head))
    column = max(len(lines[at]) for at in notes)
    for at, note in notes.items():
        lines[at] = f"{lines[at]:<{min(column, MAX_CODE)}}   # {note}" if note else lines[at]
    answers = [
        f"  write[{node.channel}] of layer {node.layer} adds to the logits of {tokens}"
        for node in nodes
        if node.kind in WRITES and (tokens := _tokens(node.writes))
    ]
    return "\n".join(lines + (["", "answer", *answers] if answers else []))


def _name(node: DrawnNode) -> str:
    last = node.kind.partition("_")[2]
    return f"{_VARIABLE.get(last, last)}[{node.channel}]"


def _line(node: DrawnNode, nodes: list[DrawnNode], terms: list[str], d_head: int | None) -> str:
    """`  neuron[120]   = act(+0.8 read[17])`"""
    summed = " ".join(terms) or "constant"
    if node.kind in READS:
        body = "= " + _read(node, nodes)
    elif node.kind == "mlp_neuron":
        body = f"= act({summed})"
    elif node.kind in WRITES:
        averaged = ", averaged over where the head attends" if terms and node.kind == "attn_out" else ""
        body = f"+= {summed}{averaged}"
    else:
        head = head_of(node.kind, node.channel, d_head)
        body = f"= {summed}   ({'its head' if head is None else f'head {head}'})"
    return f"  {_name(node):<13}{body}"


def _note(node: DrawnNode) -> str:
    notes = {"mean": node.mean, "loss without it": node.ablation_delta}
    return ", ".join(f"{words} {signed(value)}" for words, value in notes.items() if value is not None)


def _read(node: DrawnNode, nodes: list[DrawnNode]) -> str:
    """Who wrote the residual channel that `node` reads: earlier nodes of the circuit, and the token embedding."""
    writers = [
        f"layer {other.layer} {'MLP' if other.kind == 'mlp_out' else 'attention'}"
        for other in nodes
        if feeds(other, node)
    ]
    tokens = _tokens(node.reads)
    parts = [f"residual {node.channel}"]
    parts += ["written by " + " and ".join(writers)] if writers else []
    parts += [f"embedding of {tokens}"] if tokens else []
    return ", ".join(parts)


def _tokens(wires: tuple[Wire, ...]) -> str:
    tokens = [wire for wire in wires if not is_node_id(wire.what)]
    return ", ".join(f"`{visible(wire.what)}` {signed(wire.weight)}" for wire in tokens[:N_TOKENS])
