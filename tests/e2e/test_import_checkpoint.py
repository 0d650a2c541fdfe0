"""scripts/import_checkpoint.py: a random checkpoint of the authors' layout becomes a run that every script reads; mistakes are one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import ROOT, Forks
from foreign_checkpoints import EVERY_PLACE, gao_logits, gao_settings, gao_state, write_gao

from sparsetrain.data.tokenizer import train_tokenizer
from sparsetrain.export import load_model, read_meta

MODULE = "def f{i}(x{i}):\n    for item in range({i}):\n        print('red {i}')\n    while item == {i}:\n        return x{i}\n"
SCRIPT = "scripts/import_checkpoint.py"
SMALL = (
    "circuits.find.gate=false", "circuits.find.seeds=[0]", "circuits.find.n_train=16", "circuits.find.n_fit=8", "circuits.find.n_val=8",
    "circuits.find.n_heldout=8", "circuits.find.n_random=5", "circuits.find.n_boot=20", "circuits.find.prune.n_steps=5",
    "circuits.find.prune.clean_rounds=1", "circuits.n_means_windows=8", "wandb=disabled", "progress=false",
)  # fmt: skip
SETTINGS = gao_settings(
    vocab_size=290, block_size=48, d_pos_emb=8, sink=True, enable_bigram_table=True, afrac=0.25, afrac_loctypes=EVERY_PLACE
)  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with a checkpoint, its tokenizer, and text."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("scripts", "conf"):
        (folder / name).symlink_to(ROOT / name)
    write_gao(folder / "src", SETTINGS, gao_state(SETTINGS))
    texts = [MODULE.format(i=i) * 8 for i in range(30)]
    (folder / "src" / "tokenizer.json").write_text(train_tokenizer(texts, 290).to_json())
    (folder / "text").mkdir()
    for i, text in enumerate(texts):
        (folder / "text" / f"{i}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def imported(desk, python: Forks) -> Path:
    sources = f"data.sources={{mine: {{kind: files, paths: ['{desk}/text']}}}}"
    done = python(SCRIPT, "format=gao", "src=src", "dst=mine", sources, f"cache_dir={desk}/cache", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert (
        "2 layers of width 16" in done.stdout
        and "positions concat" in done.stdout
        and "no tokenizer" not in done.stdout
    )
    return desk / "mine"


def test_the_export_has_the_logits_and_says_where_it_comes_from(imported):
    tokens = torch.tensor([3, 5, 3, 289])
    torch.testing.assert_close(load_model(imported)(tokens[None])[0], gao_logits(SETTINGS, gao_state(SETTINGS), tokens), atol=1e-5, rtol=1e-5)  # fmt: skip
    meta = read_meta(imported)
    assert meta["step"] is None and meta["imported"]["format"] == "gao"
    assert meta["imported"]["tokenizer_name"] == "tinypython_2k" and meta["imported"]["tied_unembed"] is False
    assert set(meta["imported"]["files"]) == {"beeg_config.json", "final_model.pt"}


@pytest.mark.slow
def test_every_script_reads_it(imported, desk, python: Forks):
    for command in (
        ("find_circuits.py", "run=mine", "task=for_while", "card=quick", *SMALL),
        ("ablate.py", "run=mine", 'prompt="for item"', 'nodes="blocks.0.mlp.hook_out:11"', "mode=mean"),
        ("ablate.py", "run=mine", 'prompt="for item"', 'nodes="blocks.1.attn.hook_out:3"', "mode=resample"),
        ("export_circuit.py", "run=mine", "task=for_while", "format=graphml"),
        ("export_circuit.py", "run=mine", "task=for_while", "format=neuronpedia"),
        ("report.py", "run=mine"),
        ("generate.py", "run=mine", "prompt=for item in"),
        ("verify_report.py", "run=mine"),
        ("measure_sparsity.py", "model=mine", f"data={desk}/text", "measure.n_examples=4", "measure.n_bootstrap=20", "progress=false", "hydra.run.dir=measured"),
    ):  # fmt: skip
        done = python(f"scripts/{command[0]}", *command[1:], cwd=desk)
        assert done.returncode == 0, (command, done.stdout[-500:], done.stderr[-2000:])
    report = json.loads((imported / "report.json").read_text())
    assert "not the model's training text" in report["circuits"]["definitions"]["means"]["source"]
    (task,) = report["circuits"]["tasks"]
    assert task["task"] == "for_while"
    if task["status"] == "circuit":
        assert (imported / "circuits" / "for_while" / "viewer.json").is_file()
        assert (imported / "circuits" / "for_while" / "card.json").is_file()


def test_without_a_tokenizer_the_file_to_add_is_named(imported, desk, python: Forks):
    del imported  # only so that the text is there
    done = python(SCRIPT, "format=gao", "src=src", "dst=bare", "tokenizer=none", cwd=desk)
    assert done.returncode == 0 and "need bare/tokenizer.json (tinypython_2k)" in done.stdout, done.stderr
    for command in (("generate.py", "prompt=a"), ("find_circuits.py", "task=for_while", *SMALL)):
        done = python(f"scripts/{command[0]}", "run=bare", *command[1:], cwd=desk)
        assert done.returncode == 1 and "bare/tokenizer.json" in done.stderr and done.stderr.count("\n") == 1, (
            done.stderr
        )
    shutil.copy(desk / "src" / "tokenizer.json", desk / "bare")
    assert python("scripts/generate.py", "run=bare", "prompt=a", cwd=desk).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("src=src", "dst=new"), "format= is missing"),
        (("format=gpt", "src=src", "dst=new"), "format='gpt' is unknown; allowed: gao, sparse_pretrain, huggingface"),
        (("format=gao", "dst=new"), "src= is missing"),
        (("format=gao", "src=src"), "dst= is missing"),
        (("format=gao", "src=nowhere", "dst=new"), "src=nowhere: no such folder"),
        (("format=gao", "src=src", "dst=text"), "dst=text is there already"),
        (("format=sparse_pretrain", "src=src", "dst=new"), "the folder has no config.json"),
        (("format=gao", "src=src", "dst=new", "tokenizer=nowhere.json"), "tokenizer=nowhere.json: no such file"),
        (("format=gao", "src=src", "dst=new", "tokenizer=src/beeg_config.json"), "cannot be read"),
        (("format=gao", "src=src", "dst=new", "tokenizer=words.json"), "or give tokenizer=none"),
        (("format=gao", "src=src", "dst=new", "tokenizer=large.json"), "has 300 tokens, the model 290"),
    ],
)
def test_mistakes_are_one_line(desk, python: Forks, arguments, words):
    (desk / "large.json").write_text(train_tokenizer([MODULE.format(i=i) for i in range(99)], 300).to_json())
    (desk / "words.json").write_text(
        '{"model": {"type": "WordLevel", "vocab": {"<|endoftext|>": 0, "caf\\u2603": 1}, "unk_token": "x"}}'
    )
    done = python(SCRIPT, *arguments, cwd=desk)
    assert done.returncode == 1 and words in done.stderr and done.stderr.strip().count("\n") == 0, done.stderr
    assert not (desk / "new").exists()
