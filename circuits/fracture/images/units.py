"""What units of image networks compute, what they read of a pixel, and how three outputs become a colour.

Source: Kumar et al. 2025 (arXiv 2505.11581), after compositional pattern-producing networks (Stanley 2007). Inputs y, x, 1.4 sqrt(x^2 + y^2), 1; outputs hue,
saturation, value.
"""

from collections.abc import Callable

import torch
from torch import Tensor

INPUTS: tuple[str, ...] = ("y", "x", "d", "one")
OUTPUTS: tuple[str, ...] = ("hue", "saturation", "value")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": lambda x: 2 * torch.sigmoid(x) - 1,
    "gaussian": lambda x: 2 * torch.exp(-x.square()) - 1,
}


def check_activation(name: str) -> None:
    """Raises ValueError for a name that is not in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: expected one of {', '.join(ACTIVATIONS)}")


def pixels(size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Inputs of every pixel of a square picture, `[size * size, 4]`, row by row; x and y run over [-1, 1] and are exactly antisymmetric.

    y grows downwards, as rows do.
    """
    if size < 2:
        raise ValueError(f"size: {size}, expected at least 2 pixels")
    line = (2 * torch.arange(size, dtype=dtype) - (size - 1)) / (size - 1)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([y, x, 1.4 * (x.square() + y.square()).sqrt(), torch.ones_like(x)], dim=-1).reshape(-1, 4)


def rgb(outputs: Tensor) -> Tensor:
    """Colours of hue, saturation and value: hue in turns, any number; saturation cut to [0, 1]; value |v| cut to [0, 1].

    `[..., 3] -> [..., 3]` in [0, 1]. Differentiable wherever nothing is cut; channel n of red 5, green 3, blue 1 is v - v s max(0, min(k, 4 - k, 1)) with
    k = (n + 6 hue) mod 6.
    """
    hue, saturation, value = outputs[..., 0:1], outputs[..., 1:2].clamp(0, 1), outputs[..., 2:3].abs().clamp(0, 1)
    k = (torch.tensor([5, 3, 1], dtype=outputs.dtype, device=outputs.device) + 6 * hue) % 6
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def n_hues(colours: Tensor, least: float = 0.02) -> int:
    """How many of twelve hues, 30 degrees each and the first about red, hold a share of the pixels that have a colour: largest less smallest channel above 0.1.

    Args:
        colours: `[..., 3]` in [0, 1].
        least: share of those pixels that makes a hue count.
    """
    red, green, blue = colours.reshape(-1, 3).unbind(-1)
    top, chroma = colours.reshape(-1, 3).amax(-1), colours.reshape(-1, 3).amax(-1) - colours.reshape(-1, 3).amin(-1)
    seen = chroma > 0.1
    if not seen.any():
        return 0
    red, green, blue, top, chroma = (part[seen] for part in (red, green, blue, top, chroma))
    sixths = torch.where(
        top == red,
        (green - blue) / chroma,
        torch.where(top == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    counts = torch.bincount((2 * sixths).round().long() % 12, minlength=12)
    return int((counts >= least * len(top)).sum())
