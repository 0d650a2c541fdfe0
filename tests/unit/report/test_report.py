"""The report as data and as markdown: numbers, canonical JSON, schema, views, blocks."""

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from report_example import KINDS, TEMPLATES, changed, example_report, hostile

from circuits.section import CircuitsSection
from scripts.report_schema import report_schema
from sparsetrain.report import (
    Report,
    RunFacts,
    SectionKind,
    StageTime,
    WeightsFacts,
    dumps,
    load_report,
    parse_report,
    save_report,
)
from sparsetrain.report.blocks import (
    Block,
    Cell,
    Column,
    Curve,
    Heatmap,
    Lines,
    Pick,
    Reference,
    Table,
    Text,
    Tile,
    Tone,
    format_interval,
    format_number,
    format_unit,
    sample_lines,
    value_of,
    walk,
)
from sparsetrain.report.document import GATES_OFF, assemble
from sparsetrain.report.figures import figure
from sparsetrain.report.html import pick_figures
from sparsetrain.report.markdown import code_span, escape, fence, render_block, to_markdown
from sparsetrain.report.sparsity_page import sparsity_page
from sparsetrain.representation.section import MeasurementSection, RepresentationSection
from sparsetrain.stats.number import Number, number
from sparsetrain.stats.number import number as measured
from sparsetrain.store import write_atomic
from sparsetrain.typed import from_dict, plain

OURS = {"h1", "h2", "h3", "h4", "p", "ul", "li", "strong", "em", "br", "code", "pre", "blockquote"}
OURS |= {"table", "thead", "tbody", "tr", "th", "td"}
FACTS = RunFacts.now(name="bare", seed=0, command="python train.py", device="cpu")
SCHEMA = report_schema()


def test_number_unpacks_scalars_and_keeps_what_is_given():
    assert plain(number(torch.tensor(2.5), "nats")) == {"value": 2.5, "unit": "nats", "status": "recomputable"}
    full = plain(number(np.float64(1), "s", "measured", n=3, lo=np.float32(0.5), hi=2, seed=0, note="warm"))
    assert full == {
        "value": 1.0,
        "unit": "s",
        "status": "measured",
        "n": 3,
        "lo": 0.5,
        "hi": 2,
        "seed": 0,
        "note": "warm",
    }
    assert type(full["lo"]) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_null_and_says_so(value):
    entry = number(value, "nats", note="held out")
    assert entry.value is None
    assert entry.note == f"held out; not finite ({value})"


def test_number_refuses_what_is_none():
    with pytest.raises(ValueError, match="allowed: 'recomputable', 'measured'"):
        number(1, "s", "guessed")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="words go into the note"):
        number("fast", "s")
    with pytest.raises(ValueError, match="not a number"):
        number([1], "s")


def test_canonical_text_does_not_depend_on_order_or_type():
    one = {"b": (1, 2.0), "a": {"y": np.int64(3), "x": torch.tensor([0.5, math.nan])}}
    other = {"a": {"x": [0.5, None], "y": 3}, "b": [1, 2.0]}
    texts = [dumps(Report(run=FACTS, sections={"made": section})) for section in (one, other)]
    assert texts[0] == texts[1]
    assert json.loads(texts[0])["made"] == other


def test_canonical_replaces_what_no_file_can_hold_and_names_the_place():
    assert plain("a\ud800b").strip("\ufffd").split("\ufffd")[0] == "a"
    plain("a\ud800b").encode()
    with pytest.raises(ValueError, match=r"report\.run\.when\[1\]: set"):
        plain({"run": {"when": [1, {2}]}})
    with pytest.raises(ValueError, match="key 3 is a int"):
        plain({3: 1})


def test_save_and_load(tmp_path):
    report = example_report()
    path = save_report(report, tmp_path / "new" / "report.json")
    assert load_report(path, KINDS) == report
    assert path.read_text() == dumps(load_report(path, KINDS))
    assert [p.name for p in path.parent.iterdir()] == ["report.json"]
    (tmp_path / "old.json").write_text('{"schema_version": 0}')
    with pytest.raises(ValueError, match="schema_version=0"):
        load_report(tmp_path / "old.json", KINDS)


@dataclass(frozen=True, kw_only=True)
class Weighing:
    """A section."""

    weight: Number
    words: tuple[str, ...]
    left: int | None = None


def _show(section: Weighing) -> list[Block]:
    return [Tile(label="Weight", value=section.weight, tone="pass"), Text(text=", ".join(section.words))]


WEIGHING = {"weighing": SectionKind(schema=Weighing, view=_show)}


def test_a_typed_report_comes_back_as_it_was(tmp_path):
    weighing = Weighing(weight=measured(2.5, "g", n=3), words=("a", "b"))
    times = (StageTime(name="weighing", seconds=measured(1.5, "s", "measured")),)
    report = Report(run=FACTS, weights=WeightsFacts(sha256="ab" * 32)).plus(*times, weighing=weighing)
    path = save_report(report, tmp_path / "report.json")
    assert load_report(path, WEIGHING) == report
    assert load_report(path, WEIGHING).section("weighing", Weighing) is not None
    assert "left" not in json.loads(path.read_text())["weighing"], "what is None is absent"
    assert json.loads(path.read_text()).keys() == {"schema_version", "run", "weights", "stages", "weighing"}
    text = to_markdown(assemble(report, WEIGHING))
    assert "| ✓ | Weight | 2.500 g |" in text and "a, b" in text


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 7, "schema_version=7; this version reads 1. Run the report again"),
        (("run",), None, "run is missing"),
        (("run", "gates"), "maybe", "run.gates='maybe': input should be 'on' or 'off'"),
        (("weights", "sha256"), "abc", "weights.sha256='abc'"),
        (("stages", 0, "name"), None, "stages.0.name is missing"),
        (("weighing", "weight"), 5, "weighing.weight"),
        (("weighing", "weight", "status"), "guessed", "weighing.weight.status='guessed'"),
        (("weighing", "rihgt"), 5, "weighing.rihgt"),
        (("weighed",), {}, "no view for report section.s. weighed; views given: weighing"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(tmp_path, path, value, message):
    times = (StageTime(name="weighing", seconds=measured(1.5, "s", "measured")),)
    weighing = Weighing(weight=measured(2.5, "g"), words=())
    data = Report(run=FACTS, weights=WeightsFacts(sha256="ab" * 32)).plus(*times, weighing=weighing).plain()
    at: Any = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    if value is None:
        del at[path[-1]]
    file = tmp_path / "report.json"
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as caught:
        load_report(file, WEIGHING)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = write_atomic(tmp_path / "report.md", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("report", [example_report(), hostile(example_report()), Report(run=FACTS)])
def test_reports_follow_the_schema(report):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(report.plain(), SCHEMA)
    assert parse_report(report.plain(), KINDS) == report


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("run", "gates"), "maybe"),
        (("training", "n_tokens"), 5),
        (("training", "val_loss", "mixed", "status"), "guessed"),
        (("sparsity", "tensors", 0, "densty"), 0.1),
        (("circuits", "tasks", 0, "status"), "great"),
        (("circuits", "tasks", 0, "circuits", 0, "graph", "nodes", 0, "kind"), "resid"),
        (("weights", "sha256"), "abc"),
    ],
)
def test_schema_refuses(path, value):
    report = example_report().plain()
    at: Any = report
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, SCHEMA)
    with pytest.raises(ValueError, match=rf"{'.'.join(map(str, path[:-1]))}"):
        parse_report(report, KINDS)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "", "–"),
        (True, "", "yes"),
        (0, "", "0"),
        (0.0, "", "0.000"),
        (2.4134, "nats", "2.413"),
        (0.112, "nats", "0.112"),
        (0.0413, "nats", "0.0413"),
        (-0.00012, "", "-1.20e-04"),
        (12345, "tokens", "12,345"),
        (11840.3, "tokens/s", "11,840"),
        (123.456, "", "123.5"),
        (0.984, "fraction", "98.4%"),
        (1.0, "fraction", "100%"),
        (0.9996, "fraction", "99.96%"),
        (0.42, "fraction of training tokens", "42%"),
        (0.25, "s", "0.25 s"),
        (9.96, "s", "10.0 s"),
        (192.4, "s", "3 min 12 s"),
        (3600 * 2 + 61, "s", "2 h 1 min"),
        (number(3, "nodes"), "", "3"),
        ("12/100", "", "12/100"),
    ],
)
def test_format_number(value, unit, text):
    assert format_number(value, unit) == text


def test_format_unit_and_interval():
    assert format_unit(2.0, "nats") == "nats"
    assert format_unit(0.4, "fraction of training tokens") == "of training tokens"
    assert format_unit(number(1.0, "s")) == format_unit(None, "nats") == format_unit("3 of 4", "tasks") == ""
    assert format_interval(number(0.5, "fraction", lo=0.4, hi=0.6)) == "40% to 60%"
    assert format_interval(number(0.5, "fraction")) == format_interval(0.5) == ""


def test_sampled_lines_show_recorded_points():
    lines = Lines(
        title="t",
        x_label="step",
        y_label="loss",
        curves=(
            Curve(name="a", x=tuple(range(0, 101, 10)), y=tuple(x / 10 for x in range(0, 101, 10))),
            Curve(name="b", x=(0, 50), y=(None, 7.0)),
        ),
    )
    table = sample_lines(lines, n_points=3)
    assert [column.label for column in table.columns] == ["loss at step", "0", "50", "100"]
    assert table.rows == (("a", 0.0, 5.0, 10.0), ("b", None, 7.0, 7.0))


def test_figure_escapes_names_and_fits_references():
    report = hostile(example_report())
    page = KINDS["representation"].view(report.sections["representation"])
    pick = next(block for block in walk(page) if isinstance(block, Pick))
    drawn = figure(pick.options[pick.shown[0]])
    named = [trace["name"] for trace in drawn["data"] if "name" in trace]
    assert len(named) == 7 and not any("<" in name for name in named)
    low, high = drawn["layout"]["yaxis"]["range"]
    assert low < 0.414 < high
    dashes = {(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in drawn["data"] if "name" in trace}
    assert len(dashes) == 7  # readable without colour


def test_one_page_for_a_training_run_and_for_texts():
    section = from_dict(MeasurementSection, plain(example_report().sections["measurement"]))
    both = [KINDS[name].view(section) for name in ("representation", "measurement")]
    shared = sparsity_page(section)
    # an introduction before it, and of texts what the model does not give behind it
    assert len(shared) >= 7 and both[0][1:] == shared and both[1][2:-1] == shared


def test_the_page_of_a_table_alone():
    section = example_report().plain()["representation"]
    for point in section["points"]:
        for key in ("differences", "controls", "trends"):
            del point[key]
    del section["against_loss"], section["covariates"]
    blocks = list(walk(KINDS["representation"].view(from_dict(RepresentationSection, section))))
    assert any(isinstance(b, Pick) for b in blocks) and any(isinstance(b, Heatmap) for b in blocks)
    assert "against loss" not in str(blocks) and "under the controls" not in str(blocks)
    assert "excludes 0" not in str(blocks), "nothing is marked"
    del section["training"]
    bare = from_dict(RepresentationSection, section)
    assert not any(isinstance(b, Pick) for b in walk(KINDS["representation"].view(bare)))


def test_what_stands_in_a_map_of_differences():
    heatmap = Heatmap(
        title="t", x_labels=("a", "b"), y_labels=("p", "q"), values=((0.0312, -0.002), (None, 0.0)), center=0.0,
        differences=True, marked=((True, False), (False, False)),
    )  # fmt: skip
    assert heatmap.words() == (("+0.0312*", "−0.0020"), ("–", "+0.0000"))
    assert "| p | +0.0312\\* | −0.0020 |" in render_block(heatmap)
    plain = Heatmap(title="t", x_labels=("a",), y_labels=("p",), values=((0.4,),))
    assert plain.words() == (("0.400",),)
    assert Heatmap(title="t", x_labels=(), y_labels=(), values=(), differences=True).words() == ()


def test_a_figure_to_pick_from_differs_in_y_alone():
    def lines(shift: float, reference: float | None = None) -> Lines:
        y = (1.0 + shift, None)
        curve = Curve(name="<a>", x=(0, 1), y=y, lo=y, hi=y)
        references = () if reference is None else (Reference(label="Gaussian", value=reference),)
        return Lines(title=f"t{shift}", x_label="step", y_label="v", curves=(curve,), references=references, note="n")

    options = {("m", "p"): lines(0.0), ("m", "q"): lines(1.0), ("k", "p"): lines(2.0, reference=5.0)}
    pick = Pick(labels=("Measure", "Place"), options=options, shown=(("m", "q"),))
    drawn = pick_figures(pick)
    assert drawn["figure"] == figure(options["m", "q"])
    for option, (keys, of) in zip(drawn["options"], options.items(), strict=True):
        assert tuple(option["keys"]) == keys and option["title"] == of.title
        whole = figure(of)
        assert option["y"] == [trace["y"] for trace in whole["data"]]
        assert drawn["figure"]["layout"] | option["layout"] == whole["layout"]
        for trace, other in zip(drawn["figure"]["data"], whole["data"], strict=True):
            assert {**trace, "y": None} == {**other, "y": None}
    assert drawn["options"][0]["layout"] == {}, "what is shared is not repeated"
    assert "t1.0" in render_block(pick) and "t0.0" not in render_block(pick)
    with pytest.raises(AssertionError, match="same curves"):
        Pick(
            labels=("a",),
            options={("x",): lines(0.0), ("y",): Lines(title="", x_label="", y_label="", curves=())},
            shown=(("x",),),
        )


def test_document_has_a_section_per_view_and_all_verdicts():
    report = example_report()
    document = assemble(report, KINDS)
    assert [section.name for section in document.sections] == [
        *(name for name in KINDS if name in report.sections),
        "run",
    ]
    assert {"training", "data", "sparsity", "representation", "circuits"} <= set(report.sections)
    verdicts = {verdict.label: (verdict.value, verdict.tone) for verdict in document.tiles if verdict.tone != "none"}
    assert value_of(verdicts.pop("Validation loss")[0]) == 3.123
    ratio, tone = verdicts.pop("Circuit size, denser / sparser")
    assert value_of(ratio) == 10.7 and tone == "warn", "two tasks are too few to decide"
    assert verdicts == {
        "Tensors exactly at their density": ("24 of 24", "pass"),
        "Tasks that the model does": ("3 of 5", "pass"),
        "Tasks with a circuit": ("2 of 5", "pass"),
        "Circuits that beat every random one": ("2 of 2", "pass"),
        "Circuits that nonsense does not have": ("2 of 2", "pass"),
    }
    assert not document.banners


def test_failures_are_shown_as_failures():
    report = example_report()
    for path, value in (
        ("training.val_loss.mixed", measured(3.5, "nats/token")),
        ("sparsity.tensors.3.exact", False),
        ("circuits.tasks.0.circuits.0.random.n_beaten", measured(99, "circuits")),
        ("circuits.tasks.0.nonsense_twin.n_edges", measured(4, "edges")),
        ("circuits.tasks.0.status", "like_nonsense"),
    ):
        report = changed(report, f"sections.{path}", value)
    judged = [verdict for verdict in assemble(report, KINDS).tiles if verdict.tone != "none"]
    tones = {verdict.label: verdict.tone for verdict in judged}
    assert tones == {
        "Validation loss": "fail",
        "Tensors exactly at their density": "fail",
        "Tasks that the model does": "pass",
        "Tasks with a circuit": "pass",
        "Circuits that beat every random one": "fail",
        "Circuits that nonsense does not have": "fail",
        "Circuit size, denser / sparser": "warn",
    }


def test_without_gates_nothing_is_judged():
    document = assemble(example_report(gates="off"), KINDS)
    assert document.banners == (GATES_OFF,)
    assert all(v.tone == "none" and v.note.startswith("not judged") for v in document.tiles)
    assert "Gates are off" in to_markdown(document)


def test_a_section_nobody_shows_is_an_error():
    added = ("arms", "circuits", "formation")
    with pytest.raises(ValueError, match=r"no view for report section.s. arms, circuits, formation"):
        assemble(example_report(), {name: view for name, view in KINDS.items() if name not in added})


def test_bare_reports_render():
    assert "# bare" in to_markdown(assemble(Report(run=FACTS), KINDS))
    report = example_report()
    report = changed(report, "sections.sparsity.tensors", ())
    for part in ("splits", "points"):
        report = changed(report, f"sections.representation.{part}", ())
    tasks = report.section("circuits", CircuitsSection).tasks
    bare = [replace(task, nonsense_twin=None, seeds=None, seconds=None) for task in tasks]
    bare[0] = replace(bare[0], circuits=(replace(bare[0].circuits[0], viewer=None),))
    report = changed(report, "sections.circuits.tasks", tuple(bare))
    text = to_markdown(assemble(report, KINDS))
    assert "No tensor of this model is sparse" in text and "Nothing was measured" in text
    assert "bracket\\_counting" in text


def test_markdown_tables_are_whole():
    text = to_markdown(assemble(hostile(example_report()), KINDS))
    cells = None
    for line in re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S).split("\n"):
        if not line.startswith("|"):
            cells = None
            continue
        n = len(re.findall(r"(?<!\\)\|", line))
        assert cells in (None, n), line
        cells = n


def test_hostile_names_are_text_in_markdown():
    text = to_markdown(assemble(hostile(example_report()), KINDS))
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    tags = {tag.lower() for tag in re.findall(r"<\s*/?([a-zA-Z][a-zA-Z0-9]*)", page)}
    assert tags <= OURS, tags
    assert escape(TEMPLATES[0].format(0)) in text


@pytest.mark.parametrize("text", ["`", "``a`", " x", "|", "a\nb", "```", "plain"])
def test_code_survives_markdown(text):
    html = MarkdownIt("commonmark").render(code_span(text).replace("\\|", "|"))
    shown = re.fullmatch(r"<p><code>(.*)</code></p>\n", html, re.S)
    assert shown and shown[1].replace("⏎", "\n") == text
    block = MarkdownIt("commonmark").render(fence(text))
    assert block == f'<pre><code class="language-text">{text}\n</code></pre>\n'


def test_long_tables_say_what_they_hide():
    table = Table(
        columns=(Column(label="n", form="number", help="a count"),), rows=tuple((i,) for i in range(9)), limit=4
    )
    text = render_block(table)
    assert text.count("\n| ") == 4 and "5 more rows stand in report.json" in text and "**n**: a count" in text


def test_cells_and_status_in_markdown():
    tones: dict[str, Tone] = {"ok": "pass"}
    columns = (
        Column(label="task"),
        Column(label="status", form="status", tones=tones),
        Column(label="x", form="number"),
    )  # pyright: ignore[reportArgumentType]
    row = (Cell(value="a_b", sub="why"), "ok", number(0.5, "nats", lo=0.4, hi=0.6))
    assert "| a\\_b<br>why | ✓ ok | 0.500 (0.400 to 0.600) |" in render_block(Table(columns=columns, rows=(row,)))
    assert "✗" in render_block(Tile(label="l", value=1, tone="fail"))
