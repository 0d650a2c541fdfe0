"""Level 2: the documents of split 0 with identifiers renamed and the meaning unchanged.

1. Per document, the names it binds itself are found with `ast`: variables, arguments, functions and classes.
2. A name stays if something outside the document's own names could refer to it: builtins, keywords, imported names and
   modules, members of classes, names passed as keywords, names in f-strings, and names that also occur as a string.
   `self`, `cls` and names with two leading underscores stay as well.
3. Every other name gets a made-up one of the same shape, the same everywhere in the document: each letter is replaced
   by another of its class (vowel, consonant, capital), so length and underscores are kept.
4. Names after a dot are attributes and stay. A document that looks names up at run time (`eval`, `locals`, ...) or
   imports `*` cannot be renamed safely and is left out; so is one that does not parse.
"""

import ast
import builtins
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.shifts.split import Request, Unavailable

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
CONVENTIONS = ("self", "cls", "_", "mcs", "metacls")
RUN_TIME_NAMES = ("eval", "exec", "locals", "globals", "vars", "dir", "compile")


def build(request: Request, level: int) -> tuple[NDArray[np.int64], str]:
    n_renamed = 0

    def texts() -> Iterator[str]:
        nonlocal n_renamed
        for number, document in enumerate(request.documents):
            code = rename_identifiers(document, np.random.default_rng([request.seed, level, number]))
            if code is not None:
                n_renamed += 1
                yield code

    try:
        tokens = request.windows(texts(), level)
    except Unavailable as error:
        n = len(request.documents)
        raise Unavailable(
            f"{n_renamed} of {n} held-out documents are Python that can be renamed safely: {error}"
        ) from None
    return tokens, f"held-out documents of {request.origin} with identifiers renamed, meaning unchanged"


def rename_identifiers(code: str, generator: np.random.Generator) -> str | None:
    """The same program under other names, or None where that is not safe.

    Args:
        code: one module.
        generator: draws the new names.

    Returns:
        The module with every renamable name replaced consistently; comments, strings and layout are untouched.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of invalid escapes in other people's strings
            tree = ast.parse(code)
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return None
    names = _renamable(tree)
    if names is None:
        return None
    taken = {token.string for token in tokens if token.type == tokenize.NAME} | set(re.findall(r"\w+", code))
    new_name = {}
    for name in sorted(names):
        new_name[name] = fresh = _fresh(name, taken, generator)
        taken.add(fresh)
    lines = lines_of(code)
    significant = [token for token in tokens if token.type not in (tokenize.NL, tokenize.COMMENT)]
    for before, token in reversed(list(zip([None, *significant[:-1]], significant, strict=True))):
        if token.type == tokenize.NAME and token.string in new_name and (before is None or before.string != "."):
            row, start = token.start
            line = lines[row - 1]
            lines[row - 1] = line[:start] + new_name[token.string] + line[token.end[1] :]
    return "".join(lines)


def lines_of(code: str) -> list[str]:
    """The lines that Python's own parsers count: `str.splitlines` breaks at form feeds and others too."""
    return [*io.StringIO(code, newline="\n")]


def _renamable(tree: ast.Module) -> set[str] | None:
    bound: set[str] = set()
    kept = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist, *CONVENTIONS}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in RUN_TIME_NAMES:
                return None
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                bound.add(name)
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.MatchClass(kwd_attrs=attributes):
                kept.update(attributes)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                if any(alias.name == "*" for alias in aliases):
                    return None
                for alias in aliases:
                    kept.update(alias.name.split("."), [alias.asname or alias.name])
                if isinstance(node, ast.ImportFrom):
                    kept.update((node.module or "").split("."))
            case ast.keyword(arg=str(name)):
                kept.add(name)
            case ast.JoinedStr():
                # Up to Python 3.11 the tokenizer does not look inside f-strings.
                kept.update(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
                kept.update(inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg))
            case ast.Constant(value=str(text)) if len(text) < 100 and re.fullmatch(r"[\w\s,]+", text):
                # Looked up by name (getattr, __all__), or fields of a named tuple.
                kept.update(re.findall(r"\w+", text))
            case _:
                pass
        if isinstance(node, ast.ClassDef):
            bound.add(node.name)
            kept.update(_members(node))
    return {name for name in bound - kept if not name.startswith("__") and name.isascii()}


def _members(node: ast.ClassDef) -> Iterator[str]:
    # Names bound in the class body: they are reached as attributes, whose tokens stay.
    pending: list[ast.AST] = list(node.body)
    while pending:
        inner = pending.pop()
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield inner.name
            continue
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            yield inner.id
        pending += ast.iter_child_nodes(inner)


def _fresh(name: str, taken: set[str], generator: np.random.Generator) -> str:
    # The classes of letters are kept; after many collisions (short names) any letter will do, then longer names.
    for attempt in range(1000):
        letters = []
        for char in name:
            pool = VOWELS if char.lower() in VOWELS else CONSONANTS
            pool = VOWELS + CONSONANTS if attempt > 20 else pool
            fresh = pool[generator.integers(len(pool))]
            letters.append(fresh.upper() if char.isupper() else fresh if char.isalpha() else char)
        if attempt > 200 or not any(char.isalpha() for char in name):
            letters.append(CONSONANTS[generator.integers(len(CONSONANTS))])
        candidate = "".join(letters)
        if candidate not in taken and not keyword.iskeyword(candidate) and not hasattr(builtins, candidate):
            return candidate
    raise AssertionError(f"no fresh name for {name!r} in a thousand tries")
