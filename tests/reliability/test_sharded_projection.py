"""Tensors that FSDP2 spreads over processes are projected as one device projects them (threads: tests/unit/kernels/test_sharded.py)."""

import pytest
import torch
from ranks import in_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from sparsetrain.kernels import (
    ProjectionSpec,
    count_nonzero,
    count_short_lines,
    project_each_topk_,
    warm_start_state,
)

SPECS = {
    (7, 12): ProjectionSpec(k=40, floor=3, floor_axis="rows"),
    (12, 7): ProjectionSpec(k=40, floor=4, floor_axis="columns"),
    (2, 40): ProjectionSpec(k=41, floor=1, floor_axis="columns"),  # a third rank has no row of it
    (5,): ProjectionSpec(k=2),
    (3, 3): ProjectionSpec(k=0),
}


def project(rank: int, n_ranks: int) -> None:
    mesh = init_device_mesh("cpu", (n_ranks,))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        state = warm_start_state(len(SPECS))
        for step, change in enumerate((lambda x: x, torch.round, lambda x: x * (x > 1))):
            torch.manual_seed(step)
            whole = [change(torch.randn(shape)).to(dtype) for shape in SPECS]
            parts = [distribute_tensor(w.clone(), mesh, [Shard(0)]) for w in whole]
            project_each_topk_(whole, list(SPECS.values()))
            project_each_topk_(parts, list(SPECS.values()), state)
            for want, got in zip(whole, parts, strict=True):
                assert torch.equal(got.full_tensor(), want), (rank, dtype, step, want.shape)
                assert count_nonzero(got) == int(want.count_nonzero())
                for axis in ("rows", "columns") if want.ndim == 2 else ():
                    for floor in (1, 3, 5):
                        assert count_short_lines(got, axis, floor) == count_short_lines(want, axis, floor)


@pytest.mark.parametrize("n_ranks", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_keep_what_one_device_keeps(tmp_path, n_ranks):
    in_ranks(project, tmp_path, n_ranks, n_ranks)


def cut_columns(rank: int) -> None:
    part = distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (2,)), [Shard(1)])
    with pytest.raises(ValueError, match=r"placed as \(Shard\(dim=1\),\); allowed: Shard\(0\)"):
        project_each_topk_([part], [ProjectionSpec(k=4)])


@pytest.mark.slow
def test_another_placement_is_refused(tmp_path):
    in_ranks(cut_columns, tmp_path, 2)
