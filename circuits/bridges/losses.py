"""What student and bridge are trained on: next tokens, streams that translate into each other, hybrid passes that predict as the teacher does.

1. `cross_entropy`: of the student's next tokens, as without a bridge.
2. `encode`, `decode`: normalised squared errors of both directions, mean over sites. NMSE(x, t) = sum |x - t|^2 / sum |t - mean t|^2, sums over all
   tokens of the batch and all channels: 1 is a bridge that always gives the mean. The source does not say by what it normalises. Gradients flow into
   both sides, the normaliser included, so that a stream gains nothing by shrinking.
3. `into_sparse`, `into_dense`: KL(teacher || hybrid pass with one crossing), mean over tokens and sites; the source has the sum over sites.
4. All sites of every row are exact and expensive: two passes per site. With `n_each` sites a row, dealt at random so that every site is equally likely
   for every row, the mean is an unbiased estimate of the same and costs two passes times `n_each`.

The teacher is frozen; its gradient goes through it to decoder and student.
Source: Gao et al. 2025, A.3.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from circuits.bridges.bridge import Bridge
from circuits.bridges.sites import Entry, run, sites_of
from sparsetrain.model import Transformer, at_least_float32
from sparsetrain.optim import OptimConfig
from sparsetrain.typed import Count, NotNegative, Share

TERMS: tuple[str, ...] = ("cross_entropy", "encode", "decode", "into_sparse", "into_dense")


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """The bridge and its losses. All numbers are ours: the source gives none."""

    share: Share = 0.25
    """Of the sparse residual channels that AbsTopK keeps of what an encoder gives."""
    n_each: Count | None = None
    """Sites of every row whose hybrid passes are run in a step; None: all of them, exactly."""
    cross_entropy: NotNegative = 1.0
    nmse: NotNegative = 1.0
    """Of the sum of both directions."""
    kl: NotNegative = 1.0
    """Of the sum of both directions."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr_peak=3e-3, eps=1e-8, weight_decay=0.0))
    """Of the bridge; the student's is the run's."""


def nmse(x: Tensor, target: Tensor) -> Tensor:
    """Normalised squared error over all tokens and channels, `[..., width]` each -> scalar; see the module's docstring."""
    x, target = at_least_float32(x).flatten(0, -2), at_least_float32(target).flatten(0, -2)
    variance = (target - target.mean(0)).square().sum()
    return (x - target).square().sum() / variance.clamp_min(torch.finfo(variance.dtype).tiny)


def deal(n_rows: int, n_sites: int, n_each: int | None) -> Tensor:
    """Sites of every row, `[n_rows, n_each]` int64, all different within a row; every site equally likely for every row.

    One random order of the sites is dealt round and round, so that a batch sees all of them about equally often.

    Args:
        n_each: None, or as many as there are: all, in order.

    Raises:
        ValueError: more than there are.
    """
    if n_each is None or n_each == n_sites:
        return torch.arange(n_sites).expand(n_rows, -1)
    if n_each > n_sites:
        raise ValueError(f"n_each={n_each} must be at most {n_sites}, the sites of the models; null means all")
    return torch.randperm(n_sites)[torch.arange(n_rows * n_each).reshape(n_rows, n_each) % n_sites]


def bridge_terms(
    teacher: nn.Module, student: nn.Module, bridge: Bridge, tokens: Tensor, n_each: int | None = None
) -> dict[str, Tensor]:
    """The five losses of `TERMS`, unweighted scalars, nats/token or fractions of the variance.

    Args:
        teacher: dense, without gradients of its own.
        student: sparse, of the same depth and vocabulary.
        bridge: between them.
        tokens: `[batch, n_ctx + 1]` int64.
        n_each: sites of every row; None: all.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    dense, sparse = sites_of(teacher), sites_of(student)
    everywhere = range(len(dense))
    with torch.no_grad():
        logits, dense_streams = run(teacher, dense, inputs, keep=everywhere)
        target = logits.log_softmax(-1)
    logits, sparse_streams = run(student, sparse, inputs, keep=everywhere)
    encoded = [bridge.encode(i, dense_streams[i]) for i in everywhere]
    decoded = [bridge.decode(i, sparse_streams[i]) for i in everywhere]
    at = deal(len(inputs), len(dense), n_each).to(inputs.device)
    rows = torch.arange(len(inputs), device=inputs.device)[:, None].expand_as(at).flatten()
    at = at.flatten()

    def divergence(model: nn.Module, streams: list[Tensor]) -> Tensor:
        entry = Entry(values=torch.stack(streams)[at, rows], at=at)
        hybrid, _ = run(model, dense if model is teacher else sparse, inputs[rows], entry=entry)
        summed = F.kl_div(hybrid.log_softmax(-1), target[rows], reduction="sum", log_target=True)
        return summed / (len(rows) * inputs.shape[1])

    return {
        "cross_entropy": F.cross_entropy(rearrange(logits, "b p v -> (b p) v"), targets.flatten()),
        "encode": torch.stack([nmse(encoded[i], sparse_streams[i]) for i in everywhere]).mean(),
        "decode": torch.stack([nmse(decoded[i], dense_streams[i]) for i in everywhere]).mean(),
        "into_sparse": divergence(student, encoded),
        "into_dense": divergence(teacher, decoded),
    }


class BridgeObjective:
    """The weighted sum of `bridge_terms`: a `LearningObjective` whose weights are the bridge's.

    Args:
        teacher: copied, so that nothing that is trained can change it; no gradient of its own.
        bridge: trained in place.
        config: weights of the terms, and how the bridge learns.
    """

    def __init__(self, teacher: nn.Module, bridge: Bridge, config: BridgeConfig) -> None:
        self.teacher = deepcopy(teacher).eval().requires_grad_(False)
        self.bridge = bridge
        self.beside: nn.Module = bridge
        self.optim = config.optim
        self.config = config
        self.terms: Mapping[str, Tensor] = {}

    def __call__(self, model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
        tokens, config = batch["tokens"], self.config
        terms = bridge_terms(self.teacher.to(tokens.device), model, self.bridge, tokens, config.n_each)
        self.terms = {f"loss/{name}": value.detach().float() for name, value in terms.items()}
        return (
            config.cross_entropy * terms["cross_entropy"]
            + config.nmse * (terms["encode"] + terms["decode"])
            + config.kl * (terms["into_sparse"] + terms["into_dense"])
        )
