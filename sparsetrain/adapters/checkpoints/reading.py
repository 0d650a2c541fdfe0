"""Strict reading of checkpoints: settings into typed dataclasses, tensors against the list of those that the settings ask for."""

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.store import sha256
from sparsetrain.typed import from_dict, one_line

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of weights; each is exact in float32, in which the layouts' own loaders compute."""
EPS = torch.finfo(torch.float32).eps
"""Epsilon of `torch.nn.RMSNorm` where none is given: the machine epsilon of float32."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the user names.

    Args:
        place: a folder; for `huggingface` also a hub name.
        places: of AbsTopK, comma-separated, where a checkpoint does not say; empty: it must.
        trust_remote_code: whether code that comes with a model may run.
    """

    place: str
    places: str = ""
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A checkpoint as a model of ours.

    Args:
        config: of the model.
        state: its tensors under our names, float32.
        tokenizer_name: what the checkpoint says its tokenizer is called; None: nothing.
        tokenizer_json: the tokenizer beside it; None: there is none.
        facts: for `meta.json`: hashes of the files, settings as they were found, what was folded.
    """

    config: ModelConfig
    state: Mapping[str, Tensor] = field(repr=False)
    tokenizer_name: str | None
    tokenizer_json: str | None = field(repr=False)
    facts: Mapping[str, Any]

    def model(self) -> Transformer:
        """The model, in eval mode, weights frozen."""
        with torch.random.fork_rng(devices=[]):
            model = Transformer(self.config)
        contiguous = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.state.items()}
        model.load_state_dict(contiguous, strict=True, assign=True)
        return model.eval().requires_grad_(False)


def folder_of(place: str, *names: str) -> Path:
    """A folder that holds these files.

    Raises:
        ValueError: it is not there, or lacks one.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise ValueError(f"src={place}: no such folder")
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"src={place}: the folder has no {name}; this layout has {', '.join(names)}")
    return folder


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        ValueError: it holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {one_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected an object of settings")
    return found


def settings_of(schema: type[T], tree: Mapping[str, Any], path: Path) -> T:
    """Settings as their dataclass.

    Raises:
        ValueError: an unknown key, a missing one, a wrong type; one line that names file and key.
    """
    try:
        return from_dict(schema, dict(tree))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dictionary that `torch.save` wrote, on the CPU. Nothing in the file is run.

    Raises:
        ValueError: a damaged file, one that holds more than tensors by name, weights that are not finite or of another type.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path} is damaged, or a pickle that holds more than tensors, which is never read; save its state_dict"
        ) from None
    except Exception as error:  # what bytes that are no checkpoint raise is anything
        raise ValueError(f"{path} is damaged: {one_line(error)[:200]}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a state_dict: names and their tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path}: {name!r} is a {type(tensor).__name__}; expected names and their tensors")
    return dict(found)


def check_tensors(path: Path, settings: str, found: Mapping[str, Tensor], wanted: Shapes) -> dict[str, Tensor]:
    """The tensors in float32, exactly those that the settings ask for.

    Args:
        path: of the file, for messages.
        settings: name of the file with the settings, for messages.
        found: the file's tensors.
        wanted: all that there must be.

    Raises:
        ValueError: a name too many or too few, another shape or type, a value that is not finite; one line that names it and what is
            allowed.
    """
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        parts = [f"it lacks {_some(missing)}"] * bool(missing) + [f"{_some(unknown)} is unknown"] * bool(unknown)
        raise ValueError(f"{path} does not fit {settings}: {'; '.join(parts)}; allowed: {', '.join(_patterns(wanted))}")
    for name, shape in wanted.items():
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{path}: {name} has shape {list(tensor.shape)}, {settings} asks for {list(shape)}")
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
            raise ValueError(f"{path}: {name} is {str(tensor.dtype).removeprefix('torch.')}; allowed: {allowed}")
        if n_broken := int((~tensor.isfinite()).sum()):
            raise ValueError(f"{path}: {name} is not finite (NaN or infinity) in {n_broken:,} entries")
    return {name: found[name].float() for name in wanted}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _patterns(names: Shapes) -> list[str]:
    """Names with `{i}` for the number of a block, each once."""
    return list(dict.fromkeys(re.sub(r"\.\d+\.", ".{i}.", name) for name in names))


def refuse(path: Path, key: str, value: object, why: str) -> ValueError:
    """The error for a setting that our model has not."""
    return ValueError(f"{path}: {key}={value!r} cannot be represented: {why}")


def check_tied(path: Path, key: str, state: Mapping[str, Tensor], embed: str, unembed: str) -> None:
    """Refuses two matrices of which the settings say that they are one.

    Raises:
        ValueError: they differ; names both.
    """
    if not torch.equal(state[embed], state[unembed]):
        raise ValueError(f"{path}: {key}=true, but {embed} and {unembed} differ")


def files_of(folder: Path, *names: str) -> dict[str, str]:
    """Hashes of the files that were read, by name."""
    return {name: sha256(folder / name) for name in names}


def tokenizer_beside(folder: Path) -> str | None:
    """The text of a folder's `tokenizer.json`; None: it has none.

    Bytes that are no UTF-8 are replaced: whoever reads the tokenizer says that it is none.
    """
    path = folder / "tokenizer.json"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
