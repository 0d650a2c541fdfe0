"""What a circuit must beat: random connected circuits, the best nodes by attribution, itself without a node that it needs.

1. A random circuit grows by whole paths from the logits back to the embedding, through channels alive in pretraining text and
   nonzero weights, until it has as many edges as the circuit; every node of it lies on such a path (`circuits.edges.on_path`).
   The circuit's own nodes may be among those drawn.
2. The nodes of highest attribution in the full model, as many as have the circuit's number of edges among those on a path.
3. Broken circuits: the circuit without one node. Which nodes it needs is decided on the fit pairs.

All of them are calibrated by the circuit's rule and scored on the same held-out pairs. What is compared is a loss with a loss:
"lower than 100 of 100" says nothing where all of them know nothing, so a circuit has to take away a share of the loss that
the best random circuits leave. The broken circuits say how often that comparison sees what is wrong.
Source: the idea of random circuits is Shi et al. 2024's; connected ones, matched in edges, and the comparison are ours.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from math import log
from random import Random

import torch
from torch import Tensor, nn

from circuits.edges import (
    Join,
    count_edges,
    has_edges,
    inputs,
    join_weight,
    joins,
    linear_of,
    on_path,
    outputs,
    size_of,
)
from circuits.evidence.effect import necessity
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.hypotheses import enough_draws, permutation_p
from circuits.evidence.measurement import Measurement, floats, missing
from circuits.masks import NodeSpace
from circuits.search.cleanup import without_each
from circuits.search.learn import attribution
from circuits.tasks.loss import pair_logit_diff, pair_task_loss, task_loss
from sparsetrain.model import Transformer
from sparsetrain.typed import Json

EDGE_TOLERANCE = 0.05
"""Share of a circuit's edges (at least one edge) by which a random circuit may have more or fewer."""
_EMBEDDING = -1
_JOIN = 0.5  # chance that a step of a path goes to a node that the random circuit has, where there is one
_N_TRIES = 200  # paths refused one after another before a draw ends with fewer edges
_BEST = (
    0.05  # the quantile of random losses that counts as their best: the lowest of them depends on how many are drawn
)


@dataclass(frozen=True, kw_only=True)
class Paths:
    """All paths of a model from its embedding to its logits, followed backwards a step at a time.

    Args:
        usable: bool `[n_nodes]`, nodes that a path may go through.
    """

    model: Transformer
    space: NodeSpace
    usable: Tensor
    _before: dict[int, list[list[int]]] = field(default_factory=dict[int, list[list[int]]], init=False, repr=False)
    _joined: dict[int, set[int]] = field(default_factory=dict[int, set[int]], init=False, repr=False)

    @cached_property
    def open(self) -> dict[str, Tensor]:
        """Hook point -> bool `[width]`, nodes on a path: a walk among them never ends before the embedding."""
        return self.space.split(on_path(self.model, self.space, self.usable).cpu())

    @cached_property
    def weights(self) -> dict[Join, Tensor]:
        """Join -> which weights are not zero, bool `[target, source]`, between nodes on a path."""
        found = {join: (join_weight(self.model, self.space, join) != 0).cpu() for join in joins(self.model)}
        return {join: w & self.open[join.target][:, None] & self.open[join.source] for join, w in found.items()}

    @cached_property
    def ends(self) -> list[int]:
        """Nodes whose channel the logits read."""
        read = outputs(self.model).cpu()
        return [x for name in self.space.names if name.endswith("_out") for x in self._numbers(name, read)]

    @cached_property
    def begins(self) -> tuple[Tensor, Tensor]:
        """`circuits.edges.inputs`, on the CPU."""
        stream, placed = inputs(self.model)
        return stream.cpu(), placed.cpu()

    def _numbers(self, name: str, channels: Tensor) -> list[int]:
        there: list[int] = ((channels & self.open[name]).nonzero().flatten() + self.space.slice(name).start).tolist()
        return there

    def before(self, node: int) -> list[list[int]]:
        """Where a path may have come from, the nodes of each hook point apart (-1: the embedding or a position)."""
        if node not in self._before:
            self._before[node] = [found for found in self._sources(node) if found]
        return self._before[node]

    def _sources(self, node: int) -> list[list[int]]:
        point, channel = self.space.place(node)
        name, (stream, placed) = self.space.names[point], self.begins
        if name.endswith("_in"):
            earlier = [x for x in self.space.names[:point] if x.endswith("_out") and bool(self.open[x][channel])]
            writes = [self.space.slice(x).start + channel for x in earlier]
            return [[*([_EMBEDDING] if bool(stream[channel]) else []), *writes]]
        join = next(join for join in self.weights if join.target == name)
        found = [self._numbers(join.source, self.weights[join][channel])]
        if join.source.endswith("hook_v"):  # queries and keys of the heads that write this channel
            reads = (join_weight(self.model, self.space, join)[channel] != 0).cpu()
            heads = reads.view(self.model.config.heads, -1).any(1).repeat_interleave(self.model.config.d_head)
            found += [self._numbers(join.source[:-1] + x, heads) for x in "qk"]
        elif join.source.endswith("hook_in") and len(placed):
            positions = linear_of(self.model, join).weight.detach()[channel, -len(placed) :].cpu()
            found.append([_EMBEDDING] * int(((positions != 0) & placed).any()))
        return found

    def joined(self, node: int) -> set[int]:
        """The nodes with which a node has an edge."""
        if node not in self._joined:
            point, channel = self.space.place(node)
            name = self.space.names[point]
            sources = [(join.source, w[channel]) for join, w in self.weights.items() if join.target == name]
            targets = [(join.target, w[:, channel]) for join, w in self.weights.items() if join.source == name]
            self._joined[node] = {x for other, ends in sources + targets for x in self._numbers(other, ends)}
        return self._joined[node]

    def walk(self, kept: set[int], rng: Random) -> list[int]:
        """The new nodes of a random path from the logits to the embedding, or to a kept node that leads on to it."""
        path: list[int] = []
        groups = [self.ends]
        while True:
            group = rng.choice(groups)
            known = sorted(kept.intersection(group))
            node = rng.choice(known if known and rng.random() < _JOIN else group)
            if node == _EMBEDDING or (path and node in kept):
                return path
            if node not in kept:
                path.append(node)
            groups = self.before(node)

    def draw(self, n_edges: int, rng: Random) -> set[int]:
        """Nodes of a random connected circuit of about `n_edges` edges; fewer where the usable nodes have no more."""
        most = n_edges + max(1, round(EDGE_TOLERANCE * n_edges))
        kept, found, refused = set[int](), 0, 0
        while self.ends and found < n_edges and refused < _N_TRIES:
            grown, total = set(kept), found
            for node in self.walk(kept, rng):
                total += len(self.joined(node) & grown)
                grown.add(node)
            if len(kept) < len(grown) and total <= most:
                kept, found, refused = grown, total, 0
            else:
                refused += 1
        return kept


def random_circuits(model: nn.Module, space: NodeSpace, keep: Tensor, alive: Tensor, n: int, seed: int) -> Tensor:
    """Random connected circuits with as many edges as `keep`, up to `EDGE_TOLERANCE`: bool `[n, n_nodes]`.

    In a model without edges every node is on a path: as many nodes are drawn at every hook point.

    Args:
        keep: bool `[n_nodes]`, the circuit.
        alive: bool `[n_nodes]`, channels that paths may go through; the circuit's own are always added.
    """
    rng, usable = Random(seed), (alive | keep).cpu()
    if not isinstance(model, Transformer):
        pools, kept = space.nodes(usable), space.nodes(keep)
        rows = [{name: rng.sample(pools[name], len(own)) for name, own in kept.items()} for _ in range(n)]
        return torch.stack([space.mask(row) for row in rows])
    paths = Paths(model=model, space=space, usable=usable)
    n_edges = count_edges(model, space, keep)
    drawn = torch.zeros(n, space.n_nodes, dtype=torch.bool)
    for row in drawn:
        row[sorted(paths.draw(n_edges, rng))] = True
    return drawn


def drawn(exam: Examination) -> Tensor:
    """Random connected circuits of the circuit's number of edges, bool `[n_random, n_nodes]`."""
    alive, config = exam.inputs.alive.cpu(), exam.config
    return random_circuits(exam.model, exam.space, exam.keep, alive, config.n_random, config.seed)


def pair_losses(exam: Examination, masks: Tensor) -> Tensor:
    """Task loss of each of the first held-out pairs in each of these circuits, float64 `[n_masks, n]`."""
    return pair_task_loss(exam.calibration_of(masks).apply(exam.answers(masks, exam.some).double()))


def compared(exam: Examination) -> Tensor:
    """`pair_losses` of the circuit, then of the random ones."""
    return pair_losses(exam, torch.cat([exam.keep[None], exam.once(drawn)]))


def losses(exam: Examination) -> list[float]:
    """Task loss of the circuit, then of the random ones, on the same few pairs."""
    return floats(exam.once(compared).mean(1))


def removed(rows: Tensor) -> Tensor:
    """Share of the loss of the best random circuits (or of a coin) that a circuit takes away.

    1 - L(C) / min(ln 2, 5% quantile of L(random)), L the mean over pairs.

    Args:
        rows: float64 `[..., n pairs, (circuit, random circuits...)]`.
    """
    means = rows.mean(-2)
    return 1 - means[..., 0] / means[..., 1:].quantile(_BEST, dim=-1).clamp(max=log(2))


def sizes(exam: Examination) -> str:
    """How many edges the random circuits have, in words."""
    counts = [size_of(exam.model, exam.space, mask) for mask in exam.once(drawn)]
    return f"{min(counts)} to {max(counts)} {'edges' if has_edges(exam.model) else 'nodes'}"


@criterion("random circuits", "critique 3", at_least="min_removed", needs="min_pairs")
def beaten(exam: Examination) -> Measurement:
    """What share of the loss of the best random connected circuits of as many edges does it take away?"""
    rows = exam.once(compared)
    own, *others = floats(rows.mean(1))
    if not bool(exam.once(drawn).any(1).all()):
        return missing("fraction", "no random circuit of this size could be drawn", len(exam.some))
    note = f"{len(others)} circuits of {sizes(exam)}; the circuit's loss {own:.3f}, the best random one's {min(others):.3f}"
    return exam.measured(rows.T, "fraction", removed, note=note)


def attributed(exam: Examination) -> Tensor:
    """The nodes of highest attribution on the fit pairs, as many as have no more edges on paths than the circuit: bool `[n_nodes]`."""
    order = attribution(exam.ablated, exam.fit).argsort(descending=True, stable=True)

    def best(k: int) -> Tensor:
        return on_path(exam.model, exam.space, torch.zeros_like(exam.keep).index_fill(0, order[:k], True))

    def size(k: int) -> int:
        return size_of(exam.model, exam.space, best(k))

    return best(bisect_right(range(len(order) + 1), size_of(exam.model, exam.space, exam.keep), key=size) - 1)


@criterion("best nodes by attribution", "critique 3", at_most="max_above_attributed", needs="min_pairs")
def above_attributed(exam: Examination) -> Measurement:
    """How far is its loss above that of the model's best nodes by attribution, at as many edges?"""
    masks = torch.stack([exam.keep, exam.once(attributed)])
    rows = pair_losses(exam, masks)
    n_edges = count_edges(exam.model, exam.space, masks[1])
    note = f"{int(masks[1].sum())} nodes, {n_edges} edges; their loss {float(rows[1].mean()):.3f}"
    return exam.measured(rows[0] - rows[1], "nats", note=note)


def broken(exam: Examination) -> Tensor:
    """The circuit without each of the nodes that it needs most on the fit pairs, bool `[at most n_broken, n_nodes]`."""
    nodes = exam.keep.nonzero().flatten()
    masks = torch.cat([exam.keep[None], without_each(exam.keep, nodes)])
    found = task_loss(
        exam.calibration_of(masks).apply(exam.answers(masks, exam.fit.batch(slice(0, len(exam.some)))).double())
    )
    rises = found[1:] - found[0]
    worst = rises.argsort(descending=True, stable=True)[: exam.config.n_broken]
    return masks[1:][worst[rises[worst] >= exam.config.min_broken_rise]]


@criterion("broken circuits", "critique 3", at_least="min_caught", needs="min_broken")
def caught(exam: Examination) -> Measurement:
    """How often does the comparison with random circuits reject the circuit without a node that it needs?"""
    masks, config = exam.once(broken), exam.config
    if not len(masks):
        return missing("fraction", f"no node raises the loss by {config.min_broken_rise:g} nats when it is taken out")
    random, found = exam.once(compared)[1:], pair_losses(exam, masks)
    left = [float(removed(torch.cat([own[None], random]).T)) for own in found]
    n_loose = int((found.mean(1) <= config.max_task_loss).sum())
    note = f"n counts broken circuits; {n_loose} of them keep the task loss"
    n_caught = sum(x < config.min_removed for x in left)
    nodes = [exam.space.id(int((exam.keep & ~mask).nonzero())) for mask in masks]
    detail: dict[str, Json] = {"removed": dict(zip(nodes, left, strict=True))}
    # The nodes that it needs most are no sample: no interval.
    return Measurement(value=n_caught / len(left), unit="fraction", n=len(left), note=note, detail=detail)


def without(exam: Examination) -> Tensor:
    """Answers of the full model without each of the first random sets, on a few pairs: `[n_sets, n, side, answer]`."""
    return exam.answers(~exam.once(drawn)[: exam.config.n_random_necessity], exam.some)


@criterion("necessity among random sets", "metrics", at_least="min_more_needed", needs="min_pairs")
def needed_more(exam: Examination) -> Measurement:
    """How much more of the effect is lost without the circuit than without random connected ones of as many edges, on average?"""
    n = len(exam.some)
    sets = torch.cat([exam.full[None, :n], exam.empty[None, :n], exam.without[None, :n], exam.once(without)])
    if exam.effect == 0:
        return exam.no_effect()
    others = necessity(exam.full[:n], exam.empty[:n], exam.once(without))

    def more(rows: Tensor) -> Tensor:  # [..., n, (model, nothing, without the circuit, without random sets...)]
        full, empty, own, *_ = (m := rows.mean(-2)).unbind(-1)
        return (m[..., 3:].mean(-1) - own) / (full - empty)

    note = f"{len(others)} random sets; the most that one of them loses: {max(others, default=0.0):.3f}"
    return exam.measured(pair_logit_diff(sets).double().T, "fraction", more, note=note, detail={"random": others})


@criterion("sufficiency test", "tests", at_most="alpha")
def sufficiency_test(exam: Examination) -> Measurement:
    """How likely is so low a loss for a random connected circuit of as many edges?"""
    own, *others = exam.once(losses)
    if not enough_draws(len(others), 1):
        return missing("p-value", "too few circuits drawn", len(others))
    p = permutation_p(-own, [-other for other in others])
    return Measurement(value=p, unit="p-value", n=len(others), note="n counts random circuits")
