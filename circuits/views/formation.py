"""Circuits as they form: size, loss and overlap against the step, beside density and out-of-distribution sparsity."""

from collections.abc import Callable, Sequence

from circuits.section import FormationPoint, FormationSection, FormationTask
from sparsetrain.report.blocks import Block, Column, Curve, Details, Grid, Lines, Table, Text, format_number, value_of


def formation(section: FormationSection) -> list[Block]:
    """When does each followed behaviour get its circuit, and does that circuit stay?"""
    tasks = section.tasks
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
    blocks += [Details(summary=f"{task.task}, step by step", blocks=(_table(task),)) for task in tasks]
    return blocks


def _first(tasks: Sequence[FormationTask]) -> Table:
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
        passes = _since(task.points, lambda point: point.status in ("circuit", "like_nonsense", "no_circuit"))
        found = _since(task.points, lambda point: point.status in ("circuit", "like_nonsense"))
        sizes = (None, None, None, None)
        if found is not None:
            edges = (value_of(found.n_edges), value_of(task.points[-1].n_edges))
            sizes = (found.step, *edges, value_of(found.jaccard_final))
        rows.append((task.task, None if passes is None else passes.step, *sizes))
    return Table(title="When circuits form", columns=columns, rows=tuple(rows))


def _since(points: Sequence[FormationPoint], holds: Callable[[FormationPoint], bool]) -> FormationPoint | None:
    """The first point from which on all hold; None where the last does not."""
    first = None
    for point in reversed(points):
        if not holds(point):
            break
        first = point
    return first


def _lines(title: str, unit: str, tasks: Sequence[FormationTask], key: str, *, log_y: bool = False) -> Lines:
    curves = tuple(
        Curve(
            name=task.task,
            x=tuple(point.step for point in task.points),
            y=tuple(value_of(getattr(point, key)) for point in task.points),
        )
        for task in tasks
    )
    return Lines(title=title, x_label="step", y_label=unit, curves=curves, log_y=log_y, log_x=True)


def _beside(section: FormationSection) -> list[Lines]:
    density, sparsity = section.density, section.sparsity
    found = []
    if density.step:
        curve = Curve(name="density", x=density.step, y=density.value)
        found.append(
            Lines(
                title="Density of the weights",
                x_label="step",
                y_label="nonzeros / entries",
                curves=(curve,),
                log_y=True,
            )
        )
    if sparsity.curves:
        curves = tuple(Curve(name=c.split, x=c.step, y=c.value) for c in sparsity.curves)
        title = f"Activation sparsity of {sparsity.hook_point}"
        found.append(Lines(title=title, x_label="step", y_label=sparsity.measure, curves=curves))
    return found


def _table(task: FormationTask) -> Table:
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
        (format_number(point.step), point.status.replace("_", " "), *(value_of(getattr(point, key)) for key in names))
        for point in task.points
    )
    return Table(title=task.task, columns=columns, rows=rows)
