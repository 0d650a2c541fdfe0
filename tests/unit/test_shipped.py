"""Models by name: where they lie, the copies that commands work in, what is refused."""

import json
from pathlib import Path

import pytest
import torch

from sparsetrain import shipped
from sparsetrain.export import export_model, latest_export, load_model
from sparsetrain.shipped import shipped_folder, working_copy


@pytest.fixture
def zoo(make_model, tmp_path, monkeypatch) -> Path:
    """A zoo of one model in a folder of its own, and an empty working directory."""
    folder = tmp_path / "package" / "zoo" / "small"
    export_model(
        make_model(d_model=16, d_head=4, n_ctx=8), folder / "export" / "step_4", None, {"step": 4}, packed=True
    )
    (folder / "config.yaml").write_text("name: small\n")
    monkeypatch.setattr(shipped, "zoo_dir", lambda: folder.parent)
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return folder


def test_a_name_is_as_good_as_a_folder(zoo):
    assert shipped_folder("zoo:small") == zoo and latest_export("zoo:small") == zoo / "export" / "step_4"
    assert shipped_folder("runs/mine") == Path("runs/mine")
    tokens = torch.arange(8)[None]
    assert torch.equal(load_model("zoo:small")(tokens), load_model(zoo / "export" / "step_4")(tokens))


def test_what_is_not_there_is_said_with_what_is(zoo):
    for call in (shipped_folder, working_copy):
        with pytest.raises(ValueError, match="a=zoo:large: no such model; there are zoo:small"):
            call("zoo:large", "a")
    with pytest.raises(ValueError, match="no such model"):
        shipped_folder("zoo:../zoo/small")


def test_commands_work_in_a_copy(zoo):
    copy = working_copy("zoo:small")
    assert copy == Path("runs/zoo/small") and (copy / "config.yaml").is_file()
    (copy / "mine").write_text("kept")
    assert working_copy("zoo:small") == copy and (copy / "mine").is_file(), "made once"
    assert not (zoo / "mine").exists() and sorted(path.name for path in copy.parent.iterdir()) == ["small"]
    assert working_copy("runs/other") == Path("runs/other")


def test_a_copy_of_other_weights_is_refused(zoo):
    copy = working_copy("zoo:small")
    meta = zoo / "export" / "step_4" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="another version of that model; remove it"):
        working_copy("zoo:small")
    assert copy.is_dir()
