"""Facts: marginals are balanced whatever is drawn, the checker notices when they are not, switches happen when they should."""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsetrain.data.worlds.facts import ASK, FactsConfig, check_balance, draw_facts, write_exposures
from sparsetrain.typed import from_dict

SMALL = FactsConfig(n_groups=2, levels=(0, 1, 2, 4, 8), unlearnable=(2, 8), n_new_subjects=3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([(0, 1, 2), (0, 2, 4), (0, 1, 3, 6)]))
def test_every_token_is_shown_equally_often(seed, n_groups, levels):
    config = FactsConfig(n_groups=n_groups, levels=levels, unlearnable=levels[-1:], n_new_subjects=2)
    facts = draw_facts(config, seed)
    per_subject = sum(role.n for role in config.roles)
    for place in (0, 1, 3):
        counts = Counter(facts.rows[:, place].tolist())
        assert len(set(counts.values())) == 1
    assert set(Counter(facts.rows[:, 0].tolist()).values()) == {per_subject}
    assert (facts.rows[:, 2] == ASK).all() and facts.rows.max() < config.d_vocab


def test_exposures_are_those_of_the_roles():
    facts = draw_facts(SMALL, 3)
    shown = Counter(map(tuple, facts.rows[:, :2].tolist()))
    for i, (subject, relation, _, _) in enumerate(facts.prompts.tolist()):
        assert shown[subject, relation] == facts.roles[facts.role[i]].n
    fixed = facts.of_kind("shown") | facts.of_kind("on") | facts.of_kind("off")
    for fact, row in zip(facts.order, facts.rows, strict=True):
        assert not fixed[fact] or row[3] == facts.prompts[fact, 3]


def test_switches_and_order():
    facts = draw_facts(SMALL, 0)
    first = facts.counts(facts.n_first_half)
    assert (first[facts.of_kind("on")] == 0).all() and (first[facts.of_kind("off")] == 4).all()
    assert (first[facts.of_kind("shown", 8)] == 4).all() and (facts.counts()[facts.of_kind("on")] == 4).all()


def test_objects_of_unlearnable_facts_are_drawn_anew():
    facts = draw_facts(SMALL, 1)
    unlearnable = np.flatnonzero(facts.of_kind("unlearnable", 8))
    n_objects = [len(set(facts.rows[facts.order == fact, 3].tolist())) for fact in unlearnable]
    assert np.mean(n_objects) > 5  # of 8 exposures, 18 objects
    for fact in unlearnable:
        assert facts.prompts[fact, 3] == facts.rows[facts.order == fact, 3][-1]


def test_exposure_belongs_to_the_binding():
    """Neither subject nor relation tells how often a fact is shown."""
    facts = draw_facts(SMALL, 5)
    known = ~facts.of_kind("new")
    for place in (0, 1):
        for token in np.unique(facts.prompts[known, place]):
            roles = facts.role[known & (facts.prompts[:, place] == token)]
            assert len(set(np.bincount(roles, minlength=len(SMALL.roles)))) == 1


def test_the_checker_notices():
    facts = draw_facts(SMALL, 0)
    check_balance(facts)
    assert set(Counter(facts.rows[:, 0].tolist()).values()) == {sum(role.n for role in SMALL.roles)}
    rows = facts.rows.copy()
    rows[0, 3] = 1 + SMALL.n_subjects + (rows[0, 3] - SMALL.n_subjects) % SMALL.n_subjects
    with pytest.raises(ValueError, match="objects are not balanced: token"):
        check_balance(replace(facts, rows=rows))
    with pytest.raises(ValueError, match="is shown"):
        check_balance(replace(facts, order=np.roll(facts.order, 1) * 0 + facts.order[0]))


def test_the_log_has_every_exposure(tmp_path):
    facts = draw_facts(SMALL, 0)
    write_exposures(facts, 16, tmp_path / "exposures.csv")
    with (tmp_path / "exposures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(facts.rows) and rows[16]["step"] == "1"
    assert Counter(int(row["fact"]) for row in rows) == Counter(facts.order.tolist())


def test_a_function_of_the_seed():
    assert (draw_facts(SMALL, 7).rows == draw_facts(SMALL, 7).rows).all()
    assert not (draw_facts(SMALL, 7).rows == draw_facts(SMALL, 8).rows).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": (1, 2, 4)}, r"levels=\[1, 2, 4\] must rise from 0 to an even number"),
        ({"levels": (0, 1, 3), "unlearnable": (3,)}, "even number"),
        ({"unlearnable": (5, 256)}, r"unlearnable=\[5, 256\] must be among the levels"),
        ({"n_groups": 0}, "n_groups=0: input should be greater than or equal to 1"),
    ],
)
def test_bad_configs(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(FactsConfig, settings)
