"""Files on this machine, read by `data.reading`: one document a row in .jsonl, .ndjson, .json, .csv, .tsv and .parquet files (and
their .gz), one document a file in any other.

Files are read in the order of their paths. A row without text is skipped and named; so is a file that cannot be read, unless it
was given by its own name: then that is an error.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sparsetrain.data.reading import Document, Fields, Found, LongDocument, Skip, find_files, read_found
from sparsetrain.data.sources.document import up_to
from sparsetrain.typed import Count, Weight


@dataclass(frozen=True, kw_only=True)
class FilesSource:
    """Files on this machine."""

    kind: Literal["files"] = "files"
    weight: Weight = 1.0  # share of the rows of a batch, relative to the other sources
    paths: tuple[
        str, ...
    ]  # files, folders (every file below them) or patterns, `**` included; an existing path is taken as it is spelled
    text_field: str = "text"  # the field that holds the text in files of rows; content.text is text inside of content
    max_chars: Count | None = None  # stop before the document that would go beyond
    synthetic: bool = False  # whether the text was made by a program or a language model

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths=() must be one or more files, folders or patterns")

    def read(self) -> Iterator[Document | LongDocument | Skip]:
        """Yields the documents of all files.

        Raises:
            OSError: a file that is named is not there, or must not be read.
            ValueError: no file matches; a file that is named is no text.
        """
        yield from up_to(read_found(self._found(), Fields(text=self.text_field)), self.max_chars)

    def fingerprint(self) -> Any:
        return [self.kind, self.text_field, self.max_chars, self._found().content()]

    def _found(self) -> Found:
        found = find_files(self.paths, "paths")
        return Found(files=tuple(sorted(found.files)), named=found.named, notes=found.notes)
