"""Level 3: another language that lies on the machine, the C headers of the interpreter and of numpy."""

import sysconfig
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.reading import Document
from sparsetrain.data.shifts.split import Request, Unavailable
from sparsetrain.data.sources.document import digest, read_document


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    named = {
        path: f"{package}/{path.relative_to(_roots()[package]).as_posix()}"
        for package, found in header_files().items()
        for path in found
    }
    if not named:
        raise Unavailable(
            f"no C headers in {', '.join(map(str, _roots().values()))}; install the interpreter's development files"
        )
    paths = sorted(
        named, key=lambda path: digest(f"{request.seed}:{named[path]}")
    )  # equal names are in several folders
    documents = (read_document(path, path.name) for path in paths)
    texts = (document.text for document in documents if isinstance(document, Document) and document.text.strip())
    return request.windows(texts, level), f"C headers of the interpreter and of numpy ({len(paths)} files)"


def header_files() -> dict[str, list[Path]]:
    """Package ("python": the interpreter) -> its C headers."""
    return {name: list(root.rglob("*.h")) for name, root in _roots().items() if root.is_dir()}


def _roots() -> dict[str, Path]:
    return {"python": Path(sysconfig.get_paths()["include"]), "numpy": Path(np.get_include())}
