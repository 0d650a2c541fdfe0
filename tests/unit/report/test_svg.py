"""SVG files of curves: well-formed, escaped, points where they should be."""

import xml.etree.ElementTree as ET

import pytest

from sparsetrain.report.blocks import Curve, Lines, Reference
from sparsetrain.report.svg import to_svg

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
