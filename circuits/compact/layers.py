"""What is left of attention and MLP in a compact circuit: kept reads, the channels they reach, kept writes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from circuits.compact.contest import Contest, contenders
from sparsetrain.kernels import abs_topk
from sparsetrain.model import MLP, Attention, RMSNorm

MIN_POSITIONS = 64
"""Tables of positions are made for a power of two at least this large, so that they do not depend on earlier prompts."""


class Read:
    """Norm and AbsTopK before a layer: kept reads from the carried channels.

    Args:
        kept: bool `[d_model]`, the kept reads.
        written: bool `[d_model]`, residual channels that kept nodes have written before.
    """

    def __init__(self, norm: RMSNorm, kept: Tensor, written: Tensor, k: int) -> None:
        self.norm, self.kept, self.k = norm, kept, k
        self.fixed = not bool(written.any())
        self.computed = kept | written
        self.gain = norm.gain.detach()
        self.columns = kept  # until the carried channels are known
        self.forget()

    def locate(self, carried: Tensor) -> None:
        self.columns = torch.searchsorted(carried, self.computed.nonzero().flatten())

    def forget(self) -> None:
        n_kept = int(self.kept.sum())
        self.reads = self.gain.new_empty(0, n_kept)  # [frame, n_kept], where nothing was written
        self.energy = self.gain.new_empty(0)  # [frame], sum of squares of the channels that are not computed
        self.contest: Contest | None = None

    def see(self, resid: Tensor) -> None:
        """Makes the tables of new frames from their residual stream `[frame, d_model]`."""
        if self.fixed:
            self.reads = torch.cat([self.reads, abs_topk(normed(resid, self.norm), self.k)[:, self.kept]])
            return
        self.energy = torch.cat([self.energy, resid.masked_fill(self.computed, 0).square().sum(-1)])
        if self.k < resid.shape[-1]:
            contest = Contest.of(resid * self.gain, self.computed, self.kept, self.k)
            self.contest = contest if self.contest is None else self.contest.joined(contest)

    def __call__(self, x: Tensor, frame: Tensor) -> Tensor:
        """Carried channels `[batch, pos, carried]` -> kept reads `[batch, pos, n_kept]`."""
        if self.fixed:
            return self.reads[frame]
        x = x.index_select(-1, self.columns)
        square = (self.energy[frame] + x.square().sum(-1)) / len(self.gain)
        scale = torch.rsqrt(square + self.norm.eps)[..., None]
        # The scale is common to the whole row, so it does not matter to AbsTopK.
        x = x * self.gain[self.computed]
        kept = x[..., self.kept[self.computed]] if self.contest is None else self.contest(x, frame)
        return kept * scale


class Narrow:
    """A linear layer with activation and AbsTopK, from the kept nodes it reads to those it becomes.

    Args:
        linear: `weight [width, n_source (+ d_pos)]`.
        source: kept sources, bool `[n_source]`, and what the others emit, `[n_source]`.
        kept: bool `[width]`.
        k: survivors of a whole row.
        places: concatenated positions `[n_ctx, d_pos]`, if the layer reads them.
    """

    def __init__(
        self,
        linear: nn.Linear,
        source: tuple[Tensor, Tensor],
        kept: Tensor,
        k: int,
        activation: Callable[[Tensor], Tensor] | None = None,
        places: Tensor | None = None,
    ) -> None:
        keep, mean = source
        weight = linear.weight.detach()
        weight, by_place = weight.split([len(keep), weight.shape[1] - len(keep)], dim=1)
        bias = F.linear(mean.masked_fill(keep, 0), weight, linear.bias)
        self.activation = activation
        self.computed, self.n_places, rows = kept, None, kept
        if k < len(kept):
            self.computed = kept | (weight[:, keep] != 0).any(1)
            if places is not None:
                self.computed = self.computed | ((by_place != 0) & (places != 0).any(0)).any(1)
            known = bias if activation is None else activation(bias)
            contends, self.n_places = contenders(known[None], self.computed, k)
            rows = self.computed | contends[0]
        self.weight, self.bias = weight[:, keep][rows], bias[rows]
        self.shift = None if places is None else places @ by_place[rows].T  # [n_ctx, n_row]
        self.slot = kept[rows].nonzero().flatten()

    def __call__(self, x: Tensor, place: Tensor) -> Tensor:
        """Kept sources `[..., n_in]` -> kept nodes `[..., n_kept]`; `place` (positions) broadcasts to `[...]`."""
        x = F.linear(x, self.weight, self.bias)
        if self.shift is not None:
            x = x + self.shift[place]
        if self.activation is not None:
            x = self.activation(x)
        if self.n_places is not None:
            x = abs_topk(x, self.n_places)
        return x.index_select(-1, self.slot)


class Part:
    """An attention or MLP: what it reads from the carried channels and what it adds to them.

    Args:
        keep: name of a hook point within the layer -> bool `[width]`.
        mean: the same -> float `[width]`.
        places: concatenated positions `[n_ctx, d_pos]`, if there are any.
    """

    def __init__(self, keep: dict[str, Tensor], mean: dict[str, Tensor], places: Tensor | None) -> None:
        self.keep, self.mean, self.places = keep, mean, places
        self.writes = self.computed = keep["out"]
        self.active = bool(self.writes.any())
        """Whether any kept node writes; if not, nothing here needs computing."""
        self.constant = mean["out"].masked_fill(self.writes, 0)
        self.narrow: dict[str, Narrow] = {}
        self.read: Read | None = None
        self._carried_constant, self._columns = self.constant, self.writes  # until the carried channels are known

    def narrow_(self, x: str, linear: nn.Linear, k: int, activation: Callable[[Tensor], Tensor] | None = None) -> None:
        """Compiles what stands between the reads and the nodes at hook point `x`, if any is kept."""
        if self.keep[x].any():
            source = (self.keep["in"], self.mean["in"])
            self.narrow[x] = Narrow(linear, source, self.keep[x], k, activation, self.places)

    def read_(self, norm: RMSNorm, written: Tensor, k: int) -> None:
        """Compiles the reads, if anything uses them; `written` are the channels that kept nodes have written before."""
        if self.narrow and self.keep["in"].any():
            self.read = Read(
                norm, self.keep["in"], written, min(k, len(written))
            )  # without AbsTopK k may count positions

    @property
    def reads(self) -> Tensor:
        """Residual channels that are read, bool `[d_model]`."""
        return torch.zeros_like(self.writes) if self.read is None else self.read.kept

    def locate(self, carried: Tensor) -> None:
        """Tells where the channels stand among the carried ones (sorted)."""
        self._carried_constant = self.constant[carried]
        self._columns = torch.searchsorted(carried, self.writes.nonzero().flatten())
        if self.read is not None:
            self.read.locate(carried)

    def seen(self, x: Tensor, frame: Tensor) -> Tensor:
        """Carried channels -> kept reads, `[batch, pos, n_kept]`."""
        return x.new_empty(*x.shape[:-1], 0) if self.read is None else self.read(x, frame)

    def add(self, x: Tensor, out: Tensor | None) -> Tensor:
        """Carried channels after this layer, which writes `out [batch, pos, n_kept]` (None: constants only)."""
        x = x + self._carried_constant
        return x if out is None else x.index_add_(-1, self._columns, out)

    def n_moving(self) -> dict[str, int]:
        """Channels computed at each hook point where any is."""
        read = {} if self.read is None else {"in": 0 if self.read.fixed else int(self.read.computed.sum())}
        out = {"out": int(self.computed.sum())} if self.active else {}
        return read | {x: int(narrow.computed.sum()) for x, narrow in self.narrow.items()} | out


class AttentionPart(Part):
    """Attention over the heads that hold kept nodes; the others' output is a table of positions.

    Args:
        keep: as in `Part`.
        mean: as in `Part`.
        places: as in `Part`.
        written: bool `[d_model]`, residual channels that kept nodes have written before.
    """

    def __init__(
        self, attn: Attention, keep: dict[str, Tensor], mean: dict[str, Tensor], written: Tensor, places: Tensor | None
    ) -> None:
        super().__init__(keep, mean, places)
        self.attend, self.W_o, self.n_head = attn.attend, attn.W_o, attn.n_head
        if not self.active:
            return
        by_head = [rearrange(keep[x], "(head d) -> head d", head=attn.n_head) for x in "qkv"]
        heads = torch.stack(by_head).any(0).any(-1)
        self.heads = heads.nonzero().flatten()
        """Heads with any kept q, k or v; the others' output is a function of the position."""
        inside = repeat(heads, "head -> (head d)", d=len(keep["q"]) // attn.n_head)
        # A deleted v channel emits mean x (1 - weight on the sink), which moves with q and k.
        self.moving = inside & (keep["v"] if attn.sink is None else keep["v"] | (mean["v"] != 0))
        self.z_columns = self.moving[inside].nonzero().flatten()
        self.base = {x: mean[x][inside] for x in "qkv"}
        self.slots = {x: keep[x][inside].nonzero().flatten() for x in "qkv"}
        self.sink = None if attn.sink is None else attn.sink.detach()
        for x, linear in (("q", attn.W_q), ("k", attn.W_k), ("v", attn.W_v)):
            self.narrow_(x, linear, attn.k[f"attn_{x}"])
        self.read_(attn.norm, written, attn.k["attn_in"])
        weight = attn.W_o.weight.detach()
        self.k_out = attn.k["attn_out"]
        if self.k_out < len(self.computed):
            self.computed = self.computed | (weight[:, self.moving] != 0).any(1)
        self.weight = weight[:, self.moving][self.computed]
        self.tables: dict[int, tuple[Tensor, Contest | None]] = {}
        """Number of positions -> W_o's share of what is constant, `[pos, n_computed]`, and AbsTopK of its output."""

    def mix(self, x: Tensor, frame: Tensor, place: Tensor) -> Tensor:
        """Carried channels -> moving channels of z, what W_o reads, `[batch, pos, n_moving]`."""
        if not self.narrow:
            return x.new_empty(*x.shape[:-1], 0)
        y = self.seen(x, frame)
        found = []
        for name in "qkv":
            t = self.base[name].expand(*x.shape[:-1], -1)
            if name in self.narrow:
                t = t.index_copy(-1, self.slots[name], self.narrow[name](y, place))
            found.append(t)
        return self._attend(found, self.heads).index_select(-1, self.z_columns)

    def _attend(self, qkv: list[Tensor], heads: Tensor) -> Tensor:
        """The model's attention over some of its heads, `[batch, pos, (head d)]` three times -> once."""
        q, k, v = (rearrange(t, "batch pos (head d) -> batch head pos d", head=len(heads)) for t in qkv)
        z = self.attend(q, k, v, None if self.sink is None else self.sink[heads])
        return rearrange(z, "batch head pos d -> batch pos (head d)")

    def out(self, z: Tensor, place: Tensor, n_pos: int) -> Tensor:
        """Moving channels of z -> kept writes, `[batch, pos, n_kept]`; the prompts have `n_pos` positions."""
        size = max(MIN_POSITIONS, 1 << (n_pos - 1).bit_length())
        if size not in self.tables:
            self.tables[size] = self._see_places(size)
        bias, contest = self.tables[size]
        x = F.linear(z, self.weight) + bias[place]
        return x if contest is None else contest(x, place)

    def _see_places(self, n: int) -> tuple[Tensor, Contest | None]:
        """What W_o gives at each of n positions where only constants are read, and the contest with it."""
        qkv = [self.mean[x].expand(1, n, -1) for x in "qkv"]
        z = self._attend(qkv, torch.arange(self.n_head, device=self.weight.device))[0]
        known = self.W_o(z.masked_fill(self.moving, 0))
        contest = None
        if self.k_out < len(self.computed):
            contest = Contest.of(known, self.computed, self.keep["out"], self.k_out)
        return known[:, self.computed], contest


class MLPPart(Part):
    """An MLP from kept reads to kept writes; arguments as for `AttentionPart`."""

    def __init__(
        self, mlp: MLP, keep: dict[str, Tensor], mean: dict[str, Tensor], written: Tensor, places: Tensor | None
    ) -> None:
        super().__init__(keep, mean, places)
        if not self.active:
            return
        self.write = Narrow(mlp.W_out, (keep["neuron"], mean["neuron"]), keep["out"], mlp.k["mlp_out"])
        self.computed = self.write.computed
        self.narrow_("neuron", mlp.W_in, mlp.k["mlp_neuron"], mlp.activation)
        self.read_(mlp.norm, written, mlp.k["mlp_in"])

    def out(self, x: Tensor, frame: Tensor, place: Tensor) -> Tensor:
        """Carried channels -> kept writes, `[batch, pos, n_kept]`."""
        neurons = x.new_empty(*x.shape[:-1], 0)
        if "neuron" in self.narrow:
            neurons = self.narrow["neuron"](self.seen(x, frame), place)
        return self.write(neurons, place)


def normed(x: Tensor, norm: RMSNorm) -> Tensor:
    """RMSNorm without its hook points."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.gain
