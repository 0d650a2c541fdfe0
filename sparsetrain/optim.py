"""AdamW as the paper sets it, the learning rate of a step, and the RMS of the gradient.

The paper divides by a large epsilon (0.1), which only makes sense for gradients of a known size: the global gradient RMS
is therefore brought to 1 before each step. Clipping to 1 is offered too; with gradients far below epsilon it does nothing
and AdamW turns into momentum SGD, so it warns.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from sparsetrain.kernels import is_sharded, local_part, ranks_of
from sparsetrain.typed import Above0, NotNegative

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser settings. Source: Gao et al. 2025, A.2, where not marked `ours`."""

    lr_peak: Above0 = 1e-2
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: NotNegative = 0.1
    """On weight matrices and embeddings; gains, biases, sinks and the bigram table are left alone (ours)."""
    eps: Above0 = 0.1
    warmup: float = 0.01
    """Fraction of the steps."""
    decay: Literal["linear", "cosine", "constant"] = "linear"
    """Shape after the warm-up: to 0 in a line (paper) or along half a cosine, or not at all."""
    density_factor: Literal["paper", "script", "off"] = "paper"
    """The learning rate is also multiplied by 1/sqrt(density) (paper; ends at 1/sqrt(target)) or by
    sqrt(target/density) (the authors' script; ends at 1)."""
    grad_rms: Literal["normalise", "clip", "off"] = "normalise"

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup={self.warmup} must lie in [0, 1): a fraction of the steps")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={list(self.betas)} must lie in [0, 1): how slowly AdamW's moments forget")


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over all parameters, fused, decaying weight matrices and embeddings only."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim >= 2 and not name.startswith("bigram")]
    rest = [p for name, p in named if p.ndim < 2 or name.startswith("bigram")]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return AdamW(groups, lr=config.lr_peak, betas=config.betas, eps=config.eps, fused=True)


def add_beside(optimizer: AdamW, module: nn.Module, config: OptimConfig) -> None:
    """Trains another module with the same optimizer too: one more group, with settings of its own and without weight decay.

    Raises:
        ValueError: settings that have weight decay.
    """
    if config.weight_decay:
        raise ValueError(f"weight_decay={config.weight_decay}: what is trained beside the model is not decayed; give 0")
    own = {"lr": config.lr_peak, "betas": config.betas, "eps": config.eps, "weight_decay": 0.0}
    optimizer.add_param_group({"params": [*module.parameters()], **own})


def lr_factor(step: int, n_steps: int, config: OptimConfig, density: float = 1.0, target: float = 1.0) -> float:
    """Learning rate of a step, as a multiple of lr_peak.

    Args:
        step: 0-based index of the optimizer step about to be taken.
        n_steps: optimizer steps of the whole run.
        config: shape and density factor.
        density: density that the step starts from.
        target: the run's final density.
    """
    n_warmup = config.warmup * n_steps
    if step < n_warmup:
        shape = (step + 1) / (n_warmup + 1)
    elif config.decay == "linear":
        shape = (n_steps - step) / (n_steps - n_warmup)
    elif config.decay == "cosine":
        shape = (1 + cos(pi * (step - n_warmup) / (n_steps - n_warmup))) / 2
    else:
        shape = 1.0
    factor = {"paper": 1 / sqrt(density), "script": sqrt(target / density), "off": 1.0}[config.density_factor]
    return max(0.0, shape) * factor


@dataclass(frozen=True, kw_only=True)
class PartialGradient:
    """A gradient of which only some entries were computed."""

    values: Tensor
    """`[n]`, those that were."""
    n_entries: int
    """Of the whole."""
    share: Tensor
    """Scalar: |these entries|^2 / |all entries|^2 when all were last known."""


def grad_rms(params: Iterable[nn.Parameter], partial: Sequence[PartialGradient] = ()) -> Tensor:
    """Root mean square over all entries of all gradients, over all ranks that share them; a scalar of at least float32.

    Of partial gradients the entries that are missing are taken to be as large, beside the others, as they were when they were known.
    A tensor: no host sync.
    """
    grads = [p.grad for p in params if p.grad is not None]
    whole = [local_part(g) for g in grads]
    found = torch._foreach_norm([*whole, *(one.values for one in partial)])  # pyright: ignore[reportPrivateImportUsage]
    norms = torch.stack(found)
    norms = norms.to(torch.promote_types(norms.dtype, torch.float32))
    if partial:
        norms = norms * torch.cat([norms.new_ones(len(whole)), torch.stack([one.share for one in partial]).rsqrt()])
    norm = norms.norm()
    if any(map(is_sharded, grads)):
        norm = ranks_of(grads).sum_(norm.square()).sqrt()
    return norm / sqrt(sum(g.numel() for g in grads) + sum(one.n_entries for one in partial))


def scale_gradients_(
    params: Iterable[nn.Parameter], config: OptimConfig, partial: Sequence[PartialGradient] = ()
) -> Tensor:
    """Brings the global gradient RMS to 1 (`normalise`) or to at most 1 (`clip`), in place; returns the RMS before."""
    params = [p for p in params if p.grad is not None]
    rms = grad_rms(params, partial)
    if config.grad_rms != "off":
        # A gradient of zeros stays one.
        divisor = torch.where(rms > 0, rms, 1.0) if config.grad_rms == "normalise" else rms.clamp(min=1.0)
        whole = [local_part(p.grad) for p in params if p.grad is not None]
        torch._foreach_div_([*whole, *(one.values for one in partial)], divisor)  # pyright: ignore
    return rms
