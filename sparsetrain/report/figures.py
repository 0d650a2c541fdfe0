"""Plotly figures as plain dicts, from which the page and W&B both draw: one description, two surfaces.

Colours are of middle lightness so that they read on light and dark paper; each curve has its own dash and marker, so
that none depends on its colour. Names are escaped, since plotly reads labels as a kind of HTML.
"""

import html
from typing import Any

from sparsetrain.report.blocks import Curve, Lines, format_number

PALETTE = ("#3f7cb8", "#c8683a", "#3d9070", "#a8618f", "#a3831f", "#6f6bc2", "#7d8791", "#c25b66")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "triangle-down", "star")
MAX_MARKED = 60  # points; longer curves are drawn without markers


def figure(lines: Lines) -> dict[str, Any]:
    """`lines` as a plotly figure `{"data": [...], "layout": {...}}`."""
    with_legend = len(lines.curves) > 1
    y_axis = _axis(lines.y_label, lines.log_y)
    if lines.references and not lines.log_y:
        y_axis["range"] = _range(lines)
    layout = {
        "height": 380 if with_legend else 340,
        "margin": {"l": 58, "r": 16, "t": 12, "b": 80 if with_legend else 46},
        "hovermode": "x unified",
        "showlegend": with_legend,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "xaxis": _axis(lines.x_label, lines.log_x),
        "yaxis": y_axis,
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": at,
                "y1": at,
                "line": {"dash": "dot", "width": 1.5},
            }
            for at in (reference.value for reference in lines.references)
        ],
        "annotations": [
            {"xref": "paper", "x": 1, "xanchor": "right", "y": reference.value, "yanchor": "bottom", "showarrow": False}
            | {"text": _text(f"{reference.label} {format_number(reference.value)}")}
            for reference in lines.references
        ],
    }
    return {"data": [trace for i, curve in enumerate(lines.curves) for trace in _traces(i, curve)], "layout": layout}


def limits(lines: Lines) -> tuple[float, float]:
    """Smallest and largest y of curves, bands and reference lines; 0 and 1 where there is none."""
    values = [y for curve in lines.curves for y in (*curve.y, *curve.lo, *curve.hi) if y is not None]
    values += [reference.value for reference in lines.references]
    return min(values, default=0.0), max(values, default=1.0)


def _traces(index: int, curve: Curve) -> list[dict[str, Any]]:
    """A curve, below it its interval: an invisible lower line and an upper one filled down to it."""
    color = PALETTE[index % len(PALETTE)]
    trace = {
        "type": "scatter",
        "mode": "markers" if not curve.joined else "lines+markers" if len(curve.x) <= MAX_MARKED else "lines",
        "name": _text(curve.name),
        "legendgroup": str(index),
        "x": list(curve.x),
        "y": list(curve.y),
        "line": {"color": color, "width": 2, "dash": DASHES[index % len(DASHES)]},
        "marker": {"symbol": MARKERS[index % len(MARKERS)], "size": 6},
        "hovertemplate": "%{y:.4g}",
    }
    if not curve.lo or not curve.hi:
        return [trace]
    hidden = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    lower = {**hidden, "x": list(curve.x), "y": list(curve.lo)}
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.16)"}
    return [lower, {**hidden, **fill, "x": list(curve.x), "y": list(curve.hi)}, trace]


def _axis(label: str, log: bool) -> dict[str, Any]:
    return {"title": {"text": _text(label)}, "type": "log" if log else "linear", "automargin": True}


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _range(lines: Lines) -> list[float]:
    """Limits of y with a margin; plotly ignores shapes when it scales by itself."""
    low, high = limits(lines)
    margin = 0.06 * (high - low) or 0.5
    return [low - margin, high + margin]
