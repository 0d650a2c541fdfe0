"""Where documents come from: one file per source; `SourceConfig` is their union, chosen from by `kind`."""

from typing import Annotated

from pydantic import Field

from sparsetrain.data.reading import Document, Skip
from sparsetrain.data.sources.document import Source
from sparsetrain.data.sources.files import FilesSource
from sparsetrain.data.sources.hub import HubSource
from sparsetrain.data.sources.idioms import IdiomsSource
from sparsetrain.data.sources.stdlib import StdlibSource

SourceConfig = Annotated[StdlibSource | IdiomsSource | FilesSource | HubSource, Field(discriminator="kind")]

__all__ = [
    "Document",
    "FilesSource",
    "HubSource",
    "IdiomsSource",
    "Skip",
    "Source",
    "SourceConfig",
    "StdlibSource",
]
