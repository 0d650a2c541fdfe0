"""What a view may say: a small vocabulary of blocks that every renderer understands.

A view is a function `section -> list[Block]`. Blocks hold plain data, no markup: each renderer (markdown, HTML, W&B) escapes for
itself. `Widget` is the way in for drawings that only their owner understands: it carries its script and style for HTML, and
other blocks that say the same for renderers that cannot run it. `inside` and `walk` are the one way to look into blocks.
"""

import base64
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparsetrain.stats.number import Number

Tone = Literal["pass", "fail", "warn", "none"]
Value = Number | str | int | float | None
"""What may be shown: a `Number`, which brings its unit, interval and standing; a plain number; words; None: not known."""
MISSING = "–"
PNG = re.compile(r"iVBORw0KGgo[A-Za-z0-9+/]+={0,2}\Z")
"""Base64 of a PNG."""


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
    """One labelled value; `unit` is that of a plain number."""

    label: str
    value: Value
    unit: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyNumbers:
    """A row of labelled values."""

    items: tuple[KeyNumber, ...]


@dataclass(frozen=True, kw_only=True)
class Tile(KeyNumber):
    """A claim the report judges; the document gathers them from all sections at its head."""

    tone: Tone


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table cell with a second, quieter line."""

    value: Value
    sub: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """A table column."""

    label: str
    form: Literal["text", "code", "number", "bar", "status"] = "text"
    """`code`: a token, a name; `bar`: a number with a bar whose length is its share of the column's maximum; `status`: a word coloured
    by `tones`."""
    unit: str = ""
    """Of plain numbers."""
    help: str = ""
    """What the column means, in plain words; collected in a legend under the table."""
    tones: Mapping[str, Tone] = field(default_factory=dict[str, Tone])
    """Tone of each word of a `status` column; words not named have none."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of values under columns. Markdown and HTML show `limit` rows and say how many they hide; W&B gets all."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value | Cell, ...], ...]
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
    joined: bool = True
    """False: points alone."""


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
    """

    labels: tuple[str, ...]
    """Of the menus."""
    options: Mapping[tuple[str, ...], Lines]
    """Menu entries -> what is drawn then."""
    shown: tuple[tuple[str, ...], ...]
    """Those that markdown, W&B and tables show; the page opens with the first."""

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
        largest = max((abs(value) for row in self.values for value in row if value), default=10.0)
        decimals = min(5, max(1, 2 - math.floor(math.log10(largest))))  # three digits of the largest

        def word(value: float | None, marked: bool) -> str:
            if value is None:
                return MISSING
            # a minus as wide as the plus
            text = f"{value:+.{decimals}f}".replace("-", "−") if self.differences else format_number(value)
            return text + ("*" if marked else "")

        stars = self.marked or [[False] * len(row) for row in self.values]
        return tuple(tuple(map(word, row, marks)) for row, marks in zip(self.values, stars, strict=True))

    def table(self, cells: tuple[tuple[Value, ...], ...]) -> Table:
        """The map with these cells as a table."""
        columns = (Column(label=self.corner), *(Column(label=label, form="number") for label in self.x_labels))
        rows = tuple((label, *row) for label, row in zip(self.y_labels, cells, strict=True))
        return Table(title=self.title, columns=columns, rows=rows)


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Many values on one axis as dots, with named marks: a circuit among random ones."""

    title: str
    unit: str
    values: tuple[float, ...]
    values_label: str
    marks: tuple[Reference, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of `Intervals`; its tone is that of what was decided by it."""

    label: str
    value: Number
    tone: Tone = "none"


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Estimates with their intervals below each other, over one axis."""

    title: str
    x_label: str
    rows: tuple[Row, ...]
    references: tuple[Reference, ...] = ()
    """Vertical lines."""
    log_x: bool = False
    note: str = ""

    def table(self) -> Table:
        """The same as a table."""
        columns = (Column(label=""), Column(label=self.x_label, form="number"))
        return Table(title=self.title, columns=columns, rows=tuple((row.label, row.value) for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class Widget:
    """A drawing that its owner brings along."""

    name: str
    """Key under which `script` registers its function in `window.sparsetrain.widgets`; called as `draw(element, data)` once seen."""
    title: str
    """Caption and accessible name."""
    data: Any
    """JSON values for the function."""
    script: str
    """JavaScript of ours (trusted), inlined once per page."""
    style: str
    """CSS of ours, inlined once per page."""
    fallback: tuple["Block", ...]
    """Blocks with the same content, for markdown, W&B and readers without scripts."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG with its caption."""

    label: str
    alt: str
    """What is seen, for those who see no pictures."""
    png: str
    """Base64 of the file."""
    width: int
    """On the page, in pixels; the file's or a multiple of it."""
    height: int
    file: str = ""
    """Where the same picture lies in the run's folder."""

    def __post_init__(self) -> None:
        assert PNG.match(self.png), f"{self.label}: no PNG in base64"
        assert self.width > 0 and self.height > 0, (self.label, self.width, self.height)

    def content(self) -> bytes:
        """The file."""
        return base64.b64decode(self.png)


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures beside each other, their pixels shown as squares."""

    items: tuple[Picture, ...]
    title: str = ""
    note: str = ""


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
    | Intervals
    | Pictures
    | Widget
    | Grid
    | Details
    | Choice
)


def inside(block: Block) -> tuple[Panel, ...]:
    """The blocks that a block holds, in groups with their names: what is shown without a script, where there is a choice."""
    match block:
        case Grid():
            return (Panel(keys=(), blocks=block.blocks),)
        case Details():
            return (Panel(keys=(block.summary,), blocks=block.blocks),)
        case Widget():
            return (Panel(keys=(block.title,), blocks=block.fallback),)
        case Pick():
            return (Panel(keys=(), blocks=tuple(block.options[keys] for keys in block.shown)),)
        case Choice():
            return block.panels
        case _:
            return ()


def walk(blocks: Iterable[Block]) -> Iterator[Block]:
    """All blocks, those inside others included."""
    for block in blocks:
        yield block
        for panel in inside(block):
            yield from walk(panel.blocks)


def value_of(entry: Any) -> Any:
    """The bare value of a `Number`; anything else as it is."""
    return entry.value if isinstance(entry, Number) else entry


def format_number(value: Value, unit: str = "") -> str:
    """A value for reading: three or four digits, thousands separated, fractions in percent, times in words.

    Args:
        value: what to write.
        unit: of a plain number.

    Returns:
        `2.413`, `12,345`, `98.4%`, `3 min 12 s`, for None a dash. The interval is left to `format_interval`, the unit
        to `format_unit` unless it is part of the number.
    """
    if isinstance(value, Number):
        value, unit = value.value, value.unit
    if value is None or isinstance(value, str):
        return MISSING if value is None else value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if unit == "s":
        return _duration(value)
    if unit in ("correlation", "p-value"):
        return f"{value:.3f}"
    size = abs(value)
    if unit.split(" ")[0] == "fraction":
        return f"{100 * value:.3g}%" if size < 0.9995 or value == 1 else f"{100 * value:.4g}%"
    if isinstance(value, int):
        return f"{value:,}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 0.1 or size == 0:
        return f"{value:.3f}"
    return f"{value:.4f}" if size >= 0.01 else f"{value:.2e}"


def format_interval(value: Value | Cell) -> str:
    """`2.38 to 2.44` for a `Number` with an interval, else empty."""
    if not isinstance(value, Number) or value.lo is None or value.hi is None:
        return ""
    return f"{format_number(value.lo, value.unit)} to {format_number(value.hi, value.unit)}"


def format_unit(value: Value, unit: str = "") -> str:
    """The unit to print behind `format_number`; empty where the number already says it."""
    if isinstance(value, Number):
        value, unit = value.value, value.unit
    return "" if value is None or isinstance(value, str) or unit == "s" else unit.removeprefix("fraction").strip()


def note_of(value: Value | Cell) -> str:
    """Interval, sample size, seed, note and status of a `Number` in one line; empty for a plain value."""
    if not isinstance(value, Number):
        return ""
    n = "" if value.n is None else f"n = {value.n:,}"
    seed = "" if value.seed is None else f"seed {value.seed}"
    return "; ".join(part for part in (format_interval(value), n, seed, value.note, value.status) if part)


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def sample_lines(lines: Lines, n_points: int = 8) -> Table:
    """The curves as a table: a row per curve, columns at `n_points` evenly chosen recorded x positions.

    A curve without a point at a chosen position shows its last point before it.
    """
    longest = max((curve.x for curve in lines.curves), key=len, default=())
    n_points = min(n_points, len(longest))
    picks = [longest[round(i * (len(longest) - 1) / max(n_points - 1, 1))] for i in range(n_points)]
    picks = list(dict.fromkeys(picks))

    def row(curve: Curve) -> tuple[Value, ...]:
        known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        return (curve.name, *(next((y for x, y in reversed(known) if x <= pick), None) for pick in picks))

    rows = [row(curve) for curve in lines.curves]
    rows += [(reference.label, *[reference.value] * len(picks)) for reference in lines.references]
    labels = [format_number(int(x) if float(x).is_integer() else x) for x in picks]
    columns = (Column(label=f"{lines.y_label} at {lines.x_label}"), *(Column(label=x, form="number") for x in labels))
    return Table(columns=columns, rows=tuple(rows), title=lines.title)
