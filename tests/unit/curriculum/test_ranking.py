"""Ranks and levels by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsetrain.curriculum.ranking import level_in, levels_of, rank_in, ranks

SCORES = [0.5, 0.1, 0.9, 0.3, 0.7]


def test_ranks_count_from_the_lowest():
    assert ranks(SCORES).tolist() == [2, 0, 4, 1, 3]
    assert ranks([1, 0, 1, 0]).tolist() == [2, 0, 3, 1]  # equal ones in their order


def test_levels_are_of_equal_size():
    assert levels_of(SCORES, 5).tolist() == [2, 0, 4, 1, 3]
    assert levels_of(SCORES, 2).tolist() == [0, 0, 1, 0, 1]
    assert levels_of(np.zeros(6), 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert np.bincount(levels_of(np.random.default_rng(0).random(103), 5)).tolist() == [21, 21, 20, 21, 20]


@pytest.mark.parametrize("n_levels", [2, 3, 5])
def test_scores_out_of_range_go_to_their_own_end(n_levels):
    assert level_in(-1e9, SCORES, n_levels) == 0
    assert level_in(1e9, SCORES, n_levels) == n_levels - 1
    assert level_in(0.9, SCORES, n_levels) == n_levels - 1


def test_no_scale_matters():
    scores = np.array(SCORES)
    for other in (1e6 * scores - 3, np.exp(40 * scores)):
        assert (levels_of(other, 3) == levels_of(scores, 3)).all()
    assert level_in(0.6, SCORES, 5) == level_in(np.exp(24), np.exp(40 * scores), 5) == 3


def test_a_rank_among_others_lies_between_them():
    assert [rank_in(x, SCORES) for x in (0, 0.2, 1)] == [0, 1, 5]
    assert rank_in(0.5, SCORES) == 2.5  # one of them itself: two are lower, two higher
    assert rank_in(1, [1, 1, 1]) == 1.5


@given(st.lists(st.integers(-20, 20), min_size=5, max_size=40, unique=True), st.integers(2, 5))
def test_an_example_of_the_pool_is_in_its_own_level(scores, n_levels):
    assert [level_in(score, scores, n_levels) for score in scores] == levels_of(scores, n_levels).tolist()


def test_what_has_no_rank_is_refused():
    with pytest.raises(ValueError, match="1 of 3 scores are not finite; leave those examples out"):
        ranks([0, np.nan, 1])
    with pytest.raises(ValueError, match="n_levels=5, but the pool has 4 examples; lower it or give a larger pool"):
        levels_of([1, 2, 3, 4], 5)
