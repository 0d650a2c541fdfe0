"""The CUDA kernels write the same bits as the torch forms, and the projection never waits for the device."""

import pytest
import torch
from thread_ranks import Thread, in_threads

from sparsetrain.kernels import (
    ProjectionSpec,
    abs_topk,
    project_each_topk_,
    sink_attention,
    sink_attention_reference,
    triton_kernels,
    warm_start_state,
)
from sparsetrain.kernels.projection import kept_mask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def rows(kind: str, *shape: int) -> torch.Tensor:
    """Rows on the CPU, to be sent to the device: random, tied or with few nonzeros."""
    x = torch.randn(shape)
    if kind == "tied":
        return x.round()
    return x if kind == "random" else torch.where(x > 1.5, x, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [5, 128, 1000, 2048, 8192])
@pytest.mark.parametrize("kind", ["random", "tied", "sparse"])
def test_abs_topk_equals_the_cpu(kind: str, width: int, dtype: torch.dtype) -> None:
    assert triton_kernels.available()
    x = rows(kind, 33, width).to(dtype)
    k = max(1, width // 4)
    on_cpu, on_gpu = x.clone().requires_grad_(), x.cuda().requires_grad_()
    grad = torch.randn(33, width).to(dtype)
    expected, got = abs_topk(on_cpu, k), abs_topk(on_gpu, k)
    assert torch.equal(got.cpu(), expected)
    expected.backward(grad)
    got.backward(grad.cuda())
    assert on_cpu.grad is not None and on_gpu.grad is not None
    assert torch.equal(on_gpu.grad.cpu(), on_cpu.grad)


def test_projection_equals_its_definition_and_does_not_wait() -> None:
    assert triton_kernels.available()
    shapes = [(256, 512), (512, 256), (1000, 70), (300,), (2048, 2048)]
    specs = [
        ProjectionSpec(k=8000, floor=4, floor_axis="rows"),
        ProjectionSpec(k=9000, floor=4, floor_axis="columns"),
        ProjectionSpec(k=0),
        ProjectionSpec(k=100),
        ProjectionSpec(k=2048 * 20, floor=4, floor_axis="rows"),
    ]
    state = warm_start_state(len(shapes), "cuda")
    for step, kind in enumerate(("random", "tied", "sparse", "random", "random")):
        weights = [rows(kind, *shape).cuda() for shape in shapes]
        expected = [torch.where(kept_mask(w, spec), w, 0) for w, spec in zip(weights, specs, strict=True)]
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first call compiles and makes its tables
        try:
            project_each_topk_(weights, specs, state)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for got, wanted in zip(weights, expected, strict=True):
            assert torch.equal(got, wanted), (kind, got.shape)


@pytest.mark.parametrize("n_pos", [1, 37, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sink_attention_equals_the_attention_matrix(dtype: torch.dtype, n_pos: int) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(2, 4, n_pos, 16, device="cuda", requires_grad=True) for _ in range(3)]
    sink = torch.randn(4, device="cuda", requires_grad=True)
    grad = torch.randn(2, 4, n_pos, 16, device="cuda")
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    slow = sink_attention_reference(*leaves, sink)
    fast = sink_attention(*(t.to(dtype) for t in leaves), sink)
    torch.testing.assert_close(fast.float(), slow, rtol=tolerance, atol=tolerance)
    expected = torch.autograd.grad(slow, (*leaves, sink), grad)
    got = torch.autograd.grad(fast, (*leaves, sink), grad.to(dtype))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


def test_ranks_keep_what_one_device_keeps() -> None:
    """Three ranks on one GPU, with uneven shares and one without rows; thresholds are warm from the second step on."""
    shapes = [(256, 512), (512, 256), (1000, 70), (300,), (2, 4096)]
    specs = [
        ProjectionSpec(k=8000, floor=4, floor_axis="rows"),
        ProjectionSpec(k=9000, floor=4, floor_axis="columns"),
        ProjectionSpec(k=0),
        ProjectionSpec(k=100),
        ProjectionSpec(k=5000, floor=1, floor_axis="columns"),
    ]
    states = [warm_start_state(len(shapes), "cuda") for _ in range(3)]
    for kind in ("random", "tied", "sparse", "random"):
        weights = [rows(kind, *shape).cuda() for shape in shapes]
        cuts = [(shape[0] // 3, 0, shape[0] - shape[0] // 3) for shape in shapes]
        parts = list(zip(*(w.clone().split(cut) for w, cut in zip(weights, cuts, strict=True)), strict=True))

        def project(rank: int, ranks: Thread) -> None:
            own = [part.contiguous() for part in parts[rank]]  # noqa: B023
            triton_kernels.project_shards_(own, shapes, specs, states[rank], ranks)

        in_threads(3, project)
        for part, weight, spec in zip(zip(*parts, strict=True), weights, specs, strict=True):
            assert torch.equal(torch.cat(part), weight * kept_mask(weight, spec))
