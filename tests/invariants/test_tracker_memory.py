"""The memory of an evaluation does not grow with the number of tokens: 10^4 against 10^6."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from fixed_split import FixedSplit
from torch import nn

from sparsetrain.hooks import HookPoint, name_hook_points_
from sparsetrain.representation import evaluate
from sparsetrain.representation.accumulate import UnitSums, WindowMeans
from sparsetrain.representation.evaluate import WatchConfig, measure_splits

WIDTH, D_VOCAB, N_CTX = 16, 8, 250
SIZES = {10_000: 40, 1_000_000: 4000}


class Watched(nn.Module):
    """An embedding that is watched, and an unembedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(D_VOCAB, WIDTH), nn.Linear(WIDTH, D_VOCAB)
        self.hook = HookPoint("resid", WIDTH)
        name_hook_points_(self)

    def forward(self, tokens):
        return self.out(self.hook(self.embed(tokens)))


def tensor_bytes():
    """Bytes of all living tensors."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in gc.get_objects()
        if type(t) is torch.Tensor
    }
    return sum(storages.values())


class AfterBatch:
    """Counts windows, and the bytes of living tensors after the last one; `peak` is that until then.

    The list of everything alive is as long as the process is old, and none of the evaluation's memory.
    """

    def __init__(self, n_windows):
        self.n_windows, self.n_read, self.living, self.peak = n_windows, 0, 0, 0

    def __call__(self, n):
        self.n_read += n
        if self.n_read == self.n_windows:
            self.peak = tracemalloc.get_traced_memory()[1]
            self.living = tensor_bytes()
            tracemalloc.reset_peak()


def test_memory_does_not_grow_with_tokens(monkeypatch):
    torch.manual_seed(0)
    model = Watched()
    states: list[int] = []

    def counted(kind):
        class Counted(kind):
            def compute(self):
                states[-1] += sum(t.nbytes for t in self.metric_state.values())
                return super().compute()

        return Counted

    monkeypatch.setattr(evaluate, "WindowMeans", counted(WindowMeans))
    monkeypatch.setattr(evaluate, "UnitSums", counted(UnitSums))
    config = WatchConfig(
        kinds=("resid",), n_windows=10**6, batch_size=40, position_stride=1, n_slots=32, n_bootstrap=10,
        measures=("gini", "top5", "l0"),
    )  # fmt: skip
    peaks, living = {}, {}
    for n_tokens, n_windows in SIZES.items():
        tokens = np.random.default_rng(0).integers(D_VOCAB, size=(n_windows, N_CTX), dtype=np.uint8)
        states.append(0)
        after_batch = AfterBatch(n_windows)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        evaluation = measure_splits(model, [FixedSplit("s", 0, tokens)], config, on_batch=after_batch)
        peaks[n_tokens] = max(after_batch.peak, tracemalloc.get_traced_memory()[1]) - before
        tracemalloc.stop()
        assert after_batch.n_read * N_CTX == n_tokens == tokens.size
        assert next(row.n for row in evaluation.rows if row.measure == "gini") == n_windows
        living[n_tokens] = after_batch.living - tokens.nbytes  # the tokens themselves are the caller's
    small, large = SIZES
    assert states[0] == states[1] > 0
    # numpy's arrays: a batch of activations sorted is 0.6 MB, all of them would be 64 MB
    assert peaks[large] == pytest.approx(peaks[small], abs=300_000) and peaks[large] < 8_000_000
    assert living[large] == pytest.approx(living[small], abs=300_000)
