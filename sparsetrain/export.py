"""A model as a folder: config.json, model.safetensors, tokenizer.json, meta.json.

Such an export is for everything but resuming (that is what `.ckpt` files are for): it holds the model's own
config, loads strictly, needs neither Lightning nor pickle, and carries the hash of its weights.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file, save
from torch import nn

from sparsetrain.linear import multiply_by_nonzeros_
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.packed import pack, unpack
from sparsetrain.shipped import is_shipped, shipped_folder
from sparsetrain.store import sha256, write_atomic
from sparsetrain.typed import from_dict, from_json

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One of the trainings behind a model's weights, as the meta.json of its export tells it; None: an older version, which did not say."""

    name: str | None
    """Of the experiment."""
    weights_sha256: str
    step: int | None
    """None: weights of others."""
    n_tokens: int | None
    """Training tokens of this training alone."""
    seed: int | None
    density: float | None
    """Of the weight matrices at the end."""
    schedule: str | None
    """Learning rate and density over its steps, in words."""
    corpus_hash: str | None
    next_batch: int
    """Of its stream, behind the last one that was taken."""

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> "Ancestor":
        """The training whose export has this meta.json."""
        known = {field.name: meta.get(field.name) for field in fields(cls)}
        return from_dict(cls, {**known, "next_batch": meta.get("next_batch", meta["step"])})


def export_model(
    model: Transformer, folder: Path, tokenizer_json: str | None, meta: dict[str, Any], *, packed: bool = False
) -> Path:
    """Writes the export folder of a model.

    Args:
        model: on any device; contiguous copies are saved, float32 as trained.
        folder: usually `<run>/export/step_<n>`.
        tokenizer_json: serialised tokenizer, or None for a model whose tokens are no text.
        meta: plain JSON (step, seed, hash of the corpus...); the hash of the weights is added.
        packed: store nonzero values and their places, and the bigram table in 256 levels a row (`sparsetrain.packed`): `load_model`
            then gives a model whose table is rounded to them.
    """
    state = {name: p.detach().contiguous().cpu() for name, p in model.state_dict().items()}
    weights = save(pack(state, tables=[name for name in state if name.startswith("bigram")]) if packed else state)
    write_atomic(folder / "model.safetensors", weights)
    if tokenizer_json is not None:
        write_atomic(folder / "tokenizer.json", tokenizer_json.encode())
    config = {"format_version": FORMAT_VERSION, **asdict(model.config)}
    meta = {**meta, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    for name, content in (("config", config), ("meta", meta)):  # an export without its meta.json is not finished
        write_atomic(folder / f"{name}.json", (json.dumps(content, indent=2) + "\n").encode())
    return folder


def load_model(
    folder: str | Path, device: str = "cpu", *, compute: Literal["dense", "sparse"] = "dense"
) -> Transformer:
    """Loads an export folder: strict, without Lightning and without pickle; the model is in eval mode.

    Args:
        folder: of an export, or of a run (its latest export), or `zoo:<name>` for a model that ships with the package.
        device: where its weights go.
        compute: `sparse`: layers whose weights have few nonzeros compute by these alone, which is faster and equal but for rounding.

    Raises:
        FileNotFoundError: the folder is no export.
        ValueError: another `compute`, an unknown config key, a missing or unexpected tensor, or weights that do not match their hash.
    """
    if compute not in ("dense", "sparse"):
        raise ValueError(f"compute={compute!r} must be dense or sparse")
    if is_shipped(folder) or (Path(folder) / "export").is_dir():
        folder = latest_export(folder, "model")
    folder = Path(folder)
    for name in ("config.json", "model.safetensors", "meta.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not an export folder: it has no {name}")
    config = from_json(dict[str, Any], folder / "config.json")
    version = config.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(f"{folder}/config.json has format_version {version}; this version reads {FORMAT_VERSION}")
    unknown = sorted(set(config) - {field.name for field in fields(ModelConfig)})
    if unknown:
        raise ValueError(f"{folder}/config.json has unknown keys {unknown}")
    expected = read_meta(folder)["weights_sha256"]
    found = sha256(folder / "model.safetensors")
    if found != expected:
        raise ValueError(
            f"{folder}/model.safetensors is damaged: sha256 {found[:16]}..., meta.json says {expected[:16]}..."
        )
    try:
        model = Transformer(from_dict(ModelConfig, config))
    except ValueError as error:
        raise ValueError(f"{folder}/config.json: {error}") from None
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    try:
        state = unpack(load_file(folder / "model.safetensors", device=device), shapes)
    except ValueError as error:
        raise ValueError(f"{folder}/model.safetensors: {error}") from None
    difference = sorted(set(state) ^ set(model.state_dict()))
    if difference:
        raise ValueError(f"{folder}/model.safetensors does not fit its config.json; tensors in one only: {difference}")
    if wrong := [name for name, shape in shapes.items() if state[name].shape != shape]:
        first = wrong[0]
        raise ValueError(
            f"{folder}/model.safetensors does not fit its config.json: {first} is {list(state[first].shape)}, the config says {list(shapes[first])}"
        )
    model.to(device).load_state_dict(state, strict=True, assign=True)
    model.eval().requires_grad_(False)
    if compute == "sparse":
        multiply_by_nonzeros_(model)
    return model


def read_meta(folder: str | Path) -> dict[str, Any]:
    """meta.json of an export folder.

    Raises:
        ValueError: a file without the hash of the weights.
    """
    path = Path(folder) / "meta.json"
    meta = from_json(dict[str, Any], path)
    if not isinstance(meta.get("weights_sha256"), str):
        raise ValueError(f"{path} is damaged: it does not say which weights it belongs to (weights_sha256)")
    return meta


def latest_export(run: str | Path, key: str = "run") -> Path:
    """The export of the highest step in a run's folder (or the folder itself, if it is an export).

    Args:
        run: the folder, or `zoo:<name>`.
        key: of the setting that names it, for messages.

    Raises:
        FileNotFoundError: no such folder, or nothing was exported in it.
    """
    run = shipped_folder(run, key)
    if not run.is_dir():
        raise FileNotFoundError(
            f"{key}={run}: no such folder; give the folder of a finished run (runs/<experiment>/<stamp>)"
        )
    if (run / "model.safetensors").is_file():
        return run
    exports = {
        int(match[1]): path
        for path in (run / "export").glob("step_*")
        if (match := re.fullmatch(r"step_(\d+)", path.name)) and (path / "meta.json").is_file()
    }
    if not exports:
        raise FileNotFoundError(f"{key}={run} holds no export (export/step_<n>/); has the run finished?")
    return exports[max(exports)]


def n_params(model: nn.Module) -> int:
    """Number of entries over all parameters, zeros included."""
    return sum(p.numel() for p in model.parameters())
