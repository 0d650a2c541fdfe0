"""The Python API says what cannot hold, as the command line does."""

from typing import Any

import pytest

from sparsetrain.sparsity import SparsityConfig, build_sparsity


@pytest.mark.parametrize(
    ("settings", "n_steps", "says"),
    [
        ({"density": 5.0}, 10, "density=5.0: input should be less than or equal to 1"),
        ({"density": -1}, 10, "density=-1: input should be greater than 0"),
        ({"density": "1/8"}, 10, "write 0.125"),
        ({"compute": "x"}, 10, "compute='x': input should be 'dense', 'sparse' or 'auto'"),
        ({"method": "rigel"}, 10, "method='rigel': input should be 'topk'"),
        ({}, 0, "n_steps=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_hold_are_refused(settings: dict[str, Any], n_steps: int, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        build_sparsity(SparsityConfig(**settings), n_steps=n_steps)
    assert says in str(refused.value) and "\n" not in str(refused.value)
