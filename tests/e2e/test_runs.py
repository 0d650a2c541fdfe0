"""Whole runs at smoke size: every experiment composes, the run folder is complete, resuming is exact, mistakes are one line."""

import ast
import csv
import json
import shutil
from math import log
from pathlib import Path

import pytest
import torch
from commands import ROOT, SMOKE, in_process
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from circuits.circuit import Circuit
from circuits.run import TrainRun
from circuits.search.task import heldout_pairs
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import conf_dir
from sparsetrain.export import load_model
from sparsetrain.run import check_resume
from sparsetrain.run import train as train_stage
from sparsetrain.training import budget
from sparsetrain.training.budget import TimedStep
from sparsetrain.training.checkpoints import checkpoint_path
from sparsetrain.training.metrics import read_metrics
from sparsetrain.typed import from_dict

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))

LADDER = ("hour", "night", "gpu")
"""Sizes of the quickstart beside its own."""


def config_of(*overrides: str) -> TrainRun:
    assert train.main  # importing train.py registers the base config
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    return from_dict(TrainRun, OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    config = config_of(f"+experiment={experiment}", "+debug=smoke")
    assert config.name == experiment and config.debug and config.model.d_model >= 64


def test_the_ladder_grows_and_an_experiment_on_it_keeps_what_it_sets():
    minutes, *larger = (config_of("+experiment=quickstart", f"size={size}") for size in ("minutes", *LADDER))
    assert minutes == config_of("+experiment=quickstart")
    tokens = [config.trainer.n_steps * config.trainer.batch_size * config.model.n_ctx for config in (minutes, *larger)]
    assert tokens[0] < min(tokens[1:]) and all(config.model.d_model > minutes.model.d_model for config in larger)
    assert config_of("+experiment=dense_baseline", "size=hour").sparsity.density == 1


def test_mistyped_key_in_an_experiment_file_is_an_error(python, tmp_path):
    conf = tmp_path / "experiment"
    conf.mkdir()
    (conf / "broken.yaml").write_text("# @package _global_\nsparsity:\n  densty: 0.1\n")
    done = python(
        "train.py", "+experiment=broken", f"hydra.searchpath=[file://{tmp_path}]", f"hydra.run.dir={tmp_path}/run"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: unknown config key 'sparsity.densty'; did you mean sparsity.density or sparsity.bias_density or "
        "sparsity.embed_density?"
    )


def short(tmp_path: Path, name: str, cache: Path, /, **settings: object) -> Path:
    """A training without watchers, in this process; returns its run folder."""
    run_dir = tmp_path / name
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = config_of(
        *SMOKE,
        "logger=none",
        "circuits=none",
        "ood=none",
        f"cache_dir={cache}",
        "trainer.n_threads=1",
        *overrides,
    )
    train_stage(config, run_dir, command="test")
    return run_dir


@pytest.fixture(scope="module")
def straight(tmp_path_factory, corpus_cache) -> tuple[Path, bytes]:
    base = tmp_path_factory.mktemp("resume")
    run_dir = short(base, "straight", corpus_cache)
    return base, (run_dir / "export" / "step_12" / "model.safetensors").read_bytes()


def test_same_seed_same_bytes(straight, corpus_cache):
    base, weights = straight
    again = short(base, "again", corpus_cache) / "export" / "step_12" / "model.safetensors"
    assert again.read_bytes() == weights


@pytest.mark.parametrize("step", [1, 5, 11])
def test_stopped_and_resumed_is_the_straight_run(straight, corpus_cache, step):
    base, weights = straight
    name = f"stopped_{step}"
    run_dir = short(base, name, corpus_cache, stop_at_step=step)
    assert not (run_dir / "export").exists()
    short(base, name, corpus_cache, ckpt_path="last")
    assert (run_dir / "export" / "step_12" / "model.safetensors").read_bytes() == weights
    with (run_dir / "metrics.csv").open() as a, (base / "straight" / "metrics.csv").open() as b:
        rows = [[row for row in csv.reader(f) if "tokens_per_s" not in row] for f in (a, b)]
    assert rows[0] == rows[1]


def test_a_run_of_so_many_minutes_keeps_its_steps_when_it_is_resumed(tmp_path, corpus_cache, monkeypatch):
    """On the machine of the resumption a step takes ten times as long."""
    seconds = iter([0.01, 0.01, 0.1])
    monkeypatch.setattr(budget, "timed_steps", lambda recipe, stream: [TimedStep(seconds=next(seconds))] * 4)
    straight = short(tmp_path, "straight", corpus_cache, **{"trainer.minutes": 0.002})
    weights = (straight / "export" / "step_12" / "model.safetensors").read_bytes()
    stopped = short(tmp_path, "stopped", corpus_cache, **{"trainer.minutes": 0.002}, stop_at_step=5)
    config = config_of(*SMOKE, "trainer.minutes=0.002", f"cache_dir={corpus_cache}", "ckpt_path=last")
    check_resume(config, stopped)
    short(tmp_path, "stopped", corpus_cache, **{"trainer.minutes": 0.002}, ckpt_path="last")
    assert (stopped / "export" / "step_12" / "model.safetensors").read_bytes() == weights
    assert json.loads((stopped / "budget.json").read_text())["n_steps"] == 12
    with pytest.raises(ValueError, match=r"trainer.minutes=0.002 there, 0.004 here"):
        short(tmp_path, "stopped", corpus_cache, **{"trainer.minutes": 0.004}, ckpt_path="last")


def test_last_without_a_checkpoint_starts_from_the_beginning_and_says_so(straight, corpus_cache, caplog):
    base, weights = straight
    run_dir = short(base, "fresh", corpus_cache, ckpt_path="last")
    assert "starting from the beginning" in caplog.text
    assert (run_dir / "export" / "step_12" / "model.safetensors").read_bytes() == weights


def test_a_damaged_checkpoint_is_left_out_and_the_one_before_is_used(straight, corpus_cache, caplog):
    base, weights = straight
    run_dir = short(base, "damaged", corpus_cache, stop_at_step=5)
    path = checkpoint_path(run_dir, 5)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    short(base, "damaged", corpus_cache, ckpt_path="last")
    assert f"checkpoint {path} does not match its checksum" in caplog.text
    assert (run_dir / "export" / "step_12" / "model.safetensors").read_bytes() == weights


def test_another_run_may_start_from_the_weights_of_one(straight, corpus_cache):
    base, _ = straight
    export = base / "straight" / "export" / "step_12"
    settings = {"init_from": export, "optim.lr_peak": 1e-12, "optim.weight_decay": 0, "sparsity.schedule.end": 0.01}
    again = short(base, "from", corpus_cache, **settings) / "export" / "step_12"
    before, after = load_model(export), load_model(again)
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(before.parameters(), after.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"init_from=.* is of another model: model.d_head=8 there, 16 here"):
        short(base, "other", corpus_cache, **{**settings, "model.d_head": 16})
    with pytest.raises(ValueError, match="reads another tokenizer's tokens"):
        short(base, "tokens", corpus_cache, **{**settings, "data.sources.idioms.n_chars": 60_000})


def test_a_finished_training_is_extended_and_resumed_without_its_parent(straight, corpus_cache):
    base, _ = straight
    settings = {"init_from": base / "parent", "trainer.n_steps": 6, "name": "extended"}
    shutil.copytree(base / "straight", base / "parent")
    run_dir = short(base, "extended", corpus_cache, **settings)
    weights = (run_dir / "export" / "step_6" / "model.safetensors").read_bytes()
    meta = json.loads((run_dir / "export" / "step_6" / "meta.json").read_text())
    parent = json.loads((base / "parent" / "export" / "step_12" / "meta.json").read_text())
    assert parent["next_batch"] == 12 and meta["next_batch"] == 18, "the stream goes on where it was left"
    assert [one["weights_sha256"] for one in meta["lineage"]] == [parent["weights_sha256"]]
    told = json.loads((run_dir / "report.json").read_text())["training"]["lineage"]
    assert told["first_batch"] == 12 and told["n_tokens"]["value"] == (12 + 6) * 4 * 64
    assert told["ancestors"][0]["schedule"].startswith("12 steps, lr_peak") and told["schedule"].startswith("6 steps")
    densities = [value for _, name, value in read_metrics(run_dir / "metrics.csv") if name == "density"]
    assert densities == pytest.approx([parent["density"]] * 6), "sparse weights stay as sparse as they were"

    short(base, "extended_again", corpus_cache, **settings, stop_at_step=4)
    shutil.rmtree(base / "parent")
    with pytest.raises(ValueError, match=r"the checkpoint is of a training with init_from=.*parent, here it is None"):
        short(base, "extended_again", corpus_cache, **{"trainer.n_steps": 6, "ckpt_path": "last"})
    again = short(base, "extended_again", corpus_cache, **settings, ckpt_path="last")
    assert (again / "export" / "step_6" / "model.safetensors").read_bytes() == weights
    assert json.loads((again / "export" / "step_6" / "meta.json").read_text()) == meta

    grandchild = short(base, "grandchild", corpus_cache, **{**settings, "init_from": again, "seed": 1})
    meta = json.loads((grandchild / "export" / "step_6" / "meta.json").read_text())
    assert [one["name"] for one in meta["lineage"]] == ["quickstart", "extended"] and meta["next_batch"] == 6


def test_a_dense_model_is_made_sparse(corpus_cache, tmp_path):
    dense = {"sparsity.density": 1, "sparsity.embed_density": "null", "sparsity.bias_density": "null"}
    parent = short(tmp_path, "dense", corpus_cache, **dense)
    run_dir = short(tmp_path, "sparsified", corpus_cache, init_from=parent, **{"model.abs_topk": "{attn_in: 0.5}"})
    report = json.loads((run_dir / "report.json").read_text())
    assert all(tensor["exact"] for tensor in report["sparsity"]["tensors"])
    assert any("model.abs_topk.attn_in" in words for words in report["training"]["lineage"]["changed"])
    densities = [value for _, name, value in read_metrics(run_dir / "metrics.csv") if name == "density"]
    assert densities[0] > densities[-1] == min(tensor["density_target"] for tensor in report["sparsity"]["tensors"])


def test_a_packed_export_is_small_and_what_the_report_is_about(straight, corpus_cache):
    base, weights = straight
    run_dir = short(base, "packed", corpus_cache, **{"callbacks.export_packed": "true"})
    export = run_dir / "export" / "step_12"
    assert (export / "model.safetensors").stat().st_size < len(weights) / 2
    plain, packed = load_model(base / "straight" / "export" / "step_12"), load_model(export)
    for (name, one), (_, other) in zip(plain.named_parameters(), packed.named_parameters(), strict=True):
        assert torch.equal(one, other) != name.startswith("bigram"), f"{name}: the table alone is rounded"
    losses = [json.loads((folder / "report.json").read_text())["training"]["val_loss"]["mixed"]["value"] for folder in (base / "straight", run_dir)]  # fmt: skip
    assert losses[0] != losses[1] == pytest.approx(losses[0], abs=1e-3)


def test_run_folder_is_complete(smoke):
    for name in (
        "config.yaml", "metrics.csv", "ood_sparsity.csv", "report.json", "report.md", "report.html",
        "checkpoints/step_12.ckpt", "checkpoints/step_10.ckpt", "export/step_12/config.json",
        "export/step_12/model.safetensors", "export/step_12/tokenizer.json", "export/step_12/meta.json",
        "circuits/for_while/circuit.json", "circuits/for_while/circuit.safetensors",
    ):  # fmt: skip
        assert (smoke / name).is_file(), name
    assert list((smoke / "wandb").glob("offline-run-*/*.wandb"))
    report = json.loads((smoke / "report.json").read_text())
    assert report["run"]["gates"] == "off" and report["run"]["debug"]
    assert all(tensor["exact"] for tensor in report["sparsity"]["tensors"])
    assert {"data", "training", "export", "circuits"} <= {stage["name"] for stage in report["stages"]}
    assert report["training"]["n_tokens"]["value"] == 12 * 4 * 64
    for name, bits in report["training"]["bits_per_char"].items():
        per_token = float(bits["note"].split()[0])
        assert bits["value"] * per_token * log(2) == pytest.approx(
            report["training"]["val_loss"][name]["value"], rel=1e-3
        )
        series = "val_bits_per_char" if name == "mixed" else f"val_bits_per_char/{name}"
        assert report["training"]["curves"][series]["value"][-1] == pytest.approx(bits["value"])
    section = report["representation"]
    assert all(split["bits_per_char"]["unit"] == "bits/char" for split in section["splits"])
    assert len(section["splits"]) >= 5 and section["training"]["steps"] == [0, 4, 8, 12]
    assert len({curve["hook_point"] for curve in section["training"]["curves"]}) == 27, (
        "all hook points, and the logits"
    )
    assert set(section["points"][0]["controls"]) == {"rotated", "trimmed", "initialisation"}


def has_sparsity_page(run_dir: Path) -> bool:
    """Whether the report has what `scripts/measure_sparsity.py` shows, and the curves of the training."""
    page = (run_dir / "report.html").read_text()
    titles = (
        "gini at final_norm.hook_resid", "gini minus that of heldout, step 12", "gini minus its Gaussian value, step 12",
        "gini, random basis, minus that of heldout", "gini against loss at final_norm.hook_resid",
        "Does gini go with distance, with loss?", "Does gini still go with distance under the controls?",
    )  # fmt: skip
    return all(title in page for title in titles)


def test_report_has_the_sparsity_page(smoke):
    assert has_sparsity_page(smoke)
    with (smoke / "ood_examples.csv").open() as file:
        assert {"gini", "gini_rotated", "gini_initialisation", "loss"} <= set(next(csv.DictReader(file)))


def test_saved_circuit_evaluates_to_the_reported_loss_exactly(smoke):
    report = json.loads((smoke / "report.json").read_text())
    torch.set_num_threads(report["run"]["n_threads"])
    torch.set_flush_denormal(True)
    export = smoke / "export" / "step_12"
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    entries = [entry for task in report["circuits"]["tasks"] for entry in task["circuits"]]
    assert entries
    for entry in entries:
        circuit = Circuit.load(smoke / entry["path"])
        loss = circuit.evaluate(
            model, heldout_pairs(circuit, tokenizer), batch_size=circuit.provenance.config["batch_size"]
        )
        assert loss == entry["task_loss"]["value"]


@pytest.mark.slow
def test_circuits_of_a_finished_run_join_its_report_and_go_to_wandb(smoke, python, tmp_path):
    run = Path(shutil.copytree(smoke, tmp_path / "run"))
    small = ("gate=false", "n_train=16", "n_fit=8", "n_val=8", "n_heldout=8", "n_random=5", "n_boot=20",
             "prune.n_steps=5", "prune.clean_rounds=1")  # fmt: skip
    done = python(
        "scripts/find_circuits.py", f"run={run}", "task=var_if", *(f"circuits.find.{setting}" for setting in small)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tasks = {task["task"] for task in json.loads((run / "report.json").read_text())["circuits"]["tasks"]}
    assert tasks == {"single_double_quote", "for_while", "var_if"}
    (logged,) = set((run / "wandb").glob("offline-run-*")) - {
        run / path.relative_to(smoke) for path in (smoke / "wandb").glob("offline-run-*")
    }
    assert (logged / "files" / "media" / "html" / "report").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", *SMOKE, "sparsity.densty=0.1"], "unknown config key 'sparsity.densty'; did you mean"),
        (["train.py", "quickstart"], "cannot read 'quickstart': keys are set by key=value, files chosen by group=name"),
        (
            ["train.py", "+experiment=quickstrt"],
            "no file 'quickstrt' in group 'experiment'; did you mean quickstart? allowed: ",
        ),
        (["train.py", *SMOKE, "sparsity.density=1/8"], "unable to parse string as a number; write 0.125"),
        (
            ["train.py", *SMOKE, "data.sources={mine: {kind: filess, paths: [a]}}"],
            "error: data.sources.mine.kind=filess: allowed: 'stdlib', 'idioms', 'files', 'hub'",
        ),
        (["train.py", *SMOKE, "data.sources={mine: {paths: [a]}}"], "error: data.sources.mine.kind is missing"),
        (["scripts/find_circuits.py", "run=zoo:python-hour", "task=file:"], "task 'file:' names no file"),
        (["train.py", *SMOKE, "n_stps=3"], "unknown config key 'n_stps'; did you mean trainer.n_steps"),
        (["train.py", *SMOKE, "init_from="], "init_from= is empty; give a value, or leave it out"),
        (["train.py", *SMOKE, "circuits.tasks=[with_sa]"], "circuits: unknown task 'with_sa': did you mean with_as"),
        (
            ["train.py", *SMOKE, "sparsity.method=two_of_four", "sparsity.embed_density=0.25"],
            "sparsity.density=0.0078125 and sparsity.embed_density=0.25 with sparsity.method=two_of_four; allowed: 0.5",
        ),
        (
            ["scripts/find_circuits.py", "run=zoo:python-hour", f"task=file:{ROOT / 'README.md'}"],
            "README.md holds no rows; give pairs as .jsonl",
        ),
        (["train.py", *SMOKE, "sparsity.density=0"], "sparsity.density=0: input should be greater than 0"),
        (["train.py", *SMOKE, "sparsity.density=0.01", "sparsity.floor=4"], "smallest feasible density 0.05;"),
        (["train.py", *SMOKE, "model.n_head=7"], "does not divide"),
        (["train.py", *SMOKE, "ood.survey.controls=[rotate]"], "ood.survey.controls"),
        (["train.py", *SMOKE, "ood.tracker.positions=first"], "ood.tracker.positions"),
        (
            ["train.py", *SMOKE, "ood.survey.points=[blocks.0.mlp.hook_neurons]"],
            "no hook point named 'blocks.0.mlp.hook_neurons'; near names: blocks.",
        ),
        (
            ["train.py", *SMOKE, "ood.tracker.points=[final_norm.hook_nrm]"],
            "no hook point named 'final_norm.hook_nrm'; near names: final_norm.hook_norm",
        ),
        (["train.py", *SMOKE, "ckpt_path=nowhere.ckpt"], "ckpt_path does not exist: nowhere.ckpt"),
        (["train.py", *SMOKE, "init_from=nowhere"], "init_from=nowhere: no such folder; give the folder of a finished"),
        (["train.py", *SMOKE, "init_from=."], "init_from=. holds no export (export/step_<n>/); has the run finished?"),
        (["train.py", *SMOKE, "init_from=export", "overwrite=true"], "lies in the folder that overwrite=true removes"),
        (
            ["train.py", "+experiment=knowledge_graph", "+debug=smoke", "init_from=x"],
            "init_from=x is for single trainings",
        ),
        (
            ["train.py", "+experiment=familiarity", "+debug=smoke", "study.margin=0"],
            "study.margin=0: input should be greater than 0",
        ),
        (
            ["train.py", "+experiment=familiarity", "+debug=smoke", "study.familiarity.levels=[1,2]"],
            "study.familiarity.levels=[1, 2] must rise from 0",
        ),
        (["train.py", "+experiment=knowledge_graph", "+debug=smoke", "stop_at_step=3"], "are for single trainings"),
        (
            ["train.py", "+experiment=shifts_real"],
            "study.frozen.model= is missing: give study.frozen.model=gguf:<file>",
        ),
        (
            ["train.py", "+experiment=familiarity_real", "+debug=smoke", "study.frozen.model=gguf:nowhere.gguf"],
            "model=gguf:nowhere.gguf: no such file",
        ),
        (
            ["train.py", "+experiment=adaptive_real", "+debug=smoke", "study.frozen.probes_of=[nothing]"],
            "study.frozen.probes_of has nothing; there are capitals, arithmetic, rules",
        ),
        (
            ["train.py", "+experiment=shifts_real", "+debug=smoke", "study.frozen.probes.noise=[0.5]"],
            "study.frozen.probes.noise=[0.5] must rise from 0",
        ),
        (
            ["train.py", "+experiment=curriculum_real", "+debug=smoke", "study.choice.n_shown=30"],
            "study.choice.n_shown=30 demonstrations cannot be taken from n_retrieved=4",
        ),
        (
            ["train.py", "+experiment=curriculum", "+debug=smoke", "study.demonstrations.n_shots=1"],
            "study.demonstrations.choice.n_shown=2 must be at most n_shots=1",
        ),
        (
            ["train.py", "+experiment=context_prior", "+debug=smoke", "study.conflict_world.rates=[0.1]"],
            "study.conflict_world.rates=[0.1] must rise from 0",
        ),
        (
            ["train.py", "+experiment=context_prior", "+debug=smoke", "study.conflict_world.world.conflict=0.1"],
            "study.conflict_world.world.conflict=0.1 is set by rates=[0.0, 0.1]; leave it 0",
        ),
        (
            ["train.py", "+experiment=context_prior", "+debug=smoke", "study.conflict_world.rates=[0,0.5]"],
            "study.conflict_world.rates=[0.0, 0.5] must be at most 1/3: a third of the subjects is contradicted",
        ),
        (
            ["train.py", "+experiment=context_prior", "+debug=smoke", "study.conflict_world.examine.n_fit=1000"],
            "study.conflict_world.examine.n_fit=1000 must be below 30, the facts that are asked about",
        ),
        (
            ["train.py", "+experiment=context_prior", "+debug=smoke", "study.conflict_world.world.levels=[1,2]"],
            "study.conflict_world.world.levels=[1, 2] must rise from 0",
        ),
        (["scripts/find_circuits.py", "run=.", "task=nope"], "unknown task 'nope': tasks are single_double_quote"),
        (["scripts/find_circuits.py", "run=."], "holds no export"),
        (["scripts/find_circuits.py", "run=.", "data=a.txt"], "data=a.txt is for model=hf:...; the means of a run"),
        (["scripts/find_circuits.py", "model=hf:nowhere/at/all", "task=var_if"], "nowhere/at/all: no such folder"),
        (
            ["scripts/find_circuits.py", "model=runs/x", "task=var_if"],
            "must be hf:<folder or hub name> or gguf:<file>; a run",
        ),
        (["scripts/find_circuits.py", "model=hf:x", "task=var_if", "card=quick"], "card=quick is for runs of ours"),
        (["scripts/report.py", "run=/nonexistent"], "no report.json"),
        (["scripts/generate.py", "run=."], "holds no export"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, corpus_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "train.py":
        arguments = [*arguments, f"hydra.run.dir={tmp_path}", f"cache_dir={corpus_cache}"]
    with pytest.raises(SystemExit) as stop:
        in_process(*arguments)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error, error


@pytest.mark.parametrize(
    ("argument", "message"),
    [("trainer.device=cuda", "trainer.device=cuda, but torch sees no CUDA device"), ("name=", "name= is empty")],
)
def test_what_cannot_run_here_costs_no_run(argument, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "config.yaml").write_text("name: quickstart\n")
    (tmp_path / "report.json").write_text("{}")
    for more in (["overwrite=true"], []):
        with pytest.raises(SystemExit):
            in_process("train.py", *SMOKE, argument, f"hydra.run.dir={tmp_path}", *more)
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error
        assert (tmp_path / "report.json").read_text() == "{}"
        assert (tmp_path / "config.yaml").read_text() == "name: quickstart\n"


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", "hydra.run.dir= is empty; give a folder, or leave it out"),
        ("notes.txt", "notes.txt is a file, where a folder is to be made"),
    ],
)
def test_a_run_needs_a_folder(folder, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("kept")
    with pytest.raises(SystemExit):
        in_process("train.py", *SMOKE, f"hydra.run.dir={folder}")
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "experiment",
    [*(name for name in EXPERIMENTS if name != "quickstart"), *(f"quickstart size={size}" for size in LADDER)],
)
def test_every_experiment_runs_at_smoke_size(experiment, python, corpus_cache, tmp_path):
    done = python(
        "train.py",
        *f"+experiment={experiment}".split(),
        "+debug=smoke",
        "trainer.progress=false",
        f"hydra.run.dir={tmp_path}",
        f"cache_dir={corpus_cache}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "report.json").is_file()
    if experiment == "circuit_formation":
        assert has_sparsity_page(tmp_path)


@pytest.mark.parametrize("name", ["ablate", "export_circuit", "find_circuits", "generate", "report", "verify_report"])
def test_help_says_what_a_command_does_and_takes(name, python):
    script = f"scripts/{name}.py"
    done = python(script, "--help")
    first_line = ast.get_docstring(ast.parse((ROOT / script).read_text())).splitlines()[0]
    assert done.stdout.startswith(first_line), done.stdout[:300] + done.stderr
    assert "== Keys" in done.stdout and "\nrun: ''" in done.stdout and "powered by Hydra" not in done.stdout


@pytest.mark.slow
def test_sweep_gives_a_folder_and_a_wandb_run_each(python, corpus_cache, tmp_path):
    done = python(
        "train.py", "-m", *SMOKE, "circuits=none", "ood=none", "sparsity.density=0.25,0.0625", "seed=1,2",
        f"hydra.sweep.dir={tmp_path}", f"cache_dir={corpus_cache}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list(tmp_path.glob("*/report.json"))) == 4
    runs = [path.name.split("-")[-1] for path in tmp_path.glob("*/wandb/offline-run-*")]
    assert len(runs) == len(set(runs)) == 4
