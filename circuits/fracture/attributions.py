"""What single nodes of a transformer do to each behaviour: every node ablated alone, exactly, for all prompts.

1. A node is a channel of a hook point (`circuits.masks`); ablated it emits its mean over the training inputs, at every position.
2. Many nodes are ablated in one pass: a copy of the prompts for each, folded into the batch axis. A node that is at its mean on all
   prompts changes nothing and needs no pass: in sparse models these are most of them.
3. Its effect on a prompt is the margin of the model less the margin without it: above 0 the node helps. Effects of a behaviour are means over
   its prompts. Its contribution is the length of what it changes of the logits, whatever that does to the margin.
4. `joint_effects` ablates a set of nodes together: what single ablations miss is `measures.redundancy`.

Source: mean ablation: Gao et al. 2025, section A.5; contributions: K. Xu 2026.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.fracture.distil import answer_logits, last_tokens
from circuits.fracture.engine import Asked, margins, unchanged_logits
from circuits.fracture.measures import Floats
from circuits.fracture.questions import Questions
from circuits.masks import NodeSpace, ablation_hooks
from circuits.means import Means, measure_means
from circuits.search.cleanup import without_each
from sparsetrain.hooks import NODE_KINDS, NodeId, hooked, record
from sparsetrain.model import Transformer
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.typed import Count, Seed

Bools = NDArray[np.bool_]
TOKENS_OF_A_PASS = 2**13
"""Prompts of a pass, in tokens; as many copies as fit, at least one. More do not stay in the cache of a CPU. ours"""
ROUNDING = 1e-4
"""Logits: a change of the output that is shorter comes from the order of sums, and counts as none. ours"""


@dataclass(frozen=True, kw_only=True)
class AttributionsConfig:
    """Which nodes are ablated, on what. ours"""

    kinds: tuple[str, ...] = NODE_KINDS
    """Kinds of hook point whose channels are ablated."""
    n_prompts: Count = 20
    """Of each behaviour; all, where it has fewer."""
    n_joint: Count = 8
    """Nodes that are ablated together: those of largest effect on the behaviour."""
    seed: Seed = 0
    """Of the draw of prompts."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(NODE_KINDS)):
            raise ValueError(f"kinds has unknown entries {unknown}; allowed: {', '.join(NODE_KINDS)}")
        if not self.kinds:
            raise ValueError(f"kinds is empty; give at least one of {', '.join(NODE_KINDS)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeReadings:
    """Every node ablated alone, prompt by prompt."""

    nodes: Tensor
    """Numbers of the nodes, `[n_nodes]` int64, rising."""
    moved: Floats
    """Margin of the model less that without the node, logits, `[n, n_nodes]`."""
    contributions: Floats
    """Length of the change of the centred logits, `[n, n_nodes]`, at least 0; below `ROUNDING` it is 0."""
    asked: Asked

    @property
    def effects(self) -> Floats:
        """Mean over the prompts of each behaviour, signed, `[n_behaviours, n_nodes]`."""
        return self.asked.means(torch.from_numpy(self.moved).T).T.numpy()


def question_means(model: Transformer, questions: Questions) -> Means:
    """What ablated nodes emit: their means over all questions of training, all tokens but the answers."""
    prompts = questions.asked(held=False).prompts
    with evaluating(model):
        return measure_means(
            model,
            prompts.clamp_min(0),
            source="all questions of training, without answers",
            weights_sha256="",
            last=last_tokens(prompts),
            batch_size=1024,
        )


def asked_some(asked: Asked, n: int, seed: int) -> Asked:
    """n prompts of each behaviour drawn without replacement, in their old order; all of those that have fewer."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(asked.tokens), generator=generator)
    place = torch.empty_like(drawn)
    for behaviour in range(asked.n_behaviours):
        of = drawn[asked.behaviour[drawn] == behaviour]
        place[of] = torch.arange(len(of))
    chosen = place < n
    return Asked(tokens=asked.tokens[chosen], behaviour=asked.behaviour[chosen], n_behaviours=asked.n_behaviours)


def nodes_of(space: NodeSpace, kinds: Sequence[str]) -> Tensor:
    """Numbers of the nodes of these kinds of hook point, `[n]` int64, rising."""
    chosen = torch.zeros(space.n_nodes, dtype=torch.bool)
    for name in space.names:
        chosen[space.slice(name)] = NodeId(name, 0).kind in kinds
    return chosen.nonzero().flatten()


def ablated_logits(model: Transformer, prompts: Tensor, means: Means, keep: Tensor) -> Iterator[Tensor]:
    """Logits behind each prompt with deleted nodes at their means, in passes of several masks: `[n_masks of the pass, n, d_vocab]`.

    Args:
        model: left as it is.
        prompts: `[n, length]` int64.
        means: of the model.
        keep: bool `[n_masks, n_nodes]`, which nodes stay.
    """
    n_copies = max(1, TOKENS_OF_A_PASS // prompts.numel())
    for masks in keep.split(n_copies):
        with evaluating(model), hooked(model, ablation_hooks(means.space, masks, means.values)):
            logits = answer_logits(model, prompts.repeat(len(masks), 1))
        yield logits.unflatten(0, (len(masks), len(prompts)))


def node_readings(model: Transformer, asked: Asked, means: Means, kinds: Sequence[str] = NODE_KINDS) -> NodeReadings:
    """Ablates every node of these kinds alone.

    Args:
        model: left as it is.
        asked: prompts of all behaviours.
        means: what an ablated node emits.
        kinds: of hook points.
    """
    nodes, space = nodes_of(means.space, kinds), means.space
    before = unchanged_logits(model, asked.prompts)
    at_first = margins(before, asked.answers)
    moved, changed = torch.zeros(2, len(nodes), len(asked.tokens)).unbind()
    with evaluating(model):
        _, seen = record(model, asked.prompts.clamp_min(0), space.names)
    deviates = space.join({name: x.flatten(0, 1) for name, x in seen.items()}) != means.values
    alive = deviates.any(0)[nodes].nonzero().flatten()
    done = 0
    for first in range(0, len(alive), 1024):  # masks of all nodes at once would be large
        some = alive[first : first + 1024]
        keep = without_each(torch.ones(space.n_nodes, dtype=torch.bool), nodes[some])
        for logits in ablated_logits(model, asked.prompts, means, keep):
            rows = alive[done : done + len(logits)]
            moved[rows] = at_first - margins(logits, asked.answers)
            difference = logits - before
            length = torch.linalg.vector_norm(difference - difference.mean(-1, keepdim=True), dim=-1)
            changed[rows] = torch.where(length < ROUNDING, 0.0, length)
            done += len(logits)
    return NodeReadings(nodes=nodes, moved=moved.T.double().numpy(), contributions=changed.T.double().numpy(), asked=asked)  # fmt: skip


def strongest(effects: Floats, m: int) -> Bools:
    """The m nodes that help each behaviour most, `[n_behaviours, n_nodes]` of the same shape; nodes that help none are not among them."""
    order = np.argsort(-effects, axis=1, kind="stable")[:, :m]
    chosen = np.zeros(effects.shape, dtype=np.bool_)
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen & (effects > 0)


def joint_effects(model: Transformer, asked: Asked, means: Means, sets: Tensor) -> Floats:
    """What ablating a set of nodes together does to each behaviour.

    Args:
        model: left as it is.
        asked: prompts of all behaviours.
        means: what ablated nodes emit.
        sets: the nodes of each behaviour, bool `[n_behaviours, n_nodes of the space]`.

    Returns:
        Margin of the model less that without its set, mean over the behaviour's prompts, logits, `[n_behaviours]`.
    """
    found = torch.zeros(asked.n_behaviours, dtype=torch.float64)
    for behaviour, chosen in enumerate(sets):
        of = asked.behaviour == behaviour
        prompts, answers = asked.prompts[of], asked.answers[of]
        # in a batch of the same size, so that an empty set has no effect at all
        before = unchanged_logits(model, prompts)
        (logits,) = ablated_logits(model, prompts, means, ~chosen[None])
        found[behaviour] = (margins(before, answers) - margins(logits[0], answers)).double().mean()
    return found.numpy()
