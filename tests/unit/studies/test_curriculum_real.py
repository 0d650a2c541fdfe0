"""The study of demonstrations with a tiny model, end to end: what it says beforehand, what an interruption leaves, what is refused."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from probe_machine import PieceTokenizer

from sparsetrain.adapters import LanguageModel
from sparsetrain.curriculum import prompting, tasks
from sparsetrain.curriculum.arms import ARMS, ChoiceConfig
from sparsetrain.curriculum.compare import detectable_share
from sparsetrain.curriculum.prompting import COLUMNS
from sparsetrain.curriculum.scoring import ScoreConfig
from sparsetrain.data.knowledge import Fact
from sparsetrain.data.probes import ProbesConfig
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.representation import items
from sparsetrain.run import RunConfig
from sparsetrain.studies import frozen
from sparsetrain.studies.catalogue import STUDIES, StudyConfig, build_study
from sparsetrain.studies.curriculum_real import ALL, CurriculumRealStudy, TaskReadings
from sparsetrain.studies.engine import StudyRules, run_stages
from sparsetrain.studies.frozen import FrozenConfig
from sparsetrain.studies.page import KINDS
from sparsetrain.studies.run import run_study
from sparsetrain.studies.study import Subject
from sparsetrain.training.fit import TrainerConfig
from sparsetrain.training.tracking import LoggerConfig

N_FACTS = 16
CHOICE = ChoiceConfig(n_shown=2, n_retrieved=5, n_levels=3, n_draws=3)

SCORE = ScoreConfig()


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """A model of two layers, and countries of nowhere."""
    facts = [
        Fact(
            relation="capital",
            subject=f"{'La' * (1 + i % 2)}{chr(97 + i)}",
            answer=f"City{chr(97 + i)}",
            fame=9 - i / 3,
        )
        for i in range(N_FACTS)
    ]
    monkeypatch.setattr(tasks, "facts_of", lambda name: facts)
    monkeypatch.setattr(tasks, "versions", lambda names: {"stand-in": "1.0"})
    model = LanguageModel(
        name="tiny",
        architecture="Transformer",
        module=Transformer(ModelConfig(d_vocab=512, n_layer=2, d_model=32, d_head=8, n_ctx=64)).eval(),
        tokenizer=PieceTokenizer(),  # pyright: ignore[reportArgumentType]
        n_ctx=64,
        step=None,
        seed=0,
        weights_sha256="0" * 64,
        left_out={},
    )
    monkeypatch.setattr(frozen, "loaded", lambda name, device, trust: model)
    return model


def study_of(
    *names: str,
    choice: ChoiceConfig = CHOICE,
    n_prompts: int = 6,
    score: ScoreConfig = SCORE,
    **changes: object,
) -> CurriculumRealStudy:
    trainer = TrainerConfig(device="cpu", n_threads=1, progress=False)
    settings = FrozenConfig(
        model="hf:tiny", probes_of=names or ("capital",), batch_size=7, n_bootstrap=20, probes=ProbesConfig(n_prompts=n_prompts)
    )  # fmt: skip
    return CurriculumRealStudy(
        config=RunConfig(name="curriculum_real", trainer=trainer, logger=LoggerConfig(kind="none")),
        rules=StudyRules(),
        frozen=replace(settings, **changes),  # pyright: ignore[reportArgumentType]
        score=score,
        choice=choice,
    )


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        f"{path.relative_to(folder).parent}: {name}": values
        for path in sorted(folder.rglob("readings.npz"))
        for name, values in np.load(path).items()
    }


def read(study: CurriculumRealStudy, folder: Path) -> TaskReadings:
    return study.read_of(folder, Subject(arm="capital"))


def test_the_study_ends_in_a_report_and_asks_nothing_twice(tmp_path, capsys, monkeypatch):
    study = study_of("sums", "capital")
    section = run_study(study, tmp_path, KINDS, "test").sections["study"]
    assert (
        "tokens to read in 2 of 2 stages (arms that come to one prompt share it), about 1 minutes"
        in capsys.readouterr().out
    )
    assert section.plan.arms == (ALL, "sums", "capital") and section.status == "done"
    assert not section.interpretable and {v.verdict for v in section.verdicts} == {
        "undecided"
    }  # six questions are too few
    said = " ".join(section.plan.method)
    least = [f"{detectable_share(n, confidence=study.confidence):.3f}" for n in (12, 6)]
    assert f"right in one of two arms alone: {least[0]} over all tasks, {least[1]} in a task" in said
    assert "the smallest that is seen with a chance of .8 is 0." in said
    assert "sums (more digits is harder): 6 questions, 6 in the pool" in said
    assert all(f"{name}: {arm.words}" in said for name, arm in ARMS.items())
    of = {claim.key: claim.number for claim in section.claims}
    assert of[f"{ALL}: sparsity"].n == 12 and of["capital: sparsity"].n == 6 and of["capital: difficulty"].n == 12
    with (tmp_path / "capital/first/ordering.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == COLUMNS and len(rows) == 6 and [row[1] for row in rows] == ["0", "0", "1", "1", "2", "2"]
    assert (tmp_path / "report.html").is_file()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(Transformer, "forward", refuse)
    again = run_study(study_of("sums", "capital"), tmp_path, KINDS, "test").sections["study"]
    assert "everything is answered" in capsys.readouterr().out
    assert again == section


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, monkeypatch):
    save, saved = items._save, []

    def stopped(path: Path, arrays: object) -> None:
        save(path, arrays)  # pyright: ignore[reportArgumentType]
        saved.append(path)
        if len(saved) == 5:  # two batches of scores, all of them, two batches of prompts
            raise KeyboardInterrupt

    monkeypatch.setattr(items, "_save", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_stages(study_of().stages(), tmp_path / "stopped")
    assert [path.name for path in saved] == ["batch_0_7.npz", "batch_7_5.npz", "readings.npz", "batch_0_7.npz", "batch_7_7.npz"]  # fmt: skip
    before = {path: path.stat().st_mtime_ns for path in saved if path.is_file()}
    assert len(before) == 3
    monkeypatch.setattr(items, "_save", save)
    asked: list[int] = []
    run = prompting.Prompts
    monkeypatch.setattr(prompting, "Prompts", lambda model, some: asked.append(len(some)) or run(model, some))
    run_stages(study_of().stages(), tmp_path / "stopped")
    n_resumed = sum(asked)
    run_stages(study_of().stages(), tmp_path / "straight")
    assert sum(asked) - n_resumed == n_resumed + 14
    a, b = (arrays_of(tmp_path / name / "capital/first") for name in ("stopped", "straight"))
    assert a.keys() == b.keys() and len(a) > 5
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def test_the_batch_changes_nothing(tmp_path):
    for n in (1, 5):
        run_stages(study_of(batch_size=n).stages(), tmp_path / str(n))
    one, many = (read(study_of(), tmp_path / str(n)) for n in (1, 5))
    for name, values in vars(one.scores).items():
        np.testing.assert_allclose(values, getattr(many.scores, name), atol=1e-5, err_msg=name)
    for arm in ARMS:
        np.testing.assert_array_equal(one.answers.right[arm], many.answers.right[arm])
        np.testing.assert_allclose(one.answers.loss[arm], many.answers.loss[arm], atol=1e-5)


def test_where_there_are_few_examples_one_is_left_out(tmp_path):
    study = study_of(n_prompts=12)
    assert f"12 questions, {N_FACTS} in the pool, each but the question itself" in study.method()[0]
    run_stages(study.stages(), tmp_path)
    r = read(study, tmp_path)
    assert len(r.difficulty) == N_FACTS and len(r.answers.right["sparsity"]) == 12
    assert study.prepared(study.puts[0], study.scores_of(study.puts[0], tmp_path / "capital/first")).n_same == 12


def test_a_context_too_short_for_all_demonstrations_drops_some(tmp_path, tiny, monkeypatch):
    longest = max(len(probe.tokens) for probe in study_of().probes["capital"].probes)
    short = replace(tiny, n_ctx=longest - 1)  # the last token of the longest is predicted, not read: it fits alone
    monkeypatch.setattr(frozen, "loaded", lambda name, device, trust: short)
    run_stages(study_of().stages(), tmp_path)
    dropped = read(study_of(), tmp_path).answers.n_dropped
    assert dropped["zero_shot"] == 0 and all(n > 0 for name, n in dropped.items() if name != "zero_shot")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"choice": replace(CHOICE, n_shown=5, n_retrieved=5), "n_prompts": 4}, "study.choice.n_shown=5 demonstrations, but only 4 examples of the pool may be shown; lower it or give a larger pool"),
        ({"choice": replace(CHOICE, n_levels=7)}, "study.choice.n_levels=7, but the pool has 6 examples; lower it or give a larger pool"),
        ({"score": ScoreConfig(hook_point="final_norm.hook")}, "no hook point named 'final_norm.hook'; near names: final_norm.hook_norm"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_read(settings, said):
    with pytest.raises((ValueError, KeyError), match=re.escape(said)):
        study_of(**settings).plan()


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match=r"study.frozen.second=zoo:x reads nothing in this study; leave it empty"):
        study_of(second="zoo:x")
    with pytest.raises(ValueError, match=r"study.frozen.probes_of has digits; there are sums, capital, "):
        study_of("digits")
    with pytest.raises(ValueError, match=r"study.frozen.probes_of has capital, which needs packages; with study.frozen.plain_only=true there are sums"):  # fmt: skip
        study_of(plain_only=True)
    with pytest.raises(ValueError, match=r"study.frozen.model= is missing"):
        study_of(model="")


def test_the_catalogue_has_it():
    config = StudyConfig(kind="curriculum_real", frozen=FrozenConfig(model="hf:tiny"), choice=CHOICE)
    study = build_study(STUDIES, RunConfig(), config)
    assert isinstance(study, CurriculumRealStudy) and study.choice == CHOICE and study.arms[0] == ALL
