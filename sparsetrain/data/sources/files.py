"""Local text files, or JSON-lines files with one document a line.

Files are read in the order of their paths. What is not UTF-8, not JSON or has no text is skipped and named.
"""

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetrain.data.sources.document import Document, Skip, read_document, stat_fingerprint, up_to
from sparsetrain.typed import Count, Weight

JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, kw_only=True)
class FilesSource:
    """Files on this machine."""

    kind: Literal["files"] = "files"
    weight: Weight = 1.0  # share of the rows of a batch, relative to the other sources
    paths: tuple[str, ...]  # glob patterns, `**` included; a folder means every file below it
    text_field: str = "text"  # the field that holds the text in .jsonl and .ndjson files
    max_chars: Count | None = None  # stop before the document that would go beyond
    synthetic: bool = False  # whether the text was made by a program or a language model

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths=() must be one or more glob patterns")

    def read(self) -> Iterator[Document | Skip]:
        """Yields one document a file, or one a line for JSON lines.

        Raises:
            ValueError: no file matches the patterns.
        """
        return up_to((document for path in self._files() for document in self._documents(path)), self.max_chars)

    def fingerprint(self) -> Any:
        return [self.kind, self.text_field, self.max_chars, [stat_fingerprint(path) for path in self._files()]]

    def _files(self) -> list[Path]:
        found: set[Path] = set()
        for pattern in self.paths:
            expanded = Path(pattern).expanduser()
            if expanded.is_dir():
                expanded = expanded / "**" / "*"
            found.update(path for path in map(Path, glob.glob(str(expanded), recursive=True)) if path.is_file())
        if not found:
            raise ValueError(f"no file matches paths={list(self.paths)}; give existing files or glob patterns")
        return sorted(found)

    def _documents(self, path: Path) -> Iterator[Document | Skip]:
        document = read_document(path, str(path))
        if isinstance(document, Skip) or path.suffix not in JSON_LINES:
            yield document
            return
        for number, line in enumerate(document.text.split("\n"), start=1):
            if not line.strip():
                continue
            name = f"{path}:{number}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                yield Skip(name, f"not JSON ({error.msg})")
                continue
            text = record.get(self.text_field) if isinstance(record, dict) else None
            if isinstance(text, str):
                yield Document(name, text)
            else:
                yield Skip(name, f"no text in field {self.text_field!r}")
