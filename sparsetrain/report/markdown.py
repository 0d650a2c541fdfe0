"""The document as GitHub-flavoured markdown: the same numbers as the page, as tables.

Text from a run (task names, tokens, file names) is escaped so that it is shown and never read as markup.
"""

import re
from typing import assert_never

from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Choice,
    Code,
    Column,
    Details,
    Grid,
    Heading,
    Heatmap,
    Intervals,
    KeyNumber,
    KeyNumbers,
    Lines,
    Panel,
    Pick,
    Pictures,
    Strip,
    Table,
    Text,
    Tile,
    Value,
    Widget,
    format_interval,
    format_number,
    format_unit,
    inside,
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
        case Intervals():
            return _table(block.table()) + (f"\n\n*{escape(block.note)}*" if block.note else "")
        case Lines() | Heatmap():
            table = sample_lines(block) if isinstance(block, Lines) else block.table(block.words())
            return _table(table) + (f"\n\n*{escape(block.note)}*" if block.note else "")
        case Strip():
            low, high = (format_number(end(block.values, default=None)) for end in (min, max))
            marks = "; ".join(f"{mark.label} {format_number(mark.value)}" for mark in block.marks)
            text = f"{block.title}: {marks}; {len(block.values)} {block.values_label} from {low} to {high} {block.unit}"
            return escape(text)
        case Pictures():
            title = f"**{escape(block.title)}**\n\n" if block.title else ""
            shown = (
                f"- {escape(item.label)}: {escape(item.alt)}" + (f" ({code_span(item.file)})" if item.file else "")
                for item in block.items
            )
            return title + "\n".join(shown) + (f"\n\n*{escape(block.note)}*" if block.note else "")
        case Widget() | Grid() | Pick() | Details() | Choice():
            groups = inside(block)
            parts = (text for panel in groups for text in (_name(block, panel), *map(render_block, panel.blocks)))
            return "\n\n".join(text for text in parts if text)
        case _:
            assert_never(block)


def _name(block: Widget | Grid | Pick | Details | Choice, panel: Panel) -> str:
    """What stands above one group of the blocks inside a block."""
    match block:
        case Widget():
            return f"**{escape(block.title)}**"
        case Details():
            return f"### {escape(block.summary)}" + (f" ({escape(block.status)})" if block.status else "")
        case Choice():
            pairs = zip(block.labels, panel.keys, strict=True)
            return "**" + escape(", ".join(f"{label}: {key}" for label, key in pairs)) + "**"
        case _:
            return ""


def escape(text: str) -> str:
    """`text` on one line, with everything that markdown or HTML could read as markup made harmless."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\&", "&amp;")


def code_span(text: str) -> str:
    """`text` as inline code; newlines are shown as ⏎, bars are escaped as tables require."""
    text = text.replace("\r", "").replace("\n", "⏎").replace("|", "\\|")
    if not text:
        return ""
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fence(text: str) -> str:
    """`text` as a fenced block whose fence is longer than any in the text."""
    ticks = "`" * max(3, _longest_ticks(text) + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _tiles(tiles: tuple[Tile, ...]) -> str:
    rows = tuple((MARKS[tile.tone], tile.label, _amount(tile.value, tile.unit), tile.note) for tile in tiles)
    columns = tuple(Column(label=label) for label in ("", "Verdict", "Value", "Note"))
    return _table(Table(columns=columns, rows=rows))


def _key_number(item: KeyNumber) -> str:
    note = f" ({escape(item.note)})" if item.note else ""
    return f"{escape(item.label)}: **{escape(_amount(item.value, item.unit))}**{note}"


def _amount(value: Value, unit: str) -> str:
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


def _cell(value: Value | Cell, column: Column) -> str:
    if isinstance(value, Cell):
        return _cell(value.value, column) + (f"<br>{escape(value.sub)}" if value.sub else "")
    if column.form == "code":
        return MISSING if value is None else code_span(str(value))
    text = format_number(value, column.unit)
    if column.form == "status":
        tone = column.tones.get(str(value), "none")
        return escape(text) if tone == "none" else f"{MARKS[tone]} {escape(text)}"
    interval = format_interval(value)
    return escape(f"{text} ({interval})" if interval else text)


def between(begin: str, end: str, page: str) -> str:
    """What stands between the lines `begin` and `end` of the page of `page=`.

    Raises:
        ValueError: the page does not hold both lines.
    """
    return _cut(begin, end, page)[1].strip()


def replaced_between(begin: str, end: str, made: str, page: str) -> str:
    """The page of `page=` with `made` between the lines `begin` and `end`, in place of what stood there.

    Raises:
        ValueError: the page does not hold both lines.
    """
    before, _, after = _cut(begin, end, page)
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def _cut(begin: str, end: str, page: str) -> tuple[str, str, str]:
    before, first, rest = page.partition(begin)
    inside, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"page= must hold the lines {begin!r} and {end!r}; what is made goes between them")
    return before, inside, after
