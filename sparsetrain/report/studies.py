"""The view of a study: verdicts, the rules that stood before the run, gates, claims with intervals, figures and tables."""

from collections.abc import Mapping
from typing import Any

from sparsetrain.report.blocks import (
    Block,
    Cell,
    Column,
    Curve,
    Details,
    Grid,
    Heading,
    Lines,
    Reference,
    Table,
    Text,
    Tile,
    Tone,
    format_number,
)

TONES: Mapping[str, Tone] = {"supported": "pass", "not supported": "fail", "undecided": "warn"}


def study(data: Mapping[str, Any]) -> list[Block]:
    """A study before (`status` planned) or after its run."""
    plan = data["plan"]
    blocks: list[Block] = [Heading(text=plan["question"]), *(Text(text=paragraph) for paragraph in plan["method"])]
    if data["status"] == "planned":
        return [*blocks, Text(text="Not run yet: these are the rules.", tone="warning"), *_rules(data)]
    if not data["interpretable"]:
        failed = ", ".join(gate["words"] for gate in data["gates"] if not gate["passed"])
        blocks.append(
            Text(text=f"Not interpretable: {failed}. Numbers are shown, no verdict is given.", tone="warning")
        )
    blocks += [
        Tile(
            label=f"{verdict['name']} ({verdict['arm']})",
            value=verdict["verdict"],
            tone=TONES[verdict["verdict"]],
            note=verdict["statement"],
        )
        for verdict in data["verdicts"]
    ]
    blocks += [_verdicts(data), _gates(data), *_claims(data)]
    figures = tuple(lines_of(figure) for figure in data["figures"])
    blocks += [Heading(text="Curves"), Grid(blocks=figures)] if figures else []
    for table in data["tables"]:
        blocks.append(Details(summary=table["title"], blocks=(_table(table),)))
    return [*blocks, *_rules(data)]


def lines_of(figure: Mapping[str, Any]) -> Lines:
    """A figure of a study's data as a block."""
    return Lines(
        title=figure["title"],
        x_label=figure["x_label"],
        y_label=figure["y_label"],
        curves=tuple(
            Curve(name=c["name"], x=tuple(c["x"]), y=tuple(c["y"]), lo=tuple(c["lo"]), hi=tuple(c["hi"]))
            for c in figure["curves"]
        ),
        references=tuple(Reference(label=r["label"], value=r["value"]) for r in figure["references"]),
        note=figure["note"],
    )


def _verdicts(data: Mapping[str, Any]) -> Table:
    columns = (
        Column(label="Verdict"),
        Column(label="Arm"),
        Column(label="Claim"),
        Column(label="Word", form="status", tones=TONES),
        Column(label="Because"),
    )
    rows = tuple((v["name"], v["arm"], v["statement"], v["verdict"], v["reason"]) for v in data["verdicts"])
    return Table(columns=columns, rows=rows, title="Verdicts")


def _gates(data: Mapping[str, Any]) -> Table:
    columns = (
        Column(label="Gate"),
        Column(label="Rule"),
        Column(label="Worst", form="number"),
        Column(label="Passed", form="status", tones={"yes": "pass", "no": "fail"}),
    )
    rows = tuple((g["words"], g["criterion"], g["worst"], "yes" if g["passed"] else "no") for g in data["gates"])
    return Table(columns=columns, rows=rows, title="Gates")


def _claims(data: Mapping[str, Any]) -> list[Block]:
    """A table per arm, the first one open."""
    columns = (
        Column(label="Claim"),
        Column(label="Criterion"),
        Column(label="Number", form="number", help="mean and interval over seeds"),
        Column(label="Word", form="status", tones=TONES),
        Column(label="Seeds", help="the number in each seed"),
    )
    blocks: list[Block] = []
    for arm in data["plan"]["arms"]:
        rows = tuple(
            (
                Cell(value=claim["claim"], sub=claim["reason"]),
                claim["criterion"],
                claim["number"],
                claim["verdict"],
                ", ".join(format_number(value) for value in claim["per_seed"]),
            )
            for claim in data["claims"]
            if claim["arm"] == arm
        )
        table = Table(columns=columns, rows=rows)
        blocks.append(Details(summary=f"Claims: arm {arm}", blocks=(table,), open=not blocks))
    return blocks


def _table(table: Mapping[str, Any]) -> Table:
    rows = tuple(tuple(row) for row in table["rows"])
    numeric = [any(isinstance(cell, int | float | Mapping) for cell in column) for column in zip(*rows, strict=True)]
    columns = tuple(
        Column(label=label, form="number" if is_number else "text", help=table["note"] if i == 0 else "")
        for i, (label, is_number) in enumerate(zip(table["columns"], numeric, strict=True))
    )
    return Table(columns=columns, rows=rows)


def _rules(data: Mapping[str, Any]) -> list[Block]:
    plan = data["plan"]
    claims = Table(
        columns=(Column(label="Claim"), Column(label="Arm"), Column(label="Criterion")),
        rows=tuple((claim["claim"], claim["arm"], claim["criterion"]) for claim in plan["claims"]),
    )
    words = f"Rules, written before the run (plan.json, sha256 {data['plan_sha256'][:12]})"
    seeds = Text(text=f"Seeds {', '.join(map(str, plan['seeds']))}; arms {', '.join(plan['arms'])}.")
    return [Details(summary=words, blocks=(seeds, claims))]
