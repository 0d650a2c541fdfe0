"""Fast kernels against brute force written here, bit for bit, on random, tied, denormal and adversarial numbers."""

import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsetrain.kernels import (
    ProjectionSpec,
    abs_topk,
    abs_topk_reference,
    native,
    project_each_topk_,
    project_topk_,
    sink_attention,
    sink_attention_reference,
    warm_start_state,
)
from sparsetrain.kernels.magnitude import SIGNED_BITS
from sparsetrain.kernels.projection import kept_mask
from sparsetrain.kernels.topk import pack_bits, unpack_bits

KINDS = ("random", "tied", "denormal", "zeros", "one outlier", "equal", "falling", "infinite", "octaves")


def numbers(kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows that a selection could get wrong."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    if kind == "tied":
        x = torch.randint(-2, 3, shape, generator=generator).float()
    elif kind == "denormal":
        x = torch.randint(0, 9, shape, generator=generator, dtype=torch.int32).view(torch.float32).copysign(x)
    elif kind == "zeros":
        x = torch.where(x > 1.5, x, torch.where(x > 0, 0.0, -0.0))
    elif kind == "one outlier":
        x[..., shape[-1] // 2] = 1e30
    elif kind == "equal":
        x = torch.full(shape, -1.5)
    elif kind == "falling":
        x = torch.arange(x.numel(), 0, -1).reshape(shape) * torch.where(x > 0, 1.0, -1.0)
    elif kind == "infinite":
        x = torch.where(x > 1, float("inf"), x)
    elif kind == "octaves":
        x = x * torch.exp2(torch.randint(-100, 100, shape, generator=generator).float())
    return x.to(dtype)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal as bits: +0 is not -0."""
    return torch.equal(a.view(SIGNED_BITS[a.dtype]), b.view(SIGNED_BITS[b.dtype]))


def sorted_mask(x: Tensor, k: int) -> Tensor:
    """Brute force: the first k of a stable sort by falling magnitude, row by row, in numpy's own arithmetic."""
    rows = np.abs(x.double().numpy()).reshape(-1, x.shape[-1])
    mask = np.zeros(rows.shape, dtype=bool)
    for i, row in enumerate(rows):
        mask[i, np.argsort(-row, kind="stable")[:k]] = True
    return torch.from_numpy(mask).reshape(x.shape)


def sorted_projection(weight: Tensor, spec: ProjectionSpec) -> Tensor:
    """Brute force: force the floor line by line, then fill the budget from the rest in sorted order."""
    magnitude = np.abs(weight.double().numpy())
    kept = np.zeros(magnitude.shape, dtype=bool)
    if spec.floor:
        lines = magnitude if spec.floor_axis == "rows" else magnitude.T
        kept_lines = kept if spec.floor_axis == "rows" else kept.T
        for i, line in enumerate(lines):
            kept_lines[i, np.argsort(-line, kind="stable")[: spec.floor]] = True
    order = [i for i in np.argsort(-magnitude.ravel(), kind="stable") if not kept.ravel()[i]]
    kept.ravel()[order[: spec.k - kept.sum()]] = True
    return torch.where(torch.from_numpy(kept), weight, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("width", [1, 7, 8, 33, 128, 200])
def test_abs_topk_equals_sorting(width: int, dtype: torch.dtype) -> None:
    for seed, kind in enumerate(KINDS):
        x = numbers(kind, (5, width), seed, dtype)
        for k in {1, (width + 3) // 4, max(1, width - 1)}:
            expected = torch.where(sorted_mask(x, k), x, 0)
            assert same_bits(abs_topk(x, k), expected), (kind, k)
            assert same_bits(abs_topk_reference(x, k), expected), (kind, k)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n_rows=st.integers(1, 40),
    width=st.integers(2, 600),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_abs_topk_equals_its_reference(
    kind: str, n_rows: int, width: int, share: float, seed: int, dtype: torch.dtype
) -> None:
    x = numbers(kind, (n_rows, width), seed, dtype)
    k = 1 + int(share * (width - 1))
    assert same_bits(abs_topk(x, k), abs_topk_reference(x, k))
    assert ((abs_topk(x, k) != 0).sum(-1) <= k).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=40), st.data())
def test_abs_topk_on_any_floats(values: list[float], data: st.DataObject) -> None:
    x = torch.tensor([values])
    k = data.draw(st.integers(1, len(values)))
    assert same_bits(abs_topk(x, k), torch.where(sorted_mask(x, k), x, 0))


def test_flushing_denormals_does_not_change_the_selection() -> None:
    x = numbers("denormal", (20, 64), 0)
    expected = abs_topk(x, 16)
    torch.set_flush_denormal(True)
    try:
        assert same_bits(abs_topk(x, 16), expected)
        assert same_bits(abs_topk_reference(x, 16), expected)
    finally:
        torch.set_flush_denormal(False)


def test_gradient_passes_exactly_where_kept_zeros_included() -> None:
    x = numbers("zeros", (30, 50), 3).requires_grad_()
    grad = torch.randn(30, 50)
    (passed,) = torch.autograd.grad(abs_topk(x, 20), x, grad)
    assert same_bits(passed, torch.where(sorted_mask(x.detach(), 20), grad, 0))


@pytest.mark.parametrize("width", [1, 8, 19])
def test_packed_bits_come_back(width: int) -> None:
    mask = torch.rand(4, width) > 0.5
    assert torch.equal(unpack_bits(pack_bits(mask), width), mask)


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("floor", [0, 1, 4])
def test_projection_equals_sorting_step_after_step(floor: int, axis: str) -> None:
    for seed, kind in enumerate(KINDS):
        shape = (11, 23) if seed % 2 else (30, 9)
        n_lines = shape[0] if axis == "rows" else shape[1]
        for k in {floor * n_lines, floor * n_lines + 5, shape[0] * shape[1] - 1, shape[0] * shape[1]}:
            spec = ProjectionSpec(k=k, floor=floor, floor_axis=axis)  # type: ignore[arg-type]
            state = warm_start_state()
            for step in range(3):  # the second is warm, the third idempotent or far off
                weight = numbers(kind, shape, seed + step % 2)
                expected = sorted_projection(weight, spec)
                project_each_topk_([weight], [spec], state)
                assert same_bits(weight, expected), (kind, k, step)
                again = weight.clone()
                project_each_topk_([again], [spec], state)
                assert torch.equal(again, weight), (kind, k, step)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    n_rows=st.integers(4, 90),
    n_columns=st.integers(4, 90),
    floor=st.integers(0, 4),
    axis=st.sampled_from(["rows", "columns"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_projection_equals_its_reference(
    kinds: list[str], n_rows: int, n_columns: int, floor: int, axis: str, share: float, seed: int
) -> None:
    least = floor * (n_rows if axis == "rows" else n_columns)
    k = least + int(share * (n_rows * n_columns - least))
    spec = ProjectionSpec(k=k, floor=floor, floor_axis=axis)  # type: ignore[arg-type]
    state = warm_start_state()
    for kind in kinds:
        weight = numbers(kind, (n_rows, n_columns), seed)
        expected = torch.where(kept_mask(weight, spec), weight, 0)
        project_each_topk_([weight], [spec], state)
        assert same_bits(weight, expected)


def test_projection_with_several_threads_and_a_moving_budget() -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        state = warm_start_state()
        weight = numbers("random", (300, 257), 0)
        for step, axis in enumerate(("rows", "columns") * 4):
            weight = weight + 0.01 * numbers("random", (300, 257), step)
            spec = ProjectionSpec(k=20000 // (step + 1), floor=4, floor_axis=axis)
            expected = torch.where(kept_mask(weight, spec), weight, 0)
            project_each_topk_([weight], [spec], state)
            assert same_bits(weight, expected), step
    finally:
        torch.set_num_threads(n_threads)


def test_projection_of_other_dtypes_and_dimensions() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        weight = numbers("tied", (12, 12), 1, dtype)
        expected = torch.where(kept_mask(weight, ProjectionSpec(k=50)), weight, 0)
        assert torch.equal(project_topk_(weight, 50), expected)
    bias = torch.tensor([0.5, -2.0, 1.0, 2.0])
    assert project_topk_(bias, 2).tolist() == [0.0, -2.0, 0.0, 2.0]


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 1, 8), (1, 2, 37, 16), (2, 4, 256, 16), (1, 1, 70, 5)])
def test_sink_attention_equals_the_attention_matrix(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    sink = torch.randn(shape[1], requires_grad=True)
    grad = torch.randn(shape)
    fast, slow = sink_attention(q, k, v, sink), sink_attention_reference(q, k, v, sink)
    assert close(fast, slow)
    leaves = (q, k, v, sink)
    fast_grads, slow_grads = (torch.autograd.grad(out, leaves, grad) for out in (fast, slow))
    for name, a, b in zip(["q", "k", "v", "sink"], fast_grads, slow_grads, strict=True):
        scale = max(1.0, float(b.abs().max()))
        assert close(a / scale, b / scale), name


def test_sink_attention_with_the_layout_of_the_model_and_without_a_sink() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 20, 4, 8).transpose(1, 2) for _ in range(3))
    assert close(sink_attention(q, k, v, torch.zeros(4)), sink_attention_reference(q, k, v, torch.zeros(4)))
    assert close(sink_attention(q, k, v, None), sink_attention_reference(q, k, v, None))
    never = torch.full((4,), float("-inf"))
    assert close(sink_attention(q, k, v, torch.full((4,), -80.0)), sink_attention_reference(q, k, v, never))


def test_sink_attention_in_bfloat16() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 40, 16) for _ in range(3))
    half = [t.bfloat16().requires_grad_() for t in (q, k, v)]
    sink = torch.randn(2, requires_grad=True)
    out = sink_attention(*half, sink)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), sink_attention_reference(q, k, v, sink), atol=0.03)
    out.sum().backward()  # an expanded gradient
    assert sink.grad is not None and sink.grad.dtype == torch.float32


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX") or "c++") is None, reason="no compiler: the torch forms were tested"
)
def test_the_native_library_is_what_was_tested() -> None:
    assert native.library() is not None
