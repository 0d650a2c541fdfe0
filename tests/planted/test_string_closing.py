"""Extraction finds exactly the circuit that was set by hand, and the report's numbers are those worked out by hand."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from math import exp, log1p

import pytest
import torch
from string_closing import (
    D_VOCAB,
    EDGES,
    IS_DOUBLE,
    MARGIN,
    NEURON_SINGLE,
    NODES,
    NONSENSE_A,
    NONSENSE_B,
    string_closing_model,
    string_pairs,
    text_windows,
)

from circuits.circuit import Circuit
from circuits.find import find_task
from circuits.masks import NodeSpace
from circuits.means import Means, measure_means
from circuits.search.edge_pruning import prune_edges
from circuits.search.learn import Aim, MaskRun, PruneConfig
from circuits.search.search import Pruned, Search
from circuits.search.task import FindConfig, Pairs, TaskSearch, aim, circuit_of
from circuits.section import TaskEntry
from circuits.tasks.loss import Calibration
from sparsetrain.model import Transformer

CONFIG = FindConfig(
    calibration="circuit",  # the planted margin is small, so that its scale is needed
    margin=1.0,
    n_random=100,
    n_random_pairs=16,
    n_heldout=32,
    prune=PruneConfig(n_steps=60, candidate_share=0.5),
)


@pytest.fixture(scope="module")
def planted() -> tuple[Transformer, Means]:
    model = string_closing_model()
    return model, measure_means(model, text_windows(256, seed=5), source="planted text", weights_sha256="0" * 64)


def pairs(answers: tuple[int, int] | None = None) -> Pairs:
    extra = {} if answers is None else {"answers": answers}
    sizes = {"train": 128, "fit": 32, "val": 32, "heldout": 32}
    return Pairs(**{name: string_pairs(n, seed=i, **extra) for i, (name, n) in enumerate(sizes.items())})


def subject(model: Transformer, means: Means, config: FindConfig) -> TaskSearch:
    twin = pairs((NONSENSE_A, NONSENSE_B))
    return TaskSearch(
        model=model, task="strings", description="closes strings", pairs=pairs(), twin=twin, means=means, config=config
    )


@pytest.fixture(scope="module")
def result(planted, tmp_path_factory) -> tuple[TaskEntry, Circuit]:
    model, means = planted
    folder = tmp_path_factory.mktemp("circuits")
    entry = find_task(subject(model, means, CONFIG), folder)
    return entry, Circuit.load(folder / "strings")


def test_extraction_recovers_the_planted_nodes_and_edges(result):
    entry, circuit = result
    assert entry.status == "circuit"
    assert circuit.nodes == NODES
    assert {(edge.source, edge.target) for edge in circuit.edges} == EDGES
    assert entry.seeds.jaccard_nodes.value == 1.0
    assert [c.n_edges.value for c in entry.circuits] == [9, 9]


@pytest.mark.parametrize(
    "change",
    [
        {"prune": replace(CONFIG.prune, masks="hard_concrete")},
        {"prune": replace(CONFIG.prune, tie_qk=True)},
        {"prune": replace(CONFIG.prune, price="nodes")},
        {"settle": (0.8,)},
        {"trials": 2},
    ],
    ids=["hard-concrete", "tied q and k", "price per node", "one price", "Optuna"],
)
def test_every_way_to_search_recovers_it(planted, change):
    model, means = planted
    config = replace(CONFIG, seeds=(0,), n_random=5, **change)
    entry = find_task(subject(model, means, config))
    (found,) = entry.circuits
    assert {(edge.source, edge.target) for edge in found.graph.edges} == EDGES
    assert not entry.nonsense_twin.reached


class FitsNamesOnly(Search):
    """A search in whose training pairs half the circuit does badly."""

    def training_loss(self, keep: torch.Tensor, which: Sequence[int], calibration: Calibration) -> torch.Tensor:
        losses = self.loss(keep, which)[0]
        return torch.where(losses > 0.5 * self.aim.target, 1.0, losses)


@pytest.mark.parametrize("kind", [Search, FitsNamesOnly])
def test_clean_up_keeps_what_training_pairs_need(planted, kind):
    model, means = planted
    space, both = means.space, pairs()
    run = MaskRun(seed=0, train=both.train, val=both.val)
    target = log1p(exp(-2 * MARGIN)) + 0.01  # one of the two quote readers is enough on validation pairs
    looking = kind(Aim(model=model, means=means.values, target=target, config=CONFIG.prune), [run])
    order = torch.cat([space.mask(NODES).nonzero().flatten(), (~space.mask(NODES)).nonzero().flatten()])
    (found,) = looking.circuits([order], [len(order)])
    assert found.reached
    assert bool((found.keep == space.mask(NODES)).all()) == (kind is FitsNamesOnly)
    assert not (found.keep & ~space.mask(NODES)).any()


def test_numbers_are_those_worked_out_by_hand(result):
    entry, _ = result
    best = entry.circuits[0]
    by_hand = log1p(exp(-4 * MARGIN))
    assert best.calibration.scale == 4.0
    assert best.task_loss.value == pytest.approx(by_hand, abs=0.01)
    assert entry.gate.loss.value == pytest.approx(by_hand, abs=0.01)
    assert entry.gate.raw_loss.value == pytest.approx(log1p(exp(-MARGIN)), abs=0.01)
    assert entry.gate.accuracy.value == 1.0
    assert entry.empty.loss.value == pytest.approx(log1p(exp(0)), abs=1e-5)
    assert best.necessity.value == pytest.approx(1.0, abs=1e-4)
    # A random set hits some of the eleven nodes, seldom all of a path.
    assert best.necessity_random.mean.value < 0.9
    assert best.random.n_beaten.value >= 95  # so small a model may draw the circuit itself
    assert best.random.removed.value > 0.9
    # Without one of the two quote readers half the margin is left on average.
    delta = {node.id: node.ablation_delta for node in best.graph.nodes}
    assert delta["blocks.1.attn.hook_out:4"] == pytest.approx(log1p(exp(0)) - by_hand, abs=0.02)


def test_edge_circuit_of_the_planted_circuit_is_as_good(result):
    entry, _ = result
    best = entry.circuits[0]
    assert best.edge_task_loss.value == pytest.approx(best.task_loss.value, abs=0.01)


def test_edge_pruning_drops_a_weight_that_does_nothing_and_keeps_the_others(planted):
    model, means = deepcopy(planted[0]), planted[1]
    model.blocks[0].mlp.W_in.weight[NEURON_SINGLE, IS_DOUBLE] = 1e-3
    space, config = NodeSpace.of(model), replace(CONFIG, nonsense_twin=False)
    subject = TaskSearch(model=model, task="strings", description="", pairs=pairs(), means=means, config=config)
    everything = Pruned(
        keep=space.mask(NODES),
        loss=0.0,
        reached=True,
        calibration=Calibration(scale=torch.tensor(1.0), shift=torch.tensor(0.0)),
        n_candidates=0,
        n_ranked=0,
        removal_loss=torch.zeros(space.n_nodes),
    )
    circuit = circuit_of(subject, 0, everything)
    assert circuit.n_edges == len(EDGES) + 1
    pruned, loss = prune_edges(replace(aim(subject), target=0.15), circuit, pairs().val)
    assert {(edge.source, edge.target) for edge in pruned.edges} == EDGES
    assert loss == pytest.approx(log1p(exp(-4 * MARGIN)), abs=0.01)


def test_nonsense_twin_finds_nothing(result):
    entry, _ = result
    assert not entry.nonsense_twin.reached
    assert entry.nonsense_twin.n_edges.value is None


def test_means_name_their_source(planted):
    model, means = planted
    assert means.space == NodeSpace.of(model)
    assert means.n_tokens == 256 * 16
    assert model.config.d_vocab == D_VOCAB
