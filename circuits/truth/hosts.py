"""Models that mechanisms are written into: small ones of random weights, and trained ones that are widened.

1. A planted host holds random weights in most channels; a graft gets the others.
2. A transplant's host is a trained model with more heads (and with them channels) and neurons, all zero: its logits are what they
   were, and what is written into the free room stands among everything that training has made.
3. `leak_` joins the two: small random weights from the old channels to the new ones and back.

A host's text is what its mean activations are taken from and what prompts are cut from: random words, or real windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuits.truth.graft import Plot, blocks_of
from sparsetrain.data.pools import SPLITS, Split
from sparsetrain.hooks import NODE_KINDS, hook_points, record
from sparsetrain.model import ModelConfig, Transformer

EOT = 0
N_TOKENS = 16
"""Tokens kept for marks and answers. ours"""
N_PLANTED_WORDS = 24
LOUDNESS = 2.0
"""Of a feature at the loudest norm that a mechanism reads, so that AbsTopK lets it pass. ours"""
_N_LOUDNESS_ROWS = 64  # ours: prompts on which the stream's loudness is measured


@dataclass(frozen=True, kw_only=True)
class Text:
    """Where words come from.

    Args:
        words: split -> token ids to draw from; or
        windows: split -> real text `[n, pos]` to cut lines from.
    """

    words: Mapping[Split, Tensor]
    windows: Mapping[Split, Tensor]

    def lines(self, n: int, length: int, split: Split | None, seed: int) -> Tensor:
        """Lines of a split (None: of all), the separator first: int64 `[n, length]`."""
        generator = torch.Generator().manual_seed(seed)
        if self.windows:
            pool = torch.cat(list(self.windows.values())) if split is None else self.windows[split]
            row = torch.randint(len(pool), (n,), generator=generator)
            start = torch.randint(pool.shape[1] - length + 1, (n,), generator=generator)
            lines = pool[row[:, None], start[:, None] + torch.arange(length)].clone()
        else:
            words = torch.cat(list(self.words.values())) if split is None else self.words[split]
            lines = words[torch.randint(len(words), (n, length), generator=generator)]
        lines[:, 0] = EOT
        return lines


@dataclass(frozen=True, kw_only=True)
class Host:
    """A model with free room, and its text."""

    model: Transformer
    plot: Plot
    text: Text


@torch.no_grad()
def loudness(model: Transformer, lines: Tensor) -> dict[str, float]:
    """Median over positions of the root mean square at every norm: name of its `hook_resid` -> value."""
    names = [name for name, point in hook_points(model).items() if point.kind == "resid"]
    _, seen = record(model, lines, names)
    return {name: float(x[:, 1:].square().mean(-1).sqrt().median()) for name, x in seen.items()}


@torch.no_grad()
def planted_host(seed: int, *, d_model: int = 32, n_layer: int = 3, d_head: int = 4, loud: float = 0.2) -> Host:
    """A small model of random weights, half of its channels free; sinks on, AbsTopK keeps half at all eight kinds.

    Args:
        loud: scale of the random weights.
    """
    config = ModelConfig(
        d_vocab=1 + N_TOKENS + N_PLANTED_WORDS,
        n_layer=n_layer,
        d_model=d_model,
        d_head=d_head,
        d_mlp=2 * d_model,
        n_ctx=32,
        abs_topk=dict.fromkeys(NODE_KINDS, 0.5),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Transformer(config).eval().requires_grad_(False)
        n_free = d_model // 2
        random_background_(model, n_free, loud)
        # One loud channel keeps the norms' scale nearly the same for all tokens; the unembedding does not read it.
        model.embed.weight[:, n_free - 1] = 4
        words = torch.randperm(N_PLANTED_WORDS).add(1 + N_TOKENS)
    parts = dict(zip(SPLITS, words.chunk(len(SPLITS)), strict=True))
    text = Text(words=parts, windows={})
    lines = text.lines(_N_LOUDNESS_ROWS, 12, None, seed)
    return Host(
        model=model,
        plot=Plot(
            channels=range(n_free - 1),
            heads=range(config.heads // 2, config.heads),
            neurons=range(config.mlp_width // 2, config.mlp_width),
            tokens=range(1, 1 + N_TOKENS),
            layers=(n_layer - 2, n_layer - 1),
            loudness=LOUDNESS,
            rms=loudness(model, lines),
        ),
        text=text,
    )


@torch.no_grad()
def random_background_(model: Transformer, n_reserved: int, loud: float = 0.2) -> None:
    """Small random weights that neither read nor write the first `n_reserved` residual channels; positions are read.

    Args:
        loud: standard deviation of embedding and weights; three in ten weights of a layer are not 0.
    """
    d_model = model.config.d_model
    distractor = torch.ones(d_model)
    distractor[:n_reserved] = 0
    model.embed.weight.copy_(loud * torch.randn_like(model.embed.weight) * distractor)
    for block in blocks_of(model):
        attn, mlp = block.attn, block.mlp
        for linear in (attn.W_q, attn.W_k, attn.W_v, mlp.W_in):
            read = torch.cat([distractor, torch.ones(linear.weight.shape[1] - d_model)])
            linear.weight.copy_(loud * torch.randn_like(linear.weight) * read * (torch.rand_like(linear.weight) < 0.3))
        for linear in (attn.W_o, mlp.W_out):
            keep = distractor[:, None] * (torch.rand_like(linear.weight) < 0.3)
            linear.weight.copy_(loud * torch.randn_like(linear.weight) * keep)
    model.unembed.weight.copy_(torch.randn_like(model.unembed.weight) * distractor)


@torch.no_grad()
def trained_host(model: Transformer, windows: Tensor, eot: int, *, n_heads: int = 2, n_neurons: int = 16) -> Host:
    """A trained model, widened; its least frequent tokens are the graft's, and are replaced in its text.

    Args:
        windows: int64 `[n, pos]`, text of its own.
        eot: its separator, which must be token 0.
    """
    if eot != EOT:
        raise ValueError(f"the separator of this model is token {eot}; transplants are made for {EOT}")
    old, wide = model.config, widened(model, n_heads, n_neurons)
    counts = torch.bincount(windows.flatten(), minlength=old.d_vocab)
    counts[EOT] = counts.max() + 1
    tokens = counts.argsort(stable=True)[:N_TOKENS]
    frequent = counts.argsort(descending=True, stable=True)[1]
    clean = torch.where(torch.isin(windows, tokens), frequent, windows)
    text = Text(words={}, windows=dict(zip(SPLITS, clean.chunk(len(SPLITS)), strict=True)))
    lines = text.lines(_N_LOUDNESS_ROWS, 12, None, 0)
    return Host(
        model=wide,
        plot=Plot(
            channels=range(old.d_model, wide.config.d_model),
            heads=range(old.heads, wide.config.heads),
            neurons=range(old.mlp_width, wide.config.mlp_width),
            tokens=tokens.tolist(),
            layers=(old.n_layer - 2, old.n_layer - 1),
            loudness=LOUDNESS,
            rms=loudness(wide, lines),
        ),
        text=text,
    )


@torch.no_grad()
def widened(model: Transformer, n_heads: int, n_neurons: int) -> Transformer:
    """A copy with more heads, channels (`n_heads` x d_head) and neurons, all zero; its logits are the model's.

    A norm divides by the root mean square of more channels, which the gains of the old ones undo. AbsTopK lets as many channels pass
    as before: what is written into the new ones displaces the quietest old ones.
    """
    old = model.config
    d_model, d_mlp = old.d_model + n_heads * old.d_head, old.mlp_width + n_neurons
    config = replace(old, d_model=d_model, n_head=old.heads + n_heads, d_mlp=d_mlp)

    def share(kind: str) -> float:
        return (old.k(kind) + 0.5) / config.competing(kind)  # so that int(share * width) is what it was

    config = replace(config, abs_topk={kind: share(kind) for kind in old.abs_topk})
    with torch.random.fork_rng(devices=[]):
        wide = Transformer(config).eval().requires_grad_(False)
    own = dict(model.named_parameters())
    for name, parameter in wide.named_parameters():
        parameter.zero_()
        source = own[name]
        if name.endswith("norm.gain"):
            parameter.fill_(1.0)
            parameter[: old.d_model] = source * (old.d_model / d_model) ** 0.5
            continue
        if old.positions == "concat" and name.endswith(("W_q.weight", "W_k.weight", "W_v.weight", "W_in.weight")):
            parameter[: len(source), : old.d_model] = source[:, : old.d_model]
            parameter[: len(source), d_model:] = source[:, old.d_model :]
            continue
        parameter[tuple(slice(0, size) for size in source.shape)] = source
    return wide


@torch.no_grad()
def leak_(host: Host, scale: float, density: float, seed: int) -> None:
    """Small random weights between a host's own heads and neurons and its free channels, both ways, in every layer.

    To be called before anything is grafted: a graft clears the head or neuron that it takes.

    Args:
        scale: standard deviation, as a multiple of that of the tensor's own nonzero weights.
        density: share of these weights that are not 0.
    """
    generator = torch.Generator().manual_seed(seed)
    free = list(host.plot.channels)
    for block in blocks_of(host.model):
        for linear in (block.attn.W_q, block.attn.W_k, block.attn.W_v, block.mlp.W_in):
            part = linear.weight[:, free]
            linear.weight[:, free] = part + _noise(part, linear.weight, scale, density, generator)
        for linear in (block.attn.W_o, block.mlp.W_out):
            part = linear.weight[free]
            linear.weight[free] = part + _noise(part, linear.weight, scale, density, generator)


def _noise(part: Tensor, weight: Tensor, scale: float, density: float, generator: torch.Generator) -> Tensor:
    own = weight[weight != 0]
    drawn = torch.randn(part.shape, generator=generator) * (torch.rand(part.shape, generator=generator) < density)
    return scale * float(own.square().mean().sqrt()) * drawn
