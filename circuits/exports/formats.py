"""A circuit for other people's tools. `FORMATS` has them all; `docs/circuits.md` says what each file holds.

GraphML and networkx's node-link JSON, here, hold the same directed graph: nodes with hook point, layer, kind, channel and mean, edges
with the model's weight. Residual links (a write channel to a later read of it) are identities and no edges of a circuit, so
they are left out. `circuits.exports.neuronpedia` writes an attribution graph of one prompt, `circuits.exports.mib` heads and MLPs in the
form of EAP-IG and MIB. The JSON formats have schemas in `circuits/schemas/`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from circuits.circuit import Circuit
from circuits.exports.mib import mib_json
from circuits.exports.neuronpedia import SIDES, neuronpedia_json
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import node_points
from sparsetrain.model import Transformer

SCHEMAS = Path(__file__).with_name("schemas")
"""Folder of the JSON schemas of the JSON formats, `<format>.json`."""

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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What formats that are about prompts need besides the circuit.

    Args:
        pairs: held-out pairs of the circuit's task.
        pair: the pair whose prompt is written.
        side: 0 for its positive prompt, 1 for the negative one.
        token: id -> readable text.
    """

    pairs: PairSet
    pair: int
    side: int
    token: Callable[[int], str]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Args:
        ending: of the file's name.
        write: circuit -> text.
        per_prompt: whether each prompt has a file of its own.
    """

    ending: str
    write: Callable[[Transformer, Circuit, Sample], str]
    per_prompt: bool = False

    def file_name(self, sample: Sample) -> str:
        """`circuit.graphml`, `circuit.0_positive.neuronpedia.json`."""
        prompt = f"{sample.pair}_{SIDES[sample.side]}." if self.per_prompt else ""
        return f"circuit.{prompt}{self.ending}"


def _neuronpedia(model: Transformer, circuit: Circuit, sample: Sample) -> str:
    return neuronpedia_json(model, circuit, sample.pairs, sample.pair, sample.side, sample.token)


FORMATS: dict[str, Format] = {
    "graphml": Format(ending="graphml", write=lambda model, circuit, _: graphml(model, circuit)),
    "node_link": Format(ending="node_link.json", write=lambda model, circuit, _: node_link_json(model, circuit)),
    "neuronpedia": Format(ending="neuronpedia.json", write=_neuronpedia, per_prompt=True),
    "mib": Format(ending="mib.json", write=lambda model, circuit, sample: mib_json(model, circuit, sample.pairs)),
}
