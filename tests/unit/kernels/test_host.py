"""Jobs side by side on the cores, and copies that share their weights."""

import threading
from time import sleep

import pytest
import torch
from torch import nn

from sparsetrain.kernels.host import keep_freed_memory, spread, with_same_weights


@pytest.fixture(autouse=True)
def three_threads():
    torch.set_num_threads(3)  # put back by conftest


def test_results_come_in_the_order_of_the_jobs_each_with_one_thread():
    def slower_first(n: int) -> tuple[int, int, int]:
        sleep(0.02 * (4 - n))
        return n, torch.get_num_threads(), threading.get_ident()

    found = list(spread(slower_first, range(4)))
    assert [n for n, _, _ in found] == [0, 1, 2, 3]
    assert {n_threads for _, n_threads, _ in found} == {1} and len({ident for _, _, ident in found}) > 1
    assert torch.get_num_threads() == 3


def test_one_job_has_one_thread_too():
    """A job that was left over has the bits that it has among others."""
    assert list(spread(lambda _: torch.get_num_threads(), [0])) == [1]
    assert list(spread(str, [])) == []


def test_an_error_ends_what_has_not_begun_and_puts_threads_back():
    begun = []

    def fails_at_once(n: int) -> None:
        begun.append(n)
        if n == 0:
            raise ValueError("no")
        sleep(0.02)

    with pytest.raises(ValueError, match="no"):
        list(spread(fails_at_once, range(100)))
    assert len(begun) < 20 and torch.get_num_threads() == 3


def test_little_is_begun_ahead():
    """Whoever is interrupted while results are left waiting must not have to wait for all of them."""
    begun = []
    results = spread(begun.append, range(100))
    next(results)
    sleep(0.05)
    assert len(begun) <= 6
    results.close()


def test_stopping_early_puts_threads_back():
    results = spread(str, range(100))
    assert next(results) == "0"
    results.close()
    assert torch.get_num_threads() == 3


def test_a_copy_shares_weights_and_nothing_else():
    module = nn.BatchNorm1d(2)
    copy = with_same_weights(module)
    with torch.no_grad():
        module.weight.fill_(7)
    assert copy.weight is module.weight and copy.weight.tolist() == [7, 7]
    assert copy.running_mean is module.running_mean
    copy.eval()
    assert module.training
    copy.register_forward_hook(lambda *_: pytest.fail("a hook of the copy ran in the module"))
    module(torch.ones(3, 2))


def test_memory_can_be_kept_again_and_again():
    for _ in range(2):
        keep_freed_memory()
    torch.ones(1 << 24).sum()
