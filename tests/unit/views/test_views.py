"""What circuits contribute: which circuit stands for a task, links that are no weights, the program in words."""

import pytest
from report_example import circuit, example_report, random_graph, string_closing_graph, task, viewer

from circuits.views.graph import STAGE, derived_links, node_name, signed, tables, visible, widget
from circuits.views.tasks import best, circuits
from circuits.views.words import MAX_EDGES, program
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.report.blocks import Details, Table, Widget, walk


def test_every_node_kind_has_a_place():
    assert set(STAGE) == set(NODE_KINDS)
    assert [STAGE[kind] for kind in NODE_KINDS] == sorted(STAGE[kind] for kind in NODE_KINDS)


def test_links_of_the_string_closing_circuit():
    graph = string_closing_graph()
    assert len(graph["nodes"]) == 12 and len(graph["edges"]) == 9
    assert set(derived_links(graph)) == {
        ("blocks.0.mlp.hook_out:1249", "blocks.1.attn.hook_in:1249", "residual"),
        ("blocks.0.mlp.hook_out:863", "blocks.1.attn.hook_in:863", "residual"),
        ("blocks.1.attn.hook_q:83", "blocks.1.attn.hook_k:83", "score"),
        ("blocks.1.attn.hook_k:83", "blocks.1.attn.hook_v:82", "pattern"),
    }
    del graph["d_head"]
    assert {kind for *_, kind in derived_links(graph)} == {"residual", "score"}


def test_a_channel_is_linked_only_forward_and_within_its_layer():
    graph = random_graph(120, 200, n_layer=3, width=12)
    places = {node["id"]: (node["layer"], STAGE[node["kind"]]) for node in graph["nodes"]}
    channels = {node["id"]: node["channel"] for node in graph["nodes"]}
    links = derived_links(graph)
    assert {kind for *_, kind in links} == {"residual", "score", "pattern"}
    for source, target, kind in links:
        if kind == "residual":
            assert places[source] < places[target] and channels[source] == channels[target]
        else:
            assert places[source] == places[target]


def test_node_names():
    node = string_closing_graph()["nodes"][9]
    assert node_name(node, 16) == "layer 1: key channel 83 (head 5)"
    assert node_name(node) == "layer 1: key channel 83"


def test_program_of_the_string_closing_circuit():
    text = program(string_closing_graph())
    assert text is not None
    lines = [" ".join(line.split("#")[0].split()) for line in text.splitlines()[1:]]
    assert [line for line in lines if line] == [
        "layer 0, MLP",
        'read[20] = residual 20, embedding of `("` +0.81, `(\'` +0.77, `"` +0.4',
        "read[44] = residual 44, embedding of `('` +0.92, `(\"` −0.88",
        "neuron[460] = act(+1.27 read[44] +0.12 read[20])",
        "neuron[985] = act(+0.83 read[20])",
        "write[863] += −1.44 neuron[460]",
        "write[1249] += +0.91 neuron[985]",
        "layer 1, attention",
        "read[863] = residual 863, written by layer 0 MLP",
        "read[1249] = residual 1249, written by layer 0 MLP",
        "q[83] = −0.08 read[1249] (head 5)",
        "k[83] = +1.62 read[1249] (head 5)",
        "v[82] = +1.18 read[863] (head 5)",
        "write[1079] += −2.31 v[82], averaged over where the head attends",
        "answer",
        "write[1079] of layer 1 adds to the logits of `')` +0.94, `\")` −0.9, `'` +0.31",
    ]
    assert text.count("loss without it +0.") == 12


def test_no_program_for_large_or_empty_circuits():
    large = random_graph(60, 100)
    assert len(large["edges"]) > MAX_EDGES
    assert program(large) is None
    assert program({"nodes": [], "edges": []}) is None


def test_best_circuit_is_the_smallest_that_reaches_the_target():
    graphs = [random_graph(30, 40), string_closing_graph(), random_graph(8, 3)]
    losses = (0.11, 0.14, 0.4)
    entry = task(
        "t", "circuit", [circuit("t", g, i, loss) for i, (g, loss) in enumerate(zip(graphs, losses, strict=True))], ""
    )
    found = best(entry, 0.15)
    assert found is not None and found["seed"] == 1
    closest = best(entry, 0.05)
    assert closest is not None and closest["seed"] == 0
    assert best(task("t", "bigram", [], ""), 0.15) is None


def test_section_has_a_drawing_per_circuit_and_a_row_per_task():
    section = example_report()["circuits"]
    blocks = circuits(section)
    table = next(block for block in blocks if isinstance(block, Table))
    assert [row[0].value for row in table.rows] == [entry["task"] for entry in section["tasks"]]
    assert [row[1] for row in table.rows] == ["circuit found", "circuit found", "bigram", "model fails", "no circuit"]
    drawings = [block for block in walk(blocks) if isinstance(block, Widget)]
    assert len(drawings) == sum(len(entry["circuits"]) for entry in section["tasks"])
    cards = [block for block in blocks if isinstance(block, Details)]
    assert [card.open for card in cards] == [True, False, False, False, False]


def test_widget_data_point_at_nodes():
    graph = random_graph(40, 60)
    drawing = widget(graph, "t")
    names = [node["id"] for node in drawing.data["nodes"]]
    edges = {(names[s], names[t], w) for s, t, w in drawing.data["edges"]}
    assert edges == {(edge["source"], edge["target"], edge["weight"]) for edge in graph["edges"]}
    assert len(drawing.data["links"]) == len(derived_links(graph))


def test_tables_hold_every_edge():
    graph = random_graph(40, 60)
    nodes, edges = tables(graph)
    assert isinstance(nodes, Table) and isinstance(edges, Table)
    assert len(nodes.rows) == len(graph["nodes"]) and len(edges.rows) == len(graph["edges"])
    sizes = [abs(row[2]) for row in edges.rows]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("text", "shown"), [("a\nb\t", "a⏎b⇥"), ("\x00", "\\x00"), (" x", " x"), ("é", "é")])
def test_visible(text, shown):
    assert visible(text) == shown


def test_signed():
    assert [signed(x) for x in (0.5, -0.5, 0.0, None)] == ["+0.5", "−0.5", "+0", "?"]


def test_widget_carries_the_activity_of_its_nodes():
    graph = string_closing_graph()
    seen = viewer(graph, ["a", "b", "c"])
    data = widget(graph, "t", seen).data
    places = {node["id"]: i for i, node in enumerate(graph["nodes"])}
    for node in data["nodes"]:
        assert node["seen"] == seen["nodes"][node["id"]]
    assert data["importance"]["edges"] == seen["edges"]
    assert data["importance"]["nodes"] == [seen["nodes"][node["id"]]["importance"] for node in graph["nodes"]]
    assert [path["nodes"] for path in data["viewer"]["paths"]] == [
        [places[node] for node in path["nodes"]] for path in seen["paths"]
    ]
    heads = {node["id"]: node["heads"] for node in data["nodes"] if node["heads"]}
    attention = {"blocks.1.attn.hook_q:83", "blocks.1.attn.hook_k:83", "blocks.1.attn.hook_v:82"}
    assert set(heads) == attention | {"blocks.1.attn.hook_out:1079"}  # what it writes comes from that head's values
    for places_of_head in heads.values():
        for prompt, place in enumerate(places_of_head[0]):
            assert (seen["heads"][place]["head"], seen["heads"][place]["prompt"]) == (5, prompt)


def test_paths_are_a_table_too():
    graph = string_closing_graph()
    seen = viewer(graph, ["a", "b\n", "c"])
    *_, paths = tables(graph, seen)
    assert isinstance(paths, Table)
    assert paths.rows[0] == ("positive", "'b⏎' → r20 → n985 → answer", 0.25, 0.8)
    assert len(paths.rows) == len(seen["paths"])


def test_importance_without_activity():
    graph = string_closing_graph()
    data = widget(graph, "t").data
    assert data["viewer"] is None and {node["seen"] for node in data["nodes"]} == {None}
    assert data["importance"]["edges"] == [abs(edge["weight"]) for edge in graph["edges"]]
    assert data["importance"]["nodes"] == [abs(node["ablation_delta"]) for node in graph["nodes"]]
