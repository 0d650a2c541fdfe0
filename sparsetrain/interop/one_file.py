"""The one file of code in a Hub repository, `modeling_sparsetrain.py`, made from this package's own sources.

1. Of each source of `PARTS` the named definitions are taken as they stand, in order; no text of the model is kept a second time.
2. Imports of third parties are gathered at the top; those of this package fall away, since what they name stands above.
3. `standalone.py` stands in for compiled kernels and for einops; `hub_model.py` are the classes that `transformers` looks for.
4. Whatever is used must be defined: a name that is not is an error here, when the file is made, and not at a reader's.
"""

import ast
import builtins
import hashlib
import symtable
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from sparsetrain import __version__

FILE_NAME = "modeling_sparsetrain.py"
PACKAGE = Path(__file__).resolve().parents[1]
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("hooks.py", ("NODE_KINDS", "WATCH_KINDS", "FOREIGN_KINDS", "HookFn", "HookPoint", "name_hook_points_")),
    ("kernels/magnitude.py", ("SIGNED_BITS", "magnitude_keys", "kth_largest", "largest_mask")),
    ("kernels/topk.py", ("abs_topk_reference",)),
    (
        "kernels/attention.py",
        (
            "aten", "LSE_ALIGNMENT", "attention_pattern", "sink_attention_reference", "is_fusible", "_last_contiguous", "_heads_inside",
            "fused_sink_attention", "fused_sink_attention_backward", "_fused_forward", "_fused_backward",
        ),
    ),
    ("interop/standalone.py", ()),
    ("linear.py", ("Product", "Lookup", "Linear", "Embedding")),
    ("model.py", ()),
    ("interop/hub_model.py", ()),
)  # fmt: skip
"""Source -> names of what is taken of it; none: all."""
LEFT_OUT = {"Transformer": "whole"}
"""Class -> its method that concerns models spread over ranks, which a Hub repository does not know."""
STOOD_IN = ("einops",)
"""Libraries that `standalone.py` stands in for."""


@cache
def modeling_file() -> str:
    """The file's text.

    Raises:
        ValueError: a source lacks what `PARTS` names, or something is used that none of them defines.
    """
    imports: dict[str, None] = {}
    bodies = []
    for place, names in PARTS:
        source = (PACKAGE / place).read_text(encoding="utf-8")
        tree = ast.parse(source)
        for line in _imports(tree):
            imports[line] = None
        bodies.append(f"# {place}\n\n\n" + "\n\n\n".join(_definitions(source, tree, place, names)))
    body = "\n\n\n".join(bodies)
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    head = (
        f'"""A weight-sparse transformer for `AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`.\n\n'
        f"Made by sparsetrain {__version__} out of its sources (sha256 {digest}...); change those, not this file.\n"
        f'It needs torch and transformers, nothing else.\n"""\n'
    )
    used = _names(body)
    kept = [line for line in sorted(imports, key=lambda line: (line.startswith("from"), line)) if _binds(line) & used]
    text = "\n".join([head, *kept]) + "\n\n\n" + body + "\n"
    if missing := sorted(_undefined(text)):
        raise ValueError(f"{FILE_NAME} uses {', '.join(missing)}, which none of its parts defines; name it in PARTS of {__file__}")  # fmt: skip
    return text


def _imports(tree: ast.Module) -> Iterator[str]:
    """A line for each name that a source imports of a third party."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = [name for name in node.names if name.name.split(".")[0] not in ("sparsetrain", *STOOD_IN)]
            yield from (ast.unparse(ast.Import([name])) for name in names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ("sparsetrain", *STOOD_IN):
            yield from (ast.unparse(ast.ImportFrom(node.module, [name], 0)) for name in node.names)


def _binds(line: str) -> set[str]:
    """Names that an import line defines."""
    node = ast.parse(line).body[0]
    assert isinstance(node, ast.Import | ast.ImportFrom)
    return {(name.asname or name.name).split(".")[0] for name in node.names}


def _definitions(source: str, tree: ast.Module, place: str, names: Sequence[str]) -> list[str]:
    """The text of the named definitions; of all but docstring and imports, where none is named."""
    lines = source.splitlines()
    found: dict[str, str] = {}
    for node in tree.body[1:] if ast.get_docstring(tree) else tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # what stands below a constant
            last = next(reversed(found), None)
            if last is not None:
                found[last] += "\n" + ast.get_source_segment(source, node, padded=True).rstrip()  # pyright: ignore[reportOptionalMemberAccess]
            continue
        name = _name_of(node)
        assert node.end_lineno is not None
        first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
        kept = lines[first - 1 : node.end_lineno]
        if isinstance(node, ast.ClassDef) and name in LEFT_OUT:
            kept = _without_method(node, LEFT_OUT[name], kept, first)
        found[name] = "\n".join(kept)
    if lacking := [name for name in names if name not in found]:
        raise ValueError(
            f"{place} defines no {', '.join(lacking)}; PARTS of {__file__} names what the Hub's file takes of it"
        )
    return [found[name] for name in (names or found)]


def _name_of(node: ast.stmt) -> str:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else ast.unparse(node)


def _without_method(node: ast.ClassDef, method: str, lines: list[str], first: int) -> list[str]:
    found = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == method), None)
    if found is None:
        raise ValueError(f"{node.name} has no method {method}, which {FILE_NAME} leaves out")
    assert found.end_lineno is not None
    start = min([found.lineno, *(one.lineno for one in found.decorator_list)])
    kept = lines[: start - first] + lines[found.end_lineno - first + 1 :]
    while not kept[-1].strip():
        kept.pop()
    return kept


def _names(text: str) -> set[str]:
    """All names in a text, those in annotations that are strings included."""
    tree = ast.parse(text)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names | {word for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and (word := node.value).isidentifier()}  # fmt: skip


def _undefined(text: str) -> set[str]:
    """Global names that are used and neither defined nor built in."""
    defined: set[str] = set(dir(builtins)) | {"__file__", "__name__"}
    used: set[str] = set()

    def look(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            if table.get_type() == "module":
                if symbol.is_assigned() or symbol.is_imported():
                    defined.add(symbol.get_name())
                if symbol.is_referenced():
                    used.add(symbol.get_name())
            elif symbol.is_global() and symbol.is_referenced():
                used.add(symbol.get_name())
        for child in table.get_children():
            if table.get_type() == "module" and child.get_type() in ("function", "class"):
                defined.add(child.get_name())
            look(child)

    look(symtable.symtable(text, FILE_NAME, "exec"))
    return used - defined
