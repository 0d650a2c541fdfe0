"""Every rule on a pool of ten whose n-th example is the n-th in sparsity: lists found by hand."""

from dataclasses import replace

import numpy as np
import pytest

from sparsetrain.curriculum.arms import (
    ARMS,
    DEALT,
    DRAWN,
    RANDOM_ORDER,
    Asked,
    ChoiceConfig,
    Pool,
    arms_of,
    branch_of,
    chosen,
    retrieved,
)

SIMILAR = (3, 7, 0, 9, 4, 1, 8, 2, 6, 5)
"""The most similar first."""
POOL = Pool(
    sparsity=np.arange(10) / 10 + 0.1,
    loss=np.array([5, 1, 1, 2, 9, 9, 9, 4, 9, 3.0]),
    length=np.array([4, 1, 1, 7, 9, 9, 9, 7, 9, 2.0]),
    difficulty=np.array([2, 0, 0, 1, 0, 0, 0, 4, 0, 3.0]),
)
CHOICE = ChoiceConfig(n_shown=2, n_retrieved=10)


def asked_at(sparsity: float, similar=SIMILAR, left_out=()) -> Asked:
    similarity = np.zeros(10)
    similarity[list(similar)] = np.linspace(1, 0, 10)
    return Asked(sparsity=sparsity, similarity=similarity, allowed=~np.isin(np.arange(10), left_out))


def one(name: str, sparsity: float = 0.5, choice: ChoiceConfig = CHOICE, **more) -> tuple[int, ...]:
    (found,) = chosen(POOL, asked_at(sparsity, **more), choice, name, 0)
    return found


def test_the_most_similar_are_retrieved_but_not_the_question_itself():
    assert retrieved(asked_at(0), 4) == [3, 7, 0, 9]
    assert retrieved(asked_at(0, left_out=(7, 9)), 4) == [3, 0, 4, 1]
    alike = Asked(sparsity=0, similarity=np.ones(10), allowed=np.arange(10) > 2)
    assert retrieved(alike, 3) == [3, 4, 5]


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("zero_shot", ()),
        ("similarity", (9, 0, 7, 3)),
        ("length", (9, 0, 3, 7)),
        ("loss", (3, 9, 7, 0)),
        ("easy_to_hard", (3, 0, 9, 7)),
        ("hard_to_easy", (7, 9, 0, 3)),
        ("sparsity", (0, 3, 7, 9)),
    ],
)
def test_orders_of_the_four_most_similar(name, want):
    assert one(name, choice=ChoiceConfig(n_shown=4, n_retrieved=10)) == want


@pytest.mark.parametrize(("n", "want"), [(1, (3,)), (2, (3, 7)), (3, (0, 3, 7)), (4, (0, 3, 7, 9))])
def test_as_many_are_shown_as_are_asked_for(n, want):
    choice = ChoiceConfig(n_shown=n, n_retrieved=10)
    assert one("sparsity", choice=choice) == want
    for name, arm in ARMS.items():
        for order in chosen(POOL, asked_at(0.5), choice, name, 0):
            assert len(set(order)) == len(order) == (0 if name == "zero_shot" else n), name
            assert arm.control not in ("", RANDOM_ORDER) or name in (DRAWN, DEALT) or set(order) <= {3, 7, 0, 9}


def test_branches_of_every_number_of_levels():
    assert [branch_of(level, 5) for level in range(5)] == ["easy", "easy", "medium", "hard", "hard"]
    assert [branch_of(level, 3) for level in range(3)] == ["easy", "medium", "hard"]
    assert [branch_of(level, 2) for level in range(2)] == ["easy", "hard"]
    assert [branch_of(level, 4) for level in range(4)] == ["easy", "medium", "medium", "hard"]


@pytest.mark.parametrize(
    ("n_levels", "sparsity", "want"),
    [
        (5, 0.15, (0, 3)),  # level 0: easy, the most similar of its own level {0, 1}, then of level 1 {2, 3}
        (5, 0.35, (3, 4)),  # level 1: easy
        (5, 0.55, (4, 5)),  # level 2: medium, both of {4, 5}
        (5, 0.75, (4, 7)),  # level 3: hard, of level 2 {4, 5}, then of its own {6, 7}
        (5, 0.95, (7, 9)),  # level 4: hard
        (5, -1.0, (0, 3)),  # below the pool: level 0
        (5, 99.0, (7, 9)),  # above the pool: level 4
        (2, 0.15, (3, 7)),  # own {0 .. 4}, harder {5 .. 9}
        (2, 0.75, (3, 7)),  # easier {0 .. 4}, own {5 .. 9}
        (2, 99.0, (3, 7)),
        (3, 0.15, (3, 4)),  # own {0 .. 3}, harder {4, 5, 6}
        (3, 0.45, (4, 6)),  # own {4, 5, 6}
        (3, 0.85, (4, 7)),  # easier {4, 5, 6}, own {7, 8, 9}
        (3, -1.0, (3, 4)),
    ],
)
def test_published_with_two_demonstrations(n_levels, sparsity, want):
    assert one("published", sparsity, replace(CHOICE, n_levels=n_levels)) == want


@pytest.mark.parametrize(
    ("n", "sparsity", "want"),
    [
        (1, 0.15, (0,)),
        (1, 0.95, (9,)),
        (1, 0.55, (4,)),
        (3, 0.15, (0, 1, 3)),
        (3, 0.95, (7, 9, 8)),
        (3, 0.55, (4, 5, 3)),  # its own level has two; of both neighbours the most similar
        (4, 0.15, (0, 1, 3, 2)),
        (4, 0.95, (7, 6, 9, 8)),
        (4, 0.55, (4, 5, 3, 7)),
    ],
)
def test_published_with_other_numbers_of_demonstrations(n, sparsity, want):
    assert one("published", sparsity, replace(CHOICE, n_shown=n)) == want


@pytest.mark.parametrize(
    ("sparsity", "want"),
    [
        (0.15, (0, 3)),
        (0.55, (3, 7)),  # none of its level is retrieved: two at a distance of one level
        (0.95, (3, 7)),  # its own level has none, 7 is nearest; then 3, two levels from the one below it
    ],
)
def test_published_where_a_level_has_too_few_of_those_retrieved(sparsity, want):
    assert one("published", sparsity, replace(CHOICE, n_retrieved=3)) == want  # 3, 7, 0 of levels 1, 3, 0


@pytest.mark.parametrize(
    ("n", "sparsity", "want"),
    [
        (1, 0.55, (4,)),
        (2, 0.55, (4, 5)),
        (3, 0.55, (3, 4, 5)),  # 3 and 6 are equally near, 3 is more similar
        (2, -1.0, (0, 1)),
        (2, 99.0, (8, 9)),
        (4, 99.0, (6, 7, 8, 9)),
    ],
)
def test_matched_takes_the_nearest_in_rank(n, sparsity, want):
    assert one("matched", sparsity, replace(CHOICE, n_shown=n)) == want


def test_matched_of_those_retrieved_alone():
    assert one("matched", 0.55, replace(CHOICE, n_retrieved=3)) == (3, 7)


def test_the_question_that_is_in_the_pool_itself_leans_to_neither_side():
    """Example 5 asks, and may not be shown: 4 and 6 are equally near, and similarity decides."""
    choice = replace(CHOICE, n_shown=1)
    assert one("matched", 0.6, choice, left_out=(5,)) == (4,)
    assert one("matched", 0.6, choice, left_out=(5,), similar=(6, *(i for i in SIMILAR if i != 6))) == (6,)


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.is_random])
def test_draws_are_a_function_of_seed_arm_question_and_draw(name):
    choice = ChoiceConfig(n_shown=4, n_retrieved=10, n_draws=6)
    question = asked_at(0.5)
    first = chosen(POOL, question, choice, name, 3)
    assert len(first) == 6 and len(set(first)) > 1
    assert first == chosen(POOL, question, choice, name, 3)
    assert first[:4] == chosen(POOL, question, replace(choice, n_draws=4), name, 3)
    assert first != chosen(POOL, question, choice, name, 4)
    assert first != chosen(POOL, question, replace(choice, seed=1), name, 3)
    other = {RANDOM_ORDER: DRAWN, DRAWN: RANDOM_ORDER, DEALT: DRAWN}[name]
    assert first != chosen(POOL, question, choice, other, 3)


def test_a_random_order_is_of_the_same_examples_and_favours_none():
    choice = ChoiceConfig(n_shown=4, n_retrieved=10, n_draws=4000)
    orders = np.array(chosen(POOL, asked_at(0.5), choice, RANDOM_ORDER, 0))
    assert (np.sort(orders, 1) == [0, 3, 7, 9]).all()
    for example in (0, 3, 7, 9):
        np.testing.assert_allclose((orders == example).mean(0), 0.25, atol=0.03)


def test_drawn_takes_every_example_that_is_retrieved_equally_often():
    choice = ChoiceConfig(n_shown=2, n_retrieved=4, n_draws=4000)
    counts = np.bincount(np.ravel(chosen(POOL, asked_at(0.5), choice, DRAWN, 0)), minlength=10)
    np.testing.assert_allclose(counts[[3, 7, 0, 9]] / 4000, 0.5, atol=0.03)
    assert counts.sum() == 8000 and counts[[1, 2, 4, 5, 6, 8]].sum() == 0


def test_the_published_rule_prefers_similar_ones_and_its_control_does_so_as_much():
    """Sparsity that says nothing: the rule is still no random draw, and only the control that knows as little is like it."""
    rng = np.random.default_rng(0)
    choice = ChoiceConfig(n_shown=2, n_retrieved=20)
    found: dict[str, list[float]] = {"published": [], DEALT: [], DRAWN: []}
    for i in range(400):
        pool = Pool(sparsity=rng.random(100), loss=np.zeros(100), length=np.zeros(100))
        question = Asked(sparsity=rng.random(), similarity=rng.random(100), allowed=np.ones(100, dtype=bool))
        order = np.argsort(-question.similarity)
        place = np.empty(100)
        place[order] = np.arange(100)
        for name, places in found.items():
            places.append(
                float(np.mean([place[list(shown)].mean() for shown in chosen(pool, question, choice, name, i)]))
            )
    mean = {name: np.mean(places) for name, places in found.items()}
    assert mean[DRAWN] == pytest.approx(9.5, abs=0.3)
    assert mean["published"] < 7.5 and mean[DEALT] == pytest.approx(mean["published"], abs=0.6)


def test_dealt_out_sparsity_leaves_the_branch_of_the_question():
    """A pool of two kinds: with true sparsity an easy question is shown 0 .. 4 first; dealt out, any."""
    choice = replace(CHOICE, n_levels=2, n_draws=200)
    firsts = {shown[0] for shown in chosen(POOL, asked_at(0.15), choice, DEALT, 0)}
    assert firsts - {0, 1, 2, 3, 4} and firsts & {0, 1, 2, 3, 4}


def test_controls_exist_and_are_random():
    for name, arm in ARMS.items():
        assert arm.control == "" or (ARMS[arm.control].is_random and not ARMS[arm.control].control), name
    assert {arm.control for arm in ARMS.values()} == {"", RANDOM_ORDER, DRAWN, DEALT}


def test_arms_that_need_difficulty_are_left_out_without_it():
    assert set(ARMS) - set(arms_of(replace(POOL, difficulty=None))) == {"easy_to_hard", "hard_to_easy"}
    assert arms_of(POOL) == ARMS


def test_pools_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="n_shown=2 demonstrations, but only 1 examples of the pool may be shown; lower it or give a larger pool"):  # fmt: skip
        one("sparsity", left_out=range(9))
    with pytest.raises(ValueError, match="n_levels=11, but the pool has 10 examples"):
        one("sparsity", choice=replace(CHOICE, n_levels=11))
    with pytest.raises(ValueError, match="n_shown=5 demonstrations cannot be taken from n_retrieved=4 examples; lower n_shown or raise"):  # fmt: skip
        ChoiceConfig(n_shown=5, n_retrieved=4)
