"""+experiment=fracture_images at smoke size: every arm of every picture, its report with pictures, going on, mistakes in one line."""

import json
import shutil

import numpy as np
import pytest
from commands import in_process
from PIL import Image

from circuits.fracture.images.study import COMPOSED, EQUAL, TRAINED
from circuits.run import KINDS
from sparsetrain.report import parse_report

PLAIN = (
    "train.py",
    "+experiment=fracture_images",
    "+debug=smoke",
    "study.fracture_images.pictures=[rosette,owl]",
    "study.n_agreeing=2",
    "trainer.progress=false",
    "logger=none",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("fracture_images")
    in_process(*PLAIN, f"hydra.run.dir={out}")
    return out


def test_the_report_has_every_arm_of_every_picture(run):
    report = json.loads((run / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    study = report["study"]
    assert study["status"] == "done" and len(study["models"]) == 2 * (1 + len(TRAINED) + len(EQUAL))
    words = {(verdict["arm"], verdict["name"]): verdict["verdict"] for verdict in study["verdicts"]}
    assert {arm for arm, _ in words} == {
        f"{kind}, {name}" for kind in (*TRAINED, *EQUAL) for name in ("rosette", "owl")
    }
    assert {words[f"{kind}, owl", "separates by all three"] for kind in TRAINED} == {"undecided"}, (
        "forty steps teach no picture, and the gates say so"
    )
    assert words["duplicated, rosette", "separates by units"] == "supported"
    assert {gate["key"] for gate in study["gates"] if gate["passed"]} == {
        f"imitates: {kind}, {name}" for kind in EQUAL for name in ("rosette", "owl")
    }
    assert {overview["key"] for overview in study["overviews"]} == {"units", "symmetry", "variation"}
    titles = [table["title"] for table in study["tables"]]
    assert titles == ["Every number: rosette", "Every number: owl", "Two dense imitations of one picture"]
    assert [row[0] for row in study["tables"][0]["rows"]] == [COMPOSED, *TRAINED, *EQUAL]


def test_pictures_are_files_and_on_the_page(run):
    report = json.loads((run / "report.json").read_text())
    page = (run / "report.html").read_text()
    sheets = [
        sheet
        for shown in report["image_networks"]["pictures"]
        for part in ("outputs", "maps", "sweeps")
        for sheet in shown[part]
    ]
    assert len(sheets) >= 2 * 2 * 8 and {shown["n_hues"] >= 3 for shown in report["image_networks"]["pictures"]} == {
        True
    }
    for sheet in sheets:
        with Image.open(run / sheet["file"]) as image:
            assert image.format == "PNG" and sheet["width"] % image.width == 0
        assert sheet["png"] in page
    assert len(page) < 5e6


def test_every_stage_leaves_weights_and_what_was_read_of_them(run):
    for kind in (COMPOSED, *TRAINED, *EQUAL):
        folder = run / "rosette" / kind
        assert (folder / "weights.safetensors").is_file()
        with np.load(folder / "read.npz") as arrays:
            assert (
                len(arrays["error"]) == 2
                and arrays["contributions"].ndim == 3
                and arrays["kept|weights"].shape == (2, 4, 4)
            )


def test_going_on_trains_and_reads_nothing_again(run):
    stamps = {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}
    in_process(*PLAIN, f"hydra.run.dir={run}", "ckpt_path=last")
    assert stamps and stamps == {path: path.stat().st_mtime_ns for path in run.rglob("*.npz")}


def test_reading_again_trains_nothing_again(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "again")
    (again / "plan.json").unlink()  # other rules are another study: here only its networks are used
    before = {path.parent: path.read_bytes() for path in again.rglob("weights.safetensors")}
    in_process(
        *PLAIN,
        "study.fracture_images.n_perturbed=2",
        f"hydra.run.dir={again}",
        "ckpt_path=last",
    )
    assert before and before == {path.parent: path.read_bytes() for path in again.rglob("weights.safetensors")}
    with np.load(again / "rosette" / "dense" / "read.npz") as arrays:
        assert arrays["kept|weights"].shape == (2, 2, 4)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("study.fracture_images.pictures=[moon]", "must be some of rosette, snowflake, butterfly, owl"),
        ("study.fracture_images.lr.dense=0", "lr"),
        ("study.fracture_images.k=99", "k=99 must be at most 7, the units of the narrowest layer"),
        ("study.fracture_images.stride=5", "stride=5 must divide size=16"),
    ],
)
def test_mistakes_are_one_line(python, tmp_path, setting, said):
    done = python(*PLAIN, setting, f"hydra.run.dir={tmp_path}")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert said in line
