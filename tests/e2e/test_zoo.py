"""The models that ship: loaded by name, the same on every machine, said in the docs as they are; and how a run becomes one of them."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from commands import ROOT, SMOKE, Forks

from circuits.zoo import MAX_EXPORT, ZooModel, row_differences, ship, tables
from sparsetrain import shipped
from sparsetrain.export import export_model, latest_export, load_model, read_meta
from sparsetrain.report.markdown import between

NAMES = shipped.shipped()
PAGE = ROOT / "docs" / "circuits.md"
MAX_WHEEL = 40_000_000


@pytest.fixture(scope="module")
def models() -> list[ZooModel]:
    return [ZooModel.load(name, shipped.shipped_folder(f"zoo:{name}")) for name in NAMES]


def test_there_are_a_sparse_a_dense_and_one_with_abs_topk(models):
    shapes = [model.shape for model in models]
    assert len(NAMES) >= 4 and "python-hour" in NAMES
    assert any("dense" in shape for shape in shapes) and any("AbsTopK" in shape for shape in shapes)
    assert any("AbsTopK" not in shape and "dense" not in shape for shape in shapes)


def test_they_are_small(models):
    assert all(model.n_bytes <= MAX_EXPORT for model in models)
    files = [path for path in shipped.zoo_dir().rglob("*") if path.is_file()]
    assert sum(len(zlib.compress(path.read_bytes(), 6)) for path in files) < MAX_WHEEL, "as a wheel holds them"


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_uncompressed_export(name, tmp_path):
    model = load_model(f"zoo:{name}")
    plain = export_model(model, tmp_path / "plain", None, {"step": 1})
    assert (plain / "model.safetensors").stat().st_size > 2 * MAX_EXPORT
    tokens = torch.randint(model.config.d_vocab, (2, model.config.n_ctx), generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_model(plain)(tokens), model(tokens))


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_is_needed_and_nothing_of_the_machine(name):
    folder = shipped.shipped_folder(f"zoo:{name}")
    card = (folder / "README.md").read_text()
    for part in ("What it is", "How it was made", "Data", "Tasks", "Circuits", "Limits", "Licences"):
        assert f"\n## {part}\n" in card
    assert read_meta(latest_export(folder))["weights_sha256"] in card
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml", ".csv", ".md"):
            assert not re.search(r"(?<![\w.])/(tmp|home|root|work|mnt|Users)/", path.read_text()), path


def test_the_tables_of_the_docs_are_those_of_the_shipped_reports(models):
    """What `make docs-numbers` computes again, here from the reports as they ship."""
    page = PAGE.read_text()
    for name, table in tables(models).items():
        stored = between(f"<!-- made by scripts/zoo.py: {name} -->", "<!-- end of what it made -->", page)
        assert not row_differences(stored, table), name


LOSSES = """
import json, sys
from pathlib import Path
import torch
from circuits.circuit import Circuit
from circuits.search.task import heldout_pairs
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import latest_export, load_model
from sparsetrain.shipped import shipped, shipped_folder
torch.set_num_threads(int(sys.argv[1]))
found = {}
for name in shipped():
    folder = shipped_folder(f"zoo:{name}")
    export = latest_export(folder)
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    for task in json.loads((folder / "report.json").read_text())["circuits"]["tasks"]:
        for entry in task["circuits"]:
            circuit = Circuit.load(folder / entry["path"])
            size = circuit.provenance.config["batch_size"]
            loss = circuit.evaluate(model, heldout_pairs(circuit, tokenizer), batch_size=size)
            found[f"{name} {entry['path']}"] = (loss, entry["task_loss"]["value"])
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_threads, setting",
    [
        (1, {}),
        (2, {}),
        (1, {"CXX": "no-such-compiler"}),  # no native kernels
        (1, {"ATEN_CPU_CAPABILITY": "default"}),  # no vector instructions
    ],
    ids=["1 thread", "2 threads", "no native kernels", "no vector instructions"],
)
def test_circuits_have_their_losses_on_other_machines(n_threads, setting, tmp_path):
    environment = {**os.environ, **setting, "PYTHONPATH": str(ROOT)}
    if setting:
        environment["SPARSETRAIN_CACHE"] = str(tmp_path)  # where no kernel was compiled
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOSSES, str(n_threads)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads(done.stdout.splitlines()[-1])
    assert len(losses) >= len(NAMES)
    assert not {at: pair for at, pair in losses.items() if abs(pair[0] - pair[1]) > 1e-5}


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("desk")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("report.py", "run=zoo:python-hour", "brief=numbers.json"),
        ("generate.py", "run=zoo:python-hour", "prompt='for i in'", "generate.n_tokens=4"),
        ("doctor.py", "run=zoo:python-hour"),
        ("export_circuit.py", "run=zoo:python-hour", "task={task}", "format=node_link"),
        ("compare.py", "a=zoo:python-hour", "b=zoo:{other}"),
        ("measure_sparsity.py", "model=zoo:python-hour", "data=some.txt", "measure.n_examples=8", "measure.n_bootstrap=20"),
        ("curriculum.py", "model=zoo:python-hour", "pool=rows.jsonl", "cache_dir=cache", "interval.n_bootstrap=20"),
        ("find_circuits.py", "run=zoo:python-hour", "task={task}", "wandb=disabled", "progress=false"),
        ("zoo.py", "only=python-hour"),
        ("ablate.py", "run=zoo:python-hour", "prompt='for i in'", "nodes='blocks.1.attn.hook_v:1'", "mode=zero"),
        ("../train.py", *SMOKE, "init_from=zoo:python-hour", "circuits=none", "ood=none"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_every_command_takes_a_model_by_its_name(words, desk, models, python: Forks, corpus_cache):
    (hour,) = (model for model in models if model.name == "python-hour")
    known = {
        "task": next(task.task for task in hour.tasks if task.circuits),
        "other": next(n for n in NAMES if n != hour.name),
    }
    rows = [{"question": f"for item in {name}", "answer": "range"} for name in ("x", "y", "rows", "keys", "names")]
    (desk / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (desk / "some.txt").write_text("for item in range(9):\n    print(item)\n" * 400)
    script, *settings = (word.format(**known) if "{task}" in word or "{other}" in word else word for word in words)
    if script == "../train.py":
        settings = [*settings, f"cache_dir={corpus_cache}"]
    done = python(str(ROOT / "scripts" / script), *settings, cwd=desk)
    if script == "../train.py":  # its vocabulary is not the smoke corpus's: refused in a line that says so
        assert done.returncode == 1 and "d_vocab" in done.stderr.splitlines()[-1], done.stderr[-2000:]
        return
    assert done.returncode == 0, done.stderr[-3000:]
    if script == "find_circuits.py":  # searched already
        assert json.loads((desk / "runs/zoo/python-hour/report.json").read_text())["circuits"]["tasks"]


def test_what_is_no_model_is_said_with_those_that_are(python):
    done = python("scripts/report.py", "run=zoo:python-day")
    assert done.returncode == 1 and "zoo:python-hour" in done.stderr.splitlines()[-1]
    done = python("scripts/zoo.py", "check=true")
    assert done.returncode == 1 and "page=docs/circuits.md" in done.stderr.splitlines()[-1]
    done = python("scripts/zoo.py", "page=docs/recipe.md", "check=true")  # said before anything is computed
    assert done.returncode == 1 and "must hold the lines" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_run_joins_the_zoo_and_its_tables_are_held_against_a_page(
    tmp_path, monkeypatch, python, corpus_cache, capsys
):
    run = tmp_path / "run"
    done = python(
        "train.py", *SMOKE, "callbacks.export_packed=true", f"hydra.run.dir={run}", f"cache_dir={corpus_cache}"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setattr(shipped, "zoo_dir", lambda: tmp_path / "zoo")
    monkeypatch.setattr("circuits.zoo.shipping.zoo_dir", shipped.zoo_dir)
    folder = ship(run, "small", "A try.")
    with pytest.raises(ValueError, match="a name is made of"):
        ship(run, "../other", "A try.")
    with pytest.raises(ValueError, match="is there already"):
        ship(run, "small", "again")
    member = ZooModel.load("small", folder)
    assert (
        "A try." in (folder / "README.md").read_text()
        and member.report.plain() == ZooModel.load("small", run).report.plain()
    )
    made = tables([member.recomputed()])
    assert made == tables([member]), "nothing differs on this machine"
    # a report that claims another loss is found out
    report = json.loads((folder / "report.json").read_text())
    task = next(task for task in report["circuits"]["tasks"] if task["circuits"])
    task["circuits"][0]["task_loss"]["value"] += 0.1
    (folder / "report.json").write_text(json.dumps(report))
    claimed = ZooModel.load("small", folder)
    differences = row_differences(tables([claimed])["circuits"], tables([claimed.recomputed()])["circuits"])
    assert len(differences) == 1 and task["task"].split("_")[0] in differences[0][0]


@pytest.mark.slow
def test_an_export_that_is_too_large_does_not_ship(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr("circuits.zoo.shipping.zoo_dir", lambda: tmp_path / "zoo")
    monkeypatch.setattr("circuits.zoo.shipping.MAX_EXPORT", 1000)
    with pytest.raises(ValueError, match=r"train with callbacks\.export_packed=true"):
        ship(smoke, "large", "too large")
    assert not (tmp_path / "zoo" / "large").exists()


@pytest.mark.slow
def test_the_rehearsal_of_the_gpu_script_runs_every_part(tmp_path):
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run(
        [bash, "scripts/on_gpu.sh", "--smoke", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    parts = json.loads((tmp_path / "parts.json").read_text())["parts"]
    assert [part["part"] for part in parts if part["exit_code"]] == []
    assert sum(part["limit"] for part in parts) <= 600, "ten minutes on a card"
    assert {path.name for path in tmp_path.iterdir()} >= {
        "bench_topk.json", "bench_projection.json", "bench_attention.json", "bench_step.json", "bench_sparse_step.json", "gao_118m_profile.json", "gao_118m.json", "size_gpu.json", "tests.txt",
    }  # fmt: skip
    for path in tmp_path.glob("*.json"):
        json.loads(path.read_text())
