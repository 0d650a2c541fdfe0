"""Documents of all sources: groups, long texts cut where they are few, splits, and what is said aloud."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_example import groups_of

from sparsetrain.data import SPLITS, Corpus, DataConfig, FilesSource, IdiomsSource, describe, prepare_corpus
from sparsetrain.data.duplicates import BYTES, normalise
from sparsetrain.data.mix import FEW_TOKENS, MAX_PIECE, MIN_PIECE, Mix, NearDuplicates
from sparsetrain.data.reading import Document
from sparsetrain.data.spool import Spool
from sparsetrain.progress import progress_bar
from sparsetrain.report import sections
from sparsetrain.report.blocks import Text
from sparsetrain.typed import plain


def prepared(tmp_path: Path, path: Path, **settings) -> Corpus:
    config = DataConfig(sources={"mine": FilesSource(paths=(str(path),))}, **{"d_vocab": 300, **settings})
    return prepare_corpus(config, tmp_path / "cache", progress=False)


@dataclass(frozen=True)
class Given:
    """A source of documents that a test has."""

    documents: Sequence[Document]
    kind: str = "given"
    weight: float = 1.0
    synthetic: bool = False

    def read(self):
        return iter(self.documents)

    def fingerprint(self):
        return self.kind


def mixed(folder: Path, near_duplicates: NearDuplicates, **sources: Sequence[Document]) -> Mix:
    folder.mkdir(exist_ok=True)
    spool = Spool(folder, sources)
    for name, documents in sources.items():
        spool.read(Given(documents), name, progress_bar(False))
    with spool:
        return Mix.of(spool, near_duplicates)


def code(n_chars: int, seed: int = 0) -> str:
    documents = IdiomsSource(n_chars=n_chars, seed=seed).read()
    return "\n\n".join(item.text for item in documents if isinstance(item, Document))


def write_rows(path: Path, texts) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize("n_files", [1, 3])
def test_a_corpus_of_few_long_files_is_cut_inside_of_them(tmp_path, n_files):
    text = code(120_000)
    for i in range(n_files):
        part = text[i * len(text) // n_files : (i + 1) * len(text) // n_files]
        (tmp_path / f"input_{i}.txt").write_text(part, newline="")
    corpus = prepared(tmp_path, tmp_path / "*.txt")
    found = corpus.manifest.sources["mine"]
    assert 100 < sum(found.n_docs.values()) < 250 and all(found.n_docs.values())
    assert sum(found.n_chars.values()) == len(text) and found.n_chars["train"] > 0.7 * len(text)
    assert 0.005 < found.n_chars["means"] / len(text) < 0.08
    note = found.notes[0]
    assert note.startswith(f"{n_files} document{'s are' if n_files > 1 else ' is'} too few for 4 splits, so cut into ")
    assert plain(describe(corpus))["sources"]["mine"]["notes"][0] == note


def test_pieces_grow_with_the_text_and_too_little_text_is_refused(tmp_path):
    for n_chars, least, most in ((1_000, MIN_PIECE, 2 * MIN_PIECE), (10**7, MAX_PIECE, 2 * MAX_PIECE)):
        text = "".join(random.Random(0).choices("abcdefgh \n", k=n_chars))
        mix = mixed(tmp_path / str(n_chars), "group", mine=[Document("a", text)])
        sizes = mix.documents["n_chars"]
        assert len(sizes) >= 3 and sizes[:-1].min() >= least and sizes.max() <= most
    (tmp_path / "a.txt").write_text("few words\n" * 20)
    with pytest.raises(ValueError, match=r"source 'mine' has 1 distinct document\(s\) .* too little text to be cut"):
        prepared(tmp_path, tmp_path / "a.txt")


@pytest.mark.parametrize("seed", range(6))
def test_one_file_with_most_of_the_text_is_in_every_split(tmp_path, seed):
    """Whole it would go to one split, in most seeds not to that of training."""
    for name, n_chars in (("book", 100_000), ("a", 4_000), ("b", 3_000), ("c", 2_000)):
        (tmp_path / f"{name}.txt").write_text(code(n_chars, seed=len(name) + n_chars), newline="")
    found = prepared(tmp_path, tmp_path / "*.txt", seed=seed).manifest.sources["mine"]
    assert found.n_chars["train"] > 0.7 * sum(found.n_chars.values()) and all(found.n_docs.values())
    assert found.notes[0].startswith("one of 4 documents has 9") and "so cut into" in found.notes[0]


def test_enough_documents_are_left_whole(tmp_path):
    documents = [Document(str(i), code(20_000, seed=i)) for i in range(4)]
    long = Document("long", "".join(random.Random(1).choices("abc \n", k=50_000)))
    mix = mixed(tmp_path, "group", four=documents, one=[long])
    sizes = mix.documents["n_chars"].tolist()
    assert sizes[:4] == [len(document.text) for document in documents] and not mix.documents["piece"][:4].any()
    assert len(sizes) > 100 and sum(sizes[4:]) == len(long.text) and set(mix.notes) == {"one"}


def test_sums_are_no_near_duplicates(tmp_path):
    sums = [f"{a} + {b} = {a + b}" for a in range(60) for b in range(60)]
    assert len(set(groups_of(sums, tmp_path))) == len(sums)
    rows = ["3 + 5 = 8", "3  +  5=8", "5 + 3 = 8", "3 + 5", "", "yes", "no", "yes"]
    assert groups_of(rows, tmp_path) == [0, 0, 1, 2, 3, 4, 5, 4]
    # Where short documents are rare they are compared by their words, as before.
    long = [" ".join(f"{i}_{j}" for j in range(30)) for i in range(40)]
    groups = groups_of([*long, "attr = 'parent child one'", "attr = 'parent child two'"], tmp_path)
    assert groups[-1] == groups[-2] and len(set(groups)) == 41


def test_short_rows_can_be_trained_on_and_few_tokens_are_said(tmp_path):
    sums = [f"{a} + {b} = {a + b}\n" for a in range(60) for b in range(60)]
    found = prepared(tmp_path, write_rows(tmp_path / "a.jsonl", sums), d_vocab=262).manifest.sources["mine"]
    assert found.n_near_duplicates == 0 and 120 < found.n_docs["val"] < 260
    (note,) = found.notes
    assert f"means {found.n_docs['means']} documents, {found.n_tokens['means']} tokens" in note
    assert found.n_tokens["means"] < FEW_TOKENS <= found.n_tokens["val"] and "val " not in note


def test_many_near_duplicates_are_said_and_can_be_kept(tmp_path):
    # Twenty texts of their own, and 300 that differ from one another in the last word of forty.
    own = [" ".join(f"{i}_{j}" for j in range(40)) for i in range(20)]
    alike = [" ".join([*(f"word{j}" for j in range(40)), str(i)]) for i in range(300)]
    path = write_rows(tmp_path / "a.jsonl", [*own, *alike, alike[0]])
    grouped = prepared(tmp_path, path, d_vocab=262)
    kept = prepared(tmp_path, path, d_vocab=262, near_duplicates="keep")
    found = grouped.manifest.sources["mine"]
    assert found.n_near_duplicates == 300
    assert found.notes[0].startswith("300 of 321 documents (93%) share a group of near-duplicates with an earlier one")
    assert "data.near_duplicates=keep" in found.notes[0]
    assert kept.manifest.sources["mine"].n_near_duplicates == 1, "the exact copy stays with its original"
    assert not any("near-duplicates" in note for note in kept.manifest.sources["mine"].notes)
    assert sorted(found.n_docs.values())[-1] > 300 > kept.manifest.sources["mine"].n_docs["train"]
    blocks = sections.data(describe(grouped))
    assert any("300 of 321 documents (93%)" in block.text for block in blocks if isinstance(block, Text))


def test_exact_copies_stay_together_whatever_is_kept(tmp_path):
    texts = [f"text number {i % 50} with words" for i in range(200)]
    mix = mixed(tmp_path, "keep", a=[Document(str(i), text) for i, text in enumerate(texts)])
    splits = mix.splits({"heldout": 0.2, "val": 0.2, "means": 0.1}, seed=0)
    assert all(splits[i] == splits[i % 50] for i in range(200)) and set(splits.tolist()) == set(range(len(SPLITS)))
    assert mix.repeated() == {"a": 150}


def test_carriage_returns_are_said(tmp_path):
    texts = [normalise(code(2_000, seed=i)).replace("\n", "\r\n" if i % 4 == 0 else "\n") for i in range(40)]
    found = prepared(tmp_path, write_rows(tmp_path / "a.jsonl", texts), near_duplicates="keep").manifest.sources["mine"]
    assert any(
        note.startswith("10 of 40 documents (25%) have carriage returns, which are kept") for note in found.notes
    )


def test_a_vocabulary_too_large_for_the_text_says_what_fits(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [f"{i} and {i}" for i in range(100)])
    with pytest.raises(
        ValueError, match=r"d_vocab=4000 asked, .* give data\.d_vocab=(\d+) or less, or more text"
    ) as error:
        prepared(tmp_path, path, d_vocab=4000)
    fits = int(str(error.value).partition("data.d_vocab=")[2].split()[0])
    assert prepared(tmp_path, path, d_vocab=fits).tokenizer.d_vocab == fits


def test_beyond_the_budget_only_exact_copies_are_grouped_and_it_is_said(tmp_path, monkeypatch):
    own = [" ".join(f"{i}_{j}" for j in range(40)) for i in range(20)]
    alike = [" ".join([*(f"word{j}" for j in range(40)), str(i)]) for i in range(30)]
    documents = [Document(str(i), text) for i, text in enumerate([*own, *alike, *alike[:10]])]
    monkeypatch.setattr("sparsetrain.data.duplicates.BUDGET", 60 * BYTES)
    within = mixed(tmp_path / "within", "group", a=documents)
    assert within.repeated() == {"a": 39} and not within.notes
    monkeypatch.setattr("sparsetrain.data.duplicates.BUDGET", 60 * BYTES - 1)
    beyond = mixed(tmp_path / "beyond", "group", a=documents)
    assert beyond.repeated() == {"a": 10}
    assert beyond.notes["a"][0].startswith("60 documents are too many to look for near-duplicates")
