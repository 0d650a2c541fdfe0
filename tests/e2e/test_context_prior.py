"""scripts/context_prior.py on tiny models built on the spot: ours, hf: and gguf:, going on, and every mistake as one line."""

import json
import random
from pathlib import Path

import pytest

from circuits.run import KINDS
from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import export_model
from sparsetrain.report import parse_report

pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from commands import in_process
from gguf_example import write_gguf
from hub_example import save_answering_model, save_hub_model

SCRIPT = "scripts/context_prior.py"
SMALL = ("progress=false", "device=cpu", "examine.n_bootstrap=20", "examine.n_random=1", "examine.min_facts=3")
FILES = {"report.json", "report.md", "report.html", "config.yaml", "checkpoints"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """Answers w9 behind w0 at the third place, and w10 behind w1."""
    return save_answering_model(tmp_path_factory.mktemp("hub") / "model", "llama")


def write_rows(path: Path, n: int = 9, **more: object) -> Path:
    """A key in the context of a question that has the other key: memory says w9, the context w10."""
    rng, rows = random.Random(0), []
    for i in range(n):
        a, b = rng.sample(range(20, 60), 2)
        row = {"context": f"w{a} w1 w{b} w10", "question": f"w{i + 20} w0 w5 w{i} w4", "prior": "w9", "answer": "w10"}
        rows.append({**row, "relation": f"kind {i % 2}", **more})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def ask(tmp_path, capsys):
    """Runs the script in this process; returns the run's folder, or the one line of an error."""

    def run(*arguments: str) -> Path | str:
        out, given = tmp_path / "run", str(arguments)
        settings = [f"hydra.run.dir={out}", *(word for word in SMALL if word.partition("=")[0] not in given)]
        try:
            in_process(SCRIPT, *arguments, *settings)
        except SystemExit as stop:
            assert stop.code == 1
            error = capsys.readouterr().err
            lines = [line for line in error.splitlines() if not line.startswith(("left out: ", "... and "))]
            assert len(lines) == 1 and lines[0].startswith("error: "), error
            return lines[0]
        return out

    return run


def section_in(out: Path | str) -> dict:
    assert isinstance(out, Path), out
    assert {path.name for path in out.iterdir()} >= FILES
    report = json.loads((out / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    return report["context_prior"]


def test_a_hub_model_from_rows_to_the_page_and_on(hub, ask, tmp_path, capsys):
    data = write_rows(tmp_path / "rows.jsonl")
    with data.open("a") as file:
        file.write(
            '{"context": "torn\n' + json.dumps({"context": "a", "question": "b", "prior": "c", "answer": "c"}) + "\n"
        )
    nodes = "nodes=[blocks.0.mlp.hook_neuron:0-3]"
    out = ask(f"model=hf:{hub}", f"data={data}", nodes)
    said = capsys.readouterr()
    section = section_in(out)
    assert "left out: " in said.err and "both answers are the same" in said.err and "are known from memory" in said.out
    assert (section["n_cases"], section["n_fit"], section["n_skipped"]) == (6, 3, 2)
    assert section["n_known"] == 6, "the model was trained to answer so"
    arms = {arm["name"]: arm for arm in section["arms"]}
    assert {
        "repeat",
        "contrastive decoding",
        "head scaling",
        "dual run",
        "activation patching",
        "one direction",
        "recall circuit",
    } <= set(arms)
    assert section["left_out"].keys() <= {"place"}, "eight sentences of filler do not fit"
    assert len(section["head_map"]) == 2 and len(section["head_map"][0]) == 4
    assert [group["name"] for group in section["groups"]] and section["headroom"]["n"] == 6
    page = (out / "report.html").read_text()
    assert "What turns an answer" in page and "Headroom of interventions over prompts" in page
    again = ask(f"model=hf:{hub}", f"data={data}", nodes, "ckpt_path=last")
    assert section_in(again) == section, "read from the disk"
    refused = ask(f"model=hf:{hub}", f"data={data}", nodes)
    assert "holds a run already" in refused and "ckpt_path=last goes on with it" in refused


def test_a_gguf_model_that_knows_nothing(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf")
    rows = [
        {"context": f"a b {x}", "question": f"c d {y}", "prior": "q", "answer": x}
        for x, y in zip("efghijkl", "mnoprstu", strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = ('wording.trust=["y\\n","z\\n","y y\\n","z z\\n"]', 'wording.distrust=["w\\n"]', 'wording.filler=["x\\n"]')
    wordings = 'wording.rewordings=["v {context} ","w {context} ","x {context} ","y {context} "]'
    section = section_in(
        ask(
            f"model=gguf:{tmp_path}/tiny.gguf",
            f"data={tmp_path}/rows.jsonl",
            wordings,
            *short,
            'wording.statement="{context} "',
        )
    )
    assert (section["n_cases"], section["n_known"]) == (6, 0) and section["headroom"]["value"] is None
    assert "fewer than 3 facts that the model knows" in section["headroom"]["note"]
    assert "no nodes of a recall circuit were given" in section["left_out"]["recall circuit"]
    assert "there is no prior to beat" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_of_ours_with_its_nodes(make_model, tmp_path, ask):
    words = "for i in range(3):\n    print(i)\n" * 80
    tokenizer = train_tokenizer([words], 270)
    export_model(
        make_model(d_vocab=270, n_ctx=256), tmp_path / "ours" / "export" / "step_5", tokenizer.to_json(), {"step": 5}
    )
    rows = [
        {"context": f"for {x} in range", "question": f"print({y}", "prior": "in", "answer": x, "exposures": i % 2}
        for i, (x, y) in enumerate(zip("fornpit", "rangeif", strict=True))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ask(
        f"model=run:{tmp_path}/ours",
        f"data={tmp_path}/rows.jsonl",
        "nodes=[blocks.1.attn.hook_v:0-3,blocks.0.mlp.hook_neuron:7]",
        "examine.n_fit=2",
    )
    section = section_in(out)
    assert section["strength"] == "exposures in training" and {half["prompt"] for half in section["half_points"]} > {
        "stated once"
    }
    assert json.loads((out / "report.json").read_text())["weights"]["step"] == 5
    assert "recall circuit" in {arm["name"] for arm in section["arms"]}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    return save_hub_model(tmp_path_factory.mktemp("untrained") / "model")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model="], "model= is missing"),
        (["data="], "data= is missing"),
        (["data=<tmp>/nowhere.jsonl"], "nowhere.jsonl"),
        (["model=hf:<tmp>/nowhere"], "no such folder"),
        (["model=run:<tmp>/nowhere"], "no such folder"),
        (["model=zoo:nowhere"], "no such model"),
        (["data=<tmp>/bad.jsonl"], "no conflict in data="),
        (["data=<tmp>/unknown.jsonl"], "an answer that the model's tokenizer does not know"),
        (["nodes=[blocks.0.mlp.hook_neuron:999]"], "blocks.0.mlp.hook_neuron"),
        (["nodes=[x]"], "no node 'x'"),
        (["examine.n_fit=100"], "some facts are needed for fitting"),
        (["examine.measure=accuracy"], "examine.measure"),
        (["examine.n_random=0"], "examine.n_random"),
        (["wording.statement=x"], "wording.statement='x' must have {context} once"),
        (["neutral=<tmp>/bad.jsonl"], "no text of four words in neutral="),
        (["ckpt_path=elsewhere"], "ckpt_path=elsewhere must be last"),
        (["batch_size=0"], "batch_size"),
        (["nothing=1"], "nothing"),
    ],
)
def test_every_mistake_is_one_line(untrained, ask, tmp_path, arguments, said):
    write_rows(tmp_path / "rows.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"context": "x"}\n7\n')
    row = {"context": "x", "question": "w1", "prior": "w2", "answer": "elsewhere"}
    (tmp_path / "unknown.jsonl").write_text(json.dumps(row) + "\n")
    given = [word.replace("<tmp>", str(tmp_path)) for word in arguments]
    keys = {word.partition("=")[0] for word in given}
    rest = [
        word for word in (f"model=hf:{untrained}", f"data={tmp_path}/rows.jsonl") if word.partition("=")[0] not in keys
    ]
    error = ask(*given, *rest)
    assert isinstance(error, str) and said in error, error
