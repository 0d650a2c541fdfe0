"""Is a circuit to be believed? Sufficiency, necessity, and random circuits of the same size in the same places.

1. Sufficiency: the circuit's task loss on held-out pairs, beside the full model's and the empty circuit's.
2. Necessity: (m(N) - m(N without C)) / (m(N) - m(nothing)), m the mean logit difference; 1 where ablating the circuit
   alone destroys all that the model does beyond the current token. Random sets of the same size and places beside it.
3. Random circuits: as many nodes at each hook point, drawn from the channels alive in pretraining text (the circuit's
   own may be among them), calibrated and scored on the same pairs as the circuit.

The logit difference is averaged over both sides of a pair, so a shift cancels in m and a scale in the ratio.
Source: Gao et al. 2025, arXiv 2511.13653; Shi et al. 2024 for the random circuits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.masks import NodeSpace
from circuits.search.learn import calibrated_loss, masked_answers
from circuits.tasks.loss import logit_diff, task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer


@dataclass(frozen=True, kw_only=True)
class Necessity:
    """How much of what the model does is lost without the circuit.

    Args:
        value: the circuit's necessity, None where model and empty circuit do not differ.
        random: the same of random sets.
        answers_without: answer logits of the full model without the circuit, `[n, side, answer]`.
    """

    value: float | None
    random: tuple[float, ...]
    answers_without: Tensor


def bootstrap(values: Tensor, seed: int, n_boot: int = 1000) -> tuple[float, float]:
    """95% interval of the mean: percentiles over resamples with replacement.

    Args:
        values: float `[n]`, one per pair.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (n_boot, len(values)), generator=generator)
    means = values.double()[rows].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def random_circuits(space: NodeSpace, keep: Tensor, alive: Tensor, n: int, seed: int) -> Tensor:
    """Random masks with as many nodes at every hook point as `keep`, bool `[n, n_nodes]`.

    Args:
        keep: bool `[n_nodes]`, the circuit.
        alive: bool `[n_nodes]`, channels to draw from; the circuit's own are always added.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(n, space.n_nodes, dtype=torch.bool)
    pools = space.split(alive | keep)
    for name, kept in space.split(keep).items():
        size = int(kept.sum())
        if size == 0:
            continue
        pool = pools[name].nonzero().flatten()
        scores = torch.rand(n, len(pool), generator=generator)
        channels = pool[scores.topk(size, dim=1).indices]
        drawn[:, space.slice(name)] = torch.zeros(n, len(kept), dtype=torch.bool).scatter(1, channels, True)
    return drawn


def random_losses(
    model: Transformer,
    space: NodeSpace,
    masks: Tensor,
    means: Tensor,
    fit: PairSet,
    heldout: PairSet,
    max_rows: int,
) -> Tensor:
    """Task loss on `heldout` of many circuits, each calibrated on `fit`: float64 `[n]`, nats.

    The circuit itself, given as one more row, is treated exactly like the random ones.
    """
    answers = [masked_answers(model, space, masks, means, [pairs] * len(masks), max_rows) for pairs in (fit, heldout)]
    _, calibration = calibrated_loss(answers[0])
    return task_loss(calibration.apply(answers[1].double()))


def necessity(
    model: Transformer,
    space: NodeSpace,
    keep: Tensor,
    others: Tensor,
    means: Tensor,
    heldout: PairSet,
    some: PairSet,
    full: Tensor,
    empty: Tensor,
    max_rows: int,
) -> Necessity:
    """Necessity of a circuit, and of random sets of the same size and places.

    Args:
        keep: bool `[n_nodes]`, the circuit.
        others: bool `[n, n_nodes]`, the random sets.
        heldout: pairs for the circuit.
        some: pairs for the random sets, the first of `heldout`.
        full: answer logits of the full model on `heldout`, `[n, side, answer]`.
        empty: those of the empty circuit.
    """
    of_circuit = masked_answers(model, space, ~keep[None], means, [heldout], max_rows)
    of_random = masked_answers(model, space, ~others, means, [some] * len(others), max_rows)
    ends = torch.stack([full, empty])
    values = _ratios(logit_diff(torch.cat([ends, of_circuit])))
    random = _ratios(logit_diff(torch.cat([ends[:, : len(some)], of_random])))
    return Necessity(value=values[0] if values else None, random=tuple(random), answers_without=of_circuit[0])


def _ratios(m: Tensor) -> list[float]:
    """m of the full model, of nothing, and of ablated models -> necessity of each; none if the first two are equal."""
    full, nothing, *without = m.double().tolist()
    return [(full - x) / (full - nothing) for x in without] if full != nothing else []


def jaccard(sets: Sequence[set[str]]) -> float | None:
    """Mean over pairs of sets of |a & b| / |a | b|; None for fewer than two sets, 1 for two empty ones."""
    ratios = [len(a & b) / len(a | b) if a | b else 1.0 for i, a in enumerate(sets) for b in sets[:i]]
    return sum(ratios) / len(ratios) if ratios else None
