"""The picture of a sweep: what becomes a curve, what a point, what is left out, what is refused."""

import json
from pathlib import Path

import pytest

from scripts.plot_sweep import Point, SweepFile, jobs_of, picture, place_of, table, value_of
from sparsetrain.job import Job
from sparsetrain.report import RunFacts
from sparsetrain.report.svg import to_svg
from sparsetrain.stats.number import over_range


def save(folder: Path, *varying: str, report: object = None) -> Path:
    folder.mkdir(parents=True)
    Job(command="python train.py -m", varying=varying).save(folder)
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_runs_come_in_the_order_of_their_numbers(tmp_path):
    for name in ("10", "9", "0"):
        save(tmp_path / name, "optim.lr_peak=0.1")
    assert [folder.name for folder, _ in jobs_of(tmp_path)] == ["0", "9", "10"]


def test_a_curve_is_what_varies_but_for_x_and_seed(tmp_path):
    job = Job(command="", varying=("+optim.lr_peak=3e-3", "model.d_model=64", "seed=2"))
    assert place_of(job, "optim.lr_peak", tmp_path) == (0.003, "d_model=64")


@pytest.mark.parametrize(
    ("x", "words"), [("optim.eps", "differ in optim.lr_peak, abs_topk"), ("abs_topk", "no numbers in .*: none")]
)
def test_an_x_that_cannot_be_drawn_is_refused(tmp_path, x, words):
    with pytest.raises(ValueError, match=words):
        place_of(Job(command="", varying=("optim.lr_peak=1", "abs_topk=none")), x, tmp_path)


def test_a_sweep_of_one_value_has_a_place_too(tmp_path):
    job = Job(command="", overrides=("optim.lr_peak=0.1", "study.kind=none", "~logger"), varying=("seed=1",))
    assert place_of(job, "optim.lr_peak", tmp_path) == (0.1, "")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no runs of a sweep"):
        jobs_of(tmp_path)


@pytest.mark.parametrize(
    ("report", "value"),
    [
        ({"a": {"b": {"value": 2.5, "unit": "nats"}}}, (2.5, "nats")),
        ({"a": {"b": {"value": None, "unit": "nats"}}}, None),
        ({"a": {"b": 3}}, None),
        ({"a": {}}, None),
        (None, None),
    ],
)
def test_what_a_report_lacks_is_no_point(tmp_path, report, value):
    assert value_of(save(tmp_path / "0", report=report), "a.b") == value


def test_seeds_are_one_point_with_their_range():
    one, three = over_range([2.0], "nats"), over_range([1.0, 2.0, 6.0], "nats")
    assert (one.value, one.lo, one.hi, one.n) == (2.0, None, None, 1)
    assert (three.value, three.lo, three.hi, three.n) == (3.0, 1.0, 6.0, 3)


def test_the_lowest_of_a_line_is_starred():
    curves = {name: [Point(x=x, y=over_range([y], "")) for x, y in at] for name, at in {"a": [(1, 2.0), (2, 1.0)], "longer": [(2, 4.0)]}.items()}  # fmt: skip
    head, a, longer = table(curves).splitlines()
    assert (
        head.split() == ["1", "2"]
        and a.split() == ["a", "2.000", "1.000*"]
        and longer.split() == ["longer", "–", "4.000*"]
    )


@pytest.mark.parametrize(("first", "log"), [(0.5, True), (0.0, False), (-1.0, False)])
def test_an_axis_with_values_of_zero_or_below_is_no_logarithmic_one(first, log):
    points = tuple(Point(x=x, y=over_range([x], "nats")) for x in (first, 2.0))
    facts = RunFacts.now(name="t", command="", device="cpu")
    drawn = picture(SweepFile(run=facts, commit="", commands=(), x="x", y="y", curves={"a": points}), "nats")
    assert drawn.log_x is log and "<polyline" in to_svg(drawn)
