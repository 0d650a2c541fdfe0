"""View of the section `measurement`: how sparse a model's activations are on a user's texts."""

from collections.abc import Mapping
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
    Table,
    Text,
    format_number,
)

BESIDE = ("top5", "top10")
"""Measures mapped beside the headline, for comparison with the literature."""
LOGIT_HELP = {
    "loss": "of the next token at the positions read, nats/token",
    "entropy": "of the predicted next token, nats",
    "logit_norm": "L2 norm of the logits minus their mean",
}
TREND_HELP = {
    "level": "rank correlation with the split's level over examples",
    "level_controlled": "the same, given each example's loss, entropy, logit norm and length",
    "loss": "rank correlation with the example's loss, given the level",
}


def measurement(section: Mapping[str, Any]) -> list[Block]:
    """Splits, a heat map over hook points, the measures in numbers, sparsity against loss, correlations."""
    splits, points, headline = section["splits"], section["points"], section["headline"]
    model = section["model"]
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
                KeyNumber(label="hook points measured", value=len(points)),
                KeyNumber(label="examples", value=sum(split["n_examples"] for split in splits)),
            )
        ),
        _splits(splits),
        Choice(
            labels=("Measure",),
            panels=tuple(
                Panel(keys=(measure,), blocks=(_heatmap(measure, splits, points),))
                for measure in (headline, *BESIDE)
                if measure in points[0]["gaussian"]
            ),
        ),
    ]
    shown = [point for point in points if point["shown"]]
    panels = [
        Panel(
            keys=(point["hook_point"],),
            blocks=(_against_loss(section, point["hook_point"]), _numbers(point, splits)),
        )
        for point in shown
    ]
    blocks.append(Choice(labels=("Hook point",), panels=tuple(panels)))
    blocks += _trends(points, headline)
    if model["left_out"]:
        rows = tuple((name, reason) for name, reason in model["left_out"].items())
        columns = (Column(label="Hook point", form="code"), Column(label="Reason"))
        blocks.append(
            Details(
                summary=f"{len(rows)} hook points that this model does not give",
                blocks=(Table(columns=columns, rows=rows),),
            )
        )
    note = (
        f"Positions read: {section['positions']}. Interval: {section['interval']}. All hook points and measures stand in "
        f"sparsity.csv, every example in examples.csv."
    )
    return [*blocks, Text(text=note, tone="note")]


def _splits(splits: list[dict[str, Any]]) -> Table:
    columns = (
        Column(label="Split"),
        Column(
            label="Level", form="number", help="distance from the training text, as the files say or in their order"
        ),
        Column(label="Examples", form="number"),
        Column(label="Tokens, median", form="number"),
        Column(label="Unknown", form="number", unit="fraction", help="tokens that the tokenizer does not know"),
        Column(label="Left out", form="number", help="examples that are too short or have no known token"),
        *(Column(label=name.replace("_", " "), form="number", help=words) for name, words in LOGIT_HELP.items()),
    )
    rows = tuple(
        (
            Cell(value=split["name"], sub=split["description"]),
            split["level"],
            split["n_examples"],
            split["median_tokens"],
            split["unknown_share"],
            split["n_short"] + split["n_unknown"],
            *(split[name] for name in LOGIT_HELP),
        )
        for split in splits
    )
    return Table(title="Splits", columns=columns, rows=rows)


def _heatmap(measure: str, splits: list[dict[str, Any]], points: list[dict[str, Any]]) -> Heatmap:
    # Hook points of one width share a reference; where widths differ, each row is shaded about its own.
    return Heatmap(
        title=f"{measure} minus its Gaussian value",
        corner="hook point",
        x_labels=tuple(split["name"] for split in splits),
        y_labels=tuple(point["hook_point"] for point in points),
        values=tuple(
            tuple(_above(point["values"][split["name"]][measure], point["gaussian"][measure]) for split in splits)
            for point in points
        ),
        center=0.0,
        note="0: like Gaussian noise of the same width",
    )


def _above(entry: Any, reference: float | None) -> float | None:
    value = value_of(entry)
    return None if value is None or reference is None else value - reference


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
        note=f"each point is the mean over {min(sizes)} to {max(sizes)} examples of like loss" if sizes else "",
    )


def _numbers(point: dict[str, Any], splits: list[dict[str, Any]]) -> Table:
    measures = list(dict.fromkeys(name for values in point["values"].values() for name in values))
    columns = (
        Column(label="Measure", form="code"),
        Column(label="Gaussian", form="number"),
        *(Column(label=split["name"], form="number") for split in splits),
    )
    rows = tuple(
        (name, point["gaussian"].get(name), *(point["values"][split["name"]].get(name) for split in splits))
        for name in measures
    )
    return Table(title=f"{point['hook_point']}, {format_number(point['width'])} units", columns=columns, rows=rows)


def _trends(points: list[dict[str, Any]], headline: str) -> list[Block]:
    names = [name for name in TREND_HELP if any(name in point["trends"] for point in points)]
    if not names:
        return []
    columns = (
        Column(label="Hook point", form="code"),
        *(Column(label=name.replace("_", ", "), form="number", help=TREND_HELP[name]) for name in names),
    )
    rows = tuple((point["hook_point"], *(point["trends"].get(name) for name in names)) for point in points)
    title = f"Does {headline} go with distance, with loss?"
    return [Details(summary=title, blocks=(Table(title=title, columns=columns, rows=rows),), open=len(rows) <= 24)]
