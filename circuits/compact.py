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
and the same channels survive each AbsTopK except where rounding alone decides between two magnitudes: then the full model's
own choice depends on its batch size. In a dense model nearly everything is reached, and the result is right but not small.
"""

from collections.abc import Callable
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


class CompactCircuit:
    """A node circuit that runs without its model's constant parts. Made by `compile_circuit`.

    It holds copies of the weights it needs of the blocks, and the model itself for embedding, last norm and unembedding:
    a model that is trained further, or changed by hand, must be compiled again. Hooks attached to the model are not seen.
    """

    def __init__(self, model: Transformer, keep: Tensor, means: Tensor) -> None:
        space = NodeSpace.of(model)
        parts, values = space.split(keep), space.split(means)
        d_model = model.config.d_model
        self.model = model
        self.blocks: list[tuple[_AttentionPart, _MLPPart]] = []
        written = torch.zeros(d_model, dtype=torch.bool, device=means.device)
        carried = written.clone()
        places = model.positions.detach() if model.positions is not None else None
        places = places if model.config.positions == "concat" else None
        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            points = [{x: f"blocks.{i}.{part}.hook_{x}" for x in names} for part, names in _POINTS]
            attn = _AttentionPart(block.attn, *_pick(points[0], parts, values), written, places)
            carried, written = carried | attn.reads | attn.writes, written | attn.writes
            mlp = _MLPPart(block.mlp, *_pick(points[1], parts, values), written, places)
            carried, written = carried | mlp.reads | mlp.writes, written | mlp.writes
            self.blocks.append((attn, mlp))
        self.carried = carried.nonzero().flatten()
        self._embed = model.embed.weight.detach()[:, self.carried]
        for part in self._parts():
            part.place_in(self.carried)
        mixing = [i for i, (attn, _) in enumerate(self.blocks) if attn.active]
        self._last_mixing = mixing[-1] if mixing else -1
        self._frames = torch.empty(0, dtype=torch.int64, device=means.device)  # sorted keys
        self._numbers = self._frames  # their numbers
        self.n_moving = dict.fromkeys(space.names, 0)
        """Hook point name -> channels computed there; 0 where nothing is."""
        for i, (attn, mlp) in enumerate(self.blocks):
            self.n_moving |= {f"blocks.{i}.attn.hook_{x}": n for x, n in attn.n_moving().items()}
            self.n_moving |= {f"blocks.{i}.mlp.hook_{x}": n for x, n in mlp.n_moving().items()}

    def _parts(self) -> list["_Part"]:
        return [part for block in self.blocks for part in block]

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
        frame, place = self._number(tokens), torch.arange(n_pos, device=tokens.device)
        x = self._embed[tokens]
        if self.model.config.positions == "learned":
            assert self.model.positions is not None
            x = x + self.model.positions[:n_pos, self.carried]

        def select(t: Tensor) -> Tensor:
            return t if at is None else t[torch.arange(len(at), device=at.device), at, None]

        def narrow(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return select(t), select(frame), select(tokens), place if at is None else at[:, None]

        if self._last_mixing < 0:
            x, frame, tokens, place = narrow(x)
        for i, (attn, mlp) in enumerate(self.blocks):
            if attn.active:
                z = attn.mix(x, frame, place)
                if i == self._last_mixing:
                    z = select(z)
                    x, frame, tokens, place = narrow(x)
                x = attn.add(x, attn.out(z, place))
            else:
                x = attn.add(x, None)
            x = mlp.add(x, mlp(x, frame, place) if mlp.active else None)
        resid = self._unmoved(tokens, place)
        for part in self._parts():
            resid = resid + part.constant
        resid[..., self.carried] = x
        return self.model.final_norm(resid), tokens

    def _unmoved(self, tokens: Tensor, place: Tensor) -> Tensor:
        """The residual stream before any block, `[..., d_model]`."""
        resid = self.model.embed.weight.detach()[tokens]
        if self.model.config.positions == "learned":
            assert self.model.positions is not None
            resid = resid + self.model.positions.detach()[place]
        return resid

    def _number(self, tokens: Tensor) -> Tensor:
        """Numbers of the frames of all positions, `[batch, pos]`; tables are made for those that are new."""
        keys, n_ctx = tokens.contiguous(), self.model.config.n_ctx
        learned = self.model.config.positions == "learned"
        if learned:
            keys = tokens * n_ctx + torch.arange(tokens.shape[1], device=tokens.device)
        new = keys[~torch.isin(keys, self._frames)].unique()
        if len(self._frames) + len(new) > MAX_FRAMES:
            new, self._frames, self._numbers = keys.unique(), self._frames[:0], self._numbers[:0]
            for part in self._parts():
                part.forget()
        if len(new):
            resid = self._unmoved(new // n_ctx, new % n_ctx) if learned else self._unmoved(new, new)
            for part in self._parts():
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
    keys = magnitude_keys(values[:, ~computed])
    contends = torch.zeros_like(values, dtype=torch.bool)
    contends[:, ~computed] = largest_mask(keys, n_possible) & ~largest_mask(keys, n_sure)
    return contends, k - n_sure


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
        column = computed | contends
        index = torch.where(computed, computed.cumsum(0), computed.sum() + contends.cumsum(-1)) - 1
        known, order = (t.unflatten(0, (len(values), -1)) for t in (values[contends], index[column]))
        return cls(n_places, known, order, (column.cumsum(-1) - 1)[:, kept])

    def __call__(self, x: Tensor, frame: Tensor) -> Tensor:
        """Computed channels `[..., n_computed]` -> kept ones after AbsTopK; `frame` broadcasts to `[...]`."""

        def at_frame(table: Tensor) -> Tensor:
            return table[frame].expand(*x.shape[:-1], -1)

        columns = torch.cat([x, at_frame(self.known)], -1).gather(-1, at_frame(self.order))
        return abs_topk(columns, self.n_places).gather(-1, at_frame(self.slot))

    def joined(self, other: "_Contest") -> "_Contest":
        """With the frames of another one behind its own."""
        tables = (torch.cat([getattr(self, x), getattr(other, x)]) for x in ("known", "order", "slot"))
        return _Contest(self.n_places, *tables)


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

    def place_in(self, carried: Tensor) -> None:
        self.columns = torch.searchsorted(carried, self.computed.nonzero().flatten())

    def forget(self) -> None:
        n_kept = int(self.kept.sum())
        self.reads = self.gain.new_empty(0, n_kept)  # [frame, n_kept], where nothing was written
        self.energy = self.gain.new_empty(0)  # [frame], sum of squares of the channels that are not computed
        self.contest: _Contest | None = None

    def see(self, resid: Tensor) -> None:
        """Makes the tables of new frames from their residual stream `[frame, d_model]`."""
        if self.fixed:
            self.reads = torch.cat([self.reads, abs_topk(self.norm(resid), self.k)[:, self.kept]])
            return
        energy = resid[:, ~self.computed].square().sum(-1)
        self.energy = torch.cat([self.energy, energy])
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
        bias = (weight[:, ~keep].double() @ mean[~keep].double()).to(weight.dtype)
        bias = bias if linear.bias is None else bias + linear.bias.detach()
        self.activation = activation
        self.computed, self.n_places, rows = kept, None, kept
        if k < len(kept):
            self.computed = kept | (weight[:, keep] != 0).any(1)
            if places is not None:
                self.computed = self.computed | ((by_place != 0) & (places != 0).any(0)).any(1)
            known = bias if activation is None else activation(bias)
            contends, self.n_places = contenders(known[None], self.computed, k)
            rows = self.computed | contends[0]
        self.weight, self.bias = weight[rows][:, keep], bias[rows]
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

    def place_in(self, carried: Tensor) -> None:
        """Tells where the channels stand among the carried ones (sorted)."""
        self._carried_constant = self.constant[carried]
        self._columns = torch.searchsorted(carried, self.writes.nonzero().flatten())
        if self.read is not None:
            self.read.place_in(carried)

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
    def __init__(
        self, attn: Attention, keep: dict[str, Tensor], mean: dict[str, Tensor], written: Tensor, places: Tensor | None
    ) -> None:
        super().__init__(keep, mean)
        self.attn = attn
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
        self.weight = weight[self.computed][:, self.moving]
        self.n_places = 0
        self.bias, self.contest = weight, None  # until the number of positions is known

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
        z = self.attn.attend(q, k, v, None if self.sink is None else self.sink[heads])
        return rearrange(z, "batch head pos d -> batch pos (head d)")

    def out(self, z: Tensor, place: Tensor) -> Tensor:
        """Moving channels of z -> kept writes, `[batch, pos, n_kept]`."""
        n_positions = int(place.max()) + 1
        if n_positions > self.n_places:
            self._see_places(max(n_positions, 2 * self.n_places))
        x = F.linear(z, self.weight) + self.bias[place]
        return x if self.contest is None else self.contest(x, place)

    def _see_places(self, n: int) -> None:
        """Makes the tables of the first n positions: what W_o gives where only constants are read."""
        qkv = [self.mean[x].expand(1, n, -1) for x in "qkv"]
        z = self._attend(qkv, torch.arange(self.attn.n_head, device=self.weight.device))[0]
        known = self.attn.W_o(z.masked_fill(self.moving, 0))
        self.n_places, self.bias = n, known[:, self.computed]
        if self.k_out < len(self.computed):
            self.contest = _Contest.of(known, self.computed, self.keep["out"], self.k_out)

    def n_moving(self) -> dict[str, int]:
        out = {"out": int(self.computed.sum())} if self.active else {}
        return super().n_moving() | {x: int(narrow.computed.sum()) for x, narrow in self.narrow.items()} | out


class _MLPPart(_Part):
    def __init__(
        self, mlp: MLP, keep: dict[str, Tensor], mean: dict[str, Tensor], written: Tensor, places: Tensor | None
    ) -> None:
        super().__init__(keep, mean)
        self.neuron: _Narrow | None = None
        if not self.active:
            return
        self.out = _Narrow(mlp.W_out, (keep["neuron"], mean["neuron"]), keep["out"], mlp.k["mlp_out"])
        if keep["neuron"].any():
            source = (keep["in"], mean["in"])
            self.neuron = _Narrow(mlp.W_in, source, keep["neuron"], mlp.k["mlp_neuron"], F.gelu, places)
            if keep["in"].any():
                self.read = _Read(mlp.norm, keep["in"], written, mlp.k["mlp_in"])

    def __call__(self, x: Tensor, frame: Tensor, place: Tensor) -> Tensor:
        """Carried channels -> kept writes, `[batch, pos, n_kept]`."""
        if self.neuron is None:
            return self.out(x.new_empty(*x.shape[:-1], 0), place)
        return self.out(self.neuron(self.seen(x, frame), place), place)

    def n_moving(self) -> dict[str, int]:
        neuron = {} if self.neuron is None else {"neuron": int(self.neuron.computed.sum())}
        out = {"out": int(self.out.computed.sum())} if self.active else {}
        return super().n_moving() | neuron | out


_POINTS = (("attn", ("in", "q", "k", "v", "out")), ("mlp", ("in", "neuron", "out")))


def _pick(
    points: dict[str, str], keep: dict[str, Tensor], mean: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The masks and means of one layer, by the short names of its hook points."""
    return {x: keep[name] for x, name in points.items()}, {x: mean[name] for x, name in points.items()}
