"""A circuit as a drawing: layers from top to bottom, nodes by kind, edges by weight.

1. Edges are the nonzero weights between kept nodes, as counted in the report.
2. Links are derived here and counted nowhere: a residual channel that one node writes and a later one reads; a query
   channel that multiplies the key channel of the same index; a head's keys that decide where its values come from.
3. `graph.js` draws both from the JSON made here; tables say the same for readers without scripts.
"""

from pathlib import Path
from typing import Any

from circuits.explain.words import (
    HEAD,
    STAGE,
    describe,
    feeds,
    head_of,
    in_order,
    is_node_id,
    signed,
    visible,
)
from circuits.section import SIDES, Drawing, DrawnNode, Viewer, Wire
from sparsetrain.report.blocks import Column, Table, Widget
from sparsetrain.typed import Json, plain

N_TABLE_ROWS = 40
_SHORT = {"in": "r", "out": "w", "neuron": "n"}


def derived_links(drawing: Drawing) -> list[tuple[str, str, str]]:
    """Links that are no weights, as (source id, target id, type).

    "residual": the target reads the residual channel that the source wrote earlier. "score": a query and a key channel
    of one index, whose product enters the attention score. "pattern": a key channel (a query channel if its head keeps
    no key) and the value channels of its head; needs `drawing.d_head`.
    """
    links = []
    for source in drawing.nodes:
        for target in drawing.nodes:
            if feeds(source, target):
                links.append((source.id, target.id, "residual"))
            ends = (source.layer, source.channel, source.kind, target.kind)
            if ends == (target.layer, target.channel, "attn_q", "attn_k"):
                links.append((source.id, target.id, "score"))
    heads: dict[tuple[int, int], dict[str, list[str]]] = {}
    for node in drawing.nodes:
        head = head_of(node.kind, node.channel, drawing.d_head)
        if head is not None:
            heads.setdefault((node.layer, head), {kind: [] for kind in HEAD})[node.kind].append(node.id)
    for kinds in heads.values():
        links += [(s, t, "pattern") for s in kinds["attn_k"] or kinds["attn_q"] for t in kinds["attn_v"]]
    return links


def widget(drawing: Drawing, title: str, viewer: Viewer | None = None) -> Widget:
    """The drawing, with tables of its nodes, edges and paths as fallback.

    Args:
        viewer: activations, effects and paths (`circuits.explain.activity`).
    """
    return Widget(
        name="circuit-graph",
        title=title,
        data=_data(drawing, viewer),
        script=Path(__file__).with_name("graph.js").read_text(encoding="utf-8"),
        style=Path(__file__).with_name("graph.css").read_text(encoding="utf-8"),
        fallback=tables(drawing, viewer),
    )


def tables(drawing: Drawing, viewer: Viewer | None = None) -> tuple[Table, ...]:
    """Nodes and edges as tables, edges by falling weight; with `viewer` also the strongest paths."""
    nodes = Table(
        title="Nodes",
        columns=(
            Column(label="Node", form="code"),
            Column(label="Mean", form="number"),
            Column(label="Loss change without it", form="number"),
            Column(label="Reads", form="code"),
            Column(label="Writes", form="code"),
        ),
        rows=tuple(
            (node.id, node.mean, node.ablation_delta, _strongest(node.reads), _strongest(node.writes))
            for node in in_order(drawing)
        ),
        limit=N_TABLE_ROWS,
    )
    edges = Table(
        title="Edges",
        columns=(
            Column(label="Source", form="code"),
            Column(label="Target", form="code"),
            Column(label="Weight", form="number"),
        ),
        rows=tuple(
            (edge.source, edge.target, edge.weight)
            for edge in sorted(drawing.edges, key=lambda edge: -abs(edge.weight))
        ),
        limit=N_TABLE_ROWS,
    )
    return (nodes, edges) if viewer is None else (nodes, edges, _path_table(drawing, viewer))


def node_table(drawing: Drawing) -> Table:
    """The nodes of a circuit without edges, which is no drawing."""
    columns = (
        Column(label="Node", form="code"),
        Column(label="What"),
        Column(label="Mean", form="number", help="what it emits where it is deleted"),
        Column(label="Loss change without it", form="number"),
    )
    rows = tuple(
        (node.id, describe(node.layer, node.kind, node.channel, drawing.d_head), node.mean, node.ablation_delta)
        for node in in_order(drawing)
    )
    return Table(title="Nodes", columns=columns, rows=rows, limit=N_TABLE_ROWS)


def _path_table(drawing: Drawing, viewer: Viewer) -> Table:
    labels = {node.id: _label(node) for node in drawing.nodes}
    rows = []
    for path in viewer.paths:
        prompt = viewer.prompts[path.prompt]
        first = visible(prompt.tokens[path.tokens[0][0]])
        way = " → ".join([f"'{first}'", *(labels[node] for node in path.nodes), "answer"])
        rows.append((prompt.side, way, path.share, path.effect))
    effect = "first-order effect on logit(right) - logit(wrong), norms frozen, logits"
    columns = (
        Column(label="Prompt"),
        Column(label="Path", form="code"),
        Column(label="Influence", form="number", unit="fraction", help="share of what reaches the answer"),
        Column(label="Effect", form="number", help=effect),
    )
    return Table(title="Paths", columns=columns, rows=tuple(rows))


def _label(node: DrawnNode) -> str:
    last = node.kind.partition("_")[2]
    return f"{_SHORT.get(last, last)}{node.channel}"


def _strongest(wires: tuple[Wire, ...], n: int = 3) -> str:
    return ", ".join(f"{visible(wire.what)} {signed(wire.weight)}" for wire in wires[:n])


def _data(drawing: Drawing, viewer: Viewer | None) -> Json:
    """What `graph.js` needs: nodes with labels, edges and links as index pairs, activations by node."""
    index = {node.id: position for position, node in enumerate(drawing.nodes)}
    edges = [[index[edge.source], index[edge.target], edge.weight] for edge in drawing.edges]
    heads = {} if viewer is None else _heads(drawing, viewer)
    nodes = [
        {
            "id": node.id,
            "layer": node.layer,
            "kind": node.kind,
            "stage": STAGE[node.kind],
            "channel": node.channel,
            "label": _label(node),
            "name": describe(node.layer, node.kind, node.channel, drawing.d_head),
            "mean": node.mean,
            "delta": node.ablation_delta,
            "reads": _tokens(node.reads),
            "writes": _tokens(node.writes),
            "seen": None if viewer is None else plain(viewer.nodes[node.id]),
            "heads": heads.get(node.id, []),
        }
        for node in drawing.nodes
    ]
    if viewer is None:
        shown = None
        importance = {
            "words": "of an edge its |weight|, of a node the change of the loss without it",
            "nodes": [abs(node.ablation_delta or 0.0) for node in drawing.nodes],
            "edges": [abs(edge.weight) for edge in drawing.edges],
        }
    else:
        seen = plain(viewer)
        shown = {name: seen[name] for name in ("text", "n_pairs", "prompts", "heads", "token_share", "token_effect")}
        shown["sides"] = list(SIDES)
        shown["paths"] = [{**path, "nodes": [index[node] for node in path["nodes"]]} for path in seen["paths"]]
        importance = {
            "words": f"share of the influence on the answer that runs through it, mean over {viewer.n_flow_pairs} pairs",
            "nodes": [viewer.nodes[node.id].importance for node in drawing.nodes],
            "edges": list(viewer.edges),
        }
    links = [[index[source], index[target], kind] for source, target, kind in derived_links(drawing)]
    return {"nodes": nodes, "edges": edges, "links": links, "importance": importance, "viewer": shown}


def _heads(drawing: Drawing, viewer: Viewer) -> dict[str, list[list[int]]]:
    """Node -> its heads, each as its places in `viewer.heads`, one per prompt.

    A query, key or value channel has its own head; a channel that attention writes has those whose values reach it.
    """
    places: dict[tuple[int, int], list[int]] = {}
    for place, entry in enumerate(viewer.heads):
        places.setdefault((entry.layer, entry.head), []).append(place)
    kinds = {node.id: node.kind for node in drawing.nodes}
    used: dict[str, set[tuple[int, int]]] = {}
    for node in drawing.nodes:
        head = head_of(node.kind, node.channel, drawing.d_head)
        if head is not None:
            used[node.id] = {(node.layer, head)}
    for edge in drawing.edges:
        if kinds[edge.source] == "attn_v":
            used.setdefault(edge.target, set()).update(used.get(edge.source, set()))
    return {name: [places[key] for key in sorted(keys) if key in places] for name, keys in used.items()}


def _tokens(wires: tuple[Wire, ...]) -> list[list[Any]]:
    """Tokens among what a node reads or writes; nodes among them are drawn as edges already."""
    return [[visible(wire.what), wire.weight] for wire in wires if not is_node_id(wire.what)]
