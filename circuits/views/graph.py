"""A circuit as a drawing: layers from top to bottom, nodes by kind, edges by weight.

1. Edges are the nonzero weights between kept nodes, as counted in the report.
2. Links are derived here and counted nowhere: a residual channel that one node writes and a later one reads; a query
   channel that multiplies the key channel of the same index; a head's keys that decide where its values come from.
3. `graph.js` draws both from the JSON made here; tables say the same for readers without scripts.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsetrain.report.blocks import Block, Column, Table, Widget

KIND_ORDER = ("attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out")
STAGE = {"attn_in": 0, "attn_q": 1, "attn_k": 1, "attn_v": 1, "attn_out": 2, "mlp_in": 3, "mlp_neuron": 4, "mlp_out": 5}
WORDS = {
    "attn_in": "attention reads residual channel {channel}",
    "attn_q": "query channel {channel}",
    "attn_k": "key channel {channel}",
    "attn_v": "value channel {channel}",
    "attn_out": "attention writes residual channel {channel}",
    "mlp_in": "MLP reads residual channel {channel}",
    "mlp_neuron": "MLP neuron {channel}",
    "mlp_out": "MLP writes residual channel {channel}",
}
SHORT = {
    "attn_in": "r",
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_out": "w",
    "mlp_in": "r",
    "mlp_neuron": "n",
    "mlp_out": "w",
}
READS, WRITES, HEAD = ("attn_in", "mlp_in"), ("attn_out", "mlp_out"), ("attn_q", "attn_k", "attn_v")
N_TABLE_ROWS = 40
NODE_ID = re.compile(r"blocks\.\d+\.(attn|mlp)\.hook_\w+:\d+")


def depth(node: Mapping[str, Any]) -> tuple[int, int]:
    """(layer, stage) of a node in the forward pass; q, k and v share a stage."""
    return int(node["layer"]), STAGE[node["kind"]]


def head_of(node: Mapping[str, Any], d_head: int | None) -> int | None:
    """The head of a q, k or v channel; None for other kinds or where `d_head` is not known."""
    return int(node["channel"]) // d_head if d_head and node["kind"] in HEAD else None


def node_name(node: Mapping[str, Any], d_head: int | None = None) -> str:
    """The node in words: `layer 1: key channel 33 (head 2)`."""
    head = head_of(node, d_head)
    words = WORDS[node["kind"]].format(channel=node["channel"])
    return f"layer {node['layer']}: {words}" + ("" if head is None else f" (head {head})")


def derived_links(graph: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Links that are no weights, as (source id, target id, type).

    "residual": the target reads the residual channel that the source wrote earlier. "score": a query and a key channel
    of one index, whose product enters the attention score. "pattern": a key channel (a query channel if its head keeps
    no key) and the value channels of its head; needs `graph["d_head"]`.
    """
    nodes, d_head = graph["nodes"], graph.get("d_head")
    links = []
    for source in nodes:
        for target in nodes:
            same_channel = source["channel"] == target["channel"]
            if source["kind"] in WRITES and target["kind"] in READS and same_channel and depth(source) < depth(target):
                links.append((source["id"], target["id"], "residual"))
            if source["layer"] != target["layer"]:
                continue
            if source["kind"] == "attn_q" and target["kind"] == "attn_k" and same_channel:
                links.append((source["id"], target["id"], "score"))
    heads: dict[tuple[int, int], dict[str, list[str]]] = {}
    for node in nodes:
        head = head_of(node, d_head)
        if head is not None:
            kinds = heads.setdefault((node["layer"], head), {kind: [] for kind in HEAD})
            kinds[node["kind"]].append(node["id"])
    for kinds in heads.values():
        links += [(s, t, "pattern") for s in kinds["attn_k"] or kinds["attn_q"] for t in kinds["attn_v"]]
    return links


def is_node_id(text: str) -> bool:
    """Whether `text` names a node (`blocks.0.mlp.hook_neuron:17`) rather than a token."""
    return NODE_ID.fullmatch(text) is not None


def widget(graph: Mapping[str, Any], title: str, viewer: Mapping[str, Any] | None = None) -> Widget:
    """The drawing of `graph`, with tables of its nodes, edges and paths as fallback.

    Args:
        viewer: activations, effects and paths (`circuits.explain.activity`); reports of earlier versions have none.
    """
    return Widget(
        name="circuit-graph",
        title=title,
        data=_data(graph, viewer),
        script=Path(__file__).with_name("graph.js").read_text(encoding="utf-8"),
        style=Path(__file__).with_name("graph.css").read_text(encoding="utf-8"),
        fallback=tables(graph, viewer),
    )


def tables(graph: Mapping[str, Any], viewer: Mapping[str, Any] | None = None) -> tuple[Block, ...]:
    """Nodes and edges as tables, edges by falling weight; with `viewer` also the strongest paths."""
    nodes = sorted(graph["nodes"], key=lambda node: (*depth(node), KIND_ORDER.index(node["kind"]), node["channel"]))
    node_columns = (
        Column(label="Node", form="code"),
        Column(label="Mean", form="number"),
        Column(label="Loss change without it", form="number"),
        Column(label="Reads", form="code"),
        Column(label="Writes", form="code"),
    )
    node_rows = tuple(
        (
            node["id"],
            node.get("mean"),
            node.get("ablation_delta"),
            _strongest(node.get("reads", [])),
            _strongest(node.get("writes", [])),
        )
        for node in nodes
    )
    edges = sorted(graph["edges"], key=lambda edge: -abs(edge["weight"]))
    edge_columns = (
        Column(label="Source", form="code"),
        Column(label="Target", form="code"),
        Column(label="Weight", form="number"),
    )
    edge_rows = tuple((edge["source"], edge["target"], edge["weight"]) for edge in edges)
    drawn = (
        Table(title="Nodes", columns=node_columns, rows=node_rows, limit=N_TABLE_ROWS),
        Table(title="Edges", columns=edge_columns, rows=edge_rows, limit=N_TABLE_ROWS),
    )
    return drawn if viewer is None else (*drawn, _path_table(graph, viewer))


def _path_table(graph: Mapping[str, Any], viewer: Mapping[str, Any]) -> Table:
    labels = {node["id"]: _label(node) for node in graph["nodes"]}
    columns = (
        Column(label="Prompt"),
        Column(label="Path", form="code"),
        Column(label="Influence", form="number", unit="fraction", help="share of what reaches the answer"),
        Column(
            label="Effect",
            form="number",
            help="first-order effect on logit(right) - logit(wrong), norms frozen, logits",
        ),
    )
    rows = []
    for path in viewer["paths"]:
        prompt = viewer["prompts"][path["prompt"]]
        first = visible(prompt["tokens"][path["tokens"][0][0]])
        way = " → ".join([f"'{first}'", *(labels[node] for node in path["nodes"]), "answer"])
        rows.append((prompt["side"], way, path["share"], path["effect"]))
    return Table(title="Paths", columns=columns, rows=tuple(rows))


def _label(node: Mapping[str, Any]) -> str:
    return f"{SHORT[node['kind']]}{node['channel']}"


def _strongest(entries: list[dict[str, Any]], n: int = 3) -> str:
    return ", ".join(f"{visible(entry['what'])} {signed(entry['weight'])}" for entry in entries[:n])


def visible(token: str) -> str:
    """`token` on one line, its whitespace and control characters made visible."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in shown)


def signed(weight: float | None) -> str:
    """A weight with its sign and three digits: `+0.812`, `−1.3e-05`."""
    if weight is None:
        return "?"
    return ("−" if weight < 0 else "+") + f"{abs(weight):.3g}"


def _data(graph: Mapping[str, Any], viewer: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `graph.js` needs: nodes with labels, edges and links as index pairs, activations by node."""
    d_head = graph.get("d_head")
    index = {node["id"]: position for position, node in enumerate(graph["nodes"])}
    links = [[index[source], index[target], kind] for source, target, kind in derived_links(graph)]
    edges = [[index[edge["source"]], index[edge["target"]], edge["weight"]] for edge in graph["edges"]]
    heads = _heads(graph, viewer) if viewer is not None else {}
    nodes = [
        {
            "id": node["id"],
            "layer": node["layer"],
            "kind": node["kind"],
            "stage": STAGE[node["kind"]],
            "channel": node["channel"],
            "label": _label(node),
            "name": node_name(node, d_head),
            "mean": node.get("mean"),
            "delta": node.get("ablation_delta"),
            "reads": _tokens(node, "reads"),
            "writes": _tokens(node, "writes"),
            "seen": None if viewer is None else viewer["nodes"][node["id"]],
            "heads": heads.get(node["id"], []),
        }
        for node in graph["nodes"]
    ]
    if viewer is None:
        importance = {
            "words": "of an edge its |weight|, of a node the change of the loss without it",
            "nodes": [abs(node["delta"] or 0.0) for node in nodes],
            "edges": [abs(weight) for _, _, weight in edges],
        }
        return {"nodes": nodes, "edges": edges, "links": links, "importance": importance, "viewer": None}
    importance = {
        "words": f"share of the influence on the answer that runs through it, mean over {viewer['n_flow_pairs']} pairs",
        "nodes": [viewer["nodes"][node["id"]]["importance"] for node in graph["nodes"]],
        "edges": viewer["edges"],
    }
    kept = ("text", "n_pairs", "prompts", "heads", "token_share", "token_effect")
    shown = {name: viewer[name] for name in kept} | {"sides": ["positive", "negative"]}
    shown["paths"] = [{**path, "nodes": [index[node] for node in path["nodes"]]} for path in viewer["paths"]]
    return {"nodes": nodes, "edges": edges, "links": links, "importance": importance, "viewer": shown}


def _heads(graph: Mapping[str, Any], viewer: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Node -> its heads, each as its places in `viewer["heads"]`, one per prompt.

    A query, key or value channel has its own head; a channel that attention writes has those whose values reach it.
    """
    places: dict[tuple[int, int], list[int]] = {}
    for place, entry in enumerate(viewer["heads"]):
        places.setdefault((entry["layer"], entry["head"]), []).append(place)
    nodes, d_head = {node["id"]: node for node in graph["nodes"]}, graph.get("d_head")
    used: dict[str, set[tuple[int, int]]] = {}
    for node in nodes.values():
        head = head_of(node, d_head)
        if head is not None:
            used.setdefault(node["id"], set()).add((node["layer"], head))
    for edge in graph["edges"]:
        source = nodes[edge["source"]]
        if source["kind"] == "attn_v":
            used.setdefault(edge["target"], set()).update(used.get(source["id"], set()))
    return {name: [places[key] for key in sorted(keys) if key in places] for name, keys in used.items()}


def _tokens(node: Mapping[str, Any], side: str) -> list[list[Any]]:
    """Tokens among what a node reads or writes; nodes among them are drawn as edges already."""
    entries = node.get(side) or []
    return [[visible(entry["what"]), entry["weight"]] for entry in entries if not is_node_id(entry["what"])]
