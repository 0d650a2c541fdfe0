"""Model and tokenizer of `transformers`, from a folder or from the hub: the one file that knows that library."""

import hashlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from sparsetrain.typed import one_line

ASKS_FOR_TRUST = "trust_remote_code"
"""Stands in what the library says of a model whose code it may not run. It is always told, since it would ask on the terminal otherwise."""
NO_TOKENIZER = "there is no tokenizer beside the model; save it there with its save_pretrained"


def weights_sha256(model: nn.Module) -> str:
    """Hash of names, types and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class HubTokenizer:
    """A tokenizer of `transformers`, with the special tokens that it puts around a text by itself.

    Args:
        backend: as `AutoTokenizer` loads it.
    """

    def __init__(self, backend: Any) -> None:
        # Text that spells a special token is text; those that the tokenizer puts around it are not in the text.
        backend.split_special_tokens = True
        self._backend = backend
        self.d_vocab = len(backend)
        self.special_ids = frozenset(int(i) for i in backend.all_special_ids)
        self.unknown_id: int | None = backend.unk_token_id
        self._ends = {backend.eos_token_id, backend.sep_token_id} - {None, backend.bos_token_id, backend.cls_token_id}

    def encode(self, text: str) -> list[int]:
        ids = [int(i) for i in self._backend.encode(text, verbose=False)]
        # An end behind the text would be read as the last token; a text goes on.
        return ids[:-1] if ids and ids[-1] in self._ends else ids

    def characters(self, text: str) -> list[int] | None:
        if not self._backend.is_fast:  # the others do not say where in the text a token stands
            return None
        found = self._backend(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
        ends = list(accumulate((end for _, end in found), max))
        return [end - before for before, end in pairwise([0, *ends])][: len(self.encode(text))]

    @property
    def eot_id(self) -> int:
        """What a prompt begins with: the token that begins a text, or (as GPT-2 has it) that ends the one before.

        Raises:
            ValueError: the tokenizer has neither.
        """
        for id in (self._backend.bos_token_id, self._backend.eos_token_id):
            if id is not None:
                return int(id)
        raise ValueError(
            "the model's tokenizer has no token for the beginning or the end of a text, so prompts have nothing to begin with; "
            "give it one: bos_token in tokenizer_config.json"
        )

    def inside(self, text: str) -> list[int]:
        """Ids of a text without anything in front of it or behind it."""
        return [int(i) for i in self._backend.encode(text, add_special_tokens=False, verbose=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids))

    def token(self, id: int) -> str:
        word = self._backend.convert_ids_to_tokens(int(id))
        if word is None:
            raise ValueError(f"no token with id {id}; ids go from 0 to {self.d_vocab - 1}")
        text = self._backend.convert_tokens_to_string([word])
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def initial(model: nn.Module) -> nn.Module:
    """A model of the same settings and precision with weights drawn from torch's global generator."""
    hub = cast(Any, model)
    # The class itself, since looking it up anew asks whether its code is trusted.
    return type(hub)._from_config(hub.config, dtype=hub.dtype)  # pyright: ignore[reportPrivateUsage]


def _place(key: str, source: str) -> str:
    """A folder that is there, or a hub name.

    Raises:
        ValueError: nothing is named, or a folder that is not there or holds no model.
    """
    if not source:
        raise ValueError(f"{key}=hf: names no model; give {key}=hf:<folder or hub name>")
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{key}=hf:{source}: the folder has no config.json; save the model there with save_pretrained"
            )
    elif folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        near = get_close_matches(folder.name, siblings, n=3)
        raise ValueError(f"{key}=hf:{source}: no such folder{'; near names: ' + ', '.join(near) if near else ''}")
    return str(folder) if folder.is_dir() else source


@contextmanager
def _loading(key: str, source: str, trust_remote_code: bool) -> Iterator[None]:
    """Loads without a word of the library's own; what goes wrong is one line.

    Raises:
        ValueError: what the library says; a model with code of its own that may not run.
    """
    import transformers

    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{key}=hf:{source} could not be loaded: its weights are a pickle that holds more than tensors, and that is never "
            f"read; take a revision with safetensors"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if ASKS_FOR_TRUST in str(error):
            raise ValueError(
                f"{key}=hf:{source} comes with code of its own, which is run only with trust_remote_code=true; read that code first"
            ) from error
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{key}=hf:{source} could not be loaded: {line}") from error
    except Exception as error:  # code of others may raise anything
        if not trust_remote_code:
            raise
        raise ValueError(
            f"{key}=hf:{source}: its own code failed: {type(error).__name__}: {one_line(error)}"
        ) from error
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _refuse_missing(keys: Iterable[object]) -> None:
    if missing := sorted(map(str, keys)):
        raise ValueError(f"{len(missing)} weights of the model are not in its files, the first {missing[0]}")


def _tokenizer(place: str, trust_remote_code: bool) -> Any:
    """The tokenizer beside a model.

    Raises:
        ValueError: there is none that can be read.
    """
    import transformers

    try:
        backend = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        if ASKS_FOR_TRUST in str(error):
            raise
        line = next((line.strip(" :") for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{NO_TOKENIZER} ({line})") from error
    # Of some architectures the library makes one without a single word where there are no files.
    if len(backend.get_vocab()) <= len(backend.get_added_vocab()):
        raise ValueError(NO_TOKENIZER)
    return backend


def _library(key: str, source: str) -> Any:
    """`transformers`, for what a user gave as `<key>=hf:<source>`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(
            f"{key}=hf:{source} needs the transformers library; install it with pip install 'sparsetrain[hub]'"
        ) from None
    return transformers


def load_model(source: str, dtype: torch.dtype, *, key: str = "model", trust_remote_code: bool = False) -> nn.Module:
    """A causal language model by folder or hub name. Code that comes with it is run only where that is allowed.

    Args:
        source: folder or hub name.
        dtype: of the weights.
        key: under which the user gave it, for messages.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ValueError: `transformers` is not installed; no such model; weights that are missing; code that may not run.
    """
    transformers = _library(key, source)
    place = _place(key, source)
    with _loading(key, source, trust_remote_code):
        model, loaded = cast(
            tuple[nn.Module, dict[str, Any]],
            transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, output_loading_info=True, trust_remote_code=trust_remote_code
            ),
        )
        _refuse_missing({*loaded["missing_keys"], *loaded["mismatched_keys"]})
    return model


def load(source: str, dtype: torch.dtype, *, trust_remote_code: bool = False) -> tuple[nn.Module, HubTokenizer]:
    """Model and tokenizer by folder or hub name; arguments as for `load_model`.

    Raises:
        ValueError: as `load_model`; no tokenizer, or one with more tokens than the model has.
    """
    model = load_model(source, dtype, trust_remote_code=trust_remote_code)
    with _loading("model", source, trust_remote_code):
        tokenizer = HubTokenizer(_tokenizer(_place("model", source), trust_remote_code))
    d_vocab = cast(Any, model).get_input_embeddings().weight.shape[0]
    if tokenizer.d_vocab > d_vocab:
        raise ValueError(
            f"model=hf:{source}: the tokenizer has {tokenizer.d_vocab} tokens, the model {d_vocab}; they do not belong together"
        )
    return model, tokenizer


def tokenizer_json(source: str, *, trust_remote_code: bool = False) -> str | None:
    """The tokenizer beside a model as the text of a `tokenizer.json`; None: there is none, or none in that form."""
    try:
        backend = _tokenizer(_place("src", source), trust_remote_code)
    except ValueError:
        return None
    return backend.backend_tokenizer.to_str(pretty=True) if backend.is_fast else None


def load_encoder(name: str, *, trust_remote_code: bool = False) -> tuple[nn.Module, Callable[[Sequence[str]], Any]]:
    """A sentence encoder, and what makes texts its inputs (filled up, with an attention mask).

    Raises:
        ValueError: `transformers` is not installed, or there is no such encoder.
    """
    transformers = _library("similarity", name)
    place = _place("similarity", name)
    with _loading("similarity", name, trust_remote_code):
        encoder, loaded = cast(
            tuple[nn.Module, dict[str, Any]],
            transformers.AutoModel.from_pretrained(
                place, output_loading_info=True, trust_remote_code=trust_remote_code
            ),
        )
        # A pooler reads what is averaged here, and is not used.
        _refuse_missing(key for key in {*loaded["missing_keys"], *loaded["mismatched_keys"]} if not str(key).startswith("pooler."))  # fmt: skip
        backend = _tokenizer(place, trust_remote_code)
    if backend.pad_token is None:
        raise ValueError(
            f"similarity=hf:{name}: its tokenizer has no token to fill texts up with; give a sentence encoder"
        )
    positions = getattr(cast(Any, encoder).config, "max_position_embeddings", None)
    # Where some positions stand for padding, the tokenizer knows how many are left.
    longest = min(backend.model_max_length, backend.model_max_length if positions is None else positions)

    def tokenize(texts: Sequence[str]) -> Any:
        return backend(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")

    return encoder.eval().requires_grad_(False), tokenize
