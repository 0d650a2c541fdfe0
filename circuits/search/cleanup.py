"""Drops, from a circuit that meets the target, every node or edge whose removal keeps it.

Each round removes every part alone on a few pairs, orders the parts by the loss that leaves, and drops the longest
prefix of that order that keeps the loss on all pairs. Where not even the first may go, the parts that looked harmless
are tried singly on all pairs, some at a time. It ends when no part can go.

A large circuit first loses parts in groups: 64 of them, halved whenever no group can go, in the same kind of rounds; trying
hundreds of parts one by one costs a pass each. Source: the idea of delta debugging (Zeller & Hildebrandt 2002).
"""

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

N_GROUPS = 64  # ours
N_SINGLES = 16  # ours: parts tried singly on all pairs before any of them is dropped

Losses = Callable[[Tensor], Tensor]
"""Masks bool `[n, n_parts]` -> calibrated task losses `[n]`, nats."""


def drop_harmless(
    keep: Tensor,
    losses: Losses,
    few_losses: Losses,
    target: float,
    *,
    slack: float,
    max_rounds: int | None = None,
    max_singles: int | None = None,
    order: Tensor | None = None,
    loosen: Callable[[Tensor], Tensor] = lambda keep: keep,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """The parts that are left when none can go, bool `[n_parts]`.

    Args:
        keep: bool `[n_parts]`, a circuit that meets the target.
        losses: on all pairs.
        few_losses: on a few of them.
        target: loss to keep, nats.
        slack: parts whose removal leaves at most slack * target on the few pairs look harmless.
        max_rounds: give up after so many rounds with groups, and so many with single parts; None: never.
        max_singles: how many of the parts that look harmless are tried singly on all pairs in a round; None: all.
        order: int64, part numbers in an order in which neighbours matter alike (a ranking): groups are taken along it.
        loosen: applied to the mask at the start of every round, for parts that can be seen to do nothing.
        report: called with (parts dropped, parts tried) after every round.
    """
    keep = _drop_groups(keep, losses, few_losses, target, slack, order, max_rounds, report)
    suspects, needed = keep, torch.zeros_like(keep)  # needed: tried singly on all pairs, and no part has gone since
    for n_rounds in count(1):
        loose = loosen(keep)
        if not torch.equal(loose, keep):
            keep, needed = loose, torch.zeros_like(keep)
        if not (keep & suspects).any():
            suspects = keep
        parts = (keep & suspects & ~needed).nonzero().flatten()
        if not len(parts):
            return keep
        everyone = not (keep & ~suspects).any()
        alone = few_losses(without_each(keep, parts))
        plausible = parts[alone.argsort()][: int((alone <= slack * target).sum())]
        untried = plausible[:0]
        n_dropped = _longest(keep, losses, target, plausible, surely=0)
        if n_dropped == 0 and len(plausible):
            needed[plausible[:max_singles]] = True
            plausible, untried = _harmless(keep, losses, target, plausible[:max_singles])
            n_dropped = _longest(keep, losses, target, plausible, surely=min(1, len(plausible)))
        if (n_dropped == 0 and everyone) or n_rounds == max_rounds:
            return keep
        keep = _without(keep, plausible[:n_dropped])
        if n_dropped:
            needed = torch.zeros_like(keep)
        report(n_dropped, len(parts))
        # Who was needed mostly stays needed: look at all again only when no suspect is left to drop.
        suspects = torch.zeros_like(keep).index_fill(0, torch.cat([plausible, untried]), True) if n_dropped else keep
    raise AssertionError("unreachable: the rounds are endless")


def _harmless(keep: Tensor, losses: Losses, target: float, parts: Tensor) -> tuple[Tensor, Tensor]:
    """The first few of `parts` that may go alone, those that leave the least loss first; and the parts not tried."""
    for start in range(0, len(parts), N_SINGLES):
        some = parts[start : start + N_SINGLES]
        alone = losses(without_each(keep, some))
        if (alone <= target).any():
            return some[alone.argsort()][: int((alone <= target).sum())], parts[start + N_SINGLES :]
    return parts[:0], parts[:0]


def _drop_groups(
    keep: Tensor,
    losses: Losses,
    few_losses: Losses,
    target: float,
    slack: float,
    order: Tensor | None,
    max_rounds: int | None,
    report: Callable[[int, int], None],
) -> Tensor:
    """Drops groups of parts until only single parts are worth trying."""
    order = torch.arange(len(keep)) if order is None else order
    size, n_rounds = int(keep.sum()) // N_GROUPS, 0
    while size > 1 and n_rounds != max_rounds:
        n_rounds += 1
        groups = order[keep[order]].split(size)
        alone = few_losses(torch.stack([_without(keep, group) for group in groups]))
        ranked = [groups[i] for i in alone.argsort().tolist() if alone[i] <= slack * target]
        ends = torch.tensor([len(group) for group in ranked]).cumsum(0).tolist()
        parts = torch.cat(ranked) if ranked else torch.empty(0, dtype=torch.int64)
        n_groups = _longest(keep, losses, target, parts, surely=0, ends=ends)
        keep = _without(keep, parts[: ([0, *ends])[n_groups]])
        report(n_groups, len(groups))
        if n_groups == 0:
            size //= 2
    return keep


def without_each(keep: Tensor, parts: Tensor) -> Tensor:
    """Masks that lack one part each, bool `[len(parts), n_parts]`."""
    masks = keep.repeat(len(parts), 1)
    masks[torch.arange(len(parts)), parts] = False
    return masks


def _without(keep: Tensor, parts: Tensor) -> Tensor:
    return keep.index_fill(0, parts, False)


def _longest(
    keep: Tensor, losses: Losses, target: float, parts: Tensor, *, surely: int, ends: list[int] | None = None
) -> int:
    """How many of `parts`, in this order, may be dropped together (at least `surely`, known from before).

    With `ends` (where each group of parts ends) whole groups are counted.
    """
    ends = list(range(1, len(parts) + 1)) if ends is None else ends
    low, high = surely, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if float(losses(_without(keep, parts[: ends[middle - 1]])[None])) <= target:
            low = middle
        else:
            high = middle - 1
    return low
