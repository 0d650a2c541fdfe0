"""Any set that the `datasets` library can load: from the hub, or from local files through its builders.

`datasets` is imported when the source is read, never before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from sparsetrain.data.reading import Document, Fields, Skip, find_files
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
            ValueError: the set has no column for `text_field`, and the message lists the columns; `datasets` cannot load or make it.
        """
        import datasets  # type: ignore[import-untyped]
        from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

        local = any(found is not None for found in self._local().values())
        try:
            rows: Any = datasets.load_dataset(
                self.name,
                self.config,
                split=self.split,
                revision=self.revision,
                data_files=list(self.data_files) or None,
                streaming=self.streaming,
                # The library takes a local file of the same path and time of change for the same file.
                download_mode="force_redownload" if local else None,
            )
        except (DatasetsError, ValueError, OSError) as error:
            reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
            raise ValueError(f"the set {self.name!r} cannot be loaded: {reason}") from error
        fields = Fields(text=self.text_field)
        for number, row in enumerate(islice(rows, self.max_docs)):
            if not {self.text_field, self.text_field.partition(".")[0]} & row.keys():
                raise ValueError(f"{self.name} has no column {self.text_field!r}; its columns: {', '.join(row)}")
            yield fields.row(f"{self.name}/{self.split}/{number}", row)

    def _local(self) -> dict[str, list[list[str]] | None]:
        """The name of the set and its files -> what lies there on this machine; None: nothing does."""
        found: dict[str, list[list[str]] | None] = {}
        for given in (self.name, *self.data_files):
            try:
                found[given] = find_files([given], "data_files").content()
            except (OSError, ValueError):
                found[given] = None
        return found

    def fingerprint(self) -> Any:
        names = [self.kind, self.name, self.config, self.split, self.revision, self.text_field, self.max_docs]
        return [*names, self._local()]
