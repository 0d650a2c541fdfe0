"""The page as text: one file, no address in it, a policy that names its scripts, data that cannot end them."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_example import KINDS, example_report, hostile

from sparsetrain.report.blocks import Heatmap, Reference, Strip
from sparsetrain.report.document import assemble
from sparsetrain.report.html import heat, inline_json, strip_dots, strip_range, to_html
from sparsetrain.report.render import render

ALLOWED = """html head meta link title style body main header p span h1 h2 h3 h4 ul li small nav a section dl dt dd div
figure figcaption table thead tbody tr th td details summary script code pre i b strong label select option svg line circle text"""


class Page(HTMLParser):
    """Tags, attributes and scripts of a page, as a browser would split them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "hostile"])
def page(request) -> Page:
    report = example_report()
    return Page(to_html(assemble(hostile(report) if request.param else report, KINDS)))


def test_only_our_tags_and_no_handlers(page):
    assert {tag for tag, _ in page.tags} <= set(ALLOWED.split())
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "srcdoc", "action", "formaction")]


def test_no_address_but_anchors(page):
    targets = [attributes["href"] for tag, attributes in page.tags if "href" in attributes]
    assert targets and all(target.startswith("#") or target == "data:," for target in targets if target)


def test_policy_names_every_script(page):
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0] and "unsafe-eval" not in policy
    run = [text for kind, text in page.scripts if kind in (None, "text/plain")]
    assert len(run) == 3  # report.js, graph.js, plotly
    for text in run:
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy


def test_inline_data_are_json(page):
    data = [text for kind, text in page.scripts if kind == "application/json"]
    assert len(data) > 10
    for text in data:
        json.loads(text)
        assert not re.search("[<>&\u2028\u2029]", text)


def test_inline_json_round_trips():
    value = {"<&>": "</script>\u2028\u2029"}
    assert json.loads(inline_json(value)) == value


def test_render_writes_both_files(tmp_path):
    report = example_report()
    paths = render(report, KINDS, tmp_path / "run")
    assert paths == {"md": tmp_path / "run" / "report.md", "html": tmp_path / "run" / "report.html"}
    again = render(report, KINDS, tmp_path / "again")
    assert paths["html"].read_bytes() == again["html"].read_bytes()
    assert paths["html"].stat().st_size < 8e6


def test_without_curves_plotly_stays_out():
    report = example_report()
    report = replace(report, sections={"sparsity": report.sections["sparsity"]})
    assert len(to_html(assemble(report, KINDS))) < 1e5


def test_strip_and_heat():
    marks = (Reference(label="m", value=0.5),)
    strip = Strip(title="t", unit="nats", values=(1.0, 1.0, 0.2), values_label="x", marks=marks)
    low, high = strip_range(strip)
    assert low == 0 and high == pytest.approx(1.04)
    assert strip_dots(strip) == [(19, 0), (96, 0), (96, 1)]
    heatmap = Heatmap(title="t", x_labels=("a", "b"), y_labels=("c",), values=((0.3, 0.8),), center=0.4)
    assert heat(heatmap, 0.8) == 1 and heat(heatmap, 0.3) == pytest.approx(-0.25) and heat(heatmap, None) == 0
