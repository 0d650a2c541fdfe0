"""Learned pruning beside other ways to rank nodes: one table of ratios, one of sizes."""

from collections.abc import Mapping
from typing import Any

from sparsetrain.report import value_of
from sparsetrain.report.blocks import MISSING, Block, Column, Details, Table, Text


def baseline_blocks(section: Mapping[str, Any]) -> list[Block]:
    """What the baselines of the circuits section say; nothing where none was run."""
    ratios = section.get("baselines")
    if not ratios:
        return []
    best = ratios[0]
    tasks = [task for task in section["tasks"] if "baselines" in task]
    text = (
        "Other rankings of the nodes, with the same pairs, target, clean-up and calibration as learned pruning. Ratios are "
        "geometric means of edges over the tasks that both solve, with 95% intervals over tasks; above 1, learned pruning "
        f"gives fewer edges. The best baseline is {best['method']}."
    )
    columns = (
        Column(label="Ranking"),
        Column(label="Its edges / learned", form="number"),
        Column(label="Tasks", form="number"),
        Column(label="Solved by learned pruning alone"),
        Column(label="Solved by the ranking alone"),
    )
    rows = tuple(
        (
            row["method"],
            row["ratio"],
            len(row["tasks"]),
            ", ".join(row["only_learned"]) or MISSING,
            ", ".join(row["only_baseline"]) or MISSING,
        )
        for row in ratios
    )
    methods = [row["method"] for row in ratios]
    sizes = Table(
        title="Edges by ranking",
        columns=(Column(label="Task"), Column(label="learned"), *(Column(label=method) for method in methods)),
        rows=tuple(_sizes(task, methods) for task in tasks),
    )
    return [
        Details(
            summary="Learned pruning beside other rankings",
            blocks=(Text(text=text), Table(title="Sizes beside learned pruning", columns=columns, rows=rows), sizes),
        )
    ]


def _sizes(task: Mapping[str, Any], methods: list[str]) -> tuple[Any, ...]:
    by_method = {entry["method"]: entry for entry in task["baselines"]}
    learned = ", ".join(str(value_of(circuit["n_edges"])) for circuit in task["circuits"]) or "none found"
    found = [by_method[method] for method in methods]
    return (task["task"], learned, *(str(value_of(x["n_edges"])) if x["reached"] else "none found" for x in found))
