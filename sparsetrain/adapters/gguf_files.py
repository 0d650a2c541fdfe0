"""Models in GGUF files (llama.cpp's format, usually quantised), converted once into a folder that `transformers` reads like any other.

1. Weights are dequantised to float32 as the file says them, so the model is the quantised one, and says so in nothing but its name: a page
   that shows its numbers should.
2. The folder is named for the content of the file and for what converts it, and is made whole or not at all; of two processes that make it at once, one is used.
3. A weight that the file does not have is an error: nothing of the model is drawn at random.
"""

import glob
import secrets
import shutil
import struct
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError

from sparsetrain.kernels import native
from sparsetrain.store import fingerprint, sha256
from sparsetrain.typed import one_line

MAGIC = b"GGUF"
CONVERSION = 1
"""Goes up with every change of what a file is converted to."""
N_STEM = 60
"""Characters of the file's name that are kept in the folder's."""
_NEEDED = ("transformers", "gguf", "accelerate")


def cache_folder() -> Path:
    """`$SPARSETRAIN_CACHE/gguf`, by default `~/.cache/sparsetrain/gguf`.

    Raises:
        OSError: there is no place that is this user's own.
    """
    return native.cache_folder() / "gguf"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def converted(file: str, cache: Path | None = None) -> Path:
    """The folder of a GGUF file's model and tokenizer, made when it is first asked for (a minute for 135 M parameters).

    Args:
        file: as the user names it, behind `gguf:`.
        cache: where folders are kept; None: `cache_folder()`.

    Raises:
        ValueError: no such file, no GGUF file or a part of one, an architecture that transformers does not read from one, a package of the extra
            `hub` that is not installed, or the folder cannot be written.
        OSError: the file cannot be read.
    """
    path = Path(file).expanduser()
    if not file or not path.is_file():
        what = "is a folder" if file and path.is_dir() else "no such file"
        raise ValueError(f"model=gguf:{file}: {what}; give model=gguf:<file.gguf>")
    with path.open("rb") as start:
        if (begin := start.read(len(MAGIC))) != MAGIC:
            why = f"it does not begin with {MAGIC.decode()}" if begin else "it is empty"
            raise ValueError(f"model=gguf:{file} is no GGUF file: {why}")
    made_of = fingerprint([sha256(path), CONVERSION, *(_version(name) for name in ("transformers", "gguf"))])
    folder = (cache or cache_folder()) / f"{path.stem[:N_STEM]}-{made_of[:16]}"
    if folder.is_dir():
        return folder
    part = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    try:
        part.mkdir(parents=True)
        _convert(path, part, file)
        part.rename(folder)
    except (OSError, ValueError) as error:
        if folder.is_dir():  # another process was faster
            return folder
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"model=gguf:{file} is converted in {folder.parent}, and that cannot be written ({one_line(error)}); "
            f"set SPARSETRAIN_CACHE to a folder that can be, with 4 bytes to spare per weight"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):  # by a process that was killed, or is late
        shutil.rmtree(left, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path, named: str) -> None:
    """Writes model and tokenizer into a folder.

    Raises:
        ValueError: the file is not whole or not understood, or packages are missing.
        OSError: the folder cannot be written.
    """
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
    alone = (
        folder / "alone"
    )  # transformers also reads what lies beside a file: a config or a tokenizer that may be another model's
    alone.mkdir()
    (alone / "model.gguf").symlink_to(path.absolute())
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(alone),
        "gguf_file": "model.gguf",
        "local_files_only": True,
    }
    try:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
            loaded, info = cast(
                tuple[Any, dict[str, Any]],
                transformers.AutoModelForCausalLM.from_pretrained(
                    **place, dtype=torch.float32, output_loading_info=True
                ),
            )
        except OSError as error:  # what transformers says of files that it does not understand, too
            raise ValueError(_first_line(error)) from error
        if missing := sorted(map(str, info["missing_keys"])):
            raise ValueError(f"{len(missing)} weights of the model are not in it, the first {missing[0]}")
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config  # its weights are not quantised any more, and it could not be saved
        plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict())
        try:
            plain.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except SafetensorError as error:  # a full disk, for instance
            raise OSError(_first_line(error)) from error
        shutil.rmtree(alone)
    except (
        ValueError,
        LookupError,
        RuntimeError,
        AttributeError,
        TypeError,
        ArithmeticError,
        ImportError,
        MemoryError,
        struct.error,
    ) as error:  # a file can be wrong in any way
        raise ValueError(
            f"model=gguf:{named} could not be converted: {_first_line(error)}; is the file whole, and its architecture one that transformers "
            f"reads from GGUF?"
        ) from error
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    """What an exception says first; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
