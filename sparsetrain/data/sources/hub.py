"""Any set that the `datasets` library can load: from the hub, or from local files through its builders.

`datasets` is imported when the source is read, never before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sparsetrain.data.sources.document import Document, Skip, stat_fingerprint
from sparsetrain.typed import Count, Weight


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """One split of a `datasets` set."""

    kind: Literal["hub"] = "hub"
    weight: Weight = 1.0  # share of the rows of a batch, relative to the other sources
    name: str  # set name on the hub, or a builder such as "json" together with data_files
    config: str | None = None  # configuration of the set
    split: str = "train"
    revision: str | None = None  # commit or tag; give one, or the cache cannot know when the set has changed
    data_files: tuple[str, ...] = ()  # local files (or files of the set) for the builder
    streaming: bool = False  # read without downloading the whole set first; wants max_docs
    text_field: str = "text"  # the column that holds the text
    max_docs: Count | None = None  # stop after so many rows
    synthetic: bool = False  # whether the text was made by a program or a language model

    def __post_init__(self) -> None:
        if self.streaming and self.max_docs is None:
            raise ValueError("streaming=true needs max_docs, the number of rows to read")

    def read(self) -> Iterator[Document | Skip]:
        """Yields one document a row.

        Raises:
            ValueError: the set has no column `text_field`; the message lists the columns.
        """
        import datasets  # type: ignore[import-untyped]

        rows = datasets.load_dataset(
            self.name,
            self.config,
            split=self.split,
            revision=self.revision,
            data_files=list(self.data_files) or None,
            streaming=self.streaming,
        )
        for number, row in enumerate(islice(rows, self.max_docs)):
            name = f"{self.name}/{self.split}/{number}"
            if self.text_field not in row:
                raise ValueError(f"{self.name} has no column {self.text_field!r}; its columns: {', '.join(row)}")
            text = row[self.text_field]
            yield Document(name, text) if isinstance(text, str) else Skip(name, f"no text in {self.text_field!r}")

    def fingerprint(self) -> Any:
        files = [stat_fingerprint(Path(file)) if Path(file).is_file() else file for file in self.data_files]
        return [self.kind, self.name, self.config, self.split, self.revision, self.text_field, self.max_docs, files]
