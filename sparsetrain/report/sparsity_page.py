"""The page on representation sparsity, the same for a training run, a study and a user's texts.

What it holds: the splits; every measure at every hook point over the steps of a training; hook point x split as differences from
the first split and from Gaussian noise, plain and under each control; sparsity against loss over examples; rank
correlations with distance, naive and controlled. What a section does not have is not drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sparsetrain.report.blocks import (
    Block,
    Cell,
    Choice,
    Column,
    Curve,
    Details,
    Heatmap,
    KeyNumber,
    KeyNumbers,
    Lines,
    Panel,
    Pick,
    Reference,
    Table,
    Text,
    Value,
    format_number,
)
from sparsetrain.representation.evaluate import LOGIT_MEASURES, LOGITS
from sparsetrain.representation.measures import MEASURES
from sparsetrain.representation.section import (
    FilesEntry,
    MeasurementSection,
    PointEntry,
    RepresentationSection,
    SeedsEntry,
    SplitEntry,
    TrainingCurves,
)
from sparsetrain.stats.bits import CONVENTION, UNIT
from sparsetrain.stats.number import Number

BESIDE = ("top5", "top10")
"""Measures mapped beside the headline, for comparison with the literature."""
MEASURE_WORDS = {
    "loss": "loss on the split, nats/token",
    "entropy": "entropy of the predicted next token, nats",
    "logit_norm": "L2 norm of the logits minus their mean",
    **{name: measure.words for name, measure in MEASURES.items()},
    "jaccard": "overlap of the active sets of two windows: 1 if the same channels are active",
    "dead": "share of the channels that are active in no window of the split",
    "always_on": "share of the channels that are active at every position read",
    "lifetime_treves_rolls": "Treves-Rolls activity of single channels over tokens, mean over channels; lower is sparser",
    "lifetime_kurtosis": "kurtosis of single channels over tokens, mean over channels",
}
CONTROL_WORDS = {
    "gain": "with gain",
    "rotated": "random basis",
    "trimmed": "strongest 1% left out",
    "initialisation": "before training",
}
TREND_HELP = {
    "level": "rank correlation with the split's level over examples",
    "level_controlled": "the same, given each example's covariates",
    "shuffled": "share of shuffles of the levels over examples whose correlation is as far from 0",
    "level_means": "the same over the means of the splits: a handful of points, which overstates",
    "loss": "rank correlation with the example's loss, given the level",
}
TREND_LABELS = {
    "level": "Level",
    "level_controlled": "Level, controlled",
    "shuffled": "Shuffled, p",
    "level_means": "Level, split means",
    "loss": "Loss, given level",
}
CONTROL_HELP = {
    "gain": "the correlation with the level where the norm's gain is left in (what the next layer reads)",
    "rotated": "in a random orthonormal basis: what is left there is no matter of single channels",
    "trimmed": "without the 1% of channels that carry most energy over all splits",
    "initialisation": "in the same model before training",
}


GAUSSIAN = "The Gaussian value is what independent Gaussian numbers of that width would give: without it no number here means sparse or dense."


def representation(section: RepresentationSection) -> list[Block]:
    """How sparse activations are, split by split, while training and at its end."""
    intro = (
        "How concentrated activations are, on text like the training text and on text further and further from it "
        f"(higher level, farther shift). {GAUSSIAN}"
    )
    return [Text(text=intro), *sparsity_page(section)]


def measurement(section: MeasurementSection) -> list[Block]:
    """How sparse a model's activations are on a user's texts."""
    model = section.model
    intro = (
        f"How concentrated the activations of {model.name} ({model.architecture}) are on each split. An example "
        f"is the unit: its measures are means over the positions read, and intervals come from resampling examples. {GAUSSIAN}"
    )
    sizes = (
        KeyNumber(label="parameters", value=model.n_params),
        KeyNumber(label="hook points measured", value=len(section.points)),
        KeyNumber(label="examples", value=sum(split.n_examples for split in section.splits)),
    )
    blocks: list[Block] = [Text(text=intro), KeyNumbers(items=sizes), *sparsity_page(section)]
    if model.left_out:
        columns = (Column(label="Hook point", form="code"), Column(label="Reason"))
        table = Table(columns=columns, rows=tuple(model.left_out.items()))
        summary = f"{len(model.left_out)} hook points that this model does not give"
        blocks.append(Details(summary=summary, blocks=(table,)))
    if section.skipped:
        columns = (Column(label="Place", form="code"), Column(label="Reason"))
        n = "1 row or file" if section.n_skipped == 1 else f"{section.n_skipped:,} rows or files"
        rows = Table(columns=columns, rows=tuple(section.skipped.items()), limit=50)
        blocks.append(Details(summary=f"{n} left out", blocks=(rows,)))
    return blocks


def sparsity_page(section: RepresentationSection) -> list[Block]:
    """Everything that the two sections share."""
    if not section.splits or not section.points:
        return [Text(text="Nothing was measured.")]
    blocks: list[Block] = [_splits(section.splits)]
    if section.training is not None:
        blocks.append(_over_training(section, section.training))
    blocks.append(_maps(section))
    panels: list[Panel] = []
    for point in section.points:
        if point.shown:
            against = [_against_loss(section, point.hook_point)] if section.against_loss else []
            panels.append(Panel(keys=(point.hook_point,), blocks=(*against, _numbers(point, section.splits))))
    blocks.append(Choice(labels=("Hook point",), panels=tuple(panels)))
    blocks += _trends(section)
    if section.seeds is not None:
        blocks.append(_seeds(section.seeds, section.headline))
    return [*blocks, Text(text=_notes(section), tone="note")]


def _notes(section: RepresentationSection) -> str:
    notes = [f"Positions read: {section.positions}. Interval: {section.interval}."]
    training, files = section.training, section.files or FilesEntry()
    if training is not None:
        same = (training.positions, training.interval) == (section.positions, section.interval)
        how = "" if same else f", positions: {training.positions}; {training.interval}"
        notes.append(f"While training: {_span(training.n.values())} windows per split{how}.")
        if training.points != "all":
            notes.append("Curves of a few hook points only: all of them would be too many numbers for a page.")
    if files.table:
        notes.append(f"All hook points and measures stand in {files.table}.")
    if files.examples:
        notes.append(f"Every example stands in {files.examples}.")
    return " ".join(notes)


def _span(sizes: Iterable[int]) -> str:
    """`12`, or `8 to 12`."""
    least, most = min(sizes := list(sizes)), max(sizes)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _splits(splits: Sequence[SplitEntry]) -> Table:
    columns = [
        Column(label="Split"),
        Column(label="Level", form="number", help="distance from the training text; 0 is nearest"),
        Column(label="Examples", form="number", help="texts or windows of text; the unit of every interval"),
        Column(label="Tokens, median", form="number"),
    ]
    counted = all(split.n_short is not None for split in splits)
    if counted:
        columns += [
            Column(label="Unknown", form="number", unit="fraction", help="tokens that the tokenizer does not know"),
            Column(label="Left out", form="number", help="examples that are too short or have no known token"),
        ]
    of_logits = [Column(label=m.replace("_", " "), form="number", help=MEASURE_WORDS[m]) for m in LOGIT_MEASURES]
    if known := any(split.bits_per_char is not None for split in splits):
        of_logits.insert(1, Column(label=f"loss, {UNIT}", form="number", help=CONVENTION))
    columns += of_logits
    rows: list[tuple[Value | Cell, ...]] = []
    for split in splits:
        counts = (split.unknown_share, (split.n_short or 0) + (split.n_unknown or 0)) if counted else ()
        head = (Cell(value=split.name, sub=split.description), split.level, split.n_examples)
        median = int(split.median_tokens) if split.median_tokens.is_integer() else split.median_tokens
        bits = (split.bits_per_char,) if known else ()
        rows.append((*head, median, *counts, split.loss, *bits, split.entropy, split.logit_norm))
    return Table(title="Splits", columns=tuple(columns), rows=tuple(rows))


def _over_training(section: RepresentationSection, training: TrainingCurves) -> Pick:
    """Every measure at every hook point against the step, a curve per split."""
    headline = section.headline
    options: dict[tuple[str, ...], Lines] = {}
    for curve in sorted(training.curves, key=lambda curve: curve.measure != headline):
        measure, point = curve.measure, curve.hook_point
        of_splits = zip(section.splits, curve.value, curve.lo, curve.hi, strict=True)
        options[measure, point] = Lines(
            title=f"{measure} of the {point}" if point == LOGITS else f"{measure} at {point}",
            x_label="step",
            y_label=measure.replace("_", " "),
            curves=tuple(
                Curve(name=f"{split.level} {split.name}", x=training.steps, y=value, lo=lo, hi=hi)
                for split, value, lo, hi in of_splits
            ),
            references=() if curve.gaussian is None else (Reference(label="Gaussian", value=curve.gaussian),),
            note=f"{MEASURE_WORDS.get(measure, measure)}. n = {_span(training.n.values())} windows per split",
        )
    # the page opens with the first: the residual stream at the end
    shown = [point.hook_point for point in section.points if point.shown]
    shown.sort(key=lambda point: point != "final_norm.hook_resid")
    wanted = [(headline, point) for point in shown] + [("loss", LOGITS)]
    first = [keys for keys in wanted if keys in options] or [next(iter(options))]
    return Pick(labels=("Measure", "Hook point"), options=options, shown=tuple(first))


def _maps(section: RepresentationSection) -> Choice:
    """Hook point x split: the headline and its neighbours, as differences, plain and under controls."""
    points, headline = section.points, section.headline
    names = [split.name for split in section.splits]
    first, *others = names
    when = "" if section.step is None else f", step {section.step:,}"
    panels: list[Panel] = []

    def add(
        words: str, of: str, minus: Mapping[str, float | None] | None, values: Values, title: str, note: str
    ) -> None:
        """Values minus those of the first split, or (`minus`) minus a number of each hook point."""
        shown = others if minus is None else names
        differences = {p.hook_point: p.differences or {} for p in points} if minus is None and words == headline else {}
        if any(differences.values()):
            note += "; * the interval of the difference excludes 0"
        rows = {name: (of_splits[first].value if minus is None else minus[name]) for name, of_splits in values.items()}
        block = Heatmap(
            title=title,
            corner="hook point",
            x_labels=tuple(shown),
            y_labels=tuple(values),
            values=tuple(tuple(_minus(values[p][name].value, rows[p]) for name in shown) for p in values),
            center=0.0,
            differences=True,
            marked=tuple(tuple(_excludes_zero(differences.get(p, {}).get(name)) for name in shown) for p in values),
            note=note,
        )
        panels.append(Panel(keys=(words, f"minus {of}"), blocks=(block,)))

    for measure in (headline, *BESIDE):
        if measure not in points[0].gaussian:
            continue
        values = {point.hook_point: {k: v[measure] for k, v in point.values.items()} for point in points}
        if others:
            add(measure, first, None, values, f"{measure} minus that of {first}{when}", f"0: as on {first}")
        gaussian = {point.hook_point: point.gaussian[measure] for point in points}
        note = "each row against the value of its own width and AbsTopK"
        add(measure, "Gaussian", gaussian, values, f"{measure} minus its Gaussian value{when}", note)
    for control in dict.fromkeys(control for point in points for control in point.controls or {}):
        words = f"{headline}, {CONTROL_WORDS.get(control, control)}"
        values = {p.hook_point: p.controls[control] for p in points if p.controls and control in p.controls}
        if others:
            at = when if control != "initialisation" else ""
            add(words, first, None, values, f"{words}, minus that of {first}{at}", f"0: as on {first}")
        else:
            plain = {p.hook_point: p.values[first][headline].value for p in points}
            add(words, "as it is", plain, values, f"{words}, minus that as it is{when}", "")
    return Choice(labels=("Measure", "Shown"), panels=tuple(panels))


Values = Mapping[str, Mapping[str, Number]]
"""Hook point -> split -> number."""


def _minus(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference


def _excludes_zero(entry: Number | None) -> bool:
    return entry is not None and entry.lo is not None and entry.hi is not None and (entry.lo > 0 or entry.hi < 0)


def _against_loss(section: RepresentationSection, point: str) -> Lines:
    headline = section.headline
    chosen = [groups for groups in section.against_loss or () if groups.hook_point == point]
    sizes = [n for groups in chosen for n in groups.n]
    return Lines(
        title=f"{headline} against loss at {point}",
        x_label="loss of the example, nats/token",
        y_label=headline,
        curves=tuple(Curve(name=of.split, x=of.loss, y=of.value, lo=of.lo, hi=of.hi) for of in chosen),
        note=f"each point is the mean over {_span(sizes)} examples of like loss" if sizes else "",
    )


def _numbers(point: PointEntry, splits: Sequence[SplitEntry]) -> Details:
    columns = (
        Column(label="Measure", form="code"),
        Column(label="Gaussian", form="number"),
        *(Column(label=split.name, form="number") for split in splits),
    )
    rows: list[tuple[Value, ...]] = []
    for name in dict.fromkeys(name for values in point.values.values() for name in values):
        values = [point.values[split.name].get(name) for split in splits]
        unit = next(value.unit for value in values if value is not None)
        rows.append((name, Number(value=point.gaussian.get(name), unit=unit), *values))
    title = f"All measures at {point.hook_point}, {format_number(point.width)} units"
    return Details(summary=title, blocks=(Table(columns=columns, rows=tuple(rows)),))


def _trends(section: RepresentationSection) -> list[Block]:
    """Naive and controlled correlations, then the one with the level under each control."""
    of_points = {point.hook_point: point.trends or {} for point in section.points}
    present = {name for trends in of_points.values() for name in trends}
    covariates = ", ".join(section.covariates or ()).replace("_", " ")
    help_of = TREND_HELP | {"level_controlled": f"the same, given each example's {covariates}"}
    shown = {point.hook_point for point in section.points if point.shown}
    plain = {name: (TREND_LABELS[name], help_of[name]) for name in TREND_HELP if name in present}
    controls = {
        f"level_{control}": (CONTROL_WORDS[control].capitalize(), words)
        for control, words in CONTROL_HELP.items()
        if f"level_{control}" in present
    }
    blocks: list[Block] = []
    for title, of in (
        (f"Does {section.headline} go with distance, with loss?", plain),
        (
            f"Does {section.headline} still go with distance under the controls?",
            {"level": (TREND_LABELS["level"], TREND_HELP["level"])} | controls if controls else {},
        ),
    ):
        if not of:
            continue
        columns = (
            Column(label="Hook point", form="code"),
            *(Column(label=label, form="number", help=words) for label, words in of.values()),
        )
        rows = tuple((point, *(trends.get(name) for name in of)) for point, trends in of_points.items())
        short = Table(title=title, columns=columns, rows=tuple(row for row in rows if row[0] in shown))
        blocks.append(short)
        if len(short.rows) < len(rows):
            whole = Table(columns=tuple(replace(column, help="") for column in columns), rows=rows)
            blocks.append(Details(summary=f"The same at all {len(rows)} hook points", blocks=(whole,)))
    return blocks


def _seeds(seeds: SeedsEntry, headline: str) -> Details:
    columns = [Column(label="Hook point", form="code")]
    for name in ("level", "level_controlled"):
        columns += [
            Column(label=TREND_LABELS[name], form="number", help="mean over models"),
            Column(label="each", help="the correlation in each model"),
            Column(label="signs", help="models with a positive and with a negative correlation"),
        ]
    rows: list[tuple[Value, ...]] = []
    for point in seeds.points:
        cells: list[Value] = [point.hook_point]
        for trend in (point.level, point.level_controlled):
            if trend is None:
                cells += [None] * 3
                continue
            each = ", ".join(format_number(value, "correlation") for value in trend.each)
            cells += [trend.over, each, f"{trend.n_positive} + / {trend.n_negative} −"]
        rows.append(tuple(cells))
    title = f"Does {headline} go with distance in every seed?"
    note = Text(text=f"{', '.join(seeds.models)}. Interval: {seeds.interval}.", tone="note")
    table = Table(title=title, columns=tuple(columns), rows=tuple(rows))
    return Details(summary=title, blocks=(table, note), open=len(rows) <= 24)
