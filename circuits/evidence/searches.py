"""What else does the same search find: for unrelated answers, in models that know nothing, from other mask seeds?

1. A nonsense twin asks for unrelated answers after the same prompts.
2. A null model has the trained model's weights in random order: every tensor keeps its nonzero pattern and its set of
   values, norms, biases and sinks stay as trained. A label-permuted task exchanges the sides of half of the pairs.
3. Seeds: circuits of the task itself that other mask seeds lead to.

The search is the caller's; real task, twin and nulls get the same budget. What counts of twins and nulls is the size of what it
finds, relative to the real circuit, at equal loss.
Source: J. Drori, "Weight-sparse circuits may be interpretable yet unfaithful" (2026), for the nonsense task; the null
models are ours.
"""

import copy
from collections.abc import Sequence

import torch

from circuits.edges import size_of
from circuits.evidence.examination import Examination, Searched, criterion
from circuits.evidence.measurement import Measurement, missing
from sparsetrain.model import Transformer
from sparsetrain.stats.sets import jaccard
from sparsetrain.typed import Json


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


def size_ratio(size: int, searches: Sequence[Searched]) -> Measurement:
    """Smallest null circuit / real circuit.

    Where the search found no null circuit the criterion passes, if it was given at least the budget of the real one.

    Args:
        size: of the real circuit.
        searches: of twins or nulls.
    """
    found, n = [search.size for search in searches if search.size is not None], len(searches)
    least = min((search.budget for search in searches), default=0.0)
    detail: dict[str, Json] = {"size": size, "null_sizes": [search.size for search in searches], "budget": least}
    if n == 0:
        return missing("factor", "no such search was run", detail=detail)
    if not found and least < 1:
        note = f"none of {n} reached the target loss, at {least:.0%} of the budget that the task had"
        return missing("factor", note, n, detail=detail)
    if not found:
        return missing(
            "factor", f"none of {n} reached the target loss at equal budget", n, detail=detail, verdict="pass"
        )
    if size == 0:
        return missing("factor", "the circuit has no edges", n, detail=detail)
    note = f"n counts searches; {len(found)} of them reached the target loss"
    return Measurement(value=min(found) / size, unit="factor", n=n, note=note, detail=detail)


def _size(exam: Examination) -> int:
    return size_of(exam.model, exam.space, exam.keep)


@criterion("nonsense twin", "critique 1", at_least="min_twin_ratio")
def nonsense_twin(exam: Examination) -> Measurement:
    """How much larger is the circuit that the same search finds for unrelated answers?"""
    return size_ratio(_size(exam), exam.inputs.twins)


@criterion("null models", "critique 2", at_least="min_twin_ratio")
def null_models(exam: Examination) -> Measurement:
    """How much larger is what the search finds in permuted weights or for permuted labels?"""
    return size_ratio(_size(exam), exam.inputs.nulls)


@criterion("seeds", "critique 7", at_least="min_jaccard", needs="min_seeds")
def seeds_overlap(exam: Examination) -> Measurement:
    """Do circuits found from different mask seeds share their nodes (Jaccard)?"""
    sets = [set(circuit.node_ids) for circuit in exam.inputs.seeds]
    core = set[str].intersection(*sets) if sets else set[str]()
    note, detail = f"n counts seeds; {len(core)} nodes are in all", {"core_nodes": sorted(core, key=exam.space.number)}
    return Measurement(value=jaccard(sets), unit="fraction", n=len(sets), note=note, detail=detail)
