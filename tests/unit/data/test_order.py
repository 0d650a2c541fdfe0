"""Rows in an order that is named by its content."""

import numpy as np
import pytest

from sparsetrain.data.datamodule import TokenDataModule
from sparsetrain.data.stream import Order, RowsStream

ROWS = np.arange(20).reshape(10, 2)


def test_batches_are_a_function_of_rows_number_and_order() -> None:
    order = Order.by([9, 0, 8, 1, 7, 2, 6, 3, 5, 4])
    assert order.rows.tolist() == [1, 3, 5, 7, 9, 8, 6, 4, 2, 0]
    stream = RowsStream(ROWS, 4, order)
    assert stream.rows(1, 0, 1).tolist() == ROWS[[9, 8, 6, 4]].tolist()
    assert stream.rows(2, 0, 1).tolist() == ROWS[[2, 0]].tolist()
    halves = [stream.rows(0, rank, 2) for rank in (0, 1)]
    assert (np.concatenate(halves) == stream.rows(0, 0, 1)).all()
    every = np.concatenate([stream.rows(k, 0, 1) for k in range(stream.n_batches)])
    assert sorted(every.tolist()) == ROWS.tolist()  # at equal tokens: each row once


def test_equal_scores_stay_in_their_order_and_the_given_order_is_no_order() -> None:
    assert Order.by(np.zeros(5)).rows.tolist() == [0, 1, 2, 3, 4]
    plain, same = RowsStream(ROWS, 4), RowsStream(ROWS, 4, Order(rows=np.arange(10)))
    assert all((plain.rows(k, 0, 1) == same.rows(k, 0, 1)).all() for k in range(3))
    assert "order" not in plain.identity()


def test_an_order_is_named_by_its_content() -> None:
    forward, back = Order(rows=np.arange(10)), Order(rows=np.arange(10)[::-1])
    assert forward.sha256 == Order.by(np.linspace(0, 1, 10)).sha256 != back.sha256
    assert RowsStream(ROWS, 4, back).identity()["order"] == back.sha256


def test_no_training_goes_on_in_another_order() -> None:
    forward, back = Order(rows=np.arange(10)), Order(rows=np.arange(10)[::-1])
    state = TokenDataModule(RowsStream(ROWS, 4, forward)).state_dict()
    TokenDataModule(RowsStream(ROWS, 4, forward)).load_state_dict(state)
    with pytest.raises(ValueError, match=f"trained on other batches: order='{forward.sha256}' there, '{back.sha256}'"):
        TokenDataModule(RowsStream(ROWS, 4, back)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"trained on other batches: order=.* there, None here"):
        TokenDataModule(RowsStream(ROWS, 4)).load_state_dict(state)


@pytest.mark.parametrize("rows", [[0, 0, 1], [1, 2, 3], [[0, 1]], [0, 2]])
def test_what_is_no_order(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="must hold every number from 0 to"):
        Order(rows=np.array(rows))


def test_orders_of_other_rows_and_rows_without_a_score() -> None:
    with pytest.raises(ValueError, match="an order of 3 rows is given for 10 rows"):
        RowsStream(ROWS, 4, Order(rows=np.arange(3)))
    with pytest.raises(ValueError, match="1 of 2 rows have no score"):
        Order.by([0.0, np.nan])
