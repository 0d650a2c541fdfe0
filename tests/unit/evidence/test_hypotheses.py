"""Hypothesis tests of a circuit, by hand and by brute force."""

from dataclasses import replace
from random import Random

import pytest
import torch
from random_exam import answers_of, as_if, with_heldout, with_settings

from circuits.answers import run_answers
from circuits.circuit import Circuit
from circuits.edges import find_edges
from circuits.evidence import hypotheses, random_circuits
from circuits.evidence.examination import Examination
from circuits.evidence.hypotheses import (
    dependence,
    dependence_of_rest,
    difference,
    edge_shifts,
    enough_draws,
    gaussian_kernel,
    hsic,
    minimality_test,
    permutation_p,
    random_path,
    with_edges,
)
from circuits.evidence.random_circuits import sufficiency_test
from circuits.section import CardEntry


def test_permutation_p_by_hand():
    assert permutation_p(3.0, [1.0, 2.0, 3.0, 4.0]) == 3 / 5
    assert permutation_p(5.0, [1.0, 2.0]) == 1 / 3
    assert enough_draws(180, 9) and not enough_draws(179, 9)


def noise(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def differing(exam: Examination, circuit: torch.Tensor, model: torch.Tensor) -> CardEntry:
    seen = as_if(with_heldout(exam, len(circuit)), calibrated=answers_of(circuit), full_calibrated=answers_of(model))
    return difference.entry(seen)


def test_difference_of_answers_by_hand(exam):
    circuit, model = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    found = differing(exam, circuit, model)
    gap = float(torch.sigmoid(torch.tensor(1.0))) - 0.5  # on both sides of the first pair, on none of the second
    assert found.value.value == pytest.approx(gap / 2)
    assert differing(exam, 5 + noise(64, 0), -5 + noise(64, 1)).verdict == "fail"


@pytest.mark.parametrize("n", [32, 64, 128, 1024])
def test_a_small_difference_passes_however_many_pairs_show_it(exam, n):
    """A test of equivalence rejects a difference of any size once there are pairs enough."""
    model = noise(n, 0)
    assert differing(exam, model + 0.1, model).verdict == "pass"
    assert differing(exam, model + 0.1 * noise(n, 1), model).verdict == "pass"


def test_hsic_by_its_formula():
    generator = torch.Generator().manual_seed(0)
    k, l = (gaussian_kernel(torch.randn(9, generator=generator)) for _ in range(2))  # noqa: E741
    h = torch.eye(9, dtype=torch.float64) - 1 / 9
    assert hsic(k, l) == pytest.approx(float(torch.trace(k @ h @ l @ h)) / 81)
    x = torch.tensor([0.0, 1.0, 3.0])
    assert float(gaussian_kernel(x)[0, 1]) == pytest.approx(float(torch.tensor(-1 / 8).exp()))  # median distance 2
    assert torch.equal(gaussian_kernel(torch.ones(4)), torch.ones(4, 4, dtype=torch.float64))


def depending(exam: Examination, rest: torch.Tensor, model: torch.Tensor) -> CardEntry:
    seen = with_settings(with_heldout(exam, len(rest)), n_permutations=50)
    return dependence_of_rest.entry(as_if(seen, full=answers_of(model), without=answers_of(rest), effect=1.0))


def test_dependence_is_found_that_no_correlation_shows(exam):
    x = noise(80, 0)
    assert dependence(x, x, 200, seed=0) == pytest.approx(1.0)
    assert dependence(x, x.square(), 200, seed=0) > 0.2
    assert abs(dependence(x, noise(80, 1), 200, seed=0)) < 0.05
    assert dependence(x, torch.ones(80), 10, seed=0) == 0.0
    assert depending(exam, 1e-4 * x, x).value.value == 0.0, "as good as constant"
    assert depending(exam, x.square(), x).verdict == "fail"


@pytest.mark.parametrize("n", [64, 128, 256, 512])
def test_a_weak_dependence_passes_however_many_pairs_show_it(exam, n):
    """A test of independence rejects a dependence of any size once there are pairs enough."""
    x = noise(n, 0)
    assert depending(exam, 0.3 * x + noise(n, 1), x).verdict == "pass"


def test_sufficiency_p_by_hand(exam):
    def tested(*losses: float):
        return sufficiency_test(as_if(exam, {random_circuits.losses: [0.1, *losses]}))

    assert tested(*[0.5] * 19, 0.05).value == pytest.approx(2 / 21)
    assert tested(*[0.5] * 19).verdict == "not enough data"


def test_random_paths_follow_weights_outside_the_circuit(exam, circuit):
    taken = {(edge.source, edge.target) for edge in circuit.edges}
    everything = {(e.source, e.target): e.weight for e in find_edges(exam.model, exam.space, exam.everything)}
    rng, kinds = Random(0), set()
    for _ in range(20):
        path = random_path(exam.model, exam.space, taken, rng)
        assert path is not None and len(path) == 2 and path[0].target == path[1].source
        assert all(everything[e.source, e.target] == e.weight and (e.source, e.target) not in taken for e in path)
        kinds.add(path[0].target.split(".")[2])
    assert kinds == {"attn", "mlp"}
    assert random_path(exam.model, exam.space, set(everything), rng) is None


def test_edge_shifts_by_brute_force(exam, circuit):
    edge = circuit.edges[5]

    def difference(edges: tuple) -> torch.Tensor:
        with Circuit(**{**{k: getattr(circuit, k) for k in Circuit.__dataclass_fields__}, "edges": edges}).attached(
            exam.model, "edge"
        ):
            answers = run_answers(exam.model, [exam.heldout])[0]
        return answers[..., 0] - answers[..., 1]

    less = tuple(e for e in circuit.edges if e != edge)
    expected = float((difference(circuit.edges) - difference(less)).abs().mean())
    assert edge_shifts(exam.model, circuit, [edge], exam.heldout) == [pytest.approx(expected, rel=1e-4)]


def test_minimality_is_corrected_for_the_number_of_edges(exam, circuit, monkeypatch):
    """Of 40 draws one is as large as the second edge's shift: p = 1/41 and 2/41, and 0.05 / 2 lies between."""
    drawn = iter([2.0] + [1.0] * 39)

    def shifts(model, inflated, edges, pairs) -> list[float]:
        return [3.0, 2.0] if len(edges) == 2 else [next(drawn)]

    monkeypatch.setattr(hypotheses, "edge_shifts", shifts)
    two = with_edges(circuit, circuit.edges[:2])
    found = minimality_test(replace(with_settings(exam, n_inflated=40), circuit=two))
    assert (found.value, found.n, next(drawn, None)) == (0.5, 2, None)
    assert found.detail["edges_not_needed"] == [f"{two.edges[1].source} -> {two.edges[1].target}"]


def test_minimality_test_asks_for_enough_draws(exam, circuit):
    assert circuit.n_edges > 2
    found = minimality_test(with_settings(exam, n_inflated=40))
    assert found.verdict == "not enough data" and str(20 * circuit.n_edges) in found.note
