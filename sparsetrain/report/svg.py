"""Curves as a plain SVG file, for pages that cannot run scripts: the same colours and dashes as the page's figures."""

import html
import math

from sparsetrain.report.blocks import Curve, Lines, format_number
from sparsetrain.report.figures import PALETTE

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 62, 160, 34, 46
DASHES = ("", "7 4", "2 3", "7 3 2 3", "12 4", "12 3 2 3")


def to_svg(lines: Lines) -> str:
    """`lines` as one SVG document with linear axes, bands, reference lines and a legend."""
    xs = [x for curve in lines.curves for x in curve.x]
    ys = [y for curve in lines.curves for y in (*curve.y, *curve.lo, *curve.hi) if y is not None]
    ys += [reference.value for reference in lines.references]
    (x0, x1), (y0, y1) = _limits(xs), _limits(ys)
    y0, y1 = y0 - 0.04 * (y1 - y0), y1 + 0.04 * (y1 - y0)

    def at(x: float, y: float) -> str:
        px = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        py = HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return f"{px:.1f},{py:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 20, lines.title, size=13),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, lines.x_label, anchor="middle"),
        f'<g transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)">{_text(0, 0, lines.y_label, anchor="middle")}</g>',
    ]
    for tick in _ticks(y0, y1):
        x, y = at(x0, tick).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#dddddd"/>')
        parts.append(_text(LEFT - 6, float(y) + 4, f"{tick:g}", anchor="end"))
    for tick in _ticks(x0, x1):
        x, _ = at(tick, y0).split(",")
        parts.append(_text(float(x), HEIGHT - BOTTOM + 16, f"{tick:g}", anchor="middle"))
    for reference in lines.references:
        x, y = at(x0, reference.value).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#555555" stroke-dasharray="2 3"/>')
        label = f"{reference.label} {format_number(reference.value)}"
        parts.append(_text(LEFT + 4, float(y) - 4, label))
    for i, curve in enumerate(lines.curves):
        color, dash = PALETTE[i % len(PALETTE)], DASHES[i % len(DASHES)]
        parts += _band(curve, color, at)
        known = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        points = " ".join(at(x, y) for x, y in known)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        y = TOP + 10 + 17 * i
        line = f'x1="{WIDTH - RIGHT + 10}" y1="{y - 4}" x2="{WIDTH - RIGHT + 36}" y2="{y - 4}"'
        parts.append(f'<line {line} stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>')
        parts.append(_text(WIDTH - RIGHT + 42, y, curve.name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _band(curve: Curve, color: str, at: "object") -> list[str]:
    assert callable(at)
    if not curve.lo:
        return []
    points = zip(curve.x, curve.lo, curve.hi, strict=True)
    rows = [(x, lo, hi) for x, lo, hi in points if lo is not None and hi is not None]
    if len(rows) < 2:
        return []
    outline = [at(x, hi) for x, _, hi in rows] + [at(x, lo) for x, lo, _ in reversed(rows)]
    return [f'<polygon points="{" ".join(map(str, outline))}" fill="{color}" fill-opacity="0.16"/>']


def _limits(values: list[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" fill="#222222">{html.escape(text)}</text>'
