"""Sparsity at the token that predicts the answer: by arithmetic on the model written by hand, and kept as other readings are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from prior_example import COPY, RECALL, N, conflict_cases, two_path_model

from circuits.prior import sparsity as room
from circuits.prior.asking import Subject
from circuits.prior.cases import AGREEING, NOTHING, STATED
from circuits.prior.prompts import REFERENCES
from circuits.prior.sparsity import sparsity
from sparsetrain.representation.measures import MEASURES, Measure

WIDTH = 6 * N


@pytest.fixture(scope="module")
def subject():
    return Subject(module=two_path_model(), weights_sha256="0" * 64)


@pytest.fixture(scope="module")
def cases():
    return conflict_cases(tuple(REFERENCES.values()))


def gini(*values: float) -> float:
    """Of a vector with these entries and zeros else: sum of (2k - n - 1) x_k over n times the sum, x in rising order."""
    x = np.sort([0.0] * (WIDTH - len(values)) + list(values))
    return float(((2 * np.arange(1, WIDTH + 1) - WIDTH - 1) * x).sum() / (WIDTH * x.sum()))


def test_a_conflict_spreads_what_an_agreeing_context_adds_up(subject, cases):
    """The last token's vector: itself, the constant, what is recalled, and half of what is copied."""
    conflict, agreeing = (sparsity(subject, cases, form) for form in (STATED, AGREEING))
    assert conflict == pytest.approx(gini(1, 1, RECALL, COPY / 2), abs=1e-5)
    assert agreeing == pytest.approx(gini(1, 1, RECALL + COPY / 2), abs=1e-5)
    assert (agreeing > conflict).all() and sparsity(subject, cases, NOTHING) == pytest.approx(gini(1, 1, RECALL), abs=1e-5)  # fmt: skip
    assert gini(1, 1, 2, 3) == pytest.approx((29 + 31 + 2 * 33 + 3 * 35) / (36 * 7))


def test_rows_of_any_length_and_answers_of_any_length_give_the_vector_of_the_prompt(subject, cases):
    longer = [replace(case, context=(*case.context, 16)) for case in cases]
    mixed = sparsity(replace(subject, batch_size=4), longer, STATED)
    assert mixed == pytest.approx(sparsity(subject, cases, STATED), abs=1e-6)


def test_a_measure_of_which_lower_is_sparser_is_turned_round(subject, cases, monkeypatch):
    turned = MEASURES[room.HEADLINE]
    fields = {**vars(turned), "direction": "lower", "fn": lambda h: -turned.fn(h)}
    monkeypatch.setitem(room.MEASURES, room.HEADLINE, Measure(**fields))
    assert sparsity(subject, cases, STATED) == pytest.approx(gini(1, 1, RECALL, COPY / 2), abs=1e-5)


def test_what_was_read_is_kept_by_content(subject, cases, tmp_path, monkeypatch):
    told = list[int]()
    first = sparsity(subject, cases, STATED, tmp_path, told.append)
    assert sum(told) == len(cases)
    monkeypatch.setattr(Subject, "seen", lambda *arguments: pytest.fail("it is there already"))
    assert np.array_equal(sparsity(subject, cases, STATED, tmp_path), first)
    with pytest.raises(pytest.fail.Exception):
        sparsity(subject, cases, AGREEING, tmp_path)


def test_cases_without_the_prompt_have_no_value(subject, cases, tmp_path):
    bare = {form: tokens for form, tokens in cases[0].prompts.items() if form != STATED}
    some, told = [replace(cases[0], prompts=bare), *cases[1:]], list[int]()
    found = sparsity(subject, some, STATED, tmp_path, told.append)
    assert np.isnan(found[0]) and found[1:] == pytest.approx(gini(1, 1, RECALL, COPY / 2), abs=1e-5)
    assert sum(told) == len(cases) and np.isnan(sparsity(subject, some[:1], STATED)).all()


def test_a_model_without_the_hook_point_is_refused(cases):
    bare = Subject(module=torch.nn.Embedding(17, 17), weights_sha256="0" * 64)
    with pytest.raises(KeyError, match=r"no hook point named 'final_norm\.hook_norm'"):
        sparsity(bare, cases, STATED)
