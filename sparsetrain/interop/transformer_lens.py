"""TransformerLens's adapter for our models, found by its entry point `transformer_lens.architectures`.

    bridge = load_bridge("hub/mine")
    logits, cache = bridge.run_with_cache(tokens)

1. Every module keeps its own forward pass: norms, sinks and AbsTopK are as they are, nothing is folded or computed a second time.
2. Each hook point of ours is one of TransformerLens's (`NAMES`); q, k, v and z are split into heads, as its users expect.
3. What ours has and GPT-2 has not stands under a name of its own; what GPT-2 has and ours has not (scores and patterns inside the fused attention,
   inputs split by head) is absent.
"""

from typing import Any, ClassVar

from torch import Tensor
from transformer_lens.conversion_utils.conversion_steps.base_tensor_conversion import BaseTensorConversion  # pyright: ignore[reportMissingImports]
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter  # pyright: ignore[reportMissingImports]
from transformer_lens.model_bridge.generalized_components import (  # pyright: ignore[reportMissingImports]
    EmbeddingBridge,
    LinearBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent  # pyright: ignore[reportMissingImports]
from transformer_lens.model_bridge.generalized_components.opaque_block import OpaqueBlockBridge  # pyright: ignore[reportMissingImports]
from transformer_lens.model_bridge.sources import build_bridge_from_module  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer

ARCHITECTURE = "SparsetrainForCausalLM"

NORM = {"hook_resid": "hook_in", "hook_scale": "inverse_rms.hook_out", "hook_norm": "normalized.hook_out"}
BLOCK = {
    **{f"attn.norm.{ours}": f"ln1.{theirs}" for ours, theirs in NORM.items()},
    "attn.hook_in": "attn.reads.hook_out",
    "attn.hook_q": "attn.q.hook_out",
    "attn.hook_k": "attn.k.hook_out",
    "attn.hook_v": "attn.v.hook_out",
    "attn.hook_out": "attn.writes.hook_out",
    **{f"mlp.norm.{ours}": f"ln2.{theirs}" for ours, theirs in NORM.items()},
    "mlp.hook_in": "mlp.reads.hook_out",
    "mlp.hook_neuron": "mlp.neurons.hook_out",
    "mlp.hook_out": "mlp.writes.hook_out",
}
FINAL = {f"final_norm.{ours}": f"ln_final.{theirs}" for ours, theirs in NORM.items()}


def hook_names(n_layer: int) -> dict[str, str]:
    """Every hook point of a model of ours -> its name in TransformerLens."""
    blocks = {f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}" for i in range(n_layer) for ours, theirs in BLOCK.items()}
    return blocks | FINAL


class Heads(BaseTensorConversion):
    """`[batch, pos, head * d_head]` as `[batch, pos, head, d_head]`, for hooks alone."""

    splits_attention_heads = True

    def __init__(self, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head

    def handle_conversion(self, input_value: Tensor, *full_context: Any) -> Tensor:
        return input_value.unflatten(-1, (self.n_head, -1))

    def revert(self, input_value: Tensor, *full_context: Any) -> Tensor:
        return input_value.flatten(-2)


class AttentionParts(GeneralizedComponent):
    """Attention with hooks on what it reads, its heads, and what it writes."""

    hook_aliases: ClassVar[dict[str, str]] = {
        "hook_q": "q.hook_out",
        "hook_k": "k.hook_out",
        "hook_v": "v.hook_out",
        "hook_z": "o.hook_in",
    }
    property_aliases: ClassVar[dict[str, str]] = {"b_O": "o.bias"}


class MLPParts(GeneralizedComponent):
    """MLP with hooks on what it reads, its neurons behind GELU and AbsTopK, and what it writes."""

    hook_aliases: ClassVar[dict[str, str]] = {"hook_pre": "in.hook_out", "hook_post": "neurons.hook_out"}


class Block(OpaqueBlockBridge):
    """Block with the names of the residual stream, and of what is added to it."""

    hook_aliases: ClassVar[dict[str, str]] = {
        "hook_resid_pre": "hook_in",
        "hook_resid_mid": "ln2.hook_in",
        "hook_resid_post": "hook_out",
        "hook_attn_out": "attn.hook_out",
        "hook_mlp_out": "mlp.hook_out",
    }


def load_bridge(folder: str) -> Any:
    """A `TransformerBridge` around a repository of ours, whose code it runs.

    TransformerLens 4.3's own `boot_transformers` asks its built-in list of architectures alone, so that no adapter of an entry point is found there.

    Args:
        folder: as `scripts/push.py` writes it, or its name on the hub.
    """
    hub = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        # It puts the separator in front already. Not told so, TransformerLens loads it once more and asks at the console whether it may.
        tokenizer.init_kwargs["add_bos_token"] = tokenizer.bos_token is not None
    except (OSError, ValueError):  # the model of a world whose tokens are no text
        tokenizer = None
    return build_bridge_from_module(
        hub, ARCHITECTURE, hf_config=hub.config, tokenizer=tokenizer, model_name=str(folder)
    )


def norm(name: str) -> GeneralizedComponent:
    """RMSNorm: before (`hook_in`), 1/rms, without the gain, with it (`hook_out`)."""
    return GeneralizedComponent(
        name=name,
        submodules={
            "inverse_rms": GeneralizedComponent(name="hook_scale"),
            "normalized": GeneralizedComponent(name="hook_norm"),
        },
    )


class SparsetrainArchitectureAdapter(ArchitectureAdapter):
    """The parts of `SparsetrainForCausalLM` under TransformerLens's names.

    Args:
        cfg: as TransformerLens reads it from config.json.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.cfg.normalization_type = "RMS"
        self.cfg.uses_rms_norm = True
        self.cfg.final_rms = True
        self.cfg.gated_mlp = False
        self.cfg.attn_only = False
        self.cfg.act_fn = "gelu"
        self.cfg.positional_embedding_type = "none"
        heads = Heads(self.cfg.n_heads)
        projection = LinearBridge(name="W_o")
        projection.hook_in.hook_conversion = heads
        self.weight_processing_conversions = {}
        self.component_mapping = {
            "embed": EmbeddingBridge(name="model.embed"),
            "blocks": Block(
                name="model.blocks",
                config=self.cfg,
                submodules={
                    # before the parts that hold them, which are wrapped as a whole
                    "ln1": norm("attn.norm"),
                    "ln2": norm("mlp.norm"),
                    "attn": AttentionParts(
                        name="attn",
                        submodules={
                            "reads": GeneralizedComponent(name="hook_in"),
                            **{
                                part: GeneralizedComponent(name=f"hook_{part}", conversion_rule=heads) for part in "qkv"
                            },
                            "o": projection,
                            "writes": GeneralizedComponent(name="hook_out"),
                        },
                    ),
                    "mlp": MLPParts(
                        name="mlp",
                        submodules={
                            "reads": GeneralizedComponent(name="hook_in"),
                            "in": LinearBridge(name="W_in"),
                            "neurons": GeneralizedComponent(name="hook_neuron"),
                            "out": LinearBridge(name="W_out"),
                            "writes": GeneralizedComponent(name="hook_out"),
                        },
                    ),
                },
            ),
            "ln_final": norm("model.final_norm"),
            "unembed": UnembeddingBridge(name="model.unembed"),
        }
