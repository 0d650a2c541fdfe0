"""Does the same search find circuits where there is nothing to find?

1. A nonsense twin asks for unrelated answers after the same prompts.
2. A null model has the trained model's weights in random order: every tensor keeps its nonzero pattern and its set of
   values, norms, biases and sinks stay as trained. A label-permuted task exchanges the sides of half of the pairs.

The search is the caller's, so that real task, twin and nulls get the same budget. What counts is the size of what it
finds, relative to the real circuit, at equal loss.
Source: J. Drori, "Weight-sparse circuits may be interpretable yet unfaithful" (2026), for the nonsense task; the null
models are ours.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.edges import find_edges
from circuits.evidence.measurement import Measurement
from circuits.search.learn import calibrated_loss, masked_answers
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer

NullKind = Literal["weights", "labels"]
NullSearch = Callable[[Transformer, NullKind, int], int | None]
"""(model, kind, seed) -> edges of the circuit found at the target loss, None if none was. For "weights" the model is
permuted already; for "labels" it is the trained one and the search takes pairs with `twin="labels"`."""


@dataclass(frozen=True, kw_only=True)
class NullResult:
    """What the search found in one null.

    Args:
        kind: what was permuted.
        seed: of the permutation.
        n_edges: size of the circuit found at the target loss, None if none was.
    """

    kind: NullKind
    seed: int
    n_edges: int | None


@torch.no_grad()
def permuted_model(model: Transformer, seed: int) -> Transformer:
    """A copy of the model whose weights are permuted within each tensor's nonzero pattern.

    Norm gains, biases and sinks (all vectors) are kept; embedding, unembedding, bigram table and positions are permuted
    like every other matrix.
    """
    null = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in null.parameters():
        if parameter.ndim < 2:
            continue
        nonzero = parameter != 0
        values = parameter[nonzero]
        order = torch.randperm(len(values), generator=generator).to(values.device)
        parameter[nonzero] = values[order]
    return null


def search_nulls(model: Transformer, search: NullSearch, seeds: Sequence[int]) -> tuple[NullResult, ...]:
    """Runs the caller's search on a permuted model and on permuted labels, per seed."""
    found = []
    for seed in seeds:
        null = permuted_model(model, seed)
        found.append(NullResult(kind="weights", seed=seed, n_edges=search(null, "weights", seed)))
        found.append(NullResult(kind="labels", seed=seed, n_edges=search(model, "labels", seed)))
    return tuple(found)


def same_nodes(model: Transformer, circuit: Circuit, keep: Tensor, means: Tensor, fit: PairSet) -> Circuit:
    """Other nodes or another model of the same shape, as a circuit that gets the same treatment.

    Args:
        model: where the circuit is to live, e.g. a permuted one.
        circuit: lends task, space and provenance.
        keep: bool `[n_nodes]`.
        means: float `[n_nodes]`, of `model`.
        fit: pairs to calibrate on.
    """
    space = circuit.space
    _, calibration = calibrated_loss(masked_answers(model, space, keep[None], means, [fit], 2 * len(fit)))
    return replace(
        circuit,
        nodes=space.nodes(keep),
        edges=tuple(find_edges(model, space, keep)),
        means=means,
        calibration=replace(calibration, scale=calibration.scale[0], shift=calibration.shift[0]),
    )


def size_ratio(n_edges: int, null_sizes: Sequence[int | None]) -> Measurement:
    """Smallest null circuit / real circuit, in edges; passes where the search found no null circuit at all.

    Args:
        n_edges: of the real circuit.
        null_sizes: of twins or nulls, None where the target loss was not reached.
    """
    found = [size for size in null_sizes if size is not None]
    detail = {"n_edges": n_edges, "null_n_edges": list(null_sizes)}
    n = len(null_sizes)
    if n == 0:
        return Measurement(
            value=None, unit="factor", n=0, note="no such search was run", detail=detail, verdict="not enough data"
        )
    if not found:
        note = f"none of {n} reached the target loss"
        return Measurement(value=None, unit="factor", n=n, note=note, detail=detail, verdict="pass")
    if n_edges == 0:
        return Measurement(value=None, unit="factor", n=n, note="the circuit has no edges", detail=detail)
    note = f"{len(found)} of {n} reached the target loss"
    return Measurement(value=min(found) / n_edges, unit="factor", n=n, note=note, detail=detail)
