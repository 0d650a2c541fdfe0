"""Products by nonzeros against dense ones, in the native form and in torch's."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from sparsetrain.kernels import Pattern, adamw_, compressed, lookup, multiply, native

SHAPES = ((48, 35), (16, 16), (33, 100), (1, 5), (7, 1))


@pytest.fixture(params=["native", "torch"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both forms of every operator."""
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    else:
        assert native.library() is not None, "these tests need a compiler"
    yield request.param


def sparse(shape: tuple[int, int], share: float = 0.2, seed: int = 0) -> Tensor:
    """A matrix with empty rows and columns and at least one nonzero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < share)
    weight[-1] = 0
    weight[:, 0] = 0
    weight[0, -1] = 1.5
    return weight


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pattern_stands_by_rows_and_by_columns(shape: tuple[int, int]) -> None:
    weight = sparse(shape)
    pattern = Pattern.of(weight)
    assert pattern.places.tolist() == weight.flatten().nonzero()[:, 0].tolist()
    assert torch.equal(pattern.matrix(pattern.values_of(weight)).to_dense(), weight)
    by_column = weight.T.contiguous()
    assert pattern.rows.tolist() == (by_column.flatten().nonzero()[:, 0] % shape[0]).tolist()
    assert torch.equal(pattern.values_of(weight)[pattern.order.long()], by_column[by_column != 0])
    again = Pattern.at(pattern.places, weight.shape)
    for field in ("row_start", "cols", "col_start", "rows", "order"):
        assert torch.equal(getattr(pattern, field), getattr(again, field)), field


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_tokens", [1, 32, 45])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_and_its_gradients_are_the_dense_ones_at_the_nonzeros(
    shape: tuple[int, int], n_tokens: int, has_bias: bool
) -> None:
    weight = sparse(shape)
    pattern = Pattern.of(weight)
    x, dy = torch.randn(3, n_tokens, shape[1]), torch.randn(3, n_tokens, shape[0])
    bias = torch.randn(shape[0]) if has_bias else None
    leaves = [t.clone().requires_grad_() for t in (x, weight, *([bias] if bias is not None else []))]
    expected = F.linear(*leaves)
    expected.backward(dy)
    x2, values = x.clone().requires_grad_(), pattern.values_of(weight).requires_grad_()
    bias2 = None if bias is None else bias.clone().requires_grad_()
    found = multiply(x2, values, pattern, bias2)
    found.backward(dy)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(x2.grad, leaves[0].grad, **close)
    assert leaves[1].grad is not None
    torch.testing.assert_close(values.grad, leaves[1].grad[weight != 0], **close)
    if bias2 is not None:
        torch.testing.assert_close(bias2.grad, leaves[2].grad, **close)


def test_with_a_dense_weight_every_entry_gets_its_gradient() -> None:
    weight = sparse((48, 35))
    pattern = Pattern.of(weight)
    x, dy = torch.randn(50, 35), torch.randn(50, 48)
    dense, given = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    values = pattern.values_of(weight).requires_grad_()
    F.linear(x, dense).backward(dy)
    multiply(x, values, pattern, weight=given).backward(dy)
    torch.testing.assert_close(given.grad, dense.grad, atol=1e-5, rtol=1e-5)
    assert values.grad is None


def test_a_lookup_gives_gradients_to_nonzeros_alone() -> None:
    weight = sparse((20, 12))
    pattern = Pattern.of(weight)
    tokens, dy = torch.randint(20, (4, 9)), torch.randn(4, 9, 12)
    dense, values = weight.clone().requires_grad_(), pattern.values_of(weight).requires_grad_()
    expected = F.embedding(tokens, dense)
    expected.backward(dy)
    found = lookup(tokens, values, pattern, weight)
    found.backward(dy)
    assert torch.equal(found, expected)
    assert dense.grad is not None
    torch.testing.assert_close(values.grad, dense.grad[weight != 0], atol=1e-6, rtol=1e-5)


def test_gradients_of_several_passes_add_up() -> None:
    weight = sparse((16, 16))
    pattern = Pattern.of(weight)
    x, values = torch.randn(40, 16), pattern.values_of(weight).requires_grad_()
    multiply(x, values, pattern).sum().backward()
    once = values.grad.clone() if values.grad is not None else torch.empty(0)
    multiply(x, values, pattern).sum().backward()
    torch.testing.assert_close(values.grad, 2 * once)


@pytest.mark.parametrize("moments", ["dense", "compressed"])
def test_adamw_at_the_nonzeros_is_torchs(moments: str) -> None:
    weight = sparse((24, 18))
    pattern = Pattern.of(weight)
    settings = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 0.1, "weight_decay": 0.1}
    expected = nn.Parameter(weight.clone())
    optimizer = AdamW([expected], **settings)
    found = weight.clone()
    first, second = (torch.zeros(len(pattern)) if moments == "compressed" else torch.zeros_like(weight) for _ in range(2))  # fmt: skip
    for step in range(1, 6):
        gradient = torch.randn(len(pattern))
        expected.grad = pattern.matrix(gradient).to_dense()
        optimizer.step()
        adamw_(found, first, second, pattern, gradient, step=step, **settings)
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-5)
    assert not found[weight == 0].any()


def test_equal_threads_give_equal_bits() -> None:
    weight, x, dy = sparse((64, 64)), torch.randn(999, 64), torch.randn(999, 64)
    pattern = Pattern.of(weight)
    found: list[Tensor] = []
    for _ in range(2):
        values = pattern.values_of(weight).requires_grad_()
        multiply(x, values, pattern).backward(dy)
        assert values.grad is not None
        found.append(values.grad)
    assert torch.equal(*found)


def test_a_matrix_without_nonzeros_gives_the_bias() -> None:
    weight, bias = torch.zeros(5, 4), torch.randn(5)
    pattern = Pattern.of(weight)
    values = pattern.values_of(weight).requires_grad_()
    x = torch.randn(3, 4, requires_grad=True)
    y = multiply(x, values, pattern, bias)
    assert torch.equal(y, bias.expand(3, 5))
    y.sum().backward()
    assert x.grad is not None and not x.grad.any() and values.grad is not None and len(values.grad) == 0


def test_torchs_form_does_all_nonzeros_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "MAX_PRODUCTS", 100)
    monkeypatch.setattr(native, "library", lambda: None)
    test_a_product_and_its_gradients_are_the_dense_ones_at_the_nonzeros((33, 100), 45, True)
