"""Functions by hand, parts without a common function, rows that show nothing but their function."""

import re

import numpy as np
import pytest

from sparsetrain.data.worlds.functions import (
    FAMILIES,
    LENGTH,
    Function,
    FunctionsConfig,
    check_disjoint,
    draw_rows,
    draw_world,
    even_rows,
    prompt,
    shuffle_answers,
)

CONFIG = FunctionsConfig(n_seen=60)
WORLD = draw_world(CONFIG, seed=0)


def drawn(family: str, name: str, p: int = 7) -> tuple[np.ndarray, np.ndarray]:
    tables = FAMILIES[family].tables(p, np.random.default_rng(0))
    return next((answers, operations) for of, answers, operations in tables if of == name)


@pytest.mark.parametrize(
    ("family", "name", "a", "b", "answer", "operations"),
    [
        ("constant", "3", 5, 6, 3, 0),
        ("copy", "b", 5, 6, 6, 1),
        ("shift", "a + 4", 5, 0, 2, 2),
        ("switch", "2 or 2 + 6", 0, 3, 2, 2),  # 0 to 3 are the first half of 7
        ("switch", "2 or 2 + 6", 0, 4, 1, 2),
        ("affine", "3 a + 2", 4, 0, 0, 3),
        ("conditional", "a + 6 or 5", 3, 1, 2, 4),
        ("conditional", "a + 6 or 5", 3, 6, 5, 2),
    ],
)
def test_answers_and_operations_by_hand(family: str, name: str, a: int, b: int, answer: int, operations: int) -> None:
    answers, counted = drawn(family, name)
    assert (answers[a, b], counted[a, b]) == (answer, operations)


def test_tables_are_one_to_one_and_composed_ones_move_on() -> None:
    for function in WORLD.of("seen", "lookup"):
        assert sorted(function.answers[:, 0]) == list(range(7)) and (function.answers == function.answers[:, :1]).all()
    for function in WORLD.of("seen", "composition"):
        table = function.answers[:, 0]
        assert (function.answers == (table[:, None] + np.arange(7)) % 7).all()


def test_no_function_is_in_two_parts() -> None:
    parts = [{f.answers.tobytes() for f in WORLD.of(part)} for part in ("seen", "val", "unseen")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(WORLD.functions)
    assert not WORLD.of("seen", "switch", "affine") and WORLD.of("unseen", "switch") and WORLD.of("unseen", "affine")
    assert not WORLD.of("unseen", "copy")
    trained = draw_rows(CONFIG, WORLD.of("seen"), 500, np.random.default_rng(0))
    assert {WORLD.of("seen")[i].part for i in trained.function} == {"seen"}


def test_one_function_under_two_names_is_refused() -> None:
    one, other = WORLD.of("seen", "shift")[0], WORLD.of("unseen", "lookup")[0]
    again = Function(family="lookup", name="x", part="unseen", answers=one.answers.copy(), operations=other.operations)
    with pytest.raises(
        ValueError, match=re.escape("unseen function lookup 'x' has the same answers as the seen shift")
    ):
        check_disjoint([one, other, again])


def test_a_world_is_a_function_of_config_and_seed() -> None:
    again, other = draw_world(CONFIG, 0), draw_world(CONFIG, 1)
    assert all((a.answers == b.answers).all() for a, b in zip(WORLD.functions, again.functions, strict=True))
    assert [f.name for f in WORLD.functions] != [f.name for f in other.functions]


def test_rows_hold_their_function_on_one_grid() -> None:
    functions = WORLD.of("seen")
    rng = np.random.default_rng(0)
    for rows in (draw_rows(CONFIG, functions, 300, rng), even_rows(CONFIG, functions[:20], 3, rng)):
        pairs = rows.tokens.reshape(len(rows.tokens), -1, LENGTH)
        assert pairs.shape[1] == CONFIG.n_pairs and (pairs[:, :, 2] == CONFIG.ask).all()
        for row, function, operations in zip(pairs, rows.function, rows.operations, strict=True):
            a, b, _, answers = row.T
            assert (functions[function].answers[a, b] == answers).all()
            assert (functions[function].operations[a, b] == operations).all()


def test_rows_of_evaluation_never_repeat_an_input_and_those_of_training_do() -> None:
    def repeats(tokens: np.ndarray) -> np.ndarray:
        inputs = tokens[:, ::LENGTH] * 7 + tokens[:, 1::LENGTH]
        return np.array([len(set(row)) for row in inputs]) < inputs.shape[1]

    functions = WORLD.of("seen")
    assert not repeats(even_rows(CONFIG, functions, 2, np.random.default_rng(0)).tokens).any()
    assert repeats(draw_rows(CONFIG, functions, 200, np.random.default_rng(0)).tokens).mean() > 0.5


def test_families_are_drawn_alike() -> None:
    functions = WORLD.of("seen")
    rows = draw_rows(CONFIG, functions, 8000, np.random.default_rng(0))
    counts = {name: 0 for name in WORLD.families("seen")}
    for i in rows.function:
        counts[functions[i].family] += 1
    assert all(abs(n / 8000 - 1 / len(counts)) < 0.015 for n in counts.values()), counts


def test_shuffled_answers_keep_their_frequency_and_lose_their_rows() -> None:
    rows = draw_rows(CONFIG, WORLD.of("seen", "constant"), 2000, np.random.default_rng(0))
    shuffled = shuffle_answers(rows.tokens, np.random.default_rng(1))
    for place in range(CONFIG.n_pairs):
        at = place * LENGTH + LENGTH - 1
        assert (np.bincount(shuffled[:, at]) == np.bincount(rows.tokens[:, at])).all()
    true, found = (tokens[:, LENGTH - 1 :: LENGTH] for tokens in (rows.tokens, shuffled))
    assert (true[:, 0] == true[:, 5]).all()  # a constant function
    n = len(np.unique(true))
    assert abs((found[:, 0] == found[:, 5]).mean() - 1 / n) < 0.05  # one answer no longer says the next
    kept = np.arange(shuffled.shape[1]) % LENGTH != LENGTH - 1
    assert (shuffled[:, kept] == rows.tokens[:, kept]).all()


def test_a_prompt_by_hand() -> None:
    assert prompt(CONFIG, [(1, 2, 3), (4, 5, 6)], (0, 1)).tolist() == [1, 2, 7, 3, 4, 5, 7, 6, 0, 1, 7]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_symbols": 3}, "n_symbols=3 is too few"),
        ({"n_symbols": 5, "n_shots": 25}, "n_shots=25 and a query are more than the 25 inputs"),
        ({"n_alphabet": 9}, "n_alphabet=9 must be at most n_symbols=7"),
    ],
)
def test_sizes_that_cannot_hold(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        FunctionsConfig(**wrong)
