"""An export as a Hub repository: what is in the folder, what is refused, and what transformers makes of it."""

import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from commands import in_process

from sparsetrain.export import export_model, latest_export, load_model
from sparsetrain.interop import hub_push
from sparsetrain.interop.card import card
from sparsetrain.interop.hub_folder import FILES, places, write_hub_folder


@pytest.fixture
def export(make_model, tmp_path) -> Path:
    model = make_model(abs_topk={"attn_in": 0.25, "mlp_neuron": 0.5, "mlp_out": 1.0})
    return export_model(model, tmp_path / "export", None, {"step": 7, "seed": 3})


def test_config_says_which_places_have_abs_topk(export, tmp_path):
    folder = write_hub_folder(export, tmp_path / "hub", "# m\n")
    assert {path.name for path in folder.iterdir()} <= set(FILES)
    assert places(folder) == {"attn_in": 0.25, "mlp_neuron": 0.5}
    config = json.loads((folder / "config.json").read_text())
    assert config["n_head"] == 4 and config["d_mlp"] == 128
    assert config["auto_map"]["AutoModelForCausalLM"] == "modeling_sparsetrain.SparsetrainForCausalLM"


def test_transformers_loads_it_with_the_same_logits(export, tmp_path, monkeypatch):
    import transformers

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    before = list(sys.path)
    folder = write_hub_folder(export, tmp_path / "hub", "# m\n")
    hub = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    sys.path[:] = before
    tokens = torch.randint(61, (2, 20))
    with torch.no_grad():
        assert float((hub(tokens).logits - load_model(export)(tokens)).abs().max()) <= 1e-6


def test_card_names_places_and_training(export):
    model = load_model(export)
    page = card(
        "me/mine", "me/mine", model, {"step": 7, "seed": 3, "weights_sha256": "ab"}, licence="mit", more=["## More"]
    )
    assert page.startswith("---\nlibrary_name: transformers\n") and "\nlicense: mit\n" in page
    assert '"me/mine", trust_remote_code=True' in page and page.endswith("## More\n")
    rows = [line for line in page.splitlines() if line.startswith("| mlp\\_neuron")]
    assert rows == ["| mlp\\_neuron | 64 | 128 |"]
    assert "| steps | 7 |" in page and "| seed | 3 |" in page


def test_card_of_a_model_without_abs_topk(make_model):
    assert "Nowhere: activations are what the weights make them." in card(
        "m", "m", make_model(abs_topk={}), {"step": 1}
    )
    titled = card('My "sparse" model', "me/mine", make_model(), {"step": 1})
    assert '# My "sparse" model' in titled and titled.count('from_pretrained("me/mine", ') == 2, "a title is no place"


def test_a_folder_that_holds_something_stays_as_it_is(export, tmp_path):
    folder = tmp_path / "hub"
    write_hub_folder(export, folder, "# one\n")
    with pytest.raises(ValueError, match="overwrite=true"):
        write_hub_folder(export, folder, "# two\n")
    assert (folder / "README.md").read_text() == "# one\n"
    write_hub_folder(export, folder, "# two\n", overwrite=True)
    assert (folder / "README.md").read_text() == "# two\n"
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="give another folder"):
        write_hub_folder(export, other, "# two\n", overwrite=True)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_tokenizer_puts_the_separator_in_front(tmp_path):
    import transformers

    folder = write_hub_folder(latest_export("zoo:python-hour"), tmp_path / "hub", "# m\n")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    ids = tokenizer("x = 1\n").input_ids
    assert ids[0] == tokenizer.bos_token_id == 0 and tokenizer.decode(ids[1:]) == "x = 1\n"


class Hub:
    """A hub that keeps what it is given."""

    def __init__(self, token: str, public: bool = False, down: bool = False, there: Sequence[str] = ()) -> None:
        self.token, self.public, self.down, self.there, self.files = token, public, down, there, None

    def create_repo(self, name, private, exist_ok):
        if self.down:
            raise ConnectionError("no route\nto host")
        self.private = private and not self.public

        class Address(str):
            repo_id = name

        return Address(f"https://hub/{name}")

    def model_info(self, name):
        return self

    def list_repo_files(self, name):
        return self.there

    def upload_folder(self, repo_id, folder_path, commit_message, delete_patterns):
        assert "tokenizer.json" in delete_patterns, "files of a model before would be loaded with this one's weights"
        assert not any(fnmatch(name, pattern) for name in ("LICENSE", "notes/a.md") for pattern in delete_patterns)
        self.files = sorted(path.name for path in Path(folder_path).iterdir())


def test_push_uploads_what_a_folder_would_hold(export, monkeypatch, capsys):
    hub = Hub("t")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "t")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: hub)
    in_process("scripts/push.py", f"run={export}", "dst=hf:me/mine")
    assert hub.private and "modeling_sparsetrain.py" in hub.files and "README.md" in hub.files
    said = capsys.readouterr().out
    assert "https://hub/me/mine" in said and "AbsTopK at attn_in (0.25), mlp_neuron (0.5)" in said


@pytest.mark.parametrize(
    ("name", "token", "hub", "says"),
    [
        ("me/mine", None, Hub("t"), "hf auth login"),
        ("a/b/c", "t", Hub("t"), "names no repository"),
        ("me/mine", "t", Hub("t", public=True), "give private=false"),
        ("me/mine", "t", Hub("t", down=True), "did not take it: no route"),
        ("me/mine", "t", Hub("t", there=["config.json", "model.safetensors"]), "a model that is none of ours"),
    ],
)
def test_push_refuses_in_one_line(export, monkeypatch, capsys, name, token, hub, says):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: hub)
    with pytest.raises(SystemExit):
        in_process("scripts/push.py", f"run={export}", f"dst=hf:{name}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says in lines[0] and hub.files is None


def test_names_of_repositories(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "t")
    assert hub_push.token_of("me/mine") == "t"
