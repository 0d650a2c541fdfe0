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
from circuits.evidence.searches import permuted_model, size_ratio
from circuits.means import measure_means
from circuits.tasks.loss import task_loss


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

    def search(files, name, seed, null, means, pairs, progress):
        asked.append((null is model, means is own_means, pairs, seed))
        pruned = SimpleNamespace(reached=pairs == "labels", keep=exam.keep)
        return SimpleNamespace(model=null, space=exam.space), pruned

    monkeypatch.setattr(gather, "_search", search)
    monkeypatch.setattr(gather, "Pairs", SimpleNamespace(build=lambda name, tokenizer, find, twin: twin))
    own_means, windows = (
        measure_means(model, torch.ones(2, 8, dtype=torch.int64), source="", weights_sha256=""),
        torch.ones(2, 8),
    )
    files = SimpleNamespace(
        model=model, means=own_means, windows=windows.long(), tokenizer=None, find=None, pairs=lambda name: name
    )
    found = gather.null_sizes(files, "task", 2)  # pyright: ignore[reportArgumentType]
    weights, labels = (False, False, "task"), (True, True, "labels")
    assert asked == [(*weights, 0), (*labels, 0), (*weights, 1), (*labels, 1)]
    assert found == [None, exam.circuit.n_edges, None, exam.circuit.n_edges]


def test_size_ratio_by_hand():
    assert size_ratio(10, [None, 35, 30]).value == 3.0
    assert size_ratio(10, [None, None]).verdict == "pass"
    assert size_ratio(10, []).verdict == "not enough data"
    assert size_ratio(0, [3]).value is None


def test_same_nodes_in_another_model_are_calibrated_there(model, circuit, exam):
    null = permuted_model(model, seed=0)
    found = same_nodes(null, circuit, exam.keep, exam.circuit.means, exam.fit)
    assert found.nodes == circuit.nodes
    assert found.edges == tuple(find_edges(null, exam.space, exam.keep))
    with found.attached(null):
        answers = run_answers(null, [exam.fit])
    best, _ = calibrated_loss(answers)
    assert float(task_loss(found.calibration.apply(answers[0].double()))) == pytest.approx(float(best[0]), abs=1e-6)
