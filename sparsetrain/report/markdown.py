"""The document as GitHub-flavoured markdown: the same numbers as the page, as tables.

Text from a run (task names, tokens, file names) is escaped so that it is shown and never read as markup.
"""

import re
from typing import Any, assert_never

from sparsetrain.report import value_of
from sparsetrain.report.blocks import (
    Block,
    Cell,
    Choice,
    Code,
    Column,
    Details,
    Grid,
    Heading,
    Heatmap,
    KeyNumber,
    KeyNumbers,
    Lines,
    Pick,
    Strip,
    Table,
    Text,
    Tile,
    Widget,
    format_interval,
    format_number,
    format_unit,
    sample_lines,
)
from sparsetrain.report.document import Document

MARKS = {"pass": "✓", "fail": "✗", "warn": "!", "none": "·"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def to_markdown(document: Document) -> str:
    """The whole document."""
    parts = [f"# {escape(document.title)}", escape(" · ".join(document.facts))]
    parts += [f"> **{escape(banner)}**" for banner in document.banners]
    if document.tiles:
        parts.append(_tiles(document.tiles))
    for section in document.sections:
        parts.append(f"## {escape(section.title)}")
        parts += [text for text in map(render_block, section.blocks) if text]
    return "\n\n".join(part for part in parts if part) + "\n"


def render_block(block: Block) -> str:
    """One block as markdown without surrounding blank lines."""
    match block:
        case Heading():
            return f"{'#' * block.level} {escape(block.text)}"
        case Text():
            text = escape(block.text)
            return {"plain": text, "note": f"*{text}*", "warning": f"> **{text}**"}[block.tone]
        case Code():
            caption = f"{escape(block.caption)}:\n\n" if block.caption else ""
            return caption + fence(block.text)
        case KeyNumbers():
            return "\n".join(f"- {_key_number(item)}" for item in block.items)
        case Tile():
            return _tiles((block,))
        case Table():
            return _table(block)
        case Lines():
            table = _table(sample_lines(block))
            return "\n\n".join([table] + ([f"*{escape(block.note)}*"] if block.note else []))
        case Pick():
            return "\n\n".join(render_block(block.options[keys]) for keys in block.shown)
        case Heatmap():
            columns = (Column(label=block.corner), *(Column(label=label, form="number") for label in block.x_labels))
            rows = tuple((label, *row) for label, row in zip(block.y_labels, block.words(), strict=True))
            table = _table(Table(title=block.title, columns=columns, rows=rows))
            return "\n\n".join([table] + ([f"*{escape(block.note)}*"] if block.note else []))
        case Strip():
            ends = (min(block.values), max(block.values)) if block.values else (None, None)
            low, high = (format_number(end) for end in ends)
            marks = "; ".join(f"{mark.label} {format_number(mark.value)}" for mark in block.marks)
            text = f"{block.title}: {marks}; {len(block.values)} {block.values_label} from {low} to {high} {block.unit}"
            return escape(text)
        case Widget():
            return "\n\n".join([f"**{escape(block.title)}**", *map(render_block, block.fallback)])
        case Grid():
            return "\n\n".join(map(render_block, block.blocks))
        case Details():
            status = f" ({escape(block.status)})" if block.status else ""
            return "\n\n".join([f"### {escape(block.summary)}{status}", *map(render_block, block.blocks)])
        case Choice():
            parts = []
            for panel in block.panels:
                pairs = zip(block.labels, panel.keys, strict=True)
                parts.append("**" + escape(", ".join(f"{label}: {key}" for label, key in pairs)) + "**")
                parts += map(render_block, panel.blocks)
            return "\n\n".join(parts)
        case _:
            assert_never(block)


def escape(text: str) -> str:
    """`text` on one line, with everything that markdown or HTML could read as markup made harmless."""
    return SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("\\<", "&lt;").replace("\\&", "&amp;")


def code_span(text: str) -> str:
    """`text` as inline code; newlines are shown as ⏎, bars are escaped as tables require."""
    text = str(text).replace("\r", "").replace("\n", "⏎").replace("|", "\\|")
    if not text:
        return ""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * (longest + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fence(text: str) -> str:
    """`text` as a fenced block whose fence is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def _tiles(tiles: tuple[Tile, ...]) -> str:
    rows = []
    for tile in tiles:
        value = _amount(tile.value, tile.unit)
        rows.append((MARKS[tile.tone], tile.label, value, tile.note))
    columns = tuple(Column(label=label) for label in ("", "Verdict", "Value", "Note"))
    return _table(Table(columns=columns, rows=tuple(rows)))


def _key_number(item: KeyNumber) -> str:
    note = f" ({escape(item.note)})" if item.note else ""
    return f"{escape(item.label)}: **{escape(_amount(item.value, item.unit))}**{note}"


def _amount(value: Any, unit: str) -> str:
    return f"{format_number(value, unit)} {format_unit(value, unit)}".strip()


def _table(table: Table) -> str:
    shown = table.rows if table.limit is None else table.rows[: table.limit]
    lines = [f"**{escape(table.title)}**\n"] if table.title else []
    lines.append("| " + " | ".join(escape(column.label) for column in table.columns) + " |")
    right = [column.form in ("number", "bar") for column in table.columns]
    lines.append("|" + "|".join("---:" if side else "---" for side in right) + "|")
    for row in shown:
        cells = (_cell(value, column) for value, column in zip(row, table.columns, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    if len(shown) < len(table.rows):
        lines.append(f"\n{len(table.rows) - len(shown):,} more rows stand in report.json.")
    legend = [f"- **{escape(column.label)}**: {escape(column.help)}" for column in table.columns if column.help]
    if legend:
        lines.append("\n" + "\n".join(legend))
    return "\n".join(lines)


def _cell(value: Any, column: Column) -> str:
    if isinstance(value, Cell):
        return f"{_cell(value.value, column)}<br>{escape(value.sub)}" if value.sub else _cell(value.value, column)
    if column.form == "code":
        return code_span(value) if value is not None else escape(format_number(None))
    if column.form == "status":
        mark = MARKS[column.tones.get(str(value), "none")]
        return f"{mark} {escape(format_number(value_of(value)))}" if mark != "·" else escape(format_number(value))
    interval = format_interval(value)
    return escape(format_number(value, column.unit) + (f" ({interval})" if interval else ""))
