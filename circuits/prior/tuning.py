"""What an arm's setting is chosen by: the same number of settings and the same fitting cases for every arm, and a log of who tried what.

1. Every arm learns on the fitting cases and tries each of its settings on all of them; the best mean of the measure is kept (the first of equals).
2. The best prompt and the best intervention are chosen on the fitting cases too. What is reported is of other facts (`cases.check_disjoint`).
3. `check_budget` refuses arms of unequal budgets. What learning costs comes on top for interventions, and is logged (`n_learning`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from circuits.prior.arm import Arm, Kind, Learned, Setting
from circuits.prior.asking import Subject, ask
from circuits.prior.cases import Case, check_disjoint
from circuits.prior.scores import CaseScores, Measure
from sparsetrain.store import fingerprint


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One setting of one arm on the fitting cases."""

    arm: str
    kind: Kind
    setting: Setting
    n_cases: int
    score: float
    """Mean of the measure."""
    margin: float
    """Mean margin towards the context's answer, nats/token: decides between equal scores."""
    n_learning: int
    """How often learning has read each of these cases besides."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An arm with the setting that was best on the fitting cases."""

    arm: Arm
    setting: Setting
    learned: Learned = field(repr=False)
    fitted: float
    """Its mean on the fitting cases: it was chosen by that, so it flatters."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """All arms, and the log."""

    measure: Measure
    chosen: tuple[Chosen, ...]
    log: tuple[Tried, ...]
    left_out: Mapping[str, str]
    """Arm -> why it could not be tried."""

    def best(self, kind: Kind, without: Collection[str] = ()) -> Chosen | None:
        """The best arm of a kind on the fitting cases, those named `without` left out; None: there is none."""
        of_kind = [one for one in self.chosen if one.arm.kind == kind and one.arm.name not in without]
        return max(of_kind, key=lambda one: self._rank(one)) if of_kind else None

    def _rank(self, one: Chosen) -> tuple[float, float]:
        tried = next(row for row in self.log if row.arm == one.arm.name and row.setting == one.setting)
        return tried.score, tried.margin


def check_budget(log: Sequence[Tried]) -> None:
    """Refuses arms of which one was tried more often than another, or in one setting twice.

    Raises:
        ValueError: names them.
    """
    spent: dict[str, tuple[int, ...]] = {}
    tried: set[tuple[str, str]] = set()
    for row in log:
        one = row.arm, repr(sorted(row.setting.items()))
        if one in tried:
            raise ValueError(
                f"unequal tuning budgets: arm {row.arm!r} has the setting {words(row.setting)} twice; give it another one"
            )
        tried.add(one)
        spent[row.arm] = (*spent.get(row.arm, ()), row.n_cases)
    budgets = {arm: (len(cases), sum(cases)) for arm, cases in spent.items()}
    first = next(iter(budgets), "")
    for arm, budget in budgets.items():
        if budget != budgets[first]:
            raise ValueError(
                f"unequal tuning budgets: arm {first!r} tried {budgets[first][0]} settings on {budgets[first][1]} cases in all, arm {arm!r} "
                f"{budget[0]} on {budget[1]}; give every arm as many settings"
            )


def usable(arms: Sequence[Arm], cases: Sequence[Case]) -> tuple[list[Arm], dict[str, str]]:
    """Arms all of whose forms every case has; name -> why another is left out."""
    kept: list[Arm] = []
    left_out: dict[str, str] = {}
    for arm in arms:
        lacking = [case for case in cases if any(form not in case.prompts for form in arm.forms())]
        if lacking:
            form = next(form for form in arm.forms() if form not in lacking[0].prompts)
            left_out[arm.name] = (
                f"{len(lacking)} of {len(cases)} cases have no prompt for it, the first {lacking[0].place}: {words(form)}"
            )
        else:
            kept.append(arm)
    return kept, left_out


def words(form: object) -> str:
    """A form or setting as a person reads it: what differs from the plain statement."""
    settings = (
        form if isinstance(form, Mapping) else {k: v for k, v in vars(form).items() if v != getattr(type(form)(), k)}
    )
    return (
        ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
        )
        or "as it is"
    )


def tune(
    subject: Subject,
    arms: Sequence[Arm],
    fit: Sequence[Case],
    evaluated: Sequence[Case],
    measure: Measure = "p_context",
    folder: Path | None = None,
    on_cases: Callable[[int], object] = lambda n: None,
) -> Tuned:
    """Every setting of every arm on the fitting cases.

    Args:
        subject: the model.
        arms: of equal budgets; those whose forms cases lack are left out.
        fit: fitting cases.
        evaluated: what will be reported; nothing is read of them but their forms and facts.
        measure: what is made large.
        folder: keeps what was read, by content.
        on_cases: called with numbers of cases as they are done.

    Raises:
        ValueError: a fact in both parts, unequal budgets, or no arm that can be tried.
    """
    check_disjoint(fit, evaluated)
    kept, left_out = usable(arms, [*fit, *evaluated])
    if not kept:
        raise ValueError(f"no arm can be tried: {next(iter(left_out.items()), 'none was given')}")
    planned = [_row(arm, setting, fit) for arm in kept for setting in arm.settings]
    check_budget(planned)
    log: list[Tried] = []
    chosen: list[Chosen] = []
    for arm in kept:
        learned = arm.learn(subject, fit)
        rows: list[Tried] = []
        for setting in arm.settings:
            place = None if folder is None else folder / name_of(subject, fit, arm, setting, learned)
            scores = ask(subject, fit, arm.apply(subject, learned, setting), place, on_cases)
            rows.append(_row(arm, setting, fit, scores, measure))
        best = max(rows, key=lambda row: (row.score, row.margin))
        chosen.append(Chosen(arm=arm, setting=best.setting, learned=learned, fitted=best.score))
        log += rows
    check_budget(log)
    return Tuned(measure=measure, chosen=tuple(chosen), log=tuple(log), left_out=left_out)


def _row(arm: Arm, setting: Setting, fit: Sequence[Case], scores: CaseScores | None = None, measure: Measure = "p_context") -> Tried:  # fmt: skip
    score, margin = (np.nan, np.nan) if scores is None else (getattr(scores, measure).mean(), scores.margin.mean())
    return Tried(
        arm=arm.name,
        kind=arm.kind,
        setting=setting,
        n_cases=len(fit),
        score=float(score),
        margin=float(margin),
        n_learning=arm.n_learning,
    )


def name_of(
    subject: Subject, cases: Sequence[object], arm: Arm, setting: Setting, learned: Learned, *more: object
) -> str:
    """Name of what is kept of an arm: by the weights, the cases, the setting and what was learned."""
    known = {name: np.round(values, 6).tolist() for name, values in learned.items()}
    content = [
        subject.weights_sha256,
        [repr(case) + repr(_prompts(case)) for case in cases],
        arm.name,
        repr(sorted(setting.items())),
        known,
    ]
    return fingerprint([*content, arm.identity, [repr(one) for one in more]])[:32]


def _prompts(case: object) -> object:
    prompts = getattr(case, "prompts", {})
    return sorted((repr(form), tokens) for form, tokens in prompts.items())
