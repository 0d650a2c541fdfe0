"""Circuits that are known to be false, each as a user would meet it: in its own model, for its own pairs.

| kind | what it is |
|---|---|
| twin | what the search finds for unrelated answers after the same prompts |
| permuted weights | what it finds for the task in the model with its weights in random order |
| permuted labels | what it finds where neither answer goes with either side |
| excluded | what it finds where none of the true nodes may be used |
| broken | the true nodes without one that is essential |
| bloated | the true nodes with as many others |
| partly wrong | the true nodes with one in four exchanged for others of the same hook point |
| halved | the true nodes of a compensating mechanism without the pair that cancels |
| dormant | the second readout of a dormant one in place of the first: it could do the task, and the model takes it out again |
| own twin | what the search finds for unrelated answers after the prompts of a run's own tasks, in the run's own model |

Where a search misses its target, the nodes of highest attribution stand for what it would have found, as many as are true; of a run's
own tasks there is then no circuit.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.answers import Ablated
from circuits.circuit import Circuit
from circuits.evidence.searches import permuted_model
from circuits.means import Means
from circuits.search.learn import PruneConfig, attribution
from circuits.search.search import Pruned
from circuits.search.task import FindConfig, Pairs, TaskSearch, aim, best_pruned, circuit_of
from circuits.truth.pairs import changed, label_twin, nonsense_twin
from circuits.truth.plants import Plant, losses_of
from sparsetrain.model import Transformer

Falsehood = Literal[
    "twin",
    "permuted weights",
    "permuted labels",
    "excluded",
    "broken",
    "bloated",
    "partly wrong",
    "halved",
    "dormant",
    "own twin",
]
FALSEHOODS: tuple[Falsehood, ...] = get_args(Falsehood)
EVERYWHERE: tuple[Falsehood, ...] = FALSEHOODS[:7]
"""Kinds that any planted model has."""

FIND = FindConfig(seeds=(0,), settle=(0.6,), nonsense_twin=False, prune=PruneConfig(n_steps=40))
"""The budget of every search here, for circuits, twins and nulls alike. ours"""
ESSENTIAL = 1.5
"""A node is essential if the loss without it is this multiple of the target. ours"""
_N_WINDOWS = 32  # ours: lines of text for the criteria that need some


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where circuits live: a model, pairs of a task in it, and text."""

    model: Transformer
    means: Means
    pairs: Pairs
    task: str
    windows: Tensor
    _asking: dict[tuple[int, int], "Place"] = field(
        default_factory=dict[tuple[int, int], "Place"], init=False, repr=False, compare=False
    )

    @cached_property
    def subject(self) -> TaskSearch:
        """What search and calibration are functions of."""
        return TaskSearch(
            model=self.model, task=self.task, description="", pairs=self.pairs, means=self.means, config=FIND
        )

    def asking(self, answers: tuple[int, int]) -> "Place":
        """The same prompts with two answers that have nothing to do with them; what is searched there is searched once."""
        if answers not in self._asking:
            twin = replace(self, pairs=changed(self.pairs, lambda pairs: nonsense_twin(pairs, answers)))
            self._asking[answers] = twin
        return self._asking[answers]

    def circuit(self, keep: Tensor) -> Circuit:
        """These nodes as a circuit, with the calibration that the search gives to circuits."""
        calibration = self.subject.kept_calibration(self.pairs)
        assert calibration is not None
        nothing = torch.zeros(len(keep))
        found = Pruned(
            keep=keep, loss=0.0, reached=True, calibration=calibration, n_ranked=0, n_candidates=0, removal_loss=nothing
        )
        return circuit_of(self.subject, 0, found)

    @cached_property
    def found(self) -> Pruned:
        """What the search finds here."""
        return best_pruned(self.subject, aim(self.subject))[0][0]

    def best_by_attribution(self, n: int, barred: Tensor | None = None) -> Tensor:
        """The `n` nodes of highest attribution, without those that are barred: bool `[n_nodes]`."""
        scores = attribution(Ablated(model=self.model, means=self.means.values), self.pairs.val)
        scores = scores if barred is None else scores.masked_fill(barred, -1.0)
        return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, scores.topk(n).indices, True)


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """A circuit whose truth is known, where it lives, and where its nonsense twin is searched.

    Args:
        reached: whether its search met the target; None where there was no search.
    """

    place: Place
    keep: Tensor
    twin: Place
    reached: bool | None = None


def place_of(made: Plant) -> Place:
    """A planted model and its task."""
    windows = made.windows(_N_WINDOWS, 6)
    return Place(model=made.model, means=made.means, pairs=made.all_pairs, task=made.mechanism.family, windows=windows)


def true_specimen(made: Plant, here: Place, *, search: bool) -> Specimen:
    """The nodes that do the task; or what the search finds, where it finds nothing but such nodes and every essential one."""
    twin = here.asking(made.unrelated(1)[0])
    if search and here.found.reached:
        keep = here.found.keep
        if not (keep & ~made.true).any() and bool(keep[essential(made)].all()):
            return Specimen(place=here, keep=keep, twin=twin, reached=True)
    return Specimen(place=here, keep=made.true, twin=twin)


def false_specimen(made: Plant, here: Place, kind: Falsehood) -> Specimen:
    """A circuit of a planted model that is false in one way.

    Raises:
        ValueError: a form of the mechanism that has no circuit of this kind.
    """
    true, n_true = made.true, int(made.true.sum())
    (first, second), rng = made.unrelated(2), Random(f"{kind}/{made.seed}")
    twin = here.asking(first)
    match kind:
        case "twin":
            return _searched(twin, n_true, here.asking(second))
        case "permuted weights":
            null = permuted_model(here.model, made.seed)
            place = replace(here, model=null, means=made.means_of(null))
            return _searched(place, n_true, place.asking(first))
        case "permuted labels":
            return _searched(replace(here, pairs=changed(here.pairs, label_twin)), n_true, twin)
        case "excluded":
            return Specimen(place=here, keep=here.best_by_attribution(n_true, true), twin=twin, reached=False)
        case "broken":
            keep = without(true, rng.choice(essential(made)))
        case "bloated":
            others = here.means.alive & ~true
            keep = true | _drawn(others, n_true, rng)
        case "partly wrong":
            gone, come = _exchanged(here, true, rng)
            keep = (true & ~gone) | come
        case "halved" | "dormant":
            parts = {"halved": ("compensating", "readout"), "dormant": ("dormant", "echo")}[kind]
            if made.form != parts[0]:
                raise ValueError(f"a {made.form} mechanism has no {kind} circuit; it takes form {parts[0]!r}")
            keep = made.mechanism.graft.keep("stages", parts[1])
        case "own twin":
            raise ValueError("own twins are of a run's own tasks: see own_twin")
    return Specimen(place=here, keep=keep, twin=twin)


def own_twin(place: Place, answers: tuple[int, int], other: tuple[int, int]) -> Specimen | None:
    """What the search finds for unrelated answers after a task's prompts in a trained model; None where it finds nothing."""
    asked = place.asking(answers)
    return (
        Specimen(place=asked, keep=asked.found.keep, twin=place.asking(other), reached=True)
        if asked.found.reached
        else None
    )


def essential(made: Plant) -> list[int]:
    """Numbers of the true nodes without which the task loss is well above the target; all where there is none."""
    nodes = made.true.nonzero().flatten()
    losses = torch.tensor(losses_of(made, torch.stack([without(made.true, int(node)) for node in nodes])))
    needed = nodes[losses >= ESSENTIAL * FIND.target_loss]
    return (needed if len(needed) else nodes).tolist()


def without(keep: Tensor, node: int) -> Tensor:
    """A mask that lacks one node."""
    return keep.index_fill(0, torch.tensor([node]), False)


def _searched(place: Place, n: int, twin: Place) -> Specimen:
    keep = place.found.keep if place.found.reached else place.best_by_attribution(n)
    return Specimen(place=place, keep=keep, twin=twin, reached=place.found.reached)


def _drawn(pool: Tensor, n: int, rng: Random) -> Tensor:
    """`n` nodes of a pool, drawn by lot."""
    chosen = rng.sample(pool.nonzero().flatten().tolist(), n)
    return torch.zeros_like(pool).index_fill(0, torch.tensor(chosen), True)


def _exchanged(here: Place, true: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    """One true node in four (at least one), and as many others of the same hook points."""
    space = here.means.space
    gone = _drawn(true, max(1, round(int(true.sum()) / 4)), rng)
    come = torch.zeros_like(true)
    for name, channels in space.nodes(gone).items():
        there = torch.zeros_like(true)
        there[space.slice(name)] = True
        come |= _drawn(there & here.means.alive & ~true, len(channels), rng)
    return gone, come
