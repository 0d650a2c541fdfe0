"""Hybrid passes: a text is read by one model up to a site, by the other from there on, and so on across any set of sites.

1. `Coupled` holds both models, their sites and the bridge.
2. `crossed` begins in one model and crosses at each of the given sites. Every crossing is one pass of the model that is entered, with the
   stream that the bridge makes of the other's.
3. `crossing_losses` lists every single crossing and some random routes of several: next-token loss, and KL from the dense model.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from circuits.bridges.bridge import Bridge
from circuits.bridges.sites import Entry, Site, run, sites_of

Model = Literal["dense", "sparse"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coupled:
    """Two models of the same depth and vocabulary with their bridge."""

    dense: nn.Module
    sparse: nn.Module
    bridge: Bridge
    sites: tuple[Site, ...]
    """Of the dense model."""
    sparse_sites: tuple[Site, ...]

    @classmethod
    def of(cls, dense: nn.Module, sparse: nn.Module, bridge: Bridge) -> "Coupled":
        """Checks that they fit.

        Raises:
            ValueError: models or a bridge of different depths.
        """
        sites, sparse_sites = sites_of(dense), sites_of(sparse)
        if not len(sites) == len(sparse_sites) == bridge.n_sites:
            raise ValueError(f"a dense model of {len(sites)} sites, a sparse one of {len(sparse_sites)} and a bridge of {bridge.n_sites} do not belong together")  # fmt: skip
        return cls(dense=dense, sparse=sparse, bridge=bridge, sites=sites, sparse_sites=sparse_sites)

    def model(self, which: Model) -> tuple[nn.Module, tuple[Site, ...]]:
        """A model with its sites."""
        return (self.dense, self.sites) if which == "dense" else (self.sparse, self.sparse_sites)

    def carried(self, into: Model, site: int, stream: Tensor) -> Tensor:
        """A stream of the other model as one of this."""
        return self.bridge.decode(site, stream) if into == "dense" else self.bridge.encode(site, stream)


@dataclass(frozen=True, kw_only=True)
class Route:
    """Which model computes which layer."""

    start: Model
    """The model that reads the tokens."""
    crossings: tuple[int, ...] = ()
    """Sites at which the stream goes over to the other model, rising."""

    def __post_init__(self) -> None:
        if list(self.crossings) != sorted(set(self.crossings)):
            raise ValueError(f"crossings={list(self.crossings)} must rise: each site is crossed once, in forward order")

    def models(self) -> list[Model]:
        """The model between the crossings, the first one first."""
        order: tuple[Model, Model] = ("dense", "sparse") if self.start == "dense" else ("sparse", "dense")
        return [order[i % 2] for i in range(len(self.crossings) + 1)]

    @property
    def end(self) -> Model:
        """The model whose unembedding is used."""
        return self.models()[-1]

    def words(self, sites: Sequence[Site]) -> str:
        """`dense 0.mlp sparse`: what is crossed where."""
        models = self.models()
        return " ".join([models[0], *(f"[{sites[i].name}] {model}" for i, model in zip(self.crossings, models[1:], strict=True))])  # fmt: skip


def crossed(coupled: Coupled, tokens: Tensor, route: Route) -> Tensor:
    """Logits of a hybrid pass, `[batch, pos, d_vocab]`.

    Args:
        coupled: models and bridge.
        tokens: `[batch, pos]` int64.
        route: where it crosses; without crossings a plain pass.
    """
    entry: Entry | None = None
    logits = torch.empty(0)
    for model, crossing in zip(route.models(), [*route.crossings, None], strict=True):
        keep = () if crossing is None else (crossing,)
        logits, streams = run(*coupled.model(model), tokens, entry=entry, keep=keep)
        if crossing is not None:
            into: Model = "sparse" if model == "dense" else "dense"
            values = coupled.carried(into, crossing, streams[crossing])
            entry = Entry(values=values, at=torch.full((len(tokens),), crossing, device=tokens.device))
    return logits


def single_crossings(n_sites: int) -> list[Route]:
    """All routes with one crossing: dense to sparse at every site, then sparse to dense."""
    starts: tuple[Model, Model] = ("dense", "sparse")
    return [Route(start=start, crossings=(i,)) for start in starts for i in range(n_sites)]


def random_routes(n_sites: int, n: int, seed: int) -> list[Route]:
    """Different routes of two crossings or more: at each site a coin is tossed. Fewer than `n` where there are no more."""
    rng = random.Random(seed)
    found: dict[Route, None] = {}
    n_all = 2 * (2**n_sites - 1 - n_sites)
    while len(found) < min(n, n_all):
        crossings = tuple(i for i in range(n_sites) if rng.random() < 0.5)
        if len(crossings) > 1:
            start: Model = rng.choice(("dense", "sparse"))
            found[Route(start=start, crossings=crossings)] = None
    return list(found)


@dataclass(frozen=True, kw_only=True)
class RouteLoss:
    """How well a route predicts."""

    route: Route
    loss: float
    """Next token, nats/token."""
    kl: float
    """From the dense model's prediction, nats/token."""


@torch.no_grad()
def crossing_losses(
    coupled: Coupled, windows: Tensor, routes: Sequence[Route], batch_size: int = 32
) -> list[RouteLoss]:
    """Losses of routes on texts.

    Args:
        coupled: models and bridge, on one device.
        windows: `[n, n_ctx + 1]` int64, texts that nothing was trained on.
        routes: `Route(start="dense")` is the dense model itself.
        batch_size: windows of a pass.
    """
    totals = torch.zeros(len(routes), 2, dtype=torch.float64)
    device = next(coupled.dense.parameters()).device
    for batch in windows.split(batch_size):
        tokens, targets = batch[:, :-1].to(device), batch[:, 1:].to(device)
        target = coupled.dense(tokens).log_softmax(-1)
        for row, logits in zip(totals, (crossed(coupled, tokens, route) for route in routes), strict=True):
            row[0] += F.cross_entropy(rearrange(logits, "b p v -> (b p) v").double(), targets.flatten(), reduction="sum").cpu()  # fmt: skip
            row[1] += F.kl_div(logits.log_softmax(-1), target, reduction="sum", log_target=True).cpu()
    means = (totals / windows[:, 1:].numel()).tolist()
    return [RouteLoss(route=route, loss=loss, kl=kl) for route, (loss, kl) in zip(routes, means, strict=True)]


def plain_routes() -> Iterator[Route]:
    """The two models by themselves."""
    yield Route(start="dense")
    yield Route(start="sparse")
