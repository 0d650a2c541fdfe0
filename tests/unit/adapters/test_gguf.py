"""Models in GGUF files: the same model as its original, converted once, and every misuse in a line."""

import sys
from pathlib import Path

import pytest
import torch
from gguf_example import N_CTX, WORDS, write_gguf
from safetensors import SafetensorError

from sparsetrain.adapters import gguf_files, is_of_others, load_language_model
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


def test_places_and_neighbours_do_not_matter(tmp_path, cache):
    folder = tmp_path / "with blank = & Ümläut"
    folder.mkdir()
    file = folder / ("é ü " * 30 + ".gguf")
    original = write_gguf(file)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{")  # of another model, and torn
    loaded = load_language_model(f"gguf:{file}", device="cpu")
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(tokens), original(tokens).logits)
    assert len(list(cache.iterdir())) == 1


def test_of_two_processes_that_convert_at_once_one_is_used(tmp_path, cache, monkeypatch):
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    convert, first = gguf_files._convert, []

    def late(path: Path, folder: Path, named: str) -> None:
        monkeypatch.setattr(gguf_files, "_convert", convert)
        first.append(converted(str(file)))  # the other one, from beginning to end; it takes this one's folder away
        convert(path, folder, named)

    monkeypatch.setattr(gguf_files, "_convert", late)
    assert converted(str(file)) == first[0]
    assert list(cache.iterdir()) == first

    kept = first[0].rename(tmp_path / "kept")

    def fails(path: Path, folder: Path, named: str) -> None:
        kept.rename(first[0])
        raise ValueError("its folder was taken away")

    monkeypatch.setattr(gguf_files, "_convert", fails)
    assert converted(str(file)) == first[0] and list(cache.iterdir()) == first


def test_what_a_killed_process_left_is_removed(tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    folder = converted(str(file))
    left = folder.with_name(f".{folder.name}.0123456789ab")
    folder.rename(left)
    (left / "config.json").write_text("{")
    assert converted(str(file)) == folder and list(cache.iterdir()) == [folder]
    assert (folder / "config.json").read_text() != "{"


def test_nothing_is_drawn_at_random(tmp_path, cache, monkeypatch):
    import gguf

    file, write = tmp_path / "tiny.gguf", gguf.GGUFWriter.add_tensor

    def without_one(writer, name, *args):
        if name != "blk.1.ffn_up.weight":
            write(writer, name, *args)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", without_one)
    write_gguf(file)
    with pytest.raises(
        ValueError, match=r"1 weights of the model are not in it, the first model\.layers\.1\.mlp\.up_proj"
    ):
        converted(str(file))
    assert not list(cache.glob("*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"cannot be written .*; set SPARSETRAIN_CACHE"):
        converted(str(file))
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "other"))

    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.LlamaForCausalLM.save_pretrained", full)
    with pytest.raises(ValueError, match=r"cannot be written .*No space left.*; set SPARSETRAIN_CACHE"):
        converted(str(file))
    assert not list((tmp_path / "other" / "gguf").iterdir())


def test_a_damaged_conversion_says_how_to_get_another(tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    folder = converted(str(file))
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"could not be loaded.*remove it to have it made anew") as caught:
        load_language_model(f"gguf:{file}", device="cpu")
    assert str(folder) in str(caught.value) and f"gguf:{file}" in str(caught.value)


@pytest.mark.parametrize("part", [0.01, 0.05, 0.5, 0.999])
def test_a_part_of_a_file_is_none(part, tmp_path, cache):
    file = tmp_path / "tiny.gguf"
    write_gguf(file)
    data = file.read_bytes()
    file.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"could not be converted: .*; is the file whole") as caught:
        converted(str(file))
    assert "\n" not in str(caught.value) and not list(cache.glob("*"))


def test_what_is_none_is_said_in_a_line(tmp_path, cache, monkeypatch):
    (tmp_path / "text.gguf").write_text("not a model")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "torn.gguf").write_bytes(b"GGUF\3\0\0\0")
    for name, words in (
        ("", "no such file"),
        ("nowhere.gguf", "no such file"),
        (".", "is a folder"),
        ("text.gguf", "is no GGUF file: it does not begin with GGUF"),
        ("empty.gguf", "is no GGUF file: it is empty"),
        ("torn.gguf", "could not be converted"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            converted(str(tmp_path / name) if name else "")
        assert "\n" not in str(caught.value)
    assert not list(cache.glob("*")), "nothing half made stays"
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'sparsetrain\[hub\]'"):
        converted(str(tmp_path / "torn.gguf"))
