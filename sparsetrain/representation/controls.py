"""The sparsity of single items under controls: is what is seen a matter of gains, of the basis, of a few channels?

An item is one prompt; what is read is its last position, where the answer is predicted. At a norm the controls are
`none` (after the norm without its gain; before the norm every measure is the same, since it only scales), `gain` (with the gain,
what the next layer reads), `rotated` (in a random orthonormal basis: Gini goes to .414 if the effect is in the basis) and
`trimmed` (without the 1% of channels that carry most energy over all items). Elsewhere only `none` is defined.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsetrain.hooks import hook_points, record
from sparsetrain.representation.measures import HEADLINE, MEASURES, Magnitudes
from sparsetrain.representation.watch import evaluating

CONTROLS = ("none", "gain", "rotated", "trimmed")
TRIMMED = 0.01
"""Fraction of the channels that `trimmed` leaves out (at least one channel)."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """Readings of single prompts; every tensor `[n_items]`, float32 on the CPU."""

    loss: Tensor
    """Of the answer, nats."""
    entropy: Tensor
    """Of the predicted answer, nats."""
    logit_norm: Tensor
    """L2 norm of the logits minus their mean."""
    measures: dict[tuple[str, str, str], Tensor]
    """(hook point, control, measure) -> values."""
    logits: Tensor
    """`[n_items, d_vocab]`."""


def random_rotation(width: int, seed: int) -> Tensor:
    """A random orthonormal basis, `[width, width]` float32, Haar-distributed: QR of a Gaussian matrix, signs fixed."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


def trim(h: Tensor) -> Tensor:
    """Leaves out the channels that carry most energy over all items: `[n, width] -> [n, width - max(1, 1%)]`."""
    n_left_out = max(1, round(TRIMMED * h.shape[-1]))
    kept = h.square().sum(0).argsort()[: h.shape[-1] - n_left_out]
    return h[:, kept.sort().values]


def read_items(
    model: nn.Module,
    prompts: Tensor,
    points: Sequence[str],
    *,
    measures: Sequence[str] = (HEADLINE,),
    rotation_seed: int = 0,
    batch_size: int = 1024,
) -> Items:
    """Reads every prompt at the position that predicts its answer.

    Args:
        model: tokens `[batch, pos]` -> logits `[batch, pos, d_vocab]`.
        prompts: `[n_items, length]` int64, the answer last.
        points: hook points; at those of kind `norm` all controls are read.
        measures: read without control and with the gain; rotated and trimmed have the headline alone.
        rotation_seed: of the random basis.
        batch_size: prompts of one forward pass.

    Raises:
        KeyError: a hook point that does not exist.
    """
    device = next(model.parameters()).device
    logits, seen = [], {point: [] for point in points}
    with evaluating(model):
        for batch in prompts.split(batch_size):
            out, activations = record(model, batch[:, :-1].to(device), points)
            logits.append(out[:, -1].float().cpu())
            for point in points:
                seen[point].append(activations[point][:, -1].float().cpu())
    logits = torch.cat(logits)
    log_p = logits.log_softmax(-1)
    found: dict[tuple[str, str, str], Tensor] = {}
    for point in points:
        h = torch.cat(seen[point])
        variants = {"none": (h, measures)}
        if hook_points(model)[point].kind == "norm":
            gain = model.get_submodule(point.rpartition(".")[0]).get_parameter("gain").detach().float().cpu()
            rotated = h @ random_rotation(h.shape[-1], rotation_seed)
            variants |= {
                "gain": (h * gain, measures),
                "rotated": (rotated, (HEADLINE,)),
                "trimmed": (trim(h), (HEADLINE,)),
            }
        for control, (x, names) in variants.items():
            magnitudes = Magnitudes(x)
            found |= {(point, control, name): MEASURES[name].fn(magnitudes).float() for name in names}
    return Items(
        loss=-log_p.gather(-1, prompts[:, -1:])[:, 0],
        entropy=-torch.linalg.vecdot(log_p.exp(), log_p),
        logit_norm=(logits - logits.mean(-1, keepdim=True)).norm(dim=-1),
        measures=found,
        logits=logits,
    )
