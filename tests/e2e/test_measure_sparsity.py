"""scripts/measure_sparsity.py on a tiny model built on the spot: the folder it leaves, and every mistake as one line."""

import csv
import json
import random
import re
import sys
from math import log
from pathlib import Path

import pytest
import torch

from sparsetrain.adapters import hub_files
from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import export_model
from sparsetrain.report import parse_report
from sparsetrain.report.sections import KINDS
from sparsetrain.representation.evaluate import measure_splits
from sparsetrain.representation.table import read_rows

pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from commands import in_process
from hub_example import WORDS, hub_model, save_hub_model, save_tokenizer, shrinking_model

SCRIPT = "scripts/measure_sparsity.py"
SMALL = ["texts.n_ctx=24", "measure.n_bootstrap=50", "measure.n_examples=24", "device=cpu"]
FILES = {"report.json", "report.md", "report.html", "sparsity.csv", "examples.csv", "config.yaml"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    return save_hub_model(tmp_path_factory.mktemp("hub") / "model")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Three labels by level, of 30 lines each."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("texts") / "words.jsonl"
    with path.open("w") as file:
        for i in range(90):
            words = [f"w{rng.randrange(20 * (i % 3 + 1))}" for _ in range(rng.randint(4, 30))]
            file.write(json.dumps({"text": " ".join(words), "label": f"split {i % 3}", "level": i % 3}) + "\n")
    return path


@pytest.fixture
def measure(tmp_path, capsys):
    """Runs the script in this process; returns the run's folder, or the one line of an error."""

    def run(*arguments: str) -> Path | str:
        out = tmp_path / "run"
        settings = [f"hydra.run.dir={out}", *(a for a in SMALL if a.split("=")[0] not in str(arguments))]
        try:
            in_process(SCRIPT, *arguments, *settings)
        except SystemExit as stop:
            assert stop.code == 1
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and error.startswith("error: "), error
            return error
        return out

    return run


def test_a_hub_model_on_a_jsonl(hub, texts, measure):
    out = measure(f"model=hf:{hub}", f"data={texts}", "progress=false")
    assert {path.name for path in out.iterdir()} >= FILES
    report = json.loads((out / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    section = report["measurement"]
    assert [(s["name"], s["level"], s["n_examples"]) for s in section["splits"]] == [
        (f"split {i}", i, 24) for i in range(3)
    ]
    assert section["model"]["architecture"] == "GPT2LMHeadModel" and len(section["points"]) == 20
    assert "step" not in report["weights"] and len(report["weights"]["sha256"]) == 64
    rows = [row for _, row in read_rows(out / "sparsity.csv")]
    measured = {(row.hook_point, row.measure) for row in rows if row.split == "split 2"}
    assert {
        ("logits", "entropy"),
        ("final_norm.hook_norm", "gini"),
        ("blocks.1.mlp.hook_neuron", "lifetime_kurtosis"),
    } <= measured
    point = next(p for p in section["points"] if p["hook_point"] == "final_norm.hook_norm")
    gini = point["values"]["split 1"]["gini"]
    row = next(r for r in rows if (r.split, r.hook_point, r.measure) == ("split 1", "final_norm.hook_norm", "gini"))
    assert (gini["value"], gini["lo"]) == pytest.approx((row.value, row.lo), rel=1e-6) and gini["lo"] < gini["hi"]
    with (out / "examples.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 24 * 20
    page = (out / "report.html").read_text()
    assert "gini minus its Gaussian value" in page and "against loss at blocks.0.mlp.hook_neuron" in page
    assert "gini minus that of split 0" in page and "gini, random basis, minus that of split 0" in page
    assert set(point["controls"]) == {"gain", "rotated", "trimmed", "initialisation"}
    assert {"level_gain", "level_initialisation", "level_means", "shuffled"} <= set(point["trends"])
    assert point["differences"]["split 2"]["lo"] < point["differences"]["split 2"]["hi"]


def test_other_seeds_and_chosen_controls(hub, texts, measure, tmp_path):
    hub_model("gpt2", seed=1).save_pretrained(tmp_path / "other")
    save_tokenizer(tmp_path / "other", WORDS)
    settings = ("measure.controls=[shuffled]", "measure.covariates=[length]", "measure.kinds=[norm]", "progress=false")
    out = measure(
        f"model=hf:{hub}", f"seeds=hf:{tmp_path}/other", f"data={texts}", *settings, "measure.positions=matched"
    )
    report = json.loads((out / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    section = report["measurement"]
    assert section["covariates"] == ["length"] and section["positions"].endswith("in every example of every split")
    point = section["points"][-1]
    assert not point["controls"] and set(point["trends"]) == {"loss", "level", "level_controlled", "shuffled"}
    over = section["seeds"]["points"][-1]["level"]
    assert over["each"][0] == point["trends"]["level"]["value"] and over["over"]["n"] == len(over["each"]) == 2
    assert "Does gini go with distance in every seed?" in (out / "report.html").read_text()


def test_a_run_of_ours_and_a_plain_text(make_model, tmp_path, measure):
    words = "for i in range(3):\n    print(i)\n" * 80
    tokenizer = train_tokenizer([words], 270)
    export_model(make_model(d_vocab=270), tmp_path / "ours" / "export" / "step_5", tokenizer.to_json(), {"step": 5})
    (tmp_path / "code.py").write_text(words)
    (tmp_path / "noise.txt").write_text("".join(random.Random(0).choices("abcdefgh \n", k=1200)))
    both = f"data=[{tmp_path}/code.py,{tmp_path}/noise.txt]"
    out = measure(f"model={tmp_path}/ours", both, "measure.points=[blocks.1.mlp.hook_neuron]", "measure.positions=last")
    report = json.loads((out / "report.json").read_text())
    section = report["measurement"]
    for split in section["splits"]:
        bits, loss = split["bits_per_char"], split["loss"]["value"]
        assert bits["unit"] == "bits/char" and bits["lo"] <= bits["value"] <= bits["hi"]
        assert bits["value"] * float(bits["note"].split()[0]) * log(2) == pytest.approx(loss, rel=1e-3)
    assert report["weights"]["step"] == 5 and [s["name"] for s in section["splits"]] == ["code", "noise"]
    assert [p["hook_point"] for p in section["points"]] == ["blocks.1.mlp.hook_neuron"]
    assert section["points"][0]["values"]["code"]["l0"]["value"] == 0.25, "AbsTopK keeps a quarter"


def test_help_tells_what_to_type(capsys):
    with pytest.raises(SystemExit) as stop:
        in_process(SCRIPT, "--help")
    assert not stop.value.code
    words = capsys.readouterr().out
    assert (
        "model=hf:<folder or hub name> data=<file.jsonl>" in words and "min_tokens: 2" in words and '"level"' in words
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model= is missing"),
        (["model=hf:{hub}"], "data= is missing"),
        (["model=hf:{hub}", "data={tmp}/none.jsonl"], "no such text file: {tmp}/none.jsonl"),
        (["model=hf:{tmp}/modl", "data={texts}"], "no such folder"),
        (["model={tmp}/nowhere", "data={texts}"], "no such folder; give the folder of a finished run"),
        (["model=hf:{hub}", "data={tmp}/empty.jsonl"], "split 'empty' is empty"),
        (["model=hf:{hub}", "data={tmp}/greek.jsonl"], "split 'greek' has no single known token"),
        (
            ["model=hf:{hub}", "data={texts}", "measure.points=[blocks.0.mlp.hook_neurons]"],
            "no hook point named 'blocks.0.mlp.hook_neurons'; near names: blocks.",
        ),
        (["model=hf:{hub}", "data={texts}", "measure.controls=[shufled]"], "'shufled'"),
        (["model=hf:{hub}", "data={texts}", "measure.positions=first"], "measure.positions"),
        (["model=hf:{hub}", "data={texts}", "seeds=hf:{hub}"], "names a model twice"),
        (["model=hf:{hub}", "data={texts}", "texts.n_ctx=65"], "reads 64 positions; give texts.n_ctx=64"),
        (["model=hf:{hub}", "data={texts}", "measure.positons=last"], "did you mean measure.positions"),
        (["model=hf:{hub}", "data={texts}", "texts.text_field=body"], "no text in field 'body' (its fields: text, label, level)"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(arguments, message, hub, texts, tmp_path, measure):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "greek.jsonl").write_text('{"text": "αβγ δε"}\n')
    places = {"hub": hub, "texts": texts, "tmp": tmp_path}
    error = measure(*(argument.format(**places) for argument in arguments))
    assert message.format(**places) in error


def test_a_hidden_size_that_changes_ends_in_one_line(hub, texts, measure, monkeypatch):
    _, tokenizer = hub_files.load(str(hub), torch.float32)
    monkeypatch.setattr(hub_files, "load", lambda source, dtype, trust_remote_code: (shrinking_model(), tokenizer))
    assert "changes between layers: 32 at blocks.0, 16 at blocks.1" in measure(f"model=hf:{hub}", f"data={texts}")


def test_a_model_without_transformers_names_the_extra(hub, texts, measure, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'sparsetrain[hub]'" in measure(f"model=hf:{hub}", f"data={texts}")


def test_what_is_left_out_is_said_and_stands_in_the_report(hub, texts, measure, tmp_path, capsys):
    lines = texts.read_text().splitlines()
    odd = ['{"text": null}', '{"text": "w1 \\ud83d"}', '{"text": "w1\\u0000"}', "torn", '{"text": 1}', '{"text": []}']
    path = tmp_path / "odd, rows [1].JSONL"
    path.write_text("\ufeff" + "\n".join([*lines[:45], *odd, *lines[45:]]), newline="\r\n")
    settings = ("measure.controls=[]", "measure.kinds=[norm]", "progress=false")
    out = measure(f"model=hf:{hub}", f'data=["{path}","{path}"]', *settings)
    section = json.loads((out / "report.json").read_text())["measurement"]
    assert section["n_skipped"] == 7 and section["skipped"][f"{path}:46"] == "no text in field 'text' (it is null)"
    assert section["skipped"][str(path)].startswith("1 of its files counted once already")
    assert "7 rows or files left out" in (out / "report.html").read_text()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("left out", "... and"))]
    whole = measure(f"model=hf:{hub}", f"data={texts}", *settings, "overwrite=true")
    same = json.loads((whole / "report.json").read_text())["measurement"]["points"]
    assert section["points"] == same
    assert len(said) == 6 and said[1] == f"left out: {path}:46: no text in field 'text' (it is null)"


def saved(folder: Path, change) -> Path:
    """A tiny hub model after a change of its weights."""
    model = hub_model("gpt2")
    with torch.no_grad():
        change(model.transformer)
    model.save_pretrained(folder)
    save_tokenizer(folder, WORDS)
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(texts, measure, make_model, tmp_path, capsys, value):
    hub = saved(tmp_path / "hub", lambda model: model.h[1].mlp.c_fc.weight[3].fill_(value))
    capsys.readouterr()
    error = measure(f"model=hf:{hub}", f"data={texts}")
    assert (
        "1 of its 28 weight tensors are not finite (NaN or infinity), the first transformer.h.1.mlp.c_fc.weight in 128"
        in error
    )
    ours = make_model(d_vocab=300)
    with torch.no_grad():
        next(ours.parameters())[7] = value
    export_model(ours, tmp_path / "ours" / "export" / "step_5", train_tokenizer(["words"], 257).to_json(), {"step": 5})
    assert "weight tensors are not finite" in measure(f"model={tmp_path}/ours", f"data={texts}", "overwrite=true")


def test_outputs_that_are_not_finite_are_refused(texts, measure, tmp_path, capsys):
    hub = saved(tmp_path / "hub", lambda model: model.ln_f.weight.fill_(3e38))
    capsys.readouterr()
    error = measure(f"model=hf:{hub}", f"data={texts}", "measure.controls=[]", "progress=false")
    assert re.match(
        r"error: outputs of the model are not finite: loss is NaN .* in 24 of 24 examples of split 'split 0', the first",
        error,
    )


def test_activations_that_are_not_finite_are_refused(texts, measure, monkeypatch, hub):
    def broken(*args, **kwargs):
        found = measure_splits(*args, **kwargs)
        found.energy["blocks.1.mlp.hook_neuron"][:3] = float("inf")
        return found

    monkeypatch.setattr("sparsetrain.representation.survey.measure_splits", broken)
    error = measure(f"model=hf:{hub}", f"data={texts}", "measure.controls=[]", "progress=false")
    assert "activations of the model are not finite: 3 of 128 channels of blocks.1.mlp.hook_neuron" in error
