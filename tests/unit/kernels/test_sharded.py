"""The projection of tensors whose rows are spread over ranks keeps what one device keeps, entry by entry.

Ranks are threads here, so that hypothesis can try many; `tests/reliability/test_ranks.py` does it with processes.
"""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from thread_ranks import Meeting, Thread, in_threads
from torch import Tensor

from sparsetrain.kernels import ProjectionSpec, project_each_topk_
from sparsetrain.kernels.projection import kept_mask
from sparsetrain.kernels.sharded import kept_masks

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def kept_by_ranks(
    weights: Sequence[Tensor], specs: Sequence[ProjectionSpec], n_rows: Sequence[Sequence[int]]
) -> list[Tensor]:
    """What ranks keep that hold so many rows of each tensor, put together."""
    parts = list(zip(*(w.split(list(rows)) for w, rows in zip(weights, n_rows, strict=True)), strict=True))
    shapes = [w.shape for w in weights]
    kept = in_threads(len(parts), lambda rank, ranks: kept_masks(parts[rank], shapes, specs, ranks))
    return [torch.cat(of_one) for of_one in zip(*kept, strict=True)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Tensor], list[ProjectionSpec], list[list[int]]]:
    """Tensors with ties, zeros of both signs, infinities and NaN; specs that can hold; rows dealt out in any way."""
    dtype, n_ranks = draw(st.sampled_from(DTYPES)), draw(st.integers(1, 4))
    weights, specs, n_rows = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 9))
        values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2.0**-130, float("inf"), float("nan")]) | st.floats(
            -4, 4, width=16
        )
        entries = draw(st.lists(values, min_size=rows * columns, max_size=rows * columns))
        weights.append(torch.tensor(entries, dtype=torch.float64).to(dtype).view(rows, columns))
        axis = draw(st.sampled_from(["rows", "columns", None]))
        lines, length = (rows, columns) if axis == "rows" else (columns, rows)
        floor = draw(st.integers(0, length)) if axis else 0
        specs.append(ProjectionSpec(k=draw(st.integers(floor * lines, rows * columns)), floor=floor, floor_axis=axis))
        cuts = sorted(draw(st.lists(st.integers(0, rows), min_size=n_ranks - 1, max_size=n_ranks - 1)))
        n_rows.append([b - a for a, b in zip([0, *cuts], [*cuts, rows], strict=True)])
    return weights, specs, n_rows


@settings(max_examples=150, deadline=None)
@given(cases())
def test_ranks_keep_what_one_device_keeps(case) -> None:
    weights, specs, n_rows = case
    for weight, spec, kept in zip(weights, specs, kept_by_ranks(weights, specs, n_rows), strict=True):
        assert torch.equal(kept, kept_mask(weight, spec))
        assert int(kept.sum()) == spec.k
        if spec.floor:
            assert int(kept.sum(1 if spec.floor_axis == "rows" else 0).min()) >= spec.floor


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_they_keep_what_the_fast_local_projection_keeps(n_ranks: int) -> None:
    torch.manual_seed(n_ranks)
    weights = [torch.randn(7, 30), torch.randn(30, 7), torch.randn(64)]
    specs = [
        ProjectionSpec(k=50, floor=4, floor_axis="rows"),
        ProjectionSpec(k=40, floor=4, floor_axis="columns"),
        ProjectionSpec(k=9),
    ]
    n_rows = [[len(part) for part in w.tensor_split(n_ranks)] for w in weights]
    kept = kept_by_ranks(weights, specs, n_rows)
    expected = [w * mask for w, mask in zip(weights, kept, strict=True)]
    project_each_topk_(weights, specs)
    assert all(torch.equal(w, e) for w, e in zip(weights, expected, strict=True))


def test_ties_by_hand() -> None:
    """Six equal entries over three ranks, the middle one without rows: four are kept, the first ones in flat order."""
    kept = kept_by_ranks([torch.ones(3, 2)], [ProjectionSpec(k=4)], [[1, 0, 2]])[0]
    assert kept.tolist() == [[True, True], [True, True], [False, False]]


def test_a_column_floor_by_hand() -> None:
    """Each column keeps its largest entry, whichever rank has it; of two equal ones the upper."""
    weight = torch.tensor([[1.0, 9.0], [-3.0, 8.0], [3.0, 7.0]])
    kept = kept_by_ranks([weight], [ProjectionSpec(k=2, floor=1, floor_axis="columns")], [[1, 2]])[0]
    assert kept.tolist() == [[False, True], [True, False], [False, False]]


def test_what_travels_does_not_grow_with_the_tensor() -> None:
    """Counts and column candidates alone: 64 times the rows, the same number of entries sent."""

    class Counted(Thread):
        n_sent = 0

        def gather(self, x: Tensor) -> Tensor:
            Counted.n_sent += x.numel()
            return super().gather(x)

    sent = []
    for rows in (16, 1024):
        Counted.n_sent = 0
        spec = ProjectionSpec(k=rows * 2, floor=2, floor_axis="columns")
        kept_masks([torch.randn(rows, 8)], [(rows, 8)], [spec], Counted(0, Meeting(1)))
        sent.append(Counted.n_sent)
    assert sent[0] == sent[1]
