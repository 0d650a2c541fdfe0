"""The operators' contract: errors, derivatives, compilation, and building the native library."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsetrain.kernels import (
    ProjectionSpec,
    abs_topk,
    attention_pattern,
    check_budget,
    project_each_topk_,
    project_topk_,
    sink_attention,
    warm_start_state,
)
from sparsetrain.kernels.bench import Bench

ROOT = Path(__file__).parents[3]

# torch warns about its own internals: forward derivatives are built with torch.jit.script.
torch_forward_ad = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_abs_topk_keeps_the_first_of_equals() -> None:
    x = torch.tensor([[1.0, -3.0, 3.0, 2.0, -2.0], [0.0, 0.0, -0.0, 0.0, 5.0]])
    assert abs_topk(x, 3).tolist() == [[0, -3, 3, 2, 0], [0, 0, 0, 0, 5]]
    assert abs_topk(x, 5) is x


def test_abs_topk_refuses_what_has_no_answer() -> None:
    x = torch.randn(3, 8)
    for k in (0, 9):
        with pytest.raises(ValueError, match=r"k must lie in 1\.\.8"):
            abs_topk(x, k)
    with pytest.raises(ValueError, match=r"allowed: torch\.float32"):
        abs_topk(torch.ones(2, 8, dtype=torch.int64), 2)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        bad = x.to(dtype, copy=True)
        bad[1, 5] = float("nan")
        with pytest.raises(ValueError, match="NaN in 1 of 3 rows \\(first: row 1\\)"):
            abs_topk(bad, 2)


def test_abs_topk_of_an_empty_batch_and_of_a_view() -> None:
    assert abs_topk(torch.randn(0, 8), 2).shape == (0, 8)
    x = torch.randn(6, 10)
    assert torch.equal(abs_topk(x.T, 2), abs_topk(x.T.contiguous(), 2))
    assert torch.equal(abs_topk(x.reshape(2, 3, 10), 3).reshape(6, 10), abs_topk(x, 3))


@torch_forward_ad
def test_abs_topk_derivatives() -> None:
    x = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: abs_topk(x, 3), x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: abs_topk(x, 3) ** 2, x)


@torch_forward_ad
def test_abs_topk_under_torch_func() -> None:
    func = torch.func
    x = torch.randn(5, 16)
    kept = (abs_topk(x, 4) != 0).float()
    assert torch.equal(func.vmap(lambda row: abs_topk(row, 4))(x), abs_topk(x, 4))
    assert torch.equal(func.vmap(lambda row: abs_topk(row, 4), in_dims=1)(x.T.contiguous()), abs_topk(x, 4))
    assert torch.equal(func.grad(lambda x: abs_topk(x, 4).sum())(x), kept)
    assert torch.equal(func.vmap(func.grad(lambda row: abs_topk(row, 4).sum()))(x), kept)
    assert torch.equal(func.jvp(lambda x: abs_topk(x, 4), (x,), (torch.ones_like(x),))[1], kept)
    assert torch.equal(func.jacrev(lambda row: abs_topk(row, 4))(x[0]), kept[0].diag())
    assert torch.equal(func.jacfwd(lambda row: abs_topk(row, 4))(x[0]), kept[0].diag())
    assert torch.equal(func.hessian(lambda row: (abs_topk(row, 4) ** 2).sum())(x[0]), 2 * kept[0].diag())


def test_operators_pass_torch_s_own_checks() -> None:
    x = torch.randn(3, 12)
    ops = torch.ops.sparsetrain
    torch.library.opcheck(ops.abs_topk.default, (x, 4))
    torch.library.opcheck(ops.keep.default, (x, torch.randint(0, 255, (3, 2), dtype=torch.uint8)))
    weights = [torch.randn(4, 8), torch.randn(8, 4)]
    sink = torch.randn(2, requires_grad=True)
    for q in (torch.randn(2, 2, 5, 8), torch.randn(2, 5, 2, 8).transpose(1, 2)):
        q.requires_grad_()
        torch.library.opcheck(ops.sink_attention.default, (q, q, q, sink))
        inputs = [t.detach() for t in (q, q, q, sink)]
        out_and_lse = ops.sink_attention.default(*inputs)
        torch.library.opcheck(ops.sink_attention_backward.default, (torch.randn_like(q), *inputs, *out_and_lse))
    torch.library.opcheck(ops.project_topk_.default, (weights, [20, 20], [4, 4], [0, 1], warm_start_state(2)))


def test_compiled_abs_topk_and_attention() -> None:
    def both(x: torch.Tensor, sink: torch.Tensor) -> torch.Tensor:
        q = abs_topk(2 * x, 4)
        return sink_attention(q, x, x, sink)

    x = torch.randn(1, 2, 12, 8, requires_grad=True)
    sink = torch.randn(2, requires_grad=True)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, sink), both(x, sink))
    for a, b in zip(
        torch.autograd.grad(compiled(x, sink).sum(), (x, sink)),
        torch.autograd.grad(both(x, sink).sum(), (x, sink)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_abs_topk_keeps_its_dtype_under_autocast() -> None:
    x = torch.randn(2, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert abs_topk(x, 2).dtype == torch.float32
        product = x @ x.T
        assert abs_topk(product, 1).dtype == torch.bfloat16


def test_projection_by_hand() -> None:
    weight = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, -2.0, 0.5, 0.1]])
    rows = project_topk_(weight.clone(), 4, floor=1, floor_axis="rows")
    assert rows.tolist() == [[9, 8, 7, 0], [0, -2, 0, 0]]
    columns = project_topk_(weight.T.contiguous(), 5, floor=2, floor_axis="columns")
    assert columns.T.tolist() == [[9, 8, 7, 0], [1, -2, 0, 0]]
    assert project_topk_(weight.clone(), 0).abs().sum() == 0
    assert torch.equal(project_topk_(weight.clone(), 8), weight)


def test_projection_in_place_of_parameters_of_one_step() -> None:
    parameters = [torch.nn.Parameter(torch.randn(6, 8)), torch.nn.Parameter(torch.randn(8, 6))]
    specs = [ProjectionSpec(k=24, floor=4, floor_axis="rows"), ProjectionSpec(k=24, floor=4, floor_axis="columns")]
    before = [p._version for p in parameters]
    project_each_topk_(parameters, specs, warm_start_state(2))
    assert [int((p != 0).sum()) for p in parameters] == [24, 24]
    assert all(p.requires_grad and p.is_leaf for p in parameters)
    assert all(p._version > version for p, version in zip(parameters, before, strict=True))


def test_budgets_that_cannot_hold() -> None:
    check_budget("w", (8, 16), ProjectionSpec(k=32, floor=4, floor_axis="rows"))
    with pytest.raises(ValueError, match=r"blocks\.0\.W_q: k=31 .* smallest feasible density 0\.25"):
        check_budget("blocks.0.W_q", (8, 16), ProjectionSpec(k=31, floor=4, floor_axis="rows"))
    with pytest.raises(ValueError, match=r"smallest feasible density 0\.5"):
        check_budget("w", (8, 16), ProjectionSpec(k=63, floor=4, floor_axis="columns"))
    with pytest.raises(ValueError, match="density must not exceed 1"):
        check_budget("w", (8, 16), ProjectionSpec(k=129))
    with pytest.raises(ValueError, match="needs a matrix"):
        check_budget("w", (8,), ProjectionSpec(k=8, floor=4, floor_axis="rows"))
    with pytest.raises(ValueError, match="must not exceed 3"):
        check_budget("w", (8, 3), ProjectionSpec(k=24, floor=4, floor_axis="rows"))
    with pytest.raises(ValueError, match="allowed: rows, columns"):
        check_budget("w", (8, 3), ProjectionSpec(k=24, floor=4, floor_axis="lines"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs floor_axis"):
        project_topk_(torch.randn(8, 8), 32, floor=4)
    with pytest.raises(ValueError, match="not contiguous"):
        project_topk_(torch.randn(4, 8).T, 5)


def test_sink_attention_derivatives() -> None:
    leaves = [torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    sink = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sink_attention, (*leaves, sink))
    (grad,) = torch.autograd.grad(sink_attention(*leaves, sink).sum(), sink, create_graph=True)
    with pytest.raises(NotImplementedError, match="attention=reference"):
        grad.sum().backward()


def test_sink_attention_under_torch_func() -> None:
    q, k, v = torch.randn(3, 4, 1, 2, 6, 8)
    sink = torch.randn(2)
    batched = torch.func.vmap(sink_attention, (0, 0, 0, None))(q, k, v, sink)
    torch.testing.assert_close(batched[1], sink_attention(q[1], k[1], v[1], sink))


def test_attention_pattern_rows_sum_to_one_and_see_no_future() -> None:
    q, k = torch.randn(2, 2, 3, 6, 8)
    pattern = attention_pattern(q, k, torch.randn(3))
    torch.testing.assert_close(pattern.sum(-1), torch.ones(2, 3, 6))
    assert (pattern[..., :-1].triu(1) == 0).all()
    assert (pattern[..., -1] > 0).all()
    assert (attention_pattern(q, k, None)[..., -1] == 0).all()


def test_sink_attention_names_wrong_shapes() -> None:
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match=r"must be \[2\]"):
        sink_attention(q, q, q, torch.zeros(3))
    with pytest.raises(ValueError, match=r"\[batch, head, pos, d_head\]"):
        sink_attention(q, q[:, :1], q, torch.zeros(2))


CHILD = """
import logging, sys, torch
logging.basicConfig(stream=sys.stdout, format="%(message)s")
from sparsetrain.kernels import abs_topk, project_topk_
torch.manual_seed(0)
x = torch.randn(64, 96)
weight = project_topk_(x.clone(), 700, floor=4, floor_axis="rows")
print("sum", abs_topk(x, 24).double().sum().item(), weight.double().sum().item())
try:
    abs_topk(x.fill_(float("nan")), 3)
except ValueError as error:
    print("refused", str(error)[:30])
"""


def start(cache: Path, compiler: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "SPARSETRAIN_CACHE": str(cache), "CXX": compiler, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_processes_that_build_at_once_and_one_without_a_compiler_agree(tmp_path: Path) -> None:
    compiler = os.environ.get("CXX") or "c++"
    builders = [start(tmp_path / "cache", compiler) for _ in range(2)]
    without = start(tmp_path / "other", "/nonexistent")
    results = [child.communicate(timeout=120) for child in (*builders, without)]
    assert [child.returncode for child in (*builders, without)] == [0, 0, 0], results
    said = results[2][0]
    assert said.count("no native kernels") == 1 and "/nonexistent" in said and "set CXX" in said
    sums = {line for out, _ in results for line in out.splitlines() if line.startswith(("sum", "refused"))}
    assert len(sums) == 2, results
    assert not (tmp_path / "other").exists()
    if "no native kernels" not in results[0][0]:
        assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".so"]


def test_a_compiler_that_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sparsetrain.kernels import native

    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'no such flag' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        assert native.library.__wrapped__() is None
    assert "no such flag" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_benchmark_line(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    bench = Bench(name="double", device="cpu", runs=2)
    bench.measure(
        {"double:9:forward": torch.neg}, torch.clone, "clone", make=lambda: torch.randn(9), one_pass=torch.clone
    )
    bench.report()
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(line) == {"bench", "device", "runs", "cases"}
    assert set(line["cases"][0]) == {"name", "ms", "ms_min", "versus", "speedup", "floor_ratio"}
