"""Other people's models behind the same few verbs as ours: logits, hook points, tokenizer.

1. `load_language_model("hf:<path or name>")`, `("gguf:<file>")` or `("<run folder>")` (also `run:<run folder>`) gives a `LanguageModel`, whichever it is.
2. Its `module` maps tokens to logits and has hook points in the same naming, so that `hooked`, `record` and
   `measure_splits` work on it as on a model of ours (`hugging_face.py` says how).
3. What an architecture does not show is not made up: it is absent, with the reason in `left_out`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from sparsetrain.adapters import exported, gguf_files, hub_files, hugging_face
from sparsetrain.export import latest_export, n_params, read_meta
from sparsetrain.hooks import HookPoint, hook_points
from sparsetrain.model import Transformer

HUB_PREFIX = "hf:"
GGUF_PREFIX = "gguf:"
RUN_PREFIX = "run:"
"""May stand in front of the folder of a run of ours, for whoever likes all names in one form."""

Precision = Literal["float32", "bfloat16"]


class TextTokenizer(Protocol):
    """Text to the ids that a model reads, and ids to words for people."""

    @property
    def d_vocab(self) -> int: ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text: separators, padding, and the id of whatever is unknown."""
        ...

    @property
    def unknown_id(self) -> int | None:
        """The id of whatever is unknown; None: any text can be written."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text that begins here, with whatever the model expects in front of it."""
        ...

    def characters(self, text: str) -> list[int] | None:
        """Characters of the text that each token of `encode` stands for; None: not known.

        A character that several tokens share counts in the first of them, blanks that no token holds in the one behind.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def token(self, id: int) -> str:
        """One token as a person reads it."""
        ...


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A model that predicts next tokens, with its tokenizer; in eval mode, weights frozen."""

    name: str
    """What the user called it."""
    architecture: str
    module: nn.Module = field(repr=False)
    """Tokens `[batch, pos]` int64 -> logits `[batch, pos, d_vocab]` float32; right padding changes nothing before it."""
    tokenizer: TextTokenizer
    n_ctx: int | None
    """Most positions it can read; None: as many as memory allows."""
    step: int | None
    """Training step of the weights, where known."""
    weights_sha256: str
    seed: int | None
    """Of its training, where known."""
    left_out: Mapping[str, str]
    """Hook points that this architecture does not give -> why."""

    @property
    def n_params(self) -> int:
        """Entries over all parameters."""
        return n_params(self.module)

    def logits(self, tokens: Tensor) -> Tensor:
        """`[batch, pos]` int64 -> `[batch, pos, d_vocab]` float32, nats, no gradient."""
        with torch.no_grad():
            return self.module(tokens)

    def hook_points(self) -> dict[str, HookPoint]:
        """All hook points by name, in forward order."""
        return hook_points(self.module)


def is_of_others(name: str) -> bool:
    """Whether a name is of a model that was not trained here."""
    return name.startswith((HUB_PREFIX, GGUF_PREFIX))


def _of_others(name: str, dtype: torch.dtype, trust_remote_code: bool) -> tuple[nn.Module, hub_files.HubTokenizer]:
    if not name.startswith(GGUF_PREFIX):
        return hub_files.load(name.removeprefix(HUB_PREFIX), dtype, trust_remote_code=trust_remote_code)
    folder = gguf_files.converted(name.removeprefix(GGUF_PREFIX))
    try:
        return hub_files.load(str(folder), dtype)
    except ValueError as error:
        raise ValueError(f"{error}; {name} was converted into that folder: remove it to have it made anew") from error


def load_language_model(
    name: str, *, device: str, precision: Precision = "float32", trust_remote_code: bool = False
) -> LanguageModel:
    """Loads a model by what the user calls it.

    Args:
        name: `hf:<folder or hub name>`, `gguf:<file>`, `zoo:<name>`, or the folder of a run or export of ours, with `run:` in front of it or without.
        device: cpu or cuda.
        precision: of the weights; ours are float32 only.
        trust_remote_code: whether code that comes with an `hf:` model may run.

    Raises:
        ValueError: no `transformers` for an `hf:` model, not a causal language model, an architecture without any hook
            point, a hidden size that changes between layers, weights that are not finite, code of its own that may not run.
        FileNotFoundError: no such run.
    """
    if is_of_others(name):
        hub, tokenizer = _of_others(name, getattr(torch, precision), trust_remote_code)
        check_finite(name, hub)
        module = hugging_face.HookedHubModel(hub.to(device))
        return LanguageModel(
            name=name,
            architecture=type(hub).__name__,
            module=module,
            tokenizer=tokenizer,
            n_ctx=module.n_ctx,
            step=None,
            seed=None,
            weights_sha256=hub_files.weights_sha256(hub),
            left_out=module.left_out,
        )
    if precision != "float32":
        raise ValueError(
            f"precision={precision} is for models behind {HUB_PREFIX!r} and {GGUF_PREFIX!r}; exports of ours run in float32"
        )
    folder = latest_export(name.removeprefix(RUN_PREFIX), "model")
    model, tokenizer = exported.load(folder, device)
    check_finite(name, model)
    meta = read_meta(folder)
    return LanguageModel(
        name=name,
        architecture=type(model).__name__,
        module=model,
        tokenizer=tokenizer,
        n_ctx=model.config.n_ctx,
        step=meta["step"],
        seed=meta.get("seed"),
        weights_sha256=meta["weights_sha256"],
        left_out={},
    )


def check_finite(name: str, model: nn.Module) -> None:
    """Refuses a model that computes nothing.

    Raises:
        ValueError: a weight is NaN or infinite; the message names the first tensor and counts.
    """
    broken = {key: int((~p.isfinite()).sum()) for key, p in model.named_parameters() if not p.isfinite().all()}
    if broken:
        first, n = next(iter(broken.items()))
        raise ValueError(
            f"model={name}: {len(broken)} of its {len(list(model.parameters()))} weight tensors are not finite (NaN or infinity), the first "
            f"{first} in {n:,} entries; give a model whose training did not diverge"
        )


def at_initialisation(model: LanguageModel, seed: int) -> nn.Module:
    """The same architecture with the weights that training begins with, as a `LanguageModel.module`.

    Of a run of ours these are the very weights it drew, but for a bigram table, which adds to the logits alone and is zero here. Of another model they are drawn as its library draws them.

    Args:
        model: as loaded.
        seed: of the weights where the model does not know its own; torch's random state is left as it was.
    """
    device = next(model.module.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if model.seed is None else model.seed)
        if isinstance(model.module, hugging_face.HookedHubModel):
            return hugging_face.HookedHubModel(hub_files.initial(model.module.hub).to(device))
        assert isinstance(model.module, Transformer)
        return Transformer(model.module.config).to(device)
