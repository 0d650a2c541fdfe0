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
    data: list[dict[str, Any]] = []
    for index, curve in enumerate(lines.curves):
        color = PALETTE[index % len(PALETTE)]
        data += _band(curve, color)
        marked = len(curve.x) <= MAX_MARKED
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if marked else "lines",
                "name": html.escape(curve.name, quote=False),
                "legendgroup": str(index),
                "x": list(curve.x),
                "y": list(curve.y),
                "line": {"color": color, "width": 2, "dash": DASHES[index % len(DASHES)]},
                "marker": {"symbol": MARKERS[index % len(MARKERS)], "size": 6},
                "hovertemplate": "%{y:.4g}",
            }
        )
    layout: dict[str, Any] = {
        "height": 340,
        "margin": {"l": 58, "r": 16, "t": 12, "b": 46},
        "hovermode": "x unified",
        "showlegend": len(lines.curves) > 1,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0},
        "xaxis": {
            "title": {"text": html.escape(lines.x_label, quote=False)},
            "type": "log" if lines.log_x else "linear",
            "automargin": True,
        },
        "yaxis": {
            "title": {"text": html.escape(lines.y_label, quote=False)},
            "type": "log" if lines.log_y else "linear",
            "automargin": True,
        },
        "shapes": [],
        "annotations": [],
    }
    if layout["showlegend"]:
        layout["height"] += 40
        layout["margin"]["b"] += 34
    for reference in lines.references:
        layout["shapes"].append(
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": reference.value,
                "y1": reference.value,
                "line": {"dash": "dot", "width": 1.5},
            }
        )
        layout["annotations"].append(
            {
                "xref": "paper",
                "x": 1,
                "xanchor": "right",
                "y": reference.value,
                "yanchor": "bottom",
                "showarrow": False,
                "text": html.escape(f"{reference.label} {format_number(reference.value)}", quote=False),
            }
        )
    if lines.references and not lines.log_y:
        layout["yaxis"]["range"] = _range(lines)
    return {"data": data, "layout": layout}


def _band(curve: Curve, color: str) -> list[dict[str, Any]]:
    """The interval of `curve` as an invisible lower line and an upper one filled down to it."""
    if not curve.lo or not curve.hi:
        return []
    hidden = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    lower = {**hidden, "x": list(curve.x), "y": list(curve.lo)}
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.16)"}
    return [lower, {**hidden, **fill, "x": list(curve.x), "y": list(curve.hi)}]


def _range(lines: Lines) -> list[float]:
    """Limits of y that include curves, bands and reference lines (plotly ignores shapes when it scales by itself)."""
    values = [y for curve in lines.curves for y in (*curve.y, *curve.lo, *curve.hi) if y is not None]
    values += [reference.value for reference in lines.references]
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return [low - margin, high + margin]
