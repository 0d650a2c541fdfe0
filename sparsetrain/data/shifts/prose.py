"""Level 4: English prose, from the licences and descriptions of installed packages.

Only paragraphs that read as prose are kept, each once: licences repeat one another word for word.
"""

import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.reading import Document
from sparsetrain.data.shifts.split import Request
from sparsetrain.data.sources.document import digest, read_document

NAMES = ("METADATA", "LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
MIN_WORDS = 15  # of a paragraph  # ours
MIN_LETTERS = 0.92  # share of letters, blanks and the punctuation of sentences  # ours

_WORD = re.compile(r"[A-Za-z]+")
_LETTER = re.compile(r"[A-Za-z ,.;:'\"()\n-]")


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    root = Path(sysconfig.get_paths()["purelib"])
    folders = sorted(root.glob("*.dist-info"), key=lambda path: digest(f"{request.seed}:{path.name}"))
    tokens = request.windows(_texts(folders), level)
    return tokens, f"English prose: licences and descriptions of installed packages ({len(folders)} packages)"


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph reads as sentences: enough words, and hardly a sign that sentences do not use."""
    return (
        len(_WORD.findall(paragraph)) >= MIN_WORDS
        and len(_LETTER.findall(paragraph)) >= MIN_LETTERS * len(paragraph)
        and paragraph.rstrip().endswith((".", "!", "?", ":", ";"))
    )


def paragraphs_of(text: str) -> Iterator[str]:
    """What stands between blank lines, every line without the blanks around it."""
    for paragraph in re.split(r"\n\s*\n", text):
        yield "\n".join(line.strip() for line in paragraph.splitlines())


def words_of(text: str) -> str:
    """By what two texts are called the same: their words in small letters."""
    return " ".join(_WORD.findall(text.lower()))


def _texts(folders: list[Path]) -> Iterator[str]:
    seen: set[str] = set()
    for folder in folders:
        for path in sorted(path for name in NAMES for path in folder.rglob(name) if path.is_file()):
            document = read_document(path, path.name)
            if not isinstance(document, Document):
                continue
            paragraphs: list[str] = []
            for paragraph in paragraphs_of(document.text):
                key = words_of(paragraph)
                if is_prose(paragraph) and key not in seen:
                    seen.add(key)
                    paragraphs.append(paragraph)
            if paragraphs:
                yield "\n\n".join(paragraphs) + "\n"
