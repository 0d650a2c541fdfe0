"""The farther the shift, the sparser? On a pretrained language model: every shift graded, each minus its control, layer by layer.

1. Texts are read at all tokens but the first, prompts at the token that predicts the answer.
2. The verdict rests on (farthest level minus level 0) of the shift minus the same of its control, without and with the gain of the final
   norm. What would be said without a control stands beside it.
3. Where in the model: the same difference at every hook point, with intervals that hold for the whole map.
4. A second, small model may read the same texts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from sparsetrain.data.probes import SIDES
from sparsetrain.data.probes.prompts import PROMPTS
from sparsetrain.data.probes.text_shifts import TEXTS
from sparsetrain.report.blocks import Curve
from sparsetrain.representation.evaluate import LOGIT_MEASURES
from sparsetrain.representation.items import ReadOut
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.intervals import Estimate, Floats, simultaneous
from sparsetrain.stats.neighbours import minus_neighbours
from sparsetrain.stats.number import number
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.frozen import NEURON, NORM, FrozenStudy, ProbeReadings, Put, levels_table, mean_of
from sparsetrain.studies.readings import FINAL, both_gains, correlation, gaussian, sparsity
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.shifts import MARGINS
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, gate

BUILDERS = {**{name: build for name, build in TEXTS.items() if name != "licences"}, **PROMPTS}
NATURAL, SPLITS, CONFLICT = "natural", "splits", "conflict"
ANSWERED = 0.25
"""Share of level 0 that must be answered for a shift of prompts to mean anything. ours"""
N_TEXTS, N_PROMPTS = 100, 60
"""Rows that a verdict needs, of text and of prompts. ours"""
BANDWIDTH = 0.15
"""nats/token within which texts count as of equal loss. ours"""
LATE = 1 / 3
"""Share of the norms, the last ones, that a localised effect is in. ours"""
LOSS = "nats/token"
OVERVIEWS = {
    "overview": (f"Farthest level minus level 0 at {FINAL}: without and with control", ("naive", "controlled")),
    "local": ("Shift minus control: the last third of the layers minus those before", ("local",)),
}


@dataclass(frozen=True, kw_only=True)
class ShiftReadings(ProbeReadings):
    """One shift as one model read it."""

    natural: ProbeReadings | None = None
    """Of texts: the natural ones that it is compared with at equal loss."""

    def change(self, control: str = "none", *, controlled: bool = False, naive: bool = False) -> Estimate:
        """Farthest level minus level 0 of the headline at the final norm."""
        values = self.naive(control) if naive else self.sparsity(control)
        return self.mean(self.rise(values, controlled=controlled))

    def farther(self, *, controlled: bool = False) -> Estimate:
        """The same of the model's own loss, of prompts that of the answer."""
        return self.mean(self.rise(self.covariate("loss"), controlled=controlled))

    def step(self, level: int, *, controlled: bool = False) -> Estimate:
        """A level minus the one before it."""
        return self.mean(self.rise(self.sparsity(), controlled=controlled, level=level, start=level - 1))

    def per_item(self, *given: str, controlled: bool = True) -> Estimate:
        """Rank correlation of level and sparsity over items, shift minus control, given covariates."""

        def items(values: Floats) -> Floats:
            return (values[0] - values[1] if controlled else values[0]).T

        y = items(self.sparsity() if controlled else self.naive())
        if len(y) < 2:
            return self.mean(y[:, 0])
        level = np.broadcast_to(np.arange(y.shape[1], dtype=np.float64), y.shape)
        covariates = [items(self.covariate(name)) for name in given]
        known = np.isfinite([y, *covariates]).all((0, 2))
        level, y, *covariates = (values[known] for values in (level, y, *covariates))
        return spearman(level, y, given=covariates, n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=0)

    def among_equals(self) -> Estimate:
        """The levels beyond 0 minus natural texts of equal loss."""
        assert self.natural is not None
        return minus_neighbours(
            self.covariate("loss")[0, 1:].T,
            self.sparsity()[0, 1:].T,
            self.natural.covariate("loss").ravel(),
            self.natural.sparsity().ravel(),
            bandwidth=BANDWIDTH,
            n_bootstrap=self.n_bootstrap,
            confidence=self.confidence,
            seed=0,
        )

    def local(self) -> Estimate:
        """Shift minus control in the last third of the norms minus that in those before."""
        norms = self.places(NORM)
        rises = np.stack([self.rise(self.sparsity(point=point), controlled=True) for point in norms])
        n_late = max(1, round(LATE * len(norms)))
        return self.mean(mean_of_known(rises[-n_late:]) - mean_of_known(rises[:-n_late]))

    @cached_property
    def map(self) -> dict[tuple[str, ReadOut], Estimate]:
        """Shift minus control at every hook point and read-out, with intervals that hold for all of them together.

        Not defined where a row has no value: the vector of a token can be zero in the first layers of a sparse model.
        """
        places: list[tuple[str, ReadOut]] = [(point, where) for point in self.points for where in ("last", "all")]
        rises = [self.rise(self.sparsity(point=point, read_out=where), controlled=True) for point, where in places]
        unknown = dict.fromkeys(places, self.mean(rises[0][:0]))
        known = [i for i, rise in enumerate(rises) if len(rise) > 1 and np.isfinite(rise).all()]
        if not known:
            return unknown
        found = simultaneous(
            [rises[i] for i in known], n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=0
        )
        return unknown | {places[i]: estimate for i, estimate in zip(known, found, strict=True)}


def mean_of_known(values: Floats) -> Floats:
    """Mean over the first axis of what is finite, `[n, m] -> [m]`; NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, values, 0.0).sum(0) / known.sum(0)


def farther(key: str, claim: str, effect: Callable[[ShiftReadings], Estimate]) -> Hypothesis:
    """A hypothesis about the distance of a level."""
    return Hypothesis(
        key=key, claim=f"distance: {claim}", expected="positive", effect=effect, unit=LOSS, margin=MARGINS[LOSS]
    )


def over_rows(*hypotheses: Hypothesis) -> tuple[Hypothesis, ...]:
    """Hypotheses that rows decide, not seeds."""
    return tuple(replace(hypothesis, per_seed=False) for hypothesis in hypotheses)


OF_STEPS = 3
"""Neighbouring pairs among the four splits."""


@dataclass(frozen=True, kw_only=True)
class ShiftsRealStudy(FrozenStudy[ShiftReadings]):
    """Claims are made about each shift, and about each that the second model reads."""

    question = "Do the representations of a pretrained language model get sparser as input gets farther, harder, longer, or contradicts what was learned?"
    builders = BUILDERS
    texts = frozenset(TEXTS)
    plain = frozenset({"splits", "noise", "order", "digits", "steps"})
    pools = frozenset({NATURAL})
    hypotheses = over_rows(
        *both_gains("naive", "positive", "without control, every token counted: the farthest level is sparser than level 0", lambda r, c: r.change(c, naive=True)),
        correlation("naive per item", "positive", "without control: farther items are sparser, item by item (Spearman)", lambda r: r.per_item(controlled=False)),
        *both_gains("controlled", "positive", "shift minus control: the farthest level is sparser than level 0", lambda r, c: r.change(c, controlled=True)),
        correlation("per item", "positive", "shift minus control: farther items are sparser, item by item (Spearman)", lambda r: r.per_item()),
        correlation("beyond prediction", "positive", "the same given loss, entropy and logit norm (partial Spearman)", lambda r: r.per_item(*LOGIT_MEASURES)),
        sparsity("rotated", "none", "control: shift minus control is nothing in a random basis", lambda r: r.change("rotated", controlled=True)),
        sparsity("trimmed", "positive", "control: shift minus control without the strongest 1% of channels", lambda r: r.change("trimmed", controlled=True)),
        sparsity("local", "positive", "shift minus control is larger in the last third of the norms than before", lambda r: r.local()),
        farther("own loss", "the model's own loss (of prompts that of the answer) is higher at the farthest level", lambda r: r.farther()),
        farther("own loss, controlled", "the same, shift minus control", lambda r: r.farther(controlled=True)),
    )  # fmt: skip
    of_texts = over_rows(
        sparsity("equal loss", "positive", "the levels beyond 0 are sparser than natural texts of equal loss, where there are such", lambda r: r.among_equals()),
    )  # fmt: skip
    of_splits = over_rows(
        *(sparsity(f"pair {level}", "positive", f"level {level} is sparser than level {level - 1}", lambda r, level=level: r.step(level)) for level in range(1, 1 + OF_STEPS)),
        *(sparsity(f"pair {level}, controlled", "positive", f"shift minus control: level {level} is sparser than level {level - 1}", lambda r, level=level: r.step(level, controlled=True)) for level in range(1, 1 + OF_STEPS)),
    )  # fmt: skip
    rulings = (
        Ruling(
            name="farther, sparser",
            statement="beyond what length, position, form and single tokens do",
            needs=("controlled", "controlled, gain"),
        ),
        Ruling(
            name="naive: farther, sparser",
            statement="what would be said without a control",
            needs=("naive", "naive, gain"),
        ),
        Ruling(
            name="is farther",
            statement="the model's own loss says that the level is farther",
            needs=("own loss",),
        ),
        Ruling(
            name="local",
            statement="there is an effect, and more of it in the last third of the layers",
            needs=("controlled", "local"),
        ),
    )
    of_splits_ruled = (
        Ruling(
            name="order of the four splits",
            statement="each split is sparser than the one before it",
            needs=tuple(f"pair {level}" for level in range(1, 1 + OF_STEPS)),
        ),
        Ruling(
            name="order of the four splits, controlled",
            statement="each split is sparser than the one before it, beyond its own tokens in random order",
            needs=tuple(f"pair {level}, controlled" for level in range(1, 1 + OF_STEPS)),
        ),
    )

    overviews = OVERVIEWS

    def asked(self, subject: Subject) -> Sequence[Hypothesis]:
        name = self.put_of(subject.arm).name
        texts = self.of_texts if name in self.texts and self._has_natural(subject.arm) else ()
        return (*self.hypotheses, *texts, *(self.of_splits if name == SPLITS else ()))

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        return (*self.rulings, *(self.of_splits_ruled if self.put_of(subject.arm).name == SPLITS else ()))

    def _natural_of(self, put: Put) -> Put | None:
        return next((other for other in self.puts if other.name == NATURAL and other.model == put.model), None)

    def _has_natural(self, arm: str) -> bool:
        return self._natural_of(self.put_of(arm)) is not None

    def method(self) -> tuple[str, ...]:
        graded = "; ".join(
            f"{arm}: {probes.shift}, levels {', '.join(probes.levels)} (control: {probes.control})"
            for arm in self.arms
            if not self.put_of(arm).is_second
            for probes in [self.probes[arm]]
        )
        return (
            "Each shift has levels from 0, as near as it gets, to farthest, and a control whose items change as those of the shift do without what "
            "is claimed to matter. Row k is made of the same material at every level and on both sides, so that everything is compared row by row.",
            f"{graded}.",
            f"Read at {FINAL}, before and after its gain: of texts the mean over all tokens but the first (where many models keep an attention sink), "
            f"of prompts the token that predicts the answer. The {HEADLINE} of a Gaussian vector is .414, more is sparser. The naive line counts "
            f"every token and has no control. Of conflict only rows count that are answered without a statement in front (level 0, the same "
            f"on both sides).",
            f"Equal loss: the levels of a text beyond 0 against natural texts (code of several languages, prose, other human languages) of equal loss, "
            f"Gaussian weights of bandwidth {BANDWIDTH:g} nats/token. Local: the last third of the norms against those before; the map in the tables "
            f"has intervals that hold for all its places together.",
            *self.paragraphs(),
        )

    def gates(self) -> Gates[ShiftReadings]:
        def n_rows(r: ShiftReadings) -> float:
            return float(r.sparsity().shape[-1])

        def answered(r: ShiftReadings) -> float:
            everything = replace(r, kept=None)  # of conflict what is kept is what was answered
            return float(everything["correct"][0, 0].mean())  # the control of level 0 may have its answer in front

        found = []
        for arm in self.arms:
            name = self.put_of(arm).name
            least = N_TEXTS if name in self.texts else N_PROMPTS
            found.append(gate(f"{arm}: rows", f"{arm}: rows of each level", number(least, "rows"), n_rows, arm=arm))
            if name not in self.texts:
                words = f"{arm}: level 0 answered"
                found.append(gate(f"{arm}: answered", words, number(ANSWERED, "fraction"), answered, arm=arm))
        return found

    def read_of(self, run_dir: Path, subject: Subject) -> ShiftReadings:
        put = self.put_of(subject.arm)
        natural = self._natural_of(put) if put.name in self.texts else None
        pool = None if natural is None else self.readings(run_dir, natural, ProbeReadings)
        known = self.readings(run_dir, put, ShiftReadings, natural=pool)
        if put.name != CONFLICT:
            return known
        return replace(known, kept=known["correct"][0, 0] == 1)

    def figures(self, read: Mapping[Subject, Sequence[ShiftReadings]]) -> Sequence[Figure]:
        found: list[Figure] = []
        for subject, (r,) in read.items():
            width = self.model_of(self.put_of(subject.arm)).hook_points()[FINAL].width
            x = tuple(float(level) for level in range(len(r.probes.levels)))
            by_level = f"level: {', '.join(r.probes.levels)}"
            found.append(
                Figure(
                    key=f"{slug(subject.arm)}_gini",
                    title=f"{subject.arm}: {HEADLINE} at {FINAL}",
                    x_label=by_level,
                    y_label=HEADLINE,
                    curves=tuple(band(side, x, r, r.sparsity()[i]) for i, side in enumerate(SIDES)),
                    references=gaussian(width),
                    note="mean over rows, band: 95% bootstrap over rows",
                )
            )
            found.append(map_figure(subject.arm, r, "shift minus control at every layer"))
        return found

    def tables(
        self, read: Mapping[Subject, Sequence[ShiftReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        return (
            levels_table(read),
            map_table(read, "Shift minus control, farthest level minus level 0, at every hook point"),
        )


def map_figure(arm: str, r: ShiftReadings, what: str) -> Figure:
    """The map of an arm over depth."""
    mapped = r.map
    return Figure(
        key=f"{slug(arm)}_map",
        title=f"{arm}: {what}",
        x_label="depth (0: first block, 1: last norm)",
        y_label=f"{HEADLINE}, farthest level minus level 0",
        curves=tuple(
            Curve(
                name=label,
                x=tuple(i / max(1, len(places) - 1) for i in range(len(places))),
                y=tuple(finite(mapped[place, r.read_out].value) for place in places),
                lo=tuple(finite(mapped[place, r.read_out].lo) for place in places),
                hi=tuple(finite(mapped[place, r.read_out].hi) for place in places),
            )
            for label, kind in (("norms, without gain", NORM), ("MLP neurons", NEURON))
            if (places := r.places(kind))
        ),
        note=f"bands hold for all {len(mapped)} places of this map together ({r.confidence:.4f}, max-t over rows)",
    )


def finite(value: float) -> float | None:
    """The value, or a gap."""
    return value if math.isfinite(value) else None


def map_table(read: Mapping[Subject, Sequence[ShiftReadings]], title: str) -> ResultTable:
    """The maps of all arms."""
    rows: list[tuple[TableCell, ...]] = [
        (subject.arm, *place, estimate.number(HEADLINE))
        for subject, (r,) in read.items()
        for place, estimate in r.map.items()
    ]
    return ResultTable(
        title=title,
        columns=("set", "hook point", "tokens", "difference"),
        rows=tuple(rows),
        note="intervals hold for all places of a set together (max-t over rows)",
    )


def band(name: str, x: tuple[float, ...], r: ProbeReadings, values: Floats) -> Curve:
    """Means of `[n_levels, n_rows]` with bootstrap bands."""
    if values.shape[-1] < 2:
        return Curve(name=name, x=x, y=tuple(values.mean(-1)) if values.shape[-1] else (None,) * len(x))
    found = [mean_of(of_level, r.n_bootstrap) for of_level in values]
    return Curve(
        name=name,
        x=x,
        y=tuple(finite(e.value) for e in found),
        lo=tuple(finite(e.lo) for e in found),
        hi=tuple(finite(e.hi) for e in found),
    )


def slug(arm: str) -> str:
    """An arm's name as part of a file's."""
    return "".join(c if c.isalnum() else "_" for c in arm).strip("_")
