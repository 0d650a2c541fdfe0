"""Is sparsification adaptive in a pretrained language model? The number of active channels is set by hand, for familiar and for shifted input.

1. A set of probes has two sides, familiar and shifted, each answered sometimes (`data/probes/adaptive_sets.py`).
2. At the positions that predict the answer, and nowhere else, AbsTopK keeps k channels at the neurons of a third of the layers, of all layers, or at
   the final norm. What stands in front is read once for all k (`representation/active.py`).
3. The claim holds at a place if shifted input is answered best with fewer channels, and is answered worse when held at the density of familiar
   input than at its own. Beside it: what would be said from the untouched model alone.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsetrain.data.probes import Probe
from sparsetrain.data.probes.adaptive_sets import ADAPTIVE, LEVELS
from sparsetrain.progress import progress_bar
from sparsetrain.representation.active import (
    Prompts,
    Setting,
    drawn_order,
    keep_largest,
    keep_random,
    n_active,
    set_participation,
)
from sparsetrain.representation.items import Arrays, Item, by_length, kept_in_batches
from sparsetrain.representation.measures import participation_ratio
from sparsetrain.stats.intervals import Floats, over_items
from sparsetrain.stats.number import Number, number
from sparsetrain.store import recall
from sparsetrain.studies.adaptation import (
    ALL_LAYERS,
    FINAL_PLACE,
    MARGINS,
    NATURAL_MARGIN,
    SHIFTED,
    AdaptationClaims,
    By,
    levels_at,
)
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.frozen import FrozenStudy, Put, ReadResult, item_of, label_of
from sparsetrain.studies.readings import FINAL, load_arrays
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.shifts_real import slug
from sparsetrain.studies.sides import FAMILIAR, SideReadings
from sparsetrain.studies.study import Gates, Ruling, Subject, gate
from sparsetrain.studies.surfaces import of_resamples
from sparsetrain.typed import Count, Share

THIRDS = ("first third", "middle third", "last third")
BYS: tuple[By, ...] = ("topk", "temperature")
KIND = "mlp_neuron"
RANDOM_EVERY = 2
"""Of the numbers of channels tried, each so manieth is also tried with channels kept at random. ours"""
ANSWERED = 0.2
"""Share of either side that must be answered untouched for the set to mean anything. ours"""
N_ITEMS = 60
"""Items of a side that a verdict needs. ours"""
FRACTION = 0.05
"""Smallest difference of accuracy of interest: one or two hundred items cannot tell a smaller one from none. ours"""
PARTS = UNTOUCHED, SURFACE = ("untouched", "surface")
"""Folders of what a stage reads, inside its own."""
OVERVIEWS = {
    "overview": ("Accuracy of shifted input at its own number of channels minus that at familiar input's", ("held",))
}
CLAIMS = AdaptationClaims(
    known="familiar", its="familiar input's", side=FAMILIAR, margins={**MARGINS, "fraction": FRACTION}
)


@dataclass(frozen=True, kw_only=True)
class AdaptiveRealConfig:
    """How the number of active channels is set by hand in a model that is trained already. ours"""

    levels_per_octave: Count = 1
    """Numbers of channels tried per factor of two, from 1 to all."""
    energy: Share = 0.95
    """Share of the energy that an item's own active channels carry."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveRealStudy(FrozenStudy[SideReadings]):
    """Claims are made about every place, of every set.

    Raises:
        ValueError: as `FrozenStudy`; a second model without sets that it reads.
    """

    question = "Is sparsification adaptive in a pretrained language model: does shifted input do better with fewer active channels?"
    builders = ADAPTIVE
    plain = frozenset({"arithmetic"})
    overviews = OVERVIEWS
    hypotheses = tuple(
        replace(hypothesis, per_seed=False)
        for hypothesis in (
            CLAIMS.natural(),
            replace(
                CLAIMS.asked("natural, first token", "the same at the first token of the answer alone", "octaves", lambda r: r.natural("first")),
                margin=NATURAL_MARGIN,
            ),
            *CLAIMS.main(),
            *CLAIMS.beside(),
            CLAIMS.random(),
        )
    )  # fmt: skip
    rulings = (
        CLAIMS.ruling(),
        Ruling(
            name="naive: adaptive",
            statement="what would be said from the untouched model alone: shifted input uses fewer channels",
            needs=("natural",),
        ),
    )

    adaptive: AdaptiveRealConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen.second and not self.frozen.second_probes_of:
            raise ValueError(
                f"study.frozen.second={self.frozen.second} reads nothing in this study; give study.frozen.second_probes_of=[...] out of "
                f"{', '.join(self.builders)}"
            )

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(Subject(arm=arm, place=place) for arm in self.arms for place in self.places_of(self.put_of(arm)))

    def places_of(self, put: Put) -> dict[str, tuple[str, ...]]:
        """Where channels are set: neurons of each third of the layers and of all, and what the unembedding reads.

        Raises:
            ValueError: the model does not show these hook points.
        """
        points = self.model_of(put).hook_points()
        neurons = tuple(name for name, point in points.items() if point.kind == KIND)
        if not neurons or FINAL not in points:
            raise ValueError(
                f"study.frozen: {label_of(put.model)} has no hook points of kind {KIND}, or no {FINAL}; this study needs both, give another model"
            )
        thirds = [tuple(part.tolist()) for part in np.array_split(np.array(neurons), len(THIRDS))]
        parts = {name: part for name, part in zip(THIRDS, thirds, strict=True) if part}
        return {**parts, ALL_LAYERS: neurons, FINAL_PLACE: (FINAL,)}

    def tried_at(self, put: Put, points: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """Numbers of channels tried at hook points of one width, as `SideReadings.tried`."""
        levels = levels_at(self.model_of(put).module, points, self.adaptive.levels_per_octave)
        tried = tuple(levels.astype(int).tolist())
        return {"largest": tried, "random": tried[::-1][::RANDOM_EVERY][::-1]}

    def n_trials(self, put: Put) -> int:
        """How often every answer is asked for."""
        tried = [self.tried_at(put, points) for points in self.places_of(put).values()]
        return 1 + sum(sum(len(levels) - 1 for levels in at.values()) + len(BYS) * len(LEVELS) for at in tried)

    def inputs(self, put: Put) -> Mapping[str, object]:
        model, probes = self.model_of(put), self.probes[put.arm]
        return {"weights": model.weights_sha256, "probes": probes.sha256, "adaptive": self.adaptive}

    def method(self) -> tuple[str, ...]:
        sets = "; ".join(
            f"{arm}: {probes.shift}, {' and '.join(f'{n} {level}' for level, n in self.n_items(arm).items())} items"
            for arm, probes in self.probes.items()
        )
        places = "; ".join(
            f"{label_of(name)}: {', '.join(f'{place} ({len(points)})' for place, points in self.places_of(put).items())}"
            for name in dict.fromkeys(put.model for put in self.puts)
            for put in [next(put for put in self.puts if put.model == name)]
        )
        return (
            f"Sets of questions with a familiar and a shifted side, behind the same {self.frozen.probes.n_demonstrations} demonstrations: {sets}. An item "
            f"is right if every token of its answer is the likeliest one, each given those before it. Forms of prompts and bounds of sides were chosen "
            f"by untouched accuracy alone.",
            f"At the positions that predict tokens of the answer, and nowhere else, the number of active channels is set at {KIND} of the layers of a place, "
            f"and at {FINAL}; places and their hook points: {places}. Response: AbsTopK with {self.adaptive.levels_per_octave} values of k per factor "
            f"of two, up to the full width. Best k: the k of the highest accuracy, mean of log2 k over {self.frozen.n_bootstrap} resamples of as many items of "
            f"either side, ties shared. An octave is a factor of two. Control: every other k with channels kept at random.",
            f"Held: a side's own number of channels at a hook point is the geometric mean, over its items and their answers' tokens, of the smallest number that "
            f"carries {self.adaptive.energy:g} of the energy untouched; its own density that of the participation ratio. AbsTopK imposes the one, a temperature "
            f"on |h| at each position the other. The cost of holding is accuracy at one's own value minus accuracy at the other side's, so that what the "
            f"operation itself costs cancels.",
            f"Every effect above 0 speaks for the claim. Differences of accuracy below {FRACTION:g} are of no interest: with so many items they cannot be told "
            f"from none. Intervals of accuracies held are those for paired shares (Agresti and Min), others are of items of both sides resampled.",
            *self.paragraphs(),
        )

    def n_items(self, arm: str) -> dict[str, int]:
        """Side -> its items."""
        return {side: sum(LEVELS[p.level] == side for p in self.probes[arm].probes) for side in LEVELS}

    def gates(self) -> Gates[SideReadings]:
        found = []
        for arm in self.arms:
            for side in LEVELS:
                n_least, least = number(N_ITEMS, "items"), number(ANSWERED, "fraction")
                accuracy = f"{arm}: accuracy on {side} input, untouched"
                found.append(gate(f"{arm}: {side} items", f"{arm}: {side} items", n_least, n_items_of(side), arm=arm))
                found.append(gate(f"{arm}: {side} answered", accuracy, least, answered_of(side), arm=arm))
        return found

    def announce(self, run_dir: Path) -> str:
        left = [put for put in self.puts if recall(run_dir / self.folder(put) / "result.json", ReadResult) is None]
        if not left:
            return "everything is read; what follows is computed from it"
        seconds = sum(self._expected_s(put) for put in left)
        probes = {put: self.probes[put.arm].probes for put in left}
        n_tokens = sum(len(probe.tokens) for put in left for probe in probes[put])
        n_asked = sum(self.n_trials(put) * probe.n_answer for put in left for probe in probes[put])
        return (
            f"{n_tokens:,} tokens to read in {len(left)} of {len(self.puts)} stages, and {n_asked:,} tokens of answers asked for ({self.n_trials(left[0])} "
            f"times each), about {max(1, round(seconds / 60))} minutes on this machine"
        )

    def _expected_s(self, put: Put) -> float:
        """Of reading a set: one batch in the middle, its prompts once, and one trial of each kind."""
        items = [item_of(probe) for probe in self.probes[put.arm].probes]
        size, order = self.frozen.batch_size, by_length(items)
        middle = order[len(order) // 2 :][:size]
        every, model = self.places_of(put)[ALL_LAYERS], self.model_of(put).module
        ways = [dict.fromkeys(every, setting) for setting in (keep_largest(8), set_participation(8.0))]
        for settings in ways:  # what is loaded the first time is not counted
            Prompts(model, [items[middle[0]]]).answer(settings)
        started = time.perf_counter()
        prompts = Prompts(model, [items[i] for i in middle])
        begun = time.perf_counter()
        prompts.answer(ways[0])
        kept = time.perf_counter()
        prompts.answer(ways[1])
        trial, slower = kept - begun, time.perf_counter() - kept
        n_slow = 2 * len(LEVELS)  # a temperature at each third, and at all of them
        per_batch = begun - started + self.n_trials(put) * trial + n_slow * max(0.0, slower - trial)
        return per_batch * len(order) / len(middle)

    def work(self, put: Put, folder: Path) -> StageResult:
        """Reads every item untouched, then answers it in every way."""
        model, probes, places = self.model_of(put), self.probes[put.arm], self.places_of(put)
        items = [item_of(probe) for probe in probes.probes]
        order, n_trials = by_length(items), self.n_trials(put)
        points = tuple(dict.fromkeys(point for names in places.values() for point in names))
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task(put.arm, total=len(items) * n_trials)

            def read(numbers: Sequence[int]) -> Arrays:
                return read_untouched(Prompts(model.module, [items[i] for i in numbers]), points, self.adaptive.energy)

            kept = partial(kept_in_batches, batch_size=self.frozen.batch_size)
            untouched = kept(read, order, folder / UNTOUCHED, on_items=lambda n: bar.advance(task, n))
            is_shifted = sides_of(probes.probes)
            targets = {
                (name, point, side): 2.0 ** float(untouched[f"{name}|{point}"][is_shifted == (side == SHIFTED)].mean())
                for name in ("active", "spread")
                for point in points
                for side in LEVELS
            }

            def ask(numbers: Sequence[int]) -> Arrays:
                asked = [items[i] for i in numbers]
                prompts, found = Prompts(model.module, asked), dict[str, Floats]()
                seeds = [self.frozen.probes.seed * len(items) + i for i in numbers]
                for name, settings in self._trials(put, targets, asked, seeds):
                    answered = prompts.answer(settings)
                    found |= {f"correct|{name}": answered.correct.numpy(), f"loss|{name}": answered.loss.numpy()}
                return found

            kept(ask, order, folder / SURFACE, on_items=lambda n: bar.advance(task, n * (n_trials - 1)))
        return ReadResult(weights_sha256=model.weights_sha256, n_items=len(items), n_tokens=probes.n_tokens)

    def _trials(
        self, put: Put, targets: Mapping[tuple[str, str, str], float], items: Sequence[Item], seeds: Sequence[int]
    ) -> Iterator[tuple[str, Mapping[str, Setting]]]:
        """Every way in which a batch is answered: what follows the outcome in its name, and hook point -> what is done there."""
        orders: dict[int, Tensor] = {}
        for place, points in self.places_of(put).items():
            tried = self.tried_at(put, points)
            width = tried["largest"][-1]
            if width not in orders:
                drawn = [drawn_order(item.n_answer, width, seed) for item, seed in zip(items, seeds, strict=True)]
                orders[width] = torch.cat(drawn)
            for k in tried["largest"][:-1]:
                yield f"{place}|largest|{k}", dict.fromkeys(points, keep_largest(k))
            for k in tried["random"][:-1]:
                yield f"{place}|random|{k}", dict.fromkeys(points, keep_random(k, orders[width]))
            for side in LEVELS:
                own = {point: keep_largest(round(targets["active", point, side])) for point in points}
                yield f"{place}|topk|{side}", own
                yield f"{place}|temperature|{side}", {p: set_participation(targets["spread", p, side]) for p in points}

    def read_of(self, run_dir: Path, subject: Subject) -> SideReadings:
        put = self.put_of(subject.arm)
        points, folder = self.places_of(put)[subject.place], run_dir / self.folder(put)
        return SideReadings(
            arrays={
                name: value for part in PARTS for name, value in load_arrays(folder / part / "readings.npz").items()
            },
            is_shifted=sides_of(self.probes[put.arm].probes),
            place=subject.place,
            points=points,
            tried=self.tried_at(put, points),
            n_bootstrap=self.frozen.n_bootstrap,
            confidence=self.confidence,
        )

    def figures(self, read: Mapping[Subject, Sequence[SideReadings]]) -> Sequence[Figure]:
        return [
            Figure(
                key=f"{slug(subject.arm)}_{slug(subject.place)}_{outcome}",
                title=f"{subject.arm}: {title} by active channels, {subject.place}",
                x_label="log2 k, channels kept where the answer is predicted",
                y_label=label,
                curves=tuple(r.curve(side, outcome, how) for how in ways for side in LEVELS),
                note="mean over items, band: 95% bootstrap over items; the last point is the untouched model",
            )
            for subject, (r,) in read.items()
            for outcome, title, label, ways in (
                ("correct", "accuracy", "accuracy", ("largest", "random")),
                ("loss", "loss", "loss, nats/token", ("largest",)),
            )
        ]

    def tables(
        self, read: Mapping[Subject, Sequence[SideReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        return (
            ResultTable(
                title="Untouched: how both sides are answered, and with how many channels",
                columns=("set", "side", "accuracy", "loss", "tokens of an answer", "place", "log2 channels", "log2 channels, first token"),
                rows=tuple(self._untouched(subject, r, side) for subject, (r,) in read.items() for side in LEVELS),
                note=f"channels that carry {self.adaptive.energy:g} of the energy where the answer is predicted; intervals here are 95%, not widened",
            ),
            ResultTable(
                title="Best k of each side",
                columns=("set", "place", *(f"log2 best k, {side}" for side in LEVELS), *(f"accuracy at best, {side}" for side in LEVELS)),
                rows=tuple(self._best(subject, r) for subject, (r,) in read.items()),
                note=f"mean and 95% interval over {self.frozen.n_bootstrap} resamples of as many items of either side; the highest mean accuracy of all levels "
                f"flatters, the gain in the claims is measured on items that did not choose",
            ),
            ResultTable(
                title="Accuracy of each side held at the density of either",
                columns=("set", "place", "by", "side", *(f"at the density of {target} input" for target in LEVELS)),
                rows=tuple(
                    (subject.arm, subject.place, by, side, *(cell(r, r.held(side, by, target), "fraction") for target in LEVELS))
                    for subject, (r,) in read.items()
                    for by in BYS
                    for side in LEVELS
                ),
                note="intervals here are 95%, not widened",
            ),
        )  # fmt: skip

    def _untouched(self, subject: Subject, r: SideReadings, side: str) -> tuple[TableCell, ...]:
        lengths = np.array([p.n_answer for p in self.probes[subject.arm].probes], dtype=np.float64)
        return (
            subject.arm,
            side,
            cell(r, r.at("correct")[r.items(side)], "fraction"),
            cell(r, r.at("loss")[r.items(side)], "nats/token"),
            cell(r, lengths[r.items(side)], "tokens"),
            subject.place,
            cell(r, r.used(side), "log2 channels"),
            cell(r, r.used(side, "first"), "log2 channels"),
        )

    def _best(self, subject: Subject, r: SideReadings) -> tuple[TableCell, ...]:
        highest = [cell(r, by_level[by_level.mean(1).argmax()], "fraction") for by_level in map(r.responses, LEVELS)]
        return (
            subject.arm,
            subject.place,
            *(of_resamples(values, "log2 k") for values in r.resampled().values()),
            *highest,
        )


def n_items_of(side: str) -> Callable[[SideReadings], float]:
    """The number of items of a side."""
    return lambda r: float(r.items(side).sum())


def answered_of(side: str) -> Callable[[SideReadings], float]:
    """The share of a side that is answered untouched."""
    return lambda r: r.answered(side)


def cell(r: SideReadings, values: Floats, unit: str) -> Number:
    """Mean over items with its 95% interval."""
    return over_items(values, n_bootstrap=r.n_bootstrap, seed=0).number(unit)


def sides_of(probes: Sequence[Probe]) -> NDArray[np.bool_]:
    """Which items are shifted, `[n_items]`."""
    return np.array([LEVELS[probe.level] == SHIFTED for probe in probes])


def read_untouched(prompts: Prompts, points: Sequence[str], energy: float) -> Arrays:
    """Answers of the untouched model, and how many channels it uses, by the names that `SideReadings.arrays` has."""
    answered = prompts.answer({})
    found = {"correct": answered.correct, "loss": answered.loss}
    first = prompts.n_answer.cumsum(0) - prompts.n_answer
    for point, h in prompts.seen(points).items():
        active = n_active(h, energy).double().log2()
        found |= {
            f"active|{point}": prompts.per_item(active),
            f"first|{point}": active[first],
            f"spread|{point}": prompts.per_item(participation_ratio(h).double().log2()),
        }
    return {name: values.numpy() for name, values in found.items()}
