"""Sparsity under controls: is what is seen a matter of gains, of the basis, of a few channels?

1. `none`: as it is; at a norm that is without its gain (before the norm every measure is the same, since it only scales).
   `gain`, at norms alone: with the gain, what the next layer reads. `rotated`: in a random orthonormal basis, where Gini
   goes to .414 if the effect is in the basis. `trimmed`: without the 1% of channels that carry most energy over all items.
2. `projections_of` makes of the controls other looks at a model's hook points, for `measure_splits`.
3. `read_items` reads single prompts at their last position, where the answer is predicted, at norms under all controls.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain.hooks import hook_points, record
from sparsetrain.representation.evaluate import Projection, evaluating
from sparsetrain.representation.measures import HEADLINE, MEASURES, Magnitudes

Look = Literal["gain", "rotated", "trimmed"]
LOOKS: tuple[Look, ...] = get_args(Look)

CONTROLS = ("none", *LOOKS)
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


def quiet_channels(energy: Tensor) -> Tensor:
    """Channels that are left without those that carry most energy: `[width] -> [width - max(1, 1%)]` int64, ascending."""
    n_left_out = max(1, round(TRIMMED * len(energy)))
    return energy.argsort()[: len(energy) - n_left_out].sort().values


def trim(h: Tensor) -> Tensor:
    """Leaves out the channels that carry most energy over all items: `[n, width] -> [n, width - max(1, 1%)]`."""
    return h[:, quiet_channels(h.square().sum(0))]


def gain_of(model: nn.Module, point: str) -> Tensor | None:
    """The gain of the norm that a hook point of kind `norm` stands in, `[width]`; None: it has none."""
    if hasattr(model, "norm_gain"):  # other people's models say it themselves
        return model.norm_gain(point)  # pyright: ignore[reportCallIssue]
    gain = getattr(model.get_submodule(point.rpartition(".")[0]), "gain", None)
    return gain.detach() if isinstance(gain, Tensor) else None


def projections_of(
    model: nn.Module, looks: Sequence[Look], energy: Mapping[str, np.ndarray], rotation_seed: int
) -> tuple[dict[str, list[Projection]], dict[Look, dict[str, str]]]:
    """What `measure_splits` has to look at for the controls, all in one pass.

    Args:
        model: has the hook points that `energy` names.
        looks: which controls; each is there only at hook points where it is defined.
        energy: hook point -> `[width]`, sum of h^2 of each channel over all items (`Evaluation.energy`).
        rotation_seed: of the random basis, one for each width.

    Returns:
        Hook point -> projections, and control -> label -> hook point.
    """
    kinds = {name: point.kind for name, point in hook_points(model).items()}
    rotations = {len(e): random_rotation(len(e), rotation_seed) for e in energy.values()} if "rotated" in looks else {}
    found: dict[str, list[Projection]] = {}
    labels: dict[Look, dict[str, str]] = {}

    def add(look: Look, point: str, apply: Callable[[Tensor], Tensor], width: int) -> None:
        label = f"{point}, {look}"
        found.setdefault(point, []).append(Projection(label=label, width=width, apply=apply))
        labels.setdefault(look, {})[label] = point

    for name, of_channels in energy.items():
        width = len(of_channels)
        gain = gain_of(model, name) if "gain" in looks and kinds[name] == "norm" else None
        if gain is not None:
            add("gain", name, lambda h, gain=gain: h * gain.to(h), width)
        if "rotated" in looks:
            add("rotated", name, lambda h, basis=rotations[width]: h.float() @ basis.to(h.device), width)
        if "trimmed" in looks and width > 2:
            kept = quiet_channels(torch.from_numpy(of_channels))
            add("trimmed", name, lambda h, kept=kept: h[..., kept.to(h.device)], len(kept))
    return found, labels


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
            gain = gain_of(model, point)
            assert gain is not None, point
            rotated = h @ random_rotation(h.shape[-1], rotation_seed)
            variants |= {
                "gain": (h * gain.float().cpu(), measures),
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
