"""A circuit for other people's tools. `FORMATS` has them all; `docs/circuits.md` says what each file holds.

GraphML and networkx's node-link JSON, here, hold the same directed graph: nodes with hook point, layer, kind, channel and mean, edges
with the model's weight. Residual links (a write channel to a later read of it) are identities and no edges of a circuit, so
they are left out. `circuits.exports.neuronpedia` writes an attribution graph of one prompt, `circuits.exports.mib` heads and MLPs in the
form of EAP-IG and MIB. What a JSON file holds is a dataclass; its schema is made from that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from circuits.circuit import Circuit
from circuits.exports.mib import MibGraph, mib_graph
from circuits.exports.neuronpedia import AttributionGraph, neuronpedia_graph
from circuits.exports.typed import Exported, NodeKind, NodeName, Sha256, as_json, entries, json_schema
from circuits.section import SIDES
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import NodeId
from sparsetrain.model import Transformer
from sparsetrain.typed import Index

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES = {str: "string", int: "long", float: "double"}


@dataclass(frozen=True, kw_only=True)
class LinkedNode(Exported):
    """A node of the circuit."""

    id: NodeName
    hook_point: str
    layer: Index
    kind: NodeKind
    channel: Index
    mean: float


@dataclass(frozen=True, kw_only=True)
class LinkedEdge(Exported):
    """An edge of the circuit."""

    source: NodeName
    target: NodeName
    weight: float


@dataclass(frozen=True, kw_only=True)
class LinkedFacts(Exported):
    """What the circuit is for and how its answers are calibrated."""

    task: str
    weights_sha256: Sha256
    scale: float
    shift: float


@dataclass(frozen=True, kw_only=True)
class NodeLinkGraph(Exported):
    """What `networkx.node_link_data(graph, edges="edges")` would give."""

    directed: Literal[True] = True
    multigraph: Literal[False] = False
    graph: LinkedFacts
    nodes: tuple[LinkedNode, ...]
    edges: tuple[LinkedEdge, ...]


def node_link(model: Transformer, circuit: Circuit) -> NodeLinkGraph:
    """The circuit as networkx reads it.

    Args:
        model: the circuit's model; gives the kind of each hook point.
    """
    means = circuit.space.split(circuit.means)
    return NodeLinkGraph(
        graph=LinkedFacts(
            task=circuit.task,
            weights_sha256=circuit.provenance.weights_sha256,
            scale=float(circuit.calibration.scale),
            shift=float(circuit.calibration.shift),
        ),
        nodes=tuple(
            LinkedNode(
                id=str(node),
                hook_point=node.point,
                layer=node.layer,
                kind=node.kind,
                channel=node.channel,
                mean=float(means[node.point][node.channel]),
            )
            for node in map(NodeId.parse, circuit.node_ids)
        ),
        edges=tuple(LinkedEdge(source=e.source, target=e.target, weight=e.weight) for e in circuit.edges),
    )


def graphml(model: Transformer, circuit: Circuit) -> str:
    """The graph of `node_link` as a GraphML document (attributes typed, values to the last bit)."""
    content = node_link(model, circuit)
    root = ElementTree.Element("graphml", xmlns=_NAMESPACE)
    keys: dict[tuple[str, str], str] = {}

    def put(element: ElementTree.Element, domain: str, content: Exported) -> None:
        for name, value in entries(content).items():
            if name in element.attrib:
                continue
            if (domain, name) not in keys:
                keys[domain, name] = f"d{len(keys)}"
                key = {"id": keys[domain, name], "for": domain, "attr.name": name, "attr.type": _TYPES[type(value)]}
                root.insert(len(keys) - 1, ElementTree.Element("key", key))
            ElementTree.SubElement(element, "data", key=keys[domain, name]).text = str(value)

    graph = ElementTree.SubElement(root, "graph", edgedefault="directed")
    put(graph, "graph", content.graph)
    for node in content.nodes:
        put(ElementTree.SubElement(graph, "node", id=node.id), "node", node)
    for edge in content.edges:
        put(ElementTree.SubElement(graph, "edge", source=edge.source, target=edge.target), "edge", edge)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


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
        make: circuit -> what the file holds.
        content: its type in a JSON file; None: text as it is.
        indent: of a JSON file.
        per_prompt: whether each prompt has a file of its own.
    """

    ending: str
    make: Callable[[Transformer, Circuit, Sample], Exported | str]
    content: type[Exported] | None = None
    indent: int | None = 1
    per_prompt: bool = False

    def file_name(self, sample: Sample) -> str:
        """`circuit.graphml`, `circuit.0_positive.neuronpedia.json`."""
        prompt = f"{sample.pair}_{SIDES[sample.side]}." if self.per_prompt else ""
        return f"circuit.{prompt}{self.ending}"

    def write(self, model: Transformer, circuit: Circuit, sample: Sample) -> str:
        """The file's text."""
        made = self.make(model, circuit, sample)
        return made if isinstance(made, str) else as_json(made, self.indent)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of a format that is JSON."""
        assert self.content is not None, self.ending
        return json_schema(self.content)


FORMATS: dict[str, Format] = {
    "graphml": Format(ending="graphml", make=lambda model, circuit, _: graphml(model, circuit)),
    "node_link": Format(
        ending="node_link.json", make=lambda model, circuit, _: node_link(model, circuit), content=NodeLinkGraph
    ),
    "neuronpedia": Format(
        ending="neuronpedia.json",
        make=lambda model, circuit, of: neuronpedia_graph(model, circuit, of.pairs, of.pair, of.side, of.token),
        content=AttributionGraph,
        per_prompt=True,
    ),
    "mib": Format(
        ending="mib.json",
        make=lambda model, circuit, of: mib_graph(model, circuit, of.pairs),
        content=MibGraph,
        indent=None,
    ),
}
