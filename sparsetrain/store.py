"""The ground floor: files that are whole or absent, and results that are computed once.

1. `write_atomic`: a reader sees the old content or the new one, whatever stops the writer.
2. `once(path, key, make, schema)`: the one disk memo. What stands in the file under the same key is read, anything else is made anew.
3. `fingerprint` and `sha256` name data and files by their content; a `sealed` file carries its own checksum.

Imports nothing of this project, so that every room may use it.
"""

import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")
SEAL = b"sparsetrain sha256 "
SEAL_SIZE = len(SEAL) + hashlib.sha256().digest_size
"""Bytes behind the content of a sealed file: `SEAL` and the content's SHA-256."""
TEMPORARY = ".writing"
"""Ending of a file that is being written."""


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """A file to write to that takes the place of `path` once the block ends; where the block fails, `path` is what it was.

    It lies in the same folder, is flushed to the disk and then renamed; permissions follow the umask.

    Args:
        path: its folder is made if it is not there.

    Raises:
        OSError: the disk refused; the message names the path and how many bytes had been written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{TEMPORARY}")
    n_bytes = 0
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            try:
                yield file
                file.flush()
            finally:
                n_bytes = os.fstat(file.fileno()).st_size
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise  # of another file, while the block was at work
        reason = os.strerror(error.errno or 0)
        raise OSError(error.errno, f"cannot write ({reason} after {n_bytes} bytes)", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> Path:
    """Writes a file so that a reader sees the old content or the new, never a torn one.

    Args:
        path: its folder is made if it is not there.
        data: bytes, or text that is stored as UTF-8; what a console could not decode, as the bytes that it sent.

    Returns:
        `path`.

    Raises:
        OSError: the disk refused; the message names the path and the number of bytes, and the old file is intact.
    """
    content = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    with replacing(path) as file:
        file.write(content)
    return path


def remove_temporary(folder: Path) -> None:
    """Removes what writers that were killed have left below a folder; nobody else may be writing there."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut. Not every platform can open a folder.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(content: bytes) -> bytes:
    """The content of a file that carries its own checksum at its end; `is_whole` looks at it."""
    return content + SEAL + hashlib.sha256(content).digest()


def is_whole(path: Path) -> bool:
    """Whether a file's content has the checksum that stands behind it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - SEAL_SIZE
        if size <= 0:
            return False
        file.seek(0)
        content = hashlib.sha256()
        while size and (block := file.read(min(size, 1 << 20))):
            content.update(block)
            size -= len(block)
        return file.read() == SEAL + content.digest()


def user() -> int:
    """The number of the user that this process is; 0 on systems without such numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def home() -> Path:
    """The user's home folder; without one (no HOME, no entry for the user's number) a private folder among the temporary files.

    Raises:
        OSError: that folder belongs to someone else.
    """
    try:
        return Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"sparsetrain-{user()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != user() or not stat.S_ISDIR(found.st_mode):
            raise PermissionError(
                1, "there is no home folder, and this one is someone else's; set HOME", str(folder)
            ) from None
        return folder


def below_home(path: str) -> Path:
    """A folder as a config names it, `~` for the home folder.

    Raises:
        OSError: as `home`.
    """
    found = Path(path)
    return home() / found.relative_to("~") if found.parts[:1] == ("~",) else found.expanduser()


def fingerprint(data: object) -> str:
    """sha256 of plain data or dataclasses: equal content gives equal hashes, whatever the order of keys."""
    plain = TypeAdapter(object).dump_python(data, mode="json")
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def once(path: Path, key: Mapping[str, object], make: Callable[[], T], schema: type[T]) -> T:
    """What `make` gave under this key: read from the file if it stands there, else made, written and returned.

    The file is JSON, `{"key": ..., "result": ...}`; what is returned has always been through it, so that a first and a later call give
    the same. A file that cannot be read as `schema`, for instance one of an earlier version, counts as absent.

    Args:
        path: file of the result.
        key: plain data or dataclasses on which the result depends; another key makes it anew.
        make: called at most once.
        schema: type of the result: plain data or (containers of) dataclasses.
    """
    plain_key = json.loads(json.dumps(TypeAdapter(object).dump_python(dict(key), mode="json")))
    adapter: TypeAdapter[T] = TypeAdapter(schema)
    if (found := recall(path, schema)) is not None and found[0] == plain_key:
        return found[1]
    result = adapter.dump_python(make(), mode="json")
    write_atomic(path, json.dumps({"key": plain_key, "result": result}, indent=1) + "\n")
    return adapter.validate_python(json.loads(json.dumps(result)))


def recall(path: Path, schema: type[T]) -> tuple[object, T] | None:
    """Key and result that `once` has written to a file; None where there is none that can be read as `schema`."""
    if not path.is_file():
        return None
    try:
        saved = json.loads(path.read_bytes())
        return saved["key"], TypeAdapter(schema).validate_python(saved["result"])
    except (ValueError, KeyError, TypeError):
        return None
