"""The report card of a circuit as blocks: the verdict on the whole, one table, and what lies behind some values."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.section import CardEntry, CardVerdict, card_verdict
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Column,
    Details,
    Table,
    Text,
    Tone,
    format_interval,
    format_number,
    format_unit,
)
from sparsetrain.stats.number import Number
from sparsetrain.typed import Json

VERDICT_TONES: dict[str, Tone] = {"pass": "pass", "fail": "fail", "not enough data": "warn"}
COLUMNS = (
    Column(label="Criterion"),
    Column(
        label="Verdict",
        form="status",
        tones=VERDICT_TONES,
        help="pass or fail: the value against the threshold; not enough data: too few samples, an interval that is wide and covers "
        "the threshold, or the criterion's input was not given. Thresholds are the same for every circuit",
    ),
    Column(label="Value", form="number"),
    Column(label="95% interval"),
    Column(label="n", form="number", help="pairs, unless the note says what is counted"),
    Column(label="Threshold"),
    Column(label="Note"),
)
_WHOLE: dict[CardVerdict, str] = {
    "pass": "passes: it meets every criterion that decides",
    "fail": "fails",
    "not enough data": "is undecided: criteria that decide lack data",
}
_ROLES = ("Nodes", "Correlation of circuit and model", "The same in random circuits")
_UNITS_UNSAID = ("kappa", "p-value", "correlation", "distance", "factor")


def card_blocks(entries: Sequence[CardEntry]) -> list[Block]:
    """A report card for markdown and HTML."""
    if not entries:
        return [Text(text="No report card was made for this circuit.", tone="note")]
    decide, further = (tuple(_row(entry) for entry in entries if entry.role == role) for role in ("verdict", "further"))
    behind = _behind({entry.name: entry.detail for entry in entries})
    return [
        Text(text=summary(entries)),
        Table(title="Report card", columns=COLUMNS, rows=decide),
        *([Table(title="Further measurements", columns=COLUMNS, rows=further)] if further else []),
        *([Details(summary="Behind the card", blocks=behind)] if behind else []),
    ]


def summary(entries: Sequence[CardEntry]) -> str:
    """The card in two sentences: how the criteria that decide stand, and all of them counted."""
    decide = [entry for entry in entries if entry.role == "verdict"]
    open_ones = [entry.name for entry in decide if entry.verdict != "pass"]
    names = f" ({', '.join(open_ones)})" if open_ones else ""
    tally = (f"{verdict} {sum(entry.verdict == verdict for entry in entries)}" for verdict in VERDICT_TONES)
    return f"The circuit {_WHOLE[card_verdict(entries)]}{names}. {len(decide)} of {len(entries)} criteria decide. Of all: {', '.join(tally)}."


def _row(entry: CardEntry) -> tuple[Any, ...]:
    value, limit = entry.value, entry.threshold
    unit = "" if value.unit in _UNITS_UNSAID else value.unit
    threshold = f"{limit.sense} {format_number(limit.value, value.unit)} {format_unit(limit.value, unit)}"
    return (
        Cell(value=entry.name, sub=entry.question),
        entry.verdict,
        MISSING if value.value is None else Number(value=value.value, unit=unit),
        format_interval(value) or MISSING,
        value.n,
        threshold.strip(),
        value.note or MISSING,
    )


def _behind(details: Mapping[str, Mapping[str, Json]]) -> tuple[Block, ...]:
    """What lies behind the values that have more to show: ways to delete, nodes without effect, heads, other tasks."""
    blocks: list[Block] = []

    def table(
        title: str, columns: tuple[Column, ...], rows: Sequence[tuple[Any, ...]], limit: int | None = None
    ) -> None:
        if rows:
            blocks.append(Table(title=title, columns=columns, rows=tuple(rows), limit=limit))

    def behind(criterion: str, key: str) -> Any:
        return details.get(criterion, {}).get(key) or {}

    loss = Column(label="Task loss", form="bar", unit="nats")
    table(
        "Ways to delete",
        (*(Column(label=label) for label in ("Deleted nodes emit", "Kind", "Norms")), loss),
        [(cell["deletion"], cell["kind"], cell["norms"], cell["loss"]) for cell in behind("robustness", "table")],
    )
    table(
        "Attention in circuit and model",
        (Column(label="Head"), Column(label="Distance of attention", form="bar")),
        [*behind("attention", "heads").items()],
    )
    table(
        "Roles kept, by kind of node",
        (Column(label="Kind", form="code"), *(Column(label=label, form="number") for label in _ROLES)),
        [(kind, *row.values()) for kind, row in behind("node roles", "kinds").items()],
    )
    table(
        "Nodes by how they keep their role",
        (Column(label="Node", form="code"), Column(label="Correlation", form="number")),
        sorted(behind("node roles", "nodes").items(), key=lambda role: role[1]),
        limit=20,
    )
    table(
        "Damage to other tasks",
        (Column(label="Task"), Column(label="Loss added without the circuit", form="number", unit="nats")),
        sorted(behind("other tasks", "others_nats").items(), key=lambda other: -other[1]),
    )
    for criterion, key, words in (
        ("minimality", "idle_nodes", "Nodes without an effect of their own"),
        ("minimality test", "edges_not_needed", "Edges that matter no more than random ones"),
    ):
        if idle := behind(criterion, key):
            blocks.append(Text(text=f"{words}: {', '.join(idle)}.", tone="note"))
    return tuple(blocks)
