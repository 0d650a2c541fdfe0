"""The search finds the nodes and edges of circuits set by hand: redundant heads, a shared detector, behind a sink."""

import pytest
from behind_sink import EDGES as SINK_EDGES
from behind_sink import NODES as SINK_NODES
from behind_sink import sink_model, sink_pairs
from redundant_heads import MINIMAL, edges_of, redundant_model
from shared_detector import SECOND_ANSWERS, SECOND_EDGES_OF_LAYER_1, SECOND_NODES, two_task_model
from string_closing import EDGES, NODES, string_pairs, text_windows
from torch import Tensor

from circuits.edges import find_edges
from circuits.masks import NodeSpace
from circuits.means import measure_means
from circuits.prune import PruneConfig, Pruned, Run, search
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer

TARGET = 0.15
CONFIG = PruneConfig(n_steps=60, candidate_share=0.5)
LAYER_0_EDGES = {edge for edge in EDGES if edge[0].startswith("blocks.0")}


def found(model: Transformer, train: PairSet, val: PairSet, seeds: tuple[int, ...]) -> list[Pruned]:
    means = measure_means(model, text_windows(256, seed=5), source="planted text", weights_sha256="0" * 64)
    runs = [Run(seed=seed, train=train, val=val) for seed in seeds]
    return search(model, NodeSpace.of(model), means.values, runs, TARGET, CONFIG)


def edges(model: Transformer, keep: Tensor) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in find_edges(model, NodeSpace.of(model), keep)}


def test_behind_a_sink_the_pattern_is_the_circuit():
    model = sink_model()
    for pruned in found(model, sink_pairs(128, 0), sink_pairs(32, 2), (0, 1)):
        assert pruned.reached
        assert NodeSpace.of(model).nodes(pruned.keep) == SINK_NODES
        assert edges(model, pruned.keep) == SINK_EDGES


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
