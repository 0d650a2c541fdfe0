"""Training at the cost of the nonzeros: which tensors are computed by theirs in a step, and how they are updated.

1. A tensor whose density has come down to its crossover is *compressed*: in the forward pass and for the gradient of its input only its nonzeros are computed with.
2. While the density falls (weights that are given may be as sparse as they will be), every `refresh_every` steps from then on, and in the last stretch, all its entries get their gradient and the step is that of a dense
   training: AdamW, projection, a mask that may move. In the steps between gradients are computed at the nonzeros alone, AdamW moves those alone, and a budget that
   still falls (`refresh_falling` above 1) is kept by cutting among them.
3. The global RMS of the gradient that a step is divided by counts every entry. Between refreshes those of a compressed tensor that are not computed are taken to be as
   large beside the nonzeros as they were at the last refresh.
4. A tensor that keeps more than `exact_above` has its dense gradient in every step.
5. Adam's moments of entries that are cut stand still between refreshes (`dense`), or are not kept from one refresh to a later one and begin at zero there (`compressed`).
6. `auto` times both forms of the products on the machine at the start, and takes the density at which they cost the same (or the one that is given). Where a run cannot
   have products by nonzeros it computes with the zeros and says why; `sparse` refuses such a run.

Weights stay in dense tensors, so that hooks, exports, audits and checkpoints are what they are without it.
Where the nonzeros stand rides in the checkpoint: a tensor between refreshes may have candidates whose value is zero.
Source: the idea of a mask that moves seldom is that of RigL (Evci et al. 2020) and Top-KAST (Jayakumar et al. 2021); dense refreshes are ours.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from sparsetrain.kernels import Pattern, adamw_
from sparsetrain.linear import Embedding, Linear, SparseLookup, SparseProduct
from sparsetrain.optim import PartialGradient
from sparsetrain.sparsity.schedule import DensitySchedule
from sparsetrain.typed import Count, Share

log = logging.getLogger(__name__)

TIMED_DENSITIES = (1 / 64, 1 / 8)
"""Of the products that `auto` times; their time is a constant and a part in proportion to the nonzeros."""
N_TIMED = 5
MOMENTS = ("exp_avg", "exp_avg_sq")
"""As AdamW calls them."""
CPU = torch.device("cpu")
CROSSOVER = 0.3
"""Where it is neither given nor measured."""
MIN_SHARE = 1e-6
"""Of a gradient that is nearly all at entries that are cut."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How products with sparse weights are computed. ours"""

    refresh_every: Count = 20
    """Steps from one dense gradient to the next. 1: all of them, exactly as a dense training."""
    refresh_falling: Count = 1
    """The same while the density still falls. 1: up to there the training is the dense one; that 20 costs loss was not seen (docs/performance.md)."""
    exact_end: float = 0.05
    """Share of the steps, at the end, that all have a dense gradient."""
    exact_above: Share = 0.1
    """Density above which a tensor has its dense gradient in every step, though its products are by the nonzeros: where a quarter of the
    entries is kept (the quickstart's embeddings), a mask that moves every 20 or every 5 steps costs 2% of loss, and little is saved."""
    moments: Literal["dense", "compressed"] = "dense"
    """Adam's, of compressed tensors: of all entries, or of the nonzeros alone."""
    crossover: Share | None = None
    """Density from which on a tensor is compressed. None: .3 with compute=sparse; with compute=auto that at which both forms cost the same on
    this machine, which is measured at the start, so that equal seeds give equal weights on one machine at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.exact_end <= 1:
            raise ValueError(f"exact_end={self.exact_end} must lie in [0, 1]: a share of the steps")

    def every(self, *, falling: bool) -> int:
        """Steps from one dense gradient to the next, while the density falls or from then on."""
        return self.refresh_falling if falling else self.refresh_every


@dataclass(kw_only=True, eq=False)
class Compressible:
    """A matrix that may be computed by its nonzeros."""

    name: str
    module: Linear | Embedding
    crossover: float
    pattern: Pattern | None = None
    """None: computed densely."""
    refresh: bool = True
    """All entries get their gradient in the step at hand."""
    share: Tensor | None = None
    """|gradient at the nonzeros|^2 / |gradient|^2 at the last refresh."""
    product: SparseProduct | SparseLookup | None = None
    """Of the step at hand."""

    @property
    def param(self) -> nn.Parameter:
        """The weight."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def shape(self) -> tuple[int, int, bool]:
        """Rows, columns, and whether it is an embedding: what a crossover depends on."""
        return *self.param.shape, isinstance(self.module, Embedding)  # pyright: ignore[reportReturnType]

    @property
    def values(self) -> Tensor | None:
        """Nonzeros that get a gradient of their own in this step."""
        return self.product.values if self.product is not None and self.product.values.requires_grad else None


class SparseCompute:
    """See the module's docstring.

    Args:
        config: when, and how.
        schedule: of the density; knows the length of the run.
        measured: take the crossovers, where none is given, from timings on this machine.
    """

    def __init__(self, config: ComputeConfig, schedule: DensitySchedule, *, measured: bool = False) -> None:
        self.config = config
        self.schedule = schedule
        self.measured = measured and config.crossover is None
        self.falls = True
        """Whether the density of anything falls; weights that are given may be as sparse as they will be."""
        self.tensors: list[Compressible] = []
        self._by_name: dict[str, Compressible] = {}
        self._has_crossovers = False
        self._step: int | None = None

    def prepare(self, model: nn.Module, names: Sequence[str]) -> None:
        """Finds the layers of the named weights; those that are no matrix of a layer stay dense."""
        found: list[Compressible] = []
        for name in names:
            module = model.get_submodule(name.rpartition(".")[0])
            if isinstance(module, Linear | Embedding) and name.endswith(".weight"):
                crossover = CROSSOVER if self.config.crossover is None else self.config.crossover
                found.append(Compressible(name=name, module=module, crossover=crossover))
        for one in found:
            if one.name in self._by_name:  # prepared anew: the same tensors
                before = self._by_name[one.name]
                one.pattern, one.share, one.crossover = before.pattern, before.share, before.crossover
        self.tensors = found
        self._by_name = {one.name: one for one in found}

    def measure(self, n_tokens: int) -> None:
        """Takes the crossovers from timings with so many tokens; says what they are, once."""
        if not self.measured or self._has_crossovers:
            return
        self._has_crossovers = True
        shapes = {one.shape for one in self.tensors}
        device = self.tensors[0].param.device if self.tensors else CPU
        found = {key: crossover_of(key[:2], n_tokens, lookup=key[2], device=device) for key in sorted(shapes)}
        for one in self.tensors:
            one.crossover = found[one.shape]
        words = [
            f"{rows} x {cols}{' (looked up)' if looked_up else ''} {f'up to {density:.3g}' if density else 'never'}"
            for (rows, cols, looked_up), density in found.items()
        ]
        log.info("compute=auto: weights are computed by their nonzeros at these densities: %s", ", ".join(words))

    def is_refresh(self, step: int) -> bool:
        """Whether all entries get their gradient in the step after `step` others."""
        falling = self.falls and self.schedule.progress(step) < 1  # the step that brings the final density is of those
        every = self.config.every(falling=falling)
        return step % every == 0 or step >= (1 - self.config.exact_end) * self.schedule.n_steps

    def _begin(self, step: int, density: Callable[[str], float]) -> None:
        """Makes the products of a step."""
        refresh = self.is_refresh(step)
        for one in self.tensors:
            if one.pattern is not None and one.pattern.places.device != one.param.device:  # as loaded from a checkpoint
                one.pattern = Pattern.at(one.pattern.places.to(one.param.device), one.param.shape)
                one.share = None if one.share is None else one.share.to(one.param.device)
            now = density(one.name)
            one.refresh = refresh or now > self.config.exact_above or one.pattern is None
            if one.pattern is None and one.refresh and now <= one.crossover:
                one.pattern = Pattern.of(one.param)
            one.product = None
            if one.pattern is None:
                continue
            if isinstance(one.module, Linear):
                one.product = SparseProduct(one.param, one.pattern, dense_gradient=one.refresh)
            elif not one.refresh:  # the lookup itself costs nothing, and its dense gradient is torch's own
                one.product = SparseLookup(one.param, one.pattern)
            if one.product is not None and not one.refresh:
                one.product.values.requires_grad_()

    @contextmanager
    def active(self, step: int, density: Callable[[str], float]) -> Iterator[None]:
        """Inside, the layers compute as the step after `step` others wants it; may be entered once for every micro-batch.

        Args:
            step: optimizer steps taken.
            density: of a tensor now.
        """
        if step != self._step:
            self._begin(step, density)
            self._step = step
        for one in self.tensors:
            one.module.product = one.product  # pyright: ignore[reportAttributeAccessIssue]  # of the kind of its module
        try:
            yield
        finally:
            for one in self.tensors:
                one.module.product = None

    def gradients(self) -> list[PartialGradient]:
        """Of the nonzeros alone, in this step."""
        found: list[PartialGradient] = []
        for one in self.tensors:
            if one.values is not None and one.values.grad is not None:
                assert one.share is not None
                found.append(PartialGradient(values=one.values.grad, n_entries=one.param.numel(), share=one.share))
        return found

    def drop_gradients(self) -> None:
        """The step at hand is not taken."""
        for one in self.tensors:
            if one.values is not None:
                one.values.grad = None

    def before_step(self, optimizer: AdamW) -> None:
        """Moments of what has a dense gradient are written out, for the optimizer to work on."""
        for one in self.tensors:
            state = optimizer.state.get(one.param, {})
            if (
                one.pattern is None
                or one.param.grad is None
                or state.get("exp_avg", one.param).shape == one.param.shape
            ):
                continue
            for key in MOMENTS:
                written = torch.zeros_like(one.param).view(-1)
                state[key] = written.index_copy_(0, one.pattern.places, state[key]).view_as(one.param)

    def take_step(self, optimizer: AdamW) -> None:
        """AdamW at the nonzeros of the tensors that have no other gradient."""
        for one in self.tensors:
            if one.values is None or one.values.grad is None or one.pattern is None:
                continue
            group, state = _group_of(optimizer, one.param), optimizer.state[one.param]
            written_out = state["exp_avg"].shape == one.param.shape  # since the last dense gradient
            if self.config.moments == "compressed" and written_out:
                state |= {key: one.pattern.values_of(state[key]) for key in MOMENTS}
            state["step"] += 1
            adamw_(
                one.param, state["exp_avg"], state["exp_avg_sq"], one.pattern, one.values.grad,
                lr=float(group["lr"]), betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"], step=int(state["step"]),
            )  # fmt: skip

    def holds(self, name: str, k: int) -> bool:
        """Whether a tensor has at most k nonzeros without being projected: nothing but those of its pattern has moved."""
        one = self._by_name.get(name)
        return one is not None and one.values is not None and one.pattern is not None and len(one.pattern) <= k

    def end(self) -> None:
        """After the projection of a step: new patterns where the masks may have moved."""
        for one in self.tensors:
            if one.pattern is None or not one.refresh:
                continue
            if one.param.grad is None:  # the step was left out: nothing has moved
                one.pattern = None if one.share is None else one.pattern
                continue
            one.pattern = Pattern.of(one.param)
            seen, all_entries = one.pattern.values_of(one.param.grad), one.param.grad
            share = seen.square().sum() / all_entries.square().sum().clamp_min(torch.finfo(seen.dtype).tiny)
            one.share = share.clamp(MIN_SHARE, 1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs to go on bit-exactly."""
        measured, moments = self.measured and self._has_crossovers, self.config.moments
        return {
            one.name: {
                "crossover": one.crossover if measured else None, "moments": moments, "share": one.share,
                "places": None if one.pattern is None else one.pattern.places,
            }
            for one in self.tensors
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, on prepared tensors; one of which the checkpoint knows nothing begins densely."""
        for one in self.tensors:
            if one.name not in state:
                continue
            kept = state[one.name]
            one.share = kept["share"]
            if self.measured and kept["crossover"] is not None:
                one.crossover, self._has_crossovers = kept["crossover"], True
            one.pattern = None if kept["places"] is None else Pattern.at(kept["places"], one.param.shape)


def _group_of(optimizer: AdamW, param: nn.Parameter) -> dict[str, Any]:
    """The settings with which a parameter is trained."""
    return next(group for group in optimizer.param_groups if any(param is other for other in group["params"]))


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """Median of `N_TIMED` calls, after one that is not counted."""
    call()
    found: list[float] = []
    for _ in range(N_TIMED):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found)


def crossover_of(shape: tuple[int, int], n_tokens: int, *, lookup: bool, device: torch.device = CPU) -> float:
    """Density at which a matrix costs the same by its nonzeros as densely, forward and backward on this machine; 0: dense is always faster, 1: never.

    Args:
        shape: of the weight.
        n_tokens: of a batch.
        lookup: it is an embedding.
        device: that is timed.
    """
    generator = torch.Generator().manual_seed(0)

    def timed(density: float | None) -> float:
        drawn = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < (density or 1))
        weight = nn.Parameter(drawn.to(device))
        product = None if density is None else SparseLookup(weight) if lookup else SparseProduct(weight)
        if product is not None:
            product.values.requires_grad_()
        x = torch.randint(shape[0], (n_tokens,), generator=generator).to(device) if lookup else torch.randn(n_tokens, shape[1], generator=generator).to(device).requires_grad_()  # fmt: skip
        layer: Callable[[], Tensor]
        if isinstance(product, SparseLookup):
            layer = partial(product, x, weight)
        elif product is not None:
            layer = partial(product, x, weight, None)
        else:
            layer = partial(F.embedding, x, weight) if lookup else partial(F.linear, x, weight)
        gradient = torch.randn(n_tokens, shape[1 if lookup else 0], generator=generator).to(device)

        def call() -> None:
            weight.grad = None
            layer().backward(gradient)

        return _seconds(call, device)

    dense, (low, high) = timed(None), (timed(density) for density in TIMED_DENSITIES)
    slope = (high - low) / (TIMED_DENSITIES[1] - TIMED_DENSITIES[0])
    if slope <= 0:  # drowned in the noise of the clock
        return 1.0 if max(low, high) < dense else 0.0
    return min(1.0, max(0.0, TIMED_DENSITIES[0] + (dense - low) / slope))
