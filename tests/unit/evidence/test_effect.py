"""What is lost with parts of a circuit, against hand-computed values and brute force."""

from math import sqrt

import pytest
import torch
from random_exam import as_if, plain_answers, with_settings

from circuits.evidence import random_circuits
from circuits.evidence.effect import (
    circuit_necessity,
    completeness,
    faithfulness,
    minimality,
    node_effects,
    subsets,
)
from circuits.evidence.measurement import share
from circuits.evidence.random_circuits import needed_more
from circuits.intervals import interval
from circuits.tasks.loss import logit_diff


def test_wilson_interval_by_hand():
    found, z = share(9, 10), 1.959964
    middle, half = (0.9 + z**2 / 20) / (1 + z**2 / 10), z * sqrt(0.09 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert (found.value, found.n) == (0.9, 10)
    assert (found.lo, found.hi) == (pytest.approx(middle - half), pytest.approx(middle + half))
    assert share(0, 0).value is None


def test_bootstrap_of_a_ratio_covers_it_and_drops_infinite_resamples():
    rows = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 2.0])

    def ratio(values: torch.Tensor) -> torch.Tensor:
        a, b = values.mean(-2).unbind(-1)
        return a / b

    low, high = interval(rows, 0, 500, ratio)
    assert low is not None and high is not None
    assert low < float(ratio(rows)) < high and high - low < 0.1
    assert interval(torch.zeros(4, 2), 0, 50, ratio) == (None, None)


def test_faithfulness_and_necessity_by_their_formulas(exam):
    everything = torch.ones_like(exam.keep)
    full, empty, own, without = (
        float(logit_diff(plain_answers(exam, keep))) for keep in (everything, ~everything, exam.keep, ~exam.keep)
    )
    assert exam.effect == pytest.approx(full - empty, abs=1e-5)
    found = faithfulness(exam)
    assert found.value == pytest.approx(abs(full - own) / abs(full - empty), rel=1e-3)
    random = torch.stack([everything, ~everything])  # without everything all is lost, without nothing nothing
    among = needed_more(as_if(exam, {random_circuits.drawn: random}))
    value = circuit_necessity(exam)
    assert value.value == pytest.approx((full - without) / (full - empty), rel=1e-3, abs=1e-4)
    assert among.detail["random"] == pytest.approx([1.0, 0.0], abs=1e-4)
    assert among.value == pytest.approx(value.value - 0.5, abs=1e-3)


def test_subsets_are_single_nodes_and_halves_of_the_circuit():
    keep = torch.tensor([True, False, True, True, False, True])
    parts = subsets(keep, 200, seed=0, max_single=10)
    assert parts.shape == (204, 6) and not bool((parts & ~keep).any())
    assert parts[:4].nonzero()[:, 1].tolist() == [0, 2, 3, 5]
    assert parts[4:].float().mean(0)[keep].tolist() == pytest.approx([0.5] * 4, abs=0.12)
    assert len(subsets(keep, 0, seed=0, max_single=2)) == 2


def test_completeness_and_minimality_by_brute_force(exam):
    exam = with_settings(exam, n_subsets=3, n_singles=4)
    parts = subsets(exam.keep, 3, seed=0, max_single=4)
    gaps = [
        abs(float(logit_diff(plain_answers(exam, exam.keep & ~k)) - logit_diff(plain_answers(exam, ~k)))) for k in parts
    ]
    found = completeness(exam)
    assert found.value == pytest.approx(max(gaps) / abs(exam.effect), rel=1e-3)
    effects = node_effects(exam)
    own = plain_answers(exam, exam.keep)
    alone = float(logit_diff(own) - logit_diff(plain_answers(exam, ~exam.everything)))  # not what the model does
    for i in (0, len(effects) - 1):
        less = exam.keep.clone()
        less[exam.keep.nonzero().flatten()[i]] = False
        moved = (plain_answers(exam, less) - own)[..., 0] - (plain_answers(exam, less) - own)[..., 1]
        assert float(effects[i]) == pytest.approx(float(moved.abs().mean()) / abs(alone), rel=1e-3, abs=1e-5)
    least = float(effects.median())
    idle = [
        number for number, x in zip(exam.keep.nonzero().flatten().tolist(), effects.tolist(), strict=True) if x < least
    ]
    found = minimality(with_settings(exam, min_node_effect=least))
    assert 0 < len(idle) < len(effects)
    assert found.value == pytest.approx(1 - len(idle) / len(effects))
    assert found.detail["idle_nodes"] == [exam.space.id(number) for number in idle]
