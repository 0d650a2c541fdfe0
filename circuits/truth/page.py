"""What a calibration says, as tables in markdown and one drawing: written between markers of a page, and beside the JSON file."""

from circuits.truth.calibration import GOAL_FALSE, GOAL_KIND, GOAL_TRUE, CardCalibration, CriterionCurve, Judged, Share
from sparsetrain.report.blocks import Block, Column, Curve, Lines, Table, Text
from sparsetrain.report.markdown import fence, render_block, replaced_between
from sparsetrain.report.svg import to_svg

BEGIN, END = "<!-- made by scripts/calibrate_card.py -->", "<!-- end of what it made -->"
N_DRAWN = 6
"""Curves of the drawing; more would hide each other. ours"""


def percent(found: Share) -> str:
    """A share with its interval and counts, for people."""
    if found.value is None or found.lo is None or found.hi is None:
        return "none"
    return f"{found.value:.0%} ({found.lo:.0%} to {found.hi:.0%}; {found.n_hits} of {found.n})"


def blocks(done: CardCalibration) -> list[Block]:
    """The tables: what is accepted on both halves, then every criterion."""
    return [_accepted(done.setting, done.judging), Text(text=_words(done)), *_criteria(done)]


def _words(done: CardCalibration) -> str:
    word = "meets" if done.judging.meets_goals else "misses"
    return (
        f"The half that judges {word} the goals: at least {GOAL_TRUE:.0%} of the true accepted, at most {GOAL_FALSE:.0%} of the "
        f"false, no kind above {GOAL_KIND:.0%}. Shares with 95% Wilson intervals."
    )


def _accepted(setting: Judged, judging: Judged) -> Table:
    rows = [("true", percent(setting.true), percent(judging.true))]
    hosts = {**setting.true_by_host, **judging.true_by_host}
    nobody = Share.of([])
    rows += [
        (
            f"true, {host}",
            percent(setting.true_by_host.get(host, nobody)),
            percent(judging.true_by_host.get(host, nobody)),
        )
        for host in hosts
    ]
    rows.append(("false", percent(setting.false), percent(judging.false)))
    kinds = {**setting.false_by_kind, **judging.false_by_kind}
    rows += [
        (
            f"false: {kind}",
            percent(setting.false_by_kind.get(kind, nobody)),
            percent(judging.false_by_kind.get(kind, nobody)),
        )
        for kind in kinds
    ]
    labels = ("circuits", "accepted where thresholds were set", "accepted on the half that judges")
    return Table(
        title="What the verdict accepts", columns=tuple(map(lambda x: Column(label=x), labels)), rows=tuple(rows)
    )


def _criteria(done: CardCalibration) -> list[Table]:
    kinds = list(done.judging.false_by_kind)

    def table(title: str, curves: list[CriterionCurve]) -> Table:
        labels = ("criterion", "threshold", "AUC", *kinds, "true accepted", "false accepted")
        rows = [
            (
                curve.name,
                "none" if curve.threshold is None else f"{curve.sense} {curve.threshold:g}",
                _auc(curve.auc),
                *(_auc(curve.auc_by_kind.get(kind)) for kind in kinds),
                _share(curve.true_accepted, curve.threshold),
                _share(curve.false_accepted, curve.threshold),
            )
            for curve in curves
        ]
        return Table(title=title, columns=tuple(map(lambda x: Column(label=x), labels)), rows=tuple(rows))

    by_name = {curve.name: curve for curve in done.curves}
    chosen = [by_name[name] for name in done.verdict]
    further = sorted((c for c in done.curves if not c.chosen and c.n_told), key=lambda c: -(c.auc or 0))
    return [
        table("Criteria of the verdict, in the order in which they were chosen, on the half that judges", chosen),
        table("Further measurements", further),
    ]


def _auc(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _share(found: Share, threshold: float | None) -> str:
    return "–" if threshold is None or found.value is None else f"{found.value:.0%}"


def drawing(done: CardCalibration) -> Lines:
    """ROC curves of the first criteria of the verdict."""
    by_name = {curve.name: curve for curve in done.curves}
    drawn = [by_name[name] for name in done.verdict[:N_DRAWN]]
    curves = [
        Curve(name=curve.name, x=tuple(x for x, _ in curve.points), y=tuple(y for _, y in curve.points))
        for curve in drawn
    ]
    return Lines(
        title="Criteria of the card on circuits of known truth, the half that judges",
        x_label="share of the false circuits accepted",
        y_label="share of the true circuits accepted",
        curves=(*curves, Curve(name="a coin", x=(0.0, 1.0), y=(0.0, 1.0))),
    )


def markdown(done: CardCalibration, command: str, picture: str) -> str:
    """The section's tables, drawing and command."""
    parts = [render_block(block) for block in blocks(done)]
    return "\n\n".join([f"![ROC curves of the card's criteria]({picture})", *parts, fence(command)])


def svg(done: CardCalibration) -> str:
    """The drawing as a file."""
    return to_svg(drawing(done))


def page_with(made: str, page: str) -> str:
    """The page with `made` between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    return replaced_between(BEGIN, END, made, page)
