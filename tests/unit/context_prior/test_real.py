"""The study of a pretrained language model with a tiny one, end to end: what is dealt, said and kept, and what is refused."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.context_prior import real
from circuits.context_prior.facts import SAID, ConflictsConfig, Said
from circuits.context_prior.real import ALL, ANSWERS, SPARSITY, ContextPriorRealStudy, n_tokens_of
from circuits.prior.asking import Subject as Asked
from circuits.prior.cases import STATED, Form
from circuits.prior.conflicts import WordingConfig
from circuits.prior.study import ExamineConfig
from circuits.run import KINDS, TrainRun, studies
from sparsetrain.adapters import LanguageModel
from sparsetrain.data.knowledge import Fact
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.studies.catalogue import build_study
from sparsetrain.studies.engine import StudyRules, run_stages
from sparsetrain.studies.frozen import FrozenConfig
from sparsetrain.studies.run import run_study
from sparsetrain.studies.study import Subject
from sparsetrain.training.fit import TrainerConfig
from sparsetrain.training.tracking import LoggerConfig

MADE = ("towns", "coins", "signs")
N = 14
SHORT = WordingConfig(
    rewordings=tuple(f"{word} {{context}}\n" for word in "abcd"),
    trust=tuple(f"trust {word}\n" for word in "abcd"),
    distrust=("distrust\n",),
    filler=("filler\n",),
)
RUN = TrainRun(
    trainer=TrainerConfig(n_steps=1, device="cpu", n_threads=1, progress=False), logger=LoggerConfig(kind="none")
)
FROZEN = FrozenConfig(model="hf:tiny", n_bootstrap=40, batch_size=16)


class Words:
    """A word is a token."""

    special_ids = frozenset[int]()
    unknown_id = None

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [0, *(self.ids.setdefault(word, 1 + len(self.ids)) for word in text.split())]

    def decode(self, ids) -> str:
        return " ".join(map(str, ids))


def enter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relations that are made up; answers of the last have two words."""
    for name in MADE:
        word = f"{name}{{}}" if name != "signs" else f"{name}{{}} more"
        facts = [Fact(relation=name, subject=f"{name}-of-{i}", answer=word.format(i), fame=20.0 - i) for i in range(N)]
        said = Said(statement="{subject} is {answer} .", question="{subject} is", fame="a number", facts=lambda facts=facts: facts, plain=True)  # fmt: skip
        monkeypatch.setitem(SAID, name, said)


with pytest.MonkeyPatch.context() as patch:
    enter(patch)
    CONFIG = ConflictsConfig(
        relations=MADE,
        n=N,
        wording=SHORT,
        examine=ExamineConfig(n_fit=12, n_random=1, n_heads=4, n_bootstrap=40, seed=3),
    )


@pytest.fixture(autouse=True)
def tiny(monkeypatch) -> LanguageModel:
    """A model of two layers."""
    enter(monkeypatch)
    torch.manual_seed(0)
    model = LanguageModel(
        name="tiny",
        architecture="Transformer",
        module=Transformer(ModelConfig(d_vocab=400, n_layer=2, d_model=32, d_head=8, n_ctx=96, abs_topk={})).eval(),
        tokenizer=Words(),  # pyright: ignore[reportArgumentType]
        n_ctx=96,
        step=None,
        seed=None,
        weights_sha256="ab" * 32,
        left_out={},
    )
    monkeypatch.setattr(real, "loaded", lambda name, device, trust: model)
    return model


def study(**changes) -> ContextPriorRealStudy:
    given = {"config": RUN, "rules": StudyRules(), "frozen": FROZEN, "conflicts": CONFIG, **changes}
    return ContextPriorRealStudy(**given)


def test_the_study_has_its_name():
    config = replace(RUN.study, kind="context_prior_real", frozen=FROZEN, conflicts=CONFIG)
    found = build_study(studies("test"), RUN, config)
    assert isinstance(found, ContextPriorRealStudy) and found.arms == (ALL, *MADE) and found.seeds == (3,)


def test_every_relation_is_fitted_on_and_no_fact_is_in_both_parts():
    dealt = study().put.dealt
    fit, evaluated = (Counter(case.group for case in part) for part in (dealt.fit, dealt.evaluated))
    assert fit == dict.fromkeys(MADE, 4) and evaluated == dict.fromkeys(MADE, N - 4)
    assert {case.fact for case in dealt.fit}.isdisjoint(case.fact for case in dealt.evaluated)
    other = study(conflicts=replace(CONFIG, examine=replace(CONFIG.examine, seed=4)))
    assert other.put.dealt.sha256 != dealt.sha256 == study().put.dealt.sha256


def test_the_plan_says_what_was_fixed():
    one = study()
    plan, said = one.plan(), " ".join(one.method())
    for words in (
        one.put.dealt.sha256[:12],
        "towns (fame: a number): 10 evaluated, 4 for fitting",
        "Prompt arms: repeat, place, trust",
        "Each is tried in 4 settings on the same 12 fitting cases of all relations together",
        "Packages: none",
        "Rows left out: none",
        "fewer than 30 cases",
        "shown, and decides nothing",
        "Smallest difference of the measure",
        "recall circuit: no nodes of a recall circuit were given",
        "gini at final_norm.hook_norm",
        f"{one.confidence:.4f} each",
    ):
        assert words in said, words
    assert [gate.key for gate in plan.gates] == ["known"] and plan.gates[0].arm is None
    assert {claim.arm for claim in plan.claims} == {ALL, *MADE} and len(plan.claims) == 9 * 4
    changed = study(conflicts=replace(CONFIG, wording=replace(SHORT, statement="{context} ! \n")))
    assert changed.plan().sha256() != plan.sha256()


def test_a_whole_run_from_the_rules_to_the_page_and_once_more(tmp_path, capsys, monkeypatch):
    report = run_study(study(), tmp_path, KINDS, "test")
    said = capsys.readouterr().out
    found = re.search(r"30 conflicts to evaluate and 12 to fit, 0 left out; at most ([\d,]+) tokens to read, about \d+ minutes", said)  # fmt: skip
    assert found, said
    section, page = report.sections["study"], report.sections["context_prior"]
    assert section.status == "done" and not section.interpretable and section.gates[0].worst.value < 120
    assert {verdict.verdict for verdict in section.verdicts} == {"undecided"}
    assert (page.n_cases, page.n_fit) == (30, 12) and page.strength.startswith("log-probability of memory's answer")
    assert {group.name for group in page.groups} == set(MADE) and len(page.head_map) == 2
    assert set(Counter(row.arm for row in page.budget).values()) == {4} and len(page.budget) == 4 * 11
    titles = [table.title for table in section.tables]
    assert "What turns an answer, by relation" in titles and "Tuning budget" in titles
    assert (tmp_path / "figures" / "answers.svg").is_file() and (tmp_path / "figures" / "overview.svg").is_file()
    html = (tmp_path / "report.html").read_text()
    assert "What turns an answer" in html and "Headroom of interventions over prompts" in html

    def no(*arguments, **more):
        raise AssertionError("everything is there")

    monkeypatch.setattr(ContextPriorRealStudy, "answer", no)
    monkeypatch.setattr(ContextPriorRealStudy, "look", no)
    again = run_study(study(), tmp_path, KINDS, "test")
    assert "everything is answered" in capsys.readouterr().out
    assert again.sections["study"].claims == section.claims and again.sections["context_prior"] == page


def test_an_interruption_costs_a_batch(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_stages(study().stages(), whole)
    run, n_calls = Asked.logits, Counter[str]()

    def counted(self, rows, hooks=None):
        n_calls["all"] += 1
        if n_calls["all"] == 60:
            raise KeyboardInterrupt
        return run(self, rows, hooks)

    monkeypatch.setattr(Asked, "logits", counted)
    with pytest.raises(KeyboardInterrupt):
        run_stages(study().stages(), stopped)
    n_calls["all"] = 1000
    run_stages(study().stages(), stopped)
    n_rest = n_calls["all"] - 1000
    n_calls["all"] = 1000
    run_stages(study().stages(), tmp_path / "third")
    assert n_rest < n_calls["all"] - 1000 - 40, "what was read before the interruption is not read again"
    one, other = ({s.key: r[0] for s, r in study().read(folder, {}).items()} for folder in (whole, stopped))
    for key, part in one.items():
        for name, scores in part.outcome.references.items():
            assert np.array_equal(scores.mean_logp, other[key].outcome.references[name].mean_logp, equal_nan=True)
        for name, values in part.sparsity.items():
            assert np.array_equal(values, other[key].sparsity[name])


def test_parts_are_relations_and_all(tmp_path):
    run_stages(study().stages(), tmp_path)
    one = study()
    read = one.read(tmp_path, {})
    assert [subject.arm for subject in read] == [ALL, *MADE]
    (whole,) = read[Subject(arm=ALL)]
    assert whole.rows.all() and whole.min_wins == 30 and whole.confidence == pytest.approx(1 - 0.05 / 4)
    for name in MADE:
        (part,) = read[Subject(arm=name)]
        assert {case.group for case, row in zip(part.outcome.cases, part.rows, strict=True) if row} == {name}
    assert set(whole.sparsity) == {"stated once", "agreeing context", "irrelevant context"}
    assert all(np.isfinite(values).all() for values in whole.sparsity.values())
    assert {path.name for path in tmp_path.iterdir()} >= {ANSWERS, SPARSITY}


def test_tokens_are_those_of_all_rows():
    put = study().put
    case = next(case for case in put.dealt.evaluated if case.group == "towns")
    assert n_tokens_of([case], STATED) == 1 + 4 + 2 == len(case.prompts[STATED]), "answers of one token share a row"
    longer = next(case for case in put.dealt.evaluated if case.group == "signs")
    assert n_tokens_of([longer], STATED) == 2 * (1 + 5 + 2 + 1), "two answers of two tokens are two rows"
    assert n_tokens_of([case], Form(trust=99)) == 0
    assert study().most_tokens() > 40 * n_tokens_of(put.dealt.evaluated, STATED)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (lambda: {"frozen": replace(FROZEN, model="")}, r"study.frozen.model= is missing: give study.frozen.model=gguf:<file>"),
        (lambda: {"frozen": replace(FROZEN, second="hf:x")}, r"study.frozen.second=hf:x reads nothing in this study"),
        (lambda: {"frozen": replace(FROZEN, probes_of=("capitals",))}, r"study.frozen.probes_of=.* reads nothing in this study"),
        (lambda: {"conflicts": replace(CONFIG, examine=replace(CONFIG.examine, n_fit=11))}, r"n_fit=11: 3 relations need at least 12"),
        (lambda: {"conflicts": replace(CONFIG, relations=("capital",)), "frozen": replace(FROZEN, plain_only=True)}, "which needs packages"),
        (lambda: {"conflicts": replace(CONFIG, n=7)}, r"relation towns makes 7 conflicts for this model, and 8 are needed; raise study.conflicts.n=7"),
        (lambda: {"conflicts": replace(CONFIG, examine=replace(CONFIG.examine, n_fit=99))}, r"study.conflicts.42 cases of 42 facts with examine.n_fit=99"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_a_line(changes, said):
    with pytest.raises(ValueError, match=said) as error:
        study(**changes()).plan()
    assert "\n" not in str(error.value)


def test_a_model_without_the_place_of_sparsity_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(real, "loaded", lambda name, device, trust: replace(tiny, module=torch.nn.Embedding(400, 8)))
    with pytest.raises(KeyError, match="no hook point named"):
        study().plan()
