"""Compact circuits: a node circuit compiled to a small model of the channels that move.

The definition of a circuit's logits is the masked full model: `Transformer.forward` with every deleted node at its mean
(`circuits.masks.ablation_hooks`). This is its compiled form for a fixed mask; everything is derived from the
Transformer's own parameters, and `tests/unit/test_compact.py` holds the two equal for every option of the model.

1. A deleted write adds a constant to the residual stream; a deleted read, q, k, v or neuron folds into the next bias.
2. A residual channel that no kept node writes is a function of the token alone (and of the position, where positions are
   added), its *frame*. Its share of a norm's sum of squares is one number per frame and norm, computed when a frame is
   first seen. A norm before the first kept write is such a function as a whole.
3. Elsewhere a channel that no kept node reaches is constant: q, k, v, neurons, mlp_out; attn_out for each position, since
   a head without kept nodes still shares its weight between the tokens so far and the sink. With concatenated positions,
   whatever reads them is computed.
4. AbsTopK is exact though most of its row is never computed. Of m computed channels and the others, whose magnitudes are
   known beforehand, k survive: the k - m largest of the others whatever the computed ones do, those below rank k never.
   So at most m of them are left to compete with the m for the other places, ties still going to the lowest channel.
   Deleted channels that kept nodes reach are computed, since they compete, and then emit their mean.
5. After the last attention with a kept write only the asked positions are computed.

Logits equal the masked full model's within 1e-5 where logits are of order one (float32; sums are taken in another order),
and the same channels survive each AbsTopK except where rounding alone decides between two magnitudes: there the full model's
own choice hangs on the order of its sums. In a dense model nearly everything is reached: the result is right but not small.

One file: its parts (reads, layers, contests of AbsTopK) mean nothing without each other.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from circuits.masks import NodeSpace
from circuits.tasks.loss import answer_logits
from circuits.tasks.pairs import PairSet
from sparsetrain.kernels import abs_topk
from sparsetrain.kernels.magnitude import largest_mask, magnitude_keys
from sparsetrain.model import MLP, Attention, Block, RMSNorm, Transformer

MAX_FRAMES = 1 << 15
"""Frames remembered at most; beyond that those not in the current batch are forgotten."""

MIN_POSITIONS = 64
"""Tables of positions are made for a power of two at least this large, so that they do not depend on earlier prompts."""


class CompactCircuit:
    """A node circuit that runs without its model's constant parts. Made by `compile_circuit`.

    Some weights are copied, others (embedding, unembedding) are the model's: a model that is trained further, or changed by
    hand, must be compiled again. Hooks attached to the model are not seen. What was evaluated before changes the time, never
    the result.
    """

    def __init__(self, model: Transformer, keep: Tensor, means: Tensor) -> None:
        space = NodeSpace.of(model)
        kept, mean = space.split(keep), space.split(means)
        self.model = model
        self.parts: list[tuple[_AttentionPart, _MLPPart]] = []
        written = torch.zeros(model.config.d_model, dtype=torch.bool, device=means.device)
        read = written
        places = model.positions if model.config.positions == "concat" else None
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            name = f"blocks.{i}.attn.hook_"
            attn = _AttentionPart(block.attn, _layer(kept, name), _layer(mean, name), written, places)
            written, name = written | attn.writes, f"blocks.{i}.mlp.hook_"
            mlp = _MLPPart(block.mlp, _layer(kept, name), _layer(mean, name), written, places)
            written, read = written | mlp.writes, read | attn.reads | mlp.reads
            self.parts.append((attn, mlp))
        self.carried = (written | read).nonzero().flatten()
        """Residual channels that are followed through the layers, sorted."""
        for part in self._each_part():
            part.locate(self.carried)
        self._last_mixing = max((i for i, (attn, _) in enumerate(self.parts) if attn.active), default=-1)
        self._frames = torch.empty(0, dtype=torch.int64, device=means.device)  # sorted keys
        self._numbers = self._frames  # their numbers
        self.n_moving = dict.fromkeys(space.names, 0)
        """Hook point name -> channels computed there; 0 where nothing is."""
        for i, (attn, mlp) in enumerate(self.parts):
            self.n_moving |= {f"blocks.{i}.attn.hook_{x}": n for x, n in attn.n_moving().items()}
            self.n_moving |= {f"blocks.{i}.mlp.hook_{x}": n for x, n in mlp.n_moving().items()}

    def _each_part(self) -> Iterator["_Part"]:
        for parts in self.parts:
            yield from parts

    @torch.no_grad()
    def logits(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Logits of the masked full model.

        Args:
            tokens: `[batch, pos]` int64.
            at: `[batch]` int64, the position asked for in each row; None for all.

        Returns:
            `[batch, pos, d_vocab]` float32, or `[batch, d_vocab]` with `at`.

        Raises:
            ValueError: more positions than n_ctx in a model with positions.
        """
        normed, tokens = self._final(tokens, at)
        logits = self.model.unembed(normed)
        if self.model.bigram is not None:
            logits = logits + self.model.bigram(tokens)
        return logits if at is None else logits[:, 0]

    @torch.no_grad()
    def answers(self, pairs: PairSet, batch_size: int = 64) -> Tensor:
        """Uncalibrated answer logits of a pair set, `[n, side, answer]` float32 on the CPU, as
        `circuits.circuit.pair_answers` gives them for the masked full model.

        Args:
            batch_size: pairs per pass.
        """
        device = self.carried.device
        parts = []
        columns = (part.split(batch_size) for part in (pairs.tokens, pairs.last, pairs.answers))
        for tokens, last, answers in zip(*columns, strict=True):
            rows = tokens[..., : int(last.max()) + 1].flatten(0, 1).to(device)
            at, answers = last.flatten().to(device), answers.to(device)
            if bool((answers < 0).any()):  # the rest of the vocabulary is asked for
                found = answer_logits(self.logits(rows, at).unflatten(0, (-1, 2)), answers)
            else:
                found = self._two_logits(rows, at, answers)
            parts.append(found.cpu())
        return torch.cat(parts)

    def _two_logits(self, tokens: Tensor, at: Tensor, answers: Tensor) -> Tensor:
        """Logits of two vocabulary entries per pair, `[n, side, answer]`; `tokens` is `[(n side), pos]`."""
        normed, tokens = self._final(tokens, at)
        normed = rearrange(normed, "(n side) 1 d -> n side d", side=2)
        found = einsum(normed, self.model.unembed.weight[answers], "n side d, n answer d -> n side answer")
        if self.model.unembed.bias is not None:
            found = found + self.model.unembed.bias[answers][:, None]
        if self.model.bigram is not None:
            current = rearrange(tokens, "(n side) 1 -> n side 1", side=2)
            found = found + self.model.bigram.weight[current, answers[:, None]]
        return found

    def _final(self, tokens: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the unembedding reads, `[batch, pos, d_model]`, and the tokens there; one position with `at`."""
        n_pos, n_ctx = tokens.shape[1], self.model.config.n_ctx
        if self.model.positions is not None and n_pos > n_ctx:
            raise ValueError(f"{n_pos} positions, but model.n_ctx={n_ctx}; shorten the input")

        def only_asked(*tensors: Tensor) -> tuple[Tensor, ...]:
            if at is None:
                return tensors
            rows = torch.arange(len(at), device=at.device)
            return tuple(t[rows, at, None] for t in tensors)

        place = torch.arange(n_pos, device=tokens.device)[None]  # broadcasts to [batch, pos]
        asked = place if at is None else at[:, None]
        frame, x = self._number(tokens, place), self._unmoved(tokens, place, self.carried)
        if self._last_mixing < 0:
            (x, frame, tokens), place = only_asked(x, frame, tokens), asked
        for i, (attn, mlp) in enumerate(self.parts):
            z = attn.mix(x, frame, place) if attn.active else None
            if i == self._last_mixing:
                assert z is not None
                (z, x, frame, tokens), place = only_asked(z, x, frame, tokens), asked
            x = attn.add(x, None if z is None else attn.out(z, place, n_pos))
            x = mlp.add(x, mlp.out(x, frame, place) if mlp.active else None)
        resid = self._unmoved(tokens, place)
        for part in self._each_part():
            resid = resid + part.constant
        resid[..., self.carried] = x
        return _normed(resid, self.model.final_norm), tokens

    def _unmoved(self, tokens: Tensor, place: Tensor, channels: Tensor | None = None) -> Tensor:
        """The residual stream before any block, `[..., d_model]`, or some of its channels."""

        def rows(table: Tensor, index: Tensor) -> Tensor:
            return table[index] if channels is None else table[index[..., None], channels]

        resid = rows(self.model.embed.weight, tokens)
        if self.model.config.positions == "learned":
            assert self.model.positions is not None
            resid = resid + rows(self.model.positions, place)
        return resid

    def _number(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Numbers of the frames of all positions, `[batch, pos]`; tables are made for those that are new."""
        n_places = self.model.config.n_ctx if self.model.config.positions == "learned" else 1
        keys = (tokens * n_places + (place if n_places > 1 else 0)).contiguous()
        new = keys[~torch.isin(keys, self._frames)].unique()
        if len(self._frames) + len(new) > MAX_FRAMES:
            new, self._frames, self._numbers = keys.unique(), self._frames[:0], self._numbers[:0]
            for part in self._each_part():
                part.forget()
        if len(new):
            resid = self._unmoved(new // n_places, new % n_places)
            for part in self._each_part():
                part.see(resid)
                resid = resid + part.constant
            numbers = torch.arange(len(self._frames), len(self._frames) + len(new), device=new.device)
            self._frames, order = torch.cat([self._frames, new]).sort()
            self._numbers = torch.cat([self._numbers, numbers])[order]
        return self._numbers[torch.searchsorted(self._frames, keys)]


@torch.no_grad()
def compile_circuit(model: Transformer, keep: Tensor, means: Tensor) -> CompactCircuit:
    """Compiles a node circuit (`Circuit.compile` does it for a saved one).

    Args:
        model: the whole model, in float32.
        keep: bool `[n_nodes]` in the order of `NodeSpace.of(model)`.
        means: float32 `[n_nodes]`, what deleted nodes emit.

    Raises:
        ValueError: weights in another dtype than float32, or masks or means that do not fit the model.
    """
    others = sorted({str(p.dtype) for p in model.parameters() if p.dtype != torch.float32})
    if others:
        raise ValueError(f"compact circuits are for weights in torch.float32, this model has {', '.join(others)}")
    n_nodes = NodeSpace.of(model).n_nodes
    for name, given in (("keep", keep), ("means", means)):
        if given.shape != (n_nodes,):
            raise ValueError(f"{name} has shape {list(given.shape)}; this model has {n_nodes} nodes")
    if keep.dtype != torch.bool:
        raise ValueError(f"keep has dtype {keep.dtype}; it must be torch.bool")
    device = next(model.parameters()).device
    return CompactCircuit(model, keep.to(device), means.to(device, torch.float32))


def contenders(values: Tensor, computed: Tensor, k: int) -> tuple[Tensor, int]:
    """Known channels that may or may not survive AbsTopK, depending on the computed ones.

    Args:
        values: `[frame, width]`, right wherever a channel is not computed.
        computed: bool `[width]`, the m channels whose values are not known yet.
        k: survivors of a whole row, 1 to width.

    Returns:
        bool `[frame, width]` with equally many (at most m) True in each row, and for how many places they and the
        computed channels compete.
    """
    n_computed = int(computed.sum())
    n_known = len(computed) - n_computed
    n_sure, n_possible = max(0, k - n_computed), min(k, n_known)
    keys = magnitude_keys(values).masked_fill(computed, -1)  # below every magnitude
    return largest_mask(keys, n_possible) & ~largest_mask(keys, n_sure), k - n_sure


@dataclass(frozen=True)
class _Contest:
    """AbsTopK of rows whose known entries differ by frame, on the columns that can decide it.

    Args:
        n_places: survivors among these columns.
        known: `[frame, n_known]`, values of the contenders.
        order: `[frame, n_column]`, for the columns in order of their channels: index into computed, then known.
        slot: `[frame, n_kept]`, columns of the kept channels.
    """

    n_places: int
    known: Tensor
    order: Tensor
    slot: Tensor

    @classmethod
    def of(cls, values: Tensor, computed: Tensor, kept: Tensor, k: int) -> "_Contest":
        """`values [frame, width]` known beforehand, except at the `computed` channels, which include the `kept` ones."""
        contends, n_places = contenders(values, computed, k)
        shape = (len(values), -1)
        channel = (computed | contends).nonzero(as_tuple=True)[1].view(shape)
        n_before = (computed.cumsum(0) - computed.long())[channel]  # computed ones among the columns to the left
        known = computed.sum() + torch.arange(channel.shape[1], device=channel.device) - n_before
        order = torch.where(computed[channel], n_before, known)
        kept_channel = kept.nonzero().flatten().expand(shape).contiguous()
        return cls(n_places, values[contends].view(shape), order, torch.searchsorted(channel, kept_channel))

    def __call__(self, x: Tensor, frame: Tensor) -> Tensor:
        """Computed channels `[..., n_computed]` -> kept ones after AbsTopK; `frame` broadcasts to `[...]`."""

        def at_frame(table: Tensor) -> Tensor:
            return table[frame].expand(*x.shape[:-1], -1)

        columns = torch.cat([x, at_frame(self.known)], -1).gather(-1, at_frame(self.order))
        return abs_topk(columns, self.n_places).gather(-1, at_frame(self.slot))

    def joined(self, other: "_Contest") -> "_Contest":
        """With the frames of another one behind its own."""
        mine, others = (self.known, self.order, self.slot), (other.known, other.order, other.slot)
        return _Contest(self.n_places, *(torch.cat(tables) for tables in zip(mine, others, strict=True)))


class _Read:
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
        self.contest: _Contest | None = None

    def see(self, resid: Tensor) -> None:
        """Makes the tables of new frames from their residual stream `[frame, d_model]`."""
        if self.fixed:
            self.reads = torch.cat([self.reads, abs_topk(_normed(resid, self.norm), self.k)[:, self.kept]])
            return
        self.energy = torch.cat([self.energy, resid.masked_fill(self.computed, 0).square().sum(-1)])
        if self.k < resid.shape[-1]:
            contest = _Contest.of(resid * self.gain, self.computed, self.kept, self.k)
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


class _Narrow:
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


class _Part:
    """An attention or MLP: what it reads from the carried channels and what it adds to them.

    Args:
        keep: name of a hook point within the layer -> bool `[width]`.
        mean: the same -> float `[width]`.
    """

    def __init__(self, keep: dict[str, Tensor], mean: dict[str, Tensor]) -> None:
        self.keep, self.mean = keep, mean
        self.writes = keep["out"]
        self.active = bool(self.writes.any())
        """Whether any kept node writes; if not, nothing here needs computing."""
        self.constant = mean["out"].masked_fill(self.writes, 0)
        self.read: _Read | None = None
        self._carried_constant, self._columns = self.constant, self.writes  # until the carried channels are known

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

    def forget(self) -> None:
        if self.read is not None:
            self.read.forget()

    def see(self, resid: Tensor) -> None:
        if self.read is not None:
            self.read.see(resid)

    def seen(self, x: Tensor, frame: Tensor) -> Tensor:
        """Carried channels -> kept reads, `[batch, pos, n_kept]`."""
        return x.new_empty(*x.shape[:-1], 0) if self.read is None else self.read(x, frame)

    def add(self, x: Tensor, out: Tensor | None) -> Tensor:
        """Carried channels after this layer, which writes `out [batch, pos, n_kept]` (None: constants only)."""
        x = x + self._carried_constant
        return x if out is None else x.index_add_(-1, self._columns, out)

    def n_moving(self) -> dict[str, int]:
        return {} if self.read is None else {"in": 0 if self.read.fixed else int(self.read.computed.sum())}


class _AttentionPart(_Part):
    """Attention over the heads that hold kept nodes; the others' output is a table of positions.

    Args:
        keep, mean: see `_Part`.
        written: bool `[d_model]`, residual channels that kept nodes have written before.
        places: concatenated positions `[n_ctx, d_pos]`, if there are any.
    """

    def __init__(
        self, attn: Attention, keep: dict[str, Tensor], mean: dict[str, Tensor], written: Tensor, places: Tensor | None
    ) -> None:
        super().__init__(keep, mean)
        self.attend, self.W_o, self.n_head = attn.attend, attn.W_o, attn.n_head
        self.narrow: dict[str, _Narrow] = {}
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
            if keep[x].any():
                source = (keep["in"], mean["in"])
                self.narrow[x] = _Narrow(linear, source, keep[x], attn.k[f"attn_{x}"], places=places)
        if self.narrow and keep["in"].any():
            self.read = _Read(attn.norm, keep["in"], written, attn.k["attn_in"])
        weight = attn.W_o.weight.detach()
        self.k_out = attn.k["attn_out"]
        self.computed = keep["out"]
        if self.k_out < len(self.computed):
            self.computed = self.computed | (weight[:, self.moving] != 0).any(1)
        self.weight = weight[:, self.moving][self.computed]
        self.tables: dict[int, tuple[Tensor, _Contest | None]] = {}
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

    def _see_places(self, n: int) -> tuple[Tensor, _Contest | None]:
        """What W_o gives at each of n positions where only constants are read, and the contest with it."""
        qkv = [self.mean[x].expand(1, n, -1) for x in "qkv"]
        z = self._attend(qkv, torch.arange(self.n_head, device=self.weight.device))[0]
        known = self.W_o(z.masked_fill(self.moving, 0))
        contest = None
        if self.k_out < len(self.computed):
            contest = _Contest.of(known, self.computed, self.keep["out"], self.k_out)
        return known[:, self.computed], contest

    def n_moving(self) -> dict[str, int]:
        out = {"out": int(self.computed.sum())} if self.active else {}
        return super().n_moving() | {x: int(narrow.computed.sum()) for x, narrow in self.narrow.items()} | out


class _MLPPart(_Part):
    """An MLP from kept reads to kept writes; arguments as for `_AttentionPart`."""

    def __init__(
        self, mlp: MLP, keep: dict[str, Tensor], mean: dict[str, Tensor], written: Tensor, places: Tensor | None
    ) -> None:
        super().__init__(keep, mean)
        self.neuron: _Narrow | None = None
        if not self.active:
            return
        self.write = _Narrow(mlp.W_out, (keep["neuron"], mean["neuron"]), keep["out"], mlp.k["mlp_out"])
        if keep["neuron"].any():
            source = (keep["in"], mean["in"])
            self.neuron = _Narrow(mlp.W_in, source, keep["neuron"], mlp.k["mlp_neuron"], F.gelu, places)
            if keep["in"].any():
                self.read = _Read(mlp.norm, keep["in"], written, mlp.k["mlp_in"])

    def out(self, x: Tensor, frame: Tensor, place: Tensor) -> Tensor:
        """Carried channels -> kept writes, `[batch, pos, n_kept]`."""
        neurons = x.new_empty(*x.shape[:-1], 0)
        if self.neuron is not None:
            neurons = self.neuron(self.seen(x, frame), place)
        return self.write(neurons, place)

    def n_moving(self) -> dict[str, int]:
        neuron = {} if self.neuron is None else {"neuron": int(self.neuron.computed.sum())}
        out = {"out": int(self.write.computed.sum())} if self.active else {}
        return super().n_moving() | neuron | out


def _normed(x: Tensor, norm: RMSNorm) -> Tensor:
    """RMSNorm without its hook points."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.gain


def _layer(values: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What belongs to the hook points whose names start with `name`, by the rest of their names."""
    return {point.removeprefix(name): value for point, value in values.items() if point.startswith(name)}
