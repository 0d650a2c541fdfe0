"""The page in a real browser, network cut: no request, no complaint, and nothing runs that a run named."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawing import show_all
from report_example import KINDS, changed, circuit, example_report, hostile, random_graph, task, viewer

from sparsetrain.report.render import render

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rendered reports by name."""
    graph = random_graph(500, 5000, n_layer=4, width=300)
    assert (len(graph.nodes), len(graph.edges)) == (500, 5000)
    seen = viewer(graph, ["def", " f", "(", "x", "):", "\\n", "    ", "return", " x"] * 3)
    tasks = (task("large", "circuit", [circuit("large", graph, 1, 0.1, seen)]),)
    large = changed(example_report(), "sections.circuits.tasks", tasks)
    reports = {"plain": example_report(), "hostile": hostile(example_report(gates="off")), "large": large}
    return {name: render(report, KINDS, tmp_path_factory.mktemp(name))["html"] for name, report in reports.items()}


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
    assert watched.page.locator(".tiles .pass").count() == 6
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
    assert page.content().count("window.pwned") > 100
    show_all(page)
    assert page.evaluate("window.pwned") is None
    assert watched.requests == [pages["hostile"].as_uri()]
    assert watched.complaints == []
    foreign = (
        "img, iframe, object, embed, base, form, a:not([href^='#']), main svg script, [onload], [onerror], [ontoggle]"
    )
    assert page.locator(foreign).count() == 0
    assert "Gates are off" in page.locator(".banner").inner_text()
    assert page.locator(".tiles .pass, .tiles .fail").count() == 0


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
    for part in ("importance\n13%", "positive, in all +1.5 −0.75", "negative, in all +0.375 +0.0625"):
        assert part in text.replace("\t", " "), part
    assert "positive, direct" not in text  # a neuron writes no residual channel
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
        ("PageUp", "MLP writes residual channel"),
        ("PageDown", "attention reads"),
    ):
        page.keyboard.press(key)
        assert name in panel.inner_text(), (key, name)
    ring = drawing.locator(".node:focus .ring").evaluate("(ring) => getComputedStyle(ring).strokeWidth")
    assert float(ring.removesuffix("px")) > 2  # focus is seen
    page.keyboard.press("Enter")
    assert drawing.locator(".node[aria-pressed=true]").count() == 1
    node("n460").hover()
    assert "attention reads" in panel.inner_text()  # a kept node stays
    kept = panel.locator("h4").inner_text()
    panel.get_by_role("button").first.click()
    assert panel.locator("h4").inner_text() != kept and drawing.locator(".node[aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    assert drawing.locator(".node[aria-pressed=true], .edge.on").count() == 0
    assert "Point at a node" in panel.inner_text()


def test_tab_enters_the_drawing_and_leaves_it(plain):
    drawing = first_drawing(plain)
    drawing.locator("input[type=range]").focus()
    plain.keyboard.press("Tab")
    assert plain.evaluate("document.activeElement.classList.contains('node')")
    plain.keyboard.press("Tab")
    while plain.evaluate("document.activeElement.closest('.cg-panel') !== null"):
        plain.keyboard.press("Tab")
    assert plain.evaluate("document.activeElement.classList.contains('cg-path')")
    plain.keyboard.press("Enter")
    assert drawing.locator(".cg-path[aria-pressed=true]").count() == 1
    plain.keyboard.press("Escape")
    assert drawing.locator(".cg-path[aria-pressed=true], .node.on").count() == 0


def test_heat_maps_say_their_numbers_without_colour(plain):
    drawing = first_drawing(plain)
    panel = drawing.locator(".cg-panel")
    drawing.locator(".node:has(text:text-is('w1079'))").click()
    assert panel.locator(".cg-heat").count() == 5  # two prompts, three windows of text
    assert "furthest from the mean at" in panel.locator(".cg-heat").first.get_attribute("aria-label")
    cells = panel.locator(".cg-heat span").evaluate_all("""(cells) => cells.map((cell) => {
        const style = getComputedStyle(cell);
        return [cell.dataset.say, style.borderBottomStyle, parseFloat(style.borderBottomWidth), cell.className];
    })""")
    assert len(cells) == 25
    for said, style, width, name in cells:
        away = float(said.split(", ")[-1].split(" ")[0].replace("−", "-"))
        if "still" not in name and away != 0:
            assert style == ("dashed" if away < 0 else "solid"), said
            assert width >= 0.5
    widths = {name.split()[-1]: width for *_, width, name in cells}
    assert max(width for *_, width, _ in cells) == 4  # 4.6 px, drawn in whole pixels
    assert "peak" in widths and len({width for *_, width, _ in cells}) > 2
    panel.locator(".cg-heat span.peak").first.hover()
    said = panel.locator(".cg-say").inner_text()
    assert "from the mean" in said and said in [cell[0] for cell in cells]
    plain.keyboard.press("Escape")


def test_attention_shows_the_sink(plain):
    drawing = first_drawing(plain)
    panel = drawing.locator(".cg-panel")
    drawing.locator(".node:has(text:text-is('k83'))").click()
    matrix = panel.locator(".cg-attention")
    assert matrix.count() == 1
    assert matrix.locator("g[data-say]").count() == sum(range(1, 6)) + 5  # keys of five queries, and the sink
    assert "to the sink" in matrix.get_attribute("aria-label")
    sizes = matrix.locator("g[data-say]").evaluate_all(
        "(all) => all.map((g) => [g.dataset.say, g.children[1].width.baseVal.value ** 2, g.children[0].width.baseVal.value])"
    )
    for said, area, cell in sizes:
        share = float(said.split("gives ")[1].split("%")[0]) / 100
        assert area == pytest.approx(share * (cell - 1) ** 2, rel=0.15)  # what is said is what is drawn
    pressed = panel.locator(".cg-switch [aria-pressed=true]")
    assert pressed.inner_text() == "positive prompt"
    panel.get_by_role("button", name="negative prompt").click()
    assert pressed.inner_text() == "negative prompt"
    matrix.locator("g[data-say]").last.hover()
    assert "to the sink" in panel.locator(".cg-say").inner_text()
    plain.keyboard.press("Escape")


def test_paths_light_up(plain):
    drawing = first_drawing(plain)
    path = drawing.locator(".cg-path").first
    assert path.inner_text().split("\n")[0].startswith("print")
    path.click()
    assert path.get_attribute("aria-pressed") == "true"
    assert drawing.locator(".node.on").count() == 2 and drawing.locator(".cg-canvas .edge.on").count() == 1
    panel = drawing.locator(".cg-panel")
    assert "25%" in panel.inner_text() and "answer" in panel.inner_text()
    drawing.locator(".node").last.hover()
    assert drawing.locator(".node.on").count() == 2  # a path stays while one points elsewhere
    path.click()
    assert drawing.locator(".node.on, [aria-pressed=true].cg-path").count() == 0
    assert "30% begins at no token" in drawing.locator(".cg-paths").inner_text()


def test_filter_says_what_it_hides(plain):
    drawing = first_drawing(plain)
    slider, state = drawing.locator("input[type=range]"), drawing.locator("[role=status]")
    assert state.inner_text() == "all 9 edges and 12 nodes shown"
    slider.fill("2")
    shares = [0.4 / (i + 1) for i in range(9)]
    hidden = 100 * sum(shares[2:]) / sum(shares)
    assert "2 of 9 edges and 3 of 12 nodes shown" in state.inner_text()  # edges 20 -> 985 and 20 -> 460
    assert f"7 edges with {hidden:.0f}% of the edges’ importance" in state.inner_text()
    nodes = [0.5 / (i + 1) for i in range(12)]
    lost = 100 * (sum(nodes) - nodes[0] - nodes[2] - nodes[3]) / sum(nodes)
    assert f"9 nodes with {lost:.0f}% of the nodes’" in state.inner_text()
    assert drawing.locator(".node:visible").count() == 3 and drawing.locator(".cg-canvas .edge:visible").count() == 2
    drawing.locator(".node:has(text:text-is('r20'))").focus()
    plain.keyboard.press("ArrowDown")
    plain.keyboard.press("ArrowDown")
    assert "MLP neuron" in drawing.locator(".cg-panel h4").inner_text()  # the keyboard stays among what is shown
    plain.keyboard.press("Escape")
    slider.fill("9")
    assert drawing.locator(".node:visible").count() == 12


def test_shapes_tell_kinds_apart(plain):
    drawing = first_drawing(plain)
    outlines = drawing.locator(".node").evaluate_all(
        "(all) => all.map((g) => [g.classList[1], g.querySelector('.shape').getAttribute('d'), g.querySelector('text').textContent[0]])"
    )
    shapes = {}
    for kind, outline, letter in outlines:
        part = {"attn_q": "head", "attn_k": "head", "attn_v": "head"}.get(kind, kind.split("_")[1])
        commands = "".join(char for char in outline if char.isalpha())
        wider_above = part == "in"
        shapes.setdefault(part, set()).add((commands, wider_above, letter if part != "head" else ""))
    assert {part: len(found) for part, found in shapes.items()} == dict.fromkeys(("in", "neuron", "out", "head"), 1)
    assert len({next(iter(found)) for found in shapes.values()}) == 4


def test_a_report_without_activity_still_draws(pages, open_page, tmp_path):
    report = changed(example_report(), "sections.circuits.tasks.0.circuits.0.viewer", None)
    watched = open_page(render(report, KINDS, tmp_path)["html"])
    drawing = first_drawing(watched.page)
    drawing.locator(".node").first.hover()
    assert "loss without it" in drawing.locator(".cg-panel").inner_text()
    assert drawing.locator(".cg-paths, .cg-heat").count() == 0
    assert "|weight|" in drawing.locator(".cg-what").inner_text()
    assert watched.complaints == []


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
    measure, shown = choice.locator("select").all()
    assert choice.locator(".panel:visible figcaption").first.inner_text() == "gini minus that of heldout, step 1,500"
    measure.select_option("top5")
    shown.select_option("minus Gaussian")
    assert choice.locator(".panel:visible").count() == 1
    title = "top5 minus its Gaussian value, step 1,500"
    assert choice.locator(".panel:visible figcaption").first.inner_text() == title
    measure.select_option("gini, random basis")  # shown in one way only: the other menu follows
    assert shown.input_value() == "minus heldout"
    measure.select_option("gini")


def test_menus_pick_measure_and_hook_point_of_a_figure(plain):
    figure = plain.locator("#representation [data-pick]")
    figure.scroll_into_view_if_needed()
    figure.locator(".plot svg").first.wait_for()
    measure, point = figure.locator("select").all()
    assert figure.locator("figcaption").first.inner_text().startswith("gini at ")

    def drawn() -> list[float]:
        lines = "(plot) => plot.data.filter((trace) => trace.name).flatMap((trace) => trace.y)"
        return figure.locator(".plot").evaluate(lines)

    before = drawn()
    measure.select_option("top5")
    point.select_option("blocks.2.attn.hook_out")
    assert figure.locator("figcaption").first.inner_text() == "top5 at blocks.2.attn.hook_out"
    assert "strongest 5%" in figure.locator("p.note").first.inner_text()
    assert len(drawn()) == len(before) and drawn() != before
    assert drawn()[0] == pytest.approx(0.28 + 0.02, abs=0.001)
    assert "Gaussian 0.280" in figure.locator(".plot").inner_text()
    measure.select_option("dead")  # only of another hook point: the other menu follows
    assert point.input_value() == "blocks.0.mlp.norm.hook_resid" and set(drawn()) == {None}
    measure.select_option("gini")


def test_the_sparsity_page_reads_without_colour(plain):
    page = plain
    heat = page.locator("#representation figure.heat:visible").first
    assert heat.locator("td").first.inner_text() == "+0.020*"
    assert "* the interval of the difference excludes 0" in heat.inner_text()
    for section in ("representation", "measurement"):
        text = page.locator(f"#{section}").inner_text()
        for title in ("against loss at", "Does gini go with distance, with loss?", "under the controls?"):
            assert title in text, (section, title)


def test_large_circuit_is_drawn_fast_and_says_what_it_hides(pages, open_page):
    watched = open_page(pages["large"])
    drawing = first_drawing(watched.page)
    drawn, plain = drawing.evaluate("""(figure) => {
        const data = JSON.parse(figure.querySelector(":scope > script").textContent);
        const place = figure.querySelector(".stage");
        const least = (draw) => Math.min(...[0, 1, 2].map(() => {
            place.replaceChildren();
            const start = performance.now();
            draw();
            place.getBoundingClientRect();
            return performance.now() - start;
        }));
        const lines = () => {
            const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
            for (let i = 0; i < 5500; i++) {
                const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
                line.setAttribute("d", `M${i % 90} 0 L${i % 70} 90`);
                svg.append(line);
            }
            place.append(svg);
        };
        const plain = least(lines);
        return [least(() => window.sparsetrain.widgets["circuit-graph"](place, data)), plain];
    }""")
    print(f"500 nodes and 5,000 edges: drawn in {drawn:.0f} ms, as many bare lines in {plain:.0f} ms")
    assert drawn < 40 * plain
    assert drawing.locator(".node").count() == 500
    assert drawing.locator(".cg-canvas .edge").count() == 5000
    assert "300 of 5,000 edges" in drawing.locator("[role=status]").inner_text()
    drawing.locator("input[type=range]").fill("5000")
    assert drawing.locator("[role=status]").inner_text() == "all 5,000 edges and 500 nodes shown"
    assert watched.complaints == []
