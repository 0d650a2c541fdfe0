"""A circuit for other people's graph tools: GraphML and networkx's node-link JSON.

Both hold the same directed graph: nodes with hook point, layer, kind, channel and mean, edges with the model's weight. Residual
links (a write channel to a later read of it) are identities and no edges of a circuit, so they are left out.
"""

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from circuits.circuit import Circuit
from sparsetrain.hooks import node_points
from sparsetrain.model import Transformer

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES = {str: "string", int: "long", float: "double"}


def node_link(model: Transformer, circuit: Circuit) -> dict[str, Any]:
    """The circuit as `networkx.node_link_data(graph, edges="edges")` would write it.

    Args:
        model: the circuit's model; gives the kind of each hook point.

    Returns:
        Plain JSON: `directed`, `multigraph`, `graph` (task, calibration, weights), `nodes`, `edges`.
    """
    kinds = {name: point.kind for name, point in node_points(model).items()}
    nodes = []
    for name, channels in circuit.nodes.items():
        for channel in channels:
            node_id = f"{name}:{channel}"
            mean = float(circuit.means[circuit.space.number(node_id)])
            layer = int(name.split(".")[1])
            nodes.append(
                {
                    "id": node_id,
                    "hook_point": name,
                    "layer": layer,
                    "kind": kinds[name],
                    "channel": channel,
                    "mean": mean,
                }
            )
    return {
        "directed": True,
        "multigraph": False,
        "graph": {
            "task": circuit.task,
            "weights_sha256": circuit.provenance.weights_sha256,
            "scale": float(circuit.calibration.scale),
            "shift": float(circuit.calibration.shift),
        },
        "nodes": nodes,
        "edges": [{"source": edge.source, "target": edge.target, "weight": edge.weight} for edge in circuit.edges],
    }


def graphml(model: Transformer, circuit: Circuit) -> str:
    """The graph of `node_link` as a GraphML document (attributes typed, values to the last bit)."""
    data = node_link(model, circuit)
    root = ElementTree.Element("graphml", xmlns=_NAMESPACE)
    keys: dict[tuple[str, str], str] = {}

    def put(element: ElementTree.Element, domain: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if (domain, name) not in keys:
                keys[domain, name] = f"d{len(keys)}"
                key = {"id": keys[domain, name], "for": domain, "attr.name": name, "attr.type": _TYPES[type(value)]}
                root.insert(len(keys) - 1, ElementTree.Element("key", key))
            ElementTree.SubElement(element, "data", key=keys[domain, name]).text = str(value)

    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    put(graph, "graph", data["graph"])
    for node in data["nodes"]:
        element = ElementTree.SubElement(graph, "node", id=node["id"])
        put(element, "node", {name: value for name, value in node.items() if name != "id"})
    for edge in data["edges"]:
        element = ElementTree.SubElement(graph, "edge", source=edge["source"], target=edge["target"])
        put(element, "edge", {"weight": edge["weight"]})
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def node_link_json(model: Transformer, circuit: Circuit) -> str:
    """`node_link` as text."""
    return json.dumps(node_link(model, circuit), indent=1) + "\n"


FORMATS: dict[str, tuple[str, Callable[[Transformer, Circuit], str]]] = {
    "graphml": ("graphml", graphml),
    "node_link": ("node_link.json", node_link_json),
}
"""Format -> file ending and writer."""
