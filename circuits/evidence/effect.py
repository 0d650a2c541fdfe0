"""Taking parts away: completeness, minimality, necessity and the share of the effect that a circuit carries.

m is the mean logit difference, F(S) = m of the model in which only S is kept; all are given as shares of the effect
m(N) - m(nothing).

1. Faithfulness: |F(N) - F(C)|.
2. Completeness: max over subsets K of C of |F(C without K) - F(N without K)|; K are single nodes and random halves.
3. Minimality: how far the answers move when one node is taken out of the circuit.
4. Necessity: (m(N) - m(N without C)) / (m(N) - m(nothing)), with random sets of the same size and place beside it.

Source: Wang et al. 2022 (IOI) for 1-3. Deviation: minimality is the mean absolute change of logit(A) - logit(B), so that
a node which pushes both sides of a pair the same way counts too.
"""

import torch
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic, share
from circuits.evidence.subject import Subject
from circuits.search.cleanup import without_each
from circuits.tasks.loss import logit_diff, pair_logit_diff

NO_EFFECT = "the model and the empty circuit have the same logit difference"


def faithfulness(subject: Subject, seed: int, n_boot: int) -> Measurement:
    """|F(N) - F(C)| as a share of the effect (1 - f of MIB in absolute value)."""
    rows = torch.stack([pair_logit_diff(x) for x in (subject.full, subject.empty, subject.own)], dim=-1)

    def gap(values: Tensor) -> Tensor:  # [..., n, 3]
        full, empty, own = values.double().mean(-2).unbind(-1)
        return ((full - own) / (full - empty)).abs()

    if subject.effect == 0:
        return Measurement(value=None, unit="fraction", n=len(rows), note=NO_EFFECT)
    low, high = bootstrap_statistic(rows, gap, seed, n_boot)
    return Measurement(value=float(gap(rows)), unit="fraction", n=len(rows), lo=low, hi=high)


def necessity(full: Tensor, empty: Tensor, without: Tensor) -> list[float]:
    """(m(N) - m(N without S)) / (m(N) - m(nothing)) of many sets S; none where model and empty circuit do not differ.

    Args:
        full: answers of the full model, `[n, side, answer]`.
        empty: of the empty circuit.
        without: of the full model without each set, `[n_sets, n, side, answer]`.
    """
    m, nothing, *rest = logit_diff(torch.cat([torch.stack([full, empty]), without])).double().tolist()
    return [(m - x) / (m - nothing) for x in rest] if m != nothing else []


def necessities(
    subject: Subject, random: Tensor, n_random_pairs: int, seed: int, n_boot: int
) -> tuple[Measurement, Measurement]:
    """Necessity of the circuit, and the share of random sets whose necessity is lower.

    Args:
        random: bool `[n_random, n_nodes]`, sets of the same size and place.
        n_random_pairs: held-out pairs, the first ones, on which circuit and random sets are compared.
    """
    if subject.effect == 0:
        nothing = Measurement(value=None, unit="fraction", n=len(subject.heldout), note=NO_EFFECT)
        return nothing, nothing
    (value,) = necessity(subject.full, subject.empty, subject.without[None])
    some = subject.heldout.batch(slice(0, n_random_pairs))
    without = subject.answers(~torch.cat([subject.keep[None], random]), some)
    own, *others = necessity(subject.full[: len(some)], subject.empty[: len(some)], without)
    rows = torch.stack([pair_logit_diff(x) for x in (subject.full, subject.empty, subject.without)], dim=-1)

    def ratio(values: Tensor) -> Tensor:  # [..., n, 3]
        full, empty, without = values.double().mean(-2).unbind(-1)
        return (full - without) / (full - empty)

    low, high = bootstrap_statistic(rows, ratio, seed, n_boot)
    n_lower = sum(own > other for other in others)
    note = f"n counts random sets; the most that one of them loses: {max(others):.3f}" if others else ""
    return (
        Measurement(value=value, unit="fraction", n=len(rows), lo=low, hi=high),
        share(n_lower, len(others), note=note, detail={"random": others}),
    )


def subsets(keep: Tensor, n_random: int, seed: int, max_single: int) -> Tensor:
    """Subsets K of a circuit: single nodes (drawn, where there are more than `max_single`) and random halves.

    Returns:
        bool `[n, n_nodes]`, each row a subset of `keep`.
    """
    generator = torch.Generator().manual_seed(seed)
    nodes = keep.nonzero().flatten()
    nodes = nodes[torch.randperm(len(nodes), generator=generator)[:max_single]].sort().values
    singles = torch.zeros(len(nodes), len(keep), dtype=torch.bool)
    singles[torch.arange(len(nodes)), nodes] = True
    halves = (torch.rand(n_random, len(keep), generator=generator) < 0.5) & keep
    return torch.cat([singles, halves])


def completeness(subject: Subject, parts: Tensor, seed: int, n_boot: int) -> Measurement:
    """Largest |F(C without K) - F(N without K)| over subsets K, as a share of the effect; the interval is over pairs.

    Args:
        parts: bool `[n, n_nodes]`, the subsets K.
    """
    if subject.effect == 0 or len(parts) == 0:
        note = NO_EFFECT if len(parts) else "the circuit has no nodes"
        return Measurement(value=None, unit="fraction", n=len(parts), note=note)
    in_circuit = pair_logit_diff(subject.answers(subject.keep & ~parts)).double()
    in_model = pair_logit_diff(subject.answers(~parts)).double()
    gaps = (in_circuit - in_model).T / abs(subject.effect)  # [n pairs, n subsets]

    def largest(rows: Tensor) -> Tensor:  # [..., n pairs, n subsets]
        return rows.mean(-2).abs().amax(-1)

    low, high = bootstrap_statistic(gaps, largest, seed, n_boot)
    note = f"n counts subsets, of which this is the largest gap; their mean is {float(gaps.mean(0).abs().mean()):.3f}"
    return Measurement(value=float(largest(gaps)), unit="fraction", n=len(parts), lo=low, hi=high, note=note)


def node_effects(subject: Subject) -> Tensor:
    """Mean |d(C) - d(C without v)| per kept node v, d = logit(A) - logit(B), as a share of the effect: `[n kept]`."""
    nodes = subject.keep.nonzero().flatten()
    difference = subject.own[..., 0] - subject.own[..., 1]
    if len(nodes) == 0 or subject.effect == 0:
        return torch.full((len(nodes),), torch.nan)
    answers = subject.answers(without_each(subject.keep, nodes))
    moved = (answers[..., 0] - answers[..., 1] - difference).abs().double()
    return moved.mean((-2, -1)) / abs(subject.effect)


def minimality(subject: Subject, least: float) -> Measurement:
    """Share of the circuit's nodes whose removal moves the answers by at least `least` of the effect."""
    effects = node_effects(subject)
    if not bool(effects.isfinite().all()):
        return Measurement(value=None, unit="fraction", n=len(effects), note=NO_EFFECT)
    ids = [subject.space.id(number) for number in subject.keep.nonzero().flatten().tolist()]
    idle = [name for name, effect in zip(ids, effects.tolist(), strict=True) if effect < least]
    return share(len(ids) - len(idle), len(ids), detail={"idle_nodes": idle})
