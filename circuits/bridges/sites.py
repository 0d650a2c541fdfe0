"""Sites: where the residual stream of a model can be read, and where a pass can be entered with another stream.

1. A site stands in front of every attention, every MLP and the unembedding: 2 n_layer + 1 of them.
2. The hook point in front of a norm sees the stream, but what it returns is read by that layer alone: the stream itself passes beside it. A
   pass is therefore entered at two hook points: the layer reads the given stream R, and what it adds to the stream h gets R - h on top, so
   that h + (out + R - h) = R + out goes on. At the unembedding nothing passes beside.
3. Each row of a batch may be entered at a site of its own, so one pass serves many crossings. What such a row computes before its site is
   wasted, and has no gradient.

It works on our models and on those of others whose hook points `sparsetrain.adapters` could verify.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsetrain.hooks import HookFn, HookPoint, hook_points, hooked


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place of the residual stream."""

    name: str
    """`0.attn`, `0.mlp`, ..., `unembed`: what reads it."""
    norm: str
    """Module path of the norm behind it."""
    out: str | None
    """Hook point of what the layer behind adds to the stream; None: the unembedding, which adds nothing."""
    width: int

    @property
    def resid(self) -> str:
        """Hook point of the stream."""
        return f"{self.norm}.hook_resid"

    @property
    def normed(self) -> str:
        """Hook point of what the layer reads, without the norm's gain."""
        return f"{self.norm}.hook_norm"

    @property
    def reads(self) -> str | None:
        """Hook point whose channels are the nodes that read here; None: the unembedding's are no nodes."""
        return None if self.out is None else f"{self.norm.removesuffix('.norm')}.hook_in"


def sites_of(model: nn.Module) -> tuple[Site, ...]:
    """All sites in forward order.

    Raises:
        ValueError: a model that lacks a hook point which a site needs; says which, and why where that is known.
    """
    points = hook_points(model)
    n_layer = 1 + max((int(name.split(".")[1]) for name in points if name.startswith("blocks.")), default=-1)
    places = [(f"{i}.{part}", f"blocks.{i}.{part}") for i in range(n_layer) for part in ("attn", "mlp")]
    wanted = [(name, f"{path}.norm", f"{path}.hook_out") for name, path in places]
    sites: list[Site] = []
    for name, norm, out in [*wanted, ("unembed", "final_norm", None)]:
        for point in (f"{norm}.hook_resid", out):
            if point is not None and point not in points:
                reasons: Mapping[str, str] = getattr(model, "left_out", {})
                why = next((said for key, said in reasons.items() if point.startswith(key)), "")
                raise ValueError(
                    f"{type(model).__name__} cannot be bridged: it has no hook point {point}{f' ({why})' if why else ''}; a bridge needs "
                    f"the residual stream before every attention, every MLP and the unembedding"
                )
        sites.append(Site(name=name, norm=norm, out=out, width=points[f"{norm}.hook_resid"].width))
    return tuple(sites)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """Streams with which the rows of a pass are entered."""

    values: Tensor
    """`[rows, pos, width]`."""
    at: Tensor
    """`[rows]` int64: number of the site where a row is entered; -1: the row stays the model's own."""


def run(
    model: nn.Module,
    sites: Sequence[Site],
    tokens: Tensor,
    *,
    entry: Entry | None = None,
    keep: Collection[int] = (),
) -> tuple[Tensor, dict[int, Tensor]]:
    """One pass of a model, entered where `entry` says.

    Args:
        model: maps tokens `[rows, pos]` to logits `[rows, pos, d_vocab]`.
        sites: its own.
        tokens: `[rows, pos]` int64.
        entry: None: a plain pass.
        keep: numbers of sites whose stream is wanted.

    Returns:
        The logits, and the stream at each wanted site as the pass uses it, `[rows, pos, width]` (part of the autograd graph).
    """
    hooks: dict[str, HookFn] = {}
    seen: dict[int, Tensor] = {}
    entered = set() if entry is None else {*entry.at.tolist()} - {-1}
    for i, site in enumerate(sites):
        if i not in entered and i not in keep:
            continue
        rows = None if entry is None or i not in entered else (entry.at == i)[:, None, None]
        added: dict[str, Tensor] = {}
        hooks[site.resid] = _entering(rows, entry, added, i if i in keep else None, seen)
        if rows is not None and site.out is not None:
            hooks[site.out] = _carrying(rows, added)
    with hooked(model, hooks):
        return model(tokens), seen


def _entering(
    rows: Tensor | None, entry: Entry | None, added: dict[str, Tensor], kept: int | None, seen: dict[int, Tensor]
) -> HookFn:
    """What a layer reads: the given stream in the rows that are entered here."""

    def read(x: Tensor, point: HookPoint) -> Tensor:
        if rows is not None and entry is not None:
            values = entry.values.to(x.dtype)
            added["difference"] = values - x
            x = torch.where(rows, values, x)
        if kept is not None:
            seen[kept] = x
        return x

    return read


def _carrying(rows: Tensor, added: Mapping[str, Tensor]) -> HookFn:
    """What a layer adds to the stream: in the rows that are entered in front of it, what makes the given stream of the old one too."""
    return lambda x, point: torch.where(rows, x + added["difference"].to(x.dtype), x)
