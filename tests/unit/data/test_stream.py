"""Batches as a function of seed and number, and the bigram table against counts worked out by hand."""

import dataclasses
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_example import small_corpus

from sparsetrain.data import Corpus, TokenStream, fit_bigram
from sparsetrain.data.bigram import ALPHAS, count_bigrams
from sparsetrain.data.stream import chars_per_token
from sparsetrain.model import Transformer
from sparsetrain.run import init_bigram_


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("data"))


def test_a_batch_is_a_function_of_seed_and_number(corpus: Corpus) -> None:
    stream = TokenStream(corpus, "train", n_ctx=16, batch_size=8, seed=3)
    forwards = [stream.batch(k) for k in range(4)]
    backwards = [TokenStream(corpus, "train", 16, 8, 3).batch(k) for k in reversed(range(4))][::-1]
    assert all((a == b).all() for a, b in zip(forwards, backwards, strict=True))
    assert forwards[0].shape == (8, 17) and forwards[0].dtype == np.int64
    assert not (forwards[0] == forwards[1]).all()
    assert not (forwards[0] == TokenStream(corpus, "train", 16, 8, 4).batch(0)).all()


def test_characters_of_predicted_tokens_by_hand() -> None:
    n_chars = np.array([0, 1, 5])  # the separator, a letter, a word
    batches = [torch.tensor([[2, 1, 0], [2, 2, 1]]), torch.tensor([[0, 2, 2]])]
    assert chars_per_token(batches, n_chars) == (1 + 0 + 5 + 1 + 5 + 5) / 6  # what stands first in a row is given


def test_rows_are_windows_of_the_split(corpus: Corpus) -> None:
    stream = TokenStream(corpus, "val", n_ctx=12, batch_size=16, seed=0)
    haystacks = [np.asarray(corpus.tokens(source, "val"), np.int64) for source in corpus.sources]
    windows = {tuple(tokens[i : i + 13]) for tokens in haystacks for i in range(len(tokens) - 12)}
    for k in range(3):
        assert all(tuple(row) in windows for row in stream.batch(k).tolist())


def test_ranks_share_one_batch(corpus: Corpus) -> None:
    stream = TokenStream(corpus, "train", n_ctx=8, batch_size=12, seed=0)
    for n_ranks in (1, 2, 3, 4):
        parts = [stream.rows(5, rank, n_ranks) for rank in range(n_ranks)]
        assert (np.concatenate(parts) == stream.batch(5)).all()
    with pytest.raises(ValueError, match="batch_size=12 cannot be divided among 5 ranks"):
        stream.rows(0, 0, 5)


def test_sources_are_mixed_by_weight_and_windows_evenly(corpus: Corpus) -> None:
    tokens = {"code": np.zeros(1000, np.uint16), "idioms": np.arange(1, 101, dtype=np.uint16)}

    class Fake(Corpus):
        def tokens(self, source: str, split: str) -> np.ndarray:
            return tokens[source]

    fake = Fake(**{field.name: getattr(corpus, field.name) for field in dataclasses.fields(corpus)})
    rows = np.concatenate([TokenStream(fake, "train", 1, 1000, 0).batch(k) for k in range(10)])
    assert abs((rows[:, 0] > 0).mean() - 0.25) < 0.02
    starts = np.bincount(rows[:, 0][rows[:, 0] > 0], minlength=101)[1:]
    assert starts[-1] == 0 and (starts[:99] > 0).all()
    only = TokenStream(fake, "train", 1, 100, 0, weights={"idioms": 1.0, "code": 0.0}).batch(0)
    assert (only > 0).all()


def test_bad_sizes_are_named(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"split 'val' of source 'code' has \d+ tokens, a row needs 1000001"):
        TokenStream(corpus, "val", 1_000_000, 1, 0)
    with pytest.raises(ValueError, match="n_ctx=0"):
        TokenStream(corpus, "val", 0, 1, 0)
    with pytest.raises(ValueError, match="weights="):
        TokenStream(corpus, "val", 8, 1, 0, weights={"code": 0.0})


def test_bigram_table_by_hand() -> None:
    # Rows 0 1 0 1 and 1 1 2: pairs 01 10 01 11 12, V = 4, tokens that follow: 1 0 1 1 2.
    batches = [np.array([[0, 1, 0, 1]]), np.array([[1, 1, 2]])]
    table = fit_bigram(batches, 4, {"x": [np.array([0, 1])]}, alphas=(2.0,))
    unigram = np.array([1.5, 3.5, 1.5, 0.5]) / 7
    probs = np.exp(table.rows(0, 4))
    assert np.allclose(probs[0], (np.array([0, 2, 0, 0]) + 2 * unigram) / 4)
    assert np.allclose(probs[1], (np.array([1, 1, 1, 0]) + 2 * unigram) / 5)
    assert np.allclose(probs[3], unigram)
    assert np.allclose(probs.sum(1), 1)
    assert table.n_pairs == 5
    expected = -(np.log((2 + 1) / 4) + np.log((1 + 2 * 1.5 / 7) / 5)) / 2
    assert np.isclose(table.loss(np.array([[0, 1, 0]])), expected)


def dense_table(
    batches: list[np.ndarray], d_vocab: int, val: list[list[np.ndarray]], alphas: tuple[float, ...]
) -> tuple[np.ndarray, float]:
    """(log-probabilities `[d_vocab, d_vocab]`, alpha), with a number for every pair there could be."""

    def count(batches: list[np.ndarray]) -> np.ndarray:
        counts = np.zeros((d_vocab, d_vocab), np.int64)
        for batch in batches:
            np.add.at(counts, (batch[..., :-1], batch[..., 1:]), 1)
        return counts

    counts, checks = count(batches), [count(v) for v in val]
    unigram = (counts.sum(0) + 0.5) / (counts.sum() + 0.5 * d_vocab)

    def probs(alpha: float) -> np.ndarray:
        return (counts + alpha * unigram) / (counts.sum(1) + alpha)[:, None]

    def loss(alpha: float) -> float:
        return sum(-np.average(np.log(probs(alpha)[n > 0]), weights=n[n > 0]) for n in checks)

    alpha = min(alphas, key=loss)
    return np.log(probs(alpha)).astype(np.float32), alpha


@pytest.mark.parametrize("d_vocab", [1, 7, 300, 1024])
def test_bigram_table_is_the_dense_one_to_the_last_bit(d_vocab: int) -> None:
    rng = np.random.default_rng(d_vocab)
    rows = (rng.zipf(1.5, (40, 6, 65)) - 1) % d_vocab  # few pairs often, most never, as in texts
    batches, val = list(rows[:36]), [list(rows[36:38]), list(rows[38:])]
    table = fit_bigram(batches, d_vocab, {str(i): v for i, v in enumerate(val)})
    dense, alpha = dense_table(batches, d_vocab, val, ALPHAS)
    assert table.alpha == alpha
    assert table.rows(0, d_vocab).tobytes() == dense.tobytes()
    assert table.rows(d_vocab // 3, d_vocab // 2 + 1).tobytes() == dense[d_vocab // 3 : d_vocab // 2 + 1].tobytes()
    for tokens in (rows[38:], rng.integers(0, d_vocab, (3, 5, 20))):
        here, following = tokens[..., :-1], tokens[..., 1:]
        assert table.log_probs(here, following).tobytes() == dense[here, following].tobytes()
        assert table.loss(tokens) == -float(dense[here, following].mean(dtype=np.float64))
    assert table.n_pairs == rows[:36, :, 1:].size


def test_a_model_s_table_starts_from_all_of_it(make_model: Callable[..., Transformer]) -> None:
    model = make_model(d_vocab=700)
    assert model.bigram is not None
    before = model.bigram.weight.detach().clone()
    batches = [np.random.default_rng(0).integers(0, 600, (20, 33))]
    table = fit_bigram(batches, 600, {"x": batches})
    init_bigram_(model, table)
    assert model.bigram.weight[:600, :600].detach().numpy().tobytes() == table.rows(0, 600).tobytes()
    assert model.bigram.weight[600:].equal(before[600:]) and model.bigram.weight[:, 600:].equal(before[:, 600:])


def test_memory_grows_with_the_pairs_that_occur() -> None:
    def peak(d_vocab: int, n_rows: int) -> int:
        batches = [(np.random.default_rng(k).zipf(1.3, (n_rows, 129)) % d_vocab).astype(np.int32) for k in range(8)]
        tracemalloc.start()
        table = fit_bigram(batches, d_vocab, {"x": batches[:1]})
        table.loss(batches[1])
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(32_000, 32) < 8e6  # one dense table of counts: 8.2e9
    assert peak(64_000, 32) < 1.5 * peak(32_000, 32)  # 4 times, if it were dense


def test_alpha_is_the_best_on_validation(corpus: Corpus) -> None:
    train = TokenStream(corpus, "train", 32, 16, 0)
    val = {"code": [TokenStream(corpus, "val", 32, 16, 0).batch(0)]}
    batches = [train.batch(k) for k in range(10)]
    best = fit_bigram(batches, 400, val)
    for alpha in (0.1, 1.0, 10.0, 100.0, 1000.0):
        fixed = fit_bigram(batches, 400, val, alphas=(alpha,))
        assert best.loss(val["code"][0]) <= fixed.loss(val["code"][0]) + 1e-9
    assert f"alpha = {best.alpha:g}" in best.description


@pytest.mark.parametrize("chunk", [2**22, 100, 30])  # 81 pairs: a chunk is counted by table, or by sorting
def test_counting_in_chunks_is_counting(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsetrain.data.bigram._CHUNK", chunk)
    batches = [np.random.default_rng(k).integers(0, 9, (4, 11)) for k in range(20)]
    expected = np.zeros((9, 9), int)
    for batch in batches:
        np.add.at(expected, (batch[:, :-1], batch[:, 1:]), 1)
    counts = count_bigrams(batches, 9)
    assert (counts.rows(0, 9) == expected).all() and (counts.times > 0).all()
    here, following = np.divmod(np.arange(81), 9)
    assert (counts.of(here, following) == expected.ravel()).all()
    assert (count_bigrams([], 9).of(here, following) == 0).all()


def test_nothing_to_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_bigram([], 4, {"x": [np.array([0, 1])]})
    with pytest.raises(ValueError, match="above 0"):
        fit_bigram([np.array([0, 1])], 4, {"x": [np.array([0, 1])]}, alphas=(0.0,))
