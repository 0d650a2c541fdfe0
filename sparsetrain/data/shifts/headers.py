"""Level 3: another language that lies on the machine, the C headers of the interpreter and of numpy."""

import sysconfig
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.reading import Document
from sparsetrain.data.shifts.split import Request, Unavailable
from sparsetrain.data.sources.document import digest, read_document


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    roots = [Path(sysconfig.get_paths()["include"]), Path(np.get_include())]
    paths = [path for root in roots if root.is_dir() for path in root.rglob("*.h")]
    if not paths:
        raise Unavailable(f"no C headers in {', '.join(map(str, roots))}; install the interpreter's development files")
    paths.sort(key=lambda path: digest(f"{request.seed}:{path.name}"))
    documents = (read_document(path, path.name) for path in paths)
    texts = (document.text for document in documents if isinstance(document, Document) and document.text.strip())
    return request.windows(texts, level), f"C headers of the interpreter and of numpy ({len(paths)} files)"
