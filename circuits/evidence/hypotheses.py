"""What a circuit is claimed to be, as tests that can reject a false claim, and as sizes of effects where a test could only fail to.

1. Difference of answers: |p(C) - p(N)|, p the calibrated probability of answer A, mean over prompts. A test of equivalence by
   its p-value passes for want of data; a distance with a margin does not.
2. Dependence of the rest: what is left without the circuit should know nothing of the model's output. HSIC, between what
   chance shows (0, the mean over permutations) and what the output knows of itself (1).
3. Minimality, per edge: knocking it out moves the answers more than knocking a random edge out of a circuit inflated by
   a random path. H0: no more; permutation p-value, Bonferroni over the circuit's edges.
4. Sufficiency: no random circuit of the same size is as good. H0: the circuit is one of them; permutation p-value.

Permutation p-values are (1 + #as extreme) / (1 + #draws), so they never claim more than was drawn.
Source: Shi et al. 2024, "Hypothesis testing the circuit hypothesis in LLMs". The path that inflates a circuit crosses one
block (a read, a neuron or value channel, a write), as embedding and unembedding reach every channel here.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import sqrt
from random import Random
from statistics import fmean

import torch
from torch import Tensor, nn

from circuits.answers import pair_answers
from circuits.circuit import Circuit
from circuits.edges import Edge, join_weight, joins
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement, missing
from circuits.masks import NodeSpace
from circuits.tasks.loss import pair_logit_diff
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import NodeId
from sparsetrain.model import Transformer

DRAWS_PER_TEST = 20
"""Random draws needed per test that is corrected for; fewer cannot reach 0.05 after the correction."""


def permutation_p(value: float, draws: Sequence[float] | Tensor) -> float:
    """(1 + number of draws that are at least `value`) / (1 + number of draws)."""
    drawn = torch.as_tensor(draws, dtype=torch.float64)
    return (1 + int((drawn >= value).sum())) / (1 + len(drawn))


def enough_draws(n_draws: int, n_tests: int) -> bool:
    """Whether `n_draws` random draws can carry `n_tests` corrected tests at all."""
    return n_draws >= DRAWS_PER_TEST * n_tests


@criterion("difference of answers", "tests", at_most="max_difference", needs="min_pairs")
def difference(exam: Examination) -> Measurement:
    """How far are the circuit's answers from the model's, as probabilities of answer A?"""
    circuit, model = (torch.sigmoid((x[..., 0] - x[..., 1]).double()) for x in (exam.calibrated, exam.full_calibrated))
    return exam.measured((circuit - model).abs().mean(-1), "fraction")


def gaussian_kernel(x: Tensor) -> Tensor:
    """exp(-d^2 / (2 s^2)) of all pairs of values, s their median distance: `[n]` -> `[n, n]` float64."""
    distance = (x.double()[:, None] - x.double()[None]).abs()
    off_diagonal = distance[~torch.eye(len(x), dtype=torch.bool)]
    width = off_diagonal.median() if len(off_diagonal) else torch.tensor(0.0)
    return torch.exp(-(distance**2) / (2 * width**2)) if width > 0 else (distance == 0).double()


def hsic(kernel_x: Tensor, kernel_y: Tensor) -> float:
    """Biased estimate trace(K H L H) / n^2 with H = I - 1/n, for kernels `[n, n]`; 0 for independent samples."""
    centred = kernel_x - kernel_x.mean(0, keepdim=True) - kernel_x.mean(1, keepdim=True) + kernel_x.mean()
    return float((centred * kernel_y).mean())


def dependence(x: Tensor, y: Tensor, n_permutations: int, seed: int) -> float:
    """Normalised HSIC of samples `[n]` and `[n]`, corrected for chance: (h - e) / (1 - e), at most 1.

    h = HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), e its mean over permutations of y; 0 where one of them is constant.
    """
    generator = torch.Generator().manual_seed(seed)
    kernel_x, kernel_y = gaussian_kernel(x), gaussian_kernel(y)
    largest = sqrt(max(0.0, hsic(kernel_x, kernel_x) * hsic(kernel_y, kernel_y)))
    if largest < 1e-12:
        return 0.0
    orders = [torch.randperm(len(y), generator=generator) for _ in range(n_permutations)]
    chance = fmean(hsic(kernel_x, kernel_y[order][:, order]) for order in orders) / largest
    return (hsic(kernel_x, kernel_y) / largest - chance) / (1 - chance)


@criterion("dependence of the rest", "tests", at_most="max_dependence", needs="min_pairs")
def dependence_of_rest(exam: Examination) -> Measurement:
    """How much does what is left without the circuit still know of the model's output?"""
    model, complement = pair_logit_diff(exam.full), pair_logit_diff(exam.without)
    n, n_permutations = exam.heldout.n_distinct, exam.config.n_permutations
    spread = float(complement.double().std(correction=0))
    note = f"0: by chance, 1: all; {n_permutations} permutations; the rest varies by {spread:.2g} logits"
    if spread <= exam.config.still * abs(exam.effect):
        return Measurement(value=0.0, unit="fraction", n=n, note=f"{note}: as good as constant")
    value = dependence(model, complement, n_permutations, exam.config.seed)
    return Measurement(value=value, unit="fraction", n=n, note=note)


def random_path(model: Transformer, space: NodeSpace, taken: set[tuple[str, str]], rng: Random) -> list[Edge] | None:
    """A random path through one block along nonzero weights, no edge of which is in `taken`.

    Either a read, a neuron and a write of an MLP, or a read, a value channel and a write of an attention layer; None
    where a thousand tries find no such path.
    """
    by_ends = {(join.source, join.target): join for join in joins(model)}
    kinds = (("mlp", "neuron"), ("attn", "v"))
    for _ in range(1000):
        part, middle = rng.choice(kinds)
        stem = f"blocks.{rng.randrange(model.config.n_layer)}.{part}.hook_"
        into = join_weight(model, space, by_ends[stem + "in", stem + middle])
        out = join_weight(model, space, by_ends[stem + middle, stem + "out"])
        m = rng.randrange(into.shape[0])
        reads, writes = ([int(channel) for channel in weights.nonzero()] for weights in (into[m], out[:, m]))
        if not reads or not writes:
            continue
        r, w = rng.choice(reads), rng.choice(writes)
        path = [
            Edge(str(NodeId(stem + "in", r)), str(NodeId(stem + middle, m)), float(into[m, r])),
            Edge(str(NodeId(stem + middle, m)), str(NodeId(stem + "out", w)), float(out[w, m])),
        ]
        if not any((edge.source, edge.target) in taken for edge in path):
            return path
    return None


def with_edges(circuit: Circuit, edges: Sequence[Edge]) -> Circuit:
    """The circuit with these edges, and with their ends among its nodes."""
    keep = circuit.keep
    for edge in edges:
        keep[circuit.space.number(edge.source)] = keep[circuit.space.number(edge.target)] = True
    return replace(circuit, nodes=circuit.space.nodes(keep), edges=tuple(edges))


def edge_answers(model: nn.Module, circuit: Circuit, pairs: PairSet) -> Tensor:
    """d = logit(A) - logit(B) of the edge circuit, raw: `[n, side]`."""
    with circuit.attached(model, "edge"):
        answers = pair_answers(model, pairs, len(pairs))
    return answers[..., 0] - answers[..., 1]


def edge_shifts(model: nn.Module, circuit: Circuit, edges: Sequence[Edge], pairs: PairSet) -> list[float]:
    """Mean |d(C) - d(C without the edge)| in logits for each of `edges`, d = logit(A) - logit(B) of the edge circuit."""
    whole = edge_answers(model, circuit, pairs)
    shifts: list[float] = []
    for edge in edges:
        less = replace(circuit, edges=tuple(other for other in circuit.edges if other != edge))
        shifts.append(float((whole - edge_answers(model, less, pairs)).abs().double().mean()))
    return shifts


@criterion("minimality test", "tests", at_least="min_needed")
def minimality_test(exam: Examination) -> Measurement:
    """What share of the edges matters more than random edges of an inflated circuit?

    Of as many random paths as the correction needs one edge each is knocked out; each edge of the circuit is tested at alpha /
    number of edges.
    """
    model, circuit, pairs = exam.model, exam.circuit, exam.some
    n_edges, alpha = circuit.n_edges, exam.config.alpha
    if n_edges == 0 or not enough_draws(exam.config.n_inflated, n_edges):
        note = f"{n_edges} edges need {DRAWS_PER_TEST * n_edges} draws, {exam.config.n_inflated} allowed"
        return missing("fraction", note, n_edges)
    n_draws = DRAWS_PER_TEST * n_edges
    rng, taken = Random(exam.config.seed), {(edge.source, edge.target) for edge in circuit.edges}
    drawn: list[float] = []
    for _ in range(n_draws):
        path = random_path(exam.transformer, circuit.space, taken, rng)
        if path is None:
            return missing("fraction", "no path through one block lies outside the circuit")
        inflated = with_edges(circuit, [*circuit.edges, *path])
        drawn += edge_shifts(model, inflated, [rng.choice(path)], pairs)
    ps = [permutation_p(shift, drawn) for shift in edge_shifts(model, circuit, circuit.edges, pairs)]
    needed = [p <= alpha / n_edges for p in ps]
    loose = [f"{e.source} -> {e.target}" for e, ok in zip(circuit.edges, needed, strict=True) if not ok]
    note = f"n counts edges; {n_draws} random inflated edges, each edge tested at {alpha / n_edges:.2g}"
    detail = {"edges_not_needed": loose}
    return Measurement(value=sum(needed) / n_edges, unit="fraction", n=n_edges, note=note, detail=detail)
