"""A corpus small enough for tests: Python files as the real source, generated idioms as the synthetic one."""

from pathlib import Path

from sparsetrain.data import Corpus, DataConfig, FilesSource, IdiomsSource, prepare_corpus
from sparsetrain.data.sources import Document


def write_files(folder: Path, n_chars: int = 60_000, seed: int = 5) -> FilesSource:
    """Python files on disk, as a real source."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in IdiomsSource(n_chars=n_chars, seed=seed).read():
        assert isinstance(item, Document)
        (folder / item.name).write_text(item.text)
    return FilesSource(paths=(str(folder / "*.py"),), weight=3.0)


def small_config(folder: Path) -> DataConfig:
    """Two sources with weights 3 and 1."""
    sources = {"code": write_files(folder / "code"), "idioms": IdiomsSource(n_chars=60_000, weight=1.0)}
    return DataConfig(sources=sources, d_vocab=400, val_fraction=0.1, heldout_fraction=0.2)


def small_corpus(folder: Path) -> Corpus:
    """The corpus of `small_config`."""
    return prepare_corpus(small_config(folder), folder / "cache", progress=False)
