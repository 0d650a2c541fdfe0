"""The classes by which `transformers` loads a Hub repository of ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from sparsetrain.interop.standalone import rearrange
from sparsetrain.kernels.attention import attention_pattern
from sparsetrain.model import Block, ModelConfig, Transformer


class SparsetrainConfig(PretrainedConfig):
    """`ModelConfig` as config.json holds it; `abs_topk` says which places have AbsTopK, and how large a share of their channels it keeps."""

    model_type = "sparsetrain"
    attribute_map: ClassVar[dict[str, str]] = {
        "vocab_size": "d_vocab",
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "d_mlp",
        "head_dim": "d_head",
        "max_position_embeddings": "n_ctx",
    }

    def __init__(self, **settings: Any) -> None:
        for one in fields(ModelConfig):
            default = one.default if one.default_factory is MISSING else one.default_factory()
            setattr(self, one.name, settings.pop(one.name, default))
        settings["tie_word_embeddings"] = False
        super().__init__(**settings)

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        return ModelConfig(**{one.name: getattr(self, one.name) for one in fields(ModelConfig)})


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects what modules give while the block lasts, in the order in which they run."""
    found: list[Tensor] = []
    handles = [module.register_forward_hook(lambda *call: found.append(call[-1])) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


class SparsetrainForCausalLM(PreTrainedModel, GenerationMixin):
    """A weight-sparse transformer. Its hook points are modules, `model.blocks.0.attn.hook_q` for instance.

    There is no cache of keys and values: AbsTopK and RMSNorm are cheap, and models are small. Padding behind a text changes nothing before it;
    padding in front of one is refused, since the model knows no mask.
    """

    config_class = SparsetrainConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _supports_sdpa = True

    def __init__(self, config: SparsetrainConfig) -> None:
        super().__init__(config)
        self.model = Transformer(config.model)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: `Transformer` has drawn its weights."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embed = value

    def get_output_embeddings(self) -> nn.Module:
        return self.model.unembed

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.model.unembed = new_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """Logits `[batch, pos, d_vocab]`, and the mean loss (nats/token) of `labels` where they are given (-100: not counted).

        `hidden_states`: the residual stream before each block and before the final norm. `attentions`: `[batch, head, query, key]` of each block;
        what is missing from a row's 1 lies on the sink.

        Raises:
            ValueError: padding in front of a text.
        """
        if attention_mask is not None and bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any()):
            raise ValueError("this model knows no attention mask: pad behind the text (padding_side='right')")
        parts = [block.attn for block in self.model.blocks if isinstance(block, Block)]
        streams: list[nn.Module] = [*(part.norm.hook_resid for part in parts), self.model.final_norm.hook_resid]
        heads: list[nn.Module] = [point for part in parts for point in (part.hook_q, part.hook_k)]
        with (
            outputs_of(streams if output_hidden_states else []) as resid,
            outputs_of(heads if output_attentions else []) as qk,
        ):
            logits = self.model(input_ids)
        qk = [rearrange(x, "batch pos (head d) -> batch head pos d", head=self.config.n_head) for x in qk]
        seen = zip(qk[::2], qk[1::2], parts, strict=True) if output_attentions else ()
        patterns = [attention_pattern(q, k, part.sink)[..., :-1] for q, k, part in seen]
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        found = CausalLMOutput(
            loss=loss, logits=logits, hidden_states=tuple(resid) or None, attentions=tuple(patterns) or None
        )
        return found.to_tuple() if return_dict is False else found

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any
    ) -> dict[str, Any]:
        """The last `n_ctx` tokens: what the model was trained to read.

        Raises:
            ValueError: prompts of different lengths in one batch.
        """
        if attention_mask is not None and not bool(attention_mask.all()):
            raise ValueError("prompts of one batch must have the same number of tokens: generate them one at a time")
        return {"input_ids": input_ids[:, -self.config.n_ctx :]}


SparsetrainConfig.register_for_auto_class()
SparsetrainForCausalLM.register_for_auto_class("AutoModelForCausalLM")
