"""The one reader of text that users bring: for training, for measuring, for prompts.

1. `find_files` turns what a user calls files into files: an existing path as it is spelled, a folder, or a pattern.
2. `read_rows` yields the documents of a file, each with its place `<file>:<line or row>`, and a `Skip` for every row that is none.
   What kind of file it is says its ending, small or capital, behind which `.gz` may stand. `read_found` does so for all files found: one
   that was named has to be readable, one that lies in a folder or matches a pattern is left out and named.
3. Text is what the file says: UTF-8 without its byte order mark, line ends as given. What is not UTF-8, or binary, is refused by name.
"""

from collections.abc import Iterator
from pathlib import Path

from sparsetrain.data.reading.document import Document, LongDocument, Skip
from sparsetrain.data.reading.formats import FORMATS, NO_TEXT, READ, ending, prose
from sparsetrain.data.reading.opening import Unreadable, read_text
from sparsetrain.data.reading.paths import Found, content_of, distinct_names, expand_home, find_files, listed
from sparsetrain.data.reading.rows import Fields, flaw

__all__ = [
    "FORMATS",
    "Document",
    "Fields",
    "Found",
    "LongDocument",
    "Skip",
    "Unreadable",
    "content_of",
    "distinct_names",
    "ending",
    "expand_home",
    "find_files",
    "flaw",
    "listed",
    "prompt_text",
    "read_found",
    "read_rows",
    "read_text",
]


def read_rows(path: Path, fields: Fields) -> Iterator[Document | LongDocument | Skip]:
    """The documents of a file, row by row; a file of another kind than those of `FORMATS` is one document.

    Args:
        path: of the file.
        fields: which fields of a row are wanted.

    Raises:
        OSError: no such file, or no permission.
        Unreadable: the whole file cannot be read, or not from some line on: no text by its ending, binary, not UTF-8, damaged, without the
            wanted column.
    """
    suffix = ending(path)
    if suffix in NO_TEXT:
        raise Unreadable(f"{path} is no text by its ending {suffix}; {READ}")
    try:
        yield from FORMATS.get(suffix, prose)(path, fields)
    except Unreadable as error:
        raise Unreadable(f"{error}; {READ}" if "binary" in str(error) else str(error)) from error


def read_found(found: Found, fields: Fields) -> Iterator[Document | LongDocument | Skip]:
    """What was noted in finding the files, then the documents of each.

    Args:
        found: the files.
        fields: which fields of a row are wanted.

    Raises:
        OSError, Unreadable: a file that was named is missing, or cannot be read.
    """
    yield from found.notes
    for path in found.files:
        try:
            yield from read_rows(path, fields)
        except (OSError, Unreadable) as error:
            yield found.without(path, error)


def prompt_text(prompt: str) -> str:
    r"""The prompt a user typed: `@path` reads a file as it is, otherwise \n and \t stand for line break and tab.

    Raises:
        OSError: no such file.
        ValueError: the file is no text, or there is nothing in it; a prompt that no tokenizer takes.
    """
    if not prompt.startswith("@"):
        text = prompt.replace("\\n", "\n").replace("\\t", "\t")
        if reason := flaw(text):
            raise ValueError(f"the prompt {text!r} has {reason}; give text")
        return text
    path = expand_home(prompt[1:])
    if ending(path) in (".parquet", *NO_TEXT):
        raise Unreadable(f"the prompt {prompt} is no text by its ending; give a text file")
    text = read_text(path)
    if not text:
        raise ValueError(f"the prompt {prompt} is an empty file; give text")
    return text
