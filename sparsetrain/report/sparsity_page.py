"""The page on representation sparsity, the same for a training run, a study and a user's texts.

What it holds: the splits; every measure at every hook point over the steps of a training; hook point x split as differences from
the first split and from Gaussian noise, plain and under each control; sparsity against loss over examples; rank
correlations with distance, naive and controlled. What a section does not have is not drawn.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparsetrain.report import value_of
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
    format_number,
)

BESIDE = ("top5", "top10")
"""Measures mapped beside the headline, for comparison with the literature."""
LOGITS = "logits"
MEASURE_WORDS = {
    "loss": "loss on the split, nats/token",
    "entropy": "entropy of the predicted next token, nats",
    "logit_norm": "L2 norm of the logits minus their mean",
    "gini": "Gini coefficient of |h|: 0 if all channels are equally strong, 1 if one holds everything",
    "gini_active": "Gini coefficient among the channels that are not zero",
    "top1": "share of the energy in the strongest 1% of channels",
    "top5": "share of the energy in the strongest 5% of channels",
    "top10": "share of the energy in the strongest 10% of channels",
    "hoyer": "Hoyer sparsity: 0 if all channels are equally strong, 1 if one holds everything",
    "energy_rank": "effective share of channels that carry the energy; lower is sparser",
    "magnitude_rank": "effective share of channels that carry the magnitude; lower is sparser",
    "participation_ratio": "number of channels that share the energy; lower is sparser",
    "participation_share": "share of the channels that share the energy; lower is sparser",
    "kurtosis": "kurtosis about zero",
    "treves_rolls": "Treves-Rolls activity; lower is sparser",
    "pq_half_2": "pq-mean with p = 1/2, q = 2",
    "pq_1_2": "pq-mean with p = 1, q = 2",
    "l0": "share of the channels that are not zero; lower is sparser",
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
CONTROL_HELP = {
    "gain": "the correlation with the level where the norm's gain is left in (what the next layer reads)",
    "rotated": "in a random orthonormal basis: what is left there is no matter of single channels",
    "trimmed": "without the 1% of channels that carry most energy over all splits",
    "initialisation": "in the same model before training",
}


def representation(section: Mapping[str, Any]) -> list[Block]:
    """How sparse activations are, split by split, while training and at its end."""
    intro = (
        "How concentrated activations are, on text like the training text and on text further and further from it "
        "(higher level, farther shift). The Gaussian value is what independent Gaussian numbers of that width would give: "
        "without it no number here means sparse or dense."
    )
    return [Text(text=intro), *sparsity_page(section)]


def measurement(section: Mapping[str, Any]) -> list[Block]:
    """How sparse a model's activations are on a user's texts."""
    model, splits = section["model"], section["splits"]
    blocks: list[Block] = [
        Text(
            text=f"How concentrated the activations of {model['name']} ({model['architecture']}) are on each split. An example "
            f"is the unit: its measures are means over the positions read, and intervals come from resampling examples. "
            f"The Gaussian value is what independent Gaussian numbers of that width would give: without it no number "
            f"here means sparse or dense."
        ),
        KeyNumbers(
            items=(
                KeyNumber(label="parameters", value=model["n_params"]),
                KeyNumber(label="hook points measured", value=len(section["points"])),
                KeyNumber(label="examples", value=sum(split["n_examples"] for split in splits)),
            )
        ),
        *sparsity_page(section),
    ]
    if model["left_out"]:
        rows = tuple((name, reason) for name, reason in model["left_out"].items())
        columns = (Column(label="Hook point", form="code"), Column(label="Reason"))
        blocks.append(
            Details(
                summary=f"{len(rows)} hook points that this model does not give",
                blocks=(Table(columns=columns, rows=rows),),
            )
        )
    return blocks


def sparsity_page(section: Mapping[str, Any]) -> list[Block]:
    """Everything that the two sections share."""
    splits, points = section["splits"], section["points"]
    if not splits or not points:
        return [Text(text="Nothing was measured.")]
    training = section.get("training")
    blocks: list[Block] = [_splits(splits)]
    if training is not None:
        blocks.append(_over_training(section, training))
    step = section.get("step")
    blocks.append(_maps(section, "" if step is None else f", step {step:,}"))
    shown = [point for point in points if point["shown"]]
    panels = []
    for point in shown:
        name = point["hook_point"]
        against = [_against_loss(section, name)] if section.get("against_loss") else []
        panels.append(Panel(keys=(name,), blocks=(*against, _numbers(point, splits))))
    blocks.append(Choice(labels=("Hook point",), panels=tuple(panels)))
    blocks += _trends(section)
    if "seeds" in section:
        blocks.append(_seeds(section["seeds"], section["headline"]))
    return [*blocks, Text(text=_notes(section), tone="note")]


def _notes(section: Mapping[str, Any]) -> str:
    notes = [f"Positions read: {section['positions']}. Interval: {section['interval']}."]
    training = section.get("training")
    if training is not None:
        same = all(training[key] == section[key] for key in ("positions", "interval"))
        how = "" if same else f", positions: {training['positions']}; {training['interval']}"
        notes.append(f"While training: {_span(training['n'].values())} windows per split{how}.")
        if training["points"] != "all":
            notes.append("Curves of a few hook points only: all of them would be too many numbers for a page.")
    files = section.get("files", {})
    if "table" in files:
        notes.append(f"All hook points and measures stand in {files['table']}.")
    if "examples" in files:
        notes.append(f"Every example stands in {files['examples']}.")
    return " ".join(notes)


def _span(sizes: Iterable[int]) -> str:
    """`12`, or `8 to 12`."""
    least, most = min(sizes := list(sizes)), max(sizes)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _splits(splits: Sequence[Mapping[str, Any]]) -> Table:
    columns = [
        Column(label="Split"),
        Column(label="Level", form="number", help="distance from the training text; 0 is nearest"),
        Column(label="Examples", form="number", help="texts or windows of text; the unit of every interval"),
        Column(label="Tokens, median", form="number"),
    ]
    counted = all("n_short" in split for split in splits)
    if counted:
        columns += [
            Column(label="Unknown", form="number", unit="fraction", help="tokens that the tokenizer does not know"),
            Column(label="Left out", form="number", help="examples that are too short or have no known token"),
        ]
    covariates = ("loss", "entropy", "logit_norm")
    columns += [Column(label=m.replace("_", " "), form="number", help=MEASURE_WORDS[m]) for m in covariates]
    rows = []
    for split in splits:
        counts = (split["unknown_share"], split["n_short"] + split["n_unknown"]) if counted else ()
        head = (Cell(value=split["name"], sub=split["description"]), split["level"], split["n_examples"])
        median = split["median_tokens"]
        median = int(median) if float(median).is_integer() else median
        rows.append((*head, median, *counts, *(split[m] for m in covariates)))
    return Table(title="Splits", columns=tuple(columns), rows=tuple(rows))


def _over_training(section: Mapping[str, Any], training: Mapping[str, Any]) -> Pick:
    """Every measure at every hook point against the step, a curve per split."""
    headline, splits = section["headline"], section["splits"]
    shown = [point["hook_point"] for point in section["points"] if point["shown"]]
    n = training["n"]
    options: dict[tuple[str, ...], Lines] = {}
    for curve in sorted(training["curves"], key=lambda curve: curve["measure"] != headline):
        measure, point = curve["measure"], curve["hook_point"]
        of_splits = zip(splits, curve["value"], curve["lo"], curve["hi"], strict=True)
        reference = curve["gaussian"]
        options[measure, point] = Lines(
            title=f"{measure} of the {point}" if point == LOGITS else f"{measure} at {point}",
            x_label="step",
            y_label=measure.replace("_", " "),
            curves=tuple(
                Curve(
                    name=f"{split['level']} {split['name']}",
                    x=tuple(training["steps"]),
                    y=tuple(value),
                    lo=tuple(lo),
                    hi=tuple(hi),
                )
                for split, value, lo, hi in of_splits
            ),
            references=() if reference is None else (Reference(label="Gaussian", value=reference),),
            note=f"{MEASURE_WORDS.get(measure, measure)}. n = {_span(n.values())} windows per split",
        )
    # the page opens with the first: the residual stream at the end
    shown = sorted(shown, key=lambda point: point != "final_norm.hook_resid")
    wanted = [(headline, point) for point in shown] + [("loss", LOGITS)]
    first = [keys for keys in wanted if keys in options] or [next(iter(options))]
    return Pick(labels=("Measure", "Hook point"), options=options, shown=tuple(first))


def _maps(section: Mapping[str, Any], when: str) -> Choice:
    """Hook point x split: the headline and its neighbours, as differences, plain and under controls."""
    splits, points, headline = section["splits"], section["points"], section["headline"]
    first = splits[0]["name"]
    measures = [m for m in (headline, *BESIDE) if m in points[0]["gaussian"]]
    panels = []
    for measure in measures:
        plain = {point["hook_point"]: {k: v[measure] for k, v in point["values"].items()} for point in points}
        gaussian = {point["hook_point"]: point["gaussian"][measure] for point in points}
        marked = {p["hook_point"]: p.get("differences", {}) for p in points} if measure == headline else {}
        if len(splits) > 1:
            title = f"{measure} minus that of {first}{when}"
            panels.append(Panel(keys=(measure, f"minus {first}"), blocks=(_minus_first(title, plain, splits, marked),)))
        title = f"{measure} minus its Gaussian value{when}"
        panels.append(
            Panel(keys=(measure, "minus Gaussian"), blocks=(_minus_gaussian(title, plain, splits, gaussian),))
        )
    controls = list(dict.fromkeys(control for point in points for control in point.get("controls", {})))
    for control in controls:
        words = f"{headline}, {CONTROL_WORDS.get(control, control)}"
        of_points = {p["hook_point"]: p["controls"][control] for p in points if control in p.get("controls", {})}
        if len(splits) > 1:
            title = f"{words}, minus that of {first}{when if control != 'initialisation' else ''}"
            panels.append(Panel(keys=(words, f"minus {first}"), blocks=(_minus_first(title, of_points, splits, {}),)))
        else:
            title = f"{words}, minus that as it is{when}"
            plain = {p["hook_point"]: value_of(p["values"][first][headline]) for p in points}
            block = _minus_gaussian(title, of_points, splits, plain)
            panels.append(Panel(keys=(words, "minus as it is"), blocks=(block,)))
    return Choice(labels=("Measure", "Shown"), panels=tuple(panels))


Values = Mapping[str, Mapping[str, Any]]
"""Hook point -> split -> number."""


def _minus_first(
    title: str, values: Values, splits: Sequence[Mapping[str, Any]], differences: Mapping[str, Mapping[str, Any]]
) -> Heatmap:
    first, *others = [split["name"] for split in splits]
    marked = tuple(tuple(_excludes_zero(differences.get(point, {}).get(name)) for name in others) for point in values)
    return _heatmap(
        title,
        others,
        tuple(values),
        tuple(tuple(_minus(of[name], value_of(of[first])) for name in others) for of in values.values()),
        note=f"0: as on {first}"
        + ("; * the interval of the difference excludes 0" if any(differences.values()) else ""),
        marked=marked,
    )


def _minus_gaussian(
    title: str, values: Values, splits: Sequence[Mapping[str, Any]], references: Mapping[str, float | None]
) -> Heatmap:
    names = [split["name"] for split in splits]
    return _heatmap(
        title,
        names,
        tuple(values),
        tuple(tuple(_minus(of[name], references[point]) for name in names) for point, of in values.items()),
        note="each row against the value of its own width and AbsTopK" if "Gaussian" in title else "",
    )


def _heatmap(
    title: str,
    x_labels: Sequence[str],
    y_labels: tuple[str, ...],
    values: tuple[tuple[float | None, ...], ...],
    *,
    note: str,
    marked: tuple[tuple[bool, ...], ...] = (),
) -> Heatmap:
    return Heatmap(
        title=title,
        corner="hook point",
        x_labels=tuple(x_labels),
        y_labels=y_labels,
        values=values,
        center=0.0,
        differences=True,
        marked=marked,
        note=note,
    )


def _minus(entry: Any, reference: float | None) -> float | None:
    value = value_of(entry)
    return None if value is None or reference is None else value - reference


def _excludes_zero(entry: Mapping[str, Any] | None) -> bool:
    if entry is None or entry.get("lo") is None or entry.get("hi") is None:
        return False
    return entry["lo"] > 0 or entry["hi"] < 0


def _against_loss(section: Mapping[str, Any], point: str) -> Lines:
    headline = section["headline"]
    chosen = [curve for curve in section["against_loss"] if curve["hook_point"] == point]
    sizes = [n for curve in chosen for n in curve["n"]]
    return Lines(
        title=f"{headline} against loss at {point}",
        x_label="loss of the example, nats/token",
        y_label=headline,
        curves=tuple(
            Curve(
                name=curve["split"],
                x=tuple(curve["loss"]),
                y=tuple(curve["value"]),
                lo=tuple(curve["lo"]),
                hi=tuple(curve["hi"]),
            )
            for curve in chosen
        ),
        note=f"each point is the mean over {_span(sizes)} examples of like loss" if sizes else "",
    )


def _numbers(point: Mapping[str, Any], splits: Sequence[Mapping[str, Any]]) -> Details:
    measures = list(dict.fromkeys(name for values in point["values"].values() for name in values))
    columns = (
        Column(label="Measure", form="code"),
        Column(label="Gaussian", form="number"),
        *(Column(label=split["name"], form="number") for split in splits),
    )
    rows = []
    for name in measures:
        values = [point["values"][split["name"]].get(name) for split in splits]
        unit = next(value["unit"] for value in values if value is not None)
        rows.append((name, {"value": point["gaussian"].get(name), "unit": unit}, *values))
    title = f"All measures at {point['hook_point']}, {format_number(point['width'])} units"
    return Details(summary=title, blocks=(Table(columns=columns, rows=tuple(rows)),))


def _trends(section: Mapping[str, Any]) -> list[Block]:
    """Naive and controlled correlations, then the one with the level under each control."""
    points, headline = section["points"], section["headline"]
    of_points = [(point["hook_point"], point.get("trends", {})) for point in points]
    covariates = ", ".join(section.get("covariates", [])).replace("_", " ")
    help_of = TREND_HELP | {"level_controlled": f"the same, given each example's {covariates}"}
    labels = {
        "level": "Level",
        "level_controlled": "Level, controlled",
        "shuffled": "Shuffled, p",
        "level_means": "Level, split means",
        "loss": "Loss, given level",
    }
    shown = {point["hook_point"] for point in points if point["shown"]}
    blocks: list[Block] = []
    names = [name for name in TREND_HELP if any(name in trends for _, trends in of_points)]
    if names:
        columns = (
            Column(label="Hook point", form="code"),
            *(Column(label=labels[name], form="number", help=help_of[name]) for name in names),
        )
        rows = tuple((point, *(trends.get(name) for name in names)) for point, trends in of_points)
        blocks += _short_and_whole(f"Does {headline} go with distance, with loss?", columns, rows, shown)
    controls = [c for c in CONTROL_HELP if any(f"level_{c}" in trends for _, trends in of_points)]
    if controls:
        columns = (
            Column(label="Hook point", form="code"),
            Column(label="Level", form="number", help=TREND_HELP["level"]),
            *(Column(label=CONTROL_WORDS[c].capitalize(), form="number", help=CONTROL_HELP[c]) for c in controls),
        )
        keys = ("level", *(f"level_{control}" for control in controls))
        rows = tuple((point, *(trends.get(key) for key in keys)) for point, trends in of_points)
        blocks += _short_and_whole(f"Does {headline} still go with distance under the controls?", columns, rows, shown)
    return blocks


def _short_and_whole(
    title: str, columns: tuple[Column, ...], rows: tuple[tuple[Any, ...], ...], shown: set[str]
) -> list[Block]:
    """The rows of the hook points that are shown, and all of them on request."""
    short = Table(title=title, columns=columns, rows=tuple(row for row in rows if row[0] in shown))
    if len(short.rows) == len(rows):
        return [short]
    whole = Table(columns=tuple(replace(column, help="") for column in columns), rows=rows)
    return [short, Details(summary=f"The same at all {len(rows)} hook points", blocks=(whole,))]


def _seeds(seeds: Mapping[str, Any], headline: str) -> Details:
    labels = {"level": "Level", "level_controlled": "Level, controlled"}
    columns = [Column(label="Hook point", form="code")]
    for label in labels.values():
        columns += [
            Column(label=label, form="number", help="mean over models"),
            Column(label="each", help="the correlation in each model"),
            Column(label="signs", help="models with a positive and with a negative correlation"),
        ]
    rows = []
    for row in seeds["points"]:
        cells: list[Any] = [row["hook_point"]]
        for key in labels:
            found = row.get(key)
            signs = f"{found['n_positive']} + / {found['n_negative']} −" if found else None
            each = ", ".join(format_number(value, "correlation") for value in found["each"]) if found else None
            cells += [found["over"] if found else None, each, signs]
        rows.append(tuple(cells))
    title = f"Does {headline} go with distance in every seed?"
    note = Text(text=f"{', '.join(seeds['models'])}. Interval: {seeds['interval']}.", tone="note")
    return Details(
        summary=title,
        blocks=(Table(title=title, columns=tuple(columns), rows=tuple(rows)), note),
        open=len(rows) <= 24,
    )
