"""Models of `transformers` that are GPT-2-like as models of ours, exactly: GPT-2 and OPT.

1. LayerNorm is RMSNorm of a centred stream: the mean over channels is taken off whatever is written into the stream (embedding, positions,
   W_o, W_out and their biases), which no LayerNorm ever sees; its bias moves into the layers behind it, its gain stays.
2. Another scale of attention scores than 1/sqrt(d_head) moves into W_q.
3. What has no place in our model is refused by name: rotary or relative positions, gated MLPs, grouped queries, a norm behind the layers.

Logits stay; the residual stream is another one than theirs by the mean of its channels (`meta.json`: folded).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Literal, cast

import torch
from torch import Tensor

from sparsetrain.adapters import hub_files
from sparsetrain.adapters.checkpoints.reading import Imported, Source
from sparsetrain.model import ModelConfig

Activation = Literal["gelu", "gelu_tanh", "relu"]
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip
"""What transformers calls them -> ours."""
FOLDED = "residual stream centred over channels, biases of LayerNorm moved into the layers behind it"


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Gain and bias of a LayerNorm, `[d_model]`."""

    gain: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Weight `[out, in]` and bias `[out]`."""

    weight: Tensor = field(repr=False)
    bias: Tensor = field(repr=False)

    def behind(self, norm: Norm) -> "Linear":
        """With the norm's bias moved into its own."""
        return Linear(weight=self.weight, bias=self.bias + self.weight @ norm.bias)

    def centred(self) -> "Linear":
        """With outputs of mean zero."""
        return Linear(weight=self.weight - self.weight.mean(0), bias=self.bias - self.bias.mean())

    def times(self, scale: float) -> "Linear":
        """With outputs scaled."""
        return Linear(weight=self.weight * scale, bias=self.bias * scale)


def read_gpt2_like(source: Source) -> Imported:
    """A folder or hub name, as `AutoModelForCausalLM` loads it.

    Raises:
        ValueError: `transformers` is not installed, no such model, an architecture or a setting that our model has not; names it.
    """
    if source.places:
        raise ValueError(f"places={source.places} is for format=sparse_pretrain")
    place = source.place.removeprefix("hf:")
    hub = hub_files.load_model(place, torch.float32, key="src", trust_remote_code=source.trust_remote_code)
    settings = cast(Any, hub).config
    reader = {"gpt2": _gpt2, "opt": _opt}.get(settings.model_type)
    if reader is None or type(hub).__name__ not in ("GPT2LMHeadModel", "OPTForCausalLM"):
        raise ValueError(
            f"src={source.place}: model_type={settings.model_type!r} ({type(hub).__name__}) cannot be represented: our model has neither rotary "
            f"nor relative positions, gated MLPs or grouped queries; allowed: gpt2, opt. As model=hf:{place} it runs in every command "
            f"that takes one"
        )
    state = {name: tensor.detach().double() for name, tensor in hub.state_dict().items()}
    config, ours = reader(source.place, settings, state)
    return Imported(
        config=config,
        state={name: tensor.float() for name, tensor in ours.items()},
        tokenizer_name=place,
        tokenizer_json=hub_files.tokenizer_json(place, trust_remote_code=source.trust_remote_code),
        facts={
            "weights_of_source_sha256": hub_files.weights_sha256(hub),
            "settings": settings.to_diff_dict(),
            "tied_unembed": bool(settings.tie_word_embeddings),
            "folded": FOLDED,
        },
    )


def _activation(place: str, key: str, name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(f"src={place}: {key}={name!r} cannot be represented; allowed: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _require(place: str, settings: Any, **wanted: object) -> None:
    """Refuses settings that have other values than these."""
    for key, value in wanted.items():
        if (found := getattr(settings, key)) != value:
            raise ValueError(f"src={place}: {key}={found!r} cannot be represented; allowed: {value!r}")


def _gpt2(place: str, settings: Any, state: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    _require(place, settings, add_cross_attention=False)
    config = ModelConfig(
        d_vocab=settings.vocab_size,
        n_layer=settings.n_layer,
        d_model=settings.n_embd,
        n_ctx=settings.n_positions,
        d_head=settings.n_embd // settings.n_head,
        n_head=settings.n_head,
        d_mlp=settings.n_inner,
        positions="learned",
        activation=_activation(place, "activation_function", settings.activation_function),
        abs_topk={},
        sink=False,
        bigram=False,
        norm_eps=settings.layer_norm_epsilon,
    )

    def linear(name: str) -> Linear:
        return Linear(weight=state[f"{name}.weight"].T, bias=state[f"{name}.bias"])  # theirs are [in, out]

    def norm(name: str) -> Norm:
        return Norm(gain=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    final = norm("transformer.ln_f")
    ours = _outside(state["transformer.wte.weight"], state["transformer.wpe.weight"], state["lm_head.weight"], final)
    for i in range(config.n_layer):
        block = f"transformer.h.{i}"
        scale = 1.0 if settings.scale_attn_weights else sqrt(config.d_head)
        scale /= i + 1 if settings.scale_attn_by_inverse_layer_idx else 1
        whole = linear(f"{block}.attn.c_attn")
        q, k, v = (
            Linear(weight=weight, bias=bias)
            for weight, bias in zip(whole.weight.chunk(3), whole.bias.chunk(3), strict=True)
        )
        ours |= _block(
            i,
            norms=(norm(f"{block}.ln_1"), norm(f"{block}.ln_2")),
            qkv=(q.times(scale), k, v),
            out=linear(f"{block}.attn.c_proj"),
            mlp=(linear(f"{block}.mlp.c_fc"), linear(f"{block}.mlp.c_proj")),
        )
    return config, ours


def _opt(place: str, settings: Any, state: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    _require(
        place,
        settings,
        do_layer_norm_before=True,
        _remove_final_layer_norm=False,
        enable_bias=True,
        layer_norm_elementwise_affine=True,
        word_embed_proj_dim=settings.hidden_size,
    )
    config = ModelConfig(
        d_vocab=settings.vocab_size,
        n_layer=settings.num_hidden_layers,
        d_model=settings.hidden_size,
        n_ctx=settings.max_position_embeddings,
        d_head=settings.hidden_size // settings.num_attention_heads,
        n_head=settings.num_attention_heads,
        d_mlp=settings.ffn_dim,
        positions="learned",
        activation=_activation(place, "activation_function", settings.activation_function),
        abs_topk={},
        sink=False,
        bigram=False,
    )

    def linear(name: str) -> Linear:
        return Linear(weight=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    def norm(name: str) -> Norm:
        return Norm(gain=state[f"{name}.weight"], bias=state[f"{name}.bias"])

    decoder = "model.decoder"
    places = state[f"{decoder}.embed_positions.weight"][2:]  # the first two rows stand for no position of a text
    ours = _outside(
        state[f"{decoder}.embed_tokens.weight"], places, state["lm_head.weight"], norm(f"{decoder}.final_layer_norm")
    )
    for i in range(config.n_layer):
        block = f"{decoder}.layers.{i}"
        q, k, v = (linear(f"{block}.self_attn.{x}_proj") for x in "qkv")
        ours |= _block(
            i,
            norms=(norm(f"{block}.self_attn_layer_norm"), norm(f"{block}.final_layer_norm")),
            qkv=(q, k, v),
            out=linear(f"{block}.self_attn.out_proj"),
            mlp=(linear(f"{block}.fc1"), linear(f"{block}.fc2")),
        )
    return config, ours


def _outside(embed: Tensor, places: Tensor, unembed: Tensor, final: Norm) -> dict[str, Tensor]:
    """What stands before and behind the blocks."""
    return {
        "embed.weight": embed - embed.mean(-1, keepdim=True),
        "positions": places - places.mean(-1, keepdim=True),
        "final_norm.gain": final.gain,
        "unembed.weight": unembed,
        "unembed.bias": unembed @ final.bias,
    }


def _block(
    i: int,
    *,
    norms: tuple[Norm, Norm],
    qkv: tuple[Linear, Linear, Linear],
    out: Linear,
    mlp: tuple[Linear, Linear],
) -> dict[str, Tensor]:
    """A block under our names."""
    attention, neurons = norms
    linears = {f"attn.W_{x}": linear.behind(attention) for x, linear in zip("qkv", qkv, strict=True)}
    linears |= {"attn.W_o": out.centred(), "mlp.W_in": mlp[0].behind(neurons), "mlp.W_out": mlp[1].centred()}
    ours = {f"blocks.{i}.{name}.{part}": tensor for name, linear in linears.items() for part, tensor in vars(linear).items()}  # fmt: skip
    return ours | {f"blocks.{i}.attn.norm.gain": attention.gain, f"blocks.{i}.mlp.norm.gain": neurons.gain}
