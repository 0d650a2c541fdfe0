"""Searches in models and tasks that know nothing: the nulls."""

import copy
from types import SimpleNamespace

import pytest
import torch
from twins import same_nodes

from circuits.answers import run_answers
from circuits.calibrate import calibrated_loss
from circuits.edges import find_edges
from circuits.evidence import gather
from circuits.evidence.examination import Searched
from circuits.evidence.searches import permuted_model, size_ratio
from circuits.means import measure_means
from circuits.tasks.loss import task_loss
from sparsetrain.stats.number import number


def test_permuted_model_keeps_patterns_values_and_vectors(model):
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight[:, ::2] = 0
    before = copy.deepcopy(model.state_dict())
    null = permuted_model(model, seed=3)
    for name, value in null.state_dict().items():
        assert torch.equal(value != 0, before[name] != 0), name
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
        assert torch.equal(value, before[name]) == (value.ndim < 2), name
        assert torch.equal(model.state_dict()[name], before[name]), name
    again, other = (permuted_model(model, seed).embed.weight for seed in (3, 4))
    assert torch.equal(again, null.embed.weight) and not torch.equal(other, null.embed.weight)


def test_nulls_are_searched_in_permuted_weights_and_with_permuted_labels(model, exam, monkeypatch):
    asked = []

    def search(files, name, seeds, null, means, pairs, progress, candidates):
        assert candidates == 50 / exam.space.n_nodes, "as many nodes to choose from as the task had"
        asked.append((null is model, means is own_means, pairs, seeds))
        pruned = SimpleNamespace(reached=pairs == "labels", keep=exam.keep, n_candidates=50)
        return SimpleNamespace(model=null, space=exam.space), pruned

    monkeypatch.setattr(gather, "_search", search)
    monkeypatch.setattr(gather, "Pairs", SimpleNamespace(build=lambda name, tokenizer, find, twin: twin))
    own_means, windows = (
        measure_means(model, torch.ones(2, 8, dtype=torch.int64), source="", weights_sha256=""),
        torch.ones(2, 8),
    )
    files = SimpleNamespace(
        model=model,
        means=own_means,
        windows=windows.long(),
        tokenizer=None,
        find=SimpleNamespace(seeds=(0, 1)),
        task=lambda name: name,
        pairs=lambda name: name,
    )
    task = SimpleNamespace(task="task", seeds=SimpleNamespace(n_candidates=number(50, "nodes")))
    found = gather.null_searches(files, task, 2)  # pyright: ignore[reportArgumentType]
    weights, labels = (False, False, "task"), (True, True, "labels")
    assert asked == 2 * [(*weights, (0, 1)), (*labels, (0, 1))], "with all the seeds of the task"
    assert found == 2 * searched(None, exam.circuit.n_edges)


def searched(*sizes: int | None, budget: float = 1.0) -> list[Searched]:
    return [Searched(size=size, budget=budget) for size in sizes]


def test_size_ratio_by_hand():
    assert size_ratio(10, searched(None, 35, 30)).value == 3.0
    assert size_ratio(10, searched(None, None)).verdict == "pass"
    assert size_ratio(10, []).verdict == "not enough data"
    assert size_ratio(0, searched(3)).value is None


def test_a_twin_that_was_not_reached_counts_only_with_the_budget_of_the_task(exam):
    cheap = size_ratio(10, searched(None, budget=0.5))
    assert cheap.verdict == "not enough data" and "50% of the budget" in cheap.note
    assert size_ratio(10, searched(30, budget=0.5)).value == 3.0, "what was found cheaply is there"
    found, own = number(40, "edges"), number(200, "nodes")
    twin = SimpleNamespace(reached=False, n_edges=number(None, "edges"), n_nodes=own, n_searches=4, n_candidates=own)
    task = SimpleNamespace(nonsense_twin=twin, seeds=SimpleNamespace(n_searches=4, n_candidates=own))
    assert gather.twin_searches(task) == [Searched(size=None, budget=1.0)]  # pyright: ignore[reportArgumentType]
    twin.n_candidates, twin.reached, twin.n_edges = number(100, "nodes"), True, found
    assert gather.twin_searches(task) == [Searched(size=40, budget=0.5)]  # pyright: ignore[reportArgumentType]
    task.nonsense_twin = None
    assert gather.twin_searches(task) == []  # pyright: ignore[reportArgumentType]


def test_same_nodes_in_another_model_are_calibrated_there(model, circuit, exam):
    null = permuted_model(model, seed=0)
    found = same_nodes(null, circuit, exam.keep, exam.circuit.means, exam.fit)
    assert found.nodes == circuit.nodes
    assert found.edges == tuple(find_edges(null, exam.space, exam.keep))
    with found.attached(null):
        answers = run_answers(null, [exam.fit])
    best, _ = calibrated_loss(answers)
    assert float(task_loss(found.calibration.apply(answers[0].double()))) == pytest.approx(float(best[0]), abs=1e-6)
