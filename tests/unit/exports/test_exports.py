"""What is exported fits its schema, loads in networkx and holds the circuit; attribution graphs and MIB circuits hold the
first-order effects that the model has when one thing at a time is changed."""

import io
import json
from dataclasses import replace

import jsonschema
import networkx
import pytest
import torch

from circuits.answers import pair_answers
from circuits.circuit import Circuit, Provenance
from circuits.edges import find_edges
from circuits.explain.flow import TOKEN, prompt_flow
from circuits.exports.formats import FORMATS, Sample, graphml, node_link
from circuits.exports.mib import mib_graph
from circuits.exports.neuronpedia import neuronpedia_graph
from circuits.exports.typed import as_json
from circuits.masks import NodeSpace
from circuits.tasks.loss import Calibration, logit_diff
from sparsetrain.hooks import hooked, record
from tests.planted.string_closing import EDGES, NODES, string_closing_model, string_pairs, text_windows

GRAPHS = ("graphml", "node_link")
PAIRS = string_pairs(6, 2)
SAMPLE = Sample(pairs=PAIRS, pair=1, side=1, token=lambda i: f"<b>{i}\n")


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


def written(name: str, planted, sample: Sample):
    return json.loads(FORMATS[name].write(*planted, sample))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "graphml"])
def test_json_fits_its_schema(planted, name):
    schema = FORMATS[name].schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    data = written(name, planted, SAMPLE)
    jsonschema.validate(data, schema)
    for key in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in data.items() if k != key}, schema)


def test_every_format_but_graphml_has_a_schema_that_knows_no_other_keys(planted):
    assert {name for name, chosen in FORMATS.items() if chosen.content} == set(FORMATS) - {"graphml"}
    for name in set(FORMATS) - {"graphml"}:
        schema, data = FORMATS[name].schema(), written(name, planted, SAMPLE)
        for wrong in ({**data, "more": 1}, {**data, "edges" if "edges" in data else "links": [{"source": "nobody"}]}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)


def test_the_schema_of_mib_names_every_node_and_edge(planted):
    schema, data = FORMATS["mib"].schema(), written("mib", planted, SAMPLE)
    some_edge = next(iter(data["edges"].values()))
    for key, name, entry in (("nodes", "head", {"in_graph": False, "score": 0.0}), ("edges", "m0->input", some_edge)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**data, key: {**data[key], name: entry}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "nodes": {"logits": data["nodes"]["logits"]}}, schema)


def test_file_names():
    names = {name: chosen.file_name(SAMPLE) for name, chosen in FORMATS.items()}
    assert names == {
        "graphml": "circuit.graphml",
        "node_link": "circuit.node_link.json",
        "neuronpedia": "circuit.1_negative.neuronpedia.json",
        "mib": "circuit.mib.json",
    }


@pytest.mark.parametrize("name", GRAPHS)
def test_networkx_reads_the_circuit(planted, name):
    model, circuit = planted
    graph = load(name, FORMATS[name].write(model, circuit, SAMPLE))
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
    one, other = load("graphml", graphml(*planted)), load("node_link", as_json(node_link(*planted)))
    assert dict(one.nodes(data=True)) == dict(other.nodes(data=True))
    assert {key: one.graph[key] for key in other.graph} == other.graph


def test_hostile_names_are_escaped(planted):
    model, circuit = planted
    hostile = replace(circuit, task="<script>\"&'")
    assert "<script>" not in graphml(model, hostile)
    assert load("graphml", graphml(model, hostile)).graph["task"] == hostile.task


def test_attribution_graph_is_the_flow_of_the_prompt(planted):
    model, circuit = planted
    data = written("neuronpedia", planted, SAMPLE)
    flow = prompt_flow(model, circuit, PAIRS.tokens[1, 1], PAIRS.answers[1], 1)
    nodes = {node["node_id"]: node for node in data["nodes"]}
    assert len(nodes) == len(data["nodes"])
    graph = networkx.DiGraph([(link["source"], link["target"]) for link in data["links"]])
    assert networkx.is_directed_acyclic_graph(graph) and set(graph.nodes) <= set(nodes)
    assert graph.number_of_edges() == len(data["links"]), "no link twice"

    tokens = [node for node in nodes.values() if node["feature_type"] == "embedding"]
    assert [node["clerp"] for node in tokens] == data["metadata"]["prompt_tokens"]
    assert data["metadata"]["prompt_tokens"] == [SAMPLE.token(i) for i in PAIRS.tokens[1, 1].tolist()]
    assert data["metadata"]["prompt"] == PAIRS.texts[1].negative.prompt
    logits = [node for node in nodes.values() if node["feature_type"] == "logit"]
    with circuit.attached(model):
        probabilities = model(PAIRS.tokens[1:2, 1])[0, -1].softmax(-1)[PAIRS.answers[1]].tolist()
    assert [node["token_prob"] for node in logits] == pytest.approx(probabilities)
    assert [node["is_target_logit"] for node in logits] == [False, True]
    assert {node["layer"] for node in logits} == {"3"}

    with circuit.attached(model):
        _, seen = record(model, PAIRS.tokens[1:2, 1], circuit.nodes)
    features = [node for node in nodes.values() if node["feature_type"] not in ("embedding", "logit")]
    by_number = {circuit.space.number(node): node for node in circuit.node_ids}
    for feature in features:
        name, channel = by_number[feature["feature"]].rsplit(":", 1)
        assert feature["activation"] == pytest.approx(float(seen[name][0, feature["ctx_idx"], int(channel)]))
        assert feature["layer"] == name.split(".")[1] and f"channel {channel}" in feature["clerp"].replace(
            "neuron", "channel"
        )
    influence = {
        (by_number[f["feature"]], f["ctx_idx"]): float(flow.influence[0][by_number[f["feature"]]][f["ctx_idx"]])
        for f in features
    }
    assert all(share > 0 for share in influence.values())
    n_all = sum(int((own > 0).sum()) for name, own in flow.influence[0].items() if name != TOKEN)
    assert len(features) == n_all
    strongest = max(influence, key=lambda key: influence[key])
    order = sorted(features, key=lambda f: f["influence"])
    assert (by_number[order[0]["feature"]], order[0]["ctx_idx"]) == strongest
    weights = {(link["source"], link["target"]): link["weight"] for link in data["links"]}
    v, out = (circuit.space.number(f"blocks.1.attn.hook_{x}") for x in ("v:9", "out:4"))
    link = flow.links["blocks.1.attn.hook_v:9", "blocks.1.attn.hook_out:4"]
    for at in link[-1].nonzero().flatten().tolist():
        assert weights[f"1_{v}_{at}", f"1_{out}_8"] == float(link[-1, at])


def test_no_such_pair(planted):
    with pytest.raises(ValueError, match="pair=6 does not exist; there are pairs 0 to 5"):
        neuronpedia_graph(*planted, PAIRS, 6, 0, str)


def test_any_other_token_as_an_answer(planted):
    rest = replace(PAIRS, answers=torch.tensor([[3, -1]] * 6))
    data = written("neuronpedia", planted, Sample(pairs=rest, pair=0, side=0, token=str))
    jsonschema.validate(data, FORMATS["neuronpedia"].schema())
    a, b = data["nodes"][-2:]
    assert b["feature"] == -1 and "any other token" in b["clerp"]
    assert a["token_prob"] + b["token_prob"] == pytest.approx(1)


def legal_edges(n_layers: int, n_heads: int) -> set[str]:
    """All edges of the format, as its reader makes them."""
    stream, found = ["input"], set()
    for layer in range(n_layers):
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        found |= {f"{parent}->{head}<{x}>" for parent in stream for head in heads for x in "qkv"}
        stream += heads
        found |= {f"{parent}->m{layer}" for parent in stream}
        stream.append(f"m{layer}")
    return found | {f"{parent}->logits" for parent in stream}


def test_mib_holds_the_planted_heads_and_mlps(planted):
    data = written("mib", planted, SAMPLE)
    n_layers, n_heads = data["cfg"]["n_layers"], data["cfg"]["n_heads"]
    assert (n_layers, n_heads, data["cfg"]["d_model"]) == (2, 4, 16)
    names = {"input", "logits"} | {f"m{i}" for i in range(2)} | {f"a{i}.h{j}" for i in range(2) for j in range(4)}
    assert set(data["nodes"]) == names
    assert {name for name, node in data["nodes"].items() if node["in_graph"]} == {"input", "m0", "a1.h2", "logits"}
    assert set(data["edges"]) <= legal_edges(n_layers, n_heads)
    inside = {name for name, edge in data["edges"].items() if edge["in_graph"]}
    assert inside == {"input->m0", "m0->a1.h2<k>", "m0->a1.h2<v>", "a1.h2->logits", "input->logits"}
    for name, channels in (("m0", (2, 3)), ("a1.h2", (4,))):
        assert [i for i, kept in enumerate(data["nodes"][name]["neurons"]) if kept] == list(channels)
    for name, node in data["nodes"].items():
        out = [edge["score"] for edge_name, edge in data["edges"].items() if edge_name.startswith(f"{name}->")]
        assert name == "logits" or node["score"] == pytest.approx(sum(out))


@pytest.mark.parametrize("x", ["k", "v"])
def test_mib_scores_are_first_order_effects(planted, x):
    """Take a little of what the MLP adds out of one input of the head, and see how far the answers move."""
    model, circuit = planted
    _, text = record(model, text_windows(64, 1), circuit.space.names)
    measured = circuit.space.join({name: value.flatten(0, 1).mean(0) for name, value in text.items()})
    circuit = replace(circuit, means=measured)
    score = mib_graph(model, circuit, PAIRS).edges[f"m0->a1.h2<{x}>"].score
    place, step = "blocks.1.attn", 0.02
    with circuit.attached(model):
        _, seen = record(
            model,
            PAIRS.tokens.flatten(0, 1),
            ["blocks.0.mlp.hook_out", f"{place}.norm.hook_scale", "final_norm.hook_scale"],
        )
    means = circuit.space.split(circuit.means)["blocks.0.mlp.hook_out"]
    channels = list(NODES["blocks.0.mlp.hook_out"])
    adds = (seen["blocks.0.mlp.hook_out"] - means)[..., channels] * seen[f"{place}.norm.hook_scale"]
    adds = adds * model.get_submodule(f"{place}.norm").gain[channels]
    moved = adds @ model.get_submodule(f"{place}.W_{x}").weight[:, channels].T

    def frozen(value, point):
        return seen[point.name][:, -1:]

    def answers_with(share):
        def moved_by(value, point):
            alive = circuit.space.split(circuit.keep)[point.name] & (value != 0)
            return value + share * moved[:, : value.shape[1]] * alive

        with circuit.attached(model), hooked(model, {f"{place}.hook_{x}": moved_by, "final_norm.hook_scale": frozen}):
            return logit_diff(pair_answers(model, PAIRS))

    # the head attends to the quote almost wholly, so its key matters little
    assert abs(score) > {"k": 1e-3, "v": 0.02}[x]
    assert float(answers_with(step) - answers_with(-step)) / (2 * step) == pytest.approx(score, rel=0.03)
