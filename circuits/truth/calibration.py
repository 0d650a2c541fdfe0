"""From circuits of known truth to the card's verdict: which criteria decide, at which thresholds, and how good that is.

1. A value's rank is what its criterion says in favour of a circuit: larger is better, whatever the sense. "Pass" without a value
   is the best there is, "fail" without one the worst; "not enough data" says nothing.
2. A threshold stands halfway between the worst true circuit (but for a share of `SPARED`, the worst) and the best of the false
   ones that lie beyond.
3. Criteria are chosen one by one, each with one of its thresholds: the next is that which rejects most of the false circuits
   that all chosen so far accept, each kind counted alike, less `COST` times the share of the true ones; as long as that is a gain, and
   at most `MOST`.
4. Each threshold then moves to the middle between the worst true circuit and the best false one that all *other* criteria accept.
5. Setting sees the setting half alone; judging applies its criteria to the other half.

AUC is the share of pairs (true, false) in which the true circuit ranks higher, ties count half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import fmean

import numpy as np

from circuits.evidence.card import CRITERIA
from circuits.evidence.examination import Criterion, judge
from circuits.evidence.measurement import Measurement, share
from circuits.evidence.thresholds import CardConfig
from circuits.section import CardEntry, Sense
from circuits.truth.cases import CaseResult, Half, Kind

MOST = 10
"""Criteria of a verdict at most."""
SPARED = (0.0, 0.03, 0.06)
"""Shares of the true circuits, the worst, that a threshold need not accept. ours"""
COST = 10.0
"""What losing all true circuits costs, in kinds of false circuits. ours"""
MIN_TOLD = 0.9
"""Share of the true circuits of which a criterion must say anything to be chosen. ours"""
MIN_AUC = 0.7
"""AUC on the setting half below which a criterion is not chosen, whatever it rejects: it does not discriminate. ours"""
FIXED: Mapping[str, float] = {"raw accuracy": 0.75}
"""Criteria that stand in the verdict by definition, with their thresholds: no circuit is found whose logits do the task only once shifted."""
GOAL_TRUE, GOAL_FALSE, GOAL_KIND = 0.9, 0.05, 0.1
"""Share of true circuits to accept at least, of false ones at most, and of each kind of them."""
BY_NAME: Mapping[str, Criterion] = {criterion.name: criterion for criterion in CRITERIA}


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of circuits with its Wilson interval."""

    n_hits: int
    n: int
    value: float | None
    lo: float | None
    hi: float | None

    @classmethod
    def of(cls, hits: Sequence[bool]) -> "Share":
        """The share of hits."""
        found = share(sum(hits), len(hits))
        return cls(n_hits=sum(hits), n=len(hits), value=found.value, lo=found.lo, hi=found.hi)


@dataclass(frozen=True, kw_only=True)
class CriterionCurve:
    """How well one criterion tells true circuits from false ones.

    Args:
        auc: on the half that judges, as all else but `auc_setting` and the threshold.
        auc_by_kind: kind of false circuit -> AUC against all true ones.
        n_told: circuits of which it says anything.
        threshold: chosen on the setting half; None where that half has nothing to set it on.
        chosen: whether the verdict rests on it.
        points: the curve itself, (false accepted, true accepted) as the threshold falls; of the chosen alone.
    """

    name: str
    sense: Sense
    limit: str
    auc: float | None
    auc_setting: float | None
    auc_by_kind: Mapping[str, float | None]
    n_told: int
    threshold: float | None
    chosen: bool
    true_accepted: Share
    false_accepted: Share
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the chosen criteria together do to the circuits of a half.

    Args:
        false_by_kind: kind -> share accepted.
        true_by_host: planted or transplanted -> share accepted.
        accepted_false: names of the false circuits that are accepted.
        rejected_true: name of a true circuit that is rejected -> the criteria that do not pass it.
    """

    true: Share
    false: Share
    false_by_kind: Mapping[str, Share]
    true_by_host: Mapping[str, Share]
    accepted_false: tuple[str, ...]
    rejected_true: Mapping[str, tuple[str, ...]]

    @property
    def meets_goals(self) -> bool:
        """Whether as many true and as few false circuits are accepted as is wanted, of every kind."""
        kinds = [found.value or 0.0 for found in self.false_by_kind.values()]
        return (self.true.value or 0) >= GOAL_TRUE and (self.false.value or 0) <= GOAL_FALSE and max(kinds) <= GOAL_KIND


@dataclass(frozen=True, kw_only=True)
class CircuitRow:
    """One circuit: what it is, and its values under the criteria of the verdict (None: nothing that counts as a number)."""

    name: str
    kind: Kind
    n_nodes: int
    n_edges: int
    reached: bool | None
    values: Mapping[str, float | None]
    accepted: bool
    note: str


@dataclass(frozen=True, kw_only=True)
class CardCalibration:
    """Everything that is known of the card's power.

    Args:
        verdict: the criteria that decide, in the order in which they were chosen.
        thresholds: of these.
        n_dropped: kind -> cases without a circuit: a mechanism that does not work in its host, a search that finds nothing.
    """

    verdict: tuple[str, ...]
    thresholds: Mapping[str, float]
    setting: Judged
    judging: Judged
    curves: tuple[CriterionCurve, ...]
    n_dropped: Mapping[str, int]
    circuits: tuple[CircuitRow, ...]


def rank(entry: CardEntry) -> float | None:
    """What a criterion says in favour of a circuit; None where it says nothing."""
    value = entry.value.value
    if value is None or not isfinite(value):
        return {"pass": inf, "fail": -inf}.get(entry.verdict)
    return float(value) if entry.threshold.sense == "at least" else -float(value)


def auc(true: Sequence[float], false: Sequence[float]) -> float | None:
    """Share of (true, false) in which the true one ranks higher, ties half; None without both."""
    if not true or not false:
        return None
    a, b = np.array(true)[:, None], np.array(false)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def roc(true: Sequence[float], false: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(false accepted, true accepted) at every threshold, from none accepted to all."""
    if not true or not false:
        return ()
    cuts = sorted({*true, *false}, reverse=True)
    accepted = [(fmean(x >= cut for x in false), fmean(x >= cut for x in true)) for cut in cuts]
    return ((0.0, 0.0), *accepted)


def threshold_between(true: Sequence[float], false: Sequence[float], spared: float = 0.0) -> float | None:
    """Rank halfway between the worst true circuit that must be accepted and the best false one below it.

    Where no false circuit lies below, the criterion tells nothing: None.

    Args:
        spared: share of the true circuits, the worst, that need not be accepted.
    """
    kept = sorted(true)[int(spared * len(true)) :]
    below = [x for x in false if kept and x < kept[0]]
    if not below or kept[0] == -inf:
        return None
    worst, best = kept[0], max(below)
    if worst == inf:
        return best if isfinite(best) else None
    return (worst + best) / 2 if isfinite(best) else worst


def entry_of(result: CaseResult, name: str) -> CardEntry:
    """A criterion's row of a result."""
    return next(entry for entry in result.card if entry.name == name)


def passes(result: CaseResult, name: str, threshold: float, config: CardConfig) -> bool:
    """Whether a criterion passes a circuit at a threshold: as on the card, margins and sample sizes included."""
    entry, criterion = entry_of(result, name), BY_NAME[name]
    value = entry.value
    found = Measurement(
        value=None if value.value is None else float(value.value),
        unit=value.unit,
        n=value.n or 0,
        lo=value.lo,
        hi=value.hi,
        verdict=entry.verdict if value.value is None else None,
    )
    n_least = 1 if criterion.needs is None else getattr(config, criterion.needs)
    return judge(found, criterion.sense, threshold, n_least) == "pass"


def is_true(result: CaseResult) -> bool:
    """Whether the circuit is known to be true."""
    return result.case.kind == "true"


def split(results: Sequence[CaseResult], name: str) -> tuple[list[float], list[float]]:
    """Ranks of true and of false circuits by one criterion, of which it says anything."""
    told = [(is_true(result), rank(entry_of(result, name))) for result in results]
    return [x for true, x in told if true and x is not None], [x for true, x in told if not true and x is not None]


def thresholds_of(results: Sequence[CaseResult], spared: float = 0.0) -> dict[str, float]:
    """Criterion -> threshold in its own units, for those that tell true circuits from any false one and say enough."""
    found: dict[str, float] = {}
    n_true = sum(map(is_true, results))
    for name, criterion in BY_NAME.items():
        true, false = split(results, name)
        cut = threshold_between(true, false, spared) if len(true) >= MIN_TOLD * n_true else None
        if cut is not None:
            found[name] = rounded(cut if criterion.sense == "at least" else -cut)
    return found


def rounded(value: float) -> float:
    """Two significant digits: a threshold claims no more."""
    return float(f"{value:.2g}")


def choose(results: Sequence[CaseResult], config: CardConfig) -> dict[str, float]:
    """The criteria of the verdict with their thresholds, in the order in which they were chosen.

    Args:
        results: of the setting half.
        config: sample sizes.
    """
    telling = [name for name in BY_NAME if (auc(*split(results, name)) or 0.0) >= MIN_AUC]
    candidates = [(name, spared) for spared in SPARED for name in thresholds_of(results, spared) if name in telling]
    accepted = {
        (name, spared): _accepted(results, name, thresholds_of(results, spared)[name], config)
        for name, spared in candidates
    }
    kinds = {kind: {r.case.name for r in results if r.case.kind == kind} for kind in {r.case.kind for r in results}}
    chosen, left = dict[str, float](), {result.case.name for result in results}
    for name, cut in FIXED.items():
        left &= _accepted(results, name, cut, config)
    while len(chosen) < MOST - len(FIXED):

        def gain(candidate: tuple[str, float], left: set[str] = left) -> float:
            """Shares of each kind that go: for the false ones, less the true ones' cost."""
            gone = left - accepted[candidate]
            return sum(len(gone & own) / len(own) * (-COST if kind == "true" else 1) for kind, own in kinds.items())

        best = max((c for c in candidates if c[0] not in {*chosen, *FIXED}), key=gain, default=None)
        if best is None or gain(best) <= 0:
            break
        chosen[best[0]] = best[1]
        left = left & accepted[best]
    return {**FIXED, **loosened(results, chosen, config)}


def _accepted(results: Sequence[CaseResult], name: str, cut: float, config: CardConfig) -> set[str]:
    return {result.case.name for result in results if passes(result, name, cut, config)}


def loosened(results: Sequence[CaseResult], chosen: Mapping[str, float], config: CardConfig) -> dict[str, float]:
    """Thresholds that stand in the middle of what matters: of the false circuits those alone that all other criteria accept.

    A criterion without which nothing false would be accepted goes.

    Args:
        chosen: criterion -> share of the true circuits that it need not accept.
    """
    cuts = {name: thresholds_of(results, spared)[name] for name, spared in chosen.items()}
    for name in list(cuts)[::-1]:  # what was chosen last matters least
        others = [
            result
            for result in results
            if is_true(result)
            or all(passes(result, other, cut, config) for other, cut in {**FIXED, **cuts}.items() if other != name)
        ]
        cut = thresholds_of(others, chosen[name]).get(name)
        if cut is not None:
            cuts[name] = cut
        elif len(cuts) > 1:
            del cuts[name]
    return cuts


def apply(results: Sequence[CaseResult], verdict: Mapping[str, float], config: CardConfig) -> Judged:
    """What the criteria of a verdict do to circuits."""
    failed = {
        r.case.name: tuple(name for name, cut in verdict.items() if not passes(r, name, cut, config)) for r in results
    }
    true, false = [r for r in results if is_true(r)], [r for r in results if not is_true(r)]

    def accepted(some: Sequence[CaseResult]) -> Share:
        return Share.of([not failed[result.case.name] for result in some])

    hosts = {"planted": [r for r in true if r.case.host == "planted"]}
    hosts["transplanted"] = [r for r in true if r.case.host != "planted"]
    return Judged(
        true=accepted(true),
        false=accepted(false),
        false_by_kind={kind: accepted([r for r in false if r.case.kind == kind]) for kind in kinds_of(false)},
        true_by_host={host: accepted(some) for host, some in hosts.items() if some},
        accepted_false=tuple(r.case.name for r in false if not failed[r.case.name]),
        rejected_true={r.case.name: failed[r.case.name] for r in true if failed[r.case.name]},
    )


def kinds_of(results: Sequence[CaseResult]) -> list[str]:
    """Kinds of false circuits in the order in which they come."""
    return list(dict.fromkeys(result.case.kind for result in results if not is_true(result)))


def calibrate(results: Sequence[CaseResult], config: CardConfig) -> CardCalibration:
    """Sets the verdict on the setting half and judges it on the other.

    Raises:
        ValueError: a half without true or without false circuits.
    """
    there = [result for result in results if result.card]
    halves: dict[Half, list[CaseResult]] = {
        "setting": [r for r in there if r.case.half == "setting"],
        "judging": [r for r in there if r.case.half == "judging"],
    }
    for half, some in halves.items():
        if len({is_true(result) for result in some}) < 2:
            raise ValueError(f"the {half} half has no true or no false circuits; raise n")
    verdict = choose(halves["setting"], config)
    cuts = thresholds_of(halves["setting"])
    return CardCalibration(
        verdict=tuple(verdict),
        thresholds=verdict,
        setting=apply(halves["setting"], verdict, config),
        judging=apply(halves["judging"], verdict, config),
        curves=tuple(
            _curve(name, halves, verdict.get(name, cuts.get(name)), name in verdict, config) for name in BY_NAME
        ),
        circuits=tuple(_row(result, verdict, config) for result in results),
        n_dropped={kind: sum(1 for r in results if not r.card and r.case.kind == kind) for kind in _dropped(results)},
    )


def _row(result: CaseResult, verdict: Mapping[str, float], config: CardConfig) -> CircuitRow:
    entries = {entry.name: entry for entry in result.card if entry.name in verdict}
    values = {name: entry.value.value for name, entry in entries.items()}
    return CircuitRow(
        name=result.case.name,
        kind=result.case.kind,
        n_nodes=result.n_nodes,
        n_edges=result.n_edges,
        reached=result.reached,
        values={name: None if value is None else float(f"{value:.4g}") for name, value in values.items()},
        accepted=bool(result.card) and all(passes(result, name, cut, config) for name, cut in verdict.items()),
        note=result.note,
    )


def _dropped(results: Sequence[CaseResult]) -> list[str]:
    return list(dict.fromkeys(result.case.kind for result in results if not result.card))


def _curve(
    name: str, halves: Mapping[Half, Sequence[CaseResult]], cut: float | None, chosen: bool, config: CardConfig
) -> CriterionCurve:
    """A criterion's curve: all of it but the threshold is of the half that judges."""
    judging = halves["judging"]
    true, false = split(judging, name)
    by_kind: dict[str, float | None] = {}
    for kind in kinds_of(judging):
        some = [result for result in judging if is_true(result) or result.case.kind == kind]
        by_kind[kind] = auc(*split(some, name))

    def accepted(wanted: bool) -> Share:
        some = [result for result in judging if is_true(result) == wanted]
        return Share.of([cut is not None and passes(result, name, cut, config) for result in some])

    return CriterionCurve(
        name=name,
        sense=BY_NAME[name].sense,
        limit=BY_NAME[name].limit,
        auc=auc(true, false),
        auc_setting=auc(*split(halves["setting"], name)),
        auc_by_kind=by_kind,
        n_told=len(true) + len(false),
        threshold=cut,
        chosen=chosen,
        true_accepted=accepted(True),
        false_accepted=accepted(False),
        points=tuple((round(x, 4), round(y, 4)) for x, y in roc(true, false)) if chosen else (),
    )
