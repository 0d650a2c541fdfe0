"""The corpus: splits by content, duplicates kept together, exact token files, a cache that is used and checked."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from data_example import small_config, small_corpus

from sparsetrain.data import SPLITS, Corpus, DataConfig, FilesSource, IdiomsSource, describe, prepare_corpus
from sparsetrain.data.duplicates import group_near_duplicates, normalise
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


def test_groups_are_near_duplicates_and_nothing_else() -> None:
    words = [f"word{i}" for i in range(400)]
    other = [f"other{i}" for i in range(400)]
    changed = words.copy()
    changed[100:110] = other[:10]
    half = words[:200] + other[:200]
    texts = [" ".join(w) for w in (words, other, changed, half)] + ["a", "a", "b", "", ""]
    groups = group_near_duplicates(texts)
    assert groups[0] == groups[2] and len({groups[0], groups[1], groups[3]}) == 3
    assert groups[4] == groups[5] != groups[6] and groups[7] == groups[8]
    assert len(group_near_duplicates([])) == 0


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
