"""What both studies ask of an `Outcome`: effects over some of its cases, the claims that rest on them, and the verdicts.

1. A `Part` is some evaluation cases of an outcome: a relation, an exposure count, or all. Claims are of its cases that the model *knows*: those it
   answers from memory where nothing is stated. The best prompt and the best intervention were chosen on the fitting cases of all parts together.
2. What counts as independent is a fact: values are means over the cases of each, and intervals are of facts resampled.
3. Of fewer than `N_FACTS` facts no claim is decided: an interval of resampled facts would promise more than it holds.
4. Where the prior wins in fewer than `min_wins` cases there is no conflict to speak of: effects of headroom are undefined, and verdicts say undecided.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from circuits.prior.prompts import SATURATION
from circuits.prior.scores import CaseScores, Floats, by_fact
from circuits.prior.study import ArmScores, Outcome
from sparsetrain.stats.correlation import mean_ranks, spearman
from sparsetrain.stats.intervals import Estimate, over_items, share
from sparsetrain.studies.readings import RHO_MARGIN
from sparsetrain.studies.study import Hypothesis, Ruling

R = TypeVar("R")
Sign = Literal["positive", "negative", "none"]
MARGIN = 0.05
"""Smallest difference of interest of the measure that arms are compared by. ours"""
SPARSER = 0.005
"""The same of the headline measure of sparsity. ours"""
N_FACTS = 20
"""Of the known cases of a part, at least, for a claim. ours"""
ABOVE_0 = 0.001
"""The same of what must be above 0 after a margin was added to it. ours"""
DONOR = "activation patching"
"""The intervention whose donor is itself a prompt arm."""
CONFLICT, AGREEING, IRRELEVANT = "stated once", "agreeing context", "irrelevant context"
WITHOUT = "no context"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some evaluation cases of an outcome.

    Args:
        outcome: see `circuits.prior.study.examine`.
        rows: which cases, `[n_cases]`.
        sparsity: reference -> headline measure of each case at the token that predicts the answer, higher is sparser, `[n_cases]`.
        min_wins: fewer known cases in which the prior wins, and headroom is not defined.
        n_bootstrap: resamples for the intervals.
        confidence: of the intervals.
        seed: of the resamples.
    """

    outcome: Outcome
    rows: NDArray[np.bool_] = field(repr=False)
    sparsity: Mapping[str, Floats] = field(default_factory=dict, repr=False)
    min_wins: int = 0
    n_bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 0

    @property
    def known(self) -> NDArray[np.bool_]:
        """Its cases that the model answers from memory where nothing is stated, `[n_cases]`."""
        return self.rows & self.outcome.known

    @property
    def wins(self) -> NDArray[np.bool_]:
        """Those that it still answers from memory although the opposite is stated once."""
        return self.rows & self.outcome.prior_wins

    @property
    def certainty(self) -> Floats:
        """The model's own confidence: log-probability of memory's answer where nothing is stated, nats/token, `[n_cases]`."""
        return self.outcome.references[WITHOUT].mean_logp[:, 1]

    @property
    def strength(self) -> Floats:
        """Of the prior as it was given: fame, or exposures; `[n_cases]`."""
        return np.array([case.strength for case in self.outcome.cases])

    def of(self, scores: CaseScores) -> Floats:
        """The measure that arms are compared by, `[n_cases]`."""
        return getattr(scores, self.outcome.config.measure)

    def best(self, kind: str, *without: str) -> ArmScores | None:
        """Chosen on the fitting cases."""
        return self.outcome.best(kind, without)

    def case_headroom(self, *without: str) -> Floats:
        """Best intervention less best prompt of each case, `[n_cases]`; NaN: one of them is missing.

        Args:
            without: interventions that are left out.
        """
        intervention, prompt = self.best("intervention", *without), self.best("prompt")
        if intervention is None or prompt is None:
            return np.full(len(self.rows), nan)
        return self.of(intervention.scores) - self.of(prompt.scores)

    def case_beyond_random(self) -> Floats:
        """The best intervention less the mean of its random controls, `[n_cases]`; NaN: it has none."""
        best = self.best("intervention")
        if best is None or not best.random:
            return np.full(len(self.rows), nan)
        return best.beyond_random(self.outcome.config.measure)

    def mean(self, values: Floats, rows: NDArray[np.bool_] | None = None) -> Estimate:
        """Over the facts of the known cases, or of others.

        Args:
            values: `[n_cases]`; cases without one are left out.
            rows: other cases than the known ones.
        """
        there = (self.known if rows is None else rows) & np.isfinite(values)
        v = by_fact(values[there], self._facts(there))
        if len(v) < 2:
            return undefined(len(v), "fewer than two facts")
        return over_items(v, n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=self.seed)

    def share(self, right: Floats, rows: NDArray[np.bool_] | None = None) -> Estimate:
        """The same of answers that are there or not, `[n_cases]` each in [0, 1]: Wilson's interval has a width where all agree."""
        there = (self.known if rows is None else rows) & np.isfinite(right)
        v = by_fact(right[there], self._facts(there))
        return share(v, confidence=self.confidence) if len(v) else undefined(0, "no facts")

    def rank(self, x: Floats, y: Floats) -> Estimate:
        """Spearman over the facts of the known cases; of several groups of ranks within each, so that no difference between groups is meant."""
        there = self.known & np.isfinite(x) & np.isfinite(y)
        facts = self._facts(there)
        a, b = by_fact(x[there], facts), by_fact(y[there], facts)
        if len(a) < N_FACTS:
            return undefined(len(a), f"{len(a)} facts, and a claim needs {N_FACTS}")
        group_of = {case.fact: case.group for case in self.outcome.cases}
        groups = np.array([group_of[fact] for fact in dict.fromkeys(facts)])
        within = [within_groups(values, groups) for values in (a, b)]
        return spearman(*within, n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=self.seed)

    def _facts(self, rows: NDArray[np.bool_]) -> list[str]:
        return [fact for fact, there in zip(self.outcome.facts, rows, strict=True) if there]

    def _of_enough(self, values: Floats) -> Estimate:
        n = len(set(self._facts(self.known & np.isfinite(values))))
        return self.mean(values) if n >= N_FACTS else undefined(n, f"{n} facts, and a claim needs {N_FACTS}")

    def _where_prior_wins(self, estimate: Callable[[], Estimate]) -> Estimate:
        n = int(self.wins.sum())
        if n < self.min_wins:
            return undefined(n, f"the prior wins in {n} cases, and headroom needs {self.min_wins}")
        return estimate()

    def prior_strength(self) -> Estimate:
        """P(context) of the statement said once with the model's own confidence: rank correlation."""
        return self.rank(self.certainty, self.outcome.references[CONFLICT].p_context)

    def given_strength(self) -> Estimate:
        """The same with the strength as it was given."""
        return self.rank(self.strength, self.outcome.references[CONFLICT].p_context)

    def headroom(self, *without: str) -> Estimate:
        """Best intervention less best prompt."""
        return self._where_prior_wins(lambda: self._of_enough(self.case_headroom(*without)))

    def beyond_random(self) -> Estimate:
        """Best intervention less its random controls."""
        return self._where_prior_wins(lambda: self._of_enough(self.case_beyond_random()))

    def grows(self) -> Estimate:
        """Headroom with the model's own confidence: rank correlation."""
        return self._where_prior_wins(lambda: self.rank(self.certainty, self.case_headroom()))

    def suffices(self) -> Estimate:
        """Best prompt less best intervention, plus the margin: above 0 a prompt is not worse by as much as is of interest."""
        return self._where_prior_wins(lambda: self._of_enough(MARGIN - self.case_headroom()))

    def saturates(self) -> Estimate:
        """Said eight times less said four times."""
        four, eight = (self.of(self.outcome.references[name]) for name in SATURATION)
        return self._of_enough(eight - four)

    def case_sparser(self) -> Floats:
        """Sparsity under a context that contradicts memory less that under one that agrees, of each case, `[n_cases]`; NaN: not read."""
        if not {CONFLICT, AGREEING} <= set(self.sparsity):
            return np.full(len(self.rows), nan)
        return self.sparsity[CONFLICT] - self.sparsity[AGREEING]

    def sparser(self) -> Estimate:
        """Their mean."""
        return self._of_enough(self.case_sparser())


def undefined(n: int, reason: str) -> Estimate:
    """No value, and why."""
    return Estimate(value=nan, lo=nan, hi=nan, n=n, method=reason)


def within_groups(values: Floats, groups: NDArray[np.str_]) -> Floats:
    """Ranks from 0 to 1 within each group, ties at their mean; of one group the values themselves."""
    names = np.unique(groups)
    if len(names) < 2:
        return values
    ranked = np.empty_like(values)
    for name in names:
        at = groups == name
        ranked[at] = (mean_ranks(values[at]) - 0.5) / at.sum()
    return ranked


def hypotheses(part: Callable[[R], Part], *, per_seed: bool, strength: str = "") -> tuple[Hypothesis[R], ...]:
    """The claims about a part, by rules that both studies have.

    Args:
        part: of what is read of a subject in a seed.
        per_seed: whether effects are numbers of seeds (a trained model each), or estimates over facts (one model).
        strength: what the given strength is, in words: its claim stands beside that of the model's own confidence. Empty: without it.
    """

    def claimed(
        key: str, claim: str, effect: Callable[[Part], Estimate], unit: str, margin: float, expected: Sign = "positive"
    ) -> Hypothesis[R]:
        def of(r: R) -> float | Estimate:
            found = effect(part(r))
            return found.value if per_seed else found

        return Hypothesis(key=key, claim=claim, expected=expected, effect=of, unit=unit, margin=margin, per_seed=per_seed and expected != "none")  # fmt: skip

    said = "P(context), stated once, falls with"
    by_strength = (claimed("strength", f"{said} {strength} (Spearman)", Part.given_strength, "rho", RHO_MARGIN, "negative"),) if strength else ()  # fmt: skip
    return (
        claimed("confidence", f"{said} the model's own confidence without a context (Spearman)", Part.prior_strength, "rho", RHO_MARGIN, "negative"),
        *by_strength,
        claimed("headroom", "best intervention less best prompt", Part.headroom, "fraction", MARGIN),
        claimed("headroom without patching", f"the same without {DONOR}, whose donor is a prompt arm", lambda p: p.headroom(DONOR), "fraction", MARGIN),
        claimed("beyond random", "best intervention less the mean of its random controls", Part.beyond_random, "fraction", MARGIN),
        claimed("grows", "headroom grows with the model's own confidence (Spearman)", Part.grows, "rho", RHO_MARGIN),
        claimed("saturates", "stated 8 times less stated 4 times: nothing", Part.saturates, "fraction", MARGIN, "none"),
        claimed("suffices", f"best prompt less best intervention, plus {MARGIN:g} (non-inferiority)", Part.suffices, "fraction", ABOVE_0),
        claimed("sparser", "sparsity under a conflicting context less that under an agreeing one", Part.sparser, "gini", SPARSER),
    )  # fmt: skip


def rulings(*, strength: bool) -> tuple[Ruling, ...]:
    """The verdicts about a part.

    Args:
        strength: whether the given strength has a claim of its own.
    """
    return (
        Ruling(
            name="prior strength",
            statement="the stronger the prior, the less a model follows one statement",
            needs=("confidence", "strength") if strength else ("confidence",),
        ),
        Ruling(
            name="headroom",
            statement="an intervention turns more answers than the best prompt, and more than its random controls",
            needs=("headroom", "beyond random"),
        ),
        Ruling(
            name="headroom without patching",
            statement="so does one that sees no other prompt of the case",
            needs=("headroom without patching",),
        ),
        Ruling(
            name="as claimed",
            statement="headroom is there, grows with the prior and beats its random controls, and prompts saturate",
            needs=("headroom", "beyond random", "grows", "saturates"),
        ),
        Ruling(
            name="prompting suffices",
            statement=f"the best prompt is not worse than the best intervention by {MARGIN:g} or more",
            needs=("suffices",),
        ),
        Ruling(
            name="sparser in conflict",
            statement="the representation is sparser under a context that contradicts memory than under one that agrees",
            needs=("sparser",),
        ),
    )


OVERVIEWS = {
    "overview": ("Best intervention less best prompt: with and without activation patching", ("headroom", "headroom without patching")),
    "prior": ("Following one statement, and headroom, with the model's own confidence", ("confidence", "grows")),
    "sparsity": ("Sparsity under a conflicting context less that under an agreeing one", ("sparser",)),
}  # fmt: skip
