"""Several models side by side: loss against circuit size, and dense beside sparse at equal loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsetrain.report import value_of
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

TONES: dict[str, Tone] = {"sparse smaller": "pass", "dense smaller": "fail", "undecided": "warn"}


def arms(section: Mapping[str, Any]) -> list[Block]:
    """Are circuits of sparse models smaller than those of dense ones of the same loss, and by how much?"""
    models, pairs = section["models"], section["pairs"]
    gap = format_number(section["max_gap"], "fraction")
    blocks: list[Block] = [_verdict(pair) for pair in pairs]
    if not pairs:
        note = f"no dense and sparse arm have validation losses within {gap} of each other"
        blocks.append(Tile(label="Dense / sparse circuit size", value=MISSING, tone="warn", note=note))
    common = ", ".join(section["common_tasks"]) or "none"
    text = (
        "Every model had the same data, the same number of tokens and the whole schedule, and was searched for circuits of "
        "the same tasks with the same settings and number of trials. Sizes are edges of node circuits at the target loss; "
        f"'common' is their geometric mean over the tasks that every arm solves ({common})."
    )
    return [*blocks, Text(text=text), _models(models), *_frontier(models), *_pairs(pairs, gap), *_sizes(models)]


def _verdict(pair: Mapping[str, Any]) -> Tile:
    note = f"{pair['dense']} against {pair['sparse']}: 95% interval {format_interval(pair['ratio']) or MISSING}, {len(pair['tasks'])} tasks"
    return Tile(label="Dense / sparse circuit size", value=pair["ratio"], tone=TONES[pair["verdict"]], note=note)


def _models(models: Sequence[Mapping[str, Any]]) -> Table:
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
            Cell(value=model["name"], sub="AbsTopK" if model["abs_topk"] else "no AbsTopK"),
            model["d_model"],
            value_of(model["density"]),
            value_of(model["n_edges"]),
            model["val_loss"],
            len(model["passed"]),
            len(model["edges"]),
            value_of(model["common_edges"]),
        )
        for model in models
    )
    return Table(title="Models", columns=columns, rows=rows)


def _frontier(models: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Loss against size, one line per family: dense or sparse, with AbsTopK or without."""
    families: dict[str, list[tuple[float, float]]] = {}
    for model in models:
        loss, size = value_of(model["val_loss"]), value_of(model["common_edges"])
        if size is not None:
            kind = "dense" if model["method"] == "none" else "sparse"
            name = kind if model["abs_topk"] else f"{kind}, no AbsTopK"
            families.setdefault(name, []).append((loss, size))
    curves = tuple(
        Curve(name=name, x=tuple(x for x, _ in sorted(points)), y=tuple(y for _, y in sorted(points)))
        for name, points in families.items()
    )
    if not curves:
        return []
    title = "Validation loss against size of circuits"
    note = "lower left is better; a point per arm"
    return [
        Lines(title=title, x_label="nats/token", y_label="edges, geometric mean", curves=curves, log_y=True, note=note)
    ]


def _pairs(pairs: Sequence[Mapping[str, Any]], gap: str) -> list[Block]:
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
        Column(label="Verdict", form="status", tones=TONES),
    )
    rows = []
    for pair in pairs:
        lost = [f"{task} ({name})" for name, tasks in pair["without_circuit"].items() for task in tasks]
        rows.append(
            (
                pair["sparse"],
                pair["dense"],
                value_of(pair["loss_gap"]),
                pair["ratio"],
                len(pair["tasks"]),
                ", ".join(lost) or MISSING,
                pair["verdict"],
            )
        )
    return [Table(title=f"Pairs within {gap} of loss", columns=columns, rows=tuple(rows))] if rows else []


def _sizes(models: Sequence[Mapping[str, Any]]) -> list[Block]:
    tasks = sorted({task for model in models for task in model["edges"]})
    columns = (Column(label="Task"), *(Column(label=model["name"]) for model in models))
    rows = tuple(
        (task, *(", ".join(map(str, model["edges"].get(task, []))) or MISSING for model in models)) for task in tasks
    )
    table = Table(title="Edges per task and seed", columns=columns, rows=rows)
    return [Details(summary="Edges of every task in every arm", blocks=(table,))] if rows else []
