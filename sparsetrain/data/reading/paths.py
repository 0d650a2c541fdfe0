"""From what a user calls files to files, and what tells one file from another.

1. An existing path is taken as it is spelled, whatever signs are in it; only then `~` and patterns are looked at.
2. A folder means every file below it, `**` any folders between; hidden ones are left out, and no folder is entered twice (links may
   lead in circles).
3. A file is its resolved path: given twice, by name, link or pattern, it counts once. Its content is known by a hash of its bytes, never by
   size and time, which can be equal after an edit.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsetrain.data.reading.document import Skip
from sparsetrain.data.reading.formats import ending
from sparsetrain.data.reading.opening import Unreadable
from sparsetrain.store import sha256


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files, each once, in the order in which they were given."""

    files: tuple[Path, ...]
    named: frozenset[Path]
    """Those that were given by their own path, not by a folder or a pattern."""
    notes: tuple[Skip, ...]
    """What was given twice, and what lies in a folder and is no file."""

    def content(self) -> list[list[str]]:
        """Resolved path and hash of every file, and the notes: changes when anything else would be read."""
        return [*map(content_of, self.files), *([note.name, note.reason] for note in self.notes)]

    def without(self, path: Path, error: OSError | Unreadable) -> Skip:
        """What is said of a file that cannot be read.

        Raises:
            OSError, Unreadable: this error, for a file that was named.
        """
        if path in self.named:
            raise error
        reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path} is ")
        return Skip(str(path), reason or "unreadable")


def content_of(path: Path) -> list[str]:
    """Resolved path of a file and hash of its bytes; of a folder, the same of every file below it.

    The hash is taken anew every time: within a tick of the file system's clock an edit changes no time at all.
    """
    files = [file for file in _matching(path / "**" / "*", []) if file.is_file()] if path.is_dir() else [path]
    found = [str(path.resolve())]
    for file in files:
        try:
            found.append(f"{file.name} {sha256(file)}")
        except OSError as error:
            found.append(f"{file.name} {error.strerror}")
    return found


def find_files(paths: Sequence[str], key: str) -> Found:
    """The files that a user names.

    Args:
        paths: files, folders, or patterns with `*`, `?`, `[...]`, `**`.
        key: what the user calls these paths, for messages.

    Raises:
        FileNotFoundError: a path that is neither there nor a pattern.
        ValueError: a pattern or folder without a file; `~` without a home; a pipe, socket or device.
    """
    first: dict[Path, Path] = {}
    named: set[Path] = set()
    notes: list[Skip] = []
    for given in paths:
        path = expand_home(given)
        if path.is_dir():
            files = _matching(path / "**" / "*", notes)
        elif path.exists() or path.is_symlink() or not glob.has_magic(str(path)):
            files = [_regular(path)]
        else:
            files = _matching(path, notes)
        irregular = [file for file in files if not file.is_file()]
        notes += [Skip(str(file), "no regular file, or a link that leads nowhere") for file in irregular]
        files = [file for file in files if file not in irregular]
        if not files:
            raise ValueError(f"no file matches {key}={given}; give existing files, folders or patterns")
        again = [file for file in files if first.setdefault(file.resolve(), file) is not file]
        if files == [path]:
            named.add(first[path.resolve()])
        if again:
            known = first[again[0].resolve()]
            same = f" (the same file as {known})" if known != again[0] else ""
            notes.append(Skip(given, f"{len(again)} of its files counted once already, the first {again[0]}{same}"))
    return Found(files=tuple(first.values()), named=frozenset(named), notes=tuple(notes))


def expand_home(text: str) -> Path:
    """A path as a user spells it, with `~` for the home folder unless there is a file of that very name.

    Raises:
        ValueError: there is no home folder.
    """
    path = Path(text)
    try:
        return path if path.exists() else path.expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: ~ stands for a home folder, and there is none; give the whole path") from None


def _regular(path: Path) -> Path:
    if not path.exists():
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise FileNotFoundError(2, f"no such text file{link}", str(path))
    if not path.is_file():
        raise ValueError(f"{path} is a pipe, socket or device; copy its text into a file")
    return path


def _matching(pattern: Path, notes: list[Skip]) -> list[Path]:
    """What a pattern matches but folders, sorted; folders at its beginning that exist are taken as they are spelled."""
    parts = pattern.parts
    n = max((n for n in range(len(parts)) if Path(*parts[:n]).exists()), default=0)
    head, tail = Path(glob.escape(str(Path(*parts[:n])))), parts[n:]
    if "**" in tail:
        i = tail.index("**")
        tops, tail = glob.glob(str(head.joinpath(*tail[:i]))), tail[i + 1 :] or ("*",)
        heads = [Path(glob.escape(str(folder))) for top in tops for folder in _folders(Path(top), notes)]
    else:
        heads = [head]
    found = {Path(path) for head in heads for path in glob.glob(str(head.joinpath(*tail)), recursive=True)}
    return sorted(path for path in found if not path.is_dir())


def _folders(top: Path, notes: list[Skip]) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        notes.append(Skip(str(error.filename), error.strerror or "unreadable"))

    seen: set[str] = set()
    for folder, inside, _ in os.walk(top, followlinks=True, onerror=refused):
        real = os.path.realpath(folder)
        if real in seen:
            inside.clear()
            continue
        seen.add(real)
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield Path(folder)


def listed(value: str | Sequence[str]) -> list[str]:
    """Names given as a list or as `a,b`; a comma inside the name of an existing file is no separator."""
    if not isinstance(value, str):
        return [name for name in value if name.strip()]
    parts = value.split(",")
    names: list[str] = []
    while parts:
        whole = (n for n in range(len(parts), 1, -1) if expand_home(",".join(parts[:n]).strip()).exists())
        n = next(whole, 1)
        names.append(",".join(parts[:n]).strip())
        parts = parts[n:]
    return [name for name in names if name]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """What to call each file: its name without ending; where two would be called the same, with as much of the path as tells them apart."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    plain = [path.with_name(_stem(path)) for path in whole]
    # Files that differ in their ending alone keep it.
    full = [path if plain.count(name) > 1 else name for path, name in zip(whole, plain, strict=True)]
    ends = [["/".join(path.parts[-n:]) for n in range(1, len(path.parts) + 1)] for path in full]
    times = Counter(end for of_path in ends for end in of_path)
    return [next((end for end in of_path if times[end] == 1), of_path[-1]) for of_path in ends]


def _stem(path: Path) -> str:
    last = path.name.removesuffix(path.suffix) if path.suffix.lower() == ".gz" else path.name
    return last.removesuffix(Path(last).suffix) if ending(path) else last
