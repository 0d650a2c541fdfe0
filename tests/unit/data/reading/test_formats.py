"""Every kind of file: what its rows are, what is skipped, what is refused, and that each is named by file and line."""

import gzip
import json
import os
import re
import tracemalloc
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sparsetrain.data.reading import Document, Fields, Skip, Unreadable, prompt_text, read_rows

TEXTS = ["one\r\ntwo\rthree\n", 'says "so", and\tso', " <|endoftext|> ", "Здравствуй 👋"]


def rows(path: Path, field: str = "text", *others: str) -> list[tuple[int, str]]:
    """Line or row and text of every document."""
    found = [item for item in read_rows(path, Fields(text=field, others=others)) if isinstance(item, Document)]
    return [(int(item.name.removeprefix(f"{path}:")), item.text) for item in found]


def skips(path: Path, field: str = "text") -> list[tuple[str, str]]:
    """Line or row and reason of all that was left out."""
    found = [item for item in read_rows(path, Fields(text=field)) if isinstance(item, Skip)]
    return [(item.name.removeprefix(f"{path}:"), item.reason) for item in found]


def write(path: Path, data: bytes | str) -> Path:
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def objects(texts=TEXTS) -> str:
    return "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))


def quoted(texts=TEXTS, delimiter=",") -> str:
    lines = [delimiter.join((str(i), '"' + text.replace('"', '""') + '"')) for i, text in enumerate(texts)]
    return "\r\n".join([f"id{delimiter}text", *lines, ""])


def as_parquet(path: Path, **columns: list) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL", "a.json", "a.jsonl.gz", "A.NdJson.GZ"])
def test_a_json_object_a_line(tmp_path, name):
    for mark in ("", "\ufeff"):
        assert rows(write(tmp_path / name, mark + objects())) == list(enumerate(TEXTS, start=1))


@pytest.mark.parametrize("name", ["a.json", "a.JSON.gz"])
def test_a_json_list(tmp_path, name):
    listed = [{"text": text} for text in TEXTS]
    for indent in (None, 2):
        assert rows(write(tmp_path / name, json.dumps(listed, indent=indent))) == list(enumerate(TEXTS, start=1))
    assert rows(write(tmp_path / name, json.dumps(TEXTS))) == list(enumerate(TEXTS, start=1))
    assert rows(write(tmp_path / name, json.dumps(listed[0], indent=2))) == [(1, TEXTS[0])]
    with pytest.raises(Unreadable, match=r"not JSON \(.*, column \d+\); give a list of rows, or one row a line"):
        rows(write(tmp_path / name, '[\n{"text": "a"},\n]'))
    with pytest.raises(Unreadable, match="not JSON"):
        rows(write(tmp_path / name, json.dumps(listed)[:-30]))


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.CSV.gz", ",")])
def test_tables_have_a_header_and_quoted_line_breaks(tmp_path, name, delimiter):
    found = rows(write(tmp_path / name, "\ufeff" + quoted(delimiter=delimiter)))
    assert [text for _, text in found] == TEXTS
    # The first row spans lines 2 to 5 (a lone carriage return ends a line, too).
    assert [line for line, _ in found] == [2, 6, 7, 8]


def test_rows_of_a_table_that_do_not_fit_are_skipped(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\n1,a,b\n2,ok\n3\n\n4,"x"y\n5,fine\n6,"never closed\n7,lost\n')
    assert rows(path) == [(3, "ok"), (7, "fine")]
    assert [line for line, _ in skips(path)] == ["2", "4", "6", "8"]
    assert "3 values for 2 columns" in skips(path)[0][1] and "up to line 9" in skips(path)[3][1]
    with pytest.raises(Unreadable, match=r"a\.csv:1 names no column 'body'; its columns: id, text"):
        rows(path, "body")
    with pytest.raises(Unreadable, match="more than one column 'text'"):
        rows(write(tmp_path / "b.csv", "text,text\na,b\n"))
    assert len(rows(write(tmp_path / "long.csv", f'text\n"{"long " * 100_000}"\n'))[0][1]) == 500_000


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "a.parquet.gz"])
def test_parquet(tmp_path, name):
    texts = [*TEXTS, None]
    plain = as_parquet(tmp_path / "plain", id=[0, 1, 2, 3, 4], text=texts, content=[{"text": text} for text in texts])
    path = write(tmp_path / name, plain.read_bytes())
    for field in ("text", "content.text"):
        assert rows(path, field) == list(enumerate(TEXTS, start=1))
        assert skips(path, field) == [("5", f"no text in field {field!r} (it is null)")]
    assert skips(path, "body")[0][1].endswith("(its fields: id, text, content)")
    many = as_parquet(tmp_path / "many.parquet", text=[str(i) for i in range(3000)])
    assert rows(many) == [(i + 1, str(i)) for i in range(3000)]
    with pytest.raises(Unreadable, match="no parquet file that can be read"):
        rows(write(tmp_path / name, plain.read_bytes()[:-40]))


@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.md", "a", "a.weird", "a.TXT.GZ"])
def test_any_other_file_is_one_text_as_given(tmp_path, name):
    text = "".join(TEXTS)
    for mark in ("", "\ufeff"):
        (document,) = read_rows(write(tmp_path / name, mark + text), Fields())
        assert document == Document(str(tmp_path / name), text)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))))
def test_every_format_gives_the_same_texts(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("same")
    files = [
        write(folder / "a.jsonl", "".join(json.dumps({"id": 0, "text": t}, ensure_ascii=False) + "\n" for t in texts)),
        write(folder / "a.json", json.dumps(texts)),
        write(folder / "a.csv", quoted(texts)),
        write(folder / "a.tsv.gz", quoted(texts, "\t")),
        as_parquet(folder / "a.parquet", text=pyarrow.array(texts, pyarrow.string())),
    ]
    for path in files:
        assert [text for _, text in rows(path)] == texts and not skips(path), path.name


def test_rows_without_text_are_named(tmp_path):
    lines = [
        '{"text": "good"}',
        '{"text": null}',
        '{"text": "a\\u0000b"}',
        '{"text": "thumbs \\ud83d up"}',
        '{"body": "x"}',
        '{"text": 7}',
        '["text"]',
        '{"text": ["x"]}',
        f'{{"text": "x", "n": {"9" * 5000}}}',
        "[" * 100_000,
        '{"text": "first", "text": "last wins"}',
        '{"text": "torn',
    ]
    path = write(tmp_path / "a.jsonl", "\n".join(lines))
    assert rows(path) == [(1, "good"), (11, "last wins")]
    assert skips(path) == [
        ("2", "no text in field 'text' (it is null)"),
        ("3", "a NUL at character 1 in field 'text'"),
        ("4", "a lone surrogate (U+D83D) at character 7 in field 'text'"),
        ("5", "no text in field 'text' (its fields: body)"),
        ("6", "no text in field 'text' (it is a number)"),
        ("7", "no text in field 'text' (the row is a list)"),
        ("8", "no text in field 'text' (it is a list)"),
        ("9", "not JSON (a number of too many digits)"),
        ("10", "not JSON (nested too deeply)"),
        ("12", "not JSON (Unterminated string starting at, column 10)"),
    ]


def test_nested_fields_by_dotted_name(tmp_path):
    values = [
        {"content": {"text": "inside"}},
        {"content.text": "literal", "content": {"text": "inside"}},
        {"content": None},
        {"content": {"text": {"text": "x"}}},
        {"content": {"other": 1}},
    ]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(value) + "\n" for value in values))
    assert rows(path, "content.text") == [(1, "inside"), (2, "literal")]
    assert rows(path, "content.text.text") == [(4, "x")]
    assert [reason.split(" (")[1] for _, reason in skips(path, "content.text")] == [
        "its fields: content)",
        "it is an object)",
        "its fields: content)",
    ]
    (first, *_) = read_rows(path, Fields(text="content.text", others=("content", "content.other", "none")))
    assert first.fields == {"content": {"text": "inside"}}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.json.gz"])
def test_other_encodings_are_named(tmp_path, encoding, name):
    for text in (objects(), objects(["Здравствуй мир"] * 3), "text\n" + "plain words, and more of them\n" * 300):
        path = write(tmp_path / name, text.encode(encoding))
        with pytest.raises(Unreadable, match=re.escape(f"{path} is {encoding[:6].upper()}")) as error:
            rows(path)
        assert "convert it to UTF-8" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"a\.jsonl:2 is not UTF-8 text \(byte 13\)"),
        ("a.txt", b"caf\xe9", r"a\.txt is not UTF-8 text \(byte 3\)"),
        ("a.txt", b"\x7fELF\x01\0\0\1\0\0\2\0\0\0\3", "binary content .*what is read: rows in .jsonl .ndjson .json .csv .tsv"),
        ("a.png", b"text", r"no text by its ending \.png; what is read: rows in .jsonl"),
        ("a.PT.gz", b"text", r"no text by its ending \.pt; "),
        ("a.tar.gz", b"text", r"no text by its ending \.tar; "),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_in_one_line(tmp_path, name, data, message):
    with pytest.raises(Unreadable, match=message) as error:
        list(read_rows(write(tmp_path / name, data), Fields()))
    assert "\n" not in str(error.value)


def test_damaged_archives_and_odd_files_are_named(tmp_path):
    whole = gzip.compress(os.urandom(5000).hex().encode())
    (tmp_path / "torn.txt.gz").write_bytes(whole[:-200])
    (tmp_path / "no.jsonl.gz").write_bytes(b'{"text": "a"}\n')
    for name in ("torn.txt.gz", "no.jsonl.gz"):
        with pytest.raises(Unreadable, match=rf"{name} is no whole \.gz file"):
            list(read_rows(tmp_path / name, Fields()))
    assert rows(write(tmp_path / "empty.jsonl.gz", b"")) == rows(write(tmp_path / "empty.csv", b"")) == []
    (tmp_path / "nothing.json.gz").touch()
    assert rows(tmp_path / "nothing.json.gz") == []
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(Unreadable, match="a pipe, socket or device, not a file"):
        list(read_rows(tmp_path / "pipe.txt", Fields()))
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    with pytest.raises(FileNotFoundError, match="leads nowhere"):
        list(read_rows(tmp_path / "loop.txt", Fields()))


def test_lines_are_read_one_by_one(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for _ in range(300):
            file.write(json.dumps({"text": "word " * 10_000}) + "\n")
    tracemalloc.start()
    n = sum(1 for _ in read_rows(path, Fields()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n == 300 and peak < path.stat().st_size / 20


def test_prompts(tmp_path):
    assert prompt_text(r"for i:\n\tx") == "for i:\n\tx"
    as_given = write(tmp_path / "a [1].py", "\ufeffx = 1\r\n")
    assert prompt_text(f"@{as_given}") == "x = 1\r\n"
    assert prompt_text(f"@{write(tmp_path / 'a.txt.gz', 'packed')}") == "packed"
    for data, message in ((b"", "is an empty file"), ("x".encode("utf-16"), "is UTF-16 text"), (b"a\0", "binary")):
        with pytest.raises(ValueError, match=message):
            prompt_text(f"@{write(tmp_path / 'b.txt', data)}")
    with pytest.raises(FileNotFoundError):
        prompt_text(f"@{tmp_path}/none.txt")
    with pytest.raises(ValueError, match="no text by its ending"):
        prompt_text(f"@{write(tmp_path / 'c.png', b'x')}")
    with pytest.raises(ValueError, match="a lone surrogate"):
        prompt_text("a\udc80b")
