"""SVG files of curves: well-formed, escaped, points where they should be."""

import xml.etree.ElementTree as ET

import pytest

from sparsetrain.report.blocks import Curve, Intervals, Lines, Reference, Row
from sparsetrain.report.markdown import render_block
from sparsetrain.report.svg import TONES, intervals_svg, to_svg
from sparsetrain.stats.number import Number, number

NAME = "{http://www.w3.org/2000/svg}"


def test_curves_bands_and_names():
    lines = Lines(
        title="A <b> & c",
        x_label="step",
        y_label="gini",
        curves=(
            Curve(name="one", x=(0.0, 5.0, 10.0), y=(0.0, 0.5, 1.0), lo=(0.0, 0.4, 0.9), hi=(0.1, 0.6, 1.0)),
            Curve(name="<script>", x=(0.0, 10.0), y=(1.0, None)),
        ),
        references=(Reference(label="Gaussian", value=0.414),),
    )
    root = ET.fromstring(to_svg(lines))
    first = root.findall(f"{NAME}polyline")[0].attrib["points"].split()
    x, y = zip(*([float(v) for v in point.split(",")] for point in first), strict=True)
    assert x[1] - x[0] == x[2] - x[1] and y[0] > y[1] > y[2]
    assert len(root.findall(f"{NAME}polygon")) == 1
    texts = [t.text for t in root.iter(f"{NAME}text")]
    assert {"A <b> & c", "one", "<script>", "Gaussian 0.414"} <= set(texts)


def test_one_point_still_draws():
    ET.fromstring(to_svg(Lines(title="t", x_label="x", y_label="y", curves=(Curve(name="a", x=(1.0,), y=(2.0,)),))))


def test_logarithmic_axes_and_points_that_no_line_joins():
    curve = Curve(name="trials", x=(1.0, 10.0, 100.0), y=(1.0, 10.0, 100.0), joined=False)
    root = ET.fromstring(to_svg(Lines(title="t", x_label="x", y_label="y", curves=(curve,), log_x=True, log_y=True)))
    *points, legend = root.findall(f"{NAME}circle")
    x, y = ([float(point.attrib[key]) for point in points] for key in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1]) and y[0] - y[1] == pytest.approx(y[1] - y[2])
    assert x[0] < x[1] and y[0] > y[1] and float(legend.attrib["cx"]) > x[2]
    assert not root.findall(f"{NAME}polyline")
    assert {"1", "2", "5", "10", "20", "50", "100"} <= {t.text for t in root.iter(f"{NAME}text")}


def estimate(value: float | None, lo: float | None = None, hi: float | None = None) -> Number:
    return number(value, "factor", "measured", n=3, lo=lo, hi=hi)


def test_intervals_are_dots_and_lines_in_their_place():
    rows = (
        Row(label="a <b>", value=estimate(2.0, 1.0, 4.0), tone="pass"),
        Row(label="alone", value=estimate(1.0)),
        Row(label="none", value=estimate(None)),
    )
    shown = Intervals(title="t", x_label="x", rows=rows, references=(Reference(label="equal", value=1.0),), log_x=True)
    root = ET.fromstring(intervals_svg(shown))
    circles, words = root.findall(f"{NAME}circle"), [text.text for text in root.findall(f"{NAME}text")]
    assert [circle.get("fill") for circle in circles] == [TONES["pass"], TONES["none"]]
    (line,) = [line for line in root.findall(f"{NAME}line") if line.get("stroke") == TONES["pass"]]
    low, at, high = (float(x or 0) for x in (line.get("x1"), circles[0].get("cx"), line.get("x2")))
    assert at - low == pytest.approx(high - at, abs=0.2), "a logarithmic axis: 2 lies in the middle of 1 and 4"
    assert float(circles[1].get("cx") or 0) == pytest.approx(low, abs=0.1)
    assert {"a <b>", "alone", "none", "–", "equal"} <= set(words) and "2.000 (1.000 to 4.000)" in words
    assert (
        root.find(f"{NAME}rect") is not None
        and ET.fromstring(intervals_svg(shown, paper="")).find(f"{NAME}rect") is None
    )


def test_markdown_holds_what_the_picture_shows():
    shown = Intervals(title="t", x_label="ratio", rows=(Row(label="a|b", value=estimate(2.0, 1.5, 3.0)),), note="n")
    assert (
        "a\\|b" in render_block(shown)
        and "2.000 (1.500 to 3.000)" in render_block(shown)
        and "*n*" in render_block(shown)
    )
