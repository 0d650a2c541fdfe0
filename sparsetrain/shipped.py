"""Models that ship with the package, by name: `zoo:<name>`.

1. A model is a run's folder in small: `config.yaml`, `report.json`, `export/step_<n>/` (packed, see `sparsetrain.packed`), its circuits with their
   means and cards, and `README.md`, its card.
2. Whoever only loads weights (`load_model`, `latest_export`) reads them where they lie. A command that is given `run=zoo:<name>` works in a
   copy, `runs/zoo/<name>`, made when it is first asked for: what comes with the package is never written to.
"""

import os
import shutil
from pathlib import Path

PREFIX = "zoo:"


def zoo_dir() -> Path:
    """The folder of the models: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "zoo", package.parent / "zoo"
    return inside if inside.is_dir() else beside


def shipped() -> tuple[str, ...]:
    """Names of the models, without the prefix."""
    return tuple(sorted(path.parent.name for path in zoo_dir().glob("*/config.yaml")))


def is_shipped(value: str | Path) -> bool:
    """Whether a value names one of them."""
    return str(value).startswith(PREFIX)


def shipped_folder(value: str | Path, key: str = "run") -> Path:
    """Where a model named `zoo:<name>` lies; a path is handed on as it is.

    Args:
        value: the name with its prefix, or a path.
        key: of the setting that names it, for messages.

    Raises:
        ValueError: no such model.
    """
    if not is_shipped(value):
        return Path(value)
    name = str(value).removeprefix(PREFIX)
    if name not in shipped():
        raise ValueError(f"{key}={value}: no such model; there are {', '.join(PREFIX + known for known in shipped()) or 'none'}")  # fmt: skip
    return zoo_dir() / name


def working_copy(value: str | Path, key: str = "run", runs: Path = Path("runs")) -> Path:
    """A run's folder that may be written to: of a model `zoo:<name>` the copy `<runs>/zoo/<name>`, made now if it is not there.

    Raises:
        ValueError: no such model, or a copy that was made of another version of it.
    """
    source = shipped_folder(value, key)
    if not is_shipped(value):
        return source
    copy = runs / "zoo" / source.name
    if not copy.is_dir():
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.parent / f".{source.name}.{os.getpid()}"
        shutil.copytree(source, part, dirs_exist_ok=True)
        try:
            part.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(part)
    if _weights(copy) != _weights(source):
        raise ValueError(
            f"{key}={value}: {copy} is a copy of another version of that model; remove it, or give {key}={copy}"
        )
    return copy


def _weights(folder: Path) -> dict[str, bytes]:
    """Every export's meta.json, which holds the hash of its weights."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("export/*/meta.json")}
