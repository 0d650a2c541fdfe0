"""Networks that learn a picture by gradient descent: same architecture, same picture, and whatever inside the descent finds.

1. Many seeds are one network with a leading axis; no seed sees another: gradients are scaled, and weights cut, seed by seed.
2. Mean squared error of colours on all pixels or on a lattice of them, Adam on the gradient divided by its norm.
3. Sparse weights: after each step each matrix is cut to its largest entries by the project's own projection, at a density that falls by schedule.
4. AbsTopK: each layer but the last keeps its largest activations.

Source: Kumar et al. 2025 (steps 1 and 2; learning rate 3e-3, up to 100k steps). The learning rate's decay is ours: with it, a few thousand steps do. So are lattices, the
larger first layer and the pull into the range of colours: without the last one in ten networks ends in one colour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import cos, isqrt, pi, sqrt

import torch
from torch import Tensor

from circuits.fracture.images.network import Layer, Network
from circuits.fracture.images.units import rgb
from sparsetrain.kernels import ProjectionSpec, project_each_topk_, warm_start_state
from sparsetrain.sparsity import DensitySchedule, ScheduleConfig

Penalty = Callable[[Network, Sequence[Tensor]], Tensor]
"""Of the networks and the values of their layers on the pixels of a step (`Network.maps`, the outputs last): what is added to the errors, `[n_seeds]`."""


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """How a picture is learnt."""

    n_steps: int = 4000
    lr: float = 3e-3
    """At the start; falls to 0 by half a cosine."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    stride: int = 1
    """A step sees a lattice of pixels, so many apart in either direction, from another corner each time; 1: all of them, as the source."""
    gain: float = 1.0
    """Fresh weights of the first layer are so much larger: fine detail needs steep units, which descent alone is slow to find."""
    pull: float = 0.0
    """Weight of the squared distance of saturation and |value| from the range that colours are cut to: beyond it their error has no gradient, and a network that begins there stays."""
    density: float = 1.0
    """Nonzeros / entries of each matrix at the end, in (0, 1]; 1: dense."""
    n_nonzero: tuple[int, ...] = ()
    """Nonzeros of each matrix at the end, in place of a density; none given: as the density says."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    k: int | None = None
    """Activations that each layer but the last keeps of each input; None: all."""

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"n_steps: {self.n_steps}, expected at least 1")
        if not 0 < self.density <= 1:
            raise ValueError(f"density: {self.density:g}, expected above 0 and at most 1")
        if self.n_nonzero and (self.density < 1 or min(self.n_nonzero) < 1):
            raise ValueError(
                f"n_nonzero: {list(self.n_nonzero)} at density {self.density:g}, expected counts from 1 on and density 1"
            )
        if self.stride < 1:
            raise ValueError(f"stride: {self.stride}, expected at least 1")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: {self.warmup:g}, expected at least 0 and below 1")
        if self.gain <= 0 or self.pull < 0:
            raise ValueError(f"gain: {self.gain:g} and pull: {self.pull:g}, expected above 0 and at least 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Imitation:
    """What was learnt."""

    network: Network
    """Weights `[n_seeds, n_out, n_in]`."""
    loss: Tensor
    """Mean squared error of colours after the last step, `[n_seeds]`."""
    curve: Tensor
    """Before every step, `[n_steps, n_seeds]`."""


def beginning(like: Network, seeds: Sequence[int], k: int | None = None, gain: float = 1.0) -> Network:
    """Fresh weights for an architecture, `[n_seeds, n_out, n_in]` float32: Gaussian of variance 1 / n_in (the first layer's gain^2 / n_in), each seed from its own
    generator.

    Units are sorted by activation, which changes nothing but the time that a pass takes.
    """
    layers = [[] for _ in like.layers]
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for depth, (found, layer) in enumerate(zip(layers, like.layers, strict=True)):
            n_out, n_in = layer.weight.shape[-2:]
            scale = (1.0 if depth else gain) / sqrt(n_in)
            found.append(scale * torch.randn(n_out, n_in, generator=generator))
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
    penalty: Penalty | None = None,
    on_step: Callable[[int], object] = lambda step: None,
    start: Network | None = None,
) -> Imitation:
    """Learns a picture with all seeds at once.

    Args:
        like: gives the architecture; its weights are not read.
        inputs: `[n_pixels, 4]`, row by row; computed in float32.
        picture: colours, `[n_pixels, 3]`.
        seeds: one network each.
        config: steps and sparsity.
        penalty: added to the errors; None: nothing is.
        on_step: called after each step with its number.
        start: the weights that learning starts from, `[n_seeds, n_out, n_in]`; None: fresh ones.

    Raises:
        ValueError: no seed, a picture of another number of pixels, a count of nonzeros for another number of matrices, or a lattice in a picture that is not square.
    """
    if not seeds:
        raise ValueError("seeds: none given, expected at least one")
    if picture.shape != (len(inputs), 3):
        raise ValueError(f"picture of shape {tuple(picture.shape)}: expected [{len(inputs)}, 3], a row per input")
    if config.n_nonzero and len(config.n_nonzero) != len(like.layers):
        raise ValueError(f"n_nonzero: {list(config.n_nonzero)}, expected {len(like.layers)} counts, one per matrix")
    x, target = inputs.float(), picture.float()
    lattices = _lattices(len(x), config.stride)
    order = torch.Generator().manual_seed(0)  # of lattices, the same for all seeds: a network's seed is its weights
    network = beginning(like, seeds, config.k, config.gain) if start is None else start
    network = Network(layers=tuple(replace(layer, weight=layer.weight.float().clone()) for layer in network.layers))
    weights = [layer.weight.requires_grad_() for layer in network.layers]
    adam = torch.optim.Adam(weights, lr=config.lr)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step, config))
    cut = _Cut(weights, config)
    curve = torch.empty(config.n_steps, len(seeds))
    for step in range(config.n_steps):
        if step % len(lattices) == 0:
            turns = torch.randperm(len(lattices), generator=order).tolist()
        rows = lattices[turns[step % len(lattices)]]
        maps = network.maps(x if rows is None else x[rows])
        loss = (rgb(maps[-1].mT) - (target if rows is None else target[rows])).square().mean((-1, -2))
        curve[step] = loss.detach()
        if config.pull:
            loss = loss + config.pull * _outside(maps[-1])
        if penalty is not None:
            loss = loss + penalty(network, maps)
        adam.zero_grad()
        loss.sum().backward()
        _normalise_(weights)
        adam.step()
        decay.step()
        cut(step + 1)
        on_step(step + 1)
    done = Network(layers=tuple(replace(layer, weight=layer.weight.detach()) for layer in network.layers))
    return Imitation(network=done, loss=errors(done, x, target), curve=curve)


class _Cut:
    """Cuts each seed's matrices to their largest entries."""

    def __init__(self, weights: Sequence[Tensor], config: ImitationConfig) -> None:
        counts = config.n_nonzero or [config.density * w[0].numel() for w in weights]
        self.schedules = [
            DensitySchedule(target=n / w[0].numel(), n_steps=config.n_steps, config=config.schedule)
            for n, w in zip(counts, weights, strict=True)
            for _ in w
        ]
        self.matrices = [matrix for weight in weights for matrix in weight.detach().unbind()]
        self.states = warm_start_state(len(self.matrices))
        self.wanted = config.density < 1 or bool(config.n_nonzero)

    def __call__(self, step: int) -> None:
        if self.wanted:
            wanted = zip(self.schedules, self.matrices, strict=True)
            specs = [ProjectionSpec(k=max(1, round(schedule.density(step) * m.numel()))) for schedule, m in wanted]
            project_each_topk_(self.matrices, specs, self.states)


def _rate(step: int, config: ImitationConfig) -> float:
    """Learning rate of a step as a share of the first."""
    rising = min(1.0, (step + 1) / (config.warmup * config.n_steps)) if config.warmup else 1.0
    return rising * (1 + cos(pi * step / config.n_steps)) / 2


def _lattices(n_pixels: int, stride: int) -> list[Tensor | None]:
    """Numbers of the pixels of every lattice, one per corner that it may start from; stride 1: all pixels."""
    if stride == 1:
        return [None]
    size = isqrt(n_pixels)
    if size * size != n_pixels or size % stride:
        raise ValueError(
            f"stride: {stride} in a picture of {n_pixels} pixels, expected one that divides the side of a square"
        )
    grid = torch.arange(n_pixels).view(size, size)
    return [grid[i::stride, j::stride].reshape(-1) for i in range(stride) for j in range(stride)]


def _outside(outputs: Tensor) -> Tensor:
    """Mean squared distance of saturation and |value| from what is shown of them, `[n_networks, 3, n_pixels] -> [n_networks]`."""
    saturation, value = outputs[..., 1, :], outputs[..., 2, :]
    return ((saturation - saturation.clamp(0, 1)).square() + (value.abs() - 1).clamp_min(0).square()).mean(-1)


def variation(maps: Sequence[Tensor]) -> Tensor:
    """Mean over units of the total variation of their maps on a square lattice of pixels, `[n_seeds]`: the remedy's penalty.

    Args:
        maps: of the layers, `[n_seeds, width, n_pixels]`, the outputs last; those do not count.

    Source: K. Xu 2026; scaled as `measures.total_variation`.
    """
    units = torch.cat(list(maps[:-1]), -2)
    size = isqrt(units.shape[-1])
    x = units.unflatten(-1, (size, size))
    up_and_down = x.diff(dim=-1).abs().sum(-1).mean(-1) + x.diff(dim=-2).abs().sum(-2).mean(-1)
    return up_and_down.mean(-1)


@torch.no_grad()
def _normalise_(weights: Sequence[Tensor]) -> None:
    """Each seed's gradient over all weights gets norm 1; a gradient of zero stays."""
    grads = [w.grad for w in weights if w.grad is not None]
    norms = sum((g.square().sum((-1, -2)) for g in grads), start=torch.zeros(len(grads[0]))).sqrt()
    for g in grads:
        g.div_(norms.clamp_min(torch.finfo(g.dtype).tiny)[:, None, None])


def apart(network: Network) -> list[Network]:
    """The networks of a batch, one by one, in float64."""

    def one(layer: Layer, i: int) -> Layer:
        basis = None if layer.basis is None else layer.basis[i].double()
        return replace(layer, weight=layer.weight[i].double(), basis=basis)

    n = len(network.layers[0].weight)
    return [Network(layers=tuple(one(layer, i) for layer in network.layers)) for i in range(n)]
