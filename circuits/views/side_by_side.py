"""Two runs side by side: the short answer, then settings, losses, tasks and circuits, sparsity."""

from collections.abc import Iterable, Sequence

from circuits.side_by_side.section import (
    CurvePair,
    LossesEntry,
    NumberPair,
    PointPair,
    RunEntry,
    SettingsEntry,
    SideBySideSection,
    SparsityEntry,
    TaskPair,
    TasksEntry,
    TaskSide,
    VerdictPair,
)
from circuits.views.arms import TONES
from circuits.views.tasks import STATUS, STATUS_HELP
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Choice,
    Column,
    Curve,
    Details,
    Grid,
    Heading,
    Heatmap,
    Lines,
    Panel,
    Reference,
    Table,
    Text,
    Tile,
    Value,
    format_interval,
    format_number,
    format_unit,
)
from sparsetrain.stats.bits import CONVENTION, UNIT
from sparsetrain.stats.number import Number

LOSSES = {
    "val_loss": ("Validation loss", "nats/token"),
    "train_loss": ("Training loss", "nats/token"),
    "val_bits_per_char": ("Validation loss per character", UNIT),
}
"""Series of metrics.csv -> words and unit."""
MAX_NAMED = 60
"""Shared nodes that a line names; report.json has them all."""
MAX_LINES, MAX_VALUE = 20, 60
"""Settings, and characters of a value, that the short answer shows."""
MAX_CELL = 300
"""Characters of a setting's value in the table: one may be a whole section that the other run does not have."""
SHOWN_POINT = "final_norm.hook_resid"
"""The hook point of the short answer: the residual stream at the end, which every model has."""
GAUSSIAN = "What independent Gaussian numbers of that width give: without it no number here means sparse or dense."


def side_by_side(section: SideBySideSection) -> list[Block]:
    """In what two runs differ, which is better and by how much."""
    blocks: list[Block] = [*_tiles(section), *_warnings(section), _runs(section.a, section.b)]
    blocks += [Heading(text="Settings"), *_settings(section.settings)]
    if section.verdicts is not None:
        blocks += [Heading(text="Verdicts"), _verdicts(section.verdicts)]
    blocks += [Heading(text="Losses"), *_losses(section.losses)]
    blocks += [Heading(text="Tasks and circuits"), *_tasks(section.tasks)]
    return [*blocks, Heading(text="Activation sparsity"), *_sparsity(section.sparsity)]


def overview(section: SideBySideSection) -> list[str]:
    """The short answer, as lines for a terminal."""
    lines = [f"{side}: {_words(run)}" for side, run in (("a", section.a), ("b", section.b))]
    lines += [f"{side}: {lack}" for side, run in (("a", section.a), ("b", section.b)) for lack in run.lacks]
    settings = section.settings
    lines.append(f"settings: {_differ(settings)}")
    lines += [f"  {entry.key}: {_cut(entry.a)} | {_cut(entry.b)}" for entry in settings.differing[:MAX_LINES]]
    if len(settings.differing) > MAX_LINES:
        lines.append(f"  ... and {len(settings.differing) - MAX_LINES} more, see the page")
    for tile in _tiles(section)[1:]:
        value = f"{format_number(tile.value)} {format_unit(tile.value)}".strip()
        lines.append(f"{tile.label}: {value} ({tile.note})" if value != MISSING else f"{tile.label}: {tile.note}")
    return lines


def _cut(value: str | None, length: int = MAX_VALUE) -> str:
    """The beginning of a setting's value."""
    return MISSING if value is None else value if len(value) <= length else f"{value[:length]}…"


def _words(run: RunEntry) -> str:
    """`runs/quickstart/x, a training of 1,600 steps`."""
    step = "" if run.step is None or run.kind == "study" else f", step {run.step:,}"
    return f"{run.folder}, {_kind(run)}{step}"


def _kind(run: RunEntry) -> str:
    return "a run of unknown kind" if run.kind == "unknown" else f"a {run.kind}"


def _differ(settings: SettingsEntry) -> str:
    if settings.notes:
        return " ".join(settings.notes)
    n = len(settings.differing)
    return "no setting differs" if n == 0 else "1 setting differs" if n == 1 else f"{n} settings differ"


def _tiles(section: SideBySideSection) -> list[Tile]:
    """One per part of the comparison."""
    return [
        _settings_tile(section.settings),
        _loss_tile(section.losses),
        _tasks_tile(section.tasks),
        _shared_tile(section.tasks),
        _sparsity_tile(section.sparsity),
    ]


def _tile(label: str, value: Value, note: str) -> Tile:
    return Tile(label=label, value=value, tone="none", note=note)


def _settings_tile(settings: SettingsEntry) -> Tile:
    label = "Settings that differ"
    if settings.notes:
        return _tile(label, MISSING, " ".join(settings.notes))
    named = [f"{entry.key}: {_cut(entry.a)} → {_cut(entry.b)}" for entry in settings.differing[:3]]
    more = len(settings.differing) - len(named)
    note = "; ".join(named) + (f"; and {more} more" if more else "")
    return _tile(label, len(settings.differing) or "none", note or f"{settings.n_equal:,} are equal")


def _loss_tile(losses: LossesEntry) -> Tile:
    label = "Validation loss, b − a"
    known = [entry for entry in (*losses.per_character, *losses.per_token) if entry.source == "mixed"]
    mixed = next((entry for entry in known if entry.difference and entry.difference.value is not None), None)
    if mixed is None or mixed.difference is None or mixed.difference.value is None:
        return _tile(label, MISSING, losses.notes[0] if losses.notes else "not known in both")
    change = mixed.difference.value
    better = "as good as each other" if change == 0 else f"{'b' if change < 0 else 'a'} is better"
    values = (f"{format_number(n)} in {side}{_when(n)}" for side, n in (("a", mixed.a), ("b", mixed.b)))
    return _tile(label, mixed.difference, f"{better}: {', '.join(values)}")


def _when(loss: Number | None) -> str:
    """The step of a loss that is not that of a finished training."""
    return f" {loss.note}" if loss is not None and loss.note and loss.status == "measured" else ""


def _tasks_tile(tasks: TasksEntry) -> Tile:
    label = "Tasks with a circuit, a → b"
    if not tasks.tasks:
        return _tile(label, MISSING, " ".join(tasks.notes))
    counts = [
        None
        if not any(sides)
        else sum(side is not None and side.status in ("circuit", "like_nonsense") for side in sides)
        for sides in ([pair.a for pair in tasks.tasks], [pair.b for pair in tasks.tasks])
    ]
    n = len(tasks.tasks)
    value = " → ".join(MISSING if count is None else str(count) for count in counts)
    return _tile(label, value, f"of {n} task{'s' if n > 1 else ''} searched in either run")


def _shared_tile(tasks: TasksEntry) -> Tile:
    label = "Nodes that circuits share (Jaccard)"
    pairs = [pair for pair in tasks.tasks if pair.shared is not None]
    if not pairs:
        why = next((pair.note for pair in tasks.tasks if pair.note), "no task has a circuit in both runs")
        return _tile(label, MISSING, why)
    found = [pair.shared for pair in pairs if pair.shared is not None]
    overlap, chance = (
        sum(entry.value or 0 for entry in entries) / len(found)
        for entries in ([entry.jaccard for entry in found], [entry.jaccard_random for entry in found])
    )
    over = pairs[0].task if len(pairs) == 1 else f"mean over {len(pairs)} tasks"
    value = Number(value=overlap, unit="fraction", n=len(found))
    return _tile(label, value, f"{over}; random circuits of these sizes share {format_number(chance, 'fraction')}")


def _sparsity_tile(sparsity: SparsityEntry) -> Tile:
    both = [split.name for split in sparsity.splits if split.a and split.b]
    point = _first_point(sparsity)
    if point is None or not both:
        return _tile("Activation sparsity, b − a", MISSING, " ".join(sparsity.notes))
    entry = point.splits[both[0]]
    interval = format_interval(entry.difference)
    values = f"{format_number(entry.a)} in a, {format_number(entry.b)} in b"
    note = f"{values} at {point.hook_point}" + (f"; interval {interval}" if interval else "")
    return _tile(f"{sparsity.measure} on {both[0]}, b − a", entry.difference, note)


def _first_point(sparsity: SparsityEntry) -> PointPair | None:
    named = {point.hook_point: point for point in sparsity.points}
    return named.get(SHOWN_POINT) or next(reversed(sparsity.points), None)


def _runs(a: RunEntry, b: RunEntry) -> Table:
    rows = {
        "folder": [run.folder for run in (a, b)],
        "kind": [run.kind for run in (a, b)],
        "experiment": [run.name for run in (a, b)],
        "created": [run.created for run in (a, b)],
        "sparsetrain": [run.version for run in (a, b)],
        "step": [run.step for run in (a, b)],
        "parameters": [run.n_params for run in (a, b)],
        "weights, sha256": [run.weights_sha256 and run.weights_sha256[:12] for run in (a, b)],
    }
    columns = (Column(label="Run"), Column(label="a"), Column(label="b"))
    shown = tuple((label, *values) for label, values in rows.items() if any(value is not None for value in values))
    return Table(title="The runs", columns=columns, rows=shown)


def _warnings(section: SideBySideSection) -> list[Block]:
    runs = (("a", section.a), ("b", section.b))
    words = [f"{side}: {lack}." for side, run in runs for lack in run.lacks]
    if section.a.kind != section.b.kind:
        words.append(f"These are runs of different kinds: {_kind(section.a)} and {_kind(section.b)}.")
    off = [side for side, run in runs if run.gates == "off"]
    if off:
        words.append(
            f"Gates are off in {' and '.join(off)}: a run that tries out the machinery says nothing about a model."
        )
    if section.a.weights_sha256 is not None and section.a.weights_sha256 == section.b.weights_sha256:
        words.append("Both runs have the very same weights.")
    return [Text(text=text, tone="warning") for text in words]


def _notes(notes: Iterable[str]) -> list[Block]:
    return [Text(text=" ".join(notes), tone="note")] if notes else []


def _settings(settings: SettingsEntry) -> list[Block]:
    if settings.notes:
        return [Text(text=text) for text in settings.notes]
    n = settings.n_equal
    blocks: list[Block] = [Text(text=f"{_differ(settings)[0].upper()}{_differ(settings)[1:]}; {n:,} are equal.")]
    columns = (
        Column(label="Setting", form="code"),
        Column(label="a", form="code", help=f"{MISSING}: this run's config does not have it"),
        Column(label="b", form="code"),
    )
    if settings.differing:
        rows = tuple((e.key, *(value and _cut(value, MAX_CELL) for value in (e.a, e.b))) for e in settings.differing)
        blocks.append(Table(columns=columns, rows=rows))
    if settings.lacked:
        rows = tuple((entry.key, entry.run, entry.value) for entry in settings.lacked)
        n_words = "1 key is" if len(rows) == 1 else f"{len(rows)} keys are"
        table = Table(
            columns=(
                Column(label="Setting", form="code"),
                Column(label="Not in"),
                Column(label="Default", form="code"),
            ),
            rows=rows,
        )
        words = (
            "An older version wrote that config; what it did without the key is taken to be what today's default does."
        )
        summary = f"{n_words} missing in an older config and taken to be today's default"
        blocks.append(Details(summary=summary, blocks=(Text(text=words), table), open=len(rows) <= 5))
    if settings.elsewhere:
        keys = ", ".join(entry.key for entry in settings.elsewhere)
        blocks.append(Text(text=f"Not counted, since they say only where a run was written: {keys}.", tone="note"))
    return blocks


def _verdicts(verdicts: Sequence[VerdictPair]) -> Block:
    if not verdicts:
        return Text(text="Neither study has reached a verdict.")
    columns = (
        Column(label="Arm"),
        Column(label="Verdict"),
        Column(label="a", form="status", tones=TONES),
        Column(label="b", form="status", tones=TONES),
    )
    rows = tuple((entry.arm, entry.statement, entry.a or MISSING, entry.b or MISSING) for entry in verdicts)
    return Table(columns=columns, rows=rows)


def _losses(losses: LossesEntry) -> list[Block]:
    blocks: list[Block] = []
    characters = {entry.source: entry for entry in losses.per_character}
    if losses.per_token:
        help_of = "nats/token"
        columns = [Column(label="Source"), *_columns("", help_of)]
        rows: list[tuple[Value, ...]] = [(entry.source, *_values(entry)) for entry in losses.per_token]
        blocks.append(Table(title="Validation loss, nats/token", columns=tuple(columns), rows=tuple(rows)))
    if characters:
        columns = [
            Column(label="Source"),
            *_columns("", CONVENTION),
        ]
        rows = [(entry.source, *_values(entry)) for entry in losses.per_character]
        blocks.append(Table(title=f"Validation loss, {UNIT}", columns=tuple(columns), rows=tuple(rows)))
    if len(blocks) == 2:
        blocks = [Grid(blocks=tuple(blocks))]
    drawn = {name: _curves(name, pair) for name, pair in losses.curves.items()}
    main = tuple(drawn.pop(name) for name in LOSSES if name in drawn)
    blocks += [Grid(blocks=main)] if main else []
    if len(drawn) > 1:
        blocks.append(
            Details(summary="Validation loss over steps, by source", blocks=(Grid(blocks=tuple(drawn.values())),))
        )
    return [*blocks, *_notes(losses.notes)]


def _columns(prefix: str, words: str = "") -> tuple[Column, ...]:
    return (
        Column(label=f"{prefix}a", form="number"),
        Column(label=f"{prefix}b", form="number"),
        Column(label=f"{prefix}b − a", form="number", help=words),
    )


def _values(pair: NumberPair) -> tuple[Value, ...]:
    return (pair.a, pair.b, pair.difference)


def _curves(name: str, pair: CurvePair) -> Lines:
    known = {side: curve for side, curve in (("a", pair.a), ("b", pair.b)) if curve is not None}
    words, _, source = name.partition("/")
    words, unit = LOSSES.get(words, (words, ""))
    title = words + (f", {source}" if source else "")
    curves = tuple(Curve(name=side, x=curve.step, y=curve.value) for side, curve in known.items())
    missing = "" if len(known) == 2 else f"{'a' if 'b' in known else 'b'} has not logged it"
    return Lines(title=title, x_label="step", y_label=unit, curves=curves, note=missing)


def _tasks(tasks: TasksEntry) -> list[Block]:
    if not tasks.tasks:
        return _notes(tasks.notes)
    tones = dict(STATUS.values())
    columns = (
        Column(label="Task"),
        Column(label="a", form="status", tones=tones, help=STATUS_HELP),
        Column(label="b", form="status", tones=tones),
        Column(label="Accuracy, a", form="number", help="full model on held-out pairs: right answer ahead of wrong"),
        Column(label="b", form="number"),
        Column(label="Model loss, a", form="number", help="full model's task loss after calibration; the gate"),
        Column(label="b", form="number"),
        Column(label="Circuit loss, a", form="number", help="of the best circuit, on held-out pairs"),
        Column(label="b", form="number"),
        Column(label="Nodes, a", form="number"),
        Column(label="b", form="number"),
        Column(label="Edges, a", form="number", help="nonzero weights between kept nodes: the circuit's size"),
        Column(label="b", form="number"),
    )
    keys = ("model_accuracy", "model_loss", "task_loss", "n_nodes", "n_edges")
    rows = tuple(
        (
            pair.task,
            *(MISSING if side is None else STATUS[side.status][0] for side in (pair.a, pair.b)),
            *(_bare(side, key) for key in keys for side in (pair.a, pair.b)),
        )
        for pair in tasks.tasks
    )
    return [Table(title="Tasks", columns=columns, rows=rows), *_shared(tasks.tasks), *_notes(tasks.notes)]


def _bare(side: TaskSide | None, key: str) -> Value:
    """A number without its interval, which the run's own report shows."""
    found: Number | None = getattr(side, key, None)
    return None if found is None else format_number(found)


def _shared(pairs: Sequence[TaskPair]) -> list[Block]:
    compared = [(pair, pair.shared) for pair in pairs if pair.shared is not None]
    blocks: list[Block] = []
    if compared:
        chance = "mean and 95% range of two random circuits with as many nodes at every hook point, drawn evenly"
        columns = (
            Column(label="Task"),
            Column(label="Shared nodes", form="number", help="nodes in the best circuits of both runs"),
            Column(label="Random circuits share", form="number", help=chance),
            Column(label="Jaccard", form="bar", help="shared nodes over nodes in either circuit"),
            Column(label="Jaccard, random", form="number", help="of the same random circuits"),
            Column(
                label="Seeds of a", form="number", help="Jaccard of the circuits that this run's own mask seeds found"
            ),
            Column(label="Seeds of b", form="number"),
        )
        rows = tuple(
            (
                pair.task,
                shared.n_shared,
                shared.n_random,
                shared.jaccard,
                shared.jaccard_random,
                *(None if side is None else side.jaccard_seeds for side in (pair.a, pair.b)),
            )
            for pair, shared in compared
        )
        blocks.append(Table(title="What the circuits share", columns=columns, rows=rows))
        named = tuple((pair.task, _named(shared.nodes)) for pair, shared in compared if shared.nodes)
        if named:
            table = Table(columns=(Column(label="Task"), Column(label="Shared nodes", form="code")), rows=named)
            blocks.append(Details(summary="Which nodes are shared", blocks=(table,)))
    apart: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.note:
            apart.setdefault(pair.note, []).append(pair.task)
    return [*blocks, *(Text(text=f"{', '.join(names)}: {note}.") for note, names in apart.items())]


def _named(nodes: Sequence[str]) -> str:
    more = len(nodes) - MAX_NAMED
    return ", ".join(nodes[:MAX_NAMED]) + (f" and {more:,} more, see report.json" if more > 0 else "")


def _sparsity(sparsity: SparsityEntry) -> list[Block]:
    both = sorted((s for s in sparsity.splits if s.a and s.b), key=lambda split: split.a.level if split.a else 0)
    names = [split.name for split in both]
    blocks: list[Block] = []
    if sparsity.points and names:
        blocks.append(_map(sparsity, names))
        shown = [point for point in sparsity.points if point.shown] or list(sparsity.points)
        shown.sort(key=lambda point: point.hook_point != SHOWN_POINT)
        panels = tuple(
            Panel(keys=(point.hook_point,), blocks=tuple(_point(sparsity.measure, point, names))) for point in shown
        )
        blocks.append(Choice(labels=("Hook point",), panels=panels))
    return [*blocks, *_notes(sparsity.notes)]


def _map(sparsity: SparsityEntry, names: Sequence[str]) -> Heatmap:
    differences = [[point.splits[name].difference for name in names] for point in sparsity.points]
    return Heatmap(
        title=f"{sparsity.measure}, b − a",
        corner="hook point",
        x_labels=tuple(names),
        y_labels=tuple(point.hook_point for point in sparsity.points),
        values=tuple(tuple(None if d is None else d.value for d in row) for row in differences),
        center=0.0,
        differences=True,
        marked=tuple(tuple(_apart(d) for d in row) for row in differences),
        note="0: as in a; * the interval of the difference excludes 0",
    )


def _apart(difference: Number | None) -> bool:
    if difference is None or difference.lo is None or difference.hi is None:
        return False
    return difference.lo > 0 or difference.hi < 0


def _point(measure: str, point: PointPair, names: Sequence[str]) -> list[Block]:
    width = f"{point.width_a:,}" if point.width_a == point.width_b else f"{point.width_a:,} and {point.width_b:,}"
    table = Table(
        title=f"{measure} at {point.hook_point}, {width} channels",
        columns=(Column(label="Split"), *_columns("")),
        rows=(
            *((name, *_values(point.splits[name])) for name in names),
            ("Gaussian", point.gaussian_a, point.gaussian_b, None),
        ),
    )
    return [*([_over_splits(measure, point, names)] if len(names) > 1 else []), table, Text(text=GAUSSIAN, tone="note")]


def _over_splits(measure: str, point: PointPair, names: Sequence[str]) -> Lines:
    def curve(side: str) -> Curve:
        numbers: list[Number | None] = [getattr(point.splits[name], side) for name in names]
        value, lo, hi = (
            tuple(None if n is None else getattr(n, key) for n in numbers) for key in ("value", "lo", "hi")
        )
        return Curve(name=side, x=tuple(range(len(names))), y=value, lo=lo, hi=hi)

    gaussian = {"Gaussian": point.gaussian_a}
    if point.gaussian_a != point.gaussian_b:
        gaussian = {"Gaussian, a": point.gaussian_a, "Gaussian, b": point.gaussian_b}
    return Lines(
        title=f"{measure} at {point.hook_point}, split by split",
        x_label="split",
        y_label=measure,
        curves=(curve("a"), curve("b")),
        references=tuple(Reference(label=label, value=value) for label, value in gaussian.items() if value is not None),
        note="; ".join(f"{i}: {name}" for i, name in enumerate(names)),
    )
