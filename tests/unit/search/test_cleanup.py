"""Clean-up ends with the parts that are needed, whatever the size it starts from, and large sets go group by group."""

from collections import Counter

import torch
from torch import Tensor

from circuits.search.cleanup import N_GROUPS, drop_harmless

TARGET = 1.0


class Counted:
    """Losses of a made-up circuit: 10 for every needed part that is missing; counts the masks it was asked about."""

    def __init__(self, needed: Tensor) -> None:
        self.needed, self.n_masks = needed, 0

    def __call__(self, masks: Tensor) -> Tensor:
        self.n_masks += len(masks)
        return 10.0 * (self.needed & ~masks).sum(1)


def cleaned(n_parts: int, needed: list[int], order: Tensor | None = None) -> tuple[list[int], int]:
    losses = Counted(torch.zeros(n_parts, dtype=torch.bool).index_fill(0, torch.tensor(needed), True))
    keep = torch.ones(n_parts, dtype=torch.bool)
    found = drop_harmless(keep, losses, losses, TARGET, slack=1.5, order=order)
    return found.nonzero().flatten().tolist(), losses.n_masks


def test_only_needed_parts_are_left_of_a_small_and_of_a_large_circuit():
    for n_parts in (20, 2 * N_GROUPS, 2 * N_GROUPS + 1, 1000, 5003):
        needed = [0, n_parts // 3, n_parts - 1]
        assert cleaned(n_parts, needed)[0] == needed


def test_a_large_circuit_takes_far_fewer_looks_than_it_has_parts():
    assert cleaned(5000, [7, 2500, 4999])[1] < 1500


def test_groups_follow_the_order_given():
    needed = list(range(0, 4096, 64))  # one in every group of neighbours by number
    order = torch.cat([torch.tensor(needed), torch.tensor(sorted(set(range(4096)) - set(needed)))])
    (by_number, many), (by_rank, few) = cleaned(4096, needed), cleaned(4096, needed, order)
    assert by_number == by_rank == needed
    assert few < many / 2


def test_what_matters_only_together_is_not_dropped_together():
    """Either of two parts will do: one stays."""

    def losses(masks: Tensor) -> Tensor:
        return torch.where(masks[:, 3] | masks[:, 900], 0.0, 10.0)

    found = drop_harmless(torch.ones(1000, dtype=torch.bool), losses, losses, TARGET, slack=1.5)
    assert found.nonzero().flatten().tolist() in ([3], [900])


def test_no_part_is_tried_singly_twice_on_the_same_circuit():
    """The few pairs misjudge, so that every part is tried on all pairs: 20 are needed, and of the other 20 five may go."""
    needed = torch.arange(40) < 20
    tried: Counter[bytes] = Counter()

    def losses(masks: Tensor) -> Tensor:
        if len(masks) > 1:  # single masks are prefixes of the order, not parts tried side by side
            tried.update(mask.numpy().tobytes() for mask in masks)
        return 10.0 * (needed & ~masks).sum(1) + 0.19 * (~needed & ~masks).sum(1)

    def few_losses(masks: Tensor) -> Tensor:  # the needed ones, which come first, look best
        return 1e-3 * (~masks * torch.arange(40)).sum(1)

    found = drop_harmless(torch.ones(40, dtype=torch.bool), losses, few_losses, TARGET, slack=1.5)
    assert found[needed].all() and int((~found).sum()) == 5
    assert set(tried.values()) == {1}
