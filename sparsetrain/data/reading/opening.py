"""From the bytes of a user's file to its text, or one line that says why there is none.

1. `.gz`, in capitals too, is unpacked on the way.
2. Text is UTF-8. A byte order mark in front of it is no text. UTF-16 and UTF-32 are recognised by their mark or by their NULs.
3. Line ends are as given: nothing is translated, and a lone carriage return ends a line too.
"""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

HEAD = 4096  # bytes looked at to tell the encoding; a multiple of 4
BLOCK = 2**20  # bytes of a long text that are held at a time
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""In this order: the mark of UTF-32-LE begins with that of UTF-16-LE."""
WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


class Unreadable(ValueError):
    """A whole file that is no text we can read; the message names it."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked, as a block.

    Raises:
        OSError: no such file, or no permission.
        Unreadable: no regular file, or a damaged `.gz`.
    """
    if not path.exists():
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise FileNotFoundError(2, f"no such text file{link}", str(path))
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe, socket or device"
        raise Unreadable(f"{path} is {what}, not a file; give a file with the text")
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(f"{path} is no whole .gz file ({error}); make or fetch it again") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), error.filename or str(path)) from error


@contextmanager
def opened_text(path: Path) -> Iterator[IO[bytes]]:
    """The same, behind the byte order mark.

    Raises:
        Unreadable: text in another encoding than UTF-8; the message names it.
    """
    with opened(path) as file:
        head = file.read(HEAD)
        encoding = other_encoding(head)
        if encoding is not None:
            raise Unreadable(
                f"{path} is {encoding} text; convert it to UTF-8 (iconv -f {encoding} -t UTF-8 {path.name} > new file)"
            )
        file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
        yield file


def other_encoding(head: bytes) -> str | None:
    """The encoding of a text that begins with these bytes, where it is UTF-16 or UTF-32; None: it is not.

    Without a mark it is the one of the four that makes printable text without NULs of them; the wrong byte order turns letters into
    rare signs, so that the one with most ASCII is taken.
    """
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if b"\0" not in head:
        return None
    found: dict[str, str] = {}
    for name in WIDE:
        try:
            text = head[: len(head) // 4 * 4].decode(name)
        except UnicodeDecodeError:
            continue
        printable = sum(char.isprintable() or char.isspace() for char in text)
        if text and "\0" not in text and printable >= 0.95 * len(text):
            found[name] = text
    return max(found, key=lambda name: sum(map(str.isascii, found[name]))).upper() if found else None


def read_text(path: Path) -> str:
    """The whole text of a file.

    Raises:
        OSError: no such file, or no permission.
        Unreadable: it is not UTF-8, or binary.
    """
    return "".join(text_blocks(path))


def text_blocks(path: Path) -> Iterator[str]:
    """The text of a file in parts of about a million characters, none empty; raises as `read_text` does."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_bytes = n_chars = 0
    with opened_text(path) as file:
        more = True
        while more:
            data = file.read(BLOCK)
            more, n_held = bool(data), len(decoder.getstate()[0])
            try:
                block = decoder.decode(data, final=not more)
            except UnicodeDecodeError as error:
                raise _other_text(str(path), n_bytes - n_held + error.start) from None
            if "\0" in block:
                at = n_chars + block.index("\0")
                raise Unreadable(f"{path} has binary content (a NUL at character {at}), so it is no text")
            n_bytes, n_chars = n_bytes + len(data), n_chars + len(block)
            if block:
                yield block


def lines(path: Path) -> Iterator[tuple[int, str]]:
    r"""Lines with their number from 1 on and their own ending: \n, \r\n or \r.

    Raises:
        OSError: no such file, or no permission.
        Unreadable: it is not UTF-8; the message names the line.
    """
    with opened_text(path) as file:
        number = 0
        for data in file:
            for line in _LINE.findall(_decode(data, f"{path}:{number + 1}")):
                number += 1
                yield number, line


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _other_text(place, error.start) from None


def _other_text(place: str, byte: int) -> Unreadable:
    return Unreadable(f"{place} is not UTF-8 text (byte {byte}); convert it first")
