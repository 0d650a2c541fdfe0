"""Dead units: neurons and attention channels that compute nothing of the text, and residual channels that nobody writes or reads.

A *unit* is a channel of a hook point `attn_q`, `attn_k`, `attn_v` or `mlp_neuron`. Its incoming weights are a row of W_q, W_k, W_v or W_in
(concatenated positions are read there too); its outgoing ones are a column of W_o or W_out. Channels of q and k have incoming ones only: what
they meet is each other. A unit is counted as
1. *without incoming*: no nonzero weight. Biases count separately: of these, *only bias* ones have a nonzero bias and send that;
2. *without outgoing*: no nonzero weight, so that nobody hears it;
3. *never active*: zero on every token of a text, after AbsTopK;
4. *constant*: not zero, but the same on every token of a text, after AbsTopK. It still does what a bias does;
5. *dead*: any of these.

Zero means zero where an activation can be zero (ReLU, and AbsTopK and empty rows anywhere). GELU never is, so a neuron of another function than
ReLU counts as never active where no token moves it farther from zero than `TOLERANCE` times a scale, and as constant where no two tokens are
farther apart. The scale is that of its fellows, the root mean square over all neurons of the layer and all tokens: leaving such a neuron out, or
setting it to its mean, changes the layer's energy by less than 1e-6 of a neuron's share. It is at least GELU's own depth (.17), for a layer whose
neurons are all shut: the tolerance then is what GELU gives at -3.9, where it passes on less than a thousandth of a gradient.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsetrain.hooks import HookFn, HookPoint, NodeId, hook_points, hooked

UNIT_KINDS = ("attn_q", "attn_k", "attn_v", "mlp_neuron")
"""Kinds of hook points whose channels are units."""

TOLERANCE = 1e-3
"""Of the scale of a layer's neurons: nearer to zero a neuron that is never exactly zero counts as zero. ours"""

GELU_DEPTH = 0.17
"""How far GELU goes below zero."""

INCOMING = {
    "attn_q": "attn.W_q", "attn_k": "attn.W_k", "attn_v": "attn.W_v", "mlp_neuron": "mlp.W_in",
}  # fmt: skip
"""Kind of unit -> the matrix of a block whose rows are the incoming weights."""

OUTGOING = {"attn_v": "attn.W_o", "mlp_neuron": "mlp.W_out"}
"""Kind of unit -> the matrix of a block whose columns are the outgoing weights."""


@dataclass(frozen=True, kw_only=True)
class UnitMasks:
    """Which channels of a hook point are what, each bool `[width]`; see the module's docstring."""

    without_incoming: Tensor
    only_bias: Tensor
    without_outgoing: Tensor
    never_active: Tensor | None
    """None: no text was given."""
    constant: Tensor | None
    """None: no text was given."""

    @property
    def dead(self) -> Tensor:
        """Any of these."""
        found = self.without_incoming | self.without_outgoing
        for mask in (self.never_active, self.constant):
            found = found if mask is None else found | mask
        return found

    def counts(self) -> "UnitCounts":
        """How many."""
        return UnitCounts(
            n_units=self.dead.numel(),
            dead=int(self.dead.sum()),
            without_incoming=int(self.without_incoming.sum()),
            only_bias=int(self.only_bias.sum()),
            without_outgoing=int(self.without_outgoing.sum()),
            never_active=None if self.never_active is None else int(self.never_active.sum()),
            constant=None if self.constant is None else int(self.constant.sum()),
        )


@dataclass(frozen=True, kw_only=True)
class UnitCounts:
    """Units of a hook point, or of a model."""

    n_units: int
    dead: int
    """Units that any of the following is true of; one unit may be counted in several."""
    without_incoming: int
    """No nonzero incoming weight."""
    only_bias: int
    """Of those without incoming weights: a bias is all that moves them."""
    without_outgoing: int
    """No nonzero outgoing weight; channels of q and k have none to count."""
    never_active: int | None
    """Zero on every token of a text; None: no text was given."""
    constant: int | None
    """The same on every token of a text, but not zero; None: no text was given."""

    @property
    def dead_share(self) -> float:
        """Dead units / units."""
        return self.dead / self.n_units

    def __add__(self, other: "UnitCounts") -> "UnitCounts":
        return UnitCounts(
            n_units=self.n_units + other.n_units,
            dead=self.dead + other.dead,
            without_incoming=self.without_incoming + other.without_incoming,
            only_bias=self.only_bias + other.only_bias,
            without_outgoing=self.without_outgoing + other.without_outgoing,
            never_active=_sum(self.never_active, other.never_active),
            constant=_sum(self.constant, other.constant),
        )


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


@dataclass(frozen=True, kw_only=True)
class ResidualCounts:
    """Channels of the residual stream. That every norm reads the size of all of them is left out."""

    n_channels: int
    unwritten: int
    """No nonzero weight of the embedding, of added positions or of an output projection writes them."""
    only_bias: int
    """Of the unwritten ones: a bias of an output projection writes them, so that they are constant before the norm."""
    unread: int
    """No nonzero weight of a block or of the unembedding reads them."""


@dataclass(frozen=True, kw_only=True)
class DeadUnits:
    """Dead units of a model."""

    points: Mapping[str, UnitCounts]
    """By hook point, in forward order."""
    total: UnitCounts
    """Of all hook points."""
    residual: ResidualCounts
    n_tokens: int | None
    """Tokens that activity was judged on; None: no text was given."""

    def by_kind(self) -> dict[str, UnitCounts]:
        """Sums over layers, by kind of hook point in forward order."""
        sums: dict[str, UnitCounts] = {}
        for name, counts in self.points.items():
            kind = NodeId(name, 0).kind
            sums[kind] = sums[kind] + counts if kind in sums else counts
        return sums


def dead_units(model: nn.Module, batches: Iterable[Tensor] | None = None) -> DeadUnits:
    """Counts dead units; leaves the model as it is and draws no random number.

    Args:
        model: a transformer of ours, its tensors whole.
        batches: tokens `[batch, pos]` (int64) that activity is judged on; None: weights alone are looked at.

    Raises:
        ValueError: a model without the weights of ours, or batches without a token.
    """
    seen = None if batches is None else list(batches)
    counts = {name: masks.counts() for name, masks in unit_masks(model, seen).items()}
    first, *rest = counts.values()
    return DeadUnits(
        points=counts,
        total=sum(rest, start=first),
        residual=residual_counts(model),
        n_tokens=None if seen is None else sum(tokens.numel() for tokens in seen),
    )


@torch.no_grad()
def unit_masks(model: nn.Module, batches: Iterable[Tensor] | None = None) -> dict[str, UnitMasks]:
    """Which units are dead, and in what way, by hook point in forward order; see `dead_units`."""
    points = unit_points(model)
    weights = dict(model.named_parameters())
    activity = {} if batches is None else measure_activity(model, points, batches)
    masks: dict[str, UnitMasks] = {}
    for name, point in points.items():
        block = block_of(name)
        incoming = f"{block}.{INCOMING[point.kind]}"
        without_incoming = ~weights[f"{incoming}.weight"].any(1)
        bias = weights.get(f"{incoming}.bias")
        out = weights[f"{block}.{OUTGOING[point.kind]}.weight"] if point.kind in OUTGOING else None
        none = torch.zeros_like(without_incoming)
        seen = activity.get(name)
        masks[name] = UnitMasks(
            without_incoming=without_incoming,
            only_bias=none if bias is None else without_incoming & bias.bool(),
            without_outgoing=none if out is None else ~out.any(0),
            never_active=None if seen is None else seen.never_active,
            constant=None if seen is None else seen.constant,
        )
    return masks


def unit_points(model: nn.Module) -> dict[str, HookPoint]:
    """The hook points whose channels are units, by name in forward order.

    Raises:
        ValueError: a model without the weights of ours.
    """
    weights = dict(model.named_parameters())
    points = {name: point for name, point in hook_points(model).items() if point.kind in UNIT_KINDS}
    missing = [name for name, p in points.items() if f"{block_of(name)}.{INCOMING[p.kind]}.weight" not in weights]
    if not points or missing:
        raise ValueError(
            f"{type(model).__name__} has no weights that belong to {missing or 'neurons and attention channels'}; "
            f"dead units are counted in models of sparsetrain.model"
        )
    return points


def block_of(point: str) -> str:
    """The block of a hook point: `blocks.0` of `blocks.0.mlp.hook_neuron`."""
    return point.rsplit(".", 2)[0]


@dataclass(kw_only=True)
class Activity:
    """Range of each channel over a text, and the size of them all."""

    exact: bool
    """Whether zero and equal are meant literally."""
    low: Tensor
    """`[width]`."""
    high: Tensor
    """`[width]`."""
    square: float = 0.0
    n: int = 0

    @property
    def tolerance(self) -> float:
        """What is no farther from zero counts as zero."""
        return 0.0 if self.exact else TOLERANCE * max(GELU_DEPTH, (self.square / self.n) ** 0.5)

    @property
    def never_active(self) -> Tensor:
        """Channels that are zero on every token, bool `[width]`."""
        return torch.maximum(self.low.abs(), self.high.abs()) <= self.tolerance

    @property
    def constant(self) -> Tensor:
        """Channels that are the same on every token, but not zero, bool `[width]`."""
        return (self.high - self.low <= self.tolerance) & ~self.never_active


def measure_activity(
    model: nn.Module, points: Mapping[str, HookPoint], batches: Iterable[Tensor]
) -> dict[str, Activity]:
    """Ranges of the channels of hook points over a text.

    Raises:
        ValueError: batches without a token.
    """
    device = next(model.parameters()).device
    seen: dict[str, Activity] = {}

    def widen(x: Tensor, point: HookPoint) -> Tensor:
        rows = x.detach().flatten(0, -2)
        low, high = rows.aminmax(dim=0)
        if point.name not in seen:
            seen[point.name] = Activity(exact=has_exact_zeros(model, point), low=low, high=high)
        of = seen[point.name]
        of.low, of.high = torch.minimum(of.low, low), torch.maximum(of.high, high)
        of.square += float(rows.float().square().sum())
        of.n += rows.numel()
        return x

    functions: dict[str, HookFn] = dict.fromkeys(points, widen)
    with torch.no_grad(), hooked(model, functions):
        for tokens in batches:
            if tokens.numel():
                model(tokens.to(device))
    if not seen:
        raise ValueError("activity is judged on at least one token, the batches have none")
    return seen


def has_exact_zeros(model: nn.Module, point: HookPoint) -> bool:
    """Whether channels of a hook point that are off are exactly zero: all but neurons of another function than ReLU."""
    return point.kind != "mlp_neuron" or model.get_submodule(f"{block_of(point.name)}.mlp").activation is F.relu


@torch.no_grad()
def residual_counts(model: nn.Module) -> ResidualCounts:
    """Channels of the residual stream that nobody writes or nobody reads."""
    weights = dict(model.named_parameters())
    embed = weights["embed.weight"]
    n = embed.shape[1]
    written, read = embed.any(0), weights["unembed.weight"].any(0)
    by_bias = torch.zeros_like(written)
    positions = weights.get("positions")
    if positions is not None and weights["blocks.0.attn.W_q.weight"].shape[1] == n:  # added, not concatenated
        written = written | positions.any(0)
    for name, weight in weights.items():
        path, _, part = name.rpartition(".")
        if path.endswith(tuple(OUTGOING.values())):
            if part == "weight":
                written = written | weight.any(1)
            else:
                by_bias = by_bias | weight.bool()
        elif path.endswith(tuple(INCOMING.values())) and part == "weight":
            read = read | weight[:, :n].any(0)
    return ResidualCounts(
        n_channels=n,
        unwritten=int((~written).sum()),
        only_bias=int((~written & by_bias).sum()),
        unread=int((~read).sum()),
    )
