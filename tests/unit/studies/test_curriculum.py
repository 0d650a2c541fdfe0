"""The study of models trained here, at smoke size: report, resuming, and trainings on the same rows in another order."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from study_example import StudyRun, run_small, small_study

from sparsetrain.curriculum.arms import ChoiceConfig
from sparsetrain.data.stream import Order, RowsStream
from sparsetrain.data.worlds.functions import draw_rows, draw_world
from sparsetrain.export import load_model
from sparsetrain.report import parse_report
from sparsetrain.studies.catalogue import STUDIES, build_study
from sparsetrain.studies.curriculum import TRAINED, CurriculumStudy, DemonstrationsConfig
from sparsetrain.studies.demonstrated import row_sparsity
from sparsetrain.studies.page import KINDS

SMALL = DemonstrationsConfig(
    n_symbols=5, n_shots=3, n_seen=12, n_held=4, n_pool=22, n_context=2, n_contexts=2, n_rows=4,
    choice=ChoiceConfig(n_shown=2, n_retrieved=6, n_levels=3, n_draws=2),
)  # fmt: skip


def small(n_seeds: int) -> StudyRun:
    run = small_study("curriculum")
    return replace(run, study=replace(run.study, arms={}, n_seeds=n_seeds, demonstrations=SMALL))


def test_the_study_ends_in_a_report_and_resumes(tmp_path):
    run_small(small(1), tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert parse_report(written, KINDS).plain() == written
    study = written["study"]
    assert study["status"] == "done" and len(study["models"]) == len(TRAINED)
    assert {claim["key"] for claim in study["claims"]} == {claim["key"] for claim in study["plan"]["claims"]}
    assert {claim["arm"] for claim in study["claims"]} == {"dense", "weight_sparse", "easy_first", "hard_first"}
    assert [figure["key"] for figure in study["figures"]] == ["learned", "families", "training_order"]
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    run_small(small(1), tmp_path)
    assert len(stamps) == 6 and stamps == {path: path.stat().st_mtime_ns for path in stamps}

    # Rows are scored by the exported dense model; the ordered arms train on the same rows, each once, in opposite orders.
    run = small(1)
    rows = draw_rows(SMALL, draw_world(SMALL, 0).of("seen"), 48, np.random.default_rng([0, 2])).tokens
    scores = np.load(tmp_path / "dense/seed_0/rows.npz")["sparsity"]
    model = load_model(tmp_path / "dense/seed_0/export/step_6")
    np.testing.assert_allclose(scores, row_sparsity(model, rows), atol=1e-6)
    for arm, sign in (("easy_first", 1), ("hard_first", -1)):
        checkpoints = sorted((tmp_path / arm / "seed_0/checkpoints").glob("*.ckpt"))
        kept = torch.load(checkpoints[-1], weights_only=False, map_location="cpu")
        expected = RowsStream(rows, run.trainer.batch_size, Order.by(sign * scores)).identity()
        assert kept["TokenDataModule"]["stream"] == expected


def test_unknown_arms_are_refused_before_anything_runs():
    run = small_study("curriculum")
    with pytest.raises(ValueError, match="must be dense, weight_sparse, shuffled, easy_first, hard_first"):
        build_study(STUDIES, run, run.study)


def test_the_inputs_of_an_ordered_arm_name_what_scored_its_rows():
    study = build_study(STUDIES, small(1), small(1).study)
    assert isinstance(study, CurriculumStudy)
    inputs = {stage.name: stage.inputs for stage in study.stages()}
    assert [*inputs] == [f"{arm}/seed_0" for arm in TRAINED]  # the dense one first
    assert inputs["easy_first/seed_0"]["order"] != inputs["hard_first/seed_0"]["order"]
    assert inputs["dense/seed_0"] != inputs["shuffled/seed_0"]
