"""Conflicts of a made world: two answers that only memory and the document can tell apart, and prompts that say what they should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.context_prior.world_cases import conflict_cases, moved_on, neutral_questions, recalled_from
from circuits.prior.cases import AGREEING, IRRELEVANT, NOTHING, STATED, Form
from circuits.prior.prompts import DISTRUST, PROMPT_ARMS
from circuits.prior.study import forms_for
from sparsetrain.data.worlds.conflicts import PLAIN, ConflictWorldConfig, draw_world

SMALL = ConflictWorldConfig(n_groups=3, levels=(0, 2, 64), n_given=3, n_given_exposures=20)
FORMS = forms_for(PROMPT_ARMS)


@pytest.fixture(scope="module")
def world():
    return draw_world(SMALL, 1)


@pytest.fixture(scope="module")
def cases(world):
    return conflict_cases(world, FORMS, 5)


def test_every_clean_fact_is_a_case(world, cases):
    assert len(cases) == sum(len(world.clean(n)) for n in SMALL.levels)
    assert {case.strength for case in cases} == {0, 2, 64} and len({case.fact for case in cases}) == len(cases)
    for case in cases:
        fact = int(case.fact)
        assert case.prior == (world.facts.prompts[fact, 3],) != case.context
        assert world.facts.n[fact] == case.strength and world.facts.subject[fact] >= SMALL.n_contradicted


def test_how_often_an_object_is_an_answer_tells_nothing(cases):
    for n in SMALL.levels:
        of_level = [case for case in cases if case.strength == n]
        assert sorted(case.prior for case in of_level) == sorted(case.context for case in of_level)


def test_prompts_by_hand(world, cases):
    for case in cases[::5]:
        _, relation, subject = case.prompts[NOTHING]
        prior, context = case.prior[0], case.context[0]
        assert case.prompts[NOTHING][0] == PLAIN and world.facts.prompts[int(case.fact), 1] == relation
        statement, question = (relation, subject, context), (relation, subject)
        assert case.prompts[STATED] == (PLAIN, *statement, *question)
        assert case.prompts[Form(n=4)] == (PLAIN, *statement * 4, *question)
        assert case.prompts[AGREEING] == (PLAIN, relation, subject, prior, *question)
        other = case.prompts[IRRELEVANT]
        assert other[2] != subject and other[4:] == question and other[3] not in (prior, context)
        assert case.prompts[Form(trust=2)] == (SMALL.trust[2], *statement, *question)
        assert case.prompts[DISTRUST] == (SMALL.distrust, *statement, *question)
        reworded = case.prompts[Form(wording=3)]
        assert reworded == (PLAIN, relation + 3 * SMALL.n_relations, subject, context, *question)
        far = case.prompts[Form(behind=8)]
        assert far[:4] == (PLAIN, *statement) and len(far) == SMALL.n_tokens - 1
        subjects, objects = far[5:-2:3], far[6:-2:3]
        assert len(set(subjects)) == 8 and subject not in subjects and not {prior, context} & set(objects)


def test_every_form_fits_a_document_and_every_statement_besides_is_unknown_to_memory(world, cases):
    given_pairs = {tuple(p[:2]) for p in world.facts.prompts[world.facts.of_kind("unlearnable")]}
    for case in cases:
        assert set(case.prompts) == set(FORMS) | {NOTHING, STATED}
        assert max(map(len, case.prompts.values())) < SMALL.n_tokens
        near = case.prompts[Form(before=8)]
        assert {(s, r) for r, s in zip(near[1:-5:3], near[2:-5:3], strict=True)} <= given_pairs


def test_neutral_questions_ask_for_what_memory_knows_and_nothing_contradicts(world):
    texts = neutral_questions(world, FORMS, 5)
    assert texts and recalled_from(SMALL) == 64
    for text in texts:
        fact = int(text.place.split()[1])
        assert world.facts.n[fact] == 64 and world.facts.subject[fact] < SMALL.n_contradicted
        prompt = text.prompts[STATED]
        assert prompt[-2:] == (world.facts.prompts[fact, 1], world.facts.prompts[fact, 0]) and text.text == (
            world.facts.prompts[fact, 3],
        )
        assert prompt[2] != prompt[-1]


def test_a_function_of_the_seed(world, cases):
    again = conflict_cases(world, FORMS, 5)
    assert [case.prompts for case in again] == [case.prompts for case in cases]
    assert [case.context for case in conflict_cases(world, FORMS, 6)] != [case.context for case in cases]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 99))
def test_nobody_keeps_their_own(n, seed):
    objects = np.arange(n)
    moved = moved_on(objects, np.random.default_rng(seed))
    assert sorted(moved) == list(objects) and (moved != objects).all()
