"""Sources: what they yield, what they skip and name, and that the same config always yields the same documents."""

import ast
import json
import os
import random
import re
import sysconfig
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from sparsetrain.data import DataConfig, FilesSource, HubSource, IdiomsSource, StdlibSource
from sparsetrain.data.sources import Document, Skip, Source
from sparsetrain.data.sources.idioms import DEFINITIONS, STATEMENTS, Writer, write_module
from sparsetrain.typed import from_dict


def read(source: Source) -> tuple[list[Document], list[Skip]]:
    items = list(source.read())
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Skip)]


def test_there_are_at_least_forty_idiom_families() -> None:
    assert len({*STATEMENTS, *DEFINITIONS}) >= 40


@pytest.mark.parametrize("family", [*STATEMENTS, *DEFINITIONS])
def test_every_family_writes_valid_python(family) -> None:
    texts = [Writer(random.Random(seed)).write(family) for seed in range(40)]
    for text in texts:
        ast.parse(text)
    assert len(set(texts)) > 10


def test_every_document_parses_and_differs() -> None:
    documents, skips = read(IdiomsSource(n_chars=150_000))
    assert not skips
    for document in documents:
        ast.parse(document.text)
    assert len({document.text for document in documents}) > 0.99 * len(documents)
    n_chars = sum(len(document.text) for document in documents)
    assert 150_000 <= n_chars < 150_000 + len(documents[-1].text) + 1


def test_both_quotes_are_equally_likely() -> None:
    text = "".join(document.text for document in read(IdiomsSource(n_chars=200_000))[0])
    single, double = text.count("'"), text.count('"') - 3 * text.count('"""')
    assert 0.9 < single / double < 1.1


def test_idioms_cover_what_a_reader_of_python_must_tell_apart() -> None:
    text = "".join(document.text for document in read(IdiomsSource(n_chars=300_000))[0])
    for pattern in (
        r"    def __init__\(self, \w+, \w+",
        r"self\.(\w+) = \1\n",
        r"= set\(\)\nfor \w+ in \w+:\n    \w+\.add",
        r"= (''|\"\")\nfor \w+ in \w+:\n    \w+ \+=",
        r"\w=None, \w+=None\):",
        r"\]\]\]?\n",
        r"while \w+:\n",
        r", ['\"]r['\"]\) as \w+:",
        r", ['\"]w['\"]\) as \w+:",
        r"for \w+, \w+ in enumerate\(",
        r"for \w+ in range\(",
        r"(\w+), (\w+) = \2, \1\n",
        r"= lambda \w+:",
        r" if \w+ .* else ",
        r"elif ",
    ):
        assert len(re.findall(pattern, text)) >= 5, pattern


def test_a_document_depends_on_seed_and_number_alone() -> None:
    short, long = read(IdiomsSource(n_chars=5_000))[0], read(IdiomsSource(n_chars=20_000))[0]
    assert long[: len(short)] == short
    assert read(IdiomsSource(n_chars=5_000, seed=1))[0] != short
    assert write_module(random.Random("0/0")) == short[0].text


def test_stdlib_is_spread_and_the_same_every_time() -> None:
    source = StdlibSource(max_chars=800_000)
    documents, _ = read(source)
    assert documents == read(source)[0]
    assert sum(len(document.text) for document in documents) <= 800_000
    root = Path(sysconfig.get_paths()["stdlib"])
    assert all((root / document.name).is_file() for document in documents)
    assert len({Path(document.name).parts[0] for document in documents}) > 5
    more = read(StdlibSource(max_chars=900_000))[0]
    assert more[: len(documents)] == documents


def test_files_that_are_not_text_are_skipped_and_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    (tmp_path / "c.jsonl").write_text('{"text": "second"}\n\n{"text": 3}\nnot json\n{"other": "x"}\n["text"]\n')
    documents, skips = read(FilesSource(paths=(str(tmp_path / "*"),)))
    assert [document.text for document in documents] == ["first", "second"]
    assert [(Path(skip.name).name, skip.reason.split(" (")[0]) for skip in skips] == [
        ("b.txt", "not UTF-8 text"),
        ("c.jsonl:3", "no text in field 'text'"),
        ("c.jsonl:4", "not JSON"),
        ("c.jsonl:5", "no text in field 'text'"),
        ("c.jsonl:6", "no text in field 'text'"),
    ]
    assert read(FilesSource(paths=(str(tmp_path),)))[0] == documents


def test_editing_a_file_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    source = FilesSource(paths=(str(tmp_path / "a.txt"),))
    before = source.fingerprint()
    (tmp_path / "a.txt").write_text("second")
    assert source.fingerprint() != before


def test_hub_reads_a_local_set(tmp_path: Path) -> None:
    rows = [{"content": "one"}, {"content": "two"}, {"content": None}, {"content": "four"}]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    files = (str(tmp_path / "rows.json"),)
    import datasets

    datasets.disable_progress_bars()
    for streaming in (False, True):
        source = HubSource(name="json", data_files=files, text_field="content", streaming=streaming, max_docs=3)
        documents, skips = read(source)
        assert [document.text for document in documents] == ["one", "two"]
        assert [skip.name for skip in skips] == ["json/train/2"]
    with pytest.raises(ValueError, match="no column 'text'; its columns: content"):
        read(HubSource(name="json", data_files=files))


def test_hub_sees_an_edit_of_a_local_file_that_its_time_does_not_show(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    path = tmp_path / "rows.json"
    for files in ((str(path),), (f"{tmp_path}/*.json",)):
        source = HubSource(name="json", data_files=files)
        seen = []
        for text in ("one", "two"):
            path.write_text(json.dumps({"text": text}))
            os.utime(path, (1, 1))
            seen.append(([document.text for document in read(source)[0]], source.fingerprint()))
        assert [texts for texts, _ in seen] == [["one"], ["two"]] and seen[0][1] != seen[1][1]


def test_hub_fields_have_dotted_names_and_errors_one_line(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    path = tmp_path / "rows.json"
    path.write_text("\n".join(json.dumps({"content": {"text": text}}) for text in ("one", "a\0b", None)))
    documents, skips = read(HubSource(name="json", data_files=(str(path),), text_field="content.text"))
    assert [document.text for document in documents] == ["one"]
    assert [skip.reason.split(" ")[0] for skip in skips] == ["a", "no"]
    path.write_text('{"text": "a"}\n{"text": [')
    with pytest.raises(ValueError, match="the set 'json' cannot be loaded: ") as error:
        read(HubSource(name="json", data_files=(str(path),)))
    assert "\n" not in str(error.value)


def test_files_of_a_folder_that_cannot_be_read_are_skipped_and_named_ones_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "three"}\n')
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "d.jsonl").write_bytes('{"text": "wide"}\n'.encode("utf-16"))
    documents, skips = read(FilesSource(paths=(str(tmp_path),)))
    assert [document.text for document in documents] == ["one", "two"]
    assert [(Path(skip.name).name, skip.reason.split("; ")[0].removeprefix(f"{tmp_path}/")) for skip in skips] == [
        ("a.jsonl", "a.jsonl:2 is not UTF-8 text (byte 13)"),
        ("c.png", "no text by its ending .png"),
        ("d.jsonl", "UTF-16 text"),
    ]
    for name in ("a.jsonl", "c.png", "d.jsonl"):
        with pytest.raises(ValueError, match=re.escape(name)):
            read(FilesSource(paths=(str(tmp_path / name), str(tmp_path))))


def test_a_file_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").symlink_to("a.txt")
    documents, skips = read(FilesSource(paths=(str(tmp_path), f"{tmp_path}/*.txt")))
    assert [document.text for document in documents] == ["one"] and len(skips) == 2
    assert "counted once already" in skips[0].reason


def test_a_document_beyond_max_chars_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("long" * 10)
    documents, skips = read(FilesSource(paths=(str(tmp_path / "a.txt"),), max_chars=12))
    assert not documents and skips == [Skip(f"{tmp_path}/a.txt", "40 characters, more than max_chars=12")]


def test_bad_values_are_named(tmp_path: Path) -> None:
    for weight in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="weight="):
            from_dict(StdlibSource, {"weight": weight})
    with pytest.raises(ValueError, match="n_chars=0"):
        from_dict(IdiomsSource, {"n_chars": 0})
    with pytest.raises(ValueError, match="max_chars=0"):
        from_dict(StdlibSource, {"max_chars": 0})
    with pytest.raises(ValueError, match="paths="):
        from_dict(FilesSource, {"paths": ()})
    with pytest.raises(ValueError, match="paths="):
        from_dict(FilesSource, {"paths": "a.txt"})
    with pytest.raises(ValueError, match="max_docs"):
        HubSource(name="x", streaming=True)
    with pytest.raises(ValueError, match="no file matches"):
        read(FilesSource(paths=(str(tmp_path / "*.none"),)))


def test_a_config_chooses_its_sources_by_kind() -> None:
    adapter = TypeAdapter(DataConfig)
    config = adapter.validate_python({"sources": {"x": {"kind": "idioms", "n_chars": 10}}, "d_vocab": 300})
    assert config == DataConfig(sources={"x": IdiomsSource(n_chars=10)}, d_vocab=300)
    assert adapter.validate_python(adapter.dump_python(DataConfig())) == DataConfig()
    with pytest.raises(ValidationError, match="'stdlib', 'idioms', 'files', 'hub'"):
        adapter.validate_python({"sources": {"x": {"kind": "nope"}}})


def test_a_bad_data_config_is_named() -> None:
    with pytest.raises(ValueError, match="empty corpus"):
        DataConfig(sources={})
    with pytest.raises(ValueError, match="source name 'a/b'"):
        DataConfig(sources={"a/b": StdlibSource()})
    with pytest.raises(ValueError, match="d_vocab=10"):
        from_dict(DataConfig, {"d_vocab": 10})
    with pytest.raises(ValueError, match="val_fraction=0"):
        from_dict(DataConfig, {"val_fraction": 0})
    with pytest.raises(ValueError, match=r"val_fraction.* below 0\.3"):
        DataConfig(val_fraction=0.3)
