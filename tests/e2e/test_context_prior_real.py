"""+experiment=context_prior_real on tiny models built on the spot and on one that ships: hf:, gguf:, going on, and every mistake as one line."""

import json
from pathlib import Path

import pytest

from circuits.context_prior.facts import SAID, Said
from circuits.run import KINDS
from sparsetrain.data.knowledge import Fact
from sparsetrain.report import parse_report

pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from commands import in_process
from gguf_example import write_gguf
from hub_example import save_answering_model, save_hub_model

PLAIN = (
    "+experiment=context_prior_real",
    "+debug=smoke",
    "trainer.progress=false",
    "trainer.n_threads=1",
    "logger=none",
)
FILES = {"plan.json", "report.json", "report.md", "report.html", "config.yaml", "figures", "answers", "sparsity"}


def fact(relation: str, subject: str, answer: str, fame: float) -> Fact:
    return Fact(relation=relation, subject=subject, answer=answer, fame=fame)


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Relations of made-up words: what `answering_model` was trained to say, and letters of the GGUF tokenizer."""
    keys = [fact("keys", f"w{20 + i} w{i % 2} w5 w{30 + i} w4", f"w{9 + i % 2}", 30.0 - i) for i in range(14)]
    letters = [fact("letters", f"d {letter}", "qrst"[i % 4], 30.0 - i) for i, letter in enumerate("efghijklmn")]
    for name, statement, facts in (("keys", "{subject} {answer}", keys), ("letters", "{subject} {answer} ", letters)):
        said = Said(statement=statement, question="{subject}", fame="a number", facts=lambda facts=facts: facts, plain=True)  # fmt: skip
        monkeypatch.setitem(SAID, name, said)


@pytest.fixture
def train(tmp_path, capsys):
    """Runs train.py in this process; returns the run's folder, or the one line of an error."""

    def run(*arguments: str) -> Path | str:
        out = tmp_path / "run"
        try:
            in_process("train.py", *PLAIN, *arguments, f"hydra.run.dir={out}")
        except SystemExit as stop:
            assert stop.code == 1
            error = capsys.readouterr().err
            assert error.startswith("error: ") and len(error.splitlines()) == 1, error
            return error
        return out

    return run


def sections_in(out: Path | str) -> dict:
    assert isinstance(out, Path), out
    assert {path.name for path in out.iterdir()} >= FILES
    report = json.loads((out / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    return report


def test_a_hub_model_that_knows_its_keys_and_once_more(train, tmp_path, capsys):
    hub = save_answering_model(tmp_path / "hub", "llama")
    arguments = (f"study.frozen.model=hf:{hub}", "study.conflicts.relations=[keys]", "study.conflicts.n=14")
    report = sections_in(train(*arguments))
    said = capsys.readouterr().out
    assert "10 conflicts to evaluate and 4 to fit" in said and "minutes on this machine" in said
    page, study = report["context_prior"], report["study"]
    assert (page["n_cases"], page["n_fit"], page["n_known"]) == (10, 4, 10), "the model was trained to answer so"
    assert study["status"] == "done" and study["gates"][0]["worst"]["value"] == 10 and not study["interpretable"]
    assert {"contrastive decoding", "head scaling", "dual run", "one direction", "activation patching"} <= {
        arm["name"] for arm in page["arms"]
    }
    keys = {claim["key"] for claim in study["claims"]}
    assert {"all relations: headroom", "keys: grows", "keys: sparser"} <= keys
    undefined = next(claim for claim in study["claims"] if claim["key"] == "keys: headroom")
    assert undefined["number"]["value"] is None and "headroom needs 30" in undefined["number"]["note"]
    again = sections_in(train(*arguments, "ckpt_path=last"))
    assert again["study"]["claims"] == study["claims"] and again["context_prior"] == page
    assert "everything is answered" in capsys.readouterr().out


def test_a_gguf_model_that_knows_nothing(train, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf")
    wording = (
        'study.conflicts.wording.trust=["y\\n","z\\n","y y\\n","z z\\n"]',
        'study.conflicts.wording.distrust=["w\\n"]',
        'study.conflicts.wording.filler=["x\\n"]',
        'study.conflicts.wording.rewordings=["v {context} ","w {context} ","x {context} ","y {context} "]',
        'study.conflicts.wording.statement="{context} "',
    )
    report = sections_in(
        train(f"study.frozen.model=gguf:{tmp_path}/tiny.gguf", "study.conflicts.relations=[letters]", *wording)
    )
    page = report["context_prior"]
    assert page["n_cases"] == 6 and page["n_prior_wins"] <= page["n_known"] < 6
    assert {verdict["verdict"] for verdict in report["study"]["verdicts"]} == {"undecided"}
    assert "tiny.gguf: LlamaForCausalLM" in " ".join(report["study"]["plan"]["method"])


def test_a_model_that_ships_adds_small_numbers(train):
    report = sections_in(train("study.frozen.model=zoo:python-abstopk", "study.conflicts.relations=[sums]"))
    assert report["study"]["plan"]["arms"] == ["all relations", "sums"]
    assert (report["context_prior"]["n_cases"], report["context_prior"]["n_fit"]) == (8, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study.frozen.model="], "study.frozen.model= is missing: give study.frozen.model=gguf:<file>"),
        (["study.frozen.model=hf:<tmp>/nowhere"], "no such folder"),
        (["study.frozen.second=hf:<tmp>/hub"], "reads nothing in this study"),
        (["study.conflicts.relations=[nope]"], "study.conflicts.relations has nope; there are capital, currency, symbol"),
        (["study.conflicts.relations=[capital]"], "study.conflicts.relations has capital, which needs packages"),
        (["study.conflicts.relations=[sums]"], "relation sums makes 0 conflicts for this model"),
        (["study.conflicts.n=7"], "relation keys makes 7 conflicts for this model, and 8 are needed"),
        (["study.conflicts.examine.n_fit=3"], "study.conflicts.examine.n_fit=3: 1 relations need at least 4"),
        (["study.conflicts.examine.measure=accuracy"], "study.conflicts.examine.measure"),
        (["study.conflicts.wording.question=x"], "study.conflicts.wording.question='x' must have {question} once"),
        (["study.conflicts.nothing=1"], "nothing"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_line(untrained, train, tmp_path, arguments, said):
    given = [word.replace("<tmp>", str(tmp_path)) for word in arguments]
    keys = {word.partition("=")[0] for word in given}
    rest = [
        word
        for word in (f"study.frozen.model=hf:{untrained}", "study.conflicts.relations=[keys]")
        if word.partition("=")[0] not in keys
    ]
    error = train(*given, *rest)
    assert isinstance(error, str) and said in error, error


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    return save_hub_model(tmp_path_factory.mktemp("untrained") / "model")
