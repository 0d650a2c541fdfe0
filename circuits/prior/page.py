"""What was read as a section of a report."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from circuits.prior.scores import CaseScores, Floats, by_fact, half_point, headroom, mean_over_facts
from circuits.prior.study import ArmScores, Outcome
from circuits.prior.tuning import words
from circuits.section.prior import (
    ContextPriorSection,
    PriorArm,
    PriorGroup,
    PriorHalf,
    PriorHead,
    PriorReference,
    PriorScores,
    PriorTried,
)
from sparsetrain.data.reading import Skip
from sparsetrain.stats.number import Number, number

MAX_NAMED = 100
"""Rows left out that a report names. ours"""
N_HEADS = 5
"""Heads of either sign that are listed. ours"""
UNITS = {"memory_ratio": "fraction", "margin": "nats/token"}
CONFIDENCE = "log-probability of memory's answer where nothing is stated, nats/token"


def section_of(
    outcome: Outcome,
    *,
    model: str,
    skipped: Sequence[Skip] = (),
    strength: str = "",
    exposures: bool = False,
    left_out: Mapping[str, str] | None = None,
    min_wins: int = 0,
) -> ContextPriorSection:
    """The section of an outcome.

    Args:
        outcome: see `study.examine`.
        model: its name.
        skipped: rows that made no case.
        strength: what the strength of cases is, in words; empty: the model's own confidence without a context takes its place.
        exposures: whether strengths are exposure counts, over which n50 is taken.
        left_out: further arms that were not tried, and why.
        min_wins: fewer known cases in which the prior wins, and no headroom is reported.
    """
    make = _Numbers(outcome, min_wins)
    known, cases = outcome.known, outcome.cases
    given = np.array([case.strength for case in cases])
    strengths = given if strength else outcome.references["no context"].mean_logp[:, 1]
    names = [case.group for case in cases]
    prompt, intervention = outcome.best("prompt"), outcome.best("intervention")
    moved = outcome.susceptibility()
    return ContextPriorSection(
        model=model,
        measure=outcome.config.measure,
        strength=strength or CONFIDENCE,
        n_cases=len(cases),
        n_fit=len(outcome.dealt.fit),
        n_facts=len(set(outcome.facts)),
        n_facts_fit=len({case.fact for case in outcome.dealt.fit}),
        n_known=int(known.sum()),
        n_prior_wins=int(outcome.prior_wins.sum()),
        n_skipped=len(skipped),
        skipped={skip.name: skip.reason for skip in skipped[:MAX_NAMED]},
        references=tuple(make.reference(name) for name in outcome.references),
        arms=tuple(make.arm(one) for one in outcome.arms.values()),
        left_out={**outcome.left_out, **(left_out or {})},
        best_prompt="" if prompt is None else prompt.chosen.arm.name,
        best_intervention="" if intervention is None else intervention.chosen.arm.name,
        headroom=make.headroom(known),
        groups=tuple(
            make.group(name, np.array([own == name for own in names])) for name in dict.fromkeys(names) if name
        ),
        by_strength=tuple(make.bins(strengths, exposures)),
        susceptibility=make.mean(moved, ~np.isnan(moved), "nats"),
        susceptibility_form="mixture over the conflicting, the agreeing and the irrelevant context: the mutual information I(A; X | q)",
        half_points=tuple(make.half_points(strengths)) if exposures else (),
        budget=make.budget(),
        head_map=make.head_map(),
        heads=make.heads(),
    )


class _Numbers:
    """Numbers with their intervals over facts."""

    def __init__(self, outcome: Outcome, min_wins: int) -> None:
        self.outcome, self.config, self.min_wins = outcome, outcome.config, min_wins

    def mean(self, values: ArrayLike, rows: NDArray[np.bool_], unit: str = "fraction") -> Number:
        """Over the facts of some cases."""
        v, facts = np.asarray(values)[rows], [fact for fact, row in zip(self.outcome.facts, rows, strict=True) if row]
        n = len(set(facts))
        made = mean_over_facts(v, facts, n_bootstrap=self.config.n_bootstrap, seed=self.config.seed)
        if made is None:
            value, note = (float(by_fact(v, facts)[0]), "one fact: no interval") if n else (None, "no such case")
            return number(value, unit, n=n, note=note)
        return made.number(unit, seed=self.config.seed)

    def scores(self, scores: CaseScores, rows: NDArray[np.bool_]) -> PriorScores:
        rows = rows & ~np.isnan(scores.p_context)
        plain = [name for name in PriorScores.__annotations__ if name != "persuasion"]
        found = {name: self.mean(getattr(scores, name), rows, UNITS.get(name, "fraction")) for name in plain}
        moved = scores.take(rows).persuasion(self.outcome.references["no context"].take(rows))
        whole = np.full(len(rows), np.nan)
        whole[rows] = moved
        return PriorScores(**found, persuasion=self.mean(whole, rows & np.isfinite(whole), "nats"))

    def reference(self, name: str) -> PriorReference:
        scores = self.outcome.references[name]
        there = self.outcome.known & ~np.isnan(scores.p_context)
        return PriorReference(name=name, n_cases=int(there.sum()), scores=self.scores(scores, self.outcome.known))

    def arm(self, one: ArmScores) -> PriorArm:
        known, measure, chosen = self.outcome.known, self.config.measure, one.chosen
        random = beyond = restored = None
        if one.random:
            random = self.mean(np.mean([getattr(r, measure) for r in one.random], axis=0), known)
            beyond = self.mean(one.beyond_random(measure), known)
        if one.restored is not None:
            restored = self.mean(one.restored.says_prior, known)
        damage = number(None, "nats", note="no neutral text in the forms that it needs")
        if len(one.damage):
            damage = number(one.damage.mean(), "nats", n=len(one.damage))
        return PriorArm(
            name=chosen.arm.name,
            kind=chosen.arm.kind,
            setting=words(chosen.setting),
            source=chosen.arm.source,
            fitted=number(chosen.fitted, "fraction", n=len(self.outcome.dealt.fit), note="chosen by it"),
            scores=self.scores(one.scores, known),
            random=random,
            beyond_random=beyond,
            restored=restored,
            collateral=damage,
        )

    def of_best(self, kind: str, rows: NDArray[np.bool_]) -> Number:
        best = self.outcome.best(kind)
        if best is None:
            return number(None, "fraction", note=f"no {kind} could be tried")
        return self.mean(getattr(best.scores, self.config.measure), rows)

    def headroom(self, rows: NDArray[np.bool_]) -> Number:
        """Of the known cases among some."""
        prompt, intervention = self.outcome.best("prompt"), self.outcome.best("intervention")
        if prompt is None or intervention is None:
            return number(None, "fraction", note="it needs a prompt and an intervention")
        rows = rows & self.outcome.known
        facts = [fact for fact, row in zip(self.outcome.facts, rows, strict=True) if row]
        if (n_facts := len(set(facts))) < self.config.min_facts:
            return number(
                None, "fraction", n=n_facts, note=f"fewer than {self.config.min_facts} facts that the model knows"
            )
        if (wins := int((rows & self.outcome.prior_wins).sum())) < self.min_wins:
            note = f"the prior wins in {wins} cases, and headroom needs {self.min_wins}"
            return number(None, "fraction", n=int(rows.sum()), note=note)
        a, b = (getattr(one.scores, self.config.measure)[rows] for one in (intervention, prompt))
        made = headroom(a, b, facts, n_bootstrap=self.config.n_bootstrap, seed=self.config.seed)
        if made is None:
            return number(None, "fraction", n=1, note="one fact")
        return made.number("fraction", seed=self.config.seed)

    def group(self, name: str, rows: NDArray[np.bool_], strength: Number | None = None) -> PriorGroup:
        known = rows & self.outcome.known
        return PriorGroup(
            name=name,
            strength=strength,
            n_cases=int(rows.sum()),
            n_known=int(known.sum()),
            n_prior_wins=int((rows & self.outcome.prior_wins).sum()),
            stated=self.mean(getattr(self.outcome.references["stated once"], self.config.measure), known),
            best_prompt=self.of_best("prompt", known),
            best_intervention=self.of_best("intervention", known),
            headroom=self.headroom(rows),
        )

    def bins(self, strengths: Floats, exposures: bool) -> list[PriorGroup]:
        """Groups by the strength of the prior: one per exposure count, or bins of equally many cases."""
        there = np.isfinite(strengths)
        levels = np.unique(strengths[there])
        if exposures or len(levels) <= self.config.n_bins:
            parts = [(f"{level:g}", strengths == level) for level in levels]
        else:
            order = np.flatnonzero(there)[strengths[there].argsort(kind="stable")]
            parts = []
            for numbers in np.array_split(order, min(self.config.n_bins, len(order))):
                rows = np.zeros(len(strengths), dtype=bool)
                rows[numbers] = True
                parts.append((f"{strengths[numbers[0]]:.3g} to {strengths[numbers[-1]]:.3g}", rows))
        return [self.group(name, rows, number(strengths[rows].mean(), "", n=int(rows.sum()))) for name, rows in parts]

    def half_points(self, n: Floats) -> list[PriorHalf]:
        """n50 of the statement said once, of the best prompt and of the best intervention, over all cases."""
        there = np.isfinite(n)
        facts = [fact for fact, row in zip(self.outcome.facts, there, strict=True) if row]
        best = {kind: self.outcome.best(kind) for kind in ("prompt", "intervention")}
        named = {"stated once": self.outcome.references["stated once"]}
        named |= {f"best {kind}: {one.chosen.arm.name}": one.scores for kind, one in best.items() if one is not None}
        if len(np.unique(n[there])) < 2:
            return [PriorHalf(prompt=name, n50=number(None, "exposures", note="one exposure count")) for name in named]
        found: list[PriorHalf] = []
        for name, scores in named.items():
            half = half_point(
                scores.p_context[there], n[there], facts, n_bootstrap=self.config.n_bootstrap, seed=self.config.seed
            )
            note = f"{half.beyond} the exposures that were tried" if half.beyond else None
            made = number(
                half.n50, "exposures", n=half.n_facts, lo=half.lo, hi=half.hi, seed=self.config.seed, note=note
            )
            found.append(PriorHalf(prompt=name, n50=made))
        return found

    def budget(self) -> tuple[PriorTried, ...]:
        chosen = {(one.arm.name, words(one.setting)) for one in self.outcome.tuned.chosen}
        return tuple(
            PriorTried(
                arm=row.arm,
                kind=row.kind,
                setting=words(row.setting),
                n_cases=row.n_cases,
                score=number(row.score, "fraction", n=row.n_cases),
                chosen=(row.arm, words(row.setting)) in chosen,
                n_learning=row.n_learning,
            )
            for row in self.outcome.tuned.log
        )

    def head_map(self) -> tuple[tuple[float, ...], ...]:
        heads, effects = self.outcome.heads, self.outcome.effects
        if heads is None or effects is None:
            return ()
        mean = effects.mean(0).reshape(len(heads.layers), heads.n_head)
        return tuple(tuple(row) for row in mean.tolist())

    def heads(self) -> tuple[PriorHead, ...]:
        heads, effects = self.outcome.heads, self.outcome.effects
        if heads is None or effects is None:
            return ()
        mean = effects.mean(0)
        order = mean.argsort()
        towards = [i for i in order[::-1] if mean[i] > 0][:N_HEADS] + [i for i in order if mean[i] < 0][:N_HEADS]
        facts = [case.fact for case in self.outcome.dealt.fit[: len(effects)]]
        return tuple(PriorHead(name=heads.name(int(i)), effect=self._effect(effects[:, i], facts)) for i in towards)

    def _effect(self, values: Floats, facts: Sequence[str]) -> Number:
        made = mean_over_facts(values, facts, n_bootstrap=self.config.n_bootstrap, seed=self.config.seed)
        return (
            number(values.mean(), "nats/token", n=1)
            if made is None
            else made.number("nats/token", seed=self.config.seed)
        )
