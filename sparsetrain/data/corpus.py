"""From sources to token files: read, group, split, train the tokenizer, encode, and never do it twice.

1. Every source yields documents and skips; skips are counted and named.
2. Near-duplicates are grouped over all sources together, and a group is put into one split by the hash of its content
   and the seed: heldout and val get their fractions, train the rest (`mix.py`).
3. The tokenizer is trained on the train split of the mix.
4. Per source and split one array of token ids: each document behind its separator, in the order of content hashes.
5. The arrays and the tokenizer lie in a folder named by their content hash; a manifest, kept by `store.once` under the config,
   the sources' fingerprints and this code, points to it. It is written last, and the content is checked on use.
"""

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from rich.progress import Progress

from sparsetrain.data.mix import SPLITS, Mix, NearDuplicates
from sparsetrain.data.sources import Document, IdiomsSource, Skip, Source, SourceConfig, StdlibSource
from sparsetrain.data.sources.document import digest
from sparsetrain.data.tokenizer import MIN_D_VOCAB, Tokenizer, train_tokenizer
from sparsetrain.progress import progress_bar
from sparsetrain.stats.number import Number, number
from sparsetrain.store import fingerprint, once, recall
from sparsetrain.typed import OpenShare, one_line

MAX_NAMED = 1000  # skips of a source that the manifest names; all are counted
ENCODE_BATCH = 256  # documents handed to the parallel encoder at a time


def default_sources() -> dict[str, SourceConfig]:
    """Real Python and simple idioms in equal parts of every batch."""
    return {
        "stdlib": StdlibSource(weight=0.5, max_chars=12_000_000),
        "idioms": IdiomsSource(weight=0.5, n_chars=8_000_000),
    }


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model reads."""

    sources: dict[str, SourceConfig] = field(default_factory=default_sources)  # by name; weights need not sum to 1
    d_vocab: int = 1024  # tokens, separator included
    val_fraction: OpenShare = 0.05  # of the documents of each source
    heldout_fraction: OpenShare = 0.05  # of the documents of each source
    means_fraction: OpenShare = 0.02  # of the documents of each source
    near_duplicates: NearDuplicates = "group"  # go to one split together; keep: only exact copies do
    seed: int = 0  # of the assignment of documents to splits; the order of batches has its own

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources={} is an empty corpus; name at least one source")
        for name in self.sources:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == "mixed":
                raise ValueError(f"source name {name!r} must be letters, digits, _ or -, and not 'mixed'")
        if self.d_vocab < MIN_D_VOCAB:
            raise ValueError(f"d_vocab={self.d_vocab} must be at least {MIN_D_VOCAB} (256 bytes and the separator)")
        if max(self.val_fraction, self.heldout_fraction, self.means_fraction) >= 0.3:
            raise ValueError("val_fraction, heldout_fraction and means_fraction must each be below 0.3")


@dataclass(frozen=True, kw_only=True)
class SourceText:
    """What a source gave; numbers by split."""

    kind: str
    synthetic: bool
    n_docs: Mapping[str, int]
    n_chars: Mapping[str, int]
    n_tokens: Mapping[str, int]
    n_near_duplicates: int
    """Documents that share a group with an earlier one."""
    n_skipped: int
    skipped: tuple[Skip, ...]
    """The first thousand."""
    notes: tuple[str, ...] = ()
    """What should be known before its numbers are believed: cut documents, many near-duplicates, carriage returns, splits of few tokens."""


@dataclass(frozen=True, kw_only=True)
class MixedSource(SourceText):
    """A source in the training mixture; numbers by split."""

    weight: float
    """Share of the training tokens."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """The vocabulary, and how far it goes on the training text."""

    d_vocab: int
    chars_per_token: float


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What the model was trained on."""

    content_hash: str
    """Of tokenizer and tokens: equal hashes mean equal training data."""
    synthetic_share: Number
    tokenizer: TokenizerFacts
    sources: Mapping[str, MixedSource]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of a prepared corpus without opening it."""

    content_hash: str
    chars_per_token: float
    """Of the train split."""
    sources: Mapping[str, SourceText]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A prepared corpus on disk.

    Attributes:
        folder: holds `tokenizer.json` and one `<source>.<split>.npy` per source and split.
        tokenizer: trained on the train split.
        weights: share of each source in a batch; sums to 1.
        manifest: counts, skips and hashes.
    """

    folder: Path
    tokenizer: Tokenizer
    weights: Mapping[str, float]
    manifest: Manifest

    @property
    def content_hash(self) -> str:
        """BLAKE2b over tokenizer and tokens, in hex: equal hashes mean equal training data."""
        return self.manifest.content_hash

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in the order of the config."""
        return tuple(self.weights)

    def tokens(self, source: str, split: str) -> NDArray[np.integer[Any]]:
        """The ids of one source and split, `[n_tokens]`, read-only and memory-mapped (uint16, or uint32 if needed).

        Raises:
            ValueError: unknown source or split.
        """
        if source not in self.weights:
            raise ValueError(f"no source {source!r} in this corpus; sources: {', '.join(self.sources)}")
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}; splits: {', '.join(SPLITS)}")
        return np.load(self.folder / f"{source}.{split}.npy", mmap_mode="r")

    def starts(self, source: str, split: str) -> NDArray[np.int64]:
        """Where each document's separator stands in the token file, `[n_docs]`."""
        return np.flatnonzero(self.tokens(source, split) == self.tokenizer.eot_id)

    def text(self, source: str, split: str, i: int) -> str:
        """Document number i of the token file, decoded exactly."""
        tokens, starts = self.tokens(source, split), self.starts(source, split)
        stop = starts[i + 1] if i + 1 < len(starts) else len(tokens)
        return self.tokenizer.decode(tokens[starts[i] + 1 : stop].tolist())


def prepare_corpus(config: DataConfig, cache_dir: Path | str, progress: bool = True) -> Corpus:
    """Reads, splits, tokenises and stores the corpus, or returns the stored one if nothing has changed.

    Args:
        config: sources, vocabulary and splits.
        cache_dir: folder shared between runs; made if absent.
        progress: whether to draw a progress bar on stderr.

    Returns:
        The corpus.

    Raises:
        ValueError: a source yields fewer than three distinct documents; too little text for `d_vocab`; a stored corpus
            whose content does not match its hash.
    """
    cache_dir = Path(cache_dir)
    key = _key(config)
    pointer = cache_dir / "prepared" / f"{fingerprint(key)[:32]}.json"

    def prepare() -> Manifest:
        with progress_bar(progress) as bar:
            made = _prepare(config, cache_dir, bar)
        if _key(config) != key:
            raise ValueError("files of the corpus changed while they were read; start again")
        return made

    manifest = once(pointer, key, prepare, Manifest)
    folder = _folder(cache_dir, manifest.content_hash)
    found = _content_hash(folder, config.sources)
    if found != manifest.content_hash:
        raise ValueError(
            f"stored corpus {folder} is damaged: content {found}, expected {manifest.content_hash}; "
            f"delete {folder} and {pointer} to prepare it again"
        )
    total = sum(source.weight for source in config.sources.values())
    return Corpus(
        folder=folder,
        tokenizer=Tokenizer.load(folder / "tokenizer.json"),
        weights={name: source.weight / total for name, source in config.sources.items()},
        manifest=manifest,
    )


def describe(corpus: Corpus) -> DataSection:
    """What the model is trained on, for the report."""
    sources = corpus.manifest.sources
    synthetic = sum(weight for name, weight in corpus.weights.items() if sources[name].synthetic)
    note = "expected share: the weights of the synthetic sources"
    return DataSection(
        content_hash=corpus.content_hash,
        synthetic_share=number(synthetic, "fraction of training tokens", note=note),
        tokenizer=TokenizerFacts(d_vocab=corpus.tokenizer.d_vocab, chars_per_token=corpus.manifest.chars_per_token),
        sources={name: MixedSource(**vars(text), weight=corpus.weights[name]) for name, text in sources.items()},
    )


@dataclass(frozen=True, kw_only=True)
class StoredCorpus:
    """A corpus in a cache, as it is found there.

    Attributes:
        folder: of its tokens.
        pointer: the file that names it; None: none does, it will be removed or prepared again by nobody.
        n_bytes: on disk.
        problem: what is wrong with it, in one line; empty: its content has its hash.
    """

    folder: Path
    pointer: Path | None
    n_bytes: int
    problem: str


def stored_corpora(cache_dir: Path) -> list[StoredCorpus]:
    """Every corpus of a cache, read whole: its content is held against its hash."""
    pointers = {path: recall(path, Manifest) for path in sorted((cache_dir / "prepared").glob("*.json"))}
    named = {_folder(cache_dir, found[1].content_hash): path for path, found in pointers.items() if found}
    there = [path for path in sorted((cache_dir / "tokens").glob("*")) if path.is_dir()]
    corpora: list[StoredCorpus] = []
    for folder in sorted({*named, *there}):
        pointer, problem = named.get(folder), ""
        n_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found = pointers[pointer] if pointer else None
        if folder.name.startswith("."):
            problem = "the draft of a job that was stopped"
        elif found is not None:
            try:
                content = _content_hash(folder, found[1].sources)
                problem = "" if content == folder.name else f"its content is {content}, not what its name says"
            except (OSError, ValueError) as error:
                problem = one_line(error)
        corpora.append(StoredCorpus(folder=folder, pointer=pointer, n_bytes=n_bytes, problem=problem))
    return corpora


def _prepare(config: DataConfig, cache_dir: Path, bar: Progress) -> Manifest:
    read = {name: _read(name, source, bar) for name, source in config.sources.items()}
    task = bar.add_task("finding near-duplicates", total=None)
    mix = Mix.of({name: documents for name, (documents, _) in read.items()}, config.near_duplicates)
    bar.update(task, total=len(mix.documents), completed=len(mix.documents))
    fractions = {"heldout": config.heldout_fraction, "val": config.val_fraction, "means": config.means_fraction}
    splits = mix.splits(fractions, config.seed)

    texts: dict[tuple[str, str], list[str]] = {(name, split): [] for name in read for split in SPLITS}
    for i in sorted(range(len(splits)), key=lambda i: (mix.hashes[i], mix.documents[i].name)):
        texts[mix.origin[i], splits[i]].append(mix.documents[i].text)

    task = bar.add_task("training the tokenizer", total=None)
    train = [text for name in read for text in texts[name, "train"]]
    tokenizer = train_tokenizer(train, config.d_vocab)
    bar.update(task, total=len(train), completed=len(train))

    task = bar.add_task("encoding", total=len(mix.documents))
    n_tokens: dict[tuple[str, str], int] = {}
    tokens_dir = cache_dir / "tokens"
    tokens_dir.mkdir(parents=True, exist_ok=True)
    draft = tokens_dir / f".draft-{secrets.token_hex(6)}"
    draft.mkdir()  # under the umask: a group can share the cache
    try:
        tokenizer.save(draft / "tokenizer.json")
        for (name, split), parts in texts.items():
            tokens = _encode(parts, tokenizer, bar, task)
            np.save(draft / f"{name}.{split}.npy", tokens)
            n_tokens[name, split] = len(tokens)
        content_hash = _content_hash(draft, config.sources)
        folder = _folder(cache_dir, content_hash)
        try:
            os.replace(draft, folder)
        except OSError:  # it holds the same already, perhaps from a job that was faster
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)

    n_chars = {key: sum(map(len, parts)) for key, parts in texts.items()}
    repeated = mix.repeated()

    def described(name: str, skips: list[Skip]) -> SourceText:
        n_docs, of_chars, of_tokens = (
            {split: counts[name, split] for split in SPLITS}
            for counts in ({key: len(parts) for key, parts in texts.items()}, n_chars, n_tokens)
        )
        return SourceText(
            kind=config.sources[name].kind,
            synthetic=config.sources[name].synthetic,
            n_docs=n_docs,
            n_chars=of_chars,
            n_tokens=of_tokens,
            n_near_duplicates=repeated[name],
            n_skipped=len(skips),
            skipped=tuple(skips[:MAX_NAMED]),
            notes=mix.remarks(name, n_docs, of_tokens),
        )

    return Manifest(
        content_hash=content_hash,
        chars_per_token=sum(n_chars[name, "train"] for name in read) / sum(n_tokens[name, "train"] for name in read),
        sources={name: described(name, skips) for name, (_, skips) in read.items()},
    )


def _read(name: str, source: Source, bar: Progress) -> tuple[list[Document], list[Skip]]:
    # Documents, and what was skipped.
    task = bar.add_task(f"reading {name}", total=None)
    documents: list[Document] = []
    skips: list[Skip] = []
    for item in source.read():
        if isinstance(item, Skip):
            skips.append(item)
        elif not item.text.strip():
            skips.append(Skip(item.name, "empty"))
        else:
            documents.append(item)
        bar.advance(task)
    bar.update(task, total=len(documents) + len(skips))
    if not documents:
        first = f", the first: {skips[0].name} ({skips[0].reason})" if skips else ""
        raise ValueError(f"source {name!r} is empty: no document, {len(skips)} skipped{first}")
    return documents, skips


def _encode(texts: list[str], tokenizer: Tokenizer, bar: Progress, task: Any) -> NDArray[np.integer[Any]]:
    dtype = np.uint16 if tokenizer.d_vocab <= 2**16 else np.uint32
    separator = np.array([tokenizer.eot_id], dtype)
    parts: list[NDArray[np.integer[Any]]] = [np.empty(0, dtype)]
    for start in range(0, len(texts), ENCODE_BATCH):
        batch = texts[start : start + ENCODE_BATCH]
        for ids in tokenizer.encode_batch(batch):
            parts += [separator, np.array(ids, dtype)]
        bar.advance(task, len(batch))
    return np.concatenate(parts)


def _folder(cache_dir: Path, content_hash: str) -> Path:
    return cache_dir / "tokens" / content_hash


def _content_hash(folder: Path, sources: Mapping[str, object]) -> str:
    content = hashlib.blake2b(digest_size=16)
    names = ["tokenizer.json", *(f"{name}.{split}.npy" for name in sources for split in SPLITS)]
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ValueError(f"stored corpus {folder} is damaged: no {name}; delete the folder to prepare it again")
        with path.open("rb") as file:
            content.update(name.encode())
            content.update(hashlib.file_digest(file, "blake2b").digest())
    return content.hexdigest()


def _key(config: DataConfig) -> dict[str, Any]:
    # The code that makes the corpus is part of the key, so that a change of it is never answered from the cache.
    here = Path(__file__).parent
    parts = sorted(path for part in ("reading", "sources") for path in (here / part).iterdir() if path.is_file())
    code = [*(here / f"{name}.py" for name in ("corpus", "duplicates", "mix", "tokenizer")), *parts]
    return {
        "code": [digest(path.read_text(encoding="utf-8")) for path in code],
        "tokenizers": tokenizers.__version__,
        "sources": {name: [source.synthetic, source.fingerprint()] for name, source in config.sources.items()},
        "d_vocab": config.d_vocab,
        "near_duplicates": config.near_duplicates,
        "splits": [config.val_fraction, config.heldout_fraction, config.means_fraction, config.seed],
    }
