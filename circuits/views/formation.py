"""Circuits as they form: size, loss and overlap against the step, beside density and out-of-distribution sparsity."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsetrain.report import value_of
from sparsetrain.report.blocks import Block, Column, Curve, Details, Grid, Lines, Table, Text, format_number


def formation(section: Mapping[str, Any]) -> list[Block]:
    """When does each followed behaviour get its circuit, and does that circuit stay?"""
    tasks = section["tasks"]
    text = (
        "The same search at several steps of the training. Until the model can do a task there is no circuit to find: its "
        "loss is shown, and the step at which a circuit first meets the target. Overlap is the Jaccard index of the nodes "
        "with those of the finished model's circuit; what to compare it with is the overlap between mask seeds at that "
        "step (the same circuit, found twice) and with the final circuits of the other tasks (any circuit of this model)."
    )
    blocks: list[Block] = [Text(text=text), _first(tasks)]
    blocks.append(
        Grid(
            blocks=(
                _lines("Size of the circuit", "edges", tasks, "n_edges", log_y=True),
                _lines("Task loss of the model", "nats", tasks, "model_loss"),
                _lines("Overlap with the final circuit", "Jaccard of nodes", tasks, "jaccard_final"),
                *_beside(section),
            )
        )
    )
    blocks += [Details(summary=f"{task['task']}, step by step", blocks=(_table(task),)) for task in tasks]
    return blocks


def _first(tasks: Sequence[Mapping[str, Any]]) -> Table:
    columns = (
        Column(label="Task"),
        Column(
            label="Model passes from step", form="number", help="first step from which it passes the gate to the end"
        ),
        Column(
            label="Circuit from step", form="number", help="first step from which a circuit meets the target to the end"
        ),
        Column(label="Edges there", form="number"),
        Column(label="Edges at the end", form="number"),
        Column(label="Overlap", form="number", unit="fraction", help="of those two circuits, Jaccard of nodes"),
    )
    rows = []
    for task in tasks:
        points = task["points"]
        passes = _since(points, lambda point: point["status"] in ("circuit", "no_circuit"))
        found = _since(points, lambda point: point["status"] == "circuit")
        last = points[-1] if points and points[-1]["status"] == "circuit" else {}
        rows.append(
            (
                task["task"],
                passes.get("step"),
                found.get("step"),
                value_of(found.get("n_edges")),
                value_of(last.get("n_edges")),
                value_of(found.get("jaccard_final")),
            )
        )
    return Table(title="When circuits form", columns=columns, rows=tuple(rows))


def _since(points: Sequence[Mapping[str, Any]], holds: Any) -> Mapping[str, Any]:
    """The first point from which on all hold; empty where the last does not."""
    first: Mapping[str, Any] = {}
    for point in reversed(points):
        if not holds(point):
            break
        first = point
    return first


def _lines(title: str, unit: str, tasks: Sequence[Mapping[str, Any]], key: str, *, log_y: bool = False) -> Lines:
    curves = tuple(
        Curve(
            name=task["task"],
            x=tuple(point["step"] for point in task["points"]),
            y=tuple(value_of(point.get(key)) for point in task["points"]),
        )
        for task in tasks
    )
    return Lines(title=title, x_label="step", y_label=unit, curves=curves, log_y=log_y, log_x=True)


def _beside(section: Mapping[str, Any]) -> list[Lines]:
    density, sparsity = section["density"], section["sparsity"]
    found = []
    if density["step"]:
        curve = Curve(name="density", x=tuple(density["step"]), y=tuple(density["value"]))
        found.append(
            Lines(
                title="Density of the weights",
                x_label="step",
                y_label="nonzeros / entries",
                curves=(curve,),
                log_y=True,
            )
        )
    if sparsity["curves"]:
        curves = tuple(Curve(name=c["split"], x=tuple(c["step"]), y=tuple(c["value"])) for c in sparsity["curves"])
        title = f"Activation sparsity of {sparsity['hook_point']}"
        found.append(Lines(title=title, x_label="step", y_label=sparsity["measure"], curves=curves))
    return found


def _table(task: Mapping[str, Any]) -> Table:
    names = {
        "model_accuracy": "Model accuracy",
        "model_loss": "Model loss",
        "n_nodes": "Nodes",
        "n_edges": "Edges",
        "task_loss": "Task loss",
        "jaccard_final": "Overlap with the final one",
        "jaccard_seeds": "Between seeds",
        "jaccard_other_tasks": "With other tasks",
    }
    columns = (Column(label="Step"), Column(label="Status"), *(Column(label=x, form="number") for x in names.values()))
    rows = tuple(
        (format_number(point["step"]), point["status"].replace("_", " "), *(value_of(point.get(key)) for key in names))
        for point in task["points"]
    )
    return Table(title=task["task"], columns=columns, rows=rows)
