"""The search finds the nodes and edges of circuits set by hand, and says so where a circuit is not the only one."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import PLANTED, PRUNE, TARGET, UNIQUE, Planted

from circuits.circuit import Circuit
from circuits.edges import find_edges
from circuits.find import find_task, section_of, seeds_note
from circuits.masks import NodeSpace
from circuits.search.learn import Aim, MaskRun
from circuits.search.search import Search, search
from circuits.search.task import FindConfig, TaskSearch
from circuits.section import TaskEntry
from circuits.views import KINDS
from sparsetrain.report.markdown import render_block

FIND = FindConfig(
    calibration="circuit",  # the planted margins are small, so that its scale is needed; bracket_depth needs its shift too
    min_raw_accuracy=0.0,
    target_loss=TARGET,
    margin=1.0,
    nonsense_twin=False,
    n_random=5,
    n_random_pairs=8,
    n_random_necessity=2,
    n_heldout=32,
    n_boot=100,
    prune=PRUNE,
)


def found(planted: Planted, seeds: tuple[int, ...]) -> list[tuple[set[str], set[tuple[str, str]]]]:
    """Nodes and edges that each seed's search ends in; all of them reach the target."""
    model = planted.model()
    space, pairs = NodeSpace.of(model), planted.pair_sets()
    runs = [MaskRun(seed=seed, train=pairs.train, val=pairs.val) for seed in seeds]
    results = search(Aim(model=model, means=planted.means(model).values, target=TARGET, config=PRUNE), runs)
    assert all(pruned.reached for pruned in results)
    return [
        (
            {space.id(i) for i in pruned.keep.nonzero().flatten().tolist()},
            {(edge.source, edge.target) for edge in find_edges(model, space, pruned.keep)},
        )
        for pruned in results
    ]


def ids(nodes: dict[str, tuple[int, ...]]) -> set[str]:
    return {f"{name}:{channel}" for name, channels in nodes.items() for channel in channels}


def precision_recall(found: set[Any], true: set[Any]) -> tuple[float, float]:
    both = len(found & true)
    return both / len(found), both / len(true)


@pytest.mark.parametrize("name", [name for name in UNIQUE if name != "bracket_depth"])  # reported below
def test_precision_and_recall_of_nodes_and_edges_are_1(name):
    nodes, edges = PLANTED[name].minimal[0]
    for found_nodes, found_edges in found(PLANTED[name], seeds=(0, 1)):
        assert precision_recall(found_nodes, ids(nodes)) == (1.0, 1.0)
        assert precision_recall(found_edges, edges) == (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Reported:
    """What a planted task leaves behind: its entry of report.json, the text that is printed of it, its circuits."""

    entry: TaskEntry
    text: str
    circuits: list[Circuit]  # smallest first


def reported(planted: Planted, seeds: tuple[int, ...], folder: Path) -> Reported:
    model = planted.model()
    means, config = planted.means(model), replace(FIND, seeds=seeds)
    subject = TaskSearch(
        model=model, task="planted", description="a task", pairs=planted.pair_sets(), means=means, config=config
    )
    entry = find_task(subject, folder)
    section = section_of(means, FIND, (entry,))
    text = "\n".join(render_block(block) for block in KINDS["circuits"].view(section))
    return Reported(
        entry=entry, text=text, circuits=[Circuit.load(folder / circuit.path[9:]) for circuit in entry.circuits]
    )


def nodes_and_edges(circuit: Circuit) -> tuple[set[str], set[tuple[str, str]]]:
    return set(circuit.node_ids), {(edge.source, edge.target) for edge in circuit.edges}


def test_precision_and_recall_are_1_in_the_report_too_which_shows_no_other_circuit(tmp_path):
    nodes, edges = PLANTED["bracket_depth"].minimal[0]
    found = reported(PLANTED["bracket_depth"], (0, 1), tmp_path)
    assert found.entry.status == "circuit"
    assert len(found.circuits) == 2
    for found_nodes, found_edges in map(nodes_and_edges, found.circuits):
        assert precision_recall(found_nodes, ids(nodes)) == (1.0, 1.0)
        assert precision_recall(found_edges, edges) == (1.0, 1.0)
    for circuit in found.entry.circuits:
        assert {node.id for node in circuit.graph.nodes} == ids(nodes)
        assert {(edge.source, edge.target) for edge in circuit.graph.edges} == edges
    assert found.entry.seeds.jaccard_nodes.value == 1.0
    assert found.entry.seeds.note == ""
    assert "ther circuits of this size exist" not in found.text


@pytest.fixture(scope="module")
def redundant(tmp_path_factory) -> Reported:
    return reported(PLANTED["redundant_heads"], (0, 1, 2, 3), tmp_path_factory.mktemp("redundant"))


def test_of_two_redundant_heads_one_is_found_and_over_seeds_both(redundant):
    minimal = [(ids(nodes), edges) for nodes, edges in PLANTED["redundant_heads"].minimal]
    heads = [minimal.index(nodes_and_edges(circuit)) for circuit in redundant.circuits]
    assert len(heads) == 4 and set(heads) == {0, 1}


def test_the_report_of_a_redundant_circuit_says_that_others_exist(redundant):
    # By hand: of 11 nodes the heads share all but their key and value channel.
    assert redundant.entry.seeds.note == "other circuits of this size exist: seeds share only 9 of 11 nodes"
    assert len(redundant.entry.seeds.core_nodes) == 9
    assert "Other circuits of this size exist: seeds share only 9 of 11 nodes." in redundant.text


def test_the_note_tells_other_circuits_of_this_size_from_larger_ones(redundant):
    first = redundant.circuits[0]
    other = next(circuit for circuit in redundant.circuits if circuit.nodes != first.nodes)
    smaller = replace(first, edges=first.edges[1:])

    def note(*circuits: Circuit) -> str:
        return seeds_note(circuits, [circuit.n_edges for circuit in circuits])

    assert note() == note(first) == note(first, first) == ""
    assert note(smaller, smaller, other) == (
        "seeds found other, larger circuits: they share 9 of the smallest one's 11 nodes"
    )


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_circuits_are_evaluated_alike_compiled_and_masked(name):
    model, pairs = PLANTED[name].model(), PLANTED[name].pair_sets()
    values, space = PLANTED[name].means(model).values, NodeSpace.of(model)
    runs = [MaskRun(seed=seed, train=pairs.train, val=pairs.val) for seed in range(4)]
    aim = Aim(model=model, means=values, target=TARGET, config=PRUNE)
    keep = torch.rand(4, space.n_nodes, generator=torch.Generator().manual_seed(0)) < 0.6
    compiled, masked = (
        Search(replace(aim, config=replace(PRUNE, compact_nodes=n)), runs).loss(keep, range(4))[0]
        for n in (space.n_nodes, 0)
    )
    assert compiled.tolist() == pytest.approx(masked.tolist(), abs=1e-5)
    assert len(set(masked.tolist())) > 1, "circuits of different losses"
