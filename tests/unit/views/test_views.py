"""What circuits contribute: which circuit stands for a task, links that are no weights, tables and the drawing's data."""

from dataclasses import replace

from report_example import circuit, example_report, random_graph, string_closing_graph, task, viewer

from circuits.explain.words import STAGE
from circuits.section import CircuitsSection
from circuits.views.graph import derived_links, tables, widget
from circuits.views.tasks import best, circuits
from sparsetrain.report.blocks import Details, KeyNumbers, Table, Text, Tile, Widget, walk
from sparsetrain.typed import plain

STRINGS = string_closing_graph()


def test_links_of_the_string_closing_circuit():
    assert len(STRINGS.nodes) == 12 and len(STRINGS.edges) == 9
    assert set(derived_links(STRINGS)) == {
        ("blocks.0.mlp.hook_out:1249", "blocks.1.attn.hook_in:1249", "residual"),
        ("blocks.0.mlp.hook_out:863", "blocks.1.attn.hook_in:863", "residual"),
        ("blocks.1.attn.hook_q:83", "blocks.1.attn.hook_k:83", "score"),
        ("blocks.1.attn.hook_k:83", "blocks.1.attn.hook_v:82", "pattern"),
    }
    assert {kind for *_, kind in derived_links(replace(STRINGS, d_head=None))} == {"residual", "score"}


def test_a_channel_is_linked_only_forward_and_within_its_layer():
    graph = random_graph(120, 200, n_layer=3, width=12)
    places = {node.id: (node.layer, STAGE[node.kind]) for node in graph.nodes}
    channels = {node.id: node.channel for node in graph.nodes}
    links = derived_links(graph)
    assert {kind for *_, kind in links} == {"residual", "score", "pattern"}
    for source, target, kind in links:
        if kind == "residual":
            assert places[source] < places[target] and channels[source] == channels[target]
        else:
            assert places[source] == places[target]


def test_the_circuit_shown_is_the_one_chosen_on_validation_pairs_whatever_held_out_pairs_say():
    graphs = [random_graph(30, 40), string_closing_graph(), random_graph(8, 3)]
    losses = (0.11, 0.14, 0.4)
    entries = [circuit("t", g, i, loss) for i, (g, loss) in enumerate(zip(graphs, losses, strict=True))]
    entry = task("t", "circuit", entries)
    found = best(entry)
    assert found is not None and found.seed == 0
    assert best(task("t", "bigram", [])) is None


def test_section_has_a_drawing_per_circuit_and_a_row_per_task():
    section = example_report().section("circuits", CircuitsSection)
    blocks = circuits(section)
    table = next(block for block in blocks if isinstance(block, Table))
    assert [row[0].value for row in table.rows] == [entry.task for entry in section.tasks]
    assert [row[1] for row in table.rows] == ["circuit found", "circuit found", "bigram", "model fails", "no circuit"]
    drawings = [block for block in walk(blocks) if isinstance(block, Widget)]
    assert len(drawings) == sum(len(entry.circuits) for entry in section.tasks)
    cards = [block for block in blocks if isinstance(block, Details)]
    assert [card.open for card in cards] == [True, False, False, False, False]


def test_widget_data_point_at_nodes():
    graph = random_graph(40, 60)
    drawing = widget(graph, "t")
    names = [node["id"] for node in drawing.data["nodes"]]
    edges = {(names[s], names[t], w) for s, t, w in drawing.data["edges"]}
    assert edges == {(edge.source, edge.target, edge.weight) for edge in graph.edges}
    assert len(drawing.data["links"]) == len(derived_links(graph))


def test_tables_hold_every_edge():
    graph = random_graph(40, 60)
    nodes, edges = tables(graph)
    assert len(nodes.rows) == len(graph.nodes) and len(edges.rows) == len(graph.edges)
    sizes = [abs(row[2]) for row in edges.rows]
    assert sizes == sorted(sizes, reverse=True)


def test_widget_carries_the_activity_of_its_nodes():
    typed = viewer(STRINGS, ["a", "b", "c"])
    data, seen = widget(STRINGS, "t", typed).data, plain(typed)
    places = {node.id: i for i, node in enumerate(STRINGS.nodes)}
    for node in data["nodes"]:
        assert node["seen"] == seen["nodes"][node["id"]]
    assert data["importance"]["edges"] == seen["edges"]
    assert data["importance"]["nodes"] == [seen["nodes"][node.id]["importance"] for node in STRINGS.nodes]
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
    seen = viewer(STRINGS, ["a", "b\n", "c"])
    *_, paths = tables(STRINGS, seen)
    assert paths.rows[0] == ("positive", "'b⏎' → r20 → n985 → answer", 0.25, 0.8)
    assert len(paths.rows) == len(seen.paths)


def test_importance_without_activity():
    data = widget(STRINGS, "t").data
    assert data["viewer"] is None and {node["seen"] for node in data["nodes"]} == {None}
    assert data["importance"]["edges"] == [abs(edge.weight) for edge in STRINGS.edges]
    assert data["importance"]["nodes"] == [abs(node.ablation_delta or 0) for node in STRINGS.nodes]


def tiles_of(section: CircuitsSection) -> dict[str, Tile]:
    """Label -> tile of the section's page."""
    return {block.label: block for block in walk(circuits(section)) if isinstance(block, Tile)}


def test_a_task_that_does_not_suit_shows_its_reason_and_no_numbers():
    given = replace(task("with_as", "unsuitable", []), note="200 of 200 pairs rejected (too_long: 200)")
    section = replace(example_report().section("circuits", CircuitsSection), tasks=(given,))
    blocks = list(walk(circuits(section)))
    (details,) = [block for block in blocks if isinstance(block, Details)]
    assert details.status == "does not suit" and details.tone == "none"
    words = " ".join(block.text for block in walk(details.blocks) if isinstance(block, Text))
    assert "200 of 200 pairs rejected (too_long: 200)." in words
    assert not [block for block in walk(details.blocks) if isinstance(block, KeyNumbers)]
    tiles = tiles_of(section)
    assert set(tiles) == {"Tasks that the model does", "Tasks with a circuit"}
    assert {(tile.value, tile.tone) for tile in tiles.values()} == {("0 of 0", "none")}
    assert "1 more do not suit" in (tiles["Tasks with a circuit"].note or "")


def test_tasks_that_do_not_suit_are_not_held_against_a_model():
    section = example_report().section("circuits", CircuitsSection)
    n_found = sum(entry.status == "circuit" for entry in section.tasks)
    more = replace(section, tasks=(*section.tasks, task("with_as", "unsuitable", [])))
    for shown in (section, more):
        assert tiles_of(shown)["Tasks with a circuit"].value == f"{n_found} of {len(section.tasks)}"
        assert tiles_of(shown)["Tasks that the model does"].value.endswith(f" of {len(section.tasks)}")
