"""Every command and every piece of Python in README.md and docs/ works: composed in the default suite, run at smoke size in the slow one.

A block that cannot run here says why in the line above it: `<!-- not run: needs a network -->` (the reasons are those of `REASONS`). What a
reader has to fill in, `<stamp>` for instance, stands in `PLACEHOLDERS` with what the tests fill in. The Python blocks of a page are one
program, from top to bottom.
"""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import ROOT, Forks
from data_example import write_files
from foreign_checkpoints import gao_settings, gao_state, write_gao
from gguf_example import write_gguf
from hub_example import save_hub_model
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import conf_dir, replacing
from sparsetrain.job import Job
from sparsetrain.typed import from_dict

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REASONS = {
    "installs packages",
    "needs a network",
    "needs a GPU",
    "needs SLURM",
    "takes minutes",
    "takes hours",
    "runs in an environment of its own",
}
PLACEHOLDERS = {
    "runs/quickstart/<stamp>": "runs/quickstart/smoke",
    "runs/dense_baseline/<stamp>": "runs/quickstart/smoke",
    "run=...": "run=runs/quickstart/smoke",
    "sweeps=[runs/quickstart/multirun/<stamp>]": "sweeps=[runs/sweep]",
    "<quickstart run>": "runs/quickstart/smoke",
    "runs/<...>": "runs/quickstart/smoke",
    "<folder or hub name>": "hub",
    "<folder>": "runs/folder",
    "<file.jsonl>": "near.jsonl",
    "<conflicts.jsonl>": "conflicts.jsonl",
    "<questions.jsonl>": "questions.jsonl",
    "<another run>": "runs/sweep/0",
    "<file.gguf>": "tiny.gguf",
    "<checkpoint>": "checkpoint",
    "<file.whl>": "package.whl",
    "<owner/set>": "owner/set",
    "<commit>": "0123abc",
    "<entity/project/sweep>": "mine/sparsetrain/abc",
}
STEPS = {
    "step_5600": "step_12",
    "task=with_as": "task=for_while",
    "task=all": "task=for_while",
    "circuits/with_as": "circuits/for_while",
}
"""What a quickstart has and its smoke-sized run has not."""
CIRCUITS = (
    "gate=false", "n_train=16", "n_fit=8", "n_val=8", "n_heldout=8", "n_random=5", "n_boot=20", "prune.n_steps=5", "prune.clean_rounds=1",
)  # fmt: skip
SMALL = {
    "train": ("+debug=smoke", "trainer.progress=false", "logger=none"),
    "find_circuits": (*(f"circuits.find.{setting}" for setting in CIRCUITS), "wandb=disabled", "progress=false"),
    "calibrate_card": ("families=[lookup,seen]", "forms=[plain]", "progress=false"),
    "interval_coverage": ("n_sets=5", "progress=false"),
    "curriculum": ("interval.n_bootstrap=20", "choice.n_draws=2", "progress=false", "cache_dir=cache"),
    "context_prior": ("examine.n_bootstrap=20", "examine.n_random=1", "progress=false"),
    "fracture": (
        "read.n_perturbations=3",
        "read.n_prompts=2",
        "read.attributions.n_prompts=1",
        "read.attributions.kinds=[attn_out]",
        "read.circuits.n_pairs=2",
        "read.circuits.n_tries=1",
        "read.circuits.prune.n_steps=2",
        "n_bootstrap=20",
        "progress=false",
    ),
    "measure_sparsity": ("measure.n_examples=8", "measure.n_bootstrap=20", "progress=false"),
}
"""Settings that make a command small."""
MODELS = {
    "bench_items": "MODEL = m.ModelConfig(d_vocab=64, n_layer=1, d_model=32, n_ctx=64)",
    "bench_sparse_step": "N_LAYER, m.D_HEAD, m.N_CTX, m.D_VOCAB, m.BATCH, m.WIDTHS, m.N_STEPS = 1, 8, 16, 64, 2, {'cpu': (32,)}, 1000; m.CONFIG = m.replace(m.CONFIG, floor=0)",
    "bench_sparse_inference": "N_LAYER, m.D_HEAD, m.N_CTX, m.D_VOCAB, m.WIDTHS = 1, 8, 16, 64, (32,)",
    "bench_perturbations": "MODEL = m.ModelConfig(d_vocab=64, n_layer=1, d_model=64, d_head=8, n_ctx=16); m.N_TOKENS = 16",
    "bench_safety": "MODEL = m.ModelConfig(d_vocab=64, n_layer=1, d_model=32, n_ctx=32); m.EVERY = 4",
    "bench_tracker": "MODEL = m.ModelConfig(d_vocab=64, n_layer=1, d_model=32, n_ctx=32)",
}
"""What makes a benchmark of one model small, where `m` is its module; those of several sizes have `--small`."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One line of a shell block, or a command within a sentence."""

    block: Block
    text: str

    def __str__(self) -> str:
        return f"{self.block.page.stem}: {self.text[:100]}"

    @property
    def argv(self) -> list[str]:
        text = re.sub(r"\s+#\s.*$", "", self.text)
        for placeholder, value in PLACEHOLDERS.items():
            text = text.replace(placeholder, value)
        assert not (left := re.findall(r"<[^>]*>|\.\.\.", text)), f"{self}: {left} is not in PLACEHOLDERS"
        words = shlex.split(text)
        while "=" in words[0]:  # settings of the environment in front
            words = words[1:]
        return words

    @property
    def script(self) -> str:
        """`find_circuits` of `python scripts/find_circuits.py run=...`."""
        return Path(self.argv[1]).stem


FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"`((?:[A-Z_]+=\S+ )*python (?:train\.py|scripts/\w+\.py)[^`]*)`")


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(
            page, text[: match.start("text")].count("\n") + 1, match["language"], match["text"], match["reason"] or ""
        )
        for match in FENCE.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands() -> list[Command]:
    found = []
    for block in BLOCKS:
        if block.language == "sh":
            lines = block.text.replace("\\\n", " ").splitlines()
            found += [Command(block, line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    for page in PAGES:
        prose = Block(page, 0, "", "", "composed alone")
        found += [Command(prose, text) for text in INLINE.findall(FENCE.sub("", page.read_text()))]
    return found


COMMANDS = commands()
PYTHON_PAGES = [page for page in PAGES if any(block.page == page and block.language == "python" for block in BLOCKS)]


def test_blocks_name_their_language_and_reasons_are_known():
    for block in BLOCKS:
        assert block.language or not re.search(r"^(python|make|pip|sparsetrain)\b", block.text, re.MULTILINE), block
        assert not block.not_run or block.not_run in REASONS, f"{block}: {block.not_run!r} is none of {sorted(REASONS)}"
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_exist(page):
    text = FENCE.sub("", page.read_text())
    named = set(re.findall(r"`((?:sparsetrain|circuits|scripts|tests|conf|docs)/[\w/.-]*)`", text))
    assert not [name for name in named if not (ROOT / name).exists()]
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link}
    assert not [link for link in links if link and not (page.parent / link).exists()]


def schema_of(script: str) -> tuple[type, str, Path]:
    """Schema, name and folder of a script's config, from its `@entry(...)` line."""
    if script == "train":
        module, file = train, ROOT / "train.py"
    else:
        module, file = importlib.import_module(f"scripts.{script}"), ROOT / "scripts" / f"{script}.py"
    match = re.search(r'^@entry\((\w+), "(\w+)"(?:.*folder="(\w+)")?', file.read_text(), re.MULTILINE)
    assert match, f"{file} has no @entry line"
    return getattr(module, match[1]), match[2], conf_dir() / (match[3] or "")


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_one(command, monkeypatch):
    """It names a file, a target or an extra that exists, and its settings compose."""
    words = command.argv
    if words[0] == "make":
        assert subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True).returncode == 0
    elif words[0] == "python" and words[1].endswith(".py"):
        if command.script.startswith("bench_"):
            parse = importlib.import_module("sparsetrain.kernels.bench").parse_arguments
            with pytest.raises(SystemExit) as stop:
                parse("", [*words[2:], "--help"])
            assert stop.value.code == 0
            return
        schema, name, folder = schema_of(command.script)
        overrides = [word for word in words[2:] if word not in ("-m", "--help") and not word.startswith("hydra.")]
        if "-m" in words:  # of a distribution its lower end, of several values the first
            overrides = [re.sub(r"=.*interval\(([^,]+),.*", r"=\1", word) for word in overrides]
            overrides = [word if word[-1] in "]}" else word.split(",")[0] for word in overrides]
        overrides = replacing(overrides, ("data.sources",))
        with initialize_config_dir(str(folder), version_base="1.3"):
            from_dict(schema, OmegaConf.to_container(compose(name, overrides=overrides), resolve=True))
    else:
        assert command.block.not_run or words[0] in (".", "sparsetrain", "sparsetrain-train"), f"what is {words}?"


@pytest.fixture(scope="session")
def desk(tmp_path_factory, smoke: Path) -> Path:
    """A folder as a reader's checkout looks like after the quickstart, with texts of their own."""
    desk = tmp_path_factory.mktemp("desk")
    for name in ("train.py", "scripts", "conf"):
        (desk / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", desk / "docs")  # commands write results and pages there
    shutil.copytree(smoke, desk / "runs" / "quickstart" / "smoke")
    save_hub_model(desk / "hub")
    write_gguf(desk / "tiny.gguf")
    tokenizer = next((smoke / "export").glob("step_*/tokenizer.json"))
    settings = gao_settings(vocab_size=Tokenizer.load(tokenizer).d_vocab, block_size=64)
    shutil.copy(tokenizer, write_gao(desk / "checkpoint", settings, gao_state(settings)))
    rows = [{"text": f"w{i % 60} w{i * 7 % 60} for w{i % 5} in range ( w1 )" * 3, "level": i % 2} for i in range(24)]
    (desk / "near.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, first in (("pool", 0), ("test", 30)):
        examples = [{"question": f"w{first + i} w{i}", "answer": f"w{i * 7 % 60}"} for i in range(24)]
        (desk / f"{name}.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    conflicts = [
        {"context": f"w{i} w5 w{i + 1}", "question": f"w{i} w5", "prior": f"w{i + 2}", "answer": f"w{i + 1}"}
        for i in range(9)
    ]
    (desk / "conflicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conflicts))
    questions = [
        {"prompt": f"{before}{name} = {i}\n{name}", "answer": ("\n", " = 1\n")[i % 2], "rule": rule, "split": "heldout" if i == 5 else "train"}
        for rule, before in (("plain", ""), ("behind", "import os\n"))
        for i, name in enumerate(("total", "count", "items", "names", "value", "index"))
    ]  # fmt: skip
    (desk / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (desk / "far.txt").write_text("w3 w5 w7 nothing to see here\n" * 200)
    notebook = {"cells": [{"cell_type": "code", "source": ["x = 1\n", "print(x)"]}]}
    (desk / "notebooks").mkdir()
    (desk / "notebooks" / "first.ipynb").write_text(json.dumps(notebook))
    write_files(desk / "corpus" / "part", n_chars=300_000)
    for number in range(2):  # of a sweep
        shutil.copytree(smoke, desk / "runs" / "sweep" / str(number), ignore=shutil.ignore_patterns("job.json"))
        varying = (f"sparsity.density={2.0**-number}", f"seed={number}")
        Job(command="python train.py -m", varying=varying, number=number).save(desk / "runs" / "sweep" / str(number))
    return desk


def smaller(command: Command, cache: Path) -> list[str]:
    """The arguments of the command at smoke size."""
    words = command.argv[1:]
    if command.script.startswith("bench_"):
        change = f"m.{MODELS[command.script]}; " if command.script in MODELS else ""
        program = f"import scripts.{command.script} as m; {change}m.main()"
        return ["-c", program, *words[1:], "--small", "--runs", "1", "--threads", "1"]
    if "--help" in words:
        return words
    for large, small in STEPS.items():
        words = [word.replace(large, small) for word in words]
    given = dict(word.split("=", 1) for word in words if "=" in word)
    # a folder holds one study
    words = [word.replace("runs/folder", f"runs/folder_{given.get('+experiment')}") for word in words]
    more = [word for word in SMALL.get(command.script, ()) if word.split("=")[0] not in given]
    if given.get("run", "").startswith("zoo:"):  # whose circuits were found with gates, and a page states one rule
        more = [word for word in more if word != "circuits.find.gate=false"]
    if "-m" in words and "+experiment=quickstart" in words:  # several trainings
        more += ["circuits=none", "ood=none"]
    return [*words, *more, *([f"cache_dir={cache}"] if command.script == "train" else [])]


def is_an_experiment(command: Command) -> bool:
    """Just a file of conf/experiment: test_runs.py runs them all."""
    return command.script == "train" and {word.split("=")[0] for word in command.argv[2:]} in (
        {"+experiment"},
        {"+experiment", "+debug"},
    )


TO_RUN = {
    tuple(c.argv): c for c in COMMANDS if not c.block.not_run and c.argv[0] == "python" and not is_an_experiment(c)
}.values()


@pytest.mark.slow
@pytest.mark.parametrize("command", TO_RUN, ids=str)
def test_command_runs_at_smoke_size(command, desk, python: Forks, corpus_cache):
    done = python(*smaller(command, corpus_cache), cwd=desk)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_imports_what_exists(page):
    elsewhere = "runs in an environment of its own"  # which has what it imports
    own = [b for b in BLOCKS if b.page == page and b.language == "python" and b.not_run != elsewhere]
    for block in own:
        for node in ast.walk(ast.parse(block.text)):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.split(".")[0] in ("sparsetrain", "circuits")
            ):
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{block}: {node.module} has no {missing}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_runs(page, desk, python: Forks):
    program = "\n".join(b.text for b in BLOCKS if b.page == page and b.language == "python" and not b.not_run)
    for large, small in {**PLACEHOLDERS, **STEPS}.items():
        program = program.replace(large, small)
    done = python("-c", f"import torch\ntorch.manual_seed(0)\n{program}", cwd=desk)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "doc-function" in (tmp_path / "api" / "sparsetrain.store.html").read_text()


def test_every_page_is_in_the_navigation_and_in_the_readme():
    navigation, readme = (ROOT / "mkdocs.yml").read_text(), (ROOT / "README.md").read_text()
    pages = [page.name for page in PAGES[1:]]
    assert not [page for page in pages if f": {page}" not in navigation or f"[docs/{page}](docs/{page})" not in readme]
