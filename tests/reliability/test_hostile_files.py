"""Files of strangers: nothing in a config, a checkpoint or an export is executed, whatever it says.

Every payload here would leave a file behind if it ran; that it would is tried first, where the library that is in danger would run it.
"""

import gc
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import ROOT
from hub_example import save_hub_model
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sparsetrain.adapters import hub_files
from sparsetrain.entry import load_run
from sparsetrain.entry.targets import guarded
from sparsetrain.export import export_model, load_model
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.run import RunConfig
from sparsetrain.store import sealed
from sparsetrain.training.checkpoints import VerifiedIO, resume_path
from sparsetrain.training.resume import settings_of
from sparsetrain.typed import from_dict, to_dict

OWN = {"hydra": {"callbacks": {"jobs": {"_target_": "sparsetrain.entry.sweeps.Jobs"}}}}
"""What the commands themselves have Hydra call."""
MARK = "touched"
"""What a payload leaves in the current folder."""

TARGETS: dict[str, dict[str, Any]] = {
    "open": {"_target_": "builtins.open", "file": MARK, "mode": "w"},
    "io.open": {"_target_": "io.open", "file": MARK, "mode": "w"},
    "io.FileIO": {"_target_": "io.FileIO", "file": MARK, "mode": "w"},
    "FileHandler": {"_target_": "logging.FileHandler", "filename": MARK},
    "mkdir": {"_target_": "os.mkdir", "path": MARK},
    "makedirs": {"_target_": "os.makedirs", "name": MARK},
    "copy": {"_target_": "shutil.copy", "src": "/etc/hostname", "dst": MARK},
    "urlretrieve": {"_target_": "urllib.request.urlretrieve", "url": "file:///etc/hostname", "filename": MARK},
    "system": {"_target_": "os.system", "command": f"touch {MARK}"},
    "Popen": {"_target_": "subprocess.Popen", "args": ["touch", MARK]},
    "exec": {"_target_": "builtins.exec", "_args_": [f"open('{MARK}', 'w')"]},
    "our own writer": {"_target_": "sparsetrain.store.write_atomic", "_args_": [MARK, "x"]},
    "a list of them": {
        "_target_": "builtins.list",
        "_args_": [[{"_target_": "builtins.open", "file": MARK, "mode": "w"}]],
    },
}
PLACES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "callback": lambda call: {"hydra": {"callbacks": {"x": call}}},
    "nested callback": lambda call: {"hydra": {"callbacks": {"x": {"y": [call]}}}},
    "launcher": lambda call: {"hydra": {"launcher": call}},
    "sweeper": lambda call: {"hydra": {"sweeper": call}},
}
LOGGING: dict[str, dict[str, Any]] = {
    "factory": {"handlers": {"x": {"()": "builtins.open", "file": MARK, "mode": "w"}}},
    "formatter": {"formatters": {"x": {"()": "builtins.open", "file": MARK, "mode": "w"}}},
    "class": {"handlers": {"x": {"class": "io.FileIO", "file": MARK, "mode": "w"}}},
    "file elsewhere": {"handlers": {"x": {"class": "logging.FileHandler", "filename": MARK}}},
    "file above": {
        "handlers": {"x": {"class": "logging.FileHandler", "filename": f"${{hydra.runtime.output_dir}}/../{MARK}"}}
    },
    "import": {"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://this.s"}}},
    "from elsewhere": {"handlers": "${hydra.callbacks}"},
}
CONFIGS = {
    **{f"{place}: {name}": put(call) for place, put in PLACES.items() for name, call in TARGETS.items()},
    **{
        f"{kind}: {name}": {"hydra": {kind: what}}
        for kind in ("job_logging", "hydra_logging")
        for name, what in LOGGING.items()
    },
    "a compiler": {"hydra": {"job": {"env_set": {"CXX": f"sh -c 'touch {MARK}'"}}}},
    "a library": {"hydra": {"job": {"env_set": {"LD_PRELOAD": "/tmp/x.so"}}}},
    "environment from elsewhere": {"hydra": {"job": {"env_set": "${evil}"}}, "evil": {"CXX": "x"}},
    "more of the own callback": {
        "hydra": {"callbacks": {"jobs": {"_target_": "builtins.open", "file": MARK, "mode": "w"}}}
    },
    "callbacks from elsewhere": {"hydra": {"callbacks": "${evil}"}, "evil": {"x": TARGETS["open"]}},
    "launcher by reference": {"hydra": {"launcher": TARGETS["open"], "callbacks": {"x": "${hydra.launcher}"}}},
    **{f"{key} target": {key: {**TARGETS["open"]}} for key in ("trainer", "model", "logger", "callbacks", "data")},
}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def composed(config: dict[str, Any], *arguments: str) -> Any:
    """What Hydra loads for `train.py +experiment=evil`, where that file holds `config`."""
    import train  # its configs are Hydra's from then on

    assert train
    folder = Path("conf/experiment")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(config))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), guarded(OWN):
        return compose(
            "train",
            ["+experiment=evil", f"hydra.searchpath=[file://{folder.parent.absolute()}]", *arguments],
            return_hydra_config=True,
        )


def test_a_config_that_calls_nothing_is_composed() -> None:
    assert composed({"seed": 3}).seed == 3
    assert composed({}, "hydra/job_logging=disabled").hydra.job_logging.root.level == "ERROR"
    assert composed({}, "hydra.job_logging.root.level=DEBUG").hydra.job_logging.root.level == "DEBUG"
    assert composed({}, "hydra/job_logging=stdout").seed == 0


unclosed = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@unclosed
@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("system", "Popen", "exec")])
def test_the_payloads_would_run(name: str) -> None:
    try:  # Hydra refuses the best known ones itself; the others it would call
        instantiate(OmegaConf.create(TARGETS[name]))
    except Exception as error:
        pytest.skip(f"Hydra itself does not call it: {type(error).__name__}")
    gc.collect()
    assert Path(MARK).exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_called_because_a_config_says_so(name: str) -> None:
    from train import TrainRun

    with pytest.raises(Exception, match=r"not taken from a config|_target_|not in|Unknown|unknown"):
        config = composed(CONFIGS[name])
        tree = OmegaConf.to_container(
            OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
        )
        from_dict(TrainRun, tree)  # where the command reads its own keys
    assert not Path(MARK).exists()


def test_a_group_that_is_chosen_by_a_config_is_looked_at_too() -> None:
    group = Path("conf/hydra/callbacks")
    group.mkdir(parents=True)
    (group / "bad.yaml").write_text(yaml.safe_dump({"x": TARGETS["open"]}))
    with pytest.raises(ValueError, match=r"hydra.callbacks.x._target_='builtins.open' is not taken"):
        composed({"defaults": [{"override /hydra/callbacks": "bad"}]})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["callback: open", "job_logging: factory", "a compiler"])
def test_the_command_ends_in_one_line(name: str, python: Any) -> None:
    folder = Path("conf/experiment")
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text("# @package _global_\n" + yaml.safe_dump(CONFIGS[name]))
    done = python(
        str(ROOT / "train.py"),
        "+experiment=evil",
        "hydra.searchpath=[file://conf]",
        "hydra.run.dir=run",
        cwd=Path.cwd(),
    )
    assert done.returncode == 1 and not Path(MARK).exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: hydra.") and "is not taken from a config" in line


def test_a_run_s_config_is_data() -> None:
    for put in (*PLACES.values(), lambda call: {"model": call}, lambda call: {"trainer": {"progress": call}}):
        Path("config.yaml").write_text(yaml.safe_dump({**to_dict(RunConfig()), **put(TARGETS["open"])}))
        try:
            assert load_run(RunConfig, Path.cwd()) == RunConfig()  # what it does not know it leaves aside
        except ValueError as error:
            assert "_target_" in str(error) or "progress" in str(error)
        assert not Path(MARK).exists()
    Path("config.yaml").write_text(f"seed: !!python/object/apply:os.mkdir [{MARK}]\n")
    with pytest.raises(Exception, match="could not determine a constructor"):
        load_run(RunConfig, Path.cwd())
    assert not Path(MARK).exists()


class Runs:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


CALLS: dict[str, Callable[[], Runs]] = {
    "mkdir": lambda: Runs(os.mkdir, MARK),
    "system": lambda: Runs(os.system, f"touch {MARK}"),
    "eval": lambda: Runs(eval, f"open('{MARK}', 'w')"),
    "exec": lambda: Runs(exec, f"open('{MARK}', 'w')"),
    "open": lambda: Runs(open, MARK, "w"),
    "copy": lambda: Runs(shutil.copy, "/etc/hostname", MARK),
    "torch.load": lambda: Runs(torch.save, {}, MARK),
    "numpy": lambda: Runs(np.save, MARK, 0),
}


def zipped(thing: Any) -> bytes:
    out = io.BytesIO()
    torch.save(thing, out)
    return out.getvalue()


def old(thing: Any) -> bytes:
    out = io.BytesIO()
    torch.save(thing, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


def tar(thing: Any) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(thing)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def script(thing: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(thing))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/constants.pkl", pickle.dumps(thing))
    return out.getvalue()


FORMS: dict[str, Callable[[Any], bytes]] = {
    "checkpoint": lambda call: zipped({"state_dict": {"x": torch.zeros(2), "y": call}, "global_step": 1}),
    "callback state": lambda call: zipped({"callbacks": {"RandomState": {"python": call}}}),
    "hyperparameters": lambda call: zipped({"hyper_parameters": call, "sparsetrain": {"recipe": call}}),
    "old format": lambda call: old({"state_dict": call}),
    "pickle": pickle.dumps,
    "tar": tar,
    "script": script,
}
PICKLES = {f"{form} {call}": (form, call) for form in FORMS for call in CALLS}


@unclosed
def test_the_pickles_would_run() -> None:
    for name, call in CALLS.items():
        pickle.loads(pickle.dumps(call()))
        path = next(p for p in Path().iterdir() if p.name.startswith(MARK))
        path.rmdir() if path.is_dir() else path.unlink()
        assert not list(Path().iterdir()), name
    gc.collect()


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.filterwarnings("ignore:.*TorchScript archive")  # torch says so and then refuses
def test_a_checkpoint_of_pickles_runs_nothing(name: str) -> None:
    form, call = PICKLES[name]
    path = Path("step_3.ckpt")
    path.write_bytes(sealed(FORMS[form](CALLS[call]())))
    assert resume_path(str(path), Path()) == path  # its checksum fits
    with pytest.raises(ValueError, match=r"step_3.ckpt is no checkpoint|has no|is damaged") as caught:
        settings_of(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        Exception, match=r"(?i)weights_only|unsupported|not supported|magic|invalid|cannot use|TorchScript"
    ):
        VerifiedIO().load_checkpoint(path, weights_only=True)  # as a training does
    assert not list(Path().glob(f"{MARK}*"))


@pytest.mark.parametrize("name", PICKLES)
def test_an_export_of_pickles_runs_nothing(name: str) -> None:
    form, call = PICKLES[name]
    content = FORMS[form](CALLS[call]())
    folder = export_model(
        Transformer(ModelConfig(n_layer=1, d_model=16, d_head=8, d_vocab=300)), Path("export"), None, {"step": 1}
    )
    for place in ("model.safetensors", "config.json", "meta.json"):
        copy = Path(f"{place}.export")
        shutil.copytree(folder, copy)
        (copy / place).write_bytes(content)
        if place == "model.safetensors":  # with the hash that it has
            meta = json.loads((copy / "meta.json").read_text())
            meta["weights_sha256"] = hashlib.sha256(content).hexdigest()
            (copy / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(Exception):  # noqa: B017  # that it is refused is enough; in words: test_export.py
            load_model(copy)
    assert not list(Path().glob(f"{MARK}*"))


@pytest.mark.parametrize("kind", ["evil", "gpt2"])
@pytest.mark.parametrize("call", ["mkdir", "eval"])
def test_a_hub_model_runs_neither_its_code_nor_its_pickles(kind: str, call: str) -> None:
    folder = save_hub_model(Path("hub"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": kind,
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": "evil.T"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(Path(MARK).absolute())!r}, 'w')\n")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(zipped({"transformer.wte.weight": CALLS[call]()}))
    with pytest.raises(ValueError, match=r"could not be loaded|run only with trust_remote_code=true") as caught:
        hub_files.load(str(folder), torch.float32)
    assert "\n" not in str(caught.value) and not list(Path().glob(f"{MARK}*"))


def test_an_export_s_config_names_no_class() -> None:
    folder = export_model(
        Transformer(ModelConfig(n_layer=1, d_model=16, d_head=8, d_vocab=300)), Path("export"), None, {"step": 1}
    )
    config = json.loads((folder / "config.json").read_text())
    for key, value in (
        ("_target_", "builtins.open"),
        ("class_path", "os.system"),
        ("auto_map", {"AutoModel": "evil.Model"}),
    ):
        (folder / "config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(ValueError, match="unknown keys"):
            load_model(folder)
