"""Is sparsification adaptive? The number of active channels is set by hand, for familiar and for shifted inputs.

Inputs are the triples of the knowledge graph: deducible training triples, and deducible triples that were left out (`medium` and
`hard`). The claim holds at a place if shifted inputs are answered best with fewer channels than training triples are, and are
answered worse when held at the density of training triples. Everything is done through hooks, at the token that answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain.data.worlds.knowledge_graph import GraphConfig
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import Transformer
from sparsetrain.report.blocks import Reference
from sparsetrain.representation.active import (
    Prompts,
    Setting,
    drawn_order,
    keep_largest,
    keep_random,
    n_active,
    set_participation,
)
from sparsetrain.representation.controls import read_items
from sparsetrain.representation.items import Item
from sparsetrain.representation.measures import participation_ratio
from sparsetrain.run import RunConfig
from sparsetrain.stats.intervals import Floats
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.adaptation import (
    ALL_LAYERS,
    ENOUGH,
    FINAL_PLACE,
    MARGINS,
    N_SPLITS,
    NATURAL_MARGIN,
    AdaptationClaims,
    levels_at,
)
from sparsetrain.studies.arm import Arrays, Reader, WorldStudy, train_arm
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.knowledge_graph import (
    COMPARED,
    SPLITS_NOTE,
    TRAINED,
    distance_of,
    graph_of,
    is_gold_first,
    prompts_of,
    split_groups,
    training_rows,
)
from sparsetrain.studies.readings import (
    FINAL,
    gap,
    load_arrays,
    over_seeds_figure,
    rank_correlation,
    seeds_number,
)
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.study import Gates, Subject, gate
from sparsetrain.studies.surfaces import best_level, enough_level, gains_of_own_best, of_resamples, resampled_best
from sparsetrain.typed import Count, Share

SIDES = ("id", "shifted")
"""The two sides of every comparison: `id deducible` against `medium` and `hard`."""
CLAIMS = AdaptationClaims(known="ID", its="ID's", side=SIDES[0], margins=MARGINS)


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """How the number of active channels is set by hand. ours"""

    arms: tuple[str, ...] = ("constant", "weight_sparse")
    """Which of `study.arms` are trained; the first is the one that the others are compared with."""
    kind: str = "mlp_neuron"
    """Kind of hook point at which channels are set in each layer, besides the final norm."""
    levels_per_octave: Count = 2
    """Numbers of channels tried per factor of two, from 1 to all."""
    energy: Share = 0.95
    """Share of the energy that an item's own active channels carry."""
    n_bootstrap: Count = 1000
    """Resamples of items behind a best number of channels."""

    def __post_init__(self) -> None:
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"arms={list(self.arms)} must name at least one arm, each once")
        if self.kind not in NODE_KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; allowed: {', '.join(NODE_KINDS)}")


def places(n_layer: int, kind: str) -> dict[str, tuple[str, ...]]:
    """Where channels are set: the kind in each layer, in all layers at once, and what the unembedding reads."""
    points = tuple(f"blocks.{i}.{kind.replace('_', '.hook_')}" for i in range(n_layer))
    layers = {f"layer {i}": (point,) for i, point in enumerate(points)}
    return {**layers, **({ALL_LAYERS: points} if n_layer > 1 else {}), FINAL_PLACE: (FINAL,)}


def items_of(prompts: Tensor) -> list[Item]:
    """Prompts `[n_items, length]` with the answer last, as items."""
    return [Item(tokens=tuple(row), n_answer=1) for row in prompts.tolist()]


def groups_of(n_eval: int) -> dict[str, slice]:
    """Where splits and sides stand among the items."""
    return {**split_groups(COMPARED, n_eval), "id": slice(n_eval), "shifted": slice(n_eval, None)}


@dataclass(frozen=True, kw_only=True)
class PlaceReadings:
    """Response surfaces at one place in one seed."""

    arrays: Mapping[str, Floats]
    """What one training left in `surface.npz`; `when` is init or end, `how` largest or random, `by` topk or temperature, `target` id
    or shifted:

    levels|place: numbers of active channels tried, rising, the last one all, `[n_levels]`.
    correct|when|place|how, loss|...: whether each item is answered at each level, and its loss in nats, `[n_levels, n_items]`.
    natural|when|place: log2 of the channels that each item uses untouched, `[n_items]`.
    held_correct|when|place|by|target, held_loss|...: items answered with the density that `target` items have, `[n_items]`.
    covariates|name: correct, loss, entropy and logit_norm of the untouched trained model, `[n_items]`.
    trained|correct: whether each training triple is answered, untouched.
    """
    place: str
    n_eval: int
    """Items of each split."""
    n_bootstrap: int

    def at(self, *key: str) -> Floats:
        """An array by the parts of its name."""
        return self.arrays["|".join(key)]

    @property
    def levels(self) -> Floats:
        """log2 of the numbers of channels tried."""
        return np.log2(self.at("levels", self.place))

    def answered(self) -> float:
        """Share of the shifted items, untouched."""
        return float(self.at("covariates", "correct")[groups_of(self.n_eval)["shifted"]].mean())

    def responses(self, outcome: str, group: str, when: str = "end", how: str = "largest") -> Floats:
        """`correct` or `loss` of the items of a group at each level, `[n_levels, n]`."""
        return self.at(outcome, when, self.place, how)[:, groups_of(self.n_eval)[group]]

    def resampled(self, when: str = "end", how: str = "largest", outcome: str = "correct") -> Floats:
        """log2 of best k of ID minus that of shifted items in each bootstrap resample; the best loss is the smallest. `[n_bootstrap]`"""
        rng = np.random.default_rng(0)
        sign = 1 if outcome == "correct" else -1
        own, shifted = (
            resampled_best(
                sign * self.responses(outcome, side, when, how),
                self.levels,
                n_items=self.n_eval,
                n_bootstrap=self.n_bootstrap,
                rng=rng,
            )
            for side in SIDES
        )
        return own - shifted

    def best(self, when: str = "end", how: str = "largest", outcome: str = "correct") -> float:
        """How many octaves fewer channels shifted items are answered best with."""
        return float(self.resampled(when, how, outcome).mean())

    def enough(self) -> float:
        """How many octaves fewer channels are enough for shifted items."""
        own, shifted = (
            enough_level(self.responses("correct", side).mean(1), self.levels, share=ENOUGH) for side in SIDES
        )
        return own - shifted

    def held(self, side: str, by: str = "topk", target: str | None = None, when: str = "end") -> float:
        """Accuracy of a side held at the density of a target, by default its own."""
        items = groups_of(self.n_eval)[side]
        return float(self.at("held_correct", when, self.place, by, target or side)[items].mean())

    def cost(self, side: str, by: str = "topk", when: str = "end") -> float:
        """Accuracy of a side at its own density minus that at the other's."""
        other = SIDES[1 - SIDES.index(side)]
        return self.held(side, by, when=when) - self.held(side, by, other, when=when)

    def cost_in_loss(self) -> float:
        """Loss of shifted items held at ID's number of channels minus that at their own."""
        items = groups_of(self.n_eval)["shifted"]
        at = [self.at("held_loss", "end", self.place, "topk", target)[items].mean() for target in SIDES]
        return float(at[0] - at[1])

    def gain(self) -> float:
        """How much better shifted items are answered with their own best k than with ID's."""
        shifted, reference = (self.responses("correct", side) for side in SIDES[::-1])
        return float(gains_of_own_best(shifted, reference, n_splits=N_SPLITS, rng=np.random.default_rng(0)).mean())

    def natural(self, when: str = "end") -> float:
        """How many octaves fewer channels shifted items use untouched."""
        groups = groups_of(self.n_eval)
        return gap(self.at("natural", when, self.place), groups["id"], groups["shifted"])

    def per_item(self, *given: str) -> float:
        """Rank correlation of distance and the k of the smallest loss, downwards, given covariates."""
        sparser = -best_level(-self.at("loss", "end", self.place, "largest"), self.levels)
        if not np.ptp(sparser):
            return 0.0  # where no item's best k differs from another's, none goes with distance
        return rank_correlation(distance_of(self.n_eval), sparser, *(self.at("covariates", name) for name in given))


@dataclass(frozen=True, kw_only=True)
class AdaptiveStudy(WorldStudy[PlaceReadings]):
    """Claims are made about every place in every arm.

    Raises:
        ValueError: study.adaptive.arms names an arm that does not exist.
    """

    question = "Is sparsification adaptive: does shifted input do better with fewer active channels?"
    hypotheses = (
        CLAIMS.natural(),
        *CLAIMS.main(),
        CLAIMS.asked("per item", "the farther an item, the lower the k of its smallest loss (Spearman)", "rho", lambda r: r.per_item()),
        CLAIMS.asked("per item, matched", "the same given the item's loss, entropy and logit norm (partial Spearman)", "rho", lambda r: r.per_item("loss", "entropy", "logit_norm")),
        *CLAIMS.beside(),
        replace(CLAIMS.absent("natural at init", "at initialisation, both use as many channels", "octaves", lambda r: r.natural("init")), margin=NATURAL_MARGIN),
        CLAIMS.absent("best k at init", "at initialisation, both are answered best with as many channels", "octaves", lambda r: r.best("init")),
        CLAIMS.absent("held at init", "at initialisation, holding shifted input at ID's number of channels costs nothing", "fraction", lambda r: r.cost("shifted", when="init")),
        CLAIMS.random(),
    )  # fmt: skip
    rulings = (CLAIMS.ruling(),)
    as_first = ("best k", "of best k")

    adaptive: AdaptiveConfig
    graph: GraphConfig

    def __post_init__(self) -> None:
        unknown = [name for name in self.adaptive.arms if name not in self.given]
        if unknown:
            raise ValueError(f"study.adaptive.arms has {', '.join(unknown)}; study.arms are {', '.join(self.given)}")

    @property
    def arms(self) -> tuple[str, ...]:
        return self.adaptive.arms

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        return places(self.config.model.n_layer, self.adaptive.kind)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(Subject(arm=arm, place=place) for arm in self.arms for place in self.places)

    def method(self) -> tuple[str, ...]:
        n_eval, n_choices, settings = self.graph.n_eval, self.graph.n_choices, self.adaptive
        return (
            f"The triples of the knowledge-graph study: ID are deducible training triples, shifted are deducible triples that were left "
            f"out (medium and hard together), {n_eval} of each split, with the same relations equally often. All prompts are "
            f"[subject, relation, ask]. Accuracy: gold against {n_choices - 1} random entities that are no answer.",
            f"At the last token the number of active channels is set by hooks at {settings.kind} of each layer, of all layers at once, and at "
            f"{FINAL}. Response: AbsTopK with {settings.levels_per_octave} values of k per factor of two, up to the full width. "
            f"Best k: the k of the highest accuracy, mean of log2 k over {settings.n_bootstrap} resamples of {n_eval} items, ties "
            f"shared. An octave is a factor of two.",
            f"Held: a split's own number of channels is the geometric mean over its items of the smallest number that carries "
            f"{settings.energy:g} of the energy untouched; its own density that of the participation ratio. AbsTopK imposes the "
            f"one, a temperature on |h| per item the other. The cost of holding is accuracy at one's own value minus accuracy at the "
            f"other's, so that what the operation itself costs cancels.",
            "One number per seed and claim; every seed has a graph of its own. Intervals are Student's t over seeds; the bootstrap over "
            "items is in a table. Every effect above 0 speaks for the claim.",
        )

    def gates(self) -> Gates[PlaceReadings]:
        n, words = self.graph.n_choices, f"{self.graph.n_choices}-way accuracy on"
        known, twice_chance = number(0.9, "fraction"), number(2 / n, "fraction")
        return (
            gate("recall", f"{words} training triples", known, lambda r: float(r.at("trained", "correct").mean())),
            gate("shifted", f"{words} shifted triples, twice chance", twice_chance, PlaceReadings.answered),
        )

    def config_of(self, arm: str, seed: int) -> RunConfig:
        return self.sized(arm, seed, d_vocab=self.graph.d_vocab)

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        measured = {key: getattr(self.adaptive, key) for key in ("kind", "levels_per_octave", "energy")}
        return {**config.recipe.key(), "graph": self.graph, "adaptive": measured}

    def work(self, config: RunConfig, folder: Path) -> StageResult:
        graph, n_steps = graph_of(self.graph, config.seed), config.trainer.n_steps
        prompts, choices = prompts_of(graph, COMPARED)

        def read(model: Transformer, step: int) -> Arrays:
            when, ways = ("init", ("largest",)) if step == 0 else ("end", ("largest", "random"))
            return measure_surface(
                model, prompts, choices, self.places, self.adaptive, when=when, ways=ways, seed=config.seed
            )

        reader = Reader(read)
        model, weights = train_arm(config, training_rows(graph, config), folder, (0, n_steps), {"surface": reader})
        untouched = read_items(model, prompts, ())
        covariates = {
            "correct": is_gold_first(untouched.logits, choices),
            "loss": untouched.loss,
            "entropy": untouched.entropy,
            "logit_norm": untouched.logit_norm,
        }
        trained, gold_first = prompts_of(graph, TRAINED)
        per_octave = self.adaptive.levels_per_octave
        arrays = {
            **{f"levels|{place}": levels_at(model, names, per_octave) for place, names in self.places.items()},
            **{f"covariates|{name}": value.double().numpy() for name, value in covariates.items()},
            "trained|correct": is_gold_first(Prompts(model, items_of(trained)).logits({}), gold_first).double().numpy(),
            **reader.found[0],
            **reader.found[n_steps],
        }
        np.savez(folder / "surface.npz", **arrays)
        return StageResult(weights_sha256=weights)

    def load(self, folder: Path, subject: Subject, seed: int) -> PlaceReadings:
        sizes = {"n_eval": self.graph.n_eval, "n_bootstrap": self.adaptive.n_bootstrap}
        return PlaceReadings(arrays=load_arrays(folder / "surface.npz"), place=subject.place, **sizes)

    def figures(self, read: Mapping[Subject, Sequence[PlaceReadings]]) -> Sequence[Figure]:
        chance = Reference(label="chance", value=1 / self.graph.n_choices)
        return [
            over_seeds_figure(
                f"{subject.arm}_{subject.place.replace(' ', '_')}_{outcome}",
                f"{title} by active channels, {subject.place}, arm {subject.arm}",
                seeds[0].levels.tolist(),
                {split: [r.responses(outcome, split).mean(1) for r in seeds] for split in COMPARED},
                x_label="log2 k, channels kept at the last token",
                y_label=label,
                references=(chance,) if outcome == "correct" else (),
            )
            for subject, seeds in read.items()
            for outcome, title, label in (("correct", "Accuracy", "accuracy"), ("loss", "Loss", "loss, nats"))
        ]

    def tables(
        self, read: Mapping[Subject, Sequence[PlaceReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        energy = f"channels that carry {self.adaptive.energy:g} of the energy; "
        return (
            ResultTable(
                title="Untouched: how splits are answered, and with how many channels",
                columns=("arm", "split", "accuracy", "loss", "entropy", *(f"log2 channels, {p}" for p in self.places)),
                rows=tuple(self._untouched(arm, split, read) for arm in self.arms for split in COMPARED),
                note=energy + SPLITS_NOTE,
            ),
            ResultTable(
                title="Accuracy of each side held at the density of either",
                columns=("arm", "place", "by", "side", "at ID's density", "at shifted input's"),
                rows=tuple(
                    (
                        subject.arm,
                        subject.place,
                        by,
                        side,
                        *(seeds_number([r.held(side, by, target) for r in seeds], "fraction") for target in SIDES),
                    )
                    for subject, seeds in read.items()
                    for by in ("topk", "temperature")
                    for side in SIDES
                ),
                note="id: deducible training triples; shifted: medium and hard",
            ),
            ResultTable(
                title="Best k, ID minus shifted in octaves, in each seed with its bootstrap interval over items",
                columns=("arm", "place", *(f"seed {seed}" for seed in self.seeds)),
                rows=tuple(
                    (subject.arm, subject.place, *(of_resamples(r.resampled(), "octaves") for r in seeds))
                    for subject, seeds in read.items()
                ),
                note=f"{self.adaptive.n_bootstrap} resamples; above 0: shifted input is answered best with fewer channels",
            ),
        )

    def _untouched(
        self, arm: str, split: str, read: Mapping[Subject, Sequence[PlaceReadings]]
    ) -> tuple[TableCell, ...]:
        items = groups_of(self.graph.n_eval)[split]
        at = {place: read[Subject(arm=arm, place=place)] for place in self.places}

        def cell(seeds: Sequence[PlaceReadings], unit: str, *key: str) -> Number:
            return seeds_number([float(r.at(*key)[items].mean()) for r in seeds], unit)

        return (
            arm,
            split,
            *(
                cell(at[FINAL_PLACE], unit, "covariates", name)
                for name, unit in (("correct", "fraction"), ("loss", "nats"), ("entropy", "nats"))
            ),
            *(cell(seeds, "log2 channels", "natural", "end", place) for place, seeds in at.items()),
        )


def measure_surface(
    model: nn.Module,
    prompts: Tensor,
    choices: Tensor,
    where: Mapping[str, tuple[str, ...]],
    config: AdaptiveConfig,
    *,
    when: str = "end",
    ways: Sequence[str] = ("largest", "random"),
    seed: int,
) -> dict[str, Floats]:
    """Natural density, responses and held answers of one model, by the names that `PlaceReadings.arrays` has.

    Args:
        model: any with the hook points of `where`.
        prompts: `[n_items, length]`, the answer last; the splits of `COMPARED` one after the other, equally many of each.
        choices: `[n_items, n_choices]` tokens, the gold one first.
        where: place -> hook points.
        config: levels and energy.
        when: init or end, for the names.
        ways: of choosing the channels that stay.
        seed: of the channels kept at random.
    """
    found: dict[str, Floats] = {}

    asked = Prompts(model, items_of(prompts))

    def score(settings: Mapping[str, Setting]) -> tuple[Floats, Floats]:
        logits = asked.logits(settings)
        loss = -logits.log_softmax(-1).gather(-1, prompts[:, -1:])[:, 0]
        return is_gold_first(logits, choices).double().numpy(), loss.double().numpy()

    points = sorted({point for names in where.values() for point in names})
    last = asked.seen(points)
    groups = groups_of(len(prompts) // len(COMPARED))
    active = {point: n_active(h, config.energy).double().log2() for point, h in last.items()}
    spread = {point: participation_ratio(h).double().log2() for point, h in last.items()}
    for place, names in where.items():
        found[f"natural|{when}|{place}"] = torch.stack([active[name] for name in names]).mean(0).numpy()
        levels = levels_at(model, names, config.levels_per_octave).astype(int).tolist()
        order = drawn_order(len(prompts), levels[-1], seed)
        for how in ways:
            settings = [keep_largest(k) if how == "largest" else keep_random(k, order) for k in levels]
            answers = [score(dict.fromkeys(names, setting)) for setting in settings]
            for outcome, values in zip(("correct", "loss"), zip(*answers, strict=True), strict=True):
                found[f"{outcome}|{when}|{place}|{how}"] = np.stack(values)
        for target in SIDES:
            items = groups[target]
            held = {
                "topk": {name: keep_largest(round(2 ** active[name][items].mean().item())) for name in names},
                "temperature": {name: set_participation(2 ** spread[name][items].mean().item()) for name in names},
            }
            for by, settings in held.items():
                for outcome, values in zip(("correct", "loss"), score(settings), strict=True):
                    found[f"held_{outcome}|{when}|{place}|{by}|{target}"] = values
    return found
