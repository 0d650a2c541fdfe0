"""The page in a real browser, network cut: no request, no complaint, and nothing runs that a run named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_example import PAYLOADS, circuit, example_report, random_graph, task

import circuits.sections
from sparsetrain.report.render import render
from sparsetrain.report.sections import VIEWS as OWN_VIEWS

pytestmark = pytest.mark.browser
VIEWS = OWN_VIEWS | circuits.sections.VIEWS


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rendered reports by name."""
    large = example_report()
    graph = random_graph(500, 5000, n_layer=4, width=300)
    assert (len(graph["nodes"]), len(graph["edges"])) == (500, 5000)
    large["circuits"]["tasks"] = [task("large", "circuit", [circuit("large", graph, 1, 0.1)], "")]
    reports = {"plain": example_report(), "hostile": example_report(hostile=True, gates="off"), "large": large}
    return {name: render(report, VIEWS, tmp_path_factory.mktemp(name))["html"] for name, report in reports.items()}


def show_all(page: Any) -> None:
    """Opens every card, picks every option of every menu and scrolls over the whole page, so that all is drawn."""
    page.evaluate("""async () => {
        const frame = () => new Promise((then) => requestAnimationFrame(() => setTimeout(then)));
        document.documentElement.style.scrollBehavior = "auto";
        document.querySelectorAll("details").forEach((details) => { details.open = true; });
        for (const menu of document.querySelectorAll("select")) {
            for (let i = 0; i < menu.options.length; i++) {
                menu.selectedIndex = i;
                menu.dispatchEvent(new Event("change"));
            }
        }
        for (let y = 0; y < document.body.scrollHeight; y += 1200) {
            window.scrollTo(0, y);
            await frame();
        }
        for (const node of document.querySelectorAll(".node")) {
            node.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        }
    }""")
    page.wait_for_function(
        "[...document.querySelectorAll('[data-lines]')].every((f) => f.offsetParent === null || f.querySelector('svg'))"
    )


def first_drawing(page: Any) -> Any:
    """The first circuit of the page, drawn."""
    drawing = page.locator("[data-widget]:visible").first
    drawing.scroll_into_view_if_needed()
    drawing.locator("svg[role=group]").wait_for()
    return drawing


@pytest.fixture(scope="module")
def plain(pages: dict[str, Path], browser: Any) -> Iterator[Any]:
    """One page for the tests that only look and point."""
    context = browser.new_context(offline=True, viewport={"width": 1240, "height": 900})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(pages["plain"].as_uri())
    yield page
    context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1240), ("dark", 390)])
def test_page_is_quiet_and_complete(pages, open_page, scheme, width):
    watched = open_page(pages["plain"], width=width, scheme=scheme)
    show_all(watched.page)
    assert watched.requests == [pages["plain"].as_uri()]
    assert watched.complaints == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width  # nothing sticks out
    assert watched.page.locator(".verdicts .pass").count() == 5
    assert watched.page.locator(".banner").count() == 0
    plots = watched.page.locator("[data-lines]:visible")
    assert plots.count() >= 5
    for plot in plots.all():
        assert plot.locator(".plot svg").count() > 0
    ink, paper = (
        watched.page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor")
    )
    assert (sum(map(int, paper[4:-1].split(","))) < sum(map(int, ink[4:-1].split(",")))) == (scheme == "dark")


def test_hostile_names_run_nothing(pages, open_page):
    watched = open_page(pages["hostile"])
    page = watched.page
    assert len(PAYLOADS) == 50
    show_all(page)
    assert page.evaluate("window.pwned") is None
    assert watched.requests == [pages["hostile"].as_uri()]
    assert watched.complaints == []
    foreign = (
        "img, iframe, object, embed, base, form, a:not([href^='#']), main svg script, [onload], [onerror], [ontoggle]"
    )
    assert page.locator(foreign).count() == 0
    assert "Gates are off" in page.locator(".banner").inner_text()
    assert page.locator(".verdicts .pass, .verdicts .fail").count() == 0


def test_mouse_and_keyboard_tell_about_a_node(plain):
    page, drawing = plain, first_drawing(plain)
    panel = drawing.locator(".cg-panel")
    assert "Point at a node" in panel.inner_text()

    def node(label: str) -> Any:
        return drawing.locator(f".node:has(text:text-is('{label}'))")

    node("n460").hover()
    text = panel.inner_text()
    assert "MLP neuron 460" in text and "blocks.0.mlp.hook_neuron:460" in text
    for part in ("0.08", "+0.61", "r44", "+1.27", "r20", "+0.12", "w863", "−1.44"):
        assert part in text, part
    assert drawing.locator(".edge.on").count() == 3
    page.mouse.move(5, 5)
    assert "Point at a node" in panel.inner_text()

    node("r20").focus()
    assert "reads residual channel 20" in panel.inner_text()
    assert '("' in panel.inner_text()
    for key, name in (
        ("ArrowDown", "MLP neuron 985"),
        ("ArrowDown", "MLP writes residual channel 1249"),
        ("ArrowDown", "attention reads residual channel 1249"),
        ("ArrowDown", "channel 83"),
        ("End", "value channel 82 (head 5)"),
        ("Home", "query channel 83 (head 5)"),
        ("ArrowRight", "key channel 83 (head 5)"),
        ("ArrowUp", "attention reads"),
    ):
        page.keyboard.press(key)
        assert name in panel.inner_text(), (key, name)
    page.keyboard.press("Enter")
    assert drawing.locator(".node[aria-pressed=true]").count() == 1
    node("n460").hover()
    assert "attention reads" in panel.inner_text()  # a kept node stays
    page.keyboard.press("Escape")
    assert drawing.locator(".node[aria-pressed=true]").count() == 0
    panel.get_by_role("button").first.click()
    assert "attention reads" not in panel.locator("h4").inner_text()


def test_one_tab_stop_per_drawing_and_names_for_readers(plain):
    drawing = first_drawing(plain)
    assert drawing.locator(".node[tabindex='0']").count() == 1
    assert drawing.locator(".node:not([aria-label])").count() == 0
    assert "12 nodes and 9 edges" in drawing.locator("svg[role=group]").get_attribute("aria-label")
    weights = drawing.locator(".weight").all_text_contents()
    assert sorted(weights) == sorted(["+0.83", "+0.12", "+1.27", "+0.91", "−1.44", "+1.62", "+1.18", "−0.08", "−2.31"])
    dashed = drawing.locator(".cg-canvas .edge.neg").first.evaluate("(path) => getComputedStyle(path).strokeDasharray")
    assert dashed != "none"  # sign without colour


def test_menus_switch_panels(plain):
    choice = plain.locator("[data-choice]").first
    measure, point = choice.locator("select").all()
    assert choice.locator(".panel:visible figcaption").first.inner_text() == "gini at blocks.0.mlp.norm.hook_resid"
    measure.select_option("top5")
    point.select_option("final_norm.hook_norm")
    assert choice.locator(".panel:visible").count() == 1
    assert choice.locator(".panel:visible figcaption").first.inner_text() == "top5 at final_norm.hook_norm"


def test_large_circuit_opens_fast_and_says_what_it_hides(pages, open_page):
    watched = open_page(pages["large"])
    drawing = first_drawing(watched.page)
    milliseconds = drawing.evaluate("""(figure) => {
        const data = JSON.parse(figure.querySelector(":scope > script").textContent);
        const place = figure.querySelector(".stage");
        const once = () => {
            place.replaceChildren();
            const start = performance.now();
            window.sparsetrain.widgets["circuit-graph"](place, data);
            place.getBoundingClientRect();
            return performance.now() - start;
        };
        return Math.min(once(), once());
    }""")
    assert milliseconds < 2000
    assert drawing.locator(".node").count() == 500
    assert drawing.locator(".cg-canvas .edge").count() == 5000
    assert "300 of 5,000 edges shown" in drawing.locator("[role=status]").inner_text()
    drawing.locator("input[type=range]").fill("5000")
    assert drawing.locator("[role=status]").inner_text() == "all 5,000 edges shown"
    assert watched.complaints == []
