"""What a view may say: a small vocabulary of blocks that every renderer understands.

A view is a function `section data -> list[Block]`. Blocks hold plain data, no markup: each renderer (markdown, HTML,
W&B) escapes for itself. `Widget` is the way in for drawings that only their owner understands: it carries its script
and style for HTML, and other blocks that say the same for renderers that cannot run it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparsetrain.stats.number import Number

Tone = Literal["pass", "fail", "warn", "none"]
MISSING = "–"


def as_number(entry: Any) -> Any:
    """A number in plain data as a `Number`; anything else as it is."""
    return Number(**entry) if isinstance(entry, dict) and {"value", "unit"} <= entry.keys() else entry


def value_of(entry: Any) -> Any:
    """The bare value of a `Number`; anything else, None included, is returned as it is."""
    entry = as_number(entry)
    return entry.value if isinstance(entry, Number) else entry


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading inside a section; `level` 3 or 4 (1 is the report, 2 the section)."""

    text: str
    level: int = 3


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph. `tone` "note" is set smaller, "warning" stands out."""

    text: str
    tone: Literal["plain", "note", "warning"] = "plain"


@dataclass(frozen=True, kw_only=True)
class Code:
    """Preformatted lines: a prompt, a program, a command."""

    text: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyNumber:
    """One labelled value; `value` is a `number(...)`, a plain number or a string."""

    label: str
    value: Any
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyNumbers:
    """A row of labelled values."""

    items: tuple[KeyNumber, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A claim the report judges; the document gathers them from all sections into the tiles at its head."""

    label: str
    value: Any
    tone: Tone
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table cell with a second, quieter line."""

    value: Any
    sub: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """A table column.

    Args:
        label: the heading.
        form: "text"; "code" (a token, a name); "number" (a `number(...)` or a bare one); "bar" (a number with a bar
            whose length is its share of the column's maximum); "status" (a word coloured by `tones`).
        unit: of bare numbers; a `number(...)` brings its own.
        help: what the column means, in plain words; collected in a legend under the table.
        tones: tone of each word of a "status" column; words not named have none.
    """

    label: str
    form: Literal["text", "code", "number", "bar", "status"] = "text"
    unit: str = ""
    help: str = ""
    tones: Mapping[str, Tone] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values under columns. Markdown and HTML show `limit` rows and say how many they hide; W&B gets all."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (self.title, row)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Points of one line, with an interval [lo, hi] at each point or without; None is a gap."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    lo: tuple[float | None, ...] = ()
    hi: tuple[float | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A horizontal line that gives a curve its meaning."""

    label: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Curves over one x axis. `note` says where the points come from (sample size, kind of interval)."""

    title: str
    x_label: str
    y_label: str
    curves: tuple[Curve, ...]
    references: tuple[Reference, ...] = ()
    log_y: bool = False
    log_x: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """One figure that shows one of many sets of curves, chosen with one menu per label.

    For more sets than a `Choice` could hold drawings of. They differ in y alone: the same curves over the same x.

    Args:
        labels: of the menus.
        options: menu entries -> what is drawn then.
        shown: those that markdown, W&B and tables show; the page opens with the first.
    """

    labels: tuple[str, ...]
    options: Mapping[tuple[str, ...], Lines]
    shown: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        assert self.shown and set(self.shown) <= set(self.options), self.shown
        alike = {tuple((c.name, c.x, len(c.lo), len(c.hi)) for c in lines.curves) for lines in self.options.values()}
        assert len(alike) == 1, "all options have the same curves over the same x"


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A table of numbers shaded by distance from `center` (or from the smallest value if there is none).

    `differences` are written with their sign and all with as many decimals; `marked` cells get a star, which `note` explains.
    """

    title: str
    x_labels: tuple[str, ...]
    y_labels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]  # [y, x]
    corner: str = ""
    center: float | None = None
    note: str = ""
    differences: bool = False
    marked: tuple[tuple[bool, ...], ...] = ()  # [y, x]

    def words(self) -> tuple[tuple[str, ...], ...]:
        """What stands in each cell, `[y][x]`."""
        known = [abs(value) for row in self.values for value in row if value]
        # three digits of the largest
        decimals = min(5, max(1, 2 - math.floor(math.log10(max(known))))) if known else 1

        def word(value: float | None, marked: bool) -> str:
            if value is None:
                return MISSING
            # a minus as wide as the plus
            text = f"{value:+.{decimals}f}".replace("-", "−") if self.differences else format_number(value)
            return text + ("*" if marked else "")

        stars = self.marked or tuple((False,) * len(row) for row in self.values)
        return tuple(
            tuple(word(value, star) for value, star in zip(row, marks, strict=True))
            for row, marks in zip(self.values, stars, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Many values on one axis as dots, with named marks: a circuit among random ones."""

    title: str
    unit: str
    values: tuple[float, ...]
    values_label: str
    marks: tuple[Reference, ...]


@dataclass(frozen=True, kw_only=True)
class Widget:
    """A drawing that its owner brings along.

    Args:
        name: key under which `script` registers its function in `window.sparsetrain.widgets`; called as
            `draw(element, data)` once the element is seen.
        title: caption and accessible name.
        data: JSON values for the function.
        script: JavaScript of ours (trusted), inlined once per page.
        style: CSS of ours, inlined once per page.
        fallback: blocks with the same content, for markdown, W&B and readers without scripts.
    """

    name: str
    title: str
    data: Any
    script: str
    style: str
    fallback: tuple["Block", ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Blocks side by side where there is room."""

    blocks: tuple["Block", ...]


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks behind a summary line that opens on request."""

    summary: str
    blocks: tuple["Block", ...]
    open: bool = False
    status: str = ""
    tone: Tone = "none"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The blocks of one choice; `keys` has one entry per label of the `Choice`."""

    keys: tuple[str, ...]
    blocks: tuple["Block", ...]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of several panels, picked with one menu per label; markdown shows all of them."""

    labels: tuple[str, ...]
    panels: tuple[Panel, ...]


Block = (
    Heading
    | Text
    | Code
    | KeyNumbers
    | Tile
    | Table
    | Lines
    | Pick
    | Heatmap
    | Strip
    | Widget
    | Grid
    | Details
    | Choice
)
View = Callable[[Any], list[Block]]


def format_number(value: Any, unit: str = "") -> str:
    """A number for reading: three or four digits, thousands separated, fractions in percent, times in words.

    Args:
        value: a `number(...)`, which brings its unit; a plain number; a string, kept; None.
        unit: of a plain number.

    Returns:
        `2.413`, `12,345`, `98.4%`, `3 min 12 s`, for None a dash. The interval is left to `format_interval`, the unit
        to `format_unit` unless it is part of the number.
    """
    value = as_number(value)
    if isinstance(value, Number):
        return format_number(value.value, value.unit)
    if value is None:
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "s":
        return _duration(value)
    if unit in ("correlation", "p-value"):
        return f"{value:.3f}"
    if unit.split(" ")[0] == "fraction":
        return f"{100 * value:.3g}%" if abs(value) < 0.9995 or value == 1 else f"{100 * value:.4g}%"
    if isinstance(value, int) or (float(value).is_integer() and 1000 <= abs(value) < 1e15):
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 0.1 or size == 0:
        return f"{value:.3f}"
    return f"{value:.4f}" if size >= 0.01 else f"{value:.2e}"


def format_interval(value: Any) -> str:
    """`2.38 to 2.44` for a `number(...)` with an interval, else empty."""
    value = as_number(value)
    if not isinstance(value, Number) or value.lo is None or value.hi is None:
        return ""
    return f"{format_number(value.lo, value.unit)} to {format_number(value.hi, value.unit)}"


def format_unit(value: Any, unit: str = "") -> str:
    """The unit to print behind `format_number`; empty where the number already says it."""
    value = as_number(value)
    if isinstance(value, Number):
        unit, value = value.unit, value.value
    if value is None or isinstance(value, str) or unit == "s":
        return ""
    return unit.removeprefix("fraction").strip()


def note_of(value: Any) -> str:
    """Interval, sample size, seed, note and status of a `number(...)` in one line; empty for a plain value."""
    value = as_number(value)
    if not isinstance(value, Number):
        return ""
    parts = [interval] if (interval := format_interval(value)) else []
    parts += [f"n = {value.n:,}"] if value.n is not None else []
    parts += [f"seed {value.seed}"] if value.seed is not None else []
    parts += [value.note] if value.note else []
    return "; ".join([*parts, value.status])


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def shares(column: Column, rows: tuple[tuple[Any, ...], ...], index: int) -> list[float]:
    """Length of the bar of each row, 0 to 1: its value as a share of the column's largest."""
    values = [value_of(row[index]) for row in rows]
    sizes = [abs(value) if isinstance(value, int | float) else 0.0 for value in values]
    top = max(sizes, default=0.0)
    return [size / top if column.form == "bar" and top > 0 else 0.0 for size in sizes]


def sample_lines(lines: Lines, n_points: int = 8) -> Table:
    """The curves as a table: a row per curve, columns at `n_points` evenly chosen recorded x positions.

    A curve without a point at a chosen position shows its last point before it.
    """
    longest = max((curve.x for curve in lines.curves), key=len, default=())
    n_points = min(n_points, len(longest))
    picks = [longest[round(i * (len(longest) - 1) / max(n_points - 1, 1))] for i in range(n_points)]
    picks = list(dict.fromkeys(picks))
    rows: list[tuple[Any, ...]] = []
    for curve in lines.curves:
        cells = []
        for pick in picks:
            known = [y for x, y in zip(curve.x, curve.y, strict=True) if x <= pick and y is not None]
            cells.append(known[-1] if known else None)
        rows.append((curve.name, *cells))
    rows += [(reference.label, *[reference.value] * len(picks)) for reference in lines.references]
    columns = [Column(label=f"{lines.y_label} at {lines.x_label}")]
    columns += [Column(label=format_number(int(x) if float(x).is_integer() else x), form="number") for x in picks]
    return Table(columns=tuple(columns), rows=tuple(rows), title=lines.title)
