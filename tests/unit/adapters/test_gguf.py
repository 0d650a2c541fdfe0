"""Models in GGUF files: the same model as its original, converted once, and every misuse in a line."""

import sys
from pathlib import Path

import pytest
import torch
from gguf_example import N_CTX, WORDS, write_gguf

from sparsetrain.adapters import is_of_others, load_language_model
from sparsetrain.adapters.gguf_files import converted


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


def test_it_is_the_model_in_the_file_and_is_converted_once(tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    original = write_gguf(file)
    loaded = load_language_model(f"gguf:{file}", device="cpu")
    tokens = torch.arange(18).reshape(2, 9) % WORDS
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(tokens), original(tokens).logits)
    assert loaded.name == f"gguf:{file}" and loaded.n_ctx == N_CTX and is_of_others(loaded.name)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("ab cd")) == "ab cd"
    (folder,) = cache.iterdir()
    before = (folder / "config.json").stat().st_mtime_ns
    again = load_language_model(f"gguf:{file}", device="cpu")
    assert (folder / "config.json").stat().st_mtime_ns == before and again.weights_sha256 == loaded.weights_sha256
    assert load_language_model(f"hf:{folder}", device="cpu").weights_sha256 == loaded.weights_sha256


def test_another_content_is_another_folder(tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    first = converted(str(file))
    file.write_bytes(file.read_bytes() + b"\0")
    assert converted(str(file)) != first


def test_what_is_none_is_said_in_a_line(tmp_path, cache, monkeypatch):
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "torn.gguf").write_bytes(b"GGUF\3\0\0\0")
    for name, words in (
        ("", "no such file"),
        ("nowhere.gguf", "no such file"),
        ("text.gguf", "is no GGUF file"),
        ("torn.gguf", "could not be converted"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            converted(str(tmp_path / name) if name else "")
        assert "\n" not in str(caught.value)
    assert not list(cache.glob("*")), "nothing half made stays"
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'sparsetrain\[hub\]'"):
        converted(str(tmp_path / "torn.gguf"))
