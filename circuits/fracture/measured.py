"""What is read of models with the same outputs: every number of fracture and entanglement, of all models together.

1. Perturbations are drawn for all models at once, at the same places; their size is found for each model so that the mean output KL is one number for all.
2. Nodes are ablated one by one on some prompts of every behaviour, the strongest of each also together; a circuit is searched for every behaviour.
3. A number is a function of arrays that are kept with it: of responses `[n_perturbations, n_behaviours]`, or the mean of items (inputs, rules, behaviours, perturbations). So the difference of two models
   gets its interval from resampling what both share.

| number | of | less fractured |
|---|---|---|
| modularity, entanglement | responses to directions in weight space, in as many weights of each model, and `most` of a unit's | higher, lower |
| gradients | cosine between gradients of behaviours of different rules, over nonzero weights | lower |
| fracture, union | a rule's attributions in two contexts; circuits of its contexts against random ones of their sizes | lower |
| share, redundancy | N_eff of an input / nodes that contribute to any; what single ablations miss of joint ones | lower |
| coherence | changes of the logits at x and, relabelled, at g x | higher |

Numbers behind a comma are variants: raw where the main one is matched in density, and other kinds of perturbation.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from circuits.fracture import measures
from circuits.fracture.attributions import (
    AttributionsConfig,
    asked_some,
    joint_effects,
    node_readings,
    question_means,
    strongest,
)
from circuits.fracture.behaviour_circuits import CircuitsConfig, behaviour_circuits
from circuits.fracture.engine import (
    OutOfReach,
    equal_effect,
    gradient_cosines,
    perturbed_logits,
    unchanged_logits,
)
from circuits.fracture.measures import Floats
from circuits.fracture.perturbations import Entries, Kind, Perturbation, PerturbationsConfig, TooFew, draw_perturbations
from circuits.fracture.questions import Questions
from sparsetrain.model import Transformer
from sparsetrain.typed import Above0, Count, Seed, Share

log = logging.getLogger(__name__)
SETS: Mapping[str, tuple[Kind, Entries]] = {
    "": ("direction", "fewest"),
    ", raw": ("direction", "nonzero"),
    ", all weights": ("direction", "all"),
    ", single weights": ("weight", "nonzero"),
    ", singular": ("singular", "fewest"),
}
"""Behind a number -> what is perturbed. The first decides."""
SHIFTED = {"copy": 1, "other": 1, "successor": 1, "predecessor": 1, "sum": 2}
"""Rule -> by how much its answer moves around the circle of symbols when both operands move by one; other rules know no such symmetry."""
N_ORBITS = 2
"""Values of b - a whose inputs are relabelled. ours"""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How models are read. ours"""

    target_kl: Above0 = 0.1
    """Mean output KL of every set of perturbations, nats."""
    n_perturbations: Count = 48
    """Of the set that decides; fewer, where there are not so many places."""
    n_variants: Count = 24
    """Of each of the other sets."""
    n_prompts: Count = 10
    """Of each behaviour, that perturbations are read on."""
    most: Share = 1 / 16
    """Of the weights of a unit, or of a matrix, that a perturbation changes at most where models are compared on as many."""
    n_largest: Count = 32
    """Nodes of each context that `fracture` compares, so that models of different densities are compared on as many."""
    attributions: AttributionsConfig = field(default_factory=lambda: AttributionsConfig(n_prompts=10))
    circuits: CircuitsConfig = field(default_factory=CircuitsConfig)
    seed: Seed = 0
    """Of perturbations and prompts."""

    def seeded(self, seed: int) -> "ReadConfig":
        """The same with other perturbations, prompts and searches."""
        return replace(
            self,
            seed=seed,
            attributions=replace(self.attributions, seed=seed),
            circuits=replace(self.circuits, seed=seed),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelReadings:
    """One model, read beside others."""

    responses: Mapping[str, Floats]
    """Name in `SETS` -> R, `[n_perturbations, n_behaviours]`; NaN where no size has the effect that was asked for."""
    kl: Mapping[str, float]
    """The same -> mean output KL of the sweep, nats."""
    rho: Mapping[str, float]
    items: Mapping[str, Floats]
    """Number -> the items that it is made of, see `of_items`; items that are not defined are NaN."""

    def numbers(self) -> dict[str, float]:
        """All of them, by key; NaN where there is nothing to measure."""
        return {
            **{f"{name}{which}": f(r) for which, r in self.responses.items() for name, f in OF_RESPONSES.items()},
            **{name: of_items(name, values) for name, values in self.items.items()},
        }


def _where_read(f: Callable[[Floats], float]) -> Callable[[Floats], float]:
    return lambda r: f(r) if np.isfinite(r).all() else float("nan")


OF_RESPONSES: Mapping[str, Callable[[Floats], float]] = {
    "modularity": _where_read(measures.modularity),
    "entanglement": _where_read(measures.entanglement),
}


def of_items(name: str, items: Floats) -> float:
    """The number that items make: their mean; of redundancy, whose items are joint and single effects, the ratio of their sums."""
    defined = items[np.isfinite(items).all(tuple(range(1, items.ndim)))]
    if name == "redundancy":
        joint, single = defined.sum(0) if len(defined) else (0.0, 0.0)
        return float(1 - single / joint) if joint else float("nan")
    return float(defined.mean()) if len(defined) else float("nan")


def read_models(
    models: Mapping[str, Transformer],
    questions: Questions,
    config: ReadConfig,
    on_part: Callable[[], object] = lambda: None,
    *,
    sets: Sequence[str] = tuple(SETS),
    nodes: bool = True,
) -> dict[str, ModelReadings]:
    """Reads all models.

    Args:
        models: by name, of one architecture and vocabulary, with the same outputs.
        questions: what they are asked.
        config: how.
        on_part: called `n_parts` times.
        sets: of perturbations, names in `SETS`, the first one among them.
        nodes: whether what does not depend on perturbations is read too.
    """
    asked = asked_some(questions.asked(), config.n_prompts, config.seed)
    found: dict[str, dict[str, dict[str, Any]]] = {name: {"responses": {}, "kl": {}, "rho": {}, "items": {}} for name in models}  # fmt: skip
    for which in sets:
        drawn = _draw(models, *SETS[which], config.n_variants if which else config.n_perturbations, config)
        for name, model in models.items():
            of, some = found[name], drawn[name]
            try:
                swept = equal_effect(model, asked, some, config.target_kl).swept
                rho = swept.rho
                of["responses"][which], of["kl"][which] = swept.response.double().cpu().numpy(), swept.mean_kl
            except OutOfReach as error:
                log.warning("%s%s: %s; no number is read of these perturbations", name, which, error)
                rho = of["kl"][which] = float("nan")
                of["responses"][which] = np.full((len(some), asked.n_behaviours), np.nan)
            of["rho"][which] = rho
            if not which:
                of["items"]["coherence"] = _coherence(model, questions, some, rho) if np.isfinite(rho) else np.empty(0)
            on_part()
    for name, model in models.items() if nodes else ():
        found[name]["items"] |= {
            **_of_nodes(model, questions, config),
            "gradients": _between_rules(gradient_cosines(model, asked, nonzero=True).numpy(), questions),
            "gradients, all weights": _between_rules(gradient_cosines(model, asked).numpy(), questions),
        }
        on_part()
    return {name: ModelReadings(**of) for name, of in found.items()}


def n_parts(n_models: int, *, sets: Sequence[str] = tuple(SETS), nodes: bool = True) -> int:
    """How often `read_models` reports."""
    return n_models * (len(sets) + nodes)


def _draw(models: Mapping[str, Transformer], kind: Kind, entries: Entries, n: int, config: ReadConfig) -> Mapping[str, tuple[Perturbation, ...]]:  # fmt: skip
    drawing = PerturbationsConfig(kind=kind, entries=entries, n=n, most=config.most, seed=config.seed)
    try:
        return draw_perturbations(models, drawing)
    except TooFew as error:
        if not error.n_places:
            raise
        log.warning("%s; as many as there are", error)
        return draw_perturbations(models, replace(drawing, n=error.n_places))


def _between_rules(cosines: Floats, questions: Questions) -> Floats:
    """Of pairs of behaviours of different rules."""
    rule = np.arange(questions.n_behaviours) // len(questions.contexts)
    i, j = np.triu_indices(len(cosines), 1)
    return cosines[i, j][rule[i] != rule[j]]


def _of_nodes(model: Transformer, questions: Questions, config: ReadConfig) -> dict[str, Floats]:
    """Numbers of contributions, attributions and circuits."""
    of = config.attributions
    means = question_means(model, questions)
    read = node_readings(model, asked_some(questions.asked(), of.n_prompts, of.seed), means, of.kinds)
    c, effects = read.contributions, read.effects
    n_contexts = len(questions.contexts)
    by_rule = effects.reshape(-1, n_contexts, effects.shape[1])
    top = strongest(effects, of.n_joint)
    sets = torch.zeros(len(effects), means.space.n_nodes, dtype=torch.bool)
    sets[:, read.nodes] = torch.from_numpy(top)
    joint = joint_effects(model, read.asked, means, sets)
    circuits = behaviour_circuits(model, questions, means, config.circuits)
    keep = circuits.of_rules(n_contexts)
    reached = circuits.reached.reshape(-1, n_contexts).all(1)  # a circuit that misses its target is none
    return {
        "units": measures.effective_units(c),
        "share": _divided(measures.effective_units(c), float((c > 0).any(0).sum())),
        "gini": measures.gini(c),
        "gini, alive": measures.gini_alive(c),
        "rank": np.array([measures.effective_rank(c)]),
        "fracture": np.array([measures.fracture(a, config.n_largest) for a in by_rule]),
        "fracture, raw": np.array([measures.fracture(a) for a in by_rule]),
        "redundancy": np.stack([joint, np.where(top, effects, 0.0).sum(1)], 1),
        "union": np.where(reached, [measures.excess_union(a) for a in keep], np.nan),
        "union, raw": np.where(reached, [measures.union_ratio(a) for a in keep], np.nan),
        "circuit size": circuits.sizes,
        "circuits found": circuits.reached.astype(np.float64),
        "circuit accuracy": circuits.heldout.accuracy,
    }


def _divided(values: Floats, whole: float) -> Floats:
    return values / whole if whole else np.full(values.shape, np.nan)


def _coherence(model: Transformer, questions: Questions, perturbations: Sequence[Perturbation], rho: float) -> Floats:
    """Of each perturbation, at inputs and their images under a -> a + 1, b -> b + 1, mean over rules; NaN where it moves none, empty where questions have no such relabelling."""
    world = questions.world
    found: list[Floats] = []
    for number, rule in enumerate(questions.rules):
        if world is None or rule not in SHIFTED:
            continue
        p = world.config.n_symbols
        context, orbit, a = (axis.ravel() for axis in np.indices((len(questions.contexts), N_ORBITS, p)))
        at = world.number(number, context, a, (a + orbit + 1) % p)
        image = world.number(number, context, (a + 1) % p, (a + orbit + 2) % p)
        place = np.argsort(at)[np.searchsorted(np.sort(at), image)]
        prompts = torch.from_numpy(questions.tokens[at, :-1])
        before = unchanged_logits(model, prompts)[:, :p]
        changes: list[Floats] = []
        for logits in perturbed_logits(model, prompts, [(one, rho) for one in perturbations]):
            moved = (logits[..., :p] - before).double()
            changes.append((moved - moved.mean(-1, keepdim=True)).numpy())
        x = np.concatenate(changes)
        found.append(measures.coherence(x, x[:, place], (np.arange(p) + SHIFTED[rule]) % p))
    if not found:
        return np.empty(0)
    of_rules = np.stack(found)
    known = np.isfinite(of_rules)
    total = np.where(known, of_rules, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(total.shape, np.nan), where=known.any(0))
