"""What both studies show of their parts beside the claims: relations, answers by strength, every arm, the tuning budget, one figure."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from circuits.context_prior.shared import CONFLICT, DONOR, Part
from circuits.prior.scores import CaseScores, Floats
from circuits.prior.study import ArmScores
from circuits.prior.tuning import words
from sparsetrain.report.blocks import Curve
from sparsetrain.stats.intervals import Estimate
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.section import Figure, ResultTable, TableCell

BINS = ("weak", "middle", "strong")
"""Of the known cases by the model's own confidence, as many in each; the others have no prior."""
N_BINS = 6
"""Of the figure, of all evaluated cases. ours"""
SELECTED = "selected on one noisy reading, equally for both sides: shown, decides nothing"


def tables_of(parts: Mapping[str, Part]) -> list[ResultTable]:
    """The tables of a study.

    Args:
        parts: name -> part; the first is all of them together.
    """
    whole = next(iter(parts.values()))
    return [relations_table(parts), shares_table(parts), sparsity_table(parts), arms_table(whole), budget_table(whole)]


def shown(estimate: Estimate, unit: str) -> Number:
    """An estimate with its reason where it is not defined."""
    found = estimate.number(unit)
    return found if np.isfinite(estimate.value) else number(None, unit, n=estimate.n, note=estimate.method)


def measured(part: Part, scores: CaseScores | None, rows: NDArray[np.bool_] | None = None) -> Number:
    """The measure of the known cases, or of others."""
    if scores is None:
        return number(None, "fraction", note="no such arm")
    return shown(part.mean(part.of(scores), rows), "fraction")


def named(part: Part) -> dict[str, CaseScores]:
    """The statement said once, the best prompt, the best intervention and the best one without the donor of a prompt arm, where there is one."""
    found = {CONFLICT: part.outcome.references[CONFLICT]}
    for label, best in (
        ("best prompt", part.best("prompt")),
        ("best intervention", part.best("intervention")),
        (f"best without {DONOR}", part.best("intervention", DONOR)),
    ):
        if best is not None:
            found[f"{label}: {best.chosen.arm.name}"] = best.scores
    return found


def relations_table(parts: Mapping[str, Part]) -> ResultTable:
    """How many cases of each part are known, in how many the prior wins, and what turns them."""
    columns = [name for name in named(next(iter(parts.values())))]
    rows: list[tuple[TableCell, ...]] = []
    for name, part in parts.items():
        n_fit = sum(case.group == name for case in part.outcome.dealt.fit)
        counts = [int(rows_.sum()) for rows_ in (part.rows, part.known, part.wins)]
        rows.append(
            (
                name,
                n_fit or len(part.outcome.dealt.fit),
                *counts,
                *(measured(part, scores) for scores in named(part).values()),
                shown(part.headroom(), "fraction"),
                shown(part.headroom(DONOR), "fraction"),
                shown(part.mean(part.case_headroom(), part.wins), "fraction"),
            )
        )
    return ResultTable(
        title="What turns an answer, by relation",
        columns=("part", "fitting", "evaluated", "known", "prior wins", *columns, "headroom", f"without {DONOR}", "headroom where the prior wins"),
        rows=tuple(rows),
        note=f"over known cases, intervals over facts, widened; last column: {SELECTED}",
    )  # fmt: skip


def bins_of(part: Part) -> dict[str, NDArray[np.bool_]]:
    """Evaluated cases by the strength of their prior: none (not answered from memory), and thirds of the known ones by the model's own confidence."""
    at = np.flatnonzero(part.known)
    at = at[part.certainty[at].argsort(kind="stable")]
    found = {"none": part.rows & ~part.outcome.known}
    for name, numbers in zip(BINS, np.array_split(at, len(BINS)), strict=True):
        rows = np.zeros(len(part.rows), dtype=bool)
        rows[numbers] = True
        found[name] = rows
    return found


def shares_table(parts: Mapping[str, Part]) -> ResultTable:
    """Greedy answers of every part and strength, under one statement, the best prompt and the best intervention."""
    rows: list[tuple[TableCell, ...]] = []
    for name, part in parts.items():
        for strength, there in bins_of(part).items():
            for label, scores in named(part).items():
                shares = (scores.says_context, scores.says_prior, scores.says_other)
                cells = [shown(part.share(values, there), "fraction") for values in shares]
                rows.append((name, strength, label, int(there.sum()), *cells))
    return ResultTable(
        title="Greedy answers by strength of the prior",
        columns=("part", "strength", "prompt", "cases", "context", "prior", "other"),
        rows=tuple(rows),
        note="none: not answered from memory without a context; the others: thirds of the known cases by the model's own confidence",
    )


def sparsity_table(parts: Mapping[str, Part]) -> ResultTable:
    """The headline measure under each kind of context."""
    names = list(next(iter(parts.values())).sparsity)
    rows = tuple(
        (name, *(shown(part.mean(part.sparsity[one]), "gini") for one in names), shown(part.sparser(), "gini"))
        for name, part in parts.items()
    )
    return ResultTable(
        title="Sparsity at the token that predicts the answer",
        columns=("part", *names, "conflicting less agreeing"),
        rows=rows,
        note="over known cases; higher is sparser",
    )


def arms_table(part: Part) -> ResultTable:
    """Every arm beside its controls."""

    def row(one: ArmScores) -> tuple[TableCell, ...]:
        arm, chosen = one.chosen.arm, one.chosen
        controls = [part.of(scores) for scores in one.random]
        random = np.mean(controls, axis=0) if controls else np.full(len(part.rows), np.nan)
        restored = np.full(len(part.rows), np.nan) if one.restored is None else one.restored.says_prior
        answers = (one.scores.says_context, one.scores.says_prior, one.scores.says_other)
        damage = number(float(one.damage.mean()) if len(one.damage) else None, "nats", n=len(one.damage))
        return (
            arm.name,
            arm.kind,
            words(chosen.setting),
            number(chosen.fitted, "fraction", n=len(part.outcome.dealt.fit)),
            measured(part, one.scores),
            *(shown(part.share(values), "fraction") for values in answers),
            shown(part.mean(random), "fraction"),
            shown(part.mean(part.of(one.scores) - random), "fraction"),
            shown(part.share(restored), "fraction"),
            damage,
        )

    references = [
        (name, "reference", "-", None, measured(part, scores), *(shown(part.share(v), "fraction") for v in (scores.says_context, scores.says_prior, scores.says_other)), None, None, None, None)
        for name, scores in part.outcome.references.items()
    ]  # fmt: skip
    return ResultTable(
        title="Every arm, over all known cases",
        columns=("arm", "kind", "setting", "on fitting cases", part.outcome.config.measure, "context", "prior", "other", "random", "beyond random", "restored", "collateral KL"),
        rows=(*references, *(row(one) for one in part.outcome.arms.values())),
        note="context, prior, other: greedy answers; restored: memory's share under the opposite intent; KL of the next token on neutral text, nats",
    )  # fmt: skip


def budget_table(part: Part) -> ResultTable:
    """How often every arm was tried."""
    log, chosen = part.outcome.tuned.log, {one.arm.name: one for one in part.outcome.tuned.chosen}
    n_settings = Counter(row.arm for row in log)
    n_read = Counter({name: sum(row.n_cases for row in log if row.arm == name) for name in n_settings})
    learning = {row.arm: row.n_learning for row in log}
    rows: list[tuple[TableCell, ...]] = [
        (name, one.arm.kind, n_settings[name], n_read[name], learning[name], words(one.setting), number(one.fitted, "fraction"))
        for name, one in chosen.items()
    ]  # fmt: skip
    return ResultTable(
        title="Tuning budget",
        columns=("arm", "kind", "settings", "cases read", "learning", "chosen", "on fitting cases"),
        rows=(*rows, *((name, "not tried", 0, 0, 0, reason, None) for name, reason in part.outcome.left_out.items())),
        note="settings and cases are the same for all; learning: how often it has read each fitting case besides; the page of the model lists every setting",
    )


def figure_of(part: Part) -> Figure:
    """Greedy answers against the model's own confidence."""
    at = np.flatnonzero(part.rows)
    parts = np.array_split(at[part.certainty[at].argsort(kind="stable")], min(N_BINS, len(at)))
    x = tuple(float(part.certainty[numbers].mean()) for numbers in parts)

    def curve(name: str, values: Floats) -> Curve:
        found = [part.mean(values, _mask(numbers, len(values))) for numbers in parts]
        finite = [[float(v) if np.isfinite(v) else None for v in (e.value, e.lo, e.hi)] for e in found]
        y, lo, hi = (tuple(row[i] for row in finite) for i in range(3))
        return Curve(name=name, x=x, y=y, lo=lo, hi=hi)

    curves = [
        curve(f"{kind}, {label}", values)
        for label, scores in named(part).items()
        if DONOR not in label.partition(":")[0]
        for kind, values in (("context", scores.says_context), ("prior", scores.says_prior))
    ]
    return Figure(
        key="answers",
        title="Greedy answers against the strength of the prior",
        x_label="log-probability of memory's answer without a context, nats/token",
        y_label="share of answers",
        curves=tuple(curves),
        note="all evaluated cases, known or not, in bins of as many; intervals over facts, widened",
    )


def _mask(numbers: Sequence[int] | NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    rows = np.zeros(n, dtype=bool)
    rows[numbers] = True
    return rows
