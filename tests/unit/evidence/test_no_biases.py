"""A model without biases: the whole card with scores of edges, every export format, every baseline's scores."""

from dataclasses import replace

import pytest
import torch

from circuits.answers import pair_answers
from circuits.circuit import Circuit
from circuits.compact import compile_circuit
from circuits.edges import count_biases
from circuits.evidence.card import CRITERIA, report_card
from circuits.evidence.examination import Examination
from circuits.explain.graph import drawing
from circuits.exports.formats import FORMATS, Sample
from circuits.search.comparison import METHODS
from circuits.search.rankings import edge_effects
from sparsetrain.model import Transformer
from tests.fixtures.random_exam import random_pairs, with_settings


@pytest.fixture
def model(make_model) -> Transformer:
    return make_model(d_model=16, d_head=4, biases=False).eval().requires_grad_(False)


def test_the_card_has_all_its_criteria(exam: Examination):
    few = with_settings(exam, n_random=4, n_random_necessity=2, n_subsets=2, n_singles=2, n_partial=2, n_scrub=1)
    windows = torch.randint(61, (4, 8), generator=torch.Generator().manual_seed(0))
    scores = edge_effects(exam.ablated, exam.fit, 2)
    given = replace(exam.inputs, windows=windows, shifted=random_pairs(4, seed=3), edge_scores=scores)
    entries = report_card(exam.model, exam.circuit, given, few.config)
    assert [entry.name for entry in entries] == [criterion.name for criterion in CRITERIA]
    assert next(entry for entry in entries if entry.name == "CPR").value.value is not None


def test_every_baseline_scores_its_nodes(exam: Examination):
    for method, scores in METHODS.items():
        found = scores(exam.ablated, exam.fit)
        assert found.shape == exam.keep.shape and bool(found.isfinite().all()) and float(found.max()) > 0, method


def test_every_export_is_written(model, circuit: Circuit):
    sample = Sample(pairs=random_pairs(4, seed=3), pair=0, side=0, token=str)
    for name, form in FORMATS.items():
        assert form.write(model, circuit, sample), name
    assert drawing(model, circuit, torch.zeros(circuit.space.n_nodes), str).edges
    assert count_biases(model, circuit.space, circuit.keep) == 0


def test_the_compact_form_is_the_masked_model(model, circuit: Circuit):
    pairs = random_pairs(4, seed=3)
    with circuit.attached(model):
        masked = pair_answers(model, pairs)
    assert torch.allclose(compile_circuit(model, circuit.keep, circuit.means).answers(pairs, 4), masked, atol=1e-5)
