"""A report is on disk after every stage, says what it misses and why, and is never worse than what lay there before."""

import json
from pathlib import Path

import pytest
from report_example import KINDS, example_report

from sparsetrain.report import Missing, Report, WeightsFacts, dumps, load_report, save_report, stages
from sparsetrain.report.document import assemble
from sparsetrain.report.markdown import to_markdown
from sparsetrain.report.stages import NOT_REACHED, Stages

WHOLE = example_report()
TRAINED = ("training", "data", "sparsity")


def first() -> Report:
    """What a run has to say when its model is exported."""
    sections = {name: WHOLE.sections[name] for name in TRAINED}
    return Report(run=WHOLE.run, weights=WHOLE.weights, sections=sections)


def begun(folder: Path, *to_come: str) -> Stages:
    made = Stages(folder, KINDS, to_come)
    with made("training"):
        assert not list(folder.iterdir()), "nothing is known yet"
    made.begin(first())
    return made


def on_disk(folder: Path) -> Report:
    return load_report(folder / "report.json", KINDS)


def missing(folder: Path) -> dict[str, str]:
    return {entry.stage: entry.reason for entry in on_disk(folder).missing}


def test_a_report_grows_stage_by_stage(tmp_path):
    run = begun(tmp_path, "representation", "circuits")
    assert set(on_disk(tmp_path).sections) == set(TRAINED)
    assert missing(tmp_path) == {"representation": NOT_REACHED, "circuits": NOT_REACHED}
    for name in ("representation", "circuits"):
        with run(name):
            run.add(**{name: WHOLE.sections[name]})
        assert name in on_disk(tmp_path).sections and name not in missing(tmp_path)
    run.write()
    assert "missing" not in json.loads((tmp_path / "report.json").read_text())
    assert [stage.name for stage in on_disk(tmp_path).stages] == ["training", "representation", "circuits"]
    assert "not complete" not in (tmp_path / "report.md").read_text() + (tmp_path / "report.html").read_text()


def test_a_stage_that_fails_is_named_with_its_line_and_what_it_had_is_kept(tmp_path):
    run = begun(tmp_path, "representation", "circuits")
    with pytest.raises(RuntimeError), run("circuits"):
        run.add(circuits=WHOLE.sections["circuits"])
        raise RuntimeError("out of\n  paper <b>")
    assert missing(tmp_path) == {"representation": NOT_REACHED, "circuits": "out of paper <b>"}
    assert {"circuits", *TRAINED} == set(on_disk(tmp_path).sections)
    for page in ("report.md", "report.html"):
        text = (tmp_path / page).read_text()
        assert "This report is not complete. Missing: representation" in text and "out of paper" in text
        assert "<b>" not in text.partition("not complete")[2][:200]
    with run("circuits"):
        pass
    assert missing(tmp_path) == {"representation": NOT_REACHED}, "a second try heals it"


def test_an_interruption_is_named(tmp_path):
    run = begun(tmp_path, "circuits")
    with pytest.raises(KeyboardInterrupt), run("circuits"):
        raise KeyboardInterrupt
    assert missing(tmp_path) == {"circuits": "interrupted"}


def test_what_fails_before_there_is_anything_to_report_leaves_nothing(tmp_path):
    run = Stages(tmp_path, KINDS, ("circuits",))
    with pytest.raises(ValueError, match="x"), run("training"):
        raise ValueError("x")
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_rendered_costs_no_number(tmp_path, monkeypatch):
    run = begun(tmp_path, "circuits")

    def fail(*_):
        raise ValueError("no\npaint")

    monkeypatch.setattr(stages, "render", fail)
    with run("circuits"):
        run.add(circuits=WHOLE.sections["circuits"])
    assert "circuits" in on_disk(tmp_path).sections, "the run went on"
    with pytest.raises(ValueError, match="paint"):
        run.write()
    assert missing(tmp_path) == {"page": "no paint"} and "circuits" in on_disk(tmp_path).sections
    monkeypatch.undo()
    run.write()
    assert missing(tmp_path) == {}


def test_an_error_is_not_hidden_by_a_report_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    run = begun(tmp_path, "circuits")

    def fail(*_):
        raise OSError(28, "No space left on device", "report.json")

    monkeypatch.setattr(stages, "save_report", fail)
    with pytest.raises(RuntimeError, match="first"), run("circuits"):
        raise RuntimeError("first")
    assert "No space left on device: report.json" in caplog.text


@pytest.mark.parametrize("same", [True, False])
def test_going_on_keeps_what_an_earlier_command_left_of_the_same_weights(tmp_path, same):
    save_report(WHOLE, tmp_path / "report.json")
    run = Stages(tmp_path, KINDS, ("circuits",))
    weights = WHOLE.weights if same else WeightsFacts(sha256="0" * 64)
    run.begin(Report(run=WHOLE.run, weights=weights, sections=first().sections))
    assert ("circuits" in on_disk(tmp_path).sections) == same
    assert missing(tmp_path) == {"circuits": NOT_REACHED}


def test_what_an_earlier_command_missed_is_still_missing(tmp_path):
    run = Stages(tmp_path, KINDS, ("circuits",))
    run.begin(
        Report(
            run=WHOLE.run, missing=(Missing(stage="representation", reason="r"), Missing(stage="circuits", reason="c"))
        )
    )
    with run.part("circuits"):
        pass
    run.write()
    assert missing(tmp_path) == {"representation": "r"}


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    run = begun(tmp_path, "circuits")
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(stages.time, "perf_counter", lambda: next(clock))
    calls: list[str] = []
    monkeypatch.setattr(stages, "save_report", lambda *_: calls.append("json"))
    monkeypatch.setattr(stages, "render", lambda *_: calls.append("page"))
    run.write()  # each takes ten seconds of this clock
    calls.clear()
    with run.part("circuits"):
        for _ in range(10):  # each look at the clock takes ten more
            run.add(circuits=WHOLE.sections["circuits"])
    assert calls == ["json"], "only the stage's end is written: 5% of the time since would not pay for more"


def test_stages_with_one_reason_are_named_together():
    lost = tuple(Missing(stage=stage, reason=reason) for stage, reason in (("a", "x"), ("b", "y"), ("c", "x")))
    report = Report(run=WHOLE.run, missing=lost)
    assert assemble(report, KINDS).banners[0] == "This report is not complete. Missing: a, c (x); b (y)."
    assert to_markdown(assemble(report, KINDS)).splitlines()[4].startswith("> **This report is not complete")
    assert json.loads(dumps(report))["missing"][1] == {"stage": "b", "reason": "y"}
