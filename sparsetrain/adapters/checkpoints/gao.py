"""The authors' checkpoints (Gao et al. 2025): `beeg_config.json` and `final_model.pt`.

What differs from our own training's defaults, and is honoured:
1. k of AbsTopK is int(afrac x width) at the places of afrac_loctypes; with concatenated positions (d_pos_emb) these pass norms of their
   own (ln_p1, ln_p2) and compete at attn_in and mlp_in, so the width there is d_model + d_pos_emb (`ModelConfig.norm_positions`).
2. Sinusoidal positions are stored in the checkpoint like learned ones, and read from there.
3. Positions that are added and zero throughout are none.
4. final_logits_bias is the bias of the unembedding, also where bias is false.
5. A tied unembedding becomes two equal matrices; `meta.json` says tied_unembed.

Settings of training and of speed (dropout, dropout_cat_pos_emb, flash, grad_checkpointing, enable_sparse_kernels, debug_nans,
learnable_bigram_table) change nothing in inference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sparsetrain.adapters.checkpoints.reading import (
    EPS,
    Imported,
    Source,
    check_tensors,
    check_tied,
    files_of,
    folder_of,
    read_object,
    read_tensors,
    refuse,
    settings_of,
    tokenizer_beside,
)
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import ModelConfig
from sparsetrain.typed import Count

SETTINGS, WEIGHTS = "beeg_config.json", "final_model.pt"
DROPPED = ("pfrac", "bigram_table_rank")
"""Settings without a meaning in inference that older files have."""


@dataclass(frozen=True, kw_only=True)
class GaoSettings:
    """`beeg_config.json`; defaults as their code has them."""

    block_size: Count = 1024
    vocab_size: Count = 50304
    n_layer: Count = 12
    n_head: Count = 12
    d_head: Count | None = None
    d_model: Count = 768
    dropout: float = 0.0
    bias: bool = True
    ln_bias: bool = True
    rms_norm: bool = False
    residual_activation_type: Literal["identity", "relu"] = "identity"
    activation_type: Literal["gelu", "relu"] = "gelu"
    afrac: float | None = None
    afrac_loctypes: str = "attn_in,attn_out,mlp_in,mlp_out"
    debug_nans: bool = False
    tied_unembed: bool = True
    tokenizer_name: str = "tinypython_2k"
    grad_checkpointing: bool = True
    d_mlp: Count | None = None
    enable_bigram_table: bool = False
    learnable_bigram_table: bool = False
    d_pos_emb: Count | None = None
    dropout_cat_pos_emb: bool = False
    sinusoidal_cat_pos_emb: bool = False
    enable_sparse_kernels: bool = False
    flash: bool = True
    sink: bool = False

    @property
    def head(self) -> int:
        return self.d_model // self.n_head if self.d_head is None else self.d_head

    @property
    def mlp(self) -> int:
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp


def read_settings(path: Path) -> GaoSettings:
    """The settings, older spellings included.

    Raises:
        ValueError: an unknown key or a wrong value, named; `use_tied_aux_matrix`.
    """
    tree = {key: value for key, value in read_object(path).items() if key not in DROPPED}
    if "n_mlp" in tree:
        if "d_mlp" in tree:
            raise ValueError(f"{path} has both d_mlp and n_mlp, its older name; keep one")
        tree["d_mlp"] = tree.pop("n_mlp")
    if tree.pop("use_tied_aux_matrix", False):
        raise refuse(path, "use_tied_aux_matrix", True, "no code for it was released; allowed: false")
    return settings_of(GaoSettings, tree, path)


def abs_topk_of(path: Path, settings: GaoSettings) -> dict[str, float]:
    """Place -> fraction.

    Raises:
        ValueError: places that are no hook kinds, a fraction outside (0, 1], one that keeps nothing somewhere.
    """
    if settings.afrac is None:
        return {}
    places = settings.afrac_loctypes.split(",")
    if unknown := [place for place in places if place not in NODE_KINDS]:
        raise refuse(
            path, "afrac_loctypes", ",".join(unknown), f"AbsTopK stands at {', '.join(NODE_KINDS)} in our model"
        )
    if not 0 < settings.afrac <= 1:
        raise ValueError(f"{path}: afrac={settings.afrac} must lie in (0, 1]")
    return dict.fromkeys(places, settings.afrac)


def shapes_of(settings: GaoSettings) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint with these settings; `final_logits_bias` may also be absent."""
    d, heads, d_pos = settings.d_model, settings.n_head * settings.head, settings.d_pos_emb or 0
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (settings.vocab_size, d),
        "transformer.wpe.weight": (settings.block_size, d_pos or d),
    }
    for i in range(settings.n_layer):
        block = f"transformer.h.{i}"
        shapes |= {f"{block}.ln_1.weight": (d,), f"{block}.ln_2.weight": (d,)}
        if d_pos:
            shapes |= {f"{block}.ln_p1.weight": (d_pos,), f"{block}.ln_p2.weight": (d_pos,)}
        if settings.sink:
            shapes[f"{block}.attn.attn_imp.sink_logit"] = (settings.n_head,)
        for name, n_out, n_in in (
            ("attn.c_attn", 3 * heads, d + d_pos),
            ("attn.c_proj", d, heads),
            ("mlp.c_fc", settings.mlp, d + d_pos),
            ("mlp.c_proj", d, settings.mlp),
        ):
            shapes[f"{block}.{name}.weight"] = (n_out, n_in)
            if settings.bias:
                shapes[f"{block}.{name}.bias"] = (n_out,)
    shapes |= {
        "transformer.ln_f.weight": (d,),
        "lm_head.weight": (settings.vocab_size, d),
        "final_logits_bias": (settings.vocab_size,),
    }
    if settings.enable_bigram_table:
        shapes["bigram_table"] = (settings.vocab_size, settings.vocab_size)
    return shapes


def read_gao(source: Source) -> Imported:
    """A folder with `beeg_config.json` and `final_model.pt`.

    Raises:
        ValueError: a setting that our model has not, or tensors that do not fit the settings; names the key.
    """
    folder = folder_of(source.place, SETTINGS, WEIGHTS)
    path, weights = folder / SETTINGS, folder / WEIGHTS
    if source.places:
        raise ValueError(f"places={source.places} is for format=sparse_pretrain; {SETTINGS} says afrac_loctypes")
    settings = read_settings(path)
    if not settings.rms_norm:
        raise refuse(path, "rms_norm", False, "our model has RMSNorm alone; allowed: true")
    if settings.residual_activation_type != "identity":
        raise refuse(path, "residual_activation_type", "relu", "nothing acts on our residual stream; allowed: identity")
    if settings.n_head * settings.head != settings.d_model:
        raise refuse(path, "d_head", settings.d_head, f"n_head x d_head must be d_model={settings.d_model}")
    found = read_tensors(weights)
    if "final_logits_bias" not in found:
        found["final_logits_bias"] = torch.zeros(settings.vocab_size)
    if not settings.flash:
        _drop_causal_masks_(weights, found, settings)
    state = check_tensors(weights, SETTINGS, found, shapes_of(settings))
    if settings.tied_unembed:
        check_tied(weights, "tied_unembed", state, "transformer.wte.weight", "lm_head.weight")
    places = state["transformer.wpe.weight"]
    concatenated = settings.d_pos_emb is not None
    biases = settings.bias or bool(state["final_logits_bias"].any())
    try:
        config = ModelConfig(
            d_vocab=settings.vocab_size,
            n_layer=settings.n_layer,
            d_model=settings.d_model,
            n_ctx=settings.block_size,
            d_head=settings.head,
            n_head=settings.n_head,
            d_mlp=settings.mlp,
            positions="concat" if concatenated else "learned" if bool(places.any()) else "none",
            d_pos=settings.d_pos_emb or ModelConfig.d_pos,
            norm_positions=concatenated,
            activation=settings.activation_type,
            abs_topk=abs_topk_of(path, settings),
            sink=settings.sink,
            bigram=settings.enable_bigram_table,
            biases=biases,
            norm_eps=EPS,
        )
    except ValueError as error:
        raise ValueError(f"{path}: afrac={settings.afrac}: {error}") from None
    return Imported(
        config=config,
        state=_ours(state, config, settings),
        tokenizer_name=settings.tokenizer_name,
        tokenizer_json=tokenizer_beside(folder),
        facts={
            "files": files_of(folder, SETTINGS, WEIGHTS),
            "settings": read_object(path),
            "tied_unembed": settings.tied_unembed,
        },
    )


def _drop_causal_masks_(path: Path, found: dict[str, Tensor], settings: GaoSettings) -> None:
    """Without flash attention their state has the causal mask of every block.

    Raises:
        ValueError: it is another mask.
    """
    size = settings.block_size
    for i in range(settings.n_layer):
        name = f"transformer.h.{i}.attn.bias"
        mask = found.pop(name, None)
        if mask is not None and not torch.equal(mask.float(), torch.ones(size, size).tril()[None, None]):
            raise ValueError(f"{path}: {name} is not the causal mask of block_size={size} positions")


def _ours(state: dict[str, Tensor], config: ModelConfig, settings: GaoSettings) -> dict[str, Tensor]:
    """The tensors under our names."""
    ours = {
        "embed.weight": state["transformer.wte.weight"],
        "final_norm.gain": state["transformer.ln_f.weight"],
        "unembed.weight": state["lm_head.weight"],
    }
    if config.biases:
        ours["unembed.bias"] = state["final_logits_bias"]
    if config.positions != "none":
        ours["positions"] = state["transformer.wpe.weight"]
    if config.bigram:
        ours["bigram.weight"] = state["bigram_table"]
    for i in range(config.n_layer):
        theirs, block = f"transformer.h.{i}", f"blocks.{i}"
        ours |= {
            f"{block}.attn.norm.gain": state[f"{theirs}.ln_1.weight"],
            f"{block}.mlp.norm.gain": state[f"{theirs}.ln_2.weight"],
        }
        if config.norm_positions:
            ours |= {
                f"{block}.attn.positions_gain": state[f"{theirs}.ln_p1.weight"],
                f"{block}.mlp.positions_gain": state[f"{theirs}.ln_p2.weight"],
            }
        if config.sink:
            ours[f"{block}.attn.sink"] = state[f"{theirs}.attn.attn_imp.sink_logit"]
        ours |= linears(state, theirs, block, with_biases=settings.bias, zeros=config.biases)
    return ours


def linears(state: dict[str, Tensor], theirs: str, block: str, *, with_biases: bool, zeros: bool) -> dict[str, Tensor]:
    """The linear layers of a block whose q, k and v are one matrix `[(q k v), in]`.

    Args:
        state: their tensors.
        theirs: the block's name there.
        block: its name here.
        with_biases: whether they have biases.
        zeros: whether ours has biases where they have none.
    """
    ours: dict[str, Tensor] = {}
    for name, targets in {
        "attn.c_attn": ("attn.W_q", "attn.W_k", "attn.W_v"),
        "attn.c_proj": ("attn.W_o",),
        "mlp.c_fc": ("mlp.W_in",),
        "mlp.c_proj": ("mlp.W_out",),
    }.items():
        weights = state[f"{theirs}.{name}.weight"].chunk(len(targets))
        for target, weight in zip(targets, weights, strict=True):
            ours[f"{block}.{target}.weight"] = weight
        if with_biases:
            for target, bias in zip(targets, state[f"{theirs}.{name}.bias"].chunk(len(targets)), strict=True):
                ours[f"{block}.{target}.bias"] = bias
        elif zeros:
            ours |= {f"{block}.{target}.bias": torch.zeros(len(w)) for target, w in zip(targets, weights, strict=True)}
    return ours
