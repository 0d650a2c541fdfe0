"""The corpus: splits by content, duplicates kept together, exact token files, a cache that is used and checked."""

import dataclasses
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import groups_of, small_config, small_corpus

from sparsetrain.data import SPLITS, Corpus, DataConfig, FilesSource, IdiomsSource, describe, prepare_corpus
from sparsetrain.data.duplicates import normalise
from sparsetrain.data.sources import Document
from sparsetrain.typed import plain


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("data"))


def texts_of(corpus: Corpus, source: str, split: str) -> list[str]:
    return [corpus.text(source, split, i) for i in range(len(corpus.starts(source, split)))]


def test_every_document_is_in_one_split_exactly(corpus: Corpus) -> None:
    found = [text for split in SPLITS for text in texts_of(corpus, "idioms", split)]
    written = [item.text for item in IdiomsSource(n_chars=60_000).read() if isinstance(item, Document)]
    assert sorted(found) == sorted(written)


def test_token_files_start_every_document_with_the_separator(corpus: Corpus) -> None:
    for source in corpus.sources:
        for split in SPLITS:
            tokens = corpus.tokens(source, split)
            assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
            assert tokens[0] == corpus.tokenizer.eot_id
            expected = [corpus.tokenizer.eot_id, *corpus.tokenizer.encode(corpus.text(source, split, 0))]
            assert tokens[: len(expected)].tolist() == expected


def test_manifest_counts(corpus: Corpus) -> None:
    for source in corpus.sources:
        entry = corpus.manifest.sources[source]
        for split in SPLITS:
            assert entry.n_tokens[split] == len(corpus.tokens(source, split))
            assert entry.n_docs[split] == len(corpus.starts(source, split))
            assert entry.n_chars[split] == sum(map(len, texts_of(corpus, source, split)))
        share = entry.n_docs["heldout"] / sum(entry.n_docs.values())
        assert 0.1 < share < 0.3
    assert corpus.weights == {"code": 0.75, "idioms": 0.25}


def test_describe_states_the_synthetic_share(corpus: Corpus) -> None:
    section = plain(describe(corpus))
    assert section["synthetic_share"]["value"] == 0.25
    assert section["sources"]["idioms"]["synthetic"] and not section["sources"]["code"]["synthetic"]
    assert section["tokenizer"]["d_vocab"] == 400 and section["tokenizer"]["chars_per_token"] > 1
    assert section["content_hash"] == corpus.content_hash
    assert set(section["sources"]["code"]) >= {"weight", "n_docs", "n_tokens", "n_skipped", "skipped"}


def test_a_second_preparation_reads_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(tmp_path)
    first = prepare_corpus(config, tmp_path / "cache", progress=False)
    reweighted = dataclasses.replace(
        config, sources=config.sources | {"idioms": IdiomsSource(n_chars=60_000, weight=9)}
    )
    monkeypatch.setattr("sparsetrain.data.corpus.train_tokenizer", None)
    again = prepare_corpus(reweighted, tmp_path / "cache", progress=False)
    assert again.content_hash == first.content_hash and again.folder == first.folder
    assert again.weights == {"code": 0.25, "idioms": 0.75}


def test_another_cache_gives_the_same_hash_and_another_config_another(corpus: Corpus, tmp_path: Path) -> None:
    assert small_corpus(tmp_path).content_hash == corpus.content_hash
    config = dataclasses.replace(small_config(tmp_path), seed=1)
    other = prepare_corpus(config, tmp_path / "cache", progress=False)
    assert other.content_hash != corpus.content_hash


def test_an_edited_file_is_prepared_again(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    first = prepare_corpus(config, tmp_path / "cache", progress=False)
    edited = next((tmp_path / "code").iterdir())
    edited.write_text(edited.read_text() + "# edited\n")
    assert prepare_corpus(config, tmp_path / "cache", progress=False).content_hash != first.content_hash


def edit_unseen(path: Path, text: str) -> None:
    """Other text of the same size under the same time of change."""
    stat = path.stat()
    path.write_text(text)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def some_rows(word: str) -> str:
    return "".join(json.dumps({"text": f"{word} {i} " * 9}) + "\n" for i in range(30))


def files_config(*paths: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(sources={"mine": FilesSource(paths=tuple(map(str, paths)))}, d_vocab=257, **settings)


def all_text(corpus: Corpus) -> str:
    return "".join(text for split in SPLITS for text in texts_of(corpus, "mine", split))


def test_an_edit_that_size_and_time_do_not_show_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "corpus" / "a.jsonl"
    file.parent.mkdir()
    file.write_text(some_rows("one"))
    for paths in ([tmp_path / "corpus" / "*.jsonl"], [tmp_path / "corpus"], [file]):
        edit_unseen(file, some_rows("one"))
        assert "one" in all_text(prepare_corpus(files_config(*paths), tmp_path / "cache", progress=False))
        edit_unseen(file, some_rows("two"))
        text = all_text(prepare_corpus(files_config(*paths), tmp_path / "cache", progress=False))
        assert "two" in text and "one" not in text


def test_the_corpus_of_another_project_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for project, word in (("a", "one"), ("b", "two")):
        file = tmp_path / project / "corpus" / "rows.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text(some_rows(word))
        os.utime(file, (1, 1))
    for project, word in (("a", "one"), ("b", "two"), ("a", "one")):
        monkeypatch.chdir(tmp_path / project)
        for path in ("corpus", "corpus/*.jsonl"):
            assert word in all_text(prepare_corpus(files_config(path), tmp_path / "cache", progress=False))


def test_files_that_change_while_they_are_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(some_rows("one"))
    read = FilesSource.read

    def changing(source: FilesSource) -> Iterator[Any]:
        yield from read(source)
        edit_unseen(file, some_rows("two"))

    monkeypatch.setattr(FilesSource, "read", changing)
    with pytest.raises(ValueError, match="changed while they were read; start again"):
        prepare_corpus(files_config(file), tmp_path / "cache", progress=False)


def test_line_ends_of_users_are_kept(tmp_path: Path) -> None:
    texts = [f"line {i}\r\nand\ranother\n" * 5 for i in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = prepare_corpus(files_config(tmp_path / "a.jsonl"), tmp_path / "cache", progress=False)
    assert sorted(text for split in SPLITS for text in texts_of(corpus, "mine", split)) == sorted(texts)


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    first = small_corpus(tmp_path)
    path = first.folder / "code.val.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match="is damaged"):
        small_corpus(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"no code\.val\.npy"):
        small_corpus(tmp_path)


def test_near_duplicates_never_straddle(tmp_path: Path) -> None:
    rng = random.Random(0)
    originals = [item.text for item in IdiomsSource(n_chars=120_000).read() if isinstance(item, Document)]
    originals = [text for text in originals if len(text) > 500]
    folder = tmp_path / "code"
    folder.mkdir()
    for i, text in enumerate(originals):
        lines = text.split("\n")
        lines[rng.randrange(len(lines))] += "  # touched"
        (folder / f"{i}_a.py").write_text(text)
        (folder / f"{i}_b.py").write_text("\n".join(lines))
        (folder / f"{i}_c.py").write_bytes(text.replace("\n", "  \r\n").encode())
    config = DataConfig(
        sources={"code": FilesSource(paths=(str(folder),))},
        d_vocab=300,
        val_fraction=0.25,
        heldout_fraction=0.25,
        means_fraction=0.2,
    )
    corpus = prepare_corpus(config, tmp_path / "cache", progress=False)
    place = {}
    for split in SPLITS:
        for text in texts_of(corpus, "code", split):
            key = normalise(text.replace("  # touched", ""))
            place.setdefault(key, set()).add(split)
    assert len(place) == len(originals)
    assert all(len(splits) == 1 for splits in place.values())
    assert {split for splits in place.values() for split in splits} == set(SPLITS)
    assert corpus.manifest.sources["code"].n_near_duplicates == 2 * len(originals)


def test_groups_are_near_duplicates_and_nothing_else(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(400)]
    other = [f"other{i}" for i in range(400)]
    changed = words.copy()
    changed[100:110] = other[:10]
    half = words[:200] + other[:200]
    texts = [" ".join(w) for w in (words, other, changed, half)] + ["a", "a", "b", "", ""]
    groups = groups_of(texts, tmp_path)
    assert groups[0] == groups[2] and len({groups[0], groups[1], groups[3]}) == 3
    assert groups[4] == groups[5] != groups[6] and groups[7] == groups[8]
    assert groups_of([], tmp_path) == []


def test_small_sources_fill_every_split(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(" ".join(f"{word}{i}" for word in ("alpha", "beta", "gamma", "delta")))
    for seed in range(5):
        config = DataConfig(sources={"few": FilesSource(paths=(str(tmp_path / "*.txt"),))}, d_vocab=257, seed=seed)
        corpus = prepare_corpus(config, tmp_path / "cache", progress=False)
        assert corpus.manifest.sources["few"].n_docs == dict.fromkeys(SPLITS, 1)
    (tmp_path / "3.txt").write_text((tmp_path / "1.txt").read_text())
    with pytest.raises(ValueError, match="'few' has 3 distinct document"):
        prepare_corpus(config, tmp_path / "cache", progress=False)


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    config = DataConfig(sources={"none": FilesSource(paths=(str(tmp_path / "*.txt"),))})
    with pytest.raises(ValueError, match=r"source 'none' is empty: no document, 1 skipped, the first: .*blank.txt"):
        prepare_corpus(config, tmp_path / "cache", progress=False)


def test_unknown_names_are_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="no source 'x' in this corpus; sources: code, idioms"):
        corpus.tokens("x", "val")
    with pytest.raises(ValueError, match="no split 'test'"):
        corpus.tokens("code", "test")
