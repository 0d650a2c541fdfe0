"""The rule language: every input once, labels by hand, balance of what is held out whatever is drawn, and checks that can fail."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsetrain.data.worlds.rules import (
    LENGTH,
    ORDERS,
    RULES,
    RulesConfig,
    change_rule,
    check_rules,
    draw_rules,
    training_rows,
)
from sparsetrain.typed import from_dict

CONFIG = RulesConfig(n_symbols=6, n_held=2)
WORLD = draw_rules(CONFIG, 0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(6, 11),
    st.integers(3, 6),
    st.lists(st.sampled_from(sorted(RULES)), min_size=2, max_size=5, unique=True),
    st.integers(1, 3),
)
def test_every_input_is_listed_once_and_held_out_evenly(seed, p, n_contexts, rules, n_held):
    config = RulesConfig(n_symbols=p, n_contexts=n_contexts, rules=tuple(rules), n_held=n_held)
    world = draw_rules(config, seed)
    inputs = world.inputs
    prompts = {tuple(row[:-1]) for row in inputs.tokens.tolist()}
    assert len(prompts) == len(inputs.tokens) == config.n_inputs == len(rules) * n_contexts * p * p
    assert inputs.tokens.shape == (config.n_inputs, LENGTH)
    assert set(inputs.tokens.ravel().tolist()) == set(range(config.d_vocab))
    numbers = world.number(inputs.rule, inputs.context, inputs.a, inputs.b)
    assert (numbers == np.arange(config.n_inputs)).all()
    train, held = world.train, world.heldout
    assert len(train.tokens) + len(held.tokens) == config.n_inputs
    for operand in ("a", "b"):
        found = Counter(zip(held.behaviour.tolist(), getattr(held, operand).tolist(), strict=True))
        assert set(found.values()) == {n_held} and len(found) == config.n_behaviours * p
    pairs = {(r, a, b) for r, a, b in zip(held.rule.tolist(), held.a.tolist(), held.b.tolist(), strict=True)}
    assert not pairs & set(zip(train.rule.tolist(), train.a.tolist(), train.b.tolist(), strict=True))  # in no context


def test_labels_by_hand() -> None:
    table = WORLD.answers[CONFIG.rules.index("lookup"), 0, :, 0]
    for name, a, b, y in [
        ("copy", 4, 1, 4), ("successor", 5, 2, 0), ("successor", 2, 2, 3), ("larger", 1, 4, 4), ("larger", 3, 0, 3), ("lookup", 2, 5, table[2]),
    ]:  # fmt: skip
        rule = CONFIG.rules.index(name)
        for context in range(3):
            row = WORLD.inputs.tokens[WORLD.number(rule, context, a, b)]
            parts = {"word": 6 + 1 + 3 + 4 * context + rule, "a": a, "b": b}
            assert row.tolist() == [7 + context, *(parts[part] for part in ORDERS[context]), 6, y]
    assert sorted(table) == list(range(6))
    assert RULES["predecessor"].table(6, np.random.default_rng(0))[0, 3] == 5
    assert RULES["smaller"].table(6, np.random.default_rng(0))[4, 1] == 1
    assert RULES["sum"].table(6, np.random.default_rng(0))[4, 3] == 1
    assert RULES["other"].table(6, np.random.default_rng(0))[4, 3] == 3


def test_the_table_is_nowhere_another_rule_of_one_symbol() -> None:
    for seed in range(20):
        table = RULES["lookup"].table(7, np.random.default_rng(seed))[:, 0]
        moved = (table - np.arange(7)) % 7
        assert not set(moved.tolist()) & {0, 1, 6} and len(set(moved.tolist())) > 1


def test_contexts_differ_in_surface_and_not_in_answers() -> None:
    inputs, config = WORLD.inputs, CONFIG
    one, other = (inputs.take(WORLD.number(inputs.rule, c, inputs.a, inputs.b)) for c in (0, 2))
    assert (one.tokens[:, -1] == other.tokens[:, -1]).all() and (one.held == other.held).all()
    marks_and_words = [set(part.tokens[:, :4].ravel().tolist()) - set(range(config.n_symbols)) for part in (one, other)]
    assert not marks_and_words[0] & marks_and_words[1]
    places = [(part.tokens[:, :4] < config.n_symbols).all(0).tolist() for part in (one, other)]
    assert places[0] != places[1]


def test_a_rule_changes_in_some_contexts_alone() -> None:
    changed = change_rule(WORLD, "successor", "predecessor", [0, 2])
    rule = CONFIG.rules.index("successor")
    a = np.arange(6)
    assert (changed.answers[rule, 0, :, 3] == (a - 1) % 6).all() and (
        changed.answers[rule, 1] == WORLD.answers[rule, 1]
    ).all()
    others = np.arange(len(CONFIG.rules)) != rule
    assert (changed.answers[others] == WORLD.answers[others]).all() and (changed.held == WORLD.held).all()
    assert (WORLD.answers[rule, 0, :, 3] == (a + 1) % 6).all()  # as it was
    with pytest.raises(ValueError, match="rule 'successor' does not have the same answers in all contexts"):
        check_rules(changed)
    for given_, message in [
        (("other", "copy", [0]), "rule='other' is none of this world; allowed: copy, successor"),
        (("copy", "cube", [0]), "to='cube' is no rule; allowed: copy, other"),
        (("copy", "copy", [0]), "answers as 'copy' does already"),
        (("copy", "other", [0, 1, 2]), "must be at least one and not all of 0 to 2"),
        (("copy", "other", [3]), "must be at least one and not all of 0 to 2"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            change_rule(WORLD, *given_)


def test_rows_of_training_go_round_the_inputs_that_are_not_held_out() -> None:
    n = len(WORLD.train.tokens)
    rows = training_rows(WORLD, 2 * n + 5, 0)
    counts = Counter(map(tuple, rows.tolist()))
    assert set(counts) == set(map(tuple, WORLD.train.tokens.tolist())) and Counter(counts.values()) == {2: n - 5, 3: 5}
    assert (rows == training_rows(WORLD, 2 * n + 5, 0)).all() and (rows != training_rows(WORLD, 2 * n + 5, 1)).any()


def test_a_world_is_a_function_of_config_and_seed() -> None:
    again, other = draw_rules(CONFIG, 0), draw_rules(CONFIG, 1)
    assert (again.answers == WORLD.answers).all() and (again.held == WORLD.held).all()
    assert (other.held != WORLD.held).any() and (other.answers != WORLD.answers).any()


def test_the_checks_can_fail() -> None:
    def refused(message: str, **change: np.ndarray) -> None:
        world = replace(WORLD, **change)
        with pytest.raises(ValueError, match=re.escape(message)):
            check_rules(world)

    twice = WORLD.answers.copy()
    twice[1] = twice[0]
    refused("rules 'copy' and 'successor' have the same answers", answers=twice)
    refused("an answer lies outside the symbols 0 to 5", answers=WORLD.answers + 1)
    held = WORLD.held.copy()
    held[2, 0, 0] ^= True
    refused("a first operand of rule 'larger' is not held out 2 times", held=held)
    uneven = WORLD.held.copy()
    uneven[:] = [True, True, False, False, False, False]
    refused("a second operand of rule 'copy' is not held out 2 times", held=uneven)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": ["copy", "cube"]}, "rules has unknown names ['cube']; allowed: copy, other, successor"),
        ({"rules": ["copy", "copy"]}, "must be at least two different ones of"),
        ({"n_symbols": 6, "n_held": 4}, "n_held=4 holds out more than half of the operands of n_symbols=6; give at most 3"),
        ({"n_symbols": 5}, "n_symbols=5 is too few"),
        ({"n_contexts": 2}, "n_contexts=2 must be 3 to 6"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_dict(RulesConfig, settings)
