"""Long corpora: memory that does not grow with the text, and a preparation that is gone on with after a kill.

The full form, 50 MB and 500 MB of rows and one text of 100 MB, takes a quarter of an hour: `python tests/reliability/test_long_corpora.py <folder>`
measures it and prints the table of docs/reliability.md.
"""

import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))  # for the full form, which no pytest starts

from long_text import prepared, start, write_rows, write_text

from sparsetrain.data import Corpus, DataConfig, FilesSource, prepare_corpus
from sparsetrain.data.tokenizer import Tokenizer

MB = 10**6
GROWTH = 1.15  # of the largest peak over the smallest
MAX_PEAK = 1500 * MB


def prepare(path: Path, cache: Path, **settings) -> Corpus:
    config = DataConfig(sources={"mine": FilesSource(paths=(str(path),))}, **{"d_vocab": 300, **settings})
    return prepare_corpus(config, cache, progress=False)


def peaks(folder: Path, rows: tuple[int, ...], text: int) -> dict[str, int]:
    """Peak memory of preparing rows of so many MB each, and one text."""
    found = {}
    for size in rows:
        path = write_rows(folder / "rows.jsonl", size * MB)
        found[f"{size} MB of rows"] = prepared(path, folder / f"cache_{size}")["peak"]
    path = write_text(folder / "one.txt", text * MB)
    found[f"one text of {text} MB"] = prepared(path, folder / "cache_one")["peak"]
    return found


@pytest.mark.slow
@pytest.mark.long
def test_peak_memory_does_not_grow_with_the_text(tmp_path):
    found = peaks(tmp_path, rows=(5, 20), text=20)
    assert max(found.values()) < GROWTH * min(found.values()), found
    assert max(found.values()) < MAX_PEAK, found


class Killed(BaseException):
    """Stands for a kill: nothing in the program catches it."""


def test_a_preparation_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.jsonl", 300_000, document=1_000)
    expected = prepare(path, tmp_path / "straight").content_hash
    monkeypatch.setattr("sparsetrain.data.encode.SAVE_EVERY", 2_000)
    monkeypatch.setattr("sparsetrain.data.tokenizer.BATCH", 5_000)
    encode, read = Tokenizer.encode_documents, FilesSource.read
    reads, texts, stop = [], [], {}

    def counted_read(source):
        reads.append(source)
        return read(source)

    def stopped(tokenizer, documents):
        def counted():
            for blocks in documents:
                texts.append("".join(blocks))
                yield [texts[-1]]

        for i, found in enumerate(encode(tokenizer, counted())):
            if i == stop.get("at"):
                raise Killed
            yield found

    monkeypatch.setattr(FilesSource, "read", counted_read)
    monkeypatch.setattr(Tokenizer, "encode_documents", stopped)
    cache = tmp_path / "cache"
    for stop["at"] in (3, 60, 90):
        with pytest.raises(Killed):
            prepare(path, cache)
        assert not list((cache / "prepared").glob("*.json")) and len(list((cache / "drafts").iterdir())) == 1
    stop.clear()
    corpus = prepare(path, cache)
    assert corpus.content_hash == expected and len(reads) == 1, "the source was read once"
    n_docs = sum(corpus.manifest.sources["mine"].n_docs.values())
    again = len(texts) - n_docs
    assert len(set(texts)) == n_docs and again < 60, f"{again} of {n_docs} documents were encoded again, in three stops"
    assert not list((cache / "drafts").iterdir()), "nothing is left behind"


@pytest.mark.parametrize("stage", ["spool.np.save", "corpus.Mix.of", "corpus.train_tokenizer", "corpus._content_hash"])
def test_a_stop_at_every_stage(tmp_path, monkeypatch, stage):
    path = write_rows(tmp_path / "rows.jsonl", 100_000, document=1_000)
    expected = prepare(path, tmp_path / "straight").content_hash

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"sparsetrain.data.{stage}", kill)
        with pytest.raises(Killed):
            prepare(path, tmp_path / "cache")
    assert prepare(path, tmp_path / "cache").content_hash == expected


def test_what_was_not_put_down_is_cut_off(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.jsonl", 100_000, document=1_000)
    expected = prepare(path, tmp_path / "straight").content_hash

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("sparsetrain.data.corpus._content_hash", kill)
        with pytest.raises(Killed):
            prepare(path, tmp_path / "cache")
    (draft,) = (tmp_path / "cache" / "drafts").iterdir()
    for name in ("mine.train.npy", "mine.means.npy"):  # as a power cut may leave them
        with (draft / "tokens" / name).open("ab") as file:
            file.write(b"\0" * 999)
    assert prepare(path, tmp_path / "cache").content_hash == expected


def test_a_refused_corpus_leaves_no_draft(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 20_000, document=1_000)
    with pytest.raises(ValueError, match="d_vocab=60000 asked"):
        prepare(path, tmp_path / "cache", d_vocab=60_000)
    assert not list((tmp_path / "cache" / "drafts").iterdir())


def test_two_that_prepare_the_same_do_it_once(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.jsonl", 200_000, document=1_000)
    read, reads = FilesSource.read, []

    def counted(source):
        reads.append(source)
        time.sleep(0.2)
        return read(source)

    monkeypatch.setattr(FilesSource, "read", counted)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(prepare(path, tmp_path / "cache").content_hash)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1 and len(reads) == 1


@pytest.mark.slow
def test_killed_preparations_give_the_same_corpus(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", 6 * MB)
    expected = prepared(path, tmp_path / "straight")["hash"]
    stages = ("mine.text", "mine.json", "sketches", "tokenizer.json", "tokens/mine.train.npy", "tokens/mine.val.npy")
    for stage in stages:
        process = start(path, tmp_path / "cache")
        while process.poll() is None and not list((tmp_path / "cache").glob(f"drafts/*/{stage}")):
            time.sleep(0.002)
        assert process.poll() is None, f"over before {stage}"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    assert prepared(path, tmp_path / "cache")["hash"] == expected


def main(folder: Path) -> None:
    """Prints the peaks of 50 MB, 500 MB and one text of 100 MB."""
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        found = peaks(Path(inside), rows=(50, 500), text=100)
    for name, peak in found.items():
        print(f"{name}: {peak / MB:.0f} MB")
    assert max(found.values()) < min(GROWTH * min(found.values()), MAX_PEAK), found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
