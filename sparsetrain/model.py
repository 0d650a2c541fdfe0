"""The whole weight-sparse transformer in one file.

A GPT-2-like decoder (Gao et al. 2025, arXiv 2511.13653, A.1). What is unusual:
1. RMSNorm everywhere, so that a zero in the residual stream stays a zero.
2. AbsTopK at up to eight places of a block: only the largest magnitudes of a row pass.
3. Small heads, each with a learned sink: one more logit in the softmax denominator, with value zero.
4. A dense bigram table: the row of the current token is added to the logits, so sparse weights need not learn bigrams.
5. Untied embeddings; positions absent (default), added, or concatenated as channels that are read but never written (`norm_positions`:
   normed anew for every layer and subject to its AbsTopK, as the authors' public code has them).

How each parameter starts:
| parameter                    | start                                         |
|------------------------------|-----------------------------------------------|
| embed, positions             | N(0, init_std)                                |
| W_q W_k W_v W_in             | N(0, 1/sqrt(fan_in))                          |
| W_o W_out                    | N(0, 1/sqrt(fan_in) / sqrt(2 n_layer))        |
| unembed                      | N(0, init_std)                                |
| biases, sinks, bigram table  | 0 (the table may be set from counts afterwards) |
| norm gains                   | 1                                             |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import sqrt
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sparsetrain.hooks import NODE_KINDS, HookPoint, name_hook_points_
from sparsetrain.kernels import abs_topk, is_sharded, sink_attention, sink_attention_reference, whole_tensor
from sparsetrain.linear import Embedding, Linear


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture (defaults: paper A.1 where not marked `ours`)."""

    d_vocab: int = 2048
    n_layer: int = 8
    d_model: int = 2048
    n_ctx: int = 256
    d_head: int = 16
    n_head: int | None = None
    """None: d_model / d_head."""
    d_mlp: int | None = None
    """None: 4 d_model."""
    positions: Literal["none", "learned", "concat"] = "none"
    d_pos: int = 16
    """Channels of concatenated positions (read by attention and MLP, never written). Only with positions=concat. ours"""
    norm_positions: bool = False
    """Concatenated positions pass an RMSNorm of each layer's own and compete with the residual channels in the layer's AbsTopK, as in the
    authors' public code; false: they are read as they are, and always. Only with positions=concat."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """Of the neurons; gelu_tanh is the approximation that GPT-2 has."""
    abs_topk: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NODE_KINDS, 0.25))
    """Kind of hook point -> fraction of its width that AbsTopK keeps. A kind that is absent or 1 has no AbsTopK."""
    sink: bool = True
    bigram: bool = True
    biases: bool = True
    norm_eps: float = 1e-5
    init_std: float = 0.02  # ours
    attention: Literal["fused", "reference"] = "fused"
    """Two implementations of the same function; `reference` writes the attention matrix out."""

    def __post_init__(self) -> None:
        for name in ("d_vocab", "n_layer", "d_model", "n_ctx", "d_head", "n_head", "d_mlp", "d_pos"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name}={value} must be at least 1")
        if self.n_head is None and self.d_model % self.d_head:
            raise ValueError(
                f"model.d_head={self.d_head} does not divide model.d_model={self.d_model}; "
                f"choose a divisor or set model.n_head"
            )
        if self.n_head is not None and self.n_head * self.d_head != self.d_model:
            raise ValueError(
                f"model.n_head={self.n_head} with model.d_head={self.d_head} does not divide "
                f"model.d_model={self.d_model}: n_head * d_head must equal d_model"
            )
        unknown = sorted(set(self.abs_topk) - set(NODE_KINDS))
        if unknown:
            raise ValueError(f"model.abs_topk has unknown kinds {unknown}; allowed: {', '.join(NODE_KINDS)}")
        if self.norm_positions and self.positions != "concat":
            raise ValueError(
                f"model.norm_positions=true is for model.positions=concat, this is {self.positions}; leave it out"
            )
        for kind, share in self.abs_topk.items():
            if not 0 < share <= 1 or self.k(kind) < 1:
                raise ValueError(
                    f"model.abs_topk.{kind}={share} must lie in [1/{self.competing(kind)}, 1]: a share of "
                    f"{self.competing(kind)} channels"
                )

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that say which weights there are and how they belong together: models that agree in them can take each other's.

        AbsTopK, `norm_eps`, `attention` and, without positions, `n_ctx` are not among them.
        """
        free = {"abs_topk", "norm_eps", "init_std", "attention"} | ({"n_ctx"} if self.positions == "none" else set())
        free |= set() if self.positions == "concat" else {"d_pos"}
        return {key: value for key, value in vars(self).items() if key not in free} | {
            "n_head": self.heads,
            "d_mlp": self.mlp_width,
        }

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.n_head if self.n_head is not None else self.d_model // self.d_head

    @property
    def mlp_width(self) -> int:
        """Number of neurons of a block."""
        return self.d_mlp if self.d_mlp is not None else 4 * self.d_model

    def width(self, kind: str) -> int:
        """Channels at hook points of a kind."""
        if kind == "mlp_neuron":
            return self.mlp_width
        return self.heads * self.d_head if kind in ("attn_q", "attn_k", "attn_v") else self.d_model

    def competing(self, kind: str) -> int:
        """Channels among which AbsTopK chooses at a kind: its width, and the positions where they compete."""
        return self.width(kind) + (self.d_pos if self.norm_positions and kind in ("attn_in", "mlp_in") else 0)

    def k(self, kind: str) -> int:
        """How many channels AbsTopK keeps at a kind: int(fraction * competing channels), all where it is off."""
        return int(self.abs_topk.get(kind, 1.0) * self.competing(kind))

    @property
    def places_compete(self) -> bool:
        """Whether any AbsTopK may drop position channels, so that what a layer reads of a place depends on the text."""
        return self.norm_positions and any(self.k(kind) < self.competing(kind) for kind in ("attn_in", "mlp_in"))


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain over the last axis, statistics in float32 or better.

    Hook points: `hook_resid` (before), `hook_scale` (`[batch, pos, 1]`, 1/rms), `hook_norm` (after, without the gain).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(width))
        self.hook_resid = HookPoint("resid", width)
        self.hook_scale = HookPoint("norm_scale", 1)
        self.hook_norm = HookPoint("norm", width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hook_resid(x)
        scale = self.hook_scale(torch.rsqrt(at_least_float32(x).square().mean(-1, keepdim=True) + self.eps))
        return self.hook_norm(x * scale.to(x.dtype)) * self.gain


class Layer(nn.Module):
    """What attention and MLP have in common: a norm, AbsTopK, concatenated positions."""

    def __init__(self, config: ModelConfig, kind: Literal["attn_in", "mlp_in"]) -> None:
        super().__init__()
        self.d_read = config.d_model + (config.d_pos if config.positions == "concat" else 0)
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.positions_gain = nn.Parameter(torch.ones(config.d_pos)) if config.norm_positions else None
        self.hook_in = HookPoint(kind, config.d_model)

    def places(self, positions: Tensor) -> Tensor:
        """Concatenated positions as this layer reads them before AbsTopK, `[pos, d_pos]`."""
        if self.positions_gain is None:
            return positions
        scale = torch.rsqrt(at_least_float32(positions).square().mean(-1, keepdim=True) + self.norm.eps)
        return positions * scale.to(positions.dtype) * self.positions_gain

    def read(self, resid: Tensor, positions: Tensor | None, k: int) -> Tensor:
        """The normed stream after AbsTopK, and the positions: `[batch, pos, d_model (+ d_pos)]`."""
        x = self.norm(resid)
        if positions is None:
            return self.hook_in(abs_topk(x, k))
        places = self.places(positions).to(x.dtype).expand(*x.shape[:-1], -1)
        if self.positions_gain is None:
            return torch.cat([self.hook_in(abs_topk(x, k)), places], dim=-1)
        x, places = abs_topk(torch.cat([x, places], dim=-1), k).split([x.shape[-1], places.shape[-1]], dim=-1)
        return torch.cat([self.hook_in(x), places], dim=-1)


class Attention(Layer):
    """Causal attention with small heads and a sink. Reads the residual stream, returns what is added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "attn_in")
        d_read = self.d_read
        width = config.heads * config.d_head
        self.n_head = config.heads
        self.k = {kind: config.k(kind) for kind in NODE_KINDS[:5]}
        self.attend = sink_attention if config.attention == "fused" else sink_attention_reference
        self.W_q = Linear(d_read, width, bias=config.biases)
        self.W_k = Linear(d_read, width, bias=config.biases)
        self.W_v = Linear(d_read, width, bias=config.biases)
        self.hook_q = HookPoint("attn_q", width)
        self.hook_k = HookPoint("attn_k", width)
        self.hook_v = HookPoint("attn_v", width)
        self.sink = nn.Parameter(torch.zeros(config.heads)) if config.sink else None
        self.W_o = Linear(width, config.d_model, bias=config.biases)
        self.hook_out = HookPoint("attn_out", config.d_model)

    def forward(self, resid: Tensor, positions: Tensor | None) -> Tensor:
        # [batch, pos, d_model], [pos, d_pos] -> [batch, pos, d_model]
        x = self.read(resid, positions, self.k["attn_in"])
        q = self.hook_q(abs_topk(self.W_q(x), self.k["attn_q"]))
        k = self.hook_k(abs_topk(self.W_k(x), self.k["attn_k"]))
        v = self.hook_v(abs_topk(self.W_v(x), self.k["attn_v"]))
        q, k, v = (rearrange(t, "batch pos (head d) -> batch head pos d", head=self.n_head) for t in (q, k, v))
        z = rearrange(self.attend(q, k, v, self.sink), "batch head pos d -> batch pos (head d)")
        return self.hook_out(abs_topk(self.W_o(z), self.k["attn_out"]))


class MLP(Layer):
    """Two layers with GELU. Reads the residual stream, returns what is added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, "mlp_in")
        self.k = {kind: config.k(kind) for kind in NODE_KINDS[5:]}
        self.activation = ACTIVATIONS[config.activation]
        self.W_in = Linear(self.d_read, config.mlp_width, bias=config.biases)
        self.hook_neuron = HookPoint("mlp_neuron", config.mlp_width)
        self.W_out = Linear(config.mlp_width, config.d_model, bias=config.biases)
        self.hook_out = HookPoint("mlp_out", config.d_model)

    def forward(self, resid: Tensor, positions: Tensor | None) -> Tensor:
        # [batch, pos, d_model], [pos, d_pos] -> [batch, pos, d_model]
        x = self.read(resid, positions, self.k["mlp_in"])
        neurons = self.hook_neuron(abs_topk(self.activation(self.W_in(x)), self.k["mlp_neuron"]))
        return self.hook_out(abs_topk(self.W_out(neurons), self.k["mlp_out"]))


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32, the rest stays."""
    return x if x.dtype == torch.float64 else x.float()


class Block(nn.Module):
    """Attention, then MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = MLP(config)

    def forward(self, resid: Tensor, positions: Tensor | None) -> Tensor:
        resid = resid + self.attn(resid, positions)
        return resid + self.mlp(resid, positions)


class Transformer(nn.Module):
    """Tokens `[batch, pos]` (int64) -> logits `[batch, pos, d_vocab]` (float32; float64 in a float64 model).

    With `at` (`[batch]`, int64) only the logits at that position of each row are computed: `[batch, d_vocab]`.
    Source: Gao et al. 2025, A.1.

    Raises:
        ValueError: more positions than n_ctx in a model with positions.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed: nn.Embedding = Embedding(config.d_vocab, config.d_model)
        d_positions = {"none": 0, "learned": config.d_model, "concat": config.d_pos}[config.positions]
        self.positions = nn.Parameter(torch.empty(config.n_ctx, d_positions)) if d_positions else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.final_norm = RMSNorm(config.d_model, config.norm_eps)
        self.unembed: nn.Linear = Linear(config.d_model, config.d_vocab, bias=config.biases)
        self.bigram = nn.Embedding(config.d_vocab, config.d_vocab) if config.bigram else None
        name_hook_points_(self)
        self.init_weights_()

    @property
    def max_positions(self) -> int | None:
        """Most positions it can read; None: any number."""
        return None if self.positions is None else self.config.n_ctx

    def init_weights_(self) -> None:
        """Draws every parameter anew from torch's global generator; the module's docstring has the table."""
        for name, p in self.named_parameters():
            if name.endswith("gain"):
                nn.init.ones_(p)
            elif name.endswith(("bias", "sink")) or name == "bigram.weight":
                nn.init.zeros_(p)
            elif name in ("embed.weight", "positions", "unembed.weight"):
                nn.init.normal_(p, std=self.config.init_std)
            else:
                residual_share = sqrt(2 * self.config.n_layer) if name.endswith(("W_o.weight", "W_out.weight")) else 1.0
                nn.init.normal_(p, std=1 / sqrt(p.shape[1]) / residual_share)

    def forward(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        resid = self.embed(tokens)
        concat = None
        if self.positions is not None:
            n_pos = tokens.shape[1]
            if n_pos > self.config.n_ctx:
                raise ValueError(f"{n_pos} positions, but model.n_ctx={self.config.n_ctx}; shorten the input")
            if self.config.positions == "learned":
                resid = resid + self.positions[:n_pos]
            else:
                concat = self.positions[:n_pos]
        for block in self.blocks:
            resid = block(resid, concat)
        if at is not None:
            rows = torch.arange(tokens.shape[0], device=tokens.device)
            resid, tokens = resid[rows, at, None], tokens[rows, at, None]
        logits = self.unembed(self.final_norm(resid))
        if self.bigram is not None:
            logits = logits + self.bigram(tokens)
        return at_least_float32(logits if at is None else logits[:, 0])

    def whole(self) -> "Transformer":
        """This model, or, where its tensors are spread over ranks (FSDP2), a copy of it with whole ones; then every rank must call."""
        if not any(map(is_sharded, self.parameters())):
            return self
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            copy = Transformer(self.config)
        state = {name: whole_tensor(tensor) for name, tensor in self.state_dict().items()}
        copy.load_state_dict(state, strict=True, assign=True)
        return copy.train(self.training)
