"""The number of active channels: measured on an untouched model, and set by hand through hooks.

1. Measured: `n_active`, the smallest number of channels that carry a share of the energy (a number that AbsTopK can be given), and the
   participation ratio (a number that a temperature can be given).
2. Set: `keep_largest` is AbsTopK, `keep_random` its control, `set_participation` a temperature on |h|, chosen per vector. AbsTopK only
   ever takes channels away; the temperature also makes a vector denser than it is.
3. An item is one prompt; everything happens at its last position, where the answer is predicted. `answer` runs the model with
   such functions attached.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sparsetrain.hooks import HookFn, HookPoint, hooked
from sparsetrain.kernels import abs_topk
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.stats.exact import exact

Setting = Callable[[Tensor], Tensor]
"""`[n, width] -> [n, width]`: activations with another number of active channels."""

LOG2_EXPONENTS = (-12.0, 12.0, 32.0)
"""Exponents of a temperature lie within 2^-12 and 2^12, or up to 2^32 where the largest entries are almost equal: enough to tell
neighbouring float32 numbers apart."""


def n_active(h: Tensor, energy: float) -> Tensor:
    """The smallest number of channels whose squares sum to at least `energy` of the whole.

    Args:
        h: `[..., width]`.
        energy: share in (0, 1].

    Returns:
        `[...]` int64, 1 to width; 1 for a zero vector.
    """
    squares = exact(h).square().sort(-1, descending=True).values.cumsum(-1)
    enough = energy * squares[..., -1:] * (1 - 1e-12)
    return 1 + (squares < enough).sum(-1).to(h.device)


def keep_largest(k: int) -> Setting:
    """AbsTopK: the k largest magnitudes of each vector stay."""
    return lambda h: abs_topk(h, min(k, h.shape[-1]))


def keep_random(k: int, seed: int) -> Setting:
    """k channels of each vector stay, drawn anew for each; those drawn for k are among those drawn for k + 1."""

    def keep(h: Tensor) -> Tensor:
        order = torch.rand(h.shape, generator=torch.Generator().manual_seed(seed)).argsort(-1).argsort(-1)
        return torch.where((order < k).to(h.device), h, 0)

    return keep


def set_participation(target: float) -> Setting:
    """A temperature: sign(h) |h|^g at the norm of h, with g such that the participation ratio is `target`.

    The ratio falls with g, so that g is found by bisection, for each vector its own. Zeros stay zero, and equal entries equal: a
    vector's ratio lies between the number of its entries that are as large as its largest and that of those that are not zero,
    and a target out of this range becomes the nearer end.

    Args:
        target: (sum h^2)^2 / sum h^4, in [1, width].
    """

    def change(h: Tensor) -> Tensor:
        signed = exact(h)
        magnitudes = signed.abs()
        logs = magnitudes.log()

        def shares(log2_exponent: Tensor) -> Tensor:
            return (2 * torch.exp2(log2_exponent) * logs).softmax(-1)

        def too_dense(log2_exponent: Tensor) -> Tensor:
            return 1 / shares(log2_exponent).square().sum(-1, keepdim=True) > target

        least, most, at_most = (torch.full_like(logs[..., :1], exponent) for exponent in LOG2_EXPONENTS)
        farther = too_dense(most)
        lo, hi = torch.where(farther, most, least), torch.where(farther, at_most, most)
        for _ in range(50):
            middle = (lo + hi) / 2
            dense = too_dense(middle)
            lo, hi = torch.where(dense, middle, lo), torch.where(dense, hi, middle)
        changed = signed.sign() * shares((lo + hi) / 2).sqrt() * magnitudes.norm(dim=-1, keepdim=True)
        return torch.where((magnitudes > 0).any(-1, keepdim=True), changed, 0.0).to(h)

    return change


def at_last(setting: Setting) -> HookFn:
    """A hook function that sets the last position and leaves the others."""

    def fn(x: Tensor, point: HookPoint) -> Tensor:
        return torch.cat([x[:, :-1], setting(x[:, -1])[:, None]], dim=1)

    return fn


def answer(model: nn.Module, prompts: Tensor, settings: Mapping[str, Setting]) -> Tensor:
    """Logits of the answers with the number of active channels set at some hook points.

    Args:
        model: tokens `[batch, pos]` -> logits `[batch, pos, d_vocab]`; its hook points are used, its weights are not touched.
        prompts: `[n_items, length]` int64, the answer last.
        settings: hook point -> what is done there at the last position of each prompt.

    Returns:
        `[n_items, d_vocab]` float32 on the CPU.

    Raises:
        KeyError: a hook point that does not exist.
    """
    device = next(model.parameters()).device
    with evaluating(model), hooked(model, {name: at_last(setting) for name, setting in settings.items()}):
        return model(prompts[:, :-1].to(device))[:, -1].float().cpu()
