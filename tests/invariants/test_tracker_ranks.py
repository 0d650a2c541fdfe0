"""Two processes that share the windows of every split get, each, the numbers of one process: sums over ranks by torchmetrics."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fixed_split import FixedSplit
from torchmetrics import Metric

from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.representation.accumulate import UnitSums, WindowMeans
from sparsetrain.representation.evaluate import WatchConfig, measure_splits

N_CTX, D_VOCAB = 20, 61
CONFIG = WatchConfig(n_windows=7, batch_size=2, position_stride=5, n_bootstrap=50, n_groups=3)


def read(rank, world_size):
    """Every number of a seeded model, and its values per window and energies."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Transformer(ModelConfig(d_vocab=D_VOCAB, n_layer=1, d_model=16, d_head=8, n_ctx=N_CTX))
    rng = np.random.default_rng(0)
    # The second split has fewer batches than there are ranks: one of them reads nothing of it.
    splits = [FixedSplit(f"s{i}", i, rng.integers(D_VOCAB, size=(n, N_CTX))) for i, n in enumerate((7, 2))]
    evaluation = measure_splits(model, splits, CONFIG, rank=rank, world_size=world_size)
    rows = np.array([(row.value, row.lo, row.hi, row.n) for row in evaluation.rows])
    windows = np.concatenate([values.ravel() for values in evaluation.windows.values()])
    return rows, windows, np.concatenate(list(evaluation.energy.values()))


def of_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    np.savez(folder / f"{rank}.npz", *read(rank, 2))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_gloo_processes_are_one(tmp_path):
    assert issubclass(WindowMeans, Metric) and issubclass(UnitSums, Metric)
    mp.spawn(of_rank, args=(tmp_path,), nprocs=2)
    rows, windows, energy = read(0, 1)
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for name, want in (("arr_0", rows), ("arr_1", windows), ("arr_2", energy)):
                np.testing.assert_allclose(found[name], want, rtol=1e-6, atol=1e-9, err_msg=f"{rank} {name}")


def test_a_share_alone_is_not_the_whole():
    """What the sums over ranks are needed for."""
    rows, _, _ = read(0, 1)
    share, _, _ = read(0, 2)
    assert share != pytest.approx(rows, nan_ok=True)
