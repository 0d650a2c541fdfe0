"""Where texts come from: the standard library, and packages that are installed.

1. A *kind* of text is found in files; files belong to packages, "python" is the interpreter itself. Our own and vendored files are left out.
2. A *piece* begins where a document or a paragraph does: in code at a line without indentation, behind a blank line, that is no comment
   (in Python at a statement of the module); in prose at a paragraph that reads as sentences, with markup of links, names and emphasis
   taken off and lines joined.
3. Packages come in turn, in the order of a hash of seed and name, one piece of each; so do the files of a package. No large package
   dominates while smaller ones have pieces left, and the same seed gives the same pieces.
4. A piece that says for the most part what others have said already is left out: licences repeat one another, and so do lines that tools write.
"""

import ast
import csv
import email
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import Distribution, distributions
from itertools import accumulate
from pathlib import Path, PurePosixPath
from platform import python_version
from typing import TypeVar

import numpy as np

from sparsetrain.data.reading import Document
from sparsetrain.data.shifts.headers import header_files
from sparsetrain.data.shifts.packages import LEFT_OUT, OWN
from sparsetrain.data.shifts.prose import is_prose, paragraphs_of, words_of
from sparsetrain.data.shifts.renamed import lines_of
from sparsetrain.data.sources.document import digest, read_document
from sparsetrain.data.sources.stdlib import modules

PYTHON = "python"
MINIFIED = 80
"""Mean characters of a line from which on a script or style sheet was written by a program. ours"""
BUNDLED = 100_000
"""Characters of a file from which on a program has joined it of many. ours"""
N_CHARS = 6
"""Characters of a piece for each token that is asked: more than a token of text has on average. ours"""
RUN, KNOWN = 8, 0.5
"""A piece is left out if more than this share of its runs of so many words have come before. ours"""
LICENCES = ("LICENSE*", "LICENCE*", "COPYING*")

_T = TypeVar("_T")
_NO_START = ("#!", "//", "/*", "*", "#e", "<", "{", "}", ")", "]", "\\", "`")
"""Openings of lines of code that are comments, templates, or that end what stood in front."""
_NO_CODE = re.compile(r"/\*.*?\*/|`[^`]*`", re.DOTALL)
"""Comments, and JavaScript's strings of several lines."""
_MARKUP = tuple(
    (re.compile(pattern), kept)
    for pattern, kept in (
        (r"!\[[^\]]*\]\([^)]*\)", ""),  # image
        (r"\[([^\[\]]+)\](?:\([^()\s]*\)|\[[^\[\]]*\])", r"\1"),  # link in Markdown
        (r"`([^`<>]+?)\s*<[^<>]*>`__?", r"\1"),  # link in reStructuredText
        (r"`([^`]+)`__?", r"\1"),
        (r"(?::[a-z]+:)?(`{1,2})([^`]+)\1", r"\2"),  # a name of code
        (r"(\*{1,2})(?=\S)([^*]+?)\1", r"\2"),  # emphasis
        (r"::$", ":"),
    )
)
_ITEM = re.compile(r"^(?:[-+*•>#|]|\.\.|:\w+:)(?: |$)", re.MULTILINE)
_NUMBERED = re.compile(r"^\d+\. ", re.MULTILINE)
_NO_PROSE = re.compile(r"https?:|www\.|[`|<>\[\]{}*=#\\]|_\b|\b_|::|--|\.\. |\w/\w+/")
_LEGAL = re.compile(r"licen[sc]|copyright|warrant|\bliab", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A text, and the package it is from."""

    package: str
    text: str


def pieces_of(kind: str, seed: int, n_tokens: int) -> Iterator[Piece]:
    """Pieces of one kind of text, each once.

    Args:
        kind: one of `KINDS`.
        seed: of their order.
        n_tokens: of the rows that will be cut from them; a piece has about `N_CHARS` characters for each.
    """
    seen: set[tuple[str, ...]] = set()
    n_chars = N_CHARS * n_tokens
    by_package = KINDS[kind](seed, n_chars)
    streams = [_named(name, by_package[name]) for name in _in_order(by_package, seed)]
    for piece in in_turn(streams):
        words = words_of(piece.text[:n_chars]).split()
        runs = {tuple(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}
        if len(runs & seen) <= KNOWN * len(runs):
            seen |= runs
            yield piece


def in_turn(streams: Iterable[Iterable[_T]]) -> Iterator[_T]:
    """The first of each, then the second of each, until all are at their end."""
    waiting = [iter(stream) for stream in streams]
    while waiting:
        left: list[Iterator[_T]] = []
        for stream in waiting:
            for item in stream:
                yield item
                left.append(stream)
                break
        waiting = left


def generator(*names: object) -> np.random.Generator:
    """Random numbers of whatever the names say."""
    return np.random.default_rng(int(digest(":".join(map(str, names))), 16))


def version_of(package: str) -> str:
    """As it goes into `Probes.sources`."""
    return (
        python_version() if package == PYTHON else next(iter(distributions(name=package, path=search_path()))).version
    )


def installed() -> dict[str, Distribution]:
    """Packages that can be imported, by name in its normal form, without our own; of two of a name the one that is imported."""
    found: dict[str, Distribution] = {}
    for distribution in distributions(path=search_path()):
        if distribution.read_text("METADATA"):
            name = re.sub(r"[-_.]+", "-", distribution.name).lower()
            if name not in OWN:
                found.setdefault(name, distribution)
    return found


def search_path() -> list[str]:
    """Folders that are looked through for packages."""
    return sys.path


def _named(package: str, texts: Iterable[str]) -> Iterator[Piece]:
    return (Piece(package=package, text=text) for text in texts)


def _in_order(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: digest(f"{seed}:{name}"))


def _from_files(
    paths: dict[str, Path], seed: int, cut: Callable[[str, np.random.Generator], list[str]]
) -> Iterator[str]:
    """Pieces of the files of a package in turn, files in the order of a hash of their name; a file is read when its turn comes."""

    def of_file(name: str) -> Iterator[str]:
        document = read_document(paths[name], name)
        if isinstance(document, Document):
            text = document.text.replace("\r\n", "\n").replace("\r", "\n")
            yield from cut(text, generator(seed, name))

    return in_turn(map(of_file, _in_order(paths, seed)))


def _files(distribution: Distribution, keep: Callable[[str], bool]) -> dict[str, Path]:
    """Files that a package says it installed, by their names in it."""
    listed = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    names = [row[0] for row in listed if row and keep(row[0]) and not set(row[0].split("/")) & set(LEFT_OUT)]
    return {name: path for name in names if (path := Path(str(distribution.locate_file(name)))).is_file()}


def _pieces_at(text: str, starts: Iterable[int], n_chars: int, drawn: np.random.Generator) -> list[str]:
    """Pieces that begin at some of the places and do not overlap, in random order, without those that hold a licence."""
    found: list[str] = []
    end = 0
    for start in starts:
        if start >= end:
            end = start + n_chars
            if not _LEGAL.search(text, start, end):
                found.append(text[start:end])
    return [found[i] for i in drawn.permutation(len(found))]


def _python_pieces(text: str, drawn: np.random.Generator, n_chars: int) -> list[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of invalid escapes in other people's strings
            body = ast.parse(text).body
    except (SyntaxError, ValueError):  # test data of the library
        return []
    places = [0, *accumulate(map(len, lines_of(text)))]
    starts: list[int] = []
    end = 0
    for statement in body:
        first = min([statement.lineno, *(node.lineno for node in getattr(statement, "decorator_list", ()))])
        says = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        # Behind a blank line, or behind a docstring.
        if not says and first - 1 > end:
            starts.append(places[first - 1])
        end = statement.end_lineno or first
    return _pieces_at(text, starts, n_chars, drawn)


def _code_pieces(text: str, drawn: np.random.Generator, n_chars: int) -> list[str]:
    lines = text.splitlines(keepends=True)
    if len(text) >= min(MINIFIED * len(lines), BUNDLED):
        return []
    inside = {place for found in _NO_CODE.finditer(text) for place in range(*found.span())}
    starts: list[int] = []
    place = 0
    blank = True
    for line in lines:
        begins = blank and line.strip() and not line[0].isspace() and not line.startswith(_NO_START)
        if begins and place not in inside:
            starts.append(place)
        blank = not line.strip()
        place += len(line)
    return _pieces_at(text, starts, n_chars, drawn)


def _python(seed: int, n_chars: int) -> dict[str, Iterator[str]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = {path.relative_to(root).as_posix(): path for path in modules(root)}
    return {PYTHON: _from_files(paths, seed, partial(_python_pieces, n_chars=n_chars))}


def _c(seed: int, n_chars: int) -> dict[str, Iterator[str]]:
    cut = partial(_code_pieces, n_chars=n_chars)
    return {
        package: _from_files({"/".join(path.parts[-2:]): path for path in sorted(paths)}, seed, cut)
        for package, paths in header_files().items()
    }


def _by_ending(seed: int, n_chars: int, ending: str) -> dict[str, Iterator[str]]:
    cut = partial(_code_pieces, n_chars=n_chars)
    files = {name: _files(found, lambda path: path.endswith(ending)) for name, found in installed().items()}
    return {name: _from_files(paths, seed, cut) for name, paths in files.items() if paths}


def _clean(paragraph: str, n_numbered: int = 0) -> str | None:
    """A paragraph in one line and without markup, if it reads as sentences then and has no more numbered items."""
    if _ITEM.search(paragraph) or len(_NUMBERED.findall(paragraph)) > n_numbered:
        return None
    line = " ".join(paragraph.split())
    for pattern, kept in _MARKUP:
        line = pattern.sub(kept, line)
    return line if line.isascii() and is_prose(line) and not _NO_PROSE.search(line) else None


def _prose_pieces(paragraphs: Iterable[str | None], n_chars: int) -> Iterator[str]:
    """Paragraphs that follow one another, joined until they are long enough; None: nothing is joined across."""
    joined: list[str] = []
    for paragraph in paragraphs:
        joined = [] if paragraph is None else [*joined, paragraph]
        if len(text := " ".join(joined)) >= n_chars:
            yield text
            joined = []


def _prose(seed: int, n_chars: int) -> dict[str, Iterator[str]]:
    def of_package(distribution: Distribution) -> Iterator[str]:
        # A description's sections are one text, whatever examples stand between them.
        body = email.message_from_string(distribution.read_text("METADATA") or "").get_payload()
        lines = map(_clean, paragraphs_of(str(body)))
        return _prose_pieces((line for line in lines if line and not _LEGAL.search(line)), n_chars)

    return {name: of_package(distribution) for name, distribution in installed().items()}


def _licences(seed: int, n_chars: int) -> dict[str, Iterator[str]]:
    def is_licence(name: str) -> bool:
        path = PurePosixPath(name)
        return path.suffix in ("", ".txt", ".md", ".rst") and any(fnmatch(path.name.upper(), form) for form in LICENCES)

    def cut(text: str, drawn: np.random.Generator) -> list[str]:
        found = list(_prose_pieces((_clean(paragraph, n_numbered=1) for paragraph in paragraphs_of(text)), n_chars))
        return [found[i] for i in drawn.permutation(len(found))]

    return {name: _from_files(_files(found, is_licence), seed, cut) for name, found in installed().items()}


KINDS: dict[str, Callable[[int, int], dict[str, Iterator[str]]]] = {
    "python": _python,
    "javascript": partial(_by_ending, ending=".js"),
    "c": _c,
    "css": partial(_by_ending, ending=".css"),
    "prose": _prose,
    "licences": _licences,
}
"""Kind of text -> package -> its pieces, from a seed and the characters of a piece."""
