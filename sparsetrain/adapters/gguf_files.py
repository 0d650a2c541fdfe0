"""Models in GGUF files (llama.cpp's format, usually quantised), converted once into a folder that `transformers` reads like any other.

Weights are dequantised to float32 as the file says them, so the model is the quantised one, and says so in nothing but its name: a page that
shows its numbers should. The folder is named for the content of the file, and is made whole or not at all.
"""

import os
import shutil
import struct
from pathlib import Path
from typing import Any, cast

from sparsetrain.store import sha256

MAGIC = b"GGUF"
_NEEDED = ("transformers", "gguf", "accelerate")


def cache_folder() -> Path:
    """`$SPARSETRAIN_CACHE/gguf`, by default `~/.cache/sparsetrain/gguf`."""
    return Path(os.environ.get("SPARSETRAIN_CACHE") or "~/.cache/sparsetrain").expanduser() / "gguf"


def converted(file: str, cache: Path | None = None) -> Path:
    """The folder of a GGUF file's model and tokenizer, made when it is first asked for (a minute for 135 M parameters).

    Args:
        file: as the user names it, behind `gguf:`.
        cache: where folders are kept; None: `cache_folder()`.

    Raises:
        ValueError: no such file, no GGUF file, an architecture that transformers does not read from one, or a package of the extra `hub` that is
            not installed.
        OSError: the folder cannot be written.
    """
    path = Path(file).expanduser()
    if not file or not path.is_file():
        raise ValueError(f"model=gguf:{file}: no such file; give model=gguf:<file.gguf>")
    with path.open("rb") as start:
        if start.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"model=gguf:{file} is no GGUF file: it does not begin with {MAGIC.decode()}")
    folder = (cache or cache_folder()) / f"{path.stem}-{sha256(path)[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        _convert(path, part, file)
        part.rename(folder)
    except OSError:
        if not folder.is_dir():  # not that another process was faster
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path, named: str) -> None:
    try:
        import accelerate  # noqa: F401  # pyright: ignore[reportMissingImports]
        import gguf  # noqa: F401  # pyright: ignore[reportMissingImports]
        import torch
        import transformers
    except ImportError as error:
        raise ValueError(
            f"model=gguf:{named} needs {', '.join(_NEEDED)}, and {error.name} is not installed; pip install 'sparsetrain[hub]'"
        ) from None
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "local_files_only": True,
    }
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
        loaded = cast(Any, transformers.AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32))
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # its weights are not quantised any more, and it could not be saved
        plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except (
        ValueError,
        LookupError,
        RuntimeError,
        AttributeError,
        TypeError,
        ArithmeticError,
        struct.error,
    ) as error:  # a file can be wrong in any way
        line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"model=gguf:{named} could not be converted: {line}") from error
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
