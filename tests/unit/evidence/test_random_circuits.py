"""What a circuit must beat: random circuits are connected and matched in edges; each comparison rejects a circuit known to be false."""

import time
from collections.abc import Callable
from dataclasses import replace
from math import log

import pytest
import torch
from cases import PLANTED
from random_exam import as_if, with_nodes
from torch import Tensor
from twins import no_nodes, same_nodes

from circuits.edges import count_edges, on_path
from circuits.evidence import random_circuits as nulls
from circuits.evidence.examination import CardInputs, Examination
from circuits.evidence.thresholds import PRESETS, CardConfig
from circuits.masks import NodeSpace
from sparsetrain.model import Transformer

CONFIG = replace(PRESETS["quick"], n_boot=100, n_random=100)


@torch.no_grad()
def sparse(model: Transformer, density: float) -> Transformer:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.blocks.parameters():
        if parameter.ndim == 2:
            parameter.mul_(torch.rand(parameter.shape, generator=generator) < density)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "options",
    [{}, {"positions": "learned"}, {"positions": "concat", "d_pos": 3}, {"biases": False, "sink": False}],
    ids=lambda options: " ".join(options) or "default",
)
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_random_circuits_are_connected_and_matched_in_edges(make_model, options, density):
    model = sparse(make_model(d_model=32, d_head=4, n_layer=3, **options), density)
    space, generator = NodeSpace.of(model), torch.Generator().manual_seed(0)
    alive = torch.rand(space.n_nodes, generator=generator) < 0.7
    for share in (0.02, 0.1):
        keep = on_path(model, space, torch.rand(space.n_nodes, generator=generator) < share)
        wanted = count_edges(model, space, keep)
        drawn = nulls.random_circuits(model, space, keep, alive, 30, seed=1)
        for mask in drawn:
            assert torch.equal(on_path(model, space, mask), mask)
            assert abs(count_edges(model, space, mask) - wanted) <= max(1, nulls.EDGE_TOLERANCE * wanted)
        assert not bool((drawn & ~(alive | keep)).any())
        assert torch.equal(drawn, nulls.random_circuits(model, space, keep, alive, 30, seed=1))
        if wanted:
            assert len(drawn.unique(dim=0)) > 25, "no two are alike, but for the smallest"


def test_a_draw_of_a_hundred_edges_costs_little_more_than_counting_them(make_model):
    model = sparse(make_model(d_model=128, d_head=16, n_layer=4), 1 / 8)
    space = NodeSpace.of(model)
    paths = nulls.Paths(model=model, space=space, usable=torch.ones(space.n_nodes, dtype=torch.bool))
    keep = torch.zeros(space.n_nodes, dtype=torch.bool)
    keep[sorted(paths.draw(100, nulls.Random(5)))] = True
    assert 95 <= count_edges(model, space, keep) <= 105

    def drawn() -> Tensor:
        return nulls.random_circuits(model, space, keep, torch.ones_like(keep), 100, seed=0)

    masks = drawn()
    ratio = _seconds(drawn) / _seconds(lambda: [count_edges(model, space, mask) for mask in masks])
    assert ratio < 30, f"{ratio:.1f} times as long as counting the edges of each; 4 to 7 on the machine that wrote this"


def _seconds(work: Callable[[], object]) -> float:
    """Of this process alone, the least of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def test_models_of_other_people_have_as_many_nodes_at_every_place():
    space = NodeSpace(("a.hook_z", "b.hook_z"), (6, 8))
    keep = space.mask({"a.hook_z": (0, 2), "b.hook_z": (5,)})
    drawn = nulls.random_circuits(torch.nn.Linear(1, 1), space, keep, torch.ones_like(keep), 20, seed=0)
    assert [part.sum(1).unique().tolist() for part in space.split(drawn).values()] == [[2], [1]]
    assert len(drawn.unique(dim=0)) > 10


def test_where_no_path_is_there_nothing_is_drawn(exam):
    nowhere = replace(exam.inputs, alive=torch.zeros_like(exam.keep))
    lost = with_nodes(replace(exam, inputs=nowhere), torch.zeros_like(exam.keep))
    assert not bool(nulls.drawn(lost).any())
    assert nulls.beaten(lost).verdict == "not enough data"


def test_what_is_removed_by_hand():
    rows = torch.tensor([[0.1, 0.5, 0.6], [0.3, 0.5, 0.8]]).double()  # means .2, .5, .7; the 5% quantile is .51
    assert float(nulls.removed(rows)) == pytest.approx(1 - 0.2 / 0.51)
    assert float(nulls.removed(rows + 1)) == pytest.approx(1 - 1.2 / log(2)), "a coin is one of them"


@pytest.fixture(scope="module")
def planted() -> Examination:
    case = PLANTED["string_closing"]
    model, pairs = case.model(), case.pair_sets()
    means, space = case.means(model), NodeSpace.of(model)
    empty = no_nodes(model, "planted_strings", means.values)
    circuit = same_nodes(model, empty, space.mask(case.minimal[0][0]), means.values, pairs.fit)
    inputs = CardInputs(fit=pairs.fit, heldout=pairs.heldout, alive=means.alive)
    return Examination(model=model, circuit=circuit, inputs=inputs, config=CONFIG)


def verdicts(exam: Examination) -> dict[str, str]:
    criteria = (nulls.beaten, nulls.above_attributed, nulls.caught, nulls.needed_more)
    return {criterion.name: criterion.entry(exam).verdict for criterion in criteria}


def examined_with(exam: Examination, keep: torch.Tensor) -> Examination:
    other = same_nodes(exam.model, exam.circuit, keep, exam.circuit.means, exam.inputs.fit)
    return replace(exam, circuit=other)


def test_a_planted_circuit_passes_all_four(planted):
    assert set(verdicts(planted).values()) == {"pass"}


def test_every_broken_circuit_fails_the_comparison_with_random_ones(planted):
    masks = planted.once(nulls.broken)
    assert len(masks) == planted.config.n_broken
    for mask in masks:
        alone = nulls.beaten.entry(examined_with(planted, mask))
        assert alone.verdict == "fail", "though it has a lower loss than almost every random circuit"


def test_a_random_circuit_fails(planted):
    false = verdicts(examined_with(planted, planted.once(nulls.drawn)[3]))
    assert false["random circuits"] == false["best nodes by attribution"] == "fail"
    assert false["necessity among random sets"] == "fail" and false["broken circuits"] == "not enough data"


def test_a_comparison_that_misses_broken_circuits_says_so(planted):
    blunt = replace(planted, config=replace(CONFIG, min_removed=0.01))
    assert nulls.caught.entry(blunt).verdict == "fail"


def test_attribution_has_at_most_as_many_edges(planted):
    mask = planted.once(nulls.attributed)
    n_edges = count_edges(planted.model, planted.space, mask)
    assert 0 < n_edges <= planted.circuit.n_edges and torch.equal(on_path(planted.model, planted.space, mask), mask)


def test_more_of_the_same_data_changes_no_verdict(planted):
    """Twice and four times the pairs of the same distribution: estimates settle, and nothing that passed fails."""
    for n in (16, 32, 64):
        pairs = PLANTED["string_closing"].pairs(n, 11)
        more = replace(planted, inputs=replace(planted.inputs, heldout=pairs))
        assert set(verdicts(replace(more, config=CardConfig(n_boot=100, n_random_pairs=n))).values()) == {"pass"}


def test_losses_are_of_the_circuit_then_of_the_random_ones(exam):
    everything = as_if(exam, {nulls.drawn: torch.stack([exam.everything, exam.keep])})
    own, full, same = nulls.losses(everything)
    assert own == pytest.approx(same) and full != pytest.approx(own)
