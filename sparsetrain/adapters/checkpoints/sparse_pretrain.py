"""Checkpoints of the public reproduction (repository jacobcd52/sparse_pretrain_public): `config.json` and `pytorch_model.bin`.

1. `config.json` has sections model_config, sparsity_config, training_config; a model that was trained with bridges has bridges_config too
   and its weights in `sparse_model.bin` (the bridges themselves are not read).
2. k of AbsTopK is int(activation_topk_fraction x width), at least 1.
3. Uploads leave out at which places it stands; then `training_config.yaml` beside it says so, or the user (`places`). The repository's own
   loader assumes eight places there, also for models that were trained with others (resid_pre, resid_mid).
4. The unembedding has no bias. Without flash attention their code computes no sinks, whatever the settings say.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from sparsetrain.adapters.checkpoints.gao import linears
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
from sparsetrain.typed import Count, one_line

SETTINGS, TRAINING = "config.json", "training_config.yaml"
WEIGHTS = ("pytorch_model.bin", "sparse_model.bin")
PLACES = "activation_sparsity_locations"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """`model_config`; defaults as their code has them."""

    n_layer: Count = 8
    d_model: Count = 1024
    n_ctx: Count = 256
    d_head: Count = 16
    d_mlp: Count | None = None
    vocab_size: Count
    use_rms_norm: bool = True
    tie_embeddings: bool = False
    use_positional_embeddings: bool = False
    use_bigram_table: bool = True
    use_attention_sinks: bool = True
    activation: Literal["gelu", "relu"] = "gelu"
    dropout: float = 0.0
    use_bias: bool = True
    use_flash_attention: bool = True

    @property
    def mlp(self) -> int:
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp


@dataclass(frozen=True, kw_only=True)
class SparsitySettings:
    """`sparsity_config`; only what concerns activations matters here."""

    enable_weight_sparsity: bool = True
    target_l0_fraction: float = 1 / 64
    sparsity_anneal_start_fraction: float = 0.01
    sparsity_anneal_end_fraction: float = 0.5
    anneal_type: str = "linear"
    min_weights_per_neuron: int = 4
    enable_activation_sparsity: bool = True
    activation_topk_fraction: float = 0.25
    activation_sparsity_locations: str | None = None
    """None: the file does not say."""


@dataclass(frozen=True, kw_only=True)
class SparsePretrainSettings:
    """`config.json`."""

    model_config: ModelSettings
    sparsity_config: SparsitySettings
    training_config: dict[str, Any] = field(default_factory=dict)
    bridges_config: dict[str, Any] = field(default_factory=dict)


def places_of(folder: Path, settings: SparsitySettings, places: str) -> list[str]:
    """Where AbsTopK stands: as the config says, or the training's settings beside it, or the user.

    Raises:
        ValueError: nobody says, two say different things, or a place that our model has not.
    """
    said = {f"{SETTINGS}: sparsity_config.{PLACES}": settings.activation_sparsity_locations}
    training = folder / TRAINING
    if training.is_file():
        try:
            tree = yaml.safe_load(training.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{training} is no YAML: {one_line(error)}") from None
        section = tree.get("sparsity") if isinstance(tree, dict) else None
        said[f"{TRAINING}: sparsity.{PLACES}"] = section.get(PLACES) if isinstance(section, dict) else None
    said["places"] = places or None
    known = {where: value for where, value in said.items() if value is not None}
    if not known:
        raise ValueError(
            f"{folder / SETTINGS}: sparsity_config.{PLACES} is missing, and there is no {TRAINING} that has it; give the places that the "
            f"model was trained with: places=<some of {', '.join(NODE_KINDS)}>"
        )
    if len({frozenset(str(value).split(",")) for value in known.values()}) > 1:
        raise ValueError(
            f"{folder}: the places of AbsTopK differ: {'; '.join(f'{where}={value}' for where, value in known.items())}"
        )
    where, value = next(iter(known.items()))
    found = str(value).split(",")
    if unknown := [place for place in found if place not in NODE_KINDS]:
        raise ValueError(
            f"{folder}: {where} has {','.join(unknown)}, which cannot be represented: AbsTopK stands at {', '.join(NODE_KINDS)} in our model"
        )
    return found


def shapes_of(settings: ModelSettings) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint with these settings."""
    d, n_vocab, bias = settings.d_model, settings.vocab_size, settings.use_bias
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (n_vocab, d)}
    if settings.use_positional_embeddings:
        shapes["wpe.weight"] = (settings.n_ctx, d)
    for i in range(settings.n_layer):
        block = f"blocks.{i}"
        shapes |= {f"{block}.ln_1.weight": (d,), f"{block}.ln_2.weight": (d,)}
        if settings.use_attention_sinks:
            shapes[f"{block}.attn.attn_fn.sink_logit"] = (d // settings.d_head,)
        if not settings.use_flash_attention:
            shapes[f"{block}.attn.causal_mask"] = (1, 1, settings.n_ctx, settings.n_ctx)
        for name, n_out, n_in in (
            ("attn.c_attn", 3 * d, d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", settings.mlp, d),
            ("mlp.c_proj", d, settings.mlp),
        ):
            shapes |= {f"{block}.{name}.weight": (n_out, n_in)} | ({f"{block}.{name}.bias": (n_out,)} if bias else {})
    shapes |= {"ln_f.weight": (d,), "lm_head.weight": (n_vocab, d)}
    return shapes | ({"bigram_table": (n_vocab, n_vocab)} if settings.use_bigram_table else {})


def read_sparse_pretrain(source: Source) -> Imported:
    """A folder with `config.json` and `pytorch_model.bin` (or `sparse_model.bin`).

    Raises:
        ValueError: a setting that our model has not, or tensors that do not fit the settings; names the key.
    """
    folder = folder_of(source.place, SETTINGS)
    path = folder / SETTINGS
    there = [name for name in WEIGHTS if (folder / name).is_file()]
    if len(there) != 1:
        raise ValueError(f"src={source.place} must hold one of {' and '.join(WEIGHTS)}; it has {len(there)} of them")
    whole = settings_of(SparsePretrainSettings, read_object(path), path)
    settings, sparsity = whole.model_config, whole.sparsity_config
    if not settings.use_rms_norm:
        raise refuse(path, "model_config.use_rms_norm", False, "our model has RMSNorm alone; allowed: true")
    if settings.d_model % settings.d_head:
        raise ValueError(
            f"{path}: model_config.d_head={settings.d_head} must divide model_config.d_model={settings.d_model}"
        )
    if not 0 < sparsity.activation_topk_fraction <= 1:
        raise ValueError(
            f"{path}: sparsity_config.activation_topk_fraction={sparsity.activation_topk_fraction} must lie in (0, 1]"
        )
    if sparsity.enable_activation_sparsity:
        kinds = places_of(folder, sparsity, source.places)
    elif source.places:
        raise ValueError(f"places={source.places}: {path} says enable_activation_sparsity=false; leave places out")
    else:
        kinds = []
    found = read_tensors(folder / there[0])
    state = check_tensors(folder / there[0], SETTINGS, found, shapes_of(settings))
    if settings.tie_embeddings:
        check_tied(folder / there[0], "tie_embeddings", state, "wte.weight", "lm_head.weight")
    dense = ModelConfig(
        d_vocab=settings.vocab_size,
        n_layer=settings.n_layer,
        d_model=settings.d_model,
        n_ctx=settings.n_ctx,
        d_head=settings.d_head,
        d_mlp=settings.mlp,
        positions="learned" if settings.use_positional_embeddings else "none",
        activation=settings.activation,
        abs_topk={},
        sink=settings.use_attention_sinks and settings.use_flash_attention,
        bigram=settings.use_bigram_table,
        biases=settings.use_bias,
        norm_eps=EPS,
    )
    config = replace(
        dense, abs_topk={kind: _share(sparsity.activation_topk_fraction, dense.width(kind)) for kind in kinds}
    )
    return Imported(
        config=config,
        state=_ours(state, config),
        tokenizer_name=whole.training_config.get("tokenizer_name"),
        tokenizer_json=tokenizer_beside(folder),
        facts={
            "files": files_of(folder, SETTINGS, there[0]),
            "settings": read_object(path),
            "tied_unembed": settings.tie_embeddings,
            "abs_topk_places": kinds,
        },
    )


def _share(fraction: float, width: int) -> float:
    """The fraction, or one of which one channel is kept where theirs would keep none: int(1.5) is 1."""
    return fraction if int(fraction * width) >= 1 else 1.5 / width


def _ours(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors under our names."""
    ours = {
        "embed.weight": state["wte.weight"],
        "final_norm.gain": state["ln_f.weight"],
        "unembed.weight": state["lm_head.weight"],
    }
    if config.biases:
        ours["unembed.bias"] = torch.zeros(config.d_vocab)
    if config.positions == "learned":
        ours["positions"] = state["wpe.weight"]
    if config.bigram:
        ours["bigram.weight"] = state["bigram_table"]
    for i in range(config.n_layer):
        block = f"blocks.{i}"
        ours |= {
            f"{block}.attn.norm.gain": state[f"{block}.ln_1.weight"],
            f"{block}.mlp.norm.gain": state[f"{block}.ln_2.weight"],
        }
        if config.sink:
            ours[f"{block}.attn.sink"] = state[f"{block}.attn.attn_fn.sink_logit"]
        ours |= linears(state, block, block, with_biases=config.biases, zeros=False)
    return ours
