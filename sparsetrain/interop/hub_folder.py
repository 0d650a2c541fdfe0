"""An export of ours as a repository of the Hugging Face hub: a folder that `from_pretrained` reads where our package is not installed.

| file | holds |
|---|---|
| config.json | the architecture, AbsTopK's places among it, and `auto_map`: which classes of which file load it |
| model.safetensors | the weights, unpacked, named as here with `model.` in front |
| modeling_sparsetrain.py | the code (`one_file.py`) |
| generation_config.json | no cache, where a text ends, which ids are no tokens |
| tokenizer.json, tokenizer_config.json | the tokenizer, if there is one; as in training, a text begins with the separator |
| README.md, meta.json | the card, and what the export said of itself |
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save

from sparsetrain.data.tokenizer import EOT
from sparsetrain.export import load_model, read_meta
from sparsetrain.interop.one_file import FILE_NAME, modeling_file
from sparsetrain.model import ModelConfig
from sparsetrain.store import write_atomic
from sparsetrain.typed import from_json

ARCHITECTURE = "SparsetrainForCausalLM"
MODULE = FILE_NAME.removesuffix(".py")
WEIGHTS, CARD = "model.safetensors", "README.md"
JSONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "meta.json")
FILES = (WEIGHTS, FILE_NAME, CARD, *JSONS)
"""All that such a folder may hold."""


def hub_config(config: ModelConfig) -> dict[str, Any]:
    """config.json: the model's own settings with every width worked out, and what `transformers` asks for."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "sparsetrain",
        "auto_map": {
            "AutoConfig": f"{MODULE}.SparsetrainConfig",
            "AutoModelForCausalLM": f"{MODULE}.{ARCHITECTURE}",
        },
        **asdict(config),
        "n_head": config.heads,
        "d_mlp": config.mlp_width,
        "dtype": "float32",
        "tie_word_embeddings": False,
        "use_cache": False,
    }


def with_separator(tokenizer_json: str) -> tuple[dict[str, Any], int | None]:
    """A tokenizer.json whose texts begin with the separator, and the separator's id; unchanged, None where it has none."""
    content: dict[str, Any] = json.loads(tokenizer_json)
    eot = next((int(one["id"]) for one in content.get("added_tokens", ()) if one["content"] == EOT), None)
    if eot is None:
        return content, None
    separator, text, more = ({"SpecialToken": {"id": EOT, "type_id": 0}}, *({"Sequence": {"id": one, "type_id": 0}} for one in "AB"))  # fmt: skip
    template = {
        "type": "TemplateProcessing",
        "single": [separator, text],
        "pair": [separator, text, separator, more],
        "special_tokens": {EOT: {"id": EOT, "ids": [eot], "tokens": [EOT]}},
    }
    own = content.get("post_processor")
    content["post_processor"] = template if own is None else {"type": "Sequence", "processors": [own, template]}
    return content, eot


def write_hub_folder(export: str | Path, folder: str | Path, readme: str, *, overwrite: bool = False) -> Path:
    """Writes the repository; it is there as a whole or not at all.

    Args:
        export: folder of an export, or `zoo:<name>`.
        folder: must not be there yet, or be empty.
        readme: the card, see `card.card`.
        overwrite: replaces a folder that holds a repository of ours.

    Raises:
        FileNotFoundError: no export.
        ValueError: a damaged export; a folder that holds something.
    """
    folder, export = Path(folder), Path(export)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"dst={folder} is a file; give a folder that is not there yet")
    if folder.is_dir() and any(folder.iterdir()) and not (overwrite and (folder / FILE_NAME).is_file()):
        fix = "give overwrite=true, or another folder" if (folder / FILE_NAME).is_file() else "give another folder"
        raise ValueError(f"dst={folder} holds something already; {fix}")
    model, meta = load_model(export), read_meta(export)
    config = model.config
    generation: dict[str, Any] = {"use_cache": False}
    files: dict[str, Any] = {"config.json": hub_config(config), "meta.json": meta}
    if (export / "tokenizer.json").is_file():
        tokenizer, eot = with_separator((export / "tokenizer.json").read_text(encoding="utf-8"))
        special: dict[str, Any] = {}
        if eot is not None:
            special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), EOT)
            generation |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot)
        if "vocab" in tokenizer["model"]:
            known = {
                *tokenizer["model"]["vocab"].values(),
                *(added["id"] for added in tokenizer.get("added_tokens", ())),
            }
            if nameless := sorted(set(range(config.d_vocab)) - known):
                generation["suppress_tokens"] = nameless
        files["tokenizer.json"] = tokenizer
        files["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **special,
            "model_max_length": config.n_ctx,
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # a text that spells the separator is a text
        }
    files["generation_config.json"] = generation
    files["config.json"] |= {key: value for key, value in generation.items() if key.endswith("_token_id")}
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{os.getpid()}"
    part.mkdir()
    try:
        state = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
        write_atomic(part / WEIGHTS, save(state, metadata={"format": "pt"}))
        for name, content in files.items():
            (part / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (part / FILE_NAME).write_text(modeling_file(), encoding="utf-8")
        (part / CARD).write_text(readme, encoding="utf-8")
        if folder.is_dir():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def places(folder: str | Path) -> dict[str, float]:
    """Which places of a repository's model have AbsTopK, and the share of their channels that it keeps."""
    shares: dict[str, float] = from_json(dict[str, Any], Path(folder) / "config.json")["abs_topk"]
    return {place: share for place, share in shares.items() if share < 1}
