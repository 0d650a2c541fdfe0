"""How the rows of each kind of file are found.

`datasets` has builders for the same kinds. They are not used: one bad row fails their whole file, they do not know lines, and they
keep a copy under an identity of their own (path and time of change).
"""

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sparsetrain.data.reading.document import Document, LongDocument, Skip
from sparsetrain.data.reading.opening import Unreadable, lines, opened, read_text, text_blocks
from sparsetrain.data.reading.rows import Fields

Rows = Iterator[Document | LongDocument | Skip]
BATCH = 1024  # rows of a parquet file that are held at a time


def json_lines(path: Path, fields: Fields) -> Rows:
    """A JSON value a line; a line that is none is skipped."""
    for number, line in lines(path):
        place, line = f"{path}:{number}", line.removeprefix("\ufeff").strip()
        if line:
            try:
                yield fields.row(place, _parsed(line))
            except ValueError as error:
                yield Skip(place, f"not JSON ({_told(error)})")


def json_values(path: Path, fields: Fields) -> Rows:
    """One JSON value: a list of rows, or a single row. Also one object a line, as some tools write under this ending."""
    first = next((line for _, line in lines(path) if line.strip()), "")
    try:
        whole = not isinstance(_parsed(first.strip()), dict)
    except ValueError:
        whole = True
    if not whole:
        yield from json_lines(path, fields)
    elif first:
        text = read_text(path)
        try:
            value = _parsed(text)
        except ValueError as error:
            raise Unreadable(f"{path} is not JSON ({_told(error)}); give a list of rows, or one row a line") from None
        for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
            yield fields.row(f"{path}:{number}", row)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _told(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"{error.msg}, {line}column {error.colno}"
    return "a number of too many digits" if "digits" in str(error) else str(error)


def table(path: Path, fields: Fields, delimiter: str) -> Rows:
    """Rows behind a line with the names of the columns; a quoted value may hold line breaks. A row's line is its first."""
    csv.field_size_limit(2**31 - 1)  # of the module, and 131,072 characters by default: less than a long text
    reader = csv.reader((line for _, line in lines(path)), delimiter=delimiter, strict=True)
    names: list[str] = []
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not names:
                raise Unreadable(f"{place} has no names of columns ({error})") from None
            yield Skip(place, f"no row of {len(names)} values ({error}, up to line {reader.line_num})")
            continue
        if not any(value.strip() for value in values):
            continue
        if not names:
            names = [value.strip() for value in values]
            if names.count(fields.text) != 1:
                n = "more than one column" if fields.text in names else "no column"
                raise Unreadable(f"{place} names {n} {fields.text!r}; its columns: {', '.join(names)}")
        elif len(values) != len(names):
            yield Skip(place, f"{len(values)} values for {len(names)} columns; a text with a {delimiter!r} is quoted")
        else:
            yield fields.row(place, dict(zip(names, values, strict=True)))


def parquet(path: Path, fields: Fields) -> Rows:
    """Rows of a parquet file, numbered from 1 on; only the columns that are wanted are read."""
    import pyarrow
    from pyarrow import parquet as files

    with opened(path) as file:
        try:
            # A packed file can only be read from its beginning, a parquet file is read from its end.
            found = files.ParquetFile(pyarrow.BufferReader(file.read()) if path.suffix.lower() == ".gz" else file)
            names = found.schema_arrow.names
            wanted = [
                name for name in names if any(f"{w}.".startswith(f"{name}.") for w in (fields.text, *fields.others))
            ]
            number = 0
            for batch in found.iter_batches(BATCH, columns=wanted or names):
                for i in range(batch.num_rows):
                    number += 1
                    place = f"{path}:{number}"
                    try:
                        row = {name: batch.column(name)[i].as_py() for name in batch.schema.names}
                    except UnicodeDecodeError:
                        yield Skip(place, "not UTF-8")
                    else:
                        yield fields.row(place, row)
        except (pyarrow.ArrowException, OSError) as error:
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise Unreadable(f"{path} is no parquet file that can be read ({line})") from error


def prose(path: Path, fields: Fields) -> Rows:
    """The whole file as one text; of more than a block it is only looked at whether it can be read."""
    blocks = text_blocks(path)
    first = next(blocks, "")
    rest = sum(map(len, blocks))
    yield LongDocument(str(path), len(first) + rest, partial(text_blocks, path)) if rest else Document(str(path), first)


FORMATS: dict[str, Callable[[Path, Fields], Rows]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_values,
    ".csv": partial(table, delimiter=","),
    ".tsv": partial(table, delimiter="\t"),
    ".parquet": parquet,
}
"""Ending -> how the rows in such a file are found. Any other text is `prose`."""

NO_TEXT = {
    ".7z", ".a", ".arrow", ".avi", ".avro", ".bin", ".bmp", ".bz2", ".ckpt", ".class", ".db", ".dll", ".doc",
    ".docx", ".dylib", ".exe", ".feather", ".flac", ".gguf", ".gif", ".h5", ".hdf5", ".ico", ".jar", ".jpeg",
    ".jpg", ".lz4", ".mat", ".mkv", ".mov", ".mp3", ".mp4", ".npy", ".npz", ".o", ".odt", ".ogg", ".onnx", ".orc",
    ".pdf", ".pickle", ".pkl", ".png", ".ppt", ".pptx", ".pt", ".pth", ".pyc", ".pyd", ".rar", ".safetensors",
    ".so", ".sqlite", ".sqlite3", ".tar", ".tgz", ".tif", ".tiff", ".ttf", ".wasm", ".wav", ".webm", ".webp",
    ".whl", ".woff", ".woff2", ".xls", ".xlsx", ".xz", ".zip", ".zst",
}  # fmt: skip
"""Endings of files that are no text, whatever is in them."""

READ = f"what is read: rows in {' '.join(FORMATS)}, any other text as it is, each also as .gz"


def ending(path: Path) -> str:
    """The ending that says what a file is, in small letters and without `.gz`."""
    return Path(path.name.lower().removesuffix(".gz")).suffix
