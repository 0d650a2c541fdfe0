"""Products with a matrix whose nonzeros are few: work and gradients at the nonzeros alone.

1. A `Pattern` says where the nonzeros of `[n_rows, n_cols]` stand, by rows and by columns; their values are a vector of their own, in flat order.
2. `multiply`: y = x W^T + bias. Its gradients: dx = dy W by the same nonzeros; of the values alone, sum over tokens of dy[row] x[col]; or, where the dense tensor is
   given too, of all its entries, as a dense product has it.
3. `lookup`: rows of an embedding, with gradients of the values alone.
4. `adamw_`: one step of AdamW at the nonzeros.

On the CPU native kernels work in float32 (`sparse.cpp`); elsewhere, and without a compiler, the torch forms here do.
The products are those of Gao et al. 2025 (arXiv 2511.13653, A.2) with zeros left out; the kernels are ours.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sparsetrain.kernels import native

MAX_PRODUCTS = 1 << 22
"""Of tokens and nonzeros that the torch form writes out at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pattern:
    """Where the nonzeros of a matrix stand."""

    shape: torch.Size
    places: Tensor
    """`[n]` int64, ascending: flat places."""
    row_start: Tensor
    """`[n_rows + 1]` int32."""
    cols: Tensor
    """`[n]` int32, row by row."""
    col_start: Tensor
    """`[n_cols + 1]` int32."""
    rows: Tensor
    """`[n]` int32, column by column."""
    order: Tensor
    """`[n]` int32: where in flat order the nonzeros of the columns stand."""

    @classmethod
    def of(cls, weight: Tensor) -> "Pattern":
        """Of the nonzeros of a contiguous matrix."""
        weight = weight.detach()
        n_rows, n_cols = weight.shape
        if not _native_can_run(weight):
            return cls.at(weight.flatten().nonzero()[:, 0], weight.shape)
        row_start, threads = torch.empty(n_rows + 1, dtype=torch.int32), torch.get_num_threads()
        native.call("count_rows", weight, n_rows, n_cols, row_start, threads)
        cols = torch.empty(int(row_start[-1]), dtype=torch.int32)
        native.call("find_columns", weight, n_rows, n_cols, row_start, cols, threads)
        at_rows = torch.arange(n_rows).repeat_interleave(row_start.diff().long(), output_size=len(cols))
        return cls._by_both(weight.shape, at_rows * n_cols + cols, row_start, cols, at_rows)

    @classmethod
    def at(cls, places: Tensor, shape: torch.Size) -> "Pattern":
        """Of ascending flat places, int64."""
        at_rows, cols = places // shape[1], (places % shape[1]).int()
        row_start = F.pad(torch.bincount(at_rows, minlength=shape[0]).cumsum(0), (1, 0)).int()
        return cls._by_both(shape, places, row_start, cols, at_rows)

    @classmethod
    def _by_both(cls, shape: torch.Size, places: Tensor, row_start: Tensor, cols: Tensor, at_rows: Tensor) -> "Pattern":
        if places.is_cpu and native.library() is not None:
            col_start, rows, order = torch.empty(shape[1] + 1, dtype=torch.int32), torch.empty_like(cols), torch.empty_like(cols)  # fmt: skip
            native.call("by_columns", *shape, row_start, cols, col_start, rows, order)
        else:
            order = cols.argsort(stable=True).int()
            rows = at_rows[order.long()].int()
            col_start = F.pad(torch.bincount(cols, minlength=shape[1]).cumsum(0), (1, 0)).int()
        return cls(
            shape=shape, places=places, row_start=row_start, cols=cols, col_start=col_start, rows=rows, order=order
        )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def at_rows(self) -> Tensor:
        """`[n]` int64: the row of each nonzero, in flat order."""
        return self.places // self.shape[1]

    def values_of(self, dense: Tensor) -> Tensor:
        """Entries of a dense tensor at these places, `[n]`, a copy without gradient."""
        return dense.detach().flatten()[self.places]

    def matrix(self, values: Tensor) -> Tensor:
        """With these values, as torch's sparse tensor."""
        return torch.sparse_coo_tensor(
            torch.stack([self.at_rows, self.cols.long()]), values, self.shape, is_coalesced=True, check_invariants=False
        )


def _native_can_run(*tensors: Tensor) -> bool:
    return all(x.is_cpu and x.dtype is torch.float32 for x in tensors) and native.library() is not None


def _flat(x: Tensor) -> Tensor:
    """All tokens in one line: `[n, width]`, contiguous."""
    return x.reshape(-1, x.shape[-1]).contiguous()


class _Multiply(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, weight: Tensor | None, bias: Tensor | None, pattern: Pattern
    ) -> Tensor:
        tokens = _flat(x)
        n_rows, n_cols = pattern.shape
        ctx.pattern, ctx.shape, ctx.all_entries, ctx.has_bias = pattern, x.shape, weight is not None, bias is not None
        ctx.save_for_backward(tokens, values)
        if _native_can_run(tokens, values):
            y = tokens.new_empty(len(tokens), n_rows)
            native.call("multiply", tokens, len(tokens), n_rows, n_cols, pattern.row_start, pattern.cols, values, bias, y, torch.get_num_threads())  # fmt: skip
        else:
            y = (pattern.matrix(values) @ tokens.T).T
            y = y.contiguous() if bias is None else y + bias
        return y.view(*x.shape[:-1], n_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens, values = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        dy = _flat(dy)
        needs_x, needs_values = ctx.needs_input_grad[0], ctx.needs_input_grad[1] and not ctx.all_entries
        needs_bias = ctx.has_bias and ctx.needs_input_grad[3]
        n_rows, n_cols = pattern.shape
        dx = torch.empty_like(tokens) if needs_x else None
        dvalues = torch.empty_like(values) if needs_values else None
        dbias = dy.new_empty(n_rows) if needs_bias else None
        if _native_can_run(tokens, values, dy):
            threads = torch.get_num_threads()
            sums = dy.new_empty(threads * (len(values) + n_rows))
            native.call(
                "multiply_backward", dy, tokens, len(tokens), n_rows, n_cols, pattern.row_start, pattern.cols, pattern.col_start, pattern.rows,
                values[pattern.order.long()], dx, dvalues, dbias, sums, threads,
            )  # fmt: skip
        else:
            dx = (pattern.matrix(values).T @ dy.T).T.contiguous() if needs_x else None
            dvalues = _at_nonzeros(dy, tokens, pattern) if needs_values else None
            dbias = dy.sum(0) if needs_bias else None
        dweight = dy.T @ tokens if ctx.all_entries and ctx.needs_input_grad[2] else None
        return None if dx is None else dx.view(ctx.shape), dvalues, dweight, dbias, None


def _at_nonzeros(dy: Tensor, x: Tensor, pattern: Pattern) -> Tensor:
    """sum over tokens of dy[row] x[col] at every nonzero, `[n]`."""
    rows, cols, size = pattern.at_rows, pattern.cols.long(), max(1, MAX_PRODUCTS // max(1, len(dy)))
    parts = [(dy[:, r] * x[:, c]).sum(0) for r, c in zip(rows.split(size), cols.split(size), strict=True)]
    return torch.cat(parts) if parts else dy.new_empty(0)


class _Lookup(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, tokens: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(tokens, values)
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tokens, values = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        ids, dy = tokens.reshape(-1).contiguous(), _flat(dy)
        if _native_can_run(dy, values):
            dvalues = torch.empty_like(values)
            native.call("lookup_backward", ids, dy, len(ids), *pattern.shape, pattern.row_start, pattern.cols, dvalues, torch.get_num_threads())  # fmt: skip
        else:
            dense = dy.new_zeros(pattern.shape).index_add_(0, ids, dy)
            dvalues = pattern.values_of(dense)
        return dvalues, None, None, None


def multiply(
    x: Tensor, values: Tensor, pattern: Pattern, bias: Tensor | None = None, *, weight: Tensor | None = None
) -> Tensor:
    """x W^T + bias for a W of few nonzeros.

    Args:
        x: `[..., n_cols]`.
        values: `[n]`, W's nonzeros in flat order; gets their gradient, unless `weight` is given.
        pattern: where they stand.
        bias: `[n_rows]`.
        weight: W as a dense tensor: its entries, zeros included, get the gradient instead.

    Returns:
        `[..., n_rows]`.
    """
    return _Multiply.apply(x, values, weight, bias, pattern)  # pyright: ignore[reportReturnType]


def lookup(tokens: Tensor, values: Tensor, pattern: Pattern, weight: Tensor) -> Tensor:
    """Rows of an embedding of few nonzeros, whose gradient goes to its values alone.

    Args:
        tokens: `[...]` int64.
        values: `[n]`, nonzeros of `weight` in flat order.
        pattern: where they stand.
        weight: `[d_vocab, width]`, read, without gradient.

    Returns:
        `[..., width]`.
    """
    return _Lookup.apply(values, weight.detach(), tokens, pattern)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def adamw_(
    weight: Tensor, first: Tensor, second: Tensor, pattern: Pattern, gradient: Tensor,
    *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, step: int,
) -> None:  # fmt: skip
    """One step of AdamW at the nonzeros, in place; everything else stays.

    Args:
        weight: contiguous dense tensor.
        first: moments, dense like `weight` or `[n]` at the nonzeros.
        second: likewise.
        pattern: where they stand.
        gradient: `[n]`.
        lr: learning rate.
        betas: of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled, times lr.
        step: number of this step, from 1.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), as torch.optim.AdamW computes it.
    """
    compressed = first.shape != weight.shape
    if _native_can_run(weight, first, second, gradient):
        native.call("adamw", weight, first, second, pattern.places, gradient.contiguous(), len(pattern), int(compressed), lr, *betas, eps, weight_decay, float(step))  # fmt: skip
        torch.autograd.graph.increment_version([weight, first, second])  # the kernel writes behind autograd's back
        return
    at = torch.arange(len(pattern), device=weight.device) if compressed else pattern.places
    flat, m, v = weight.view(-1), first.view(-1), second.view(-1)
    m[at] += (gradient - m[at]) * (1 - betas[0])
    v[at] = v[at] * betas[1] + gradient.square() * (1 - betas[1])
    size, root = lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5
    flat[pattern.places] = flat[pattern.places] * (1 - lr * weight_decay) - size * m[at] / (v[at].sqrt() / root + eps)
