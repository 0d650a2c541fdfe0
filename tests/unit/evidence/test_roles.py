"""What nodes do in the model and in the circuit."""

from dataclasses import replace
from math import exp, log2, sqrt

import pytest
import torch
from random_exam import with_nodes
from scipy.stats import pearsonr

from circuits.evidence.roles import (
    attention_shift,
    correlations,
    heads_used,
    js_distance,
    node_roles,
)
from circuits.masks import ablation_hooks
from circuits.tasks.pairs import PairSet


def test_correlations_match_scipy_and_constants_are_compared():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 5, generator=generator), torch.randn(50, 5, generator=generator)
    a[:, 2] = b[:, 2] = 3.0  # equal constants
    a[:, 3], b[:, 3] = 1.0, 2.0  # different constants
    b[:, 4] = 2.0  # one constant
    found = correlations(a, b)
    for i in (0, 1):
        assert float(found[i]) == pytest.approx(float(pearsonr(a[:, i], b[:, i]).statistic), abs=1e-6)
    assert found[2:].tolist() == [1.0, 0.0, 0.0]


def test_jensen_shannon_by_hand():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    by_hand = 0.5 * log2(1 / 0.75) + 0.5 * (0.5 * log2(0.5 / 0.75) + 0.5 * log2(0.5 / 0.25))
    assert float(js_distance(p, q)) == pytest.approx(sqrt(by_hand))
    assert float(js_distance(p, p)) == 0.0
    assert float(js_distance(p, 1 - p)) == pytest.approx(1.0)


def test_whole_model_keeps_every_role(exam):
    whole = with_nodes(exam, exam.everything)
    assert node_roles(whole).value == pytest.approx(1.0)
    assert attention_shift(whole).value == pytest.approx(0.0, abs=1e-6)
    assert heads_used(whole) == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}


def test_attention_shift_by_brute_force(exam):
    """One head, written out query by query with its sink."""
    hooks = ablation_hooks(exam.space, exam.keep, exam.circuit.means)
    layer, head, d_head = 1, 2, 4
    sink = float(exam.model.blocks[layer].attn.sink[head])
    names = [f"blocks.{layer}.attn.hook_{x}" for x in "qk"]
    runs = [exam.recorded(exam.heldout, names, more)[0] for more in ({}, hooks)]

    def weights(seen: dict, row: int, query: int) -> list[float]:
        q, k = (seen[name][row, :, head * d_head : (head + 1) * d_head] for name in names)
        raw = [exp(float(q[query] @ k[key]) / sqrt(d_head)) for key in range(query + 1)] + [exp(sink)]
        return [x / sum(raw) for x in raw]

    rows = []
    for row, last in enumerate(exam.heldout.last.flatten().tolist()):
        found = []
        for query in range(last + 1):
            p, q = (torch.tensor(weights(seen, row, query), dtype=torch.float64) for seen in runs)
            middle = (p + q) / 2
            found.append(sqrt(max(0.0, float(sum((x * (x / middle).log2()).sum() for x in (p, q))) / 2)))
        rows.append(sum(found) / len(found))
    heads = attention_shift(exam).detail["heads"]
    assert heads[f"layer {layer}, head {head}"] == pytest.approx(sum(rows) / len(rows), rel=1e-3)


def test_roles_ignore_padding(exam):
    padded = exam.heldout.tokens.clone()
    for row, last in enumerate(exam.heldout.last.flatten().tolist()):
        padded.flatten(0, 1)[row, last + 1 :] = 60
    other = PairSet(**{**{k: getattr(exam.heldout, k) for k in PairSet.__dataclass_fields__}, "tokens": padded})
    changed = replace(exam, inputs=replace(exam.inputs, heldout=other))
    for measure in (node_roles, attention_shift):
        assert measure(exam).value == pytest.approx(measure(changed).value, abs=1e-6)
    assert 0 < attention_shift(exam).value < 1
    assert node_roles(exam).value < 0.999
