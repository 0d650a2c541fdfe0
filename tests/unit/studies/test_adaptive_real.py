"""The adaptive study of a model that is trained already, end to end: our own model, and one of another library whose prompts are read once."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sparsetrain.data.knowledge import Fact
from sparsetrain.data.probes import ProbesConfig, adaptive_sets
from sparsetrain.data.probes.adaptive_sets import LEVELS
from sparsetrain.report import parse_report
from sparsetrain.representation.items import Looks, read_items_of_any_length
from sparsetrain.run import RunConfig
from sparsetrain.studies import adaptive_real
from sparsetrain.studies.adaptive_real import AdaptiveRealConfig, AdaptiveRealStudy
from sparsetrain.studies.engine import StudyRules, run_stages
from sparsetrain.studies.frozen import FrozenConfig, item_of
from sparsetrain.studies.page import KINDS
from sparsetrain.studies.run import run_study
from sparsetrain.training.fit import TrainerConfig
from sparsetrain.training.tracking import LoggerConfig

OURS = "zoo:python-abstopk"
PROBES = ProbesConfig(n_prompts=9, n_demonstrations=2)
PLACES = ("first third", "middle third", "all layers", "final norm")
"""Of a model of two layers."""


@pytest.fixture(autouse=True)
def capitals(monkeypatch) -> None:
    """Made-up countries: whoever reads these tests needs no package."""
    facts = [Fact(relation="capital", subject=f"w{i}", answer=f"w{59 - i} w{i % 7}"[: 3 + 3 * (i % 2)], fame=-i) for i in range(59)]  # fmt: skip
    monkeypatch.setattr(adaptive_sets, "facts_of", lambda name: facts)
    monkeypatch.setattr(adaptive_sets, "versions", lambda names: {"made-up": "1"})


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> str:
    pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
    from hub_example import save_hub_model

    return f"hf:{save_hub_model(tmp_path_factory.mktemp('hub'), 'llama')}"


def study_of(model: str, *names: str, **changes: object) -> AdaptiveRealStudy:
    config = RunConfig(
        name="adaptive_real",
        debug=True,
        trainer=TrainerConfig(device="cpu", n_threads=1, progress=False),
        logger=LoggerConfig(kind="none"),
    )
    frozen = FrozenConfig(model=model, probes_of=names or ("capitals",), n_bootstrap=20, probes=PROBES)
    settings = replace(frozen, **changes)  # pyright: ignore[reportArgumentType]
    return AdaptiveRealStudy(
        config=config, rules=StudyRules(), frozen=settings, adaptive=AdaptiveRealConfig(levels_per_octave=1)
    )


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"{path.parent.name}: {name}": values
        for path in sorted(folder.rglob("readings.npz"))
        for name, values in np.load(path).items()
    }


def test_the_study_ends_in_a_report_and_reads_nothing_twice(tmp_path, capsys):
    study = study_of(OURS, "capitals", "arithmetic")
    report = run_study(study, tmp_path, KINDS, "test")
    written = json.loads((tmp_path / "report.json").read_text())
    assert parse_report(written, KINDS).plain() == written
    section = report.sections["study"]
    said = capsys.readouterr().out
    n_tokens = sum(probes.n_tokens for probes in study.probes.values())
    assert f"{n_tokens:,} tokens to read in 2 of 2 stages, and " in said and "minutes on this machine" in said
    assert [subject.key for subject in study.subjects] == [f"{arm}, {place}" for arm in study.arms for place in PLACES]
    assert len(section.claims) == 8 * len(study.hypotheses) and len(section.verdicts) == 8 * 2
    for claim in section.claims:
        assert claim.number.n in (8, 9) and claim.number.lo is not None and claim.number.hi is not None, claim.key
        assert "99.38%" in (claim.number.note or "") or "99%" in (claim.number.note or ""), claim.number.note
    assert not section.interpretable  # nine items are too few, and the gates say so
    assert "widened for 8 arms and places (Bonferroni: 0.9938 each" in " ".join(section.plan.method)
    assert len(section.figures) == 8 * 2 and {figure.key for figure in section.figures} >= {
        "capitals_all_layers_correct"
    }
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("readings.npz")}
    run_study(study_of(OURS, "capitals", "arithmetic"), tmp_path, KINDS, "test")
    assert "everything is read" in capsys.readouterr().out
    assert len(stamps) == 4 and stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_neither_the_batch_nor_reading_prompts_once_changes_anything(theirs, tmp_path):
    for n in (1, 4):
        run_stages(study_of(theirs, batch_size=n).stages(), tmp_path / str(n))
    alone, together = (arrays_of(tmp_path / str(n)) for n in (1, 4))
    study = study_of(theirs)
    (put,) = study.puts
    assert len(alone) == 2 * study.n_trials(put) + 3 * 3  # three numbers of each hook point, untouched
    for name, values in alone.items():
        np.testing.assert_allclose(values, together[name], atol=1e-5, err_msg=name)
    items = [item_of(probe) for probe in study.probes[put.arm].probes]
    assert {item.n_answer for item in items} == {1, 2}
    plain = read_items_of_any_length(study.model_of(put).module, items, Looks(points=()))
    np.testing.assert_allclose(alone["untouched: loss"], plain["answer_loss"], atol=1e-5)
    np.testing.assert_array_equal(alone["untouched: correct"], plain["correct"])
    tried = study.tried_at(put, study.places_of(put)["all layers"])["largest"]
    few, many = (alone[f"surface: loss|all layers|largest|{k}"] for k in (tried[0], tried[-2]))
    assert np.abs(few - plain["answer_loss"]).mean() > np.abs(many - plain["answer_loss"]).mean()


def test_what_was_read_before_an_interruption_is_not_read_again(tmp_path, monkeypatch):
    kept, batches = adaptive_real.kept_in_batches, []

    def stopped(*args, on_items, **settings):
        def count(n: int) -> None:
            on_items(n)
            batches.append(n)
            if len(batches) == 5:
                raise KeyboardInterrupt

        return kept(*args, on_items=count, **settings)

    study = partial(study_of, OURS, batch_size=5)
    monkeypatch.setattr(adaptive_real, "kept_in_batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stages(study().stages(), tmp_path / "stopped")
    folder = tmp_path / "stopped/capitals/first"
    assert (folder / "untouched/readings.npz").is_file()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("surface/*.npz")}
    assert before
    monkeypatch.setattr(adaptive_real, "kept_in_batches", kept)
    for name in ("stopped", "straight"):
        run_stages(study().stages(), tmp_path / name)
    a, b = (arrays_of(tmp_path / name) for name in ("stopped", "straight"))
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match=r"study.frozen.second=zoo:x reads nothing in this study; give study.frozen.second_probes_of"):  # fmt: skip
        study_of(OURS, second="zoo:x")
    with pytest.raises(ValueError, match=r"study.frozen.probes_of has digits; there are capitals, arithmetic, rules"):
        study_of(OURS, "digits")
    both = study_of(OURS, second="zoo:python-dense", second_probes_of=("capitals",))
    assert both.arms == ("capitals", "capitals (python-dense)") and len(both.subjects) == 8


def test_both_sides_stand_behind_the_same_demonstrations_and_have_answers_of_the_same_lengths():
    study = study_of(OURS, "capitals", "arithmetic")
    tokenizer = study.model_of(study.puts[0]).tokenizer
    for name in study.arms:
        probes = study.probes[name]
        texts = [tokenizer.decode(probe.tokens) for probe in probes.probes]
        fronts = {text.rpartition("\n")[0] for text in texts}
        assert len(fronts) == 1
        shown = fronts.pop().split("\n")
        assert len(shown) == PROBES.n_demonstrations
        asked = [text.rpartition("\n")[2] for text in texts]
        assert len(set(asked)) == len(asked) and not set(asked) & set(shown)
        assert {probe.level for probe in probes.probes} == {0, 1} and probes.levels == LEVELS
        if name == "arithmetic":
            for text, probe in zip(asked, probes.probes, strict=True):
                a, b, total = map(int, re.fullmatch(r"(\d+) \+ (\d+) = (\d+)", text).groups())  # pyright: ignore[reportOptionalMemberAccess]
                assert a + b == total and b < 10 and (a >= 10) == (probe.level == 1)
        else:
            fame = probes.frequencies()
            sides = [[p for p in probes.probes if p.level == level] for level in (0, 1)]
            assert sorted(p.n_answer for p in sides[0]) == sorted(p.n_answer for p in sides[1])
            assert fame[: len(sides[0])].min() > fame[len(sides[0]) :].max()
            assert probes.sources == {"made-up": "1"}


def test_too_few_questions_are_refused(monkeypatch):
    monkeypatch.setattr(adaptive_sets, "facts_of", lambda name: [Fact(relation="capital", subject="a", answer="b", fame=0.0)] * 3)  # fmt: skip
    with pytest.raises(ValueError, match=r"only 0 familiar questions of capitals can be made with this tokenizer"):
        study_of(OURS).plan()
