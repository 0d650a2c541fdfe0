"""The circuit of every behaviour of the rule language, a rule in a context, by the project's own search.

1. A pair is two prompts of one context. The first is the behaviour's, answer y; the second has the same operands under the word of another rule,
   whose answer is another one (other operands of the behaviour, where no rule has). y must be said at the first, out of all tokens, and not at the
   second: the search's loss of a pair is the mean of -ln p(y | first) and -ln(1 - p(y | second)).
2. Pairs come from training inputs alone, which masks are learned on and then bisected on; deleted nodes emit their means over the training
   inputs, and no answer is calibrated. Inputs that are held out of training are held out of the search.
3. All behaviours of a model are searched side by side, by the candidates, masks and bisection of `circuits.search`. There is no clean-up: it tries
   hundreds of nodes one by one, which takes ten times as long as the rest, for circuits that are a tenth smaller.
4. What is stated is the loss of the answer alone and the accuracy, over all tokens, on training inputs and on those that nothing has seen.

A model that misses the target itself is searched down to what it can do, and `reached` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.answers import pair_answers
from circuits.calibrate import calibrated_loss, model_calibration
from circuits.fracture.attributions import Bools, ablated_logits
from circuits.fracture.distil import last_tokens
from circuits.fracture.engine import Asked
from circuits.fracture.measures import Floats
from circuits.fracture.questions import Questions
from circuits.means import Means
from circuits.search.learn import LIFT, Aim, MaskRun, PruneConfig, learn_masks
from circuits.search.search import Search
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from circuits.tasks.tokenise import REST
from sparsetrain.model import Transformer
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.typed import Above0, Count, Seed, Share


@dataclass(frozen=True, kw_only=True)
class CircuitsConfig:
    """How circuits are searched. ours, where `PruneConfig` does not say otherwise"""

    target_loss: Above0 = 0.15
    """Loss of a pair to reach, nats (Gao et al. 2025, section 2.2)."""
    n_pairs: Count = 80
    """Of each behaviour; fewer, where it has fewer training inputs."""
    seed: Seed = 0
    """Of the pairs and of the masks; a try takes the next one."""
    n_tries: Count = 3
    """Searches of a behaviour at most: another one where the masks missed the target as they were learned. The smaller circuit stays."""
    settle: Share = 0.7
    """See `circuits.search.learn.MaskRun`."""
    prune: PruneConfig = field(default_factory=lambda: PruneConfig(n_steps=160, n_pairs=8, k_coef=2e-3, max_rows=512))
    """More steps and a lower price than elsewhere: in a small model without clean-up both make circuits smaller."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """How circuits answer on one split; `[n_behaviours]` each."""

    loss: Floats
    """-ln p(answer) over all tokens, nats."""
    accuracy: Floats
    """Share of prompts whose answer is the most probable token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BehaviourCircuits:
    """What was found."""

    keep: Bools
    """Nodes of each circuit, `[n_behaviours, n_nodes]`."""
    pair_loss: Floats
    """Of the search's own pairs, nats, `[n_behaviours]`."""
    targets: Floats
    """That they had to reach, `[n_behaviours]`."""
    reached: Bools
    """Whether the model can do with `target_loss`, and the circuit too, `[n_behaviours]`."""
    train: Answered
    heldout: Answered

    @property
    def sizes(self) -> Floats:
        """Nodes, `[n_behaviours]`."""
        return self.keep.sum(1).astype(np.float64)

    def of_rules(self, n_contexts: int) -> Bools:
        """`[n_rules, n_contexts, n_nodes]`, for `union_ratio` and `excess_union`."""
        return self.keep.reshape(-1, n_contexts, self.keep.shape[1])


def behaviour_circuits(
    model: Transformer, questions: Questions, means: Means, config: CircuitsConfig
) -> BehaviourCircuits:
    """Searches a circuit for every behaviour.

    Args:
        model: answers the questions; left as it is.
        questions: of all behaviours.
        means: what deleted nodes emit.
        config: the search's settings.

    Raises:
        ValueError: a behaviour whose questions of training find no partner with another answer.
    """
    n = questions.n_behaviours
    pairs = [behaviour_pairs(questions, behaviour, config.n_pairs, config.seed) for behaviour in range(n)]
    n_pairs = np.array([len(of) for of in pairs])
    calibration = model_calibration("none", torch.zeros(1, 2, 2))
    own = [float(calibrated_loss(pair_answers(model, of)[None], calibration)[0][0]) for of in pairs]
    misses = max(own) + LIFT  # of all that miss the target the worst, so that they are searched side by side too
    targets = np.array([config.target_loss if loss <= config.target_loss else misses for loss in own])
    keep = torch.zeros(n, means.space.n_nodes, dtype=torch.bool)
    losses, sizes = np.full(n, np.inf), np.full(n, means.space.n_nodes + 1)
    open_ones = np.arange(n)
    for attempt in range(config.n_tries):
        again: list[int] = []
        for target, size in sorted(
            {(targets[i], n_pairs[i]) for i in open_ones}
        ):  # ... and one target and equally many pairs
            which = open_ones[(targets[open_ones] == target) & (n_pairs[open_ones] == size)]
            aim = Aim(model=model, means=means.values, max_rows=config.prune.max_rows, target=float(target), config=config.prune)  # fmt: skip
            runs = [
                MaskRun(seed=config.seed + attempt, train=pairs[i], val=pairs[i], settle=config.settle, calibration=calibration)
                for i in which
            ]  # fmt: skip
            with evaluating(model):
                found = _searched(aim, runs)
            for i, circuit, loss, learned in zip(which, found.keep, found.loss.tolist(), found.learned, strict=True):
                meets = loss <= target
                if (not meets, int(circuit.sum())) < (losses[i] > target, sizes[i]):
                    keep[i], losses[i], sizes[i] = circuit, loss, int(circuit.sum())
                if not learned:
                    again.append(int(i))
        open_ones = np.array(again, dtype=np.int64)
    reached = (losses <= targets) & (targets <= config.target_loss)
    return BehaviourCircuits(
        keep=keep.numpy(),
        pair_loss=losses,
        targets=targets,
        reached=reached,
        train=answered(model, means, keep, questions.asked(held=False)),
        heldout=answered(model, means, keep, questions.asked(held=True)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """Circuits of behaviours that were searched side by side."""

    keep: Tensor
    """bool `[n_runs, n_nodes]`."""
    loss: Tensor
    """`[n_runs]`, nats."""
    learned: tuple[bool, ...]
    """Whether the masks met the target as they were learned; where not, the circuit is the prefix of a bad ranking."""


def _searched(aim: Aim, runs: Sequence[MaskRun]) -> _Found:
    looking = Search(aim, runs)
    candidates, ranks = looking.candidates()
    tau, n_kept = looking.better(*learn_masks(aim, runs, candidates, ranks))
    orders = [row.argsort(descending=True)[: int(on.sum())] for row, on in zip(tau, candidates, strict=True)]
    keep = torch.stack(looking.bisect(orders, n_kept))
    learned = tuple(int(mask.sum()) <= n for mask, n in zip(keep, n_kept, strict=True))
    return _Found(keep=keep, loss=looking.loss(keep, range(len(runs)))[0], learned=learned)


def answered(model: Transformer, means: Means, keep: Tensor, asked: Asked) -> Answered:
    """How the circuit of each behaviour answers its own inputs.

    Args:
        keep: bool `[n_behaviours, n_nodes]`.
        asked: some of each behaviour.
    """
    loss, accuracy = np.full((2, len(keep)), np.nan)
    for behaviour, mask in enumerate(keep):
        of = asked.tokens[asked.behaviour == behaviour]
        (logits,) = ablated_logits(model, of[:, :-1], means, mask[None])
        loss[behaviour] = float(F.cross_entropy(logits[0].double(), of[:, -1]))
        accuracy[behaviour] = float((logits[0].argmax(-1) == of[:, -1]).double().mean())
    return Answered(loss=loss, accuracy=accuracy)


def behaviour_pairs(questions: Questions, behaviour: int, n: int, seed: int) -> PairSet:
    """Up to n pairs of a behaviour's questions of training, each the first prompt of one pair at most.

    Raises:
        ValueError: a question for which there is no partner: none of its context has another answer.
    """
    rng = np.random.default_rng([seed, 8, behaviour])
    firsts = rng.permutation(np.flatnonzero((questions.behaviour == behaviour) & ~questions.held))[:n]
    seconds = []
    for first in firsts:
        partners = questions.partners(int(first))
        if not len(partners):
            raise ValueError(f"no question of training in context {questions.contexts[questions.context[first]]!r} has another answer than one of {questions.behaviours[behaviour]}, and a pair needs two")  # fmt: skip
        seconds.append(rng.choice(partners))
    sides = torch.from_numpy(questions.tokens[np.stack([firsts, np.array(seconds)], 1)])  # [pair, side, length]

    def side(tokens: list[int], answer: str) -> Side:
        return Side(prompt=" ".join(map(str, tokens[:-1])), answer=answer, continuation="")

    texts = tuple(
        PairText(positive=side(a, f" {a[-1]}"), negative=side(b, " not that"), rest=True) for a, b in sides.tolist()
    )
    return PairSet(
        task=questions.behaviours[behaviour],
        split="train",
        seed=seed,
        twin=None,
        tokens=sides[..., :-1].clamp_min(0),
        last=last_tokens(sides[..., :-1].flatten(0, 1)).unflatten(0, sides.shape[:2]),
        answers=torch.stack([sides[:, 0, -1], torch.full((len(sides),), REST)], 1),
        texts=texts,
    )
