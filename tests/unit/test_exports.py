"""What is exported loads in networkx and holds the circuit, to the last bit."""

import io
import json
from dataclasses import replace

import networkx
import pytest
import torch

from circuits.circuit import Circuit, Provenance
from circuits.edges import find_edges
from circuits.exports import FORMATS, graphml, node_link_json
from circuits.masks import NodeSpace
from circuits.tasks.loss import Calibration
from tests.planted.string_closing import EDGES, NODES, string_closing_model


@pytest.fixture(scope="module")
def planted():
    model = string_closing_model()
    space = NodeSpace.of(model)
    circuit = Circuit(
        task="strings",
        nodes=NODES,
        edges=tuple(find_edges(model, space, space.mask(NODES))),
        space=space,
        means=torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(0)),
        calibration=Calibration(scale=torch.tensor(4.0).double(), shift=torch.tensor(0.1).double()),
        provenance=Provenance(
            weights_sha256="0" * 64, seed=0, config={}, loss_convention="", means_source="", means_n_tokens=1
        ),
    )
    return model, circuit


def load(name: str, text: str) -> networkx.DiGraph:
    if name == "graphml":
        return networkx.read_graphml(io.BytesIO(text.encode()))
    return networkx.node_link_graph(json.loads(text), edges="edges")


@pytest.mark.parametrize("name", FORMATS)
def test_networkx_reads_the_circuit(planted, name):
    model, circuit = planted
    graph = load(name, FORMATS[name][1](model, circuit))
    assert graph.is_directed() and not graph.is_multigraph()
    assert set(graph.nodes) == set(circuit.node_ids)
    assert set(graph.edges) == EDGES
    assert {(s, t): w for s, t, w in graph.edges(data="weight")} == {
        (e.source, e.target): e.weight for e in circuit.edges
    }
    neuron = graph.nodes["blocks.0.mlp.hook_neuron:3"]
    mean = float(circuit.means[circuit.space.number("blocks.0.mlp.hook_neuron:3")])
    assert neuron == {
        "hook_point": "blocks.0.mlp.hook_neuron", "layer": 0, "kind": "mlp_neuron", "channel": 3, "mean": mean
    }  # fmt: skip


def test_both_formats_hold_the_same_graph(planted):
    one, other = load("graphml", graphml(*planted)), load("node_link", node_link_json(*planted))
    assert dict(one.nodes(data=True)) == dict(other.nodes(data=True))
    assert {key: one.graph[key] for key in other.graph} == other.graph


def test_hostile_names_are_escaped(planted):
    model, circuit = planted
    hostile = replace(circuit, task="<script>\"&'")
    assert "<script>" not in graphml(model, hostile)
    assert load("graphml", graphml(model, hostile)).graph["task"] == hostile.task
