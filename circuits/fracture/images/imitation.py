"""Networks that learn a picture by gradient descent: same architecture, same picture, and whatever inside the descent finds.

1. Many seeds are one network with a leading axis; no seed sees another: gradients are scaled, and weights cut, seed by seed.
2. Full batch, mean squared error of colours, Adam on the gradient divided by its norm.
3. Sparse weights: after each step each matrix is cut to its largest entries by the project's own projection, at a density that falls by schedule.
4. AbsTopK: each layer but the last keeps its largest activations.

Source: Kumar et al. 2025 (steps 1 and 2; learning rate 3e-3, up to 100k steps). The learning rate's decay is ours: with it, a few thousand steps do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import cos, pi, sqrt

import torch
from torch import Tensor

from circuits.fracture.images.network import Layer, Network
from circuits.fracture.images.units import rgb
from sparsetrain.kernels import ProjectionSpec, project_each_topk_, warm_start_state
from sparsetrain.sparsity import DensitySchedule, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """How a picture is learnt."""

    n_steps: int = 4000
    lr: float = 3e-3
    """At the start; falls to 0 by half a cosine."""
    density: float = 1.0
    """Nonzeros / entries of each matrix at the end, in (0, 1]; 1: dense."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    k: int | None = None
    """Activations that each layer but the last keeps of each input; None: all."""

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"n_steps: {self.n_steps}, expected at least 1")
        if not 0 < self.density <= 1:
            raise ValueError(f"density: {self.density:g}, expected above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Imitation:
    """What was learnt."""

    network: Network
    """Weights `[n_seeds, n_out, n_in]`."""
    loss: Tensor
    """Mean squared error of colours after the last step, `[n_seeds]`."""
    curve: Tensor
    """Before every step, `[n_steps, n_seeds]`."""


def beginning(like: Network, seeds: Sequence[int], k: int | None = None) -> Network:
    """Fresh weights for an architecture, `[n_seeds, n_out, n_in]` float32: Gaussian of variance 1 / n_in, each seed from its own generator.

    Units are sorted by activation, which changes nothing but the time that a pass takes.
    """
    layers = [[] for _ in like.layers]
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for found, layer in zip(layers, like.layers, strict=True):
            n_out, n_in = layer.weight.shape[-2:]
            found.append(torch.randn(n_out, n_in, generator=generator) / sqrt(n_in))
    last = len(layers) - 1
    return Network(
        layers=tuple(
            Layer(
                weight=torch.stack(weights),
                activations=layer.activations if i == last else tuple(sorted(layer.activations)),
                k=None if i == last else k,
            )
            for i, (weights, layer) in enumerate(zip(layers, like.layers, strict=True))
        )
    )


def errors(network: Network, inputs: Tensor, picture: Tensor) -> Tensor:
    """Mean squared error of colours, `[n_networks]`.

    Args:
        network: weights `[n_networks, n_out, n_in]`.
        inputs: `[n_pixels, 4]`.
        picture: `[n_pixels, 3]` in [0, 1].
    """
    return (rgb(network.outputs(inputs)) - picture).square().mean((-1, -2))


def imitate(
    like: Network,
    inputs: Tensor,
    picture: Tensor,
    seeds: Sequence[int],
    config: ImitationConfig,
    penalty: Callable[[Network], Tensor] | None = None,
    on_step: Callable[[int], object] = lambda step: None,
) -> Imitation:
    """Learns a picture with all seeds at once.

    Args:
        like: gives the architecture; its weights are not read.
        inputs: `[n_pixels, 4]`; computed in float32.
        picture: colours, `[n_pixels, 3]`.
        seeds: one network each.
        config: steps and sparsity.
        penalty: added to the errors, `[n_seeds]`; None: nothing is.
        on_step: called after each step with its number.

    Raises:
        ValueError: no seed, or a picture of another number of pixels.
    """
    if not seeds:
        raise ValueError("seeds: none given, expected at least one")
    if picture.shape != (len(inputs), 3):
        raise ValueError(f"picture of shape {tuple(picture.shape)}: expected [{len(inputs)}, 3], a row per input")
    x, target = inputs.float(), picture.float()
    network = beginning(like, seeds, config.k)
    weights = [layer.weight.requires_grad_() for layer in network.layers]
    adam = torch.optim.Adam(weights, lr=config.lr)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: (1 + cos(pi * step / config.n_steps)) / 2)
    schedule = DensitySchedule(target=config.density, n_steps=config.n_steps, config=config.schedule)
    matrices = [matrix for weight in weights for matrix in weight.detach().unbind()]
    states = warm_start_state(len(matrices))
    curve = torch.empty(config.n_steps, len(seeds))
    for step in range(config.n_steps):
        loss = errors(network, x, target)
        curve[step] = loss.detach()
        if penalty is not None:
            loss = loss + penalty(network)
        adam.zero_grad()
        loss.sum().backward()
        _normalise_(weights)
        adam.step()
        decay.step()
        if config.density < 1:
            density = schedule.density(step + 1)
            project_each_topk_(
                matrices, [ProjectionSpec(k=max(1, round(density * m.numel()))) for m in matrices], states
            )
        on_step(step + 1)
    done = Network(layers=tuple(replace(layer, weight=layer.weight.detach()) for layer in network.layers))
    return Imitation(network=done, loss=errors(done, x, target), curve=curve)


@torch.no_grad()
def _normalise_(weights: Sequence[Tensor]) -> None:
    """Each seed's gradient over all weights gets norm 1; a gradient of zero stays."""
    grads = [w.grad for w in weights if w.grad is not None]
    norms = sum((g.square().sum((-1, -2)) for g in grads), start=torch.zeros(len(grads[0]))).sqrt()
    for g in grads:
        g.div_(norms.clamp_min(torch.finfo(g.dtype).tiny)[:, None, None])


def apart(network: Network) -> list[Network]:
    """The networks of a batch, one by one, in float64."""
    n = len(network.layers[0].weight)
    return [
        Network(layers=tuple(replace(layer, weight=layer.weight[i].double()) for layer in network.layers))
        for i in range(n)
    ]
