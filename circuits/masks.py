"""Node masks: which channels of a model stay, for many runs at once.

1. A `NodeSpace` numbers the nodes of a model (the channels of its eight kinds of hook point) in forward order.
2. A mask holds one entry per node and run, for all prompts and positions. Runs are folded into the batch axis, run by
   run ("(run row) pos width"), so that one pass serves many seeds, tasks or candidates that never see each other.
3. A deleted node emits its ablation value (its mean, for a mean ablation): m x + (1 - m) value. Under a partial ablation it lets a
   share r of its deviation through: value + (m + (1 - m) r) (x - value), r = 0 the circuit, r = 1 the model.
4. Learned masks are m = step(tau) forwards and the derivative of sigmoid(tau / T) backwards; or, for comparison, drawn
   anew at every step from a hard-concrete distribution around tau.

The blend is a selection, not arithmetic: an all-ones mask is bitwise the plain model (not so under hard-concrete masks, which
mix while they learn).
Source: Gao et al. 2025, arXiv 2511.13653, section A.5; Louizos et al. 2018, arXiv 1712.01312, for hard-concrete masks.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from math import log
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from sparsetrain.hooks import HookFn, HookPoint, NodeId, node_points


@dataclass(frozen=True)
class NodeSpace:
    """The nodes of a model, numbered point by point in forward order.

    Args:
        names: hook point names.
        widths: channels of each.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "NodeSpace":
        """The space of a model's node hook points."""
        points = node_points(model)
        return cls(tuple(points), tuple(point.width for point in points.values()))

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of the first node of each hook point."""
        starts = [0]
        for width in self.widths[:-1]:
            starts.append(starts[-1] + width)
        return tuple(starts)

    @property
    def n_nodes(self) -> int:
        """All nodes."""
        return sum(self.widths)

    def slice(self, name: str) -> slice:
        """Where the channels of a hook point stand among the nodes."""
        point = self.names.index(name)
        return slice(self.starts[point], self.starts[point] + self.widths[point])

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """`[..., n_nodes]` -> hook point name -> `[..., width]` (views)."""
        return dict(zip(self.names, values.split(self.widths, dim=-1), strict=True))

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Inverse of `split`."""
        return torch.cat([values[name] for name in self.names], dim=-1)

    def id(self, number: int) -> str:
        """Number -> id, `blocks.0.mlp.hook_neuron:17`."""
        point, channel = self.place(number)
        return str(NodeId(self.names[point], channel))

    def place(self, number: int) -> tuple[int, int]:
        """Number -> index of its hook point, channel."""
        point = bisect_right(self.starts, number) - 1
        return point, number - self.starts[point]

    def number(self, node: NodeId | str) -> int:
        """Id -> number.

        Raises:
            ValueError: no such hook point (the near names are listed) or channel (the range is).
        """
        node = NodeId.parse(node) if isinstance(node, str) else node
        if node.point not in self.names:
            near = get_close_matches(node.point, self.names, n=3, cutoff=0.3) or list(self.names[:3])
            raise ValueError(
                f"no node {str(node)!r}: unknown hook point; near names: {', '.join(near)} (then ':channel')"
            )
        own = self.slice(node.point)
        if not 0 <= node.channel < own.stop - own.start:
            raise ValueError(f"no node {str(node)!r}: channels of {node.point} are 0 to {own.stop - own.start - 1}")
        return own.start + node.channel

    def nodes(self, keep: Tensor) -> dict[str, tuple[int, ...]]:
        """A mask `[n_nodes]` bool as hook point name -> sorted channels; points without nodes are left out."""
        parts = {name: part.nonzero().flatten().tolist() for name, part in self.split(keep.cpu()).items()}
        return {name: tuple(channels) for name, channels in parts.items() if channels}

    def tied(self, values: Tensor) -> Tensor:
        """`[..., n_nodes]` with the values of every query channel and its key channel replaced by their mean."""
        parts = self.split(values)
        for name in self.names:
            if name.endswith("hook_q"):
                key = name.removesuffix("q") + "k"
                parts[name] = parts[key] = (parts[name] + parts[key]) / 2
        return self.join(parts)

    def mask(self, nodes: Mapping[str, Sequence[int]]) -> Tensor:
        """Inverse of `nodes`: bool `[n_nodes]`."""
        keep = torch.zeros(self.n_nodes, dtype=torch.bool)
        for name, channels in nodes.items():
            for channel in channels:
                keep[self.number(NodeId(name, channel))] = True
        return keep


def ablation_hooks(
    space: NodeSpace,
    keep: Tensor,
    values: Tensor,
    channels: Mapping[str, Tensor] | None = None,
    alive: Tensor | None = None,
) -> dict[str, HookFn]:
    """Hooks that let kept nodes pass and put `values` in place of the others, or, where these stay alive in part, near them.

    Args:
        space: the model's nodes.
        keep: bool `[n_nodes]`, or `[n_runs, n_nodes]` with runs folded into the batch axis.
        values: `[n_nodes]`, one value per node.
        channels: of a narrowed model (`circuits.edges.narrowed`), what it still reads at some hook points.
        alive: r, float `[n_runs, n_nodes]` in [0, 1], the share of its deviation that a deleted node lets through; None: none. The
            hooks are differentiable in it.

    Returns:
        Hook point name -> function, for the points where any node is deleted or that are narrowed.
    """
    keep = keep[None] if keep.dim() == 1 else keep

    def blend(x: Tensor, mask: Tensor, value: Tensor, share: Tensor | None) -> Tensor:
        left = value if share is None else value + share[:, None, None].to(x.dtype) * (x - value)
        return torch.where(mask[:, None, None], x, left)

    hooks = _blending(space, keep, values, channels, alive, blend)
    whole = {name for name, mask in space.split(keep).items() if mask.all()} - set(channels or {})
    return {name: hook for name, hook in hooks.items() if name not in whole}


def _blending(
    space: NodeSpace,
    masks: Tensor,
    values: Tensor,
    channels: Mapping[str, Tensor] | None,
    alive: Tensor | None,
    blend: "Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]",
) -> dict[str, HookFn]:
    """A hook per hook point: reads its channels and blends x `[run, row, pos, width]`, mask and share `[run, width]`, value `[width]`."""

    def hook_of(mask: Tensor, value: Tensor, share: Tensor | None, read: Tensor | None) -> HookFn:
        if read is not None:
            mask, value = mask[:, read], value[read]
            share = None if share is None else share[:, read]

        def hook(x: Tensor, point: HookPoint) -> Tensor:
            x = x if read is None else x.index_select(-1, read)
            x = rearrange(x, "(run row) pos width -> run row pos width", run=len(mask))
            x = blend(x, mask, value.to(x.dtype), share)
            return rearrange(x, "run row pos width -> (run row) pos width")

        return hook

    parts, channels = space.split(values), channels or {}
    shares: Mapping[str, Tensor] = {} if alive is None else space.split(alive)
    return {
        name: hook_of(mask, parts[name], shares.get(name), channels.get(name))
        for name, mask in space.split(masks).items()
    }


class _StepMask(torch.autograd.Function):
    """where(tau > 0, x, mean + r (x - mean)), with d mask / d tau = derivative of sigmoid(tau / T)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor, mean: Tensor, share: Tensor | None, temperature: float) -> Tensor:
        # x: [run, row, pos, width]; tau, share: [run, width]; mean: [width]
        ctx.save_for_backward(x, tau, mean, share)
        ctx.temperature = temperature
        left = mean if share is None else mean + share[:, None, None] * (x - mean)
        return torch.where((tau > 0)[:, None, None], x, left)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (grad,) = grads
        x, tau, mean, share = ctx.saved_tensors
        grad_x = grad_tau = None
        if ctx.needs_input_grad[0]:
            passed = (tau > 0).to(grad.dtype)
            passed = passed if share is None else torch.maximum(passed, share.to(grad.dtype))
            grad_x = grad * passed[:, None, None]
        if ctx.needs_input_grad[1]:
            product = reduce(grad * x, "run row pos width -> run width", "sum")
            product = product - reduce(grad, "run row pos width -> run width", "sum") * mean
            product = product if share is None else product * (1 - share)
            grad_tau = product * step_derivative(tau, ctx.temperature)
        return grad_x, grad_tau, None, None, None


def step_derivative(tau: Tensor, temperature: float) -> Tensor:
    """The derivative that stands for that of step(tau): sigmoid'(tau / T) / T."""
    s = torch.sigmoid(tau / temperature)
    return s * (1 - s) / temperature


class NodeMasks:
    """Learned masks, one row per run.

    Args:
        space: the model's nodes.
        tau: float `[n_runs, n_nodes]` in [-1, 1]; a node is kept where tau > 0.
        temperature: T of the backward sigmoid.
    """

    def __init__(self, space: NodeSpace, tau: Tensor, temperature: float) -> None:
        assert tau.shape[1:] == (space.n_nodes,), tau.shape
        self.space = space
        self.tau = tau.clone().requires_grad_()
        self.temperature = temperature

    @staticmethod
    def init_tau(n_nodes: int, seed: int, *, mean: float = 0.1, std: float = 0.01) -> Tensor:
        """Start of one run: `[n_nodes]` from N(mean, std), clamped to [-1, 1] (paper A.5)."""
        generator = torch.Generator().manual_seed(seed)
        return (mean + std * torch.randn(n_nodes, generator=generator)).clamp(-1, 1)

    @property
    def keep(self) -> Tensor:
        """The masks as they act: bool `[n_runs, n_nodes]`."""
        return self.tau.detach() > 0

    def hooks(
        self, means: Tensor, channels: Mapping[str, Tensor] | None = None, alive: Tensor | None = None
    ) -> dict[str, HookFn]:
        """Hooks for one pass over `[(run row), pos]` tokens, forward and backward.

        Args:
            means: `[n_nodes]`, what deleted nodes emit.
            channels: of a narrowed model (`circuits.edges.narrowed`), what it still reads at some hook points.
            alive: see `ablation_hooks`; it takes no gradient here.
        """
        return _blending(self.space, self.values(), means, channels, alive, self.blend)

    def price_gradient(self) -> Tensor:
        """Gradient of the number of kept nodes by tau, `[n_runs, n_nodes]`."""
        return step_derivative(self.tau.detach(), self.temperature)

    def blend(self, x: Tensor, mask: Tensor, mean: Tensor, share: Tensor | None) -> Tensor:
        """What a hook point emits: x `[run, row, pos, width]`, mask `[run, width]` as `values` gives it, share likewise, mean `[width]`."""
        out = _StepMask.apply(x, mask, mean, share, self.temperature)
        assert isinstance(out, Tensor)
        return out

    def values(self) -> Tensor:
        """What `blend` gets of the masks, `[n_runs, n_nodes]`; called once per pass."""
        return self.tau

    def clamp_(self) -> None:
        """Puts tau back into [-1, 1]; to be called after every optimizer step."""
        with torch.no_grad():
            self.tau.clamp_(-1, 1)


class HardConcreteMasks(NodeMasks):
    """Masks drawn from a hard-concrete distribution: z = clip((zeta - gamma) s + gamma, 0, 1), s a relaxed coin.

    log alpha = `SLOPE` tau, so that tau > 0 still means "kept"; its price is the probability that z is not 0. A node at tau = -1
    is out for good. Each run draws from a generator of its own seed.
    Source: Louizos et al. 2018, sections 2.2 and 4 (beta 2/3, gamma -0.1, zeta 1.1).

    Args:
        space: the model's nodes.
        tau: float `[n_runs, n_nodes]` in [-1, 1].
        seeds: one per run.
    """

    BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
    SLOPE = 4.0  # ours: tau of 1 is a log alpha of 4

    def __init__(self, space: NodeSpace, tau: Tensor, seeds: Sequence[int]) -> None:
        super().__init__(space, tau, temperature=1.0)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def values(self) -> Tensor:
        """Freshly drawn z, `[n_runs, n_nodes]`."""
        n_nodes = self.space.n_nodes
        drawn = torch.stack([torch.rand(n_nodes, generator=generator) for generator in self.generators])
        u = drawn.clamp(1e-6, 1 - 1e-6).to(self.tau.device)
        s = torch.sigmoid((u.log() - (-u).log1p() + self.SLOPE * self.tau) / self.BETA)
        z = (s * (self.ZETA - self.GAMMA) + self.GAMMA).clamp(0, 1)
        return torch.where(self.tau > -1, z, 0.0)

    def blend(self, x: Tensor, mask: Tensor, mean: Tensor, share: Tensor | None) -> Tensor:
        """(z + (1 - z) r) x + the rest of the mean."""
        mask = mask if share is None else mask + (1 - mask) * share
        return mean + mask[:, None, None].to(x.dtype) * (x - mean)

    def price_gradient(self) -> Tensor:
        """Gradient of the expected number of nodes whose z is not 0 by tau."""
        shift = self.BETA * log(-self.GAMMA / self.ZETA)
        p = torch.sigmoid(self.SLOPE * self.tau.detach() - shift)
        return self.SLOPE * p * (1 - p)
