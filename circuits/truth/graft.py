"""Weights set by hand: a mechanism is written into free channels, heads and neurons of any model, planted or trained.

1. A `Feature` is what a mechanism says in the residual stream: a direction in one channel, or (superposed) in two that another
   feature uses too.
2. A `Plot` is the free room of a model: channels, heads, neurons, tokens; and how loud its residual stream is.
3. A `Graft` writes features, neurons and heads there. Strengths are in units of one feature as embedded, so that the same
   mechanism works in streams of any loudness. It notes every node that carries something which varies: that is the truth.

Constants (biases as query or value) are no nodes: their mean is what they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from random import Random

import torch
from torch import Tensor

from circuits.masks import NodeSpace
from sparsetrain.model import Attention, Block, Transformer

CARRIED = 4.0
"""What a neuron, a value or a constant query is where a feature has strength 1: loud enough to pass AbsTopK. ours"""


@dataclass(frozen=True)
class Feature:
    """A direction of the residual stream: `[n_channels]` channels and what each holds of one unit; shares have norm 1."""

    channels: tuple[int, ...]
    shares: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """The free room of a model.

    Args:
        channels: of the residual stream, read and written by nobody.
        heads: free heads, the same in every layer.
        neurons: free neurons, the same in every layer.
        tokens: for marks and answers; the model's text does not hold them.
        layers: (early, late), where mechanisms stand.
        loudness: of one feature, as a multiple of the stream's root mean square.
        rms: name of a norm's `hook_resid` -> root mean square there.
    """

    channels: Sequence[int]
    heads: Sequence[int]
    neurons: Sequence[int]
    tokens: Sequence[int]
    layers: tuple[int, int]
    loudness: float
    rms: Mapping[str, float]

    @property
    def size(self) -> float:
        """Raw value of a feature of strength 1: loud at the loudest norm that mechanisms read."""
        names = [f"blocks.{layer}.{part}.norm.hook_resid" for layer in self.layers for part in ("attn", "mlp")]
        return self.loudness * max(self.rms[name] for name in names)


@dataclass(kw_only=True)
class Graft:
    """Writes into a model in place and keeps account of what it used and of the nodes that carry the mechanism.

    Args:
        superposed: every feature but the answer's shares its two channels with a clutter feature that words carry.
        nodes: name of a part -> hook point -> channels that vary.
    """

    model: Transformer
    plot: Plot
    seed: int
    superposed: bool = False
    part: str = "stages"
    nodes: dict[str, dict[str, set[int]]] = field(default_factory=dict[str, dict[str, set[int]]])
    clutter: list[Feature] = field(default_factory=list[Feature])
    _n_used: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        rng = Random(f"graft/{self.seed}")
        plot = self.plot
        self._free = {
            name: rng.sample(list(items), len(items))
            for name, items in (("channels", plot.channels), ("heads", plot.heads), ("neurons", plot.neurons))
        }
        self._free["tokens"] = list(plot.tokens)

    def _take(self, kind: str, where: str = "") -> int:
        n = self._n_used.get(kind + where, 0)
        if n == len(self._free[kind]):
            raise ValueError(
                f"the plot has {n} free {kind}, and the mechanism needs more: widen the model by more heads"
            )
        self._n_used[kind + where] = n + 1
        return self._free[kind][n]

    def _note(self, point: str, *channels: int) -> None:
        self.nodes.setdefault(self.part, {}).setdefault(point, set()).update(channels)

    def token(self) -> int:
        """A token of the mechanism's own."""
        return self._take("tokens")

    def feature(self, *, alone: bool = False) -> Feature:
        """A new feature; where the graft is superposed, in two channels that a feature of the clutter uses too."""
        if not self.superposed or alone:
            return Feature((self._take("channels"),))
        channels = (self._take("channels"), self._take("channels"))
        half = sqrt(0.5)
        self.clutter.append(Feature(channels, (half, -half)))
        return Feature(channels, (half, half))

    @torch.no_grad()
    def embed(self, feature: Feature, strengths: Mapping[int, float]) -> None:
        """Adds a feature to the embedding of tokens, token -> strength."""
        for token, strength in strengths.items():
            for channel, share in zip(feature.channels, feature.shares, strict=True):
                self.model.embed.weight[token, channel] += strength * share * self.plot.size

    def strength(self, normed: Tensor, feature: Feature, layer: int, part: str) -> Tensor:
        """How strongly a feature stands in what a layer reads: `[..., d_model]` -> `[...]`."""
        read = normed[..., list(feature.channels)] @ torch.tensor(feature.shares)
        return read * self.plot.rms[f"blocks.{layer}.{part}.norm.hook_resid"] / self.plot.size

    def _read(self, weight: Tensor, row: int, layer: int, part: str, reads: Mapping[Feature, float]) -> None:
        """Makes a row of a weight `gain` x strength, summed over features."""
        normed = self.plot.size / self.plot.rms[f"blocks.{layer}.{part}.norm.hook_resid"]
        for feature, gain in reads.items():
            for channel, share in zip(feature.channels, feature.shares, strict=True):
                weight[row, channel] += gain * share / normed
            self._note(f"blocks.{layer}.{part}.hook_in", *feature.channels)

    def _write(self, weight: Tensor, column: int, layer: int, part: str, writes: Mapping[Feature, float]) -> None:
        """A column that writes features, of that strength where its source is `CARRIED`."""
        for feature, strength in writes.items():
            for channel, share in zip(feature.channels, feature.shares, strict=True):
                weight[channel, column] += strength * share * self.plot.size / CARRIED
            self._note(f"blocks.{layer}.{part}.hook_out", *feature.channels)

    @torch.no_grad()
    def neuron(self, layer: int, reads: Mapping[Feature, float], bias: float, writes: Mapping[Feature, float]) -> None:
        """A neuron GELU(CARRIED x (sum of gain x strength + bias)) that writes features."""
        neuron, mlp = self._take("neurons", f"/{layer}"), self._block(layer).mlp
        mlp.W_in.weight[neuron], mlp.W_out.weight[:, neuron] = 0, 0
        self._read(mlp.W_in.weight, neuron, layer, "mlp", {f: CARRIED * gain for f, gain in reads.items()})
        mlp.W_in.bias[neuron] = CARRIED * bias
        self._note(f"blocks.{layer}.mlp.hook_neuron", neuron)
        self._write(mlp.W_out.weight, neuron, layer, "mlp", writes)

    @torch.no_grad()
    def head(
        self,
        layer: int,
        *,
        values: Sequence[tuple[Mapping[Feature, float] | None, Feature]],
        key: Feature | None = None,
        query: Feature | None = None,
        score: float = 0.0,
        sink: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        """A head that looks where the key's feature is and copies values.

        Args:
            values: (feature -> gain that is copied, into what); None copies a constant.
            key: None: it looks at all tokens alike.
            query: None: it looks from everywhere.
            score: attention logit where key and query have strength 1.
            sink: the sink's logit.
            strength: of what is written where a value of strength 1 gets all of the attention.
        """
        head, attn = self._take("heads", f"/{layer}"), self._block(layer).attn
        assert attn.sink is not None
        clear_head_(attn, head)
        width = self.model.config.d_head
        channel, loud = head * width, sqrt(abs(score) * sqrt(width))
        attn.sink[head] = sink
        if key is not None:
            self._read(attn.W_k.weight, channel, layer, "attn", {key: loud})
            self._note(f"blocks.{layer}.attn.hook_k", channel)
        if query is not None:
            self._read(attn.W_q.weight, channel, layer, "attn", {query: loud})
            self._note(f"blocks.{layer}.attn.hook_q", channel)
        elif key is not None:
            attn.W_q.bias[channel] = loud
        for i, (value, into) in enumerate(values, start=1):
            if value is None:
                attn.W_v.bias[channel + i] = CARRIED
                attn.W_o.weight[list(into.channels), channel + i] += (
                    strength * self.plot.size / CARRIED * torch.tensor(into.shares)
                )
                self._note(f"blocks.{layer}.attn.hook_out", *into.channels)
                continue
            self._read(attn.W_v.weight, channel + i, layer, "attn", {f: CARRIED * gain for f, gain in value.items()})
            self._note(f"blocks.{layer}.attn.hook_v", channel + i)
            self._write(attn.W_o.weight, channel + i, layer, "attn", {into: strength})

    @torch.no_grad()
    def answer(self, feature: Feature, tokens: tuple[int, int]) -> None:
        """The unembedding reads a feature as the first of two answers against the second."""
        for token, sign in zip(tokens, (1.0, -1.0), strict=True):
            for channel, share in zip(feature.channels, feature.shares, strict=True):
                self.model.unembed.weight[token, channel] += sign * share

    def _block(self, layer: int) -> Block:
        return blocks_of(self.model)[layer]

    def keep(self, *parts: str) -> Tensor:
        """The nodes of these parts, bool `[n_nodes]`."""
        space = NodeSpace.of(self.model)
        found = torch.zeros(space.n_nodes, dtype=torch.bool)
        for part in parts:
            found |= space.mask({name: sorted(channels) for name, channels in self.nodes.get(part, {}).items()})
        return found


def blocks_of(model: Transformer) -> list[Block]:
    """The model's blocks, from the ground up."""
    return [block for block in model.blocks if isinstance(block, Block)]


@torch.no_grad()
def clear_head_(attn: Attention, head: int) -> None:
    """Takes a head from the weights that are there: it reads and writes nothing."""
    d_head = attn.W_q.weight.shape[0] // attn.n_head
    channels = slice(head * d_head, (head + 1) * d_head)
    for linear in (attn.W_q, attn.W_k, attn.W_v):
        linear.weight[channels] = 0
    attn.W_o.weight[:, channels] = 0


@torch.no_grad()
def clear_channel_(model: Transformer, channel: int) -> None:
    """Takes a residual channel from the weights that are there: nothing writes it and nothing reads it."""
    model.embed.weight[:, channel] = 0
    model.unembed.weight[:, channel] = 0
    for block in blocks_of(model):
        for linear in (block.attn.W_q, block.attn.W_k, block.attn.W_v, block.mlp.W_in):
            linear.weight[:, channel] = 0
        for linear in (block.attn.W_o, block.mlp.W_out):
            linear.weight[channel] = 0
