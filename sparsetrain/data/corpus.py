"""From sources to token files: read, group, split, train the tokenizer, encode, and never do it twice.

1. Every source yields documents and skips; skips are counted and named. Documents are spooled to the disk (`spool.py`).
2. Near-duplicates are grouped over all sources together, and a group is put into one split by the hash of its content
   and the seed: heldout and val get their fractions, train the rest (`mix.py`).
3. The tokenizer is given (`tokenizer`), or trained on the train split of the mix, where that is long on its first documents in the order of content hashes.
4. Per source and split one array of token ids: each document behind its separator, in the order of content hashes (`encode.py`).
5. The arrays and the tokenizer lie in a folder named by their content hash; a manifest, kept by `store.once` under the config,
   the sources' fingerprints and this code, points to it. It is written last, and the content is checked on use.

No text is held: memory grows with the number of documents alone, by about 400 bytes for each. What is done lies in
`<cache_dir>/drafts/<key>` until all is; a preparation that was stopped goes on there, and a second one of the same corpus waits for it.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from rich.progress import Progress

from sparsetrain.data.encode import TokenFiles
from sparsetrain.data.mix import SPLITS, Mix, NearDuplicates
from sparsetrain.data.sources import IdiomsSource, Skip, SourceConfig, StdlibSource
from sparsetrain.data.sources.document import digest
from sparsetrain.data.spool import Spool, Table
from sparsetrain.data.tokenizer import MIN_D_VOCAB, Tokenizer, text_parts, train_tokenizer
from sparsetrain.folder import own
from sparsetrain.progress import progress_bar
from sparsetrain.stats.number import Number, number
from sparsetrain.store import below_home, fingerprint, once, recall, replacing, write_atomic
from sparsetrain.typed import OpenShare, one_line

SAMPLE = 32_000_000  # characters of the train split that the tokenizer is trained on at most  # ours


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
    d_vocab: int = 1024  # tokens, separator included; with `tokenizer` its own number counts
    tokenizer: str | None = None  # a tokenizer.json to read the text with, instead of one that is trained on it
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

    def prepare(draft: Path) -> Manifest:
        if config.tokenizer is not None:
            _of_file(config.tokenizer)  # refused before the sources are read
        with progress_bar(progress) as bar:
            made = _prepare(config, draft, bar)
        if _key(config) != key:
            raise ValueError("files of the corpus changed while they were read; start again")
        folder = _folder(cache_dir, made.content_hash)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.is_dir():  # otherwise another config has given the same tokens
            os.replace(draft / "tokens", folder)
        return made

    def prepare_alone() -> Manifest:
        with _draft(cache_dir / "drafts" / pointer.stem) as draft:
            return once(pointer, key, lambda: prepare(draft), Manifest)  # perhaps by another process in the meantime

    manifest = once(pointer, key, prepare_alone, Manifest)
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
        found = pointers[pointer] if pointer else None
        if found is not None:
            try:
                content = _content_hash(folder, found[1].sources)
                problem = "" if content == folder.name else f"its content is {content}, not what its name says"
            except (OSError, ValueError) as error:
                problem = one_line(error)
        corpora.append(StoredCorpus(folder=folder, pointer=pointer, n_bytes=_n_bytes(folder), problem=problem))
    return corpora


def stopped_drafts(cache_dir: Path) -> dict[Path, int]:
    """What preparations that were stopped, or are at work, have left in a cache, and its bytes on disk."""
    return {folder: _n_bytes(folder) for folder in sorted((cache_dir / "drafts").glob("*"))}


def _n_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder for what is half done, which stays where the block was interrupted or the system refused something, to be gone on with."""
    folder.mkdir(parents=True, exist_ok=True)  # names the folder where it cannot be made
    with own(folder, wait=True):
        try:
            yield folder
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(config: DataConfig, draft: Path, bar: Progress) -> Manifest:
    spool = Spool(draft, config.sources)
    skipped = {name: spool.read(source, name, bar) for name, source in config.sources.items()}
    with spool:
        mix = _mixed(spool, config, bar)
        documents, order = mix.documents, mix.order(spool)
        fractions = {"heldout": config.heldout_fraction, "val": config.val_fraction, "means": config.means_fraction}
        splits = mix.splits(fractions, config.seed)
        tokenizer = _tokenizer(spool, documents[order[splits[order] == SPLITS.index("train")]], config, bar)

        task = bar.add_task("encoding", total=len(documents))
        files = TokenFiles(draft / "tokens", draft / "encoded.json", tokenizer)
        tokenizer.save(files.folder / "tokenizer.json")
        of: dict[tuple[str, str], dict[str, int]] = {}  # source and what is counted -> by split
        for i, name in enumerate(config.sources):
            for split, named in enumerate(SPLITS):
                file = f"{name}.{named}.npy"
                rows = documents[order[(splits[order] == split) & (documents["source"][order] == i)]]
                missing = rows[files.n_docs(file) :]
                n_before = 0
                for n_docs in files.write(file, (spool.blocks(row) for row in missing)):
                    bar.advance(task, n_docs - n_before)
                    n_before = n_docs
                counts = {"n_docs": len(rows), "n_chars": int(rows["n_chars"].sum()), "n_tokens": files.n_tokens(file)}
                for count, n in counts.items():
                    of.setdefault((name, count), {})[named] = n
    repeated = mix.repeated()

    def described(name: str) -> SourceText:
        n_docs, n_chars, n_tokens = (of[name, count] for count in ("n_docs", "n_chars", "n_tokens"))
        return SourceText(
            kind=config.sources[name].kind,
            synthetic=config.sources[name].synthetic,
            n_docs=n_docs,
            n_chars=n_chars,
            n_tokens=n_tokens,
            n_near_duplicates=repeated[name],
            n_skipped=skipped[name].n,
            skipped=skipped[name].named,
            notes=mix.remarks(name, n_docs, n_tokens),
        )

    sources = {name: described(name) for name in config.sources}
    n_chars, n_tokens = (sum(of[name, count]["train"] for name in sources) for count in ("n_chars", "n_tokens"))
    return Manifest(
        content_hash=_content_hash(files.folder, config.sources), chars_per_token=n_chars / n_tokens, sources=sources
    )


def _mixed(spool: Spool, config: DataConfig, bar: Progress) -> Mix:
    """The mix of what was read, unless it was made already."""
    documents, groups = (spool.folder / name for name in ("documents.npy", "groups.npy"))
    task = bar.add_task("finding near-duplicates", total=None)

    def made() -> dict[str, tuple[str, ...]]:
        mix = Mix.of(spool, config.near_duplicates)
        for path, array in ((documents, mix.documents), (groups, mix.groups)):
            with replacing(path) as file:
                np.save(file, array)
        return dict(mix.notes)

    notes = once(spool.folder / "mix.notes.json", {}, made, dict[str, tuple[str, ...]])
    mix = Mix(sources=spool.names, documents=np.load(documents), groups=np.load(groups), notes=notes)
    bar.update(task, total=len(mix.groups), completed=len(mix.groups))
    return mix


def _tokenizer(spool: Spool, train: Table, config: DataConfig, bar: Progress) -> Tokenizer:
    """The given tokenizer, or that of the train split, or of its first `SAMPLE` characters; unless it was trained already."""
    if config.tokenizer is not None:
        return _of_file(config.tokenizer)
    path = spool.folder / "tokenizer.json"
    task = bar.add_task("training the tokenizer", total=None)

    def texts() -> Iterator[str]:
        left = SAMPLE
        for row in train:
            for part in text_parts(spool.blocks(row)):
                yield part[:left]
                left -= len(part)
                if left <= 0:
                    return

    if not path.is_file():
        write_atomic(path, train_tokenizer(texts(), config.d_vocab).to_json())
    bar.update(task, total=len(train), completed=len(train))
    return Tokenizer.load(path)


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


def _of_file(path: str) -> Tokenizer:
    """The tokenizer of a file that was made elsewhere.

    Raises:
        ValueError: none, or one that is not spelled in bytes.
    """
    return Tokenizer.parse(
        _given_tokenizer(path), f"data.tokenizer={path}", "data.tokenizer=null, for one of the corpus's own"
    )


def _given_tokenizer(path: str) -> str:
    """The text of a tokenizer.json that the user names.

    Raises:
        ValueError: no such file.
    """
    file = below_home(path)
    if not file.is_file():
        raise ValueError(f"data.tokenizer={path}: no such file; give a tokenizer.json")
    return file.read_text(encoding="utf-8")


def _key(config: DataConfig) -> dict[str, Any]:
    # The code that makes the corpus is part of the key, so that a change of it is never answered from the cache.
    here = Path(__file__).parent
    parts = sorted(path for part in ("reading", "sources") for path in (here / part).iterdir() if path.is_file())
    code = [
        *(here / f"{name}.py" for name in ("corpus", "duplicates", "encode", "mix", "pieces", "spool", "tokenizer")),
        *parts,
    ]
    return {
        "code": [digest(path.read_text(encoding="utf-8")) for path in code],
        "tokenizers": tokenizers.__version__,
        "sources": {name: [source.synthetic, source.fingerprint()] for name, source in config.sources.items()},
        "d_vocab": config.d_vocab if config.tokenizer is None else digest(_given_tokenizer(config.tokenizer)),
        "near_duplicates": config.near_duplicates,
        "splits": [config.val_fraction, config.heldout_fraction, config.means_fraction, config.seed],
    }
