"""The search finds the nodes and edges of circuits set by hand, for every mask seed: string closing, bracket depth, two hops, a
shared detector, behind a sink; of redundant heads one, and the report says that there are others.
"""

from collections.abc import Callable

import behind_sink
import bracket_depth
import pytest
import string_closing
import two_hop
from redundant_heads import MINIMAL, edges_of, redundant_model
from shared_detector import SECOND_ANSWERS, SECOND_EDGES_OF_LAYER_1, SECOND_NODES, two_task_model
from string_closing import EDGES, NODES, string_pairs, text_windows
from torch import Tensor

from circuits.edges import find_edges
from circuits.find import FindConfig, Pairs, definitions, find_in_pairs
from circuits.masks import NodeSpace
from circuits.means import measure_means
from circuits.prune import PruneConfig, Pruned, Run, search
from circuits.sections import circuits as circuits_view
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer
from sparsetrain.report.blocks import Details, Text

TARGET = 0.15
CONFIG = PruneConfig(n_steps=60, candidate_share=0.5)
LAYER_0_EDGES = {edge for edge in EDGES if edge[0].startswith("blocks.0")}


UNIQUE = {
    "string closing": (string_closing.string_closing_model, string_pairs, text_windows, string_closing),
    "bracket depth": (
        bracket_depth.bracket_model,
        bracket_depth.bracket_pairs,
        bracket_depth.bracket_windows,
        bracket_depth,
    ),
    "two hops": (two_hop.two_hop_model, two_hop.two_hop_pairs, two_hop.two_hop_windows, two_hop),
    "behind a sink": (behind_sink.sink_model, behind_sink.sink_pairs, text_windows, behind_sink),
}


def found(
    model: Transformer,
    train: PairSet,
    val: PairSet,
    seeds: tuple[int, ...],
    windows: Callable[[int, int], Tensor] = text_windows,
) -> list[Pruned]:
    means = measure_means(model, windows(256, 5), source="planted text", weights_sha256="0" * 64)
    runs = [Run(seed=seed, train=train, val=val) for seed in seeds]
    return search(model, NodeSpace.of(model), means.values, runs, TARGET, CONFIG)


def edges(model: Transformer, keep: Tensor) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in find_edges(model, NodeSpace.of(model), keep)}


@pytest.mark.parametrize("name", UNIQUE)
def test_a_unique_circuit_is_found_exactly(name):
    make, pairs, windows, truth = UNIQUE[name]
    model = make()
    for pruned in found(model, pairs(128, 0), pairs(32, 2), (0, 1, 2), windows):
        assert pruned.reached
        assert NodeSpace.of(model).nodes(pruned.keep) == truth.NODES
        assert edges(model, pruned.keep) == truth.EDGES


@pytest.mark.parametrize("second", [False, True])
def test_a_node_that_serves_two_tasks_is_in_both_circuits(second):
    model = two_task_model()
    train, val = (
        string_pairs(n, seed, **({"answers": SECOND_ANSWERS} if second else {})) for n, seed in ((128, 0), (32, 2))
    )
    for pruned in found(model, train, val, (0, 1)):
        assert pruned.reached
        assert NodeSpace.of(model).nodes(pruned.keep) == (SECOND_NODES if second else NODES)
        assert edges(model, pruned.keep) == (LAYER_0_EDGES | SECOND_EDGES_OF_LAYER_1 if second else EDGES)


def test_of_two_redundant_heads_one_is_found_and_over_seeds_both():
    model = redundant_model()
    results = found(model, string_pairs(128, 0), string_pairs(32, 2), tuple(range(4)))
    seen = set()
    for pruned in results:
        assert pruned.reached
        nodes = NodeSpace.of(model).nodes(pruned.keep)
        assert nodes in MINIMAL
        head = MINIMAL.index(nodes)
        assert edges(model, pruned.keep) == LAYER_0_EDGES | edges_of(head)
        seen.add(head)
    assert seen == {0, 1}, "seeds find different circuits where several are minimal"


def test_the_report_says_that_other_circuits_exist():
    """Four mask seeds find both of the minimal circuits, and the task's entry and its text say so."""
    model = redundant_model()
    means = measure_means(model, text_windows(256, 5), source="planted text", weights_sha256="0" * 64)
    sizes = {"train": 128, "fit": 32, "val": 32, "heldout": 32}
    pairs = Pairs(**{name: string_pairs(n, seed=i) for i, (name, n) in enumerate(sizes.items())})
    config = FindConfig(margin=1.0, seeds=(0, 1, 2, 3), n_random=5, n_random_pairs=16, n_heldout=32, prune=CONFIG)
    entry = find_in_pairs(model, "redundant", "closes strings", pairs, None, means, config, str)
    shared = 2 * len(set.intersection(*({f"{n}:{c}" for n, cs in nodes.items() for c in cs} for nodes in MINIMAL)))
    assert entry["seeds"]["jaccard_nodes"]["value"] < 1
    assert len(entry["seeds"]["core_nodes"]) == shared // 2
    text = circuits_view({"tasks": [entry], "target_loss": TARGET, "definitions": definitions(means)})
    words = " ".join(
        block.text
        for details in text
        if isinstance(details, Details)
        for block in details.blocks
        if isinstance(block, Text)
    )
    assert "2 different circuits" in words and "not the only one" in words
