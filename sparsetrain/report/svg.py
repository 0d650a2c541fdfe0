"""Curves and intervals as plain SVG, for pages that cannot run scripts: the same colours and dashes as the page's figures."""

import html
import math
from collections.abc import Iterable, Mapping

from sparsetrain.report.blocks import Intervals, Lines, Row, Tone, format_interval, format_number
from sparsetrain.report.figures import PALETTE, limits

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 62, 160, 34, 46
_NAMES_AT, _LETTER = 42, 6.6
"""Where names of curves begin, right of the picture; about the width of a letter of theirs."""
_PLOT, _ROW = 360, 22
"""Width of a picture of intervals between its labels and values; height of a line of it."""
TONES: Mapping[Tone, str] = {"pass": "#3d9070", "fail": "#c25b66", "warn": "#a3831f", "none": "#7d8791"}
DASHES = ("", "7 4", "2 3", "7 3 2 3", "12 4", "12 3 2 3")


def to_svg(lines: Lines) -> str:
    """`lines` as one SVG document with bands, reference lines and a legend."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    names = max((len(curve.name) for curve in lines.curves), default=0)
    width = max(WIDTH, math.ceil(right + _NAMES_AT + _LETTER * names))  # a long name makes the picture wider
    along_x, along_y = (math.log10 if log else float for log in (lines.log_x, lines.log_y))
    xs = [along_x(x) for curve in lines.curves for x in curve.x]
    x0, x1 = _apart(min(xs, default=0.0), max(xs, default=1.0))
    y0, y1 = _apart(*map(along_y, limits(lines)))
    y0, y1 = y0 - 0.04 * (y1 - y0), y1 + 0.04 * (y1 - y0)

    def across(x: float) -> float:
        return LEFT + (along_x(x) - x0) / (x1 - x0) * (right - LEFT)

    def down(y: float) -> float:
        return bottom - (along_y(y) - y0) / (y1 - y0) * (bottom - TOP)

    def points(pairs: Iterable[tuple[float, float | None]]) -> str:
        return " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in pairs if y is not None)

    def rule(y: float, style: str) -> str:
        return f'<line x1="{LEFT:.1f}" y1="{down(y):.1f}" x2="{right}" y2="{down(y):.1f}" {style}/>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 20, lines.title, size=13),
        _text((LEFT + right) / 2, HEIGHT - 10, lines.x_label, anchor="middle"),
        f'<g transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)">{_text(0, 0, lines.y_label, anchor="middle")}</g>',
    ]
    for tick in _ticks(y0, y1, lines.log_y):
        parts += [rule(tick, 'stroke="#dddddd"'), _text(LEFT - 6, down(tick) + 4, f"{tick:g}", anchor="end")]
    parts += [_text(across(tick), bottom + 16, f"{tick:g}", anchor="middle") for tick in _ticks(x0, x1, lines.log_x)]
    for reference in lines.references:
        label = f"{reference.label} {format_number(reference.value)}"
        parts += [rule(reference.value, 'stroke="#555555" stroke-dasharray="2 3"')]
        parts += [_text(LEFT + 4, down(reference.value) - 4, label)]
    for i, curve in enumerate(lines.curves):
        color, y = PALETTE[i % len(PALETTE)], TOP + 10 + 17 * i
        style = f'stroke="{color}" stroke-width="2" stroke-dasharray="{DASHES[i % len(DASHES)]}"'
        band = (
            [(x, ends) for x, *ends in zip(curve.x, curve.lo, curve.hi, strict=True) if None not in ends]
            if curve.lo
            else []
        )
        if len(band) > 1:
            outline = points([*((x, hi) for x, (_, hi) in band), *((x, lo) for x, (lo, _) in reversed(band))])
            parts.append(f'<polygon points="{outline}" fill="{color}" fill-opacity="0.16"/>')
        known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        if curve.joined:
            parts += [
                f'<polyline points="{points(known)}" fill="none" {style}/>',
                f'<line x1="{right + 10}" y1="{y - 4}" x2="{right + 36}" y2="{y - 4}" {style}/>',
            ]
        else:
            places = [*((across(a), down(b)) for a, b in known), (right + 23.0, y - 4.0)]
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{color}"/>' for a, b in places]
        parts.append(_text(right + _NAMES_AT, y, curve.name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def intervals_svg(shown: Intervals, *, paper: str = "#ffffff", ink: str = "#222222") -> str:
    """`shown` as one SVG: a dot and a line per row, whose value stands at the right; where there is no value, a dash.

    Args:
        shown: what to draw; a logarithmic axis takes values above 0.
        paper: colour of the ground; empty: none.
        ink: colour of words and axis.
    """
    letters = max((len(row.label) for row in shown.rows), default=0)
    left = max(LEFT, 16 + round(_LETTER * letters))
    top = TOP + _ROW * bool(shown.references)  # room for their names
    right, bottom = left + _PLOT, top + _ROW * len(shown.rows)
    said = max((len(_said(row)) for row in shown.rows), default=0)
    width, height = right + max(RIGHT, 16 + round(_LETTER * said)), bottom + BOTTOM
    along = math.log10 if shown.log_x else float
    ends = [end for row in shown.rows for end in (row.value.value, row.value.lo, row.value.hi)]
    known = [along(end) for end in (*ends, *(mark.value for mark in shown.references)) if end is not None]
    x0, x1 = _apart(min(known, default=0.0), max(known, default=1.0))
    x0, x1 = x0 - 0.04 * (x1 - x0), x1 + 0.04 * (x1 - x0)

    def across(x: float) -> float:
        return left + (along(x) - x0) / (x1 - x0) * _PLOT

    def drawn(row: Row, y: float) -> list[str]:
        color = TONES[row.tone]
        value, lo, hi = row.value.value, row.value.lo, row.value.hi
        parts = [_text(left - 8, y + 4, row.label, anchor="end", ink=ink)]
        parts.append(_text(right + 8, y + 4, _said(row), ink=ink))
        if lo is not None and hi is not None:
            parts.append(f'<line x1="{across(lo):.1f}" y1="{y}" x2="{across(hi):.1f}" y2="{y}" stroke="{color}" stroke-width="2.5"/>')  # fmt: skip
        if value is not None:
            parts.append(f'<circle cx="{across(value):.1f}" cy="{y}" r="4.5" fill="{color}"/>')
        return parts

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" font-family="sans-serif" font-size="11" role="img" aria-label="{html.escape(shown.title)}">',
        f'<rect width="{width}" height="{height}" fill="{paper}"/>' if paper else "",
        _text(8, 20, shown.title, size=13, ink=ink),
        _text((left + right) / 2, height - 10, shown.x_label, anchor="middle", ink=ink),
    ]
    for tick in _ticks(x0, x1, shown.log_x):
        parts += [
            f'<line x1="{across(tick):.1f}" y1="{top}" x2="{across(tick):.1f}" y2="{bottom}" stroke="{ink}" stroke-opacity="0.13"/>',
            _text(across(tick), bottom + 16, f"{tick:g}", anchor="middle", ink=ink),
        ]
    for mark in shown.references:
        at = across(mark.value)
        parts.append(
            f'<line x1="{at:.1f}" y1="{top - 6}" x2="{at:.1f}" y2="{bottom}" stroke="{ink}" stroke-width="1.5"/>'
        )
        parts.append(_text(at, top - 10, mark.label, anchor="middle", ink=ink))
    for i, row in enumerate(shown.rows):
        parts += drawn(row, top + _ROW * (i + 0.5))
    return "\n".join(part for part in (*parts, "</svg>") if part) + "\n"


def _said(row: Row) -> str:
    interval = format_interval(row.value)
    return f"{format_number(row.value)} ({interval})" if interval else format_number(row.value)


def _apart(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round values between the ends of an axis, which are logarithms (base 10) where it is a logarithmic one."""
    if log:
        powers = range(math.floor(low), math.ceil(high) + 1)
        return [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= math.log10(m * 10.0**p) <= high]
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11, ink: str = "#222222") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" fill="{ink}">{html.escape(text)}</text>'
