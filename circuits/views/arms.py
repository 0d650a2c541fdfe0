"""Several models side by side: loss against circuit size, and dense beside sparse at equal loss."""

from collections.abc import Mapping, Sequence

from circuits.section import ArmEntry, ArmsSection, PairEntry
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Column,
    Curve,
    Details,
    Lines,
    Table,
    Text,
    Tile,
    Tone,
    format_interval,
    format_number,
)

TONES: Mapping[str, Tone] = {"supported": "pass", "not supported": "fail", "undecided": "warn"}


def arms(section: ArmsSection) -> list[Block]:
    """What the models are, how large their circuits, and by how much those of dense ones are larger at equal loss."""
    gap = format_number(section.max_gap, "fraction")
    common = ", ".join(section.common_tasks) or "none"
    tiles = [
        Tile(
            label="Dense / sparse circuit size",
            value=pair.ratio,
            tone=TONES[pair.verdict],
            note=f"{pair.dense} against {pair.sparse}: 95% interval {format_interval(pair.ratio) or MISSING}, {len(pair.tasks)} tasks",
        )
        for pair in section.pairs
    ]
    none = f"no dense and sparse arm have validation losses within {gap} of each other"
    text = f"Sizes are edges of node circuits at the target loss; 'common' is their geometric mean over the tasks that every arm solves ({common})."
    return [
        *(tiles or [Tile(label="Dense / sparse circuit size", value=MISSING, tone="warn", note=none)]),
        Text(text=text),
        _models(section.models),
        *_frontier(section.models),
        *_pairs(section.pairs, gap),
        _sizes(section.models),
    ]


def _models(models: Sequence[ArmEntry]) -> Table:
    columns = (
        Column(label="Arm"),
        Column(label="Width", form="number"),
        Column(label="Density", form="number"),
        Column(label="Edges of the model", form="number", help="nonzero weights between nodes"),
        Column(label="Validation loss", form="number"),
        Column(
            label="Tasks passed", form="number", help="in every seed; those that the empty circuit solves do not count"
        ),
        Column(label="Tasks with a circuit", form="number", help="in at least one seed"),
        Column(label="Edges, common tasks", form="number", help="geometric mean"),
    )
    rows = tuple(
        (
            Cell(value=model.name, sub="AbsTopK" if model.abs_topk else "no AbsTopK"),
            model.d_model,
            model.density.value,
            model.n_edges.value,
            model.val_loss,
            len(model.passed),
            len(model.edges),
            model.common_edges.value,
        )
        for model in models
    )
    return Table(title="Models", columns=columns, rows=rows)


def _frontier(models: Sequence[ArmEntry]) -> list[Block]:
    """Loss against size, one line per family: dense or sparse, with AbsTopK or without."""
    families: dict[str, list[tuple[float, float]]] = {}
    for model in models:
        loss, size = model.val_loss.value, model.common_edges.value
        if loss is not None and size is not None:
            kind = "dense" if model.method == "none" else "sparse"
            name = kind if model.abs_topk else f"{kind}, no AbsTopK"
            families.setdefault(name, []).append((loss, size))
    curves = tuple(
        Curve(name=name, x=tuple(x for x, _ in sorted(points)), y=tuple(y for _, y in sorted(points)))
        for name, points in families.items()
    )
    lines = Lines(
        title="Validation loss against size of circuits",
        x_label="nats/token",
        y_label="edges, geometric mean",
        curves=curves,
        log_y=True,
        note="lower left is better; a point per arm",
    )
    return [lines] if curves else []


def _pairs(pairs: Sequence[PairEntry], gap: str) -> list[Block]:
    columns = (
        Column(label="Sparse"),
        Column(label="Dense"),
        Column(label="Loss gap", form="number", help="dense / sparse - 1"),
        Column(
            label="Edges, dense / sparse",
            form="number",
            help="geometric mean over tasks; 95% interval over tasks and seeds",
        ),
        Column(label="Tasks", form="number"),
        Column(label="Passed by both, but without a circuit in one"),
    )
    rows = []
    for pair in pairs:
        lost = [f"{task} ({name})" for name, tasks in pair.without_circuit.items() for task in tasks]
        words = ", ".join(lost) or MISSING
        rows.append((pair.sparse, pair.dense, pair.loss_gap.value, pair.ratio, len(pair.tasks), words))
    return [Table(title=f"Pairs within {gap} of loss", columns=columns, rows=tuple(rows))] if rows else []


def _sizes(models: Sequence[ArmEntry]) -> Block:
    tasks = sorted({task for model in models for task in model.edges})
    columns = (Column(label="Task"), *(Column(label=model.name) for model in models))
    rows = tuple(
        (task, *(", ".join(map(str, model.edges.get(task, ()))) or MISSING for model in models)) for task in tasks
    )
    table = Table(title="Edges per task and seed", columns=columns, rows=rows)
    return Details(summary="Edges of every task in every arm", blocks=(table,))
