"""Export folders: exact round trip, strict loading, damage refused, no heavy imports."""

import json
import subprocess
import sys

import pytest
import torch

from sparsetrain.export import export_model, latest_export, load_model, read_meta
from sparsetrain.store import write_atomic


def test_round_trip_is_exact(make_model, tmp_path):
    model = make_model(positions="concat")
    folder = export_model(model, tmp_path / "export" / "step_7", '{"tokens": 1}', {"step": 7})
    loaded = load_model(folder)
    assert loaded.config == model.config and not loaded.training
    tokens = torch.randint(61, (2, 9))
    assert torch.equal(loaded(tokens), model(tokens))
    assert read_meta(folder)["step"] == 7
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "meta.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_latest_export_is_the_highest_step(make_model, tmp_path):
    for step in (9, 10):
        export_model(make_model(d_model=8 * step), tmp_path / "export" / f"step_{step}", None, {})
    assert latest_export(tmp_path).name == "step_10" and load_model(tmp_path).config.d_model == 80
    assert latest_export(tmp_path / "export" / "step_9").name == "step_9"


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        latest_export(tmp_path / "nope")
    with pytest.raises(FileNotFoundError, match="holds no export"):
        latest_export(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("at", [20, 500, -1])
def test_damaged_weights_are_refused(make_model, tmp_path, at):
    folder = export_model(make_model(), tmp_path / "e", None, {})
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[at] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_modell": 3}, "unknown keys"),
        ({"format_version": 9}, "format_version 9"),
        ({"n_layer": 1}, "does not fit"),
        ({"d_mlp": 8}, r"does not fit its config.json: blocks.0.mlp.W_in\.\w+ is \["),
    ],
)
def test_a_config_that_does_not_fit_is_refused(make_model, tmp_path, change, message):
    folder = export_model(make_model(), tmp_path / "e", None, {})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ValueError, match=message):
        load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "meta.json"])
@pytest.mark.parametrize(
    "content", ["", "[]", "{", "null", '{"format_version": 1, "weights_sha256": 3, "d_model": "x"}', "[" * 9999]
)
def test_a_file_of_an_export_that_is_something_else_is_named_in_one_line(name, content, make_model, tmp_path):
    folder = export_model(make_model(), tmp_path / "e", None, {})
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=name) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_failed_write_keeps_the_old_file_and_names_path_and_bytes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="after 3 bytes") as error:
        write_atomic(path, b"new")
    assert error.value.filename == str(path) and path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("module", ["sparsetrain.export", "sparsetrain.model", "circuits.circuit"])
def test_loading_needs_no_heavy_library(module):
    code = f"import {module}, sys; print([m for m in ('lightning', 'hydra', 'wandb', 'plotly', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
