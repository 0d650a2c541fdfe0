"""Is density learned through familiarity? On a pretrained language model: what training has seen often against seldom, at equal form.

1. Licences are read at all tokens but the first, row by row, and minus their control. Prompts (countries, elements, nouns, identifiers) are read at
   the token behind their subject, which is the same for all; subjects are what is resampled, each with the mean over its templates.
2. The verdict rests on seldom minus often (of prompts between subjects of equally many tokens), on the rank correlation with how often
   something was seen, given loss, entropy, logit norm and position, and on the untrained model, which must show nothing.
3. What would be said without all that stands beside it, and so does what the same rules say where familiarity is dealt out at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from torch import nn

from sparsetrain.adapters import at_initialisation
from sparsetrain.data.probes import SIDES
from sparsetrain.data.probes.familiar import FAMILIAR
from sparsetrain.data.probes.text_shifts import TEXTS
from sparsetrain.progress import progress_bar
from sparsetrain.report.blocks import Curve
from sparsetrain.representation.evaluate import LOGIT_MEASURES
from sparsetrain.representation.items import Looks, read_resumably
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule, decide
from sparsetrain.stats.intervals import Estimate, Floats, Ints, difference
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.frozen import FAMILY, NEURON, FrozenStudy, Put, item_of, loaded, mean_of
from sparsetrain.studies.readings import FINAL, RHO_MARGIN, both_gains, correlation, gaussian, sparsity
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.shifts_real import (
    N_PROMPTS,
    N_TEXTS,
    ShiftReadings,
    band,
    farther,
    map_figure,
    map_table,
    over_rows,
    slug,
)
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, gate

LICENCES = "licences"
BUILDERS = {LICENCES: TEXTS[LICENCES], **FAMILIAR}
ASKED = frozenset({"countries", "elements"})
"""Sets whose answers are facts; in the others the answer is a word that is the same for all."""
N_SHUFFLES = 200
"""Deals of familiarity at random. ours"""
N_QUICK = 400
"""Resamples behind each interval of a deal. ours"""
OVERVIEWS = {
    "overview": (
        f"Seldom minus often at {FINAL}: without and with control, and in the untrained model",
        ("naive", "controlled", "at init"),
    ),
    "dose": (
        "How often something was seen and how sparse it is: without control, with it, and given prediction",
        ("naive dose", "dose", "dose given prediction"),
    ),
    "local": ("Seldom minus often: the last third of the layers minus those before", ("local",)),
}
N_BINS = 10
"""Of a figure over frequency."""


@dataclass(frozen=True, kw_only=True)
class FamiliarReadings(ShiftReadings):
    """One set as one model read it: a shift from what was seen often to what was seen seldom.

    Of prompts every value is of a subject, `[n_subjects]`: the mean over its templates.
    """

    initial: Mapping[str, Floats]
    """What the untrained model reads at the final norm, in the order of the probes."""
    deal: Ints | None = None
    """Familiarity dealt out anew. Of prompts `[n_subjects]`: whose frequency each subject has; of texts `[n_levels, n_rows]`: which level of its
    row, on both sides, stands at each level."""
    margin: float = 0.005
    """Smallest difference of interest of the headline."""

    def __getitem__(self, name: str) -> Floats:
        values = super().__getitem__(name)
        if not self.probes.matched:
            return self._of_subjects(values)
        return values if self.deal is None else np.take_along_axis(values, self.deal[None], 1)

    @property
    def untrained(self) -> "FamiliarReadings":
        """The same items read by the untrained model."""
        return replace(self, arrays=self.initial)

    @cached_property
    def _subject(self) -> Ints:
        """Of each probe."""
        return np.array([probe.row for probe in self.probes.probes])

    def _of_subjects(self, values: ArrayLike) -> Floats:
        v = np.asarray(values, dtype=np.float64)
        return np.bincount(self._subject, weights=v) / np.bincount(self._subject)

    def _dealt(self, values: Floats) -> Floats:
        return values if self.deal is None else values[self.deal]

    @cached_property
    def frequency(self) -> Floats:
        """How often each subject of prompts was seen; of texts the mean frequency of their words, `[n_sides, n_levels, n_rows]`."""
        values = self.probes.frequencies()
        return values.reshape(self.probes.shape) if self.probes.matched else self._dealt(self._of_subjects(values))

    @cached_property
    def level(self) -> Floats:
        """Of each subject of prompts."""
        return self._dealt(self._of_subjects([probe.level for probe in self.probes.probes]))

    @cached_property
    def position(self) -> Floats:
        """Tokens in front of the answer, of each subject of prompts."""
        return self._of_subjects([len(probe.tokens) - probe.n_answer for probe in self.probes.probes])

    @cached_property
    def pairs(self) -> tuple[Ints, Ints]:
        """Numbers of subjects: the most seldom third of those of equally many tokens, and beside each one of the third seen most often."""
        seldom: list[int] = []
        often: list[int] = []
        for position in np.unique(self.position):
            alike = np.flatnonzero(self.position == position)
            ordered = alike[np.argsort(-self.frequency[alike], kind="stable")]
            n = len(ordered) // 3
            often += ordered[:n].tolist()
            seldom += ordered[len(ordered) - n :].tolist()
        return np.array(seldom, dtype=np.int64), np.array(often, dtype=np.int64)

    def at(self, values: Floats, side: int, level: int) -> Floats:
        """Those of one level on one side."""
        return values[side, level] if self.probes.matched else values[self.level == level]

    def rise(self, values: Floats, *, controlled: bool = False, level: int = -1, start: int = 0) -> Floats:
        """Seldom minus often: of texts as everywhere, of prompts between subjects of equally many tokens. `[n_rows]` or `[n_pairs]`"""
        if self.probes.matched:
            return super().rise(values, controlled=controlled, level=level, start=start)
        seldom, often = self.pairs
        return values[seldom] - values[often]

    def change(self, control: str = "none", *, controlled: bool = False, naive: bool = False) -> Estimate:
        """Seldom minus often of the headline at the final norm; naive: of prompts whatever their length."""
        if controlled or self.probes.matched:
            return super().change(control, controlled=controlled, naive=naive)
        values, last = self.sparsity(control), len(self.probes.levels) - 1
        seldom, often = (
            of_level[np.isfinite(of_level)] for of_level in (self.at(values, 0, last), self.at(values, 0, 0))
        )
        return difference(
            seldom,
            often,
            n_bootstrap=self.n_bootstrap,
            confidence=self.confidence,
            seed=0,
        )

    def own_loss(self) -> Floats:
        """Mean loss over all tokens: of prompts those of the subject too, which say how familiar it is."""
        return self["loss|all"]

    def farther(self, *, controlled: bool = False) -> Estimate:
        """Seldom minus often of the own loss."""
        return self.mean(self.rise(self.own_loss(), controlled=controlled))

    def dose(self, *given: str, controlled: bool = True) -> Estimate:
        """Rank correlation of how often something was seen and sparsity, given covariates; below 0: sparser what was seen more seldom.

        Args:
            given: names of covariates.
            controlled: of texts the shift minus its control, over rows at all levels; of prompts given the position too.
        """
        if self.probes.matched:
            e = self.per_item(*given, controlled=controlled)  # of the level, which is the share that is exchanged
            return replace(e, value=-e.value, lo=-e.hi, hi=-e.lo)
        covariates = [self.covariate(name) for name in given]
        if controlled and np.ptp(self.position):
            covariates.append(self.position)
        known = np.isfinite([self.sparsity(), *covariates]).all(0)
        frequency, values, *covariates = (v[known] for v in (self.frequency, self.sparsity(), *covariates))
        return spearman(
            frequency,
            values,
            given=covariates,
            n_bootstrap=self.n_bootstrap,
            confidence=self.confidence,
            seed=0,
        )

    def dealt(self, seed: int) -> "FamiliarReadings":
        """The same with familiarity dealt out at random."""
        rng = np.random.default_rng(seed)
        if self.probes.matched:
            _, n_levels, n_rows = self.probes.shape
            return replace(self, deal=rng.permuted(np.tile(np.arange(n_levels)[:, None], n_rows), axis=0))
        return replace(self, deal=rng.permutation(self._subject[-1] + 1))

    def by_chance(self) -> Estimate:
        """Share of deals at random in which gap and dose both say that density is learned through familiarity."""
        gap = DecisionRule(claim="gap", expected="positive", margin=self.margin)
        dose = DecisionRule(claim="dose", expected="negative", margin=RHO_MARGIN)
        quick = replace(self, n_bootstrap=min(N_QUICK, self.n_bootstrap))
        n = sum(
            decide(gap, r.change(controlled=True)).word == "supported"
            and decide(dose, r.dose(*LOGIT_MEASURES)).word == "supported"
            for r in map(quick.dealt, range(N_SHUFFLES))
        )
        lo, hi = binomtest(n, N_SHUFFLES).proportion_ci(method="exact")
        method = f"{n} of {N_SHUFFLES} deals, 95% Clopper-Pearson interval"
        return Estimate(value=n / N_SHUFFLES, lo=float(lo), hi=float(hi), n=N_SHUFFLES, method=method)


@cache
def initial(name: str, device: str, seed: int, trust_remote_code: bool = False) -> nn.Module:
    """A model as its training began, once per process."""
    return at_initialisation(loaded(name, device, trust_remote_code), seed)


@dataclass(frozen=True, kw_only=True)
class FamiliarityRealStudy(FrozenStudy[FamiliarReadings]):
    """Claims are made about each set, and about each that the second model reads."""

    question = "Are the representations of a pretrained language model denser for what it has seen often than for what it has seen seldom?"
    builders = BUILDERS
    texts = frozenset({LICENCES})
    plain = small = frozenset({"identifiers"})
    overviews = OVERVIEWS
    passes = 1.8  # the untrained model reads everything too, at one hook point
    hypotheses = over_rows(
        *both_gains("naive", "positive", "without control: what was seen seldom is sparser than what was seen often", lambda r, c: r.change(c, naive=True)),
        correlation("naive dose", "negative", "without control: the oftener seen, the denser (Spearman)", lambda r: r.dose(controlled=False)),
        *both_gains("controlled", "positive", "seldom minus often, texts minus control, prompts at equal length in tokens", lambda r, c: r.change(c, controlled=True)),
        correlation("dose", "negative", "the oftener seen, the denser (texts: minus control, Spearman; prompts: partial given the position)", lambda r: r.dose()),
        correlation("dose given prediction", "negative", "the same given loss, entropy and logit norm too (partial Spearman)", lambda r: r.dose(*LOGIT_MEASURES)),
        sparsity("at init", "none", "control: seldom minus often is nothing in the untrained model", lambda r: r.untrained.change(controlled=True)),
        sparsity("rotated", "none", "control: seldom minus often is nothing in a random basis", lambda r: r.change("rotated", controlled=True)),
        sparsity("trimmed", "positive", "control: seldom minus often without the strongest 1% of channels", lambda r: r.change("trimmed", controlled=True)),
        sparsity("local", "positive", "seldom minus often is larger in the last third of the norms than before", lambda r: r.local()),
        farther("own loss", "the model's own loss of the item is higher for what was seen seldom", lambda r: r.farther(controlled=not r.probes.matched)),
        Hypothesis(key="by chance", claim="control: with familiarity dealt out at random gap and dose are seldom both supported", expected="none", margin=FAMILY, effect=FamiliarReadings.by_chance, unit="fraction"),
    )  # fmt: skip
    rulings = (
        Ruling(
            name="learned through familiarity",
            statement="what was seen seldom is sparser at equal form, by degrees, beyond what prediction does, and training has made it so",
            needs=("controlled", "dose given prediction", "at init"),
        ),
        Ruling(
            name="naive: learned through familiarity",
            statement="what would be said without a control",
            needs=("naive", "naive dose"),
        ),
        Ruling(
            name="is less familiar",
            statement="the model's own loss says that what was seen seldom is less familiar",
            needs=("own loss",),
        ),
        Ruling(
            name="local",
            statement="there is an effect, and more of it in the last third of the layers",
            needs=("controlled", "local"),
        ),
    )

    def method(self) -> tuple[str, ...]:
        graded = "; ".join(
            f"{arm}: {probes.shift}, levels {', '.join(probes.levels)}" + f" (control: {probes.control})" * bool(probes.control)
            for arm in self.arms
            if not self.put_of(arm).is_second
            for probes in [self.probes[arm]]
        )  # fmt: skip
        sizes = "; ".join(
            f"{arm} {len({probe.row for probe in probes.probes})}"
            for arm, probes in self.probes.items()
            if not probes.matched
        )
        return (
            "Each set has levels from what training is likely to have seen often to what it has seen seldom, by a count made elsewhere.",
            f"{graded}.",
            f"Texts are read as the mean over all tokens but the first, at {FINAL}; row k of a level is the same text as row k of the others, its words "
            f"exchanged for equally frequent ones of equal length, and other prose whose words are exchanged likewise is the control: it was not seen word for word either way. "
            f"The naive line counts every token and has no control.",
            f"Prompts are read at the token behind their subject, which is the same for all subjects of a template, as all is that stands in front of the subject. "
            f"A subject's value is its mean over the templates, and subjects are resampled, not prompts: {sizes or 'no such set'}. Countries and "
            f"elements are few and taken as they are: thirds are of all, whatever their length in tokens, for the naive line; the verdict "
            f"takes thirds within each length in tokens and compares the most seldom with as many of those seen most often, pair by pair. Of {', '.join(sorted(ASKED))} the loss is of "
            f"the fact, of the other prompts of a word that is the same for all; accuracy is reported, and decides nothing.",
            f"Dose: how often something was seen is log10 of a population, the Zipf frequency of a name or word, log10 of 1 + modules, or minus the share of "
            f"words that are exchanged. Covariates: {', '.join(LOGIT_MEASURES)}, and of prompts the number of tokens in front of the answer.",
            f"Nulls: the untrained model (same architecture, seed {self.config.seed}) reads the same items; and familiarity is dealt out at random "
            f"{N_SHUFFLES} times, of texts within each row, and the rules are asked again ({N_QUICK} resamples).",
            *self.paragraphs(),
        )

    def gates(self) -> Gates[FamiliarReadings]:
        def n_items(r: FamiliarReadings) -> float:
            if r.probes.matched:
                return float(r.sparsity().shape[-1])
            of_level = [
                {probe.row for probe in r.probes.probes if probe.level == level}
                for level in range(len(r.probes.levels))
            ]
            return float(min(map(len, of_level)))

        return [
            gate(f"{arm}: {unit}", f"{arm}: {unit} of each level", number(least, unit), n_items, arm=arm)
            for arm in self.arms
            for unit, least in [("texts", N_TEXTS) if self.put_of(arm).name in self.texts else ("subjects", N_PROMPTS)]
        ]

    def inputs(self, put: Put) -> Mapping[str, object]:
        return {**super().inputs(put), "initial": self.config.seed}

    def work(self, put: Put, folder: Path) -> StageResult:
        """Reads all items of a set, and again with the untrained model."""
        result = super().work(put, folder)
        items = [item_of(probe) for probe in self.probes[put.arm].probes]
        device, trusted = self.config.trainer.torch_device, self.frozen.trust_remote_code
        module = initial(put.model, device, self.config.seed, trusted)
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task(f"{put.arm}, untrained", total=len(items))
            read_resumably(
                module,
                items,
                Looks(points=(FINAL,), measures=(HEADLINE,)),
                folder / "initial",
                batch_size=self.frozen.batch_size,
                on_items=partial(bar.advance, task),
            )
        return result

    def read_of(self, run_dir: Path, subject: Subject) -> FamiliarReadings:
        put = self.put_of(subject.arm)
        with np.load(run_dir / self.folder(put) / "initial" / "readings.npz") as file:
            untrained = {name: file[name] for name in file.files}
        return self.readings(run_dir, put, FamiliarReadings, initial=untrained, margin=self.rules.margin)

    def figures(self, read: Mapping[Subject, Sequence[FamiliarReadings]]) -> Sequence[Figure]:
        found: list[Figure] = []
        for subject, (r,) in read.items():
            width = self.model_of(self.put_of(subject.arm)).hook_points()[FINAL].width
            if r.probes.matched:
                x = tuple(float(level) for level in range(len(r.probes.levels)))
                curves = tuple(band(side, x, r, r.sparsity()[i]) for i, side in enumerate(SIDES))
                x_label = f"{r.probes.shift}: {', '.join(r.probes.levels)}"
            else:
                curves = (over_frequency("trained", r), over_frequency("untrained", r.untrained))
                x_label = f"how often seen, by {N_BINS} equally large parts"
            found.append(
                Figure(
                    key=f"{slug(subject.arm)}_gini",
                    title=f"{subject.arm}: {HEADLINE} at {FINAL}",
                    x_label=x_label,
                    y_label=HEADLINE,
                    curves=curves,
                    references=gaussian(width),
                    note="mean over rows or subjects, band: 95% bootstrap over them",
                )
            )
            found.append(map_figure(subject.arm, r, "seldom minus often at every layer"))
        return found

    def tables(
        self, read: Mapping[Subject, Sequence[FamiliarReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        return (self._levels(read), map_table(read, "Seldom minus often at every hook point, texts minus control"))

    def _levels(self, read: Mapping[Subject, Sequence[FamiliarReadings]]) -> ResultTable:
        rows: list[tuple[TableCell, ...]] = []
        for subject, (r,) in read.items():
            of_facts = self.put_of(subject.arm).name in ASKED
            for side in range(2 if r.probes.control else 1):
                for level, label in enumerate(r.probes.levels):

                    def cell(
                        values: Floats, unit: str, side: int = side, level: int = level, r: FamiliarReadings = r
                    ) -> Number:
                        return mean_of(r.at(values, side, level), r.n_bootstrap).number(unit)

                    rows.append(
                        (
                            subject.arm,
                            label,
                            SIDES[side],
                            number(len(r.at(r.sparsity(), side, level)), "rows" if r.probes.matched else "subjects"),
                            cell(r.frequency, "log10"),
                            None if r.probes.matched else cell(r.position, "tokens"),
                            cell(r.own_loss(), "nats/token"),
                            cell(r.covariate("entropy"), "nats"),
                            cell(r.sparsity(), HEADLINE),
                            cell(r.sparsity("gain"), HEADLINE),
                            cell(r.untrained.sparsity(), HEADLINE),
                            cell(r.sparsity(point=r.places(NEURON)[-1]), HEADLINE),
                            cell(r["correct"], "fraction") if of_facts else None,
                        )
                    )  # fmt: skip
        return ResultTable(
            title="Every level: how often seen, distance, sparsity, answers",
            columns=("set", "level", "side", "number", "how often seen", "tokens in front", "own loss, nats/token", "entropy", f"{HEADLINE}, without gain", f"{HEADLINE}, with gain", f"{HEADLINE}, untrained", f"{HEADLINE}, last neurons", "answered"),
            rows=tuple(rows),
            note="intervals: 95% percentile bootstrap over rows or subjects, not widened; answered: share of prompts whose fact is the likeliest continuation",
        )  # fmt: skip


def over_frequency(name: str, r: FamiliarReadings) -> Curve:
    """Sparsity of subjects in equally large parts by frequency, with bootstrap bands."""
    n_bins = min(N_BINS, len(r.frequency) // 2)
    ordered: list[NDArray[np.int64]] = np.array_split(np.argsort(r.frequency, kind="stable"), n_bins)
    found = [mean_of(r.sparsity()[part], r.n_bootstrap) for part in ordered]
    return Curve(
        name=name,
        x=tuple(float(r.frequency[part].mean()) for part in ordered),
        y=tuple(e.value for e in found),
        lo=tuple(e.lo for e in found),
        hi=tuple(e.hi for e in found),
    )
