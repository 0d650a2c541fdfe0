"""A circuit in words: a small circuit as a short program, generated from its weights, means, reads and writes.

Each layer lists what it reads (and who wrote that), what it computes, and what it adds to the residual stream; the end
says how written channels move the answer. Biases, and deleted nodes held at their means, add constants that are left
out; AbsTopK keeps only the strongest channels.
"""

from collections.abc import Mapping
from typing import Any

from circuits.views.graph import KIND_ORDER, READS, WRITES, depth, head_of, is_node_id, signed, visible

MAX_EDGES = 40  # ours: beyond this a program is no longer something to read
N_TOKENS = 3
MAX_CODE = 72  # characters; notes stand behind this column
PREAMBLE = "# biases and deleted nodes (held at their means) add constants; AbsTopK keeps the strongest channels"


def program(graph: Mapping[str, Any]) -> str | None:
    """The circuit as a program, or None if it has more than `MAX_EDGES` edges or no node."""
    nodes = sorted(graph["nodes"], key=lambda node: (*depth(node), KIND_ORDER.index(node["kind"]), node["channel"]))
    if not nodes or len(graph["edges"]) > MAX_EDGES:
        return None
    names = {node["id"]: _name(node) for node in nodes}
    sources: dict[str, list[tuple[str, float]]] = {node["id"]: [] for node in nodes}
    for edge in sorted(graph["edges"], key=lambda edge: -abs(edge["weight"])):
        sources[edge["target"]].append((names[edge["source"]], edge["weight"]))
    lines, notes, place = [PREAMBLE], {}, None
    for node in nodes:
        part = "MLP" if node["kind"].startswith("mlp") else "attention"
        if place != (node["layer"], part):
            place = (node["layer"], part)
            lines += ["", f"layer {node['layer']}, {part}"]
        notes[len(lines)] = _note(node)
        lines.append(_line(node, nodes, sources[node["id"]], graph.get("d_head")))
    column = max(len(lines[at]) for at in notes)
    for at, note in notes.items():
        lines[at] = f"{lines[at]:<{min(column, MAX_CODE)}}   # {note}" if note else lines[at]
    answers = [line for node in nodes if node["kind"] in WRITES and (line := _answer(node))]
    return "\n".join(lines + (["", "answer", *answers] if answers else []))


def _name(node: Mapping[str, Any]) -> str:
    short = {"attn_in": "read", "mlp_in": "read", "attn_out": "write", "mlp_out": "write", "mlp_neuron": "neuron"}
    return f"{short.get(node['kind'], node['kind'][-1])}[{node['channel']}]"


def _line(
    node: Mapping[str, Any], nodes: list[dict[str, Any]], sources: list[tuple[str, float]], d_head: int | None
) -> str:
    """`  neuron[120]   = act(+0.8 read[17])`"""
    kind = node["kind"]
    if kind in READS:
        body = "= " + _read(node, nodes)
    else:
        terms = " ".join(f"{signed(weight)} {name}" for name, weight in sources) or "constant"
        head = head_of(node, d_head)
        where = "its head" if head is None else f"head {head}"
        body = {
            "mlp_neuron": f"= act({terms})",
            "attn_out": f"+= {terms}, averaged over where the head attends" if sources else "+= constant",
            "mlp_out": f"+= {terms}",
        }.get(kind, f"= {terms}   ({where})")
    return f"  {_name(node):<13}{body}"


def _note(node: Mapping[str, Any]) -> str:
    notes = [f"mean {signed(node['mean'])}"] if node.get("mean") is not None else []
    notes += [f"loss without it {signed(node['ablation_delta'])}"] if node.get("ablation_delta") is not None else []
    return ", ".join(notes)


def _read(node: Mapping[str, Any], nodes: list[dict[str, Any]]) -> str:
    """Who wrote the residual channel that `node` reads: earlier nodes of the circuit, and the token embedding."""
    writers = [
        f"layer {other['layer']} {'MLP' if other['kind'] == 'mlp_out' else 'attention'}"
        for other in nodes
        if other["kind"] in WRITES and other["channel"] == node["channel"] and depth(other) < depth(node)
    ]
    tokens = _tokens(node.get("reads") or [])
    parts = [f"residual {node['channel']}"]
    parts += ["written by " + " and ".join(writers)] if writers else []
    parts += [f"embedding of {tokens}"] if tokens else []
    return ", ".join(parts)


def _answer(node: Mapping[str, Any]) -> str:
    tokens = _tokens(node.get("writes") or [])
    return f"  write[{node['channel']}] of layer {node['layer']} adds to the logits of {tokens}" if tokens else ""


def _tokens(entries: list[dict[str, Any]]) -> str:
    tokens = [entry for entry in entries if not is_node_id(entry["what"])]
    return ", ".join(f"`{visible(entry['what'])}` {signed(entry['weight'])}" for entry in tokens[:N_TOKENS])
