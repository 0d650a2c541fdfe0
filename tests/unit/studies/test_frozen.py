"""Studies of a model that is trained already: what is said beforehand, what an interruption leaves, what is refused."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from sparsetrain.data.probes import ProbesConfig
from sparsetrain.run import RunConfig
from sparsetrain.studies import frozen
from sparsetrain.studies.engine import StudyRules, run_stages
from sparsetrain.studies.frozen import FrozenConfig
from sparsetrain.studies.page import KINDS
from sparsetrain.studies.run import run_study
from sparsetrain.studies.shifts_real import ShiftsRealStudy
from sparsetrain.training.fit import TrainerConfig
from sparsetrain.training.tracking import LoggerConfig

PROBES = ProbesConfig(n_prompts=8, digits=(1, 2), steps=(2, 3), n_demonstrations=1)
SMALL = FrozenConfig(model="zoo:python-abstopk", probes_of=("digits", "steps"), n_bootstrap=20, probes=PROBES)


def study_of(**changes: object) -> ShiftsRealStudy:
    config = RunConfig(
        name="frozen",
        debug=True,
        trainer=TrainerConfig(device="cpu", n_threads=1, progress=False),
        logger=LoggerConfig(kind="none"),
    )
    settings = replace(SMALL, **changes)  # pyright: ignore[reportArgumentType]
    return ShiftsRealStudy(config=config, rules=StudyRules(), frozen=settings)


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "readings.npz") as file:
        return {name: file[name] for name in file.files}


def test_a_study_says_beforehand_how_much_it_reads_and_how_long(tmp_path, capsys):
    study = study_of()
    report = run_study(study, tmp_path, KINDS, "test")
    n_tokens = sum(probes.n_tokens for probes in study.probes.values())
    assert f"{n_tokens:,} tokens to read in 2 of 2 stages, about " in capsys.readouterr().out
    plan = report.sections["study"].plan
    said = " ".join(plan.method)
    assert f"{n_tokens:,} tokens in {2 * 2 * 2 * 8} items" in said
    for probes in study.probes.values():
        assert probes.sha256[:12] in said
    run_study(study_of(), tmp_path, KINDS, "test")
    assert "everything is read" in capsys.readouterr().out


def test_every_claim_has_an_interval_a_number_of_items_and_its_correction(tmp_path):
    section = run_study(study_of(), tmp_path, KINDS, "test").sections["study"]
    assert len(section.claims) == 2 * len(ShiftsRealStudy.hypotheses)
    for claim in section.claims:
        assert claim.number.n == 8 and claim.number.lo is not None and claim.number.hi is not None, claim.key
        made = ("97.5% percentile bootstrap", "97.5% Student's t")  # of rank correlations, and of means of few items
        assert any(words in (claim.number.note or "") for words in made), claim.number.note
    assert not section.interpretable  # eight rows are too few, and the gates say so
    assert {v.verdict for v in section.verdicts} == {"undecided"}


def test_what_was_read_before_an_interruption_is_not_read_again(tmp_path, monkeypatch):
    read, batches = frozen.read_resumably, []

    def stopped(*args, on_items, **settings):
        def count(n: int) -> None:
            on_items(n)
            batches.append(n)
            if len(batches) == 2:
                raise KeyboardInterrupt

        return read(*args, on_items=count, **settings)

    monkeypatch.setattr(frozen, "read_resumably", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stages(study_of().stages(), tmp_path / "stopped")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped/digits/first").glob("*.npz")}
    assert len(kept) == 2
    monkeypatch.setattr(frozen, "read_resumably", read)
    for folder in ("stopped", "straight"):
        run_stages(study_of().stages(), tmp_path / folder)
    a, b = (arrays_of(tmp_path / folder / "digits/first") for folder in ("stopped", "straight"))
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def test_the_batch_size_changes_nothing(tmp_path):
    for n in (1, 5):
        run_stages(study_of(batch_size=n, probes_of=("digits",)).stages(), tmp_path / str(n))
    a, b = (arrays_of(tmp_path / str(n) / "digits/first") for n in (1, 5))
    for name, values in a.items():
        np.testing.assert_allclose(values, b[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("natural",), "has natural alone, by which others are judged; add one of"),
        (("digits", "digits"), "has digits more than once"),
    ],
)
def test_sets_that_judge_nothing_or_come_twice_are_refused(names, named):
    with pytest.raises(ValueError, match=f"study.frozen.probes_of {named}"):
        study_of(probes_of=names)


def test_seeds_that_could_agree_on_both_signs_are_refused(tmp_path):
    study = study_of()
    asked = replace(study.claims()[0].rule, expected="positive", n_agreeing=4)
    claims = (replace(study.claims()[0], rule=asked),)
    with patch.object(ShiftsRealStudy, "claims", lambda self: claims):
        for n_seeds in (8, 20):
            with pytest.raises(ValueError, match=rf"study.n_agreeing=4 of study.n_seeds={n_seeds} are no majority.*give study.n_agreeing={n_seeds // 2 + 1}"):  # fmt: skip
                run_study(replace(study, rules=StudyRules(n_seeds=n_seeds)), tmp_path, KINDS, "test")


def test_a_second_model_has_arms_of_its_own():
    study = study_of(second="zoo:python-dense", second_probes_of=("digits",))
    assert study.arms == ("digits", "steps", "digits (python-dense)")
    assert [stage.name for stage in study.stages()] == ["digits/first", "steps/first", "digits/second"]
    assert study.confidence == pytest.approx(1 - 0.05 / 3)


def test_probes_that_a_model_cannot_read_are_refused():
    with pytest.raises(
        ValueError, match=r"the probes of digits have up to \d+ tokens, and python-abstopk reads 128 positions; lower"
    ):
        study_of(probes_of=("digits",), probes=replace(PROBES, n_demonstrations=40)).plan()


def test_sets_that_need_packages_can_be_left_out():
    assert set(study_of(plain_only=True, probes_of=()).arms) == ShiftsRealStudy.plain
    with pytest.raises(
        ValueError, match=r"study.frozen.probes_of has rules, which needs packages; with study.frozen.plain_only=true"
    ):
        study_of(plain_only=True, probes_of=("rules",))
