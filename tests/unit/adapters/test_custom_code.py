"""Models with code of their own: refused in one line that names the key, loaded where it is given, never asked about."""

import builtins
from dataclasses import fields

import pytest
import torch

pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from custom_code import BROKEN, save_custom_model
from hub_example import D_VOCAB, hub_model

from sparsetrain.adapters import at_initialisation, load_language_model
from sparsetrain.adapters.checkpoints import FORMATS, Source
from sparsetrain.adapters.sentences import SentenceEncoder
from sparsetrain.studies.frozen import FrozenConfig

TOKENS = torch.arange(36).view(3, 12) % D_VOCAB


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch, tmp_path):
    def asked(*args):
        raise AssertionError("a batch job has nobody to answer")

    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def test_it_is_refused_unless_trusted(tmp_path):
    folder = save_custom_model(tmp_path / "custom")
    for load in (
        lambda: load_language_model(f"hf:{folder}", device="cpu"),
        lambda: SentenceEncoder.load(str(folder)),
        lambda: FORMATS["huggingface"](Source(place=str(folder))),
    ):
        with pytest.raises(ValueError, match=r"comes with code of its own.* trust_remote_code=true") as error:
            load()
        assert "\n" not in str(error.value)
    model = load_language_model(f"hf:{folder}", device="cpu", trust_remote_code=True)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(TOKENS), hub_model("gpt2")(TOKENS).logits)
    assert model.architecture == "TinyModel"
    assert type(at_initialisation(model, 0).hub).__name__ == "TinyModel"


def test_code_that_fails_is_one_line(tmp_path):
    folder = save_custom_model(tmp_path / "broken", BROKEN)
    with pytest.raises(ValueError, match="its own code failed: TypeError: not today"):
        load_language_model(f"hf:{folder}", device="cpu", trust_remote_code=True)


def test_studies_of_frozen_models_have_the_key():
    assert "trust_remote_code" in {field.name for field in fields(FrozenConfig)}
