"""The circuit that recalls, found by extraction in a model that was trained in the world of `sparsetrain/data/worlds/conflicts.py`.

1. A pair asks for the same relation of two subjects, `[PLAIN, relation, subject]`, of which memory knows different objects. Nothing is stated.
2. Facts of contradicted subjects alone are used, those that were shown often: nothing else is reported of them. They are dealt to three sets, two
   facts of a relation at a time: pairs to learn masks from, pairs to bisect and clean up on, and pairs that no search sees.
3. The search is `circuits.search.search`, deleted nodes emit their mean over documents, the shift of the answers is the full model's.
4. The loss that is stated is that of the third set. A model that misses the target is searched down to what it can do, and `reason` says so.

Facts need not share nodes: a circuit of many facts may be most of a model, and one of some facts need not recall the others. Both are results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from circuits.answers import Ablated, pair_answers
from circuits.calibrate import calibrated_loss, model_calibration
from circuits.edges import count_edges
from circuits.means import Means, measure_means
from circuits.search.learn import LIFT, Aim, MaskRun, PruneConfig
from circuits.search.search import search
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairSplit, PairText, Side
from sparsetrain.data.worlds.conflicts import KINDS, PLAIN, ConflictWorld
from sparsetrain.model import Transformer
from sparsetrain.typed import Above0, Count, Share

TASK = "recall"
TURNS: tuple[PairSplit, ...] = ("train", "val", "val", "heldout")
"""Whom the facts of a relation are dealt to, two at a time and relation after relation. ours"""


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """How the circuit is searched. ours, where `PruneConfig` does not say otherwise"""

    at_least: Count = 64
    """Exposures of the facts that are asked for."""
    n_documents: Count = 200
    """Of which means are taken."""
    target_loss: Above0 = 0.15
    """Task loss to reach, nats (Gao et al. 2025, section 2.2)."""
    margin: Share = 0.3
    """The search aims at margin * target_loss on its own pairs: nodes that other facts need are spared while that is well met."""
    settle: Share = 1.0
    """See `circuits.search.learn.MaskRun`."""
    min_raw_accuracy: float = 0.75
    """Accuracy without calibration below which a circuit does not count."""
    prune: PruneConfig = field(
        default_factory=lambda: PruneConfig(n_steps=40, n_pairs=12, candidate_share=0.05, n_screen=12, clean_rounds=3)
    )

    def __post_init__(self) -> None:
        if not 0 <= self.min_raw_accuracy <= 1:
            raise ValueError(f"min_raw_accuracy={self.min_raw_accuracy} must be from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RecallPairs:
    """Pairs of recall prompts, of different facts in each set."""

    train: PairSet
    val: PairSet
    heldout: PairSet
    facts: tuple[int, ...]
    """All facts that are in them, as numbers of `ConflictWorld.facts`."""


@dataclass(frozen=True, kw_only=True)
class Recall:
    """What was found."""

    nodes: tuple[str, ...]
    """Ids of the circuit's nodes, in forward order."""
    means: Means
    """What deleted nodes emit."""
    n_edges: int
    """Nonzero weights from a node of the circuit to another."""
    loss: float
    """Calibrated task loss on pairs of facts that the search has not seen, nats; NaN: there are no pairs."""
    model_loss: float
    """The full model's."""
    target: float
    """Nats."""
    facts: tuple[int, ...]
    """That were asked for, by the search or to state the loss: they are not to be reported on."""
    reason: str = ""
    """Why the circuit does not count; empty: it does."""

    @property
    def n_nodes(self) -> int:
        return len(self.nodes)

    @property
    def n_all(self) -> int:
        """Nodes of the model."""
        return self.means.space.n_nodes

    @property
    def reached(self) -> bool:
        """Whether the circuit meets the target, on the search's pairs and on those that it has not seen."""
        return not self.reason


def recall_circuit(
    model: Transformer, world: ConflictWorld, weights_sha256: str, config: RecallConfig, seed: int
) -> Recall:
    """Searches the nodes that recall what was shown often.

    Args:
        model: trained in the world.
        world: its facts and documents.
        weights_sha256: hash of the model's weights.
        config: the search's settings.
        seed: of the deal of facts, of the documents for means and of the masks.

    Returns:
        The circuit; where none meets the target the best one there is, perhaps without a node, and the reason.
    """
    means = document_means(model, world, weights_sha256, config.n_documents, seed)
    pairs = recall_pairs(world, config.at_least, seed)
    if isinstance(pairs, str):
        nothing = float("nan")
        return Recall(nodes=(), means=means, n_edges=0, loss=nothing, model_loss=nothing, target=config.target_loss, facts=(), reason=pairs)  # fmt: skip
    ablated = Ablated(model=model, means=means.values, max_rows=config.prune.max_rows)
    calibration = model_calibration("model", pair_answers(model, pairs.train))

    def loss(answers: Tensor) -> float:
        return float(calibrated_loss(answers, calibration)[0][0])

    own, model_loss = (loss(pair_answers(model, of)[None]) for of in (pairs.val, pairs.heldout))
    wanted = config.margin * config.target_loss
    able = own <= wanted
    aim = Aim(
        model=model,
        means=means.values,
        max_rows=config.prune.max_rows,
        target=wanted if able else own + LIFT,
        config=config.prune,
        min_raw_accuracy=config.min_raw_accuracy if able else 0.0,
    )
    run = MaskRun(seed=seed, train=pairs.train, val=pairs.val, settle=config.settle, calibration=calibration)
    pruned = search(aim, [run])[0]
    found = loss(ablated.answers(pruned.keep[None], pairs.heldout))
    reason = ""
    if not able:
        reason = f"the model itself has a loss of {own:.3g} nats on the pairs of the search, which may be {wanted:.3g}; the circuit does what it can do"
    elif not pruned.reached:
        reason = f"no circuit meets {wanted:.3g} nats on the pairs of the search; this one has {pruned.loss:.3g}"
    elif found > config.target_loss:
        reason = f"the circuit has a loss of {found:.3g} nats on facts that the search has not seen, which may be {config.target_loss:.3g}"
    return Recall(
        nodes=tuple(means.space.id(number) for number in pruned.keep.nonzero().flatten().tolist()),
        means=means,
        n_edges=count_edges(model, means.space, pruned.keep),
        loss=found,
        model_loss=model_loss,
        target=config.target_loss,
        facts=pairs.facts,
        reason=reason,
    )


def document_means(model: Transformer, world: ConflictWorld, weights_sha256: str, n_documents: int, seed: int) -> Means:
    """Mean activations over documents of both kinds, drawn from all, as often of each kind as they are trained on."""
    rows = np.random.default_rng([seed, 5]).permutation(len(world.tokens))[:n_documents]
    counts = np.bincount(world.kind[rows], minlength=len(KINDS)).tolist()
    kinds = ", ".join(f"{n} {kind}" for n, kind in zip(counts, KINDS, strict=True))
    return measure_means(
        model,
        torch.from_numpy(world.tokens[rows, :-1]),
        source=f"documents of the training ({kinds}), all tokens but the last",
        weights_sha256=weights_sha256,
    )


def recall_pairs(world: ConflictWorld, at_least: int, seed: int) -> RecallPairs | str:
    """Pairs of all facts of contradicted subjects that were shown at least so often, or why there are none.

    Two facts of a relation at a time are given to the sets in turn (`TURNS`); one that is left over goes where the first ones of its relation went.
    """
    facts, rng = world.facts, np.random.default_rng([seed, 6])
    usable = np.flatnonzero(
        facts.of_kind("shown") & (facts.n >= at_least) & (facts.subject < world.config.n_contradicted)
    )
    dealt: dict[PairSplit, list[list[int]]] = {split: [] for split in TURNS}
    turn = 0
    for relation in np.unique(facts.prompts[usable, 1]):
        of_relation = rng.permutation(usable[facts.prompts[usable, 1] == relation]).tolist()
        parts: dict[PairSplit, list[int]] = {}
        for start in range(0, len(of_relation), 2):
            two = of_relation[start : start + 2]
            if len(two) == 2 or not parts:
                parts.setdefault(TURNS[turn % len(TURNS)], []).extend(two)
                turn += 1
            else:
                next(iter(parts.values())).extend(two)
        for split, part in parts.items():
            dealt[split].append(part)
    chosen = {split: _of_different_objects(world, parts) for split, parts in dealt.items()}
    if lacking := [split for split, found in chosen.items() if not found]:
        return (
            f"{len(usable)} facts of contradicted subjects were shown at least {at_least} times, which leaves no pairs for {', '.join(lacking)}; "
            f"give more groups of subjects (n_groups={world.config.n_groups}) or a smaller at_least"
        )
    used = sorted({fact for found in chosen.values() for pair in found for fact in pair})
    return RecallPairs(
        train=_pair_set(world, "train", chosen["train"], seed, rng),
        val=_pair_set(world, "val", chosen["val"], seed, rng),
        heldout=_pair_set(world, "heldout", chosen["heldout"], seed, rng),
        facts=tuple(used),
    )


def _of_different_objects(world: ConflictWorld, parts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    objects = world.facts.prompts[:, 3]
    return [(a, b) for part in parts for a, b in combinations(part, 2) if objects[a] != objects[b]]


def _pair_set(
    world: ConflictWorld, split: PairSplit, pairs: Sequence[tuple[int, int]], seed: int, rng: np.random.Generator
) -> PairSet:
    """Pairs in an order, and with sides, that are drawn."""
    sides = rng.permuted(np.array(pairs)[rng.permutation(len(pairs))], axis=1)  # [pair, side]
    subject, relation, _, obj = np.moveaxis(world.facts.prompts[sides], -1, 0)
    tokens = np.stack([np.full_like(subject, PLAIN), relation, subject], -1)  # [pair, side, pos]

    def side(fact: int) -> Side:
        s, r, _, o = world.facts.prompts[fact].tolist()
        return Side(prompt=f"{PLAIN} {r} {s}", answer=f" {o}", continuation="")

    return PairSet(
        task=TASK,
        split=split,
        seed=seed,
        twin=None,
        tokens=torch.from_numpy(tokens),
        last=torch.full(sides.shape, tokens.shape[-1] - 1),
        answers=torch.from_numpy(obj),
        texts=tuple(PairText(positive=side(a), negative=side(b)) for a, b in sides.tolist()),
    )
