# pyright: reportMissingTypeStubs=false
"""The document as one HTML file that works from `file://` and asks nobody for anything.

1. Markup comes from a Jinja2 template with autoescape: what a run named cannot become markup.
2. Data for drawings are inlined as JSON with < > & and the two line separators escaped.
3. A content security policy forbids everything but the scripts inlined here, each named by its hash, so that even a
   mistake in 1 or 2 would run nothing.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sparsetrain.report import blocks
from sparsetrain.report.blocks import Block, Cell, Column, Heatmap, Intervals, Lines, Pick, Strip, Value, Widget
from sparsetrain.report.document import Document
from sparsetrain.report.figures import figure
from sparsetrain.report.svg import intervals_svg

TEMPLATES = Path(__file__).with_name("templates")
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def to_html(document: Document) -> str:
    """The whole page."""
    shown = list(blocks.walk(block for section in document.sections for block in section.blocks))
    widgets = [block for block in shown if isinstance(block, Widget)]
    scripts = _once(TEMPLATES / "report.js", (widget.script for widget in widgets))
    styles = _once(TEMPLATES / "report.css", (widget.style for widget in widgets))
    plotly = get_plotlyjs() if any(isinstance(block, Lines) for block in shown) else ""
    for source in (*scripts, plotly):
        assert "</script" not in source.lower() and "<!--" not in source, source[:80]
    for source in styles:
        assert "</style" not in source.lower(), source[:80]
    template = _environment().get_template("report.html.j2")
    return template.render(
        document=document,
        policy=policy([*scripts, plotly]),
        scripts=[Markup(source) for source in scripts],
        plotly=Markup(plotly),
        styles=[Markup(source) for source in styles],
    )


def _once(own: Path, others: Iterable[str]) -> list[str]:
    """The page's own source, then each of the others once."""
    return [own.read_text(encoding="utf-8"), *dict.fromkeys(others)]


def policy(scripts: list[str]) -> str:
    """The content security policy: these scripts, inline styles (plotly sets them), images from the page itself."""
    digests = (base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def inline_json(data: Any) -> Markup:
    """`data` as JSON that may stand inside a `<script type="application/json">`."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for char, escaped in ESCAPES.items():
        text = text.replace(char, escaped)
    return Markup(text)


def pick_figures(pick: Pick) -> dict[str, Any]:
    """The figure that the page opens with, and per option what differs from it.

    Returns:
        `figure`; `options`: list of `keys title note layout` and `y`, the values of every trace in the figure's order. What
        an option's layout shares with the first is not repeated.
    """
    first = figure(pick.options[pick.shown[0]])
    options: list[dict[str, Any]] = []
    for keys, lines in pick.options.items():
        drawn = figure(lines)
        layout = {key: value for key, value in drawn["layout"].items() if value != first["layout"][key]}
        y = [trace["y"] for trace in drawn["data"]]
        options.append({"keys": list(keys), "title": lines.title, "note": lines.note, "layout": layout, "y": y})
    return {"figure": first, "options": options}


def shares(column: Column, rows: Sequence[Sequence[Value | Cell]], index: int) -> list[float]:
    """Length of the bar of each row, 0 to 1: its value as a share of the column's largest."""
    values = [blocks.value_of(row[index]) for row in rows]
    sizes = [abs(value) if isinstance(value, int | float) else 0.0 for value in values]
    top = max(sizes, default=0.0)
    return [size / top if column.form == "bar" and top > 0 else 0.0 for size in sizes]


def strip_dots(strip: Strip) -> list[tuple[int, int]]:
    """Where a strip's values are drawn: percent of its axis, and how many dots high where they would overlap."""
    low, high = strip_range(strip)
    places = [round(100 * (value - low) / (high - low)) for value in sorted(strip.values)]
    return [(x, places[:i].count(x)) for i, x in enumerate(places)]


def strip_range(strip: Strip) -> tuple[float, float]:
    """Limits of a strip's axis: 0 and a little more than the largest value or mark."""
    values = [*strip.values, *(mark.value for mark in strip.marks)]
    low, high = min(0.0, *values), max(values)
    return low, high + 0.04 * (high - low or 1.0)


def heat(heatmap: Heatmap, value: float | None) -> float:
    """Strength of a cell's shade in [-1, 1]: distance from the center as a share of the largest one."""
    known = [cell for row in heatmap.values for cell in row if cell is not None]
    if value is None or not known:
        return 0.0
    center = heatmap.center if heatmap.center is not None else min(known)
    top = max(abs(cell - center) for cell in known)
    return (value - center) / top if top else 0.0


def intervals_drawing(shown: Intervals) -> Markup:
    """The picture in the page's own ink, on its own paper; what a run named is escaped in it."""
    return Markup(intervals_svg(shown, paper="", ink="currentColor"))


def _is_block(block: Block, name: str) -> bool:
    return type(block).__name__ == name


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    registers = cast(Any, environment)  # jinja leaves their types open
    registers.filters |= {"number": blocks.format_number, "unit": blocks.format_unit, "json": inline_json}
    registers.filters |= {"interval": blocks.format_interval, "note": blocks.note_of}
    used = (figure, blocks.sample_lines, shares, strip_dots, strip_range, heat, pick_figures, intervals_drawing)
    registers.globals |= {function.__name__: function for function in used}
    registers.tests["block"] = _is_block
    return environment
