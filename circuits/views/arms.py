"""Several models side by side: loss against size, and arms that differ in a sparsity at equal loss."""

from collections.abc import Callable, Mapping, Sequence
from math import inf

from circuits.section import ArmEntry, ArmsSection, PairEntry
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Column,
    Curve,
    Details,
    Intervals,
    Lines,
    Reference,
    Row,
    Table,
    Text,
    Tile,
    Tone,
    format_interval,
    format_number,
)
from sparsetrain.stats.number import Number

TONES: Mapping[str, Tone] = {"supported": "pass", "not supported": "fail", "undecided": "warn"}
VERDICTS: Mapping[str, str] = {"supported": "smaller", "not supported": "no smaller", "undecided": "undecided"}
"""What became of the claim, as said of circuits of the sparser arm."""
ABOUT: Mapping[str, str] = {
    "weights": "sparse weights",
    "abs_topk": "AbsTopK",
    "density": "density",
    "d_model": "width",
}
SIZE = "Circuit size, denser / sparser"
FEW = 6
"""Arms that a picture names. ours"""
N_TRAINING = 6
"""Columns of the table of models that say nothing of circuits, its first."""


def arms(section: ArmsSection) -> list[Block]:
    """What the models are, how large their circuits, and by how much those of denser ones are larger at equal loss; losses alone if none was searched."""
    if not section.searched:
        return [_fewest_bits(section.models), _models(section.models, N_TRAINING), *_frontier(section.models)]
    gap = format_number(section.max_gap, "fraction")
    common = ", ".join(section.common_tasks) or "none"
    tiles = [
        Tile(
            label=SIZE,
            value=pair.ratios.slots,
            tone=TONES[pair.verdict],
            note=(
                f"{VERDICTS[pair.verdict]} with {ABOUT[pair.about]}: slots of {pair.denser} against {pair.sparser}, 95% interval "
                f"{format_interval(pair.ratios.slots) or MISSING}, {len(pair.tasks)} tasks, {pair.n_seeds} seeds"
            ),
        )
        for pair in section.pairs
    ]
    none = f"no arms that differ in a sparsity have validation losses within {gap} of each other"
    text = (
        f"Circuits are node circuits at the target loss. Their sizes: nodes; edges, the nonzero weights between them; slots, all weights "
        f"between them, zero or not. Edges fill all slots of a dense model: arms of several densities are compared by slots. Sizes of an arm are geometric means over the tasks that every arm solves ({common})."
    )
    if not section.judged:
        tiles = [_fewest_bits(section.models)]
    return [
        *(tiles or [Tile(label=SIZE, value=MISSING, tone="warn", note=none)]),
        *ratios(section.pairs),
        Text(text=text),
        _models(section.models),
        *_frontier(section.models),
        *_pairs(section.pairs, gap),
        _sizes(section.models),
    ]


def _fewest_bits(models: Sequence[ArmEntry]) -> Tile:
    """The arm that predicts best, with the range of the next one beside it."""
    best, *others = sorted(models, key=lambda model: model.bits_per_char.value or inf)
    spread = format_interval(best.bits_per_char)
    own = f"{best.name}, {spread} over seeds" if spread else best.name
    beside = f"; next {others[0].name}, {_range(others[0].bits_per_char)}" if others else ""
    return Tile(label="Fewest bits per character", value=best.bits_per_char, tone="none", note=own + beside)


def _range(number: Number) -> str:
    return format_interval(number) or format_number(number.value, number.unit)


def _abs_topk(model: ArmEntry) -> str:
    """What AbsTopK keeps, in words."""
    return ", ".join(f"{share:.3g}" for share in sorted(set(model.abs_topk.values()))) or "none"


def _models(models: Sequence[ArmEntry], n_columns: int | None = None) -> Table:
    columns = (
        Column(label="Arm"),
        Column(label="Density", form="number", help="nonzeros / entries of weight matrices; below: share of the width that AbsTopK keeps"),
        Column(label="Rate", form="number", help="peak of the learning rate, the arm's own; below: AdamW's eps and the number of optimizer steps"),
        Column(label="Nonzeros", form="number", help="of all parameters but the bigram table; below: between nodes"),
        Column(label="Validation loss", form="number", help="mean over seeds"),
        Column(label="Bits/char", form="number", help="the same loss per character"),
        Column(label="Tasks", form="number", help="passed in every seed; below: with a circuit in some seed. Those that the empty circuit solves do not count"),
        Column(label="Nodes", form="number", help="geometric mean over common tasks, as edges and slots"),
        Column(label="Edges", form="number"),
        Column(label="Slots", form="number", help="weights, zero or not, between kept nodes; below: the share that edges fill"),
    )  # fmt: skip
    rows = tuple(
        (
            Cell(value=model.name, sub=f"width {model.d_model}"),
            Cell(value=model.density.value, sub=f"AbsTopK {_abs_topk(model)}"),
            Cell(value=model.lr_peak, sub=f"eps {model.eps:g}; {format_number(model.n_steps.value)} steps"),
            Cell(value=model.n_nonzero.value, sub=f"{format_number(model.n_edges.value)} between nodes"),
            model.val_loss,
            model.bits_per_char,
            Cell(value=len(model.passed), sub=f"{len(model.circuits)} with a circuit"),
            model.common.nodes.value,
            model.common.edges.value,
            Cell(value=model.common.slots.value, sub=_filled(model)),
        )
        for model in models
    )
    return Table(title="Models", columns=columns[:n_columns], rows=tuple(row[:n_columns] for row in rows))


def _filled(model: ArmEntry) -> str:
    """Edges as a share of slots."""
    edges, slots = model.common.edges.value, model.common.slots.value
    return f"{format_number(edges / slots, 'fraction')} filled" if edges and slots else ""


def _frontier(models: Sequence[ArmEntry]) -> list[Block]:
    """Loss against size of the model and of its circuits: few arms by their names, many as one line per family (dense or sparse, with AbsTopK or without)."""
    pictures: Sequence[tuple[str, str, Callable[[ArmEntry], Number]]] = (
        ("nonzeros", "nonzero parameters", lambda model: model.n_nonzero),
        ("edges of circuits", "edges, geometric mean", lambda model: model.common.edges),
        ("slots of circuits", "slots, geometric mean", lambda model: model.common.slots),
    )
    drawn: list[Block] = []
    for title, y_label, size_of in pictures:
        families: dict[str, list[tuple[float, float]]] = {}
        for model in models:
            loss, size = model.bits_per_char.value, size_of(model).value
            if loss is not None and size is not None:
                kind = "dense" if model.method == "none" else "sparse"
                name = model.name if len(models) <= FEW else f"{kind}, AbsTopK {_abs_topk(model)}"
                families.setdefault(name, []).append((loss, size))
        curves = tuple(
            Curve(name=name, x=tuple(x for x, _ in sorted(points)), y=tuple(y for _, y in sorted(points)))
            for name, points in families.items()
        )
        lines = Lines(
            title=f"Validation loss against {title}",
            x_label="bits/char",
            y_label=y_label,
            curves=curves,
            log_y=True,
            note="lower left is better; a point per arm",
        )
        drawn += [lines] if curves else []
    return drawn


def ratios(pairs: Sequence[PairEntry]) -> list[Intervals]:
    """How much larger the denser arm's circuits are, by each of their sizes; of the deciding one in the colour of the verdict."""
    rows: list[Row] = []
    for pair in pairs:
        tones: Mapping[str, Tone] = {"slots": TONES[pair.verdict], "edges": "none", "nodes": "none"}
        for size, tone in tones.items():
            rows.append(
                Row(label=f"{pair.denser} / {pair.sparser}: {size}", value=getattr(pair.ratios, size), tone=tone)
            )
    shown = Intervals(
        title="Circuits of the denser arm, times as large",
        x_label="ratio of geometric means over tasks, 95% interval over tasks and model seeds",
        rows=tuple(rows),
        references=(Reference(label="equal", value=1.0),),
        log_x=True,
        note="coloured: the ratio that decides; slots are the weights between kept nodes, zero or not",
    )
    return [shown] if rows else []


def _pairs(pairs: Sequence[PairEntry], gap: str) -> list[Block]:
    columns = (
        Column(label="Denser / sparser"),
        Column(label="Loss gap", form="number", help="denser / sparser - 1"),
        Column(label="Slots", form="number", help="ratio of geometric means over tasks; 95% interval over tasks and model seeds"),
        Column(label="Edges", form="number", help="the same"),
        Column(label="Nodes", form="number", help="the same"),
        Column(label="Tasks", form="number", help="that both solve; below: model seeds"),
        Column(label="Circuits of the sparser are", form="status", tones={VERDICTS[word]: tone for word, tone in TONES.items()}, help="by the ratio of slots"),
        Column(label="Passed by both, but without a circuit in one"),
    )  # fmt: skip
    rows = []
    for pair in pairs:
        lost = [f"{task} ({name})" for name, tasks in pair.without_circuit.items() for task in tasks]
        also = f", also {' and '.join(ABOUT[key] for key in pair.also)}" if pair.also else ""
        rows.append(
            (
                Cell(value=f"{pair.denser} / {pair.sparser}", sub=f"differ in {ABOUT[pair.about]}{also}"),
                pair.loss_gap.value,
                pair.ratios.slots,
                pair.ratios.edges,
                pair.ratios.nodes,
                Cell(value=len(pair.tasks), sub=f"{pair.n_seeds} seeds"),
                VERDICTS[pair.verdict],
                ", ".join(lost) or MISSING,
            )
        )
    return [Table(title=f"Pairs within {gap} of loss", columns=columns, rows=tuple(rows))] if rows else []


def _sizes(models: Sequence[ArmEntry]) -> Block:
    tasks = sorted({task for model in models for task in model.circuits})
    columns = (Column(label="Task"), *(Column(label=model.name) for model in models))
    rows = tuple((task, *(_in_words(model, task) for model in models)) for task in tasks)
    table = Table(title="Nodes / edges / slots per task and seed", columns=columns, rows=rows)
    return Details(summary="Circuits of every task in every arm", blocks=(table,))


def _in_words(model: ArmEntry, task: str) -> str:
    sizes = model.circuits.get(task, ())
    return ", ".join(f"{size.n_nodes} / {size.n_edges} / {size.n_slots}" for size in sizes) or MISSING
