"""Level 1: Python from other packages installed beside the interpreter.

Packages are taken in the order of a hash of the seed and their name, a few modules of each, so that no large package
dominates. Vendored copies are left out, since they are often modules of the standard library.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.reading import Document
from sparsetrain.data.shifts.split import Request
from sparsetrain.data.sources.document import digest, read_document

CHARS_PER_PACKAGE = 20_000  # ours
LEFT_OUT = ("_vendor", "vendor", "_vendored", "_distutils", "third_party", "extern", "__pycache__")
OWN = ("sparsetrain", "circuits")


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    root = Path(sysconfig.get_paths()["purelib"])
    names = sorted((path.name for path in root.iterdir() if _is_package(path)), key=_order(request.seed))
    used: list[str] = []

    def texts() -> Iterator[str]:
        for name in names:
            used.append(name)
            yield from _modules(root / name, request.seed)

    tokens = request.windows(texts(), level)
    return tokens, f"Python of other installed packages: {', '.join(used[:12])}{', ...' if len(used) > 12 else ''}"


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file() and path.name not in (*LEFT_OUT, *OWN)


def _order(seed: int):
    return lambda name: digest(f"{seed}:{name}")


def _modules(package: Path, seed: int) -> Iterator[str]:
    paths = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    n_chars = 0
    for name in sorted(paths, key=_order(seed)):
        document = read_document(paths[name], name)
        if any(part in LEFT_OUT for part in Path(name).parts) or not isinstance(document, Document):
            continue
        if not document.text.strip():
            continue
        n_chars += len(document.text)
        # A long module counts only with its beginning.
        yield document.text[:CHARS_PER_PACKAGE]
        if n_chars >= CHARS_PER_PACKAGE:
            return
