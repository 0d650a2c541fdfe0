"""The report card of a circuit as blocks: the verdict on the whole, one table, and what lies behind some values."""

from collections.abc import Mapping, Sequence
from typing import Any

from circuits.evidence.card import card_verdict
from circuits.evidence.measurement import Verdict
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

VERDICT_TONES: dict[str, Tone] = {"pass": "pass", "fail": "fail", "not enough data": "warn"}
VERDICT_HELP = (
    "pass or fail: the value against the threshold; not enough data: too few samples, or the criterion's input was not "
    "given. Thresholds are the same for every circuit"
)
_UNITS_UNSAID = ("fraction", "kappa", "p-value", "correlation", "distance", "factor")


def card_blocks(entries: Sequence[Mapping[str, Any]]) -> list[Block]:
    """A report card for markdown and HTML.

    Args:
        entries: of `circuits.evidence.card.report_card`.
    """
    if not entries:
        return [Text(text="No report card was made for this circuit.", tone="note")]
    return [
        Text(text=summary(entries)),
        _table(entries),
        *_details(entries),
    ]


def summary(entries: Sequence[Mapping[str, Any]]) -> str:
    """The card in two sentences: how the core criteria stand, and all of them counted."""
    whole = card_verdict(entries)
    words: dict[Verdict, str] = {
        "pass": "passes: it meets every core criterion",
        "fail": "fails",
        "not enough data": "is undecided: core criteria lack data",
    }
    core = [entry["name"] for entry in entries if entry["core"] and entry["verdict"] != "pass"]
    names = f" ({', '.join(core)})" if core else ""
    counts = {verdict: sum(entry["verdict"] == verdict for entry in entries) for verdict in VERDICT_TONES}
    tally = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    return f"The circuit {words[whole]}{names}. Of {len(entries)} criteria: {tally}."


def _table(entries: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column(label="Criterion", help="core criteria decide on the card as a whole"),
        Column(label="Verdict", form="status", tones=VERDICT_TONES, help=VERDICT_HELP),
        Column(label="Value", form="number"),
        Column(label="95% interval"),
        Column(label="n", form="number", help="pairs, unless the note says what is counted"),
        Column(label="Threshold"),
        Column(label="Note"),
    )
    return Table(title="Report card", columns=columns, rows=tuple(_row(entry) for entry in entries))


def _row(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    value, threshold = entry["value"], entry["threshold"]
    name = f"{entry['name']} (core)" if entry["core"] else entry["name"]
    unit = value["unit"]
    limit = f"{threshold['sense']} {format_number(threshold['value'], unit)}"
    said = "" if unit in _UNITS_UNSAID else format_unit(threshold["value"], unit)
    return (
        Cell(value=name, sub=entry["question"]),
        entry["verdict"],
        MISSING
        if value["value"] is None
        else {"value": value["value"], "unit": "" if unit in _UNITS_UNSAID[1:] else unit},
        format_interval(value) or MISSING,
        value.get("n"),
        f"{limit} {said}".strip(),
        value.get("note") or MISSING,
    )


def _details(entries: Sequence[Mapping[str, Any]]) -> list[Block]:
    """What lies behind the values that have more to show: ways to delete, nodes without effect, heads, other tasks."""
    found: dict[str, Mapping[str, Any]] = {entry["name"]: entry["detail"] for entry in entries}
    blocks: list[Block] = []
    table = found.get("robustness", {}).get("table")
    if table:
        columns = (
            Column(label="Deleted nodes emit"),
            Column(label="Kind"),
            Column(label="Norms"),
            Column(label="Task loss", form="bar", unit="nats"),
        )
        rows = tuple((cell["deletion"], cell["kind"], cell["norms"], cell["loss"]) for cell in table)
        blocks.append(Table(title="Ways to delete", columns=columns, rows=rows))
    shifts = found.get("attention", {}).get("heads")
    if shifts:
        columns = (Column(label="Head"), Column(label="Distance of attention", form="bar"))
        blocks.append(Table(title="Attention in circuit and model", columns=columns, rows=tuple(shifts.items())))
    roles = found.get("node roles", {}).get("nodes")
    if roles:
        columns = (Column(label="Node", form="code"), Column(label="Correlation", form="number"))
        rows = tuple(sorted(roles.items(), key=lambda role: role[1]))
        blocks.append(Table(title="Nodes by how they keep their role", columns=columns, rows=rows, limit=20))
    others = found.get("other tasks", {}).get("others_nats")
    if others:
        columns = (Column(label="Task"), Column(label="Loss added without the circuit", form="number", unit="nats"))
        rows = tuple(sorted(others.items(), key=lambda other: -other[1]))
        blocks.append(Table(title="Damage to other tasks", columns=columns, rows=rows))
    for name, key, words in (
        ("minimality", "idle_nodes", "Nodes without an effect of their own"),
        ("minimality test", "edges_not_needed", "Edges that matter no more than random ones"),
    ):
        idle = found.get(name, {}).get(key)
        if idle:
            blocks.append(Text(text=f"{words}: {', '.join(idle)}.", tone="note"))
    return [Details(summary="Behind the card", blocks=tuple(blocks))] if blocks else []
